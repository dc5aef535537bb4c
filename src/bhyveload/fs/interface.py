"""The one protocol for all file systems.  For type checkers only: nothing imports this at run time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from bhyveload.device import Buffer, Device
from bhyveload.fs.stat import Stat

Twiddle = Callable[[int], None]
"""libsa's twiddle(), with a caller's divisor."""
Twiddles = Callable[[int, int], None]
"""So many of them, one after the other."""


class File(Protocol):
    """A file opened for reading: a list of extents over the device.

    ``size`` in bytes; -1 where only reading to the end tells (compressed views).
    """

    size: int

    def read(self, offset: int, length: int) -> Sequence[Buffer]:
        """Consecutive pieces of [offset, offset + length), clipped to the end of the file; holes are zero bytes.
        Calls the file system's twiddle as libsa's reader would.  Raises FileSystemError."""
        ...

    def write(self, offset: int, data: Buffer) -> int:
        """Overwrite existing data in place (only UFS has it); returns how many bytes fitted.  Raises FileSystemError:
        EROFS, EFBIG (hole)."""
        ...


class DiskFile(File, Protocol):
    """A file on a disk's file system."""

    def extent(self, offset: int) -> tuple[int, bool]:
        """How many bytes from ``offset`` (below ``size``) are alike, and whether they are a hole.

        Tells what it finds at once, not all there is: the next bytes may be alike as well.  Raises FileSystemError.
        """
        ...


class FileSystem(Protocol):
    """A mounted file system.  Paths are bytes with `/` between components; nodes are opaque to callers.

    Every method raises FileSystemError with FreeBSD's errno (ENOENT, ENOTDIR, EIO, ...).
    """

    name: str

    def lookup(self, path: bytes, follow: bool = True) -> Any:
        """The node at ``path`` (from the root).  ``follow``: whether a symbolic link as last component is followed."""
        ...

    def stat(self, node: Any) -> Stat: ...

    def readdir(self, node: Any) -> Iterator[tuple[int, int, bytes]]:
        """(fileno, d_type, name) in on-disk order; fileno 0 where libsa gives none."""
        ...

    def readlink(self, node: Any) -> bytes: ...

    def open(self, node: Any) -> File: ...


class DiskFileSystem(FileSystem, Protocol):
    """A file system on a disk (all but the host's folder), which can also be walked as no loader does."""

    def children(self, node: Any) -> Iterator[tuple[bytes, Any]]:
        """(name, what ``child`` makes a node of) of each entry but `.` and `..`."""
        ...

    def child(self, found: Any) -> Any: ...

    def open(self, node: Any) -> DiskFile: ...


class ProbedFileSystem(DiskFileSystem, Protocol):
    """What a FileSystemModule finds on a disk.

    ``messages``: lines that the loader itself prints when it mounts this; ``notes``: these and what else is worth
    telling the user.
    """

    messages: list[str]
    notes: list[str]

    def facts(self) -> dict[str, Any]:
        """For ``bhyvedisk info``: "type" (the kind's name) and what else there is to say, JSON types only.  Raises
        FileSystemError."""
        ...


class FileSystemModule(Protocol):
    """A module of this room that a line in registry.py names."""

    def probe(self, device: Device, twiddle: Twiddle, strict: bool = False) -> ProbedFileSystem:
        """Mount the file system on ``device``.  ``strict``: find nothing that FreeBSD's loader does not.

        Raises FileSystemError: EINVAL or ENOENT "not mine" (libsa tries the next kind), other numbers are remembered as
        the reason."""
        ...

    def describe(self, facts: dict[str, Any], size: Callable[[int], str]) -> str:
        """``facts`` in one line; ``size`` puts bytes in words."""
        ...
