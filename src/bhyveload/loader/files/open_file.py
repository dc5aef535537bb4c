"""Open files as libsa keeps them: a position, 512 bytes of read-ahead, reads of 4096 bytes into guest memory.

Sources: stand/libsa/{open,read,lseek}.c, stand/userboot/userboot/copy.c; docs/errata.md, "Twiddles".
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EBADF, EINVAL, EIO, ENOTDIR, EOPNOTSUPP, EROFS
from bhyveload.fs.stat import Stat
from bhyveload.libc import is_mapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Protocol

    from bhyveload.device import Buffer, Device
    from bhyveload.fs.interface import File, FileSystem
    from bhyveload.host.interface import GuestCopy
    from bhyveload.loader.console import LoaderConsole

    class Surroundings(Protocol):
        """What an open file needs of the run: Files has it."""

        @property
        def host(self) -> GuestCopy: ...
        @property
        def console(self) -> LoaderConsole: ...
        def note(self, text: str) -> None: ...


F_READ, F_WRITE = 1, 2
SEEK_SET, SEEK_CUR, SEEK_END = 0, 1, 2
SOPEN_RASIZE = 512
PAGE_SIZE = 4096
DEV_BSIZE = 512
_MAX_RAW_READ = 1 << 20
_STEP, _LARGEST_STEP = 1 << 19, 8 << 20  # bytes of a file read at once
_EXPECTED = 16 << 20  # bytes of a file whose end is not known that guest memory is made ready for at once


class OpenFile:
    """struct open_file: a descriptor with a position and libsa's 512-byte read-ahead.

    ``name`` is the device-qualified name for messages.
    """

    __slots__ = ("_entries", "_file", "_left", "_position", "_readahead", "files", "flags", "fs", "name", "node")

    def __init__(self, files: Surroundings, name: str, flags: int, fs: FileSystem, node: Any) -> None:
        self.files = files
        self.name = name
        self.flags = flags
        self.fs = fs
        self.node = node
        self._file: File | None = None
        self._entries: Iterator[tuple[int, int, bytes]] | None = None
        self._position = 0  # of the file system; what read() returns next lies self._left before it
        self._readahead: bytes | memoryview = b""
        self._left = 0

    @property
    def file(self) -> File:
        if self._file is None:
            self._file = self.fs.open(self.node)
        return self._file

    @property
    def tell(self) -> int:
        """The position of the next byte that read() returns."""
        return self._position - self._left

    def stat(self) -> Stat:
        return self.fs.stat(self.node)

    def read(self, size: int) -> bytes:
        """libsa's read: up to ``size`` bytes, fewer only at the end.  Raises FileSystemError."""
        if not self.flags & F_READ:
            raise FileSystemError(EBADF, f"{self.name}: not open for reading")
        parts: list[Buffer] = []
        while True:
            if self._left and size:
                have = min(self._left, size)
                start = len(self._readahead) - self._left
                parts.append(self._readahead[start : start + have])
                self._left -= have
                size -= have
            if size <= 0:
                break
            if size >= SOPEN_RASIZE:
                parts.extend(self._advance(size))
                break
            self._readahead = b"".join(self._advance(SOPEN_RASIZE))
            self._left = len(self._readahead)
            if not self._left:
                break
        return b"".join(parts)

    def line(self, limit: int) -> bytes | None:
        """libsa's fgetstr: up to ``limit`` bytes, or to a CR or LF, which is taken but not returned; None at the end.

        Raises FileSystemError.  Moves position and read-ahead as that many reads of one byte would.
        """
        if not self.flags & F_READ:
            raise FileSystemError(EBADF, f"{self.name}: not open for reading")
        taken = b""
        while len(taken) < limit:
            if not self._left:
                self._readahead = b"".join(self._advance(SOPEN_RASIZE))
                self._left = len(self._readahead)
                if not self._left:
                    return taken or None
            start = len(self._readahead) - self._left
            window = bytes(self._readahead[start : start + limit - len(taken)])
            text = window.partition(b"\n")[0].partition(b"\r")[0]
            taken += text
            self._left -= len(text)
            if len(text) < len(window):
                self._left -= 1
                break
        return taken

    def _advance(self, size: int) -> list[Buffer]:
        pieces = list(self.file.read(self._position, size))
        self._position += sum(map(len, pieces))
        return pieces

    def lseek(self, offset: int, whence: int = SEEK_SET) -> int:
        """libsa's lseek: the new position.  Raises FileSystemError(EINVAL) before the start or from an unknown end."""
        if whence == SEEK_END:
            if self.file.size < 0:
                raise FileSystemError(EINVAL, f"{self.name}: the end is not known")
            target = self.file.size - offset  # libsa counts back from the end (ufs_seek, cd9660_seek, zfs_seek)
        elif whence == SEEK_CUR:
            target = self.tell + offset
        else:
            target = offset
        if target < 0:
            raise FileSystemError(EINVAL, f"{self.name}: seek before the start")
        if self._left and whence != SEEK_END and self.tell <= target < self._position:
            self._left = self._position - target
            return target
        self._left = 0
        self._position = target
        return target

    def readin(self, gpa: int, size: int) -> int:
        """arch_readin: read ``size`` bytes into guest memory in 4096-byte steps; returns how many there were.

        The steps are only visible through read-ahead (and so twiddles), so all but that is done in larger ones: small
        enough that what is put together in our own memory (of a compressed file, a pool, an image that is not raw)
        stays in a processor's cache, and growing as long as the file is mapped.  Raises FileSystemError.
        """
        host = self.files.host
        done = 0
        if self._left:  # what is left of the read-ahead, as the first step's beginning
            first = self.read(min(size, PAGE_SIZE))
            host.copyin(first, gpa)
            done = len(first)
            if done < min(size, PAGE_SIZE):
                return done
        rest = size - done
        tail = rest % PAGE_SIZE
        whole = rest if tail == 0 or tail >= SOPEN_RASIZE else rest - tail
        step = _STEP
        growing = self.file.size >= 0 and self.fs.name != "zfs"
        expected = 0
        while whole:
            if not expected:  # a compressed file may be asked for all memory, and end after its first bytes
                expected = whole if self.file.size >= 0 else min(whole, _EXPECTED)
                host.expect(gpa + done, expected)
            want = min(expected, step)
            pieces = self._advance(want)
            got = sum(map(len, pieces))
            host.copyin_pieces(pieces, got, gpa + done)
            done += got
            whole -= got
            expected -= got
            if got == want:
                step = min(2 * step, _LARGEST_STEP) if growing and is_mapped(pieces[-1]) else _STEP
                continue
            if self.file.size < 0:
                self._raise_if_cut_short(got % PAGE_SIZE)
            return done
        if done < size:
            last = self.read(size - done)
            host.copyin(last, gpa + done)
            done += len(last)
        return done

    def _raise_if_cut_short(self, within: int) -> None:
        """After the last bytes of a compressed file: its error when it was cut short, which the original's next read
        says once more unless the bytes ended with a step (``within`` is 0)."""
        console = self.files.console
        before = console.silent
        console.silent = before or within == 0
        try:
            self._advance(1)
        finally:
            console.silent = before

    def write(self, data: bytes) -> int:
        """libsa's write, in place only: how many bytes fitted.

        Raises FileSystemError: EBADF, EFBIG, EIO (a file system other than UFS: null_write of stand/libsa/nullfs.c),
        EROFS (a UFS on a disk that is only read).
        """
        if not self.flags & F_WRITE:
            raise FileSystemError(EBADF, f"{self.name}: not open for writing")
        try:
            done = self.file.write(self._position, data)
        except FileSystemError as error:
            if error.errno == EROFS:
                self.files.note(f"{self.name} is not changed as the guest's scripts want: {error.message}")
                if self.fs.name != "ufs":
                    raise FileSystemError(EIO, error.message) from None
            raise
        self._position += done
        return done

    def readdir(self) -> tuple[int, int, bytes] | None:
        """The next entry (fileno, d_type, name), None at the end.  Raises FileSystemError(ENOTDIR, EIO)."""
        if self._entries is None:
            self._entries = iter(self.fs.readdir(self.node))
        return next(self._entries, None)

    def close(self) -> None:
        self._entries = None


