"""The folder given with ``-h``: opened once, and everything in it looked up beneath that descriptor.

Semantics of bhyveload.c's cb_open and friends (usr.sbin/bhyveload): a name can never leave the folder, neither
by `..` nor by a symbolic link (FreeBSD-SA-24:01.bhyveload, CVE-2024-25940); what is neither a regular file nor a
folder is refused before it is opened.

The lookups are the kernel's: openat2(2) with RESOLVE_BENEATH.  A kernel (or container) without it gets a walk,
component by component, that holds a descriptor of every folder on the way and so cannot be tricked by a rename.
FreeBSD has O_RESOLVE_BENEATH, and getdirentries(2) for getdents64(2).
No system call but openat2, openat, readlinkat, newfstatat, fstat, getdents64, read, lseek, fcntl and close is made
after open_host_directory(), so that all of it works inside the sandbox.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

from bhyveload.errors import FileSystemError, HostError
from bhyveload.freebsd_errno import EINVAL, ELOOP, ENOENT, ENOTCAPABLE, from_host
from bhyveload.fs.stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG
from bhyveload.printable import escape_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SYS_OPENAT2 = 437  # the same number on every architecture
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_BENEATH = 0x08
OPEN_HOW = struct.Struct("=QQQ")  # flags, mode, resolve
FREEBSD = sys.platform.startswith("freebsd")
O_RESOLVE_BENEATH = 0x00800000  # FreeBSD's sys/fcntl.h
_OUTSIDE = ENOTCAPABLE if FREEBSD else errno.EXDEV
DIRENT = struct.Struct("=QqHB")  # d_ino, d_off, d_reclen, d_type: both systems'; then the name, NUL-terminated
NAME_OFFSET = 24 if FREEBSD else 19  # FreeBSD has d_namlen in between (sys/dirent.h)

READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
PATH_FLAGS = os.O_PATH | os.O_CLOEXEC
MAXSYMLINKS = 32
RETRIES = 64  # openat2 says EAGAIN while somebody renames folders
DIRECTORY_BUFFER = 32768
READ_AHEAD = 65536  # what a file may yield over its size (files of proc and sysfs have size 0)

_libc = ctypes.CDLL(None, use_errno=True)
if not FREEBSD:
    _libc.syscall.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
    _libc.syscall.restype = ctypes.c_long
_read_entries = _libc.getdirentries if FREEBSD else _libc.getdents64
_read_entries.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)[: 4 if FREEBSD else 3]
_read_entries.restype = ctypes.c_ssize_t


def _openat2(directory: int, name: bytes, flags: int) -> int:
    """openat2(directory, name, {flags, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS}).  Raises OSError."""
    how = OPEN_HOW.pack(flags, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    for _ in range(RETRIES):
        fd = _libc.syscall(SYS_OPENAT2, directory, name, how, len(how))
        if fd >= 0:
            return int(fd)
        if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


def _open_beneath(directory: int, name: bytes, flags: int) -> int:
    """FreeBSD's way.  Raises OSError; ENOTCAPABLE for a way out."""
    return os.open(name, flags | O_RESOLVE_BENEATH, dir_fd=directory)


def _open_walking(directory: int, name: bytes, flags: int) -> int:
    """What _openat2 does, for kernels without it.  Raises OSError; EXDEV for a way out, like openat2, on FreeBSD
    ENOTCAPABLE."""
    trail = [os.open(b".", PATH_FLAGS | os.O_DIRECTORY, dir_fd=directory)]
    try:
        pending = _components(name)
        links = 0
        while True:
            component = pending.pop() if pending else b"."
            if component == b"..":
                if len(trail) == 1:
                    raise OSError(_OUTSIDE, os.strerror(_OUTSIDE))
                os.close(trail.pop())
                continue
            fd = os.open(component, PATH_FLAGS | os.O_NOFOLLOW, dir_fd=trail[-1])
            trail.append(fd)
            kind = os.fstat(fd).st_mode & S_IFMT
            if kind == S_IFLNK:
                links += 1
                if links > MAXSYMLINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                pending += _components(os.readlink(b"", dir_fd=fd))
                os.close(trail.pop())
            elif not pending:
                if component == b".":
                    return os.open(b".", flags, dir_fd=fd)
                if flags & os.O_PATH:
                    return trail.pop()
                return os.open(component, flags | os.O_NOFOLLOW, dir_fd=trail[-2])
            elif kind != S_IFDIR:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            elif component == b".":
                os.close(trail.pop())
    finally:
        for fd in trail:
            os.close(fd)


def _components(name: bytes) -> list[bytes]:
    """The components of a relative path, last first; a trailing `/` leaves a `.` (only folders have one)."""
    if name.startswith(b"/"):
        raise OSError(_OUTSIDE, os.strerror(_OUTSIDE))
    if not name:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    names = [component or b"." for component in name.split(b"/")]
    names.reverse()
    return names


