"""The host's file that something is copied to: complete, or not there."""

from __future__ import annotations

import errno
import os
import stat

from bhyveload.errors import UsageError
from bhyveload.new_file import NewFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class CopyTarget:
    """``path`` for writing through ``fd``; a directory gets a file named as ``source`` is.

    A regular file is written beside its place and put there by ``commit``; leaving the context without one removes it.
    Devices and FIFOs are written as they are.  Raises OSError, UsageError (among others when it is one of ``disks``,
    the files that are copied from).
    """

    def __init__(self, path: str, source: str, disks: Sequence[str] = ()) -> None:
        self._new: NewFile | None = None
        self._mode: int | None = None
        if path.endswith("/") or os.path.isdir(path):
            name = source.rstrip("/").rpartition("/")[2]
            if name in ("", ".", ".."):
                raise UsageError(f"'{source}' has no name to copy it under", "give the copy a name")
            path = os.path.join(path, name)
        self.path = path if _is_descriptor(path) else os.path.realpath(path)
        for disk in disks:
            if os.path.exists(self.path) and os.path.samefile(self.path, disk):
                raise UsageError(f"{path}: is the disk that is copied from", "give the copy another name")
        self.fd = self._open()

    def _open(self) -> int:
        try:
            status = os.stat(self.path)
            if _is_descriptor(self.path):  # a regular file there is the caller's, open: it is not replaced
                return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY)
            if not stat.S_ISREG(status.st_mode):
                return os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
            if not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.path)
            self._mode = stat.S_IMODE(status.st_mode)
        except FileNotFoundError:
            pass
        self._new = NewFile(self.path)
        return self._new.fd

    @property
    def is_new(self) -> bool:
        """Whether it is an empty file of its own, in which holes may stay holes: not a device, not a FIFO."""
        return self._new is not None

    def commit(self, mode: int) -> None:
        """The copy is complete.  A new file gets the permissions ``mode`` less the umask, an old one keeps its own."""
        if self._new is None:
            fd, self.fd = self.fd, -1
            os.close(fd)
            return
        umask = os.umask(0o077)
        os.umask(umask)
        os.fchmod(self.fd, mode & ~umask if self._mode is None else self._mode)
        os.close(os.dup(self.fd))  # network file systems report a full disk only here
        self._new.place()

    def __enter__(self) -> CopyTarget:
        return self

    def __exit__(self, *_: object) -> None:
        if self._new is not None:
            self._new.close()
        elif self.fd >= 0:
            os.close(self.fd)


def _is_descriptor(path: str) -> bool:
    """A name of an open file, which a pipe has no other one of."""
    return path in ("/dev/stdout", "/dev/stderr") or path.startswith(("/dev/fd/", "/proc/self/fd/"))