class RawDevice:
    """A device opened without a path (F_RAW): its sectors as a file (stand/libsa/read.c)."""

    name = "raw"

    def __init__(self, device: Device | None, spec: str, files: Surroundings) -> None:
        self.device = device
        self.spec = spec
        self.files = files
        self.size = device.size if device is not None else -1

    def lookup(self, path: bytes, follow: bool = True) -> RawDevice:
        return self

    def stat(self, node: object) -> Stat:
        raise FileSystemError(EOPNOTSUPP, f"{self.spec}: a device, not a file")

    def readdir(self, node: object) -> Iterator[tuple[int, int, bytes]]:
        raise FileSystemError(ENOTDIR, f"{self.spec}: a device, not a folder")

    def readlink(self, node: object) -> bytes:
        raise FileSystemError(EINVAL, f"{self.spec}: a device, not a link")

    def open(self, node: object) -> RawDevice:
        return self

    def read(self, offset: int, length: int) -> list[Buffer]:
        self.files.console.twiddle(4)
        if self.device is None:
            raise FileSystemError(EIO, f"{self.spec}: cannot be read as a device")
        start = offset // DEV_BSIZE * DEV_BSIZE
        length = min(length, _MAX_RAW_READ, max(0, self.device.size - start))
        return [self.device.read(start, length)] if length else []

    def write(self, offset: int, data: Buffer) -> int:
        raise FileSystemError(EROFS, f"{self.spec}: devices are not written")


class CompressedView:
    """A decompressing file system: ``file`` has the content of ``inner``, and fstat says so, with an unknown size."""

    name = "zip"

    def __init__(self, inner: OpenFile, file: File) -> None:
        self._inner = inner
        self._file = file

    def lookup(self, path: bytes, follow: bool = True) -> object:
        raise self._no_folder()

    def stat(self, node: object) -> Stat:
        found = self._inner.stat()
        return Stat(found.mode, -1, found.uid, found.gid, found.mtime, found.ino, found.dev)

    def readdir(self, node: object) -> Iterator[tuple[int, int, bytes]]:
        raise self._no_folder()

    def readlink(self, node: object) -> bytes:
        raise FileSystemError(EINVAL, f"{self._inner.name}: a compressed file")

    def open(self, node: object) -> File:
        return self._file

    def _no_folder(self) -> FileSystemError:
        return FileSystemError(ENOTDIR, f"{self._inner.name}: a compressed file")
