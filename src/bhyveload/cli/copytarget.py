"""The host's file that something is copied to: complete, or not there."""

from __future__ import annotations

import errno
import os
import stat

from bhyveload.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_TRIES = 100


class CopyTarget:
    """``path`` for writing through ``fd``; a directory gets a file named as ``source`` is.

    A regular file is written beside its place and put there by ``commit``; leaving the context without one removes it.
    Devices and FIFOs are written as they are.  Raises OSError, UsageError (among others when it is one of ``disks``,
    the files that are copied from).
    """

    def __init__(self, path: str, source: str, disks: Sequence[str] = ()) -> None:
        self._temporary = ""
        self._mode: int | None = None
        if path.endswith("/") or os.path.isdir(path):
            name = source.rstrip("/").rpartition("/")[2]
            if name in ("", ".", ".."):
                raise UsageError(f"'{source}' has no name to copy it under", "give the copy a name")
            path = os.path.join(path, name)
        self.path = os.path.realpath(path)
        for disk in disks:
            if os.path.exists(self.path) and os.path.samefile(self.path, disk):
                raise UsageError(f"{path}: is the disk that is copied from", "give the copy another name")
        self.fd = self._open()

    def _open(self) -> int:
        try:
            status = os.stat(self.path)
            if not stat.S_ISREG(status.st_mode):
                return os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
            if not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.path)
            self._mode = stat.S_IMODE(status.st_mode)
        except FileNotFoundError:
            pass
        folder, name = os.path.split(self.path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        for attempt in range(_TRIES):
            temporary = os.path.join(folder, f".{name[:200]}.{os.getpid()}.{attempt}")
            try:
                fd = os.open(temporary, flags, 0o600)
            except FileExistsError:
                continue
            except OSError as error:
                error.filename = self.path  # not the name that only we know
                raise
            self._temporary = temporary
            return fd
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self.path)

    def commit(self, mode: int) -> None:
        """The copy is complete.  A new file gets the permissions ``mode`` less the umask, an old one keeps its own."""
        if self._temporary:
            umask = os.umask(0o077)
            os.umask(umask)
            os.fchmod(self.fd, mode & ~umask if self._mode is None else self._mode)
        fd, self.fd = self.fd, -1
        os.close(fd)  # network file systems report a full disk only here
        if self._temporary:
            os.rename(self._temporary, self.path)
            self._temporary = ""

    def __enter__(self) -> CopyTarget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        if self._temporary:
            try:
                os.unlink(self._temporary)
            except OSError:
                pass
