"""The protocols at the host seam.  For type checkers only: nothing imports this at run time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bhyveload.device import Buffer


class GuestCopy(Protocol):
    """The doors to guest memory: what code that only loads something needs of the callbacks (LoaderCallbacks has them).

    Addresses count modulo 2 GiB, as bhyveload.c's; every method raises FileSystemError(EFAULT) outside low memory.
    """

    def getmem(self) -> tuple[int, int]:
        """(low, high) bytes of guest memory."""
        ...

    def expect(self, gpa: int, size: int) -> None:
        """The next copyins are going to fill [gpa, gpa + size)."""
        ...

    def copyin(self, data: Buffer, gpa: int) -> None: ...

    def copyin_pieces(self, pieces: Sequence[Buffer], size: int, gpa: int) -> None:
        """Consecutive ``pieces``, ``size`` bytes in all."""
        ...

    def copyout(self, gpa: int, size: int) -> bytes: ...

    def zero(self, gpa: int, size: int) -> None: ...


class Console(Protocol):
    """Where the loader talks: bytes out, bytes in."""

    def write(self, data: bytes) -> None:
        """Send bytes; they may be held back until ``flush`` or the next input call."""
        ...

    def flush(self) -> None: ...

    def getc(self) -> int:
        """One byte as a signed char (0x80.. negative), waiting for it; -1: nothing there (end of input, or a
        non-blocking device)."""
        ...

    def poll(self) -> bool:
        """Whether getc would return at once."""
        ...

    @property
    def at_end(self) -> bool:
        """Whether input has ended: getc returned -1 and never will return anything else."""
        ...


class HeldConsole(Console, Protocol):
    """A Console for a loader that may have to start over (need.py): what it said before is not said again."""

    def descriptors(self) -> Sequence[int]:
        """What it reads and writes through: the confined loader may keep these."""
        ...

    def discard(self) -> int:
        """Forget what is held back; how many bytes went out before, skipped ones counted."""
        ...

    def skip(self, count: int) -> None:
        """Swallow the next ``count`` bytes written: they went out already."""
        ...


class HostFile(Protocol):
    """A file or folder below the ``-h`` directory, opened."""

    is_directory: bool
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    dev: int
    ino: int

    def read(self, size: int) -> bytes: ...

    def seek(self, offset: int, whence: int) -> int: ...

    def readdir(self) -> tuple[int, int, bytes] | None:
        """The next entry: (fileno, d_type, name), `.` and `..` included; None at the end."""
        ...

    def close(self) -> None: ...


class HostDirectory(Protocol):
    """The directory given with ``-h``.

    ``fd``: what is beneath may be opened through it.  ``walks``: names are looked up one component after the other,
    because the kernel cannot be told to stay beneath (openat2(2)).
    """

    fd: int
    walks: bool

    def open(self, name: bytes) -> HostFile:
        """Open ``name`` beneath the directory.  Raises FileSystemError (ENOENT, EINVAL for a FIFO or device,
        ENOTCAPABLE for a way out)."""
        ...
