"""A file that appears complete or not at all, and of which a killed process leaves nothing behind.

It has no name until it is whole (open(2), O_TMPFILE).  Where a file system cannot do that it is `.NAME.PID.NUMBER`
beside its place, locked by flock(2) as long as anybody works on it: one that nobody locks is a killed process's, and
the next one for the same NAME removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os

_TRIES = 100
_MAX_NAME = 200
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
_READ_WRITE = os.O_RDWR | os.O_CLOEXEC


def private_folder(path: str, exist_ok: bool = False) -> None:
    """Make the folder ``path``, its owner's alone: mode 0700, whatever the umask takes away.  Raises OSError.

    ``exist_ok``: unless it is there, and with the folders that are missing above it."""
    if exist_ok and os.path.isdir(path):
        return
    try:
        try:
            os.mkdir(path, 0o700)
        except FileNotFoundError:
            if not exist_ok:
                raise
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            os.mkdir(path, 0o700)
    except FileExistsError:
        if exist_ok:
            return
        raise
    os.chmod(path, 0o700)


def unnamed_file(folder: str) -> int:
    """A descriptor of an empty file, mode 0600, that ``folder`` does not show; it goes with its descriptor unless
    ``give_name`` keeps it.  -1 where the host has no such files.  Raises OSError."""
    flags = getattr(os, "O_TMPFILE", 0)
    if not flags or not os.path.isdir("/proc/self/fd"):
        return -1
    try:
        fd = os.open(folder or ".", _READ_WRITE | flags, 0o600)
    except OSError as error:
        if error.errno in _NO_TMPFILE:
            return -1
        raise
    os.fchmod(fd, 0o600)  # not what the umask leaves of it
    return fd


def give_name(fd: int, path: str) -> None:
    """``path`` for a file without one: linkat(2) through /proc, which needs no privilege; Python calls link(2) unless a
    folder is given.  Raises OSError."""
    folder, name = os.path.split(path)
    at = os.open(folder or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=at, follow_symlinks=True)
    finally:
        os.close(at)


class NewFile:
    """``fd``: an empty file that belongs to nobody else, mode 0600; ``place`` puts it at ``path``.

    Leaving the context without that drops it.  Raises OSError, with ``path`` as its file name.
    """

    __slots__ = ("_folder", "_name", "_temporary", "fd", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._folder, self._name = os.path.split(path)
        self._temporary = ""
        try:
            self._remove_leftovers()
            self.fd = unnamed_file(self._folder)
            if self.fd < 0:
                self.fd = self._named()
            else:
                fcntl.flock(self.fd, fcntl.LOCK_EX)
        except OSError as error:
            error.filename = path  # not a name that only we know
            raise

    def _remove_leftovers(self) -> None:
        prefix = f".{self._name[:_MAX_NAME]}."
        try:
            names = [name for name in os.listdir(self._folder or ".") if name.startswith(prefix)]
        except OSError:
            return  # a folder may be written to and not be read
        for name in names:
            pid, _, number = name[len(prefix) :].partition(".")
            if not (pid.isdecimal() and number.isdecimal()):
                continue
            path = os.path.join(self._folder, name)
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(path)
                finally:
                    os.close(fd)
            except OSError:
                pass  # somebody is at work, or it is not ours

    def _named(self) -> int:
        for temporary in self._names():
            try:
                fd = os.open(temporary, _READ_WRITE | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                continue
            os.fchmod(fd, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                self._temporary = temporary
                return fd
            os.close(fd)  # taken for a leftover before it was locked
        raise self._exists()

    def _names(self) -> list[str]:
        start = os.path.join(self._folder, f".{self._name[:_MAX_NAME]}.{os.getpid()}.")
        return [f"{start}{number}" for number in range(_TRIES)]

    def _exists(self) -> OSError:
        return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self.path)

    def place(self) -> None:
        """The file is whole: it takes the place of whatever has its name."""
        try:
            if not self._temporary:
                self._give_name()
            os.rename(self._temporary, self.path)
        except OSError as error:
            error.filename, error.filename2 = self.path, None
            raise
        self._temporary = ""

    def _give_name(self) -> None:
        for temporary in self._names():
            try:
                give_name(self.fd, temporary)
            except FileExistsError:
                continue
            self._temporary = temporary
            return
        raise self._exists()

    def close(self) -> None:
        """Drop what was not placed.  Raises OSError: a network file system's disk is full."""
        fd, self.fd = self.fd, -1
        temporary, self._temporary = self._temporary, ""
        if temporary:
            try:
                os.unlink(temporary)
            except OSError:
                pass
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
