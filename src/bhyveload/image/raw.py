"""Raw disk images: the bytes of the file are the bytes of the disk.

The whole file is mapped read-only, so a child's read is a slice of the page cache and a preload goes from there into
guest memory with one copy (docs/architecture.md, "The way of the data").  Writes, which loader(8) makes for nextboot
only, go through pwrite: the mapping is shared and shows them at once.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import sys

from bhyveload.absolute_path import absolute_path
from bhyveload.errors import FileSystemError, InputError
from bhyveload.freebsd_errno import EIO, EROFS, from_host
from bhyveload.image.magic import RAW, media_sector_size
from bhyveload.libc import pwrite_all
from bhyveload.need import settle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bhyveload.device import Buffer
    from bhyveload.image.character import Medium

SECTOR_SIZE = 512  # what bhyveload(8) tells a loader whatever the medium is (cb_diskioctl)

_BLKROGET = 0x125E  # include/uapi/linux/fs.h

# A disk that the user may not write, or that is on a read-only file system or running as a program.
_READ_ONLY_REASONS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY)
_process = os.getpid()


def _note_process() -> None:
    global _process
    _process = os.getpid()


os.register_at_fork(after_in_child=_note_process)


class RawImage:
    """A Device over an open file or block device (host/interface.py); owns ``fd``.

    ``path``: ``name`` as it is found from everywhere, whatever folder is the current one later.
    ``medium``: of a character device (image/character.py), which cannot be mapped.
    ``forgotten``: what it is was found out and could not be remembered (image/remembered.py).
    Raises InputError when the descriptor cannot be measured or mapped.
    """

    kind = RAW  # in words, as image.disk.ImageDisk has it

    __slots__ = (
        *("_opener", "_view", "descriptor", "forgotten", "medium", "name", "path", "read_only", "sector_size", "size"),
    )

    def __init__(self, fd: int, name: str, read_only: bool, medium: Medium | None = None) -> None:
        self.medium = medium
        self.forgotten = False
        self.name = name
        self.path = absolute_path(name)
        self.read_only = read_only
        self.sector_size = SECTOR_SIZE
        try:
            self.size = os.lseek(fd, 0, os.SEEK_END) if medium is None else medium.size
            # mmap refuses length 0; an empty disk is still a disk (docs/errata.md, "Errors of devices").
            mapping = mmap.mmap(fd, self.size, access=mmap.ACCESS_READ) if self.size and medium is None else b""
        except (OSError, ValueError, OverflowError) as error:
            raise InputError(f"{name}: cannot be read as a disk image: {_reason(error)}") from None
        self._view = memoryview(mapping)
        self._opener = _process
        self.descriptor = fd

    def read(self, offset: int, length: int) -> memoryview:
        """A view of exactly ``length`` bytes.  Raises FileSystemError(EIO) outside [0, size)."""
        end = offset + length
        if offset < 0 or length < 0 or end > self.size:
            raise FileSystemError(EIO, f"{self.name}: {length} bytes at {offset} lie outside the {self.size}-byte disk")
        if self.medium is not None:
            return self._from_device(self.medium, offset, length)
        if self._opener == _process:
            return memoryview(self._copied(offset, length))
        return self._view[offset:end]

    def _from_device(self, medium: Medium, offset: int, length: int) -> memoryview:
        try:
            return medium.read(self.descriptor, offset, length)
        except OSError as error:
            raise FileSystemError(from_host(error.errno), f"{self.name}: read at {offset}: {error.strerror}") from None

    def _copied(self, offset: int, length: int) -> bytes:
        """What the process that opened the file reads: looking at a mapping of a file that became shorter would end it
        by SIGBUS, with the terminal raw.  A child's end is noticed."""
        pieces = []
        while length:
            try:
                data = os.pread(self.descriptor, length, offset)
            except OSError as error:
                raise FileSystemError(EIO, f"{self.name}: read at {offset}: {error.strerror}") from None
            if not data:
                raise FileSystemError(EIO, f"{self.name}: became shorter while it was read: nothing is at {offset}")
            pieces.append(data)
            offset += len(data)
            length -= len(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, offset: int, data: Buffer) -> None:
        """Overwrite bytes in place.  Raises FileSystemError: EROFS, EIO outside the disk, what the host said."""
        length = len(data)
        if self.read_only:
            raise FileSystemError(EROFS, f"{self.name}: the disk image was opened read-only")
        if offset < 0 or offset + length > self.size:
            raise FileSystemError(EIO, f"{self.name}: {length} bytes at {offset} lie outside the {self.size}-byte disk")
        settle()
        try:
            if self.medium is not None:
                self.medium.write(self.descriptor, offset, data)
            else:
                pwrite_all(self.descriptor, data, offset)
        except OSError as error:
            raise FileSystemError(from_host(error.errno), f"{self.name}: write at {offset}: {error.strerror}") from None

    def descriptors(self) -> tuple[int, ...]:
        return (self.descriptor,)

    def describe(self) -> dict[str, Any]:
        """The disk's entry in state.json (docs/state-json.md)."""
        return {
            "path": self.path,
            "format": RAW,
            "size": self.size,
            "read_only": self.read_only,
            "sector_size": media_sector_size(self.size, self._pread)
            if self.medium is None
            else self.medium.sector_size,
        }

    def _pread(self, offset: int, length: int) -> bytes:
        """Not through the mapping: who looks there at a file that became shorter is ended by SIGBUS."""
        try:
            return os.pread(self.descriptor, length, offset)
        except OSError:
            return b""

    def close(self) -> None:
        """Close the descriptor.  Views already handed out stay valid: the last one takes the mapping with it."""
        if self.descriptor >= 0:
            self._view = memoryview(b"")
            self.size = 0
            os.close(self.descriptor)
            self.descriptor = -1