class HostFolderFile:
    """A regular file or folder beneath the ``-h`` folder (host/interface.py); closed when it is forgotten, too."""

    def __init__(self, fd: int, status: os.stat_result) -> None:
        self._fd = fd
        self.is_directory = status.st_mode & S_IFMT == S_IFDIR
        self.mode = status.st_mode
        self.uid = status.st_uid
        self.gid = status.st_gid
        self.size = status.st_size
        self.mtime = int(status.st_mtime)
        self.dev = status.st_dev
        self.ino = status.st_ino
        self._entries: list[tuple[int, int, bytes]] = []  # last first
        self._buffer: ctypes.Array[ctypes.c_char] | None = None

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes.  Raises FileSystemError(EINVAL), cb_read's number for any failure."""
        try:
            left = os.fstat(self._fd).st_size - os.lseek(self._fd, 0, os.SEEK_CUR)
            return os.read(self._fd, max(0, min(size, max(left, 0) + READ_AHEAD)))
        except OSError as error:
            raise FileSystemError(EINVAL, f"host0: cannot read: {error.strerror}") from None

    def seek(self, offset: int, whence: int) -> int:
        """lseek(2).  Raises FileSystemError: EINVAL, or what the host says."""
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END) or not -(1 << 63) <= offset < 1 << 63:
            raise FileSystemError(EINVAL, f"host0: seek to {offset} from {whence}")
        try:
            return os.lseek(self._fd, offset, whence)
        except OSError as error:
            raise FileSystemError(from_host(error.errno), f"host0: cannot seek: {error.strerror}") from None

    def readdir(self) -> tuple[int, int, bytes] | None:
        """(fileno, d_type, name) in the host's order, `.` and `..` included.  None at the end or on an error."""
        if not self._entries:
            self._fill()
        return self._entries.pop() if self._entries else None

    def _fill(self) -> None:
        if self._buffer is None:
            self._buffer = ctypes.create_string_buffer(DIRECTORY_BUFFER)
        more = (None,) if FREEBSD else ()
        size = _read_entries(self._fd, self._buffer, DIRECTORY_BUFFER, *more)
        records = self._buffer.raw[: max(size, 0)]
        position = 0
        while position < len(records):
            inode, _, length, kind = DIRENT.unpack_from(records, position)
            name = records[position + NAME_OFFSET : position + length].split(b"\0", 1)[0]
            self._entries.append((inode & 0xFFFFFFFF, kind, name))
            position += length
        self._entries.reverse()

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class HostFolder:
    """The ``-h`` folder (host/interface.py), held as an O_PATH descriptor."""

    def __init__(self, fd: int, beneath: Callable[[int, bytes, int], int] | None = None) -> None:
        """``beneath``: how names are looked up; None: openat2 where it is to be had."""
        self.fd = fd
        self._beneath = beneath or _lookup_of(fd)
        self.walks = self._beneath is _open_walking

    def open(self, name: bytes) -> HostFolderFile:
        """Open a file or folder; one leading `/` is the folder itself.

        Raises FileSystemError: ENOTCAPABLE (the name leads out), EINVAL (neither file nor folder), ENOENT, EACCES and
        whatever else the host says.
        """
        name = name.removeprefix(b"/") or b"."
        if b"\0" in name:
            raise FileSystemError(ENOENT, "host0: a NUL byte in a name")
        try:
            is_directory = self._type_of(name) == S_IFDIR
            fd = self._beneath(self.fd, name, READ_FLAGS | (os.O_DIRECTORY if is_directory else 0))
        except OSError as error:
            raise _refusal(name, error) from None
        status = os.fstat(fd)  # the name may mean something else by now
        if status.st_mode & S_IFMT not in (S_IFREG, S_IFDIR):
            os.close(fd)
            raise FileSystemError(EINVAL, f"host0: {escape_bytes(name)}: neither a file nor a folder")
        return HostFolderFile(fd, status)

    def _type_of(self, name: bytes) -> int:
        fd = self._beneath(self.fd, name, PATH_FLAGS)
        try:
            kind = os.fstat(fd).st_mode & S_IFMT
        finally:
            os.close(fd)
        if kind not in (S_IFREG, S_IFDIR):
            raise FileSystemError(EINVAL, f"host0: {escape_bytes(name)}: neither a file nor a folder")
        return kind

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


def _lookup_of(fd: int) -> Callable[[int, bytes, int], int]:
    """openat2, or the walk where the kernel or a container's filter does not have it."""
    if FREEBSD:
        return _open_beneath if _stays_beneath(fd) else _open_walking
    try:
        os.close(_openat2(fd, b".", PATH_FLAGS | os.O_DIRECTORY))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return _open_walking
    return _openat2


def _stays_beneath(fd: int) -> bool:
    """Whether the kernel knows O_RESOLVE_BENEATH: one that does not ignores it."""
    try:
        os.close(_open_beneath(fd, b"..", PATH_FLAGS))
    except OSError:
        return True
    return False


def _refusal(name: bytes, error: OSError) -> FileSystemError:
    number = from_host(error.errno)
    shown = escape_bytes(name)
    if number == ENOTCAPABLE:
        return FileSystemError(
            ENOTCAPABLE,
            f"host0: {shown}: leads out of the host folder",
            "only what lies in the folder given with -h can be read; a symbolic link there must stay inside it",
        )
    if number == ELOOP:
        return FileSystemError(ELOOP, f"host0: {shown}: too many symbolic links, or one of the kernel's own")
    return FileSystemError(number, f"host0: {shown}: {error.strerror}")


def open_host_directory(path: str | bytes) -> HostFolder:
    """Open the folder for ``-h``.  Raises HostError (bhyveload's EX_OSERR)."""
    try:
        return HostFolder(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise HostError(f"open {os.fsdecode(path)}: {reason}", "-h takes a folder") from None