def open_raw(path: str, read_only: bool = False, look: bool = False) -> RawImage:
    """Open a disk image read-write, or read-only where writing is not wanted or not allowed; ``read_only`` tells.

    ``look``: open it for reading, but say in ``read_only`` what it would be without this: for those who keep elsewhere
    what is written (image/overlay.py).
    Raises InputError: the file is missing, is a directory, a FIFO, a socket or (but on FreeBSD) a character device, or
    cannot be read.
    """
    # O_NONBLOCK: opening a FIFO must not wait for a writer; regular files and block devices ignore it.
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    try:
        try:
            fd = os.open(path, (os.O_RDONLY if read_only or look else os.O_RDWR) | flags)
            read_only = read_only or (look and not os.access(path, os.W_OK))
        except OSError as error:
            if error.errno not in _READ_ONLY_REASONS:
                raise
            fd = os.open(path, os.O_RDONLY | flags)
            read_only = True
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be opened: {_reason(error)}") from None
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISCHR(mode) and sys.platform.startswith("freebsd"):
            from bhyveload.image.character import Medium

            return RawImage(fd, path, read_only, Medium(fd, path))
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise InputError(f"{path}: not a disk image: neither a regular file nor a block device")
        if stat.S_ISBLK(mode) and not read_only and _refuses_writes(fd):
            os.close(fd)
            fd = os.open(path, os.O_RDONLY | flags)
            read_only = True
        return RawImage(fd, path, read_only)
    except OSError as error:
        os.close(fd)
        if isinstance(error, FileNotFoundError) and error.filename is None:  # the current folder's (getcwd(2))
            raise
        raise InputError(f"{path}: cannot be opened: {_reason(error)}") from None
    except BaseException:
        os.close(fd)
        raise


def _refuses_writes(fd: int) -> bool:
    """Whether a block device that can be opened for writing is read-only (losetup -r): it cannot be mapped then."""
    import fcntl  # not for files

    answer = bytearray(4)
    try:
        fcntl.ioctl(fd, _BLKROGET, answer)
    except OSError:
        return False
    return any(answer)


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
