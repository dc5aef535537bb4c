"""Walking a guest's file system, which may be damaged or made to lead in circles."""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EFBIG, EIO
from bhyveload.fs.stat import S_IFDIR, S_IFMT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from bhyveload.fs.interface import DiskFileSystem
    from bhyveload.fs.stat import Stat

    Complain = Callable[[FileSystemError, bytes], None]

MAX_NAMES = 1 << 17  # in one directory: they are sorted in memory
MAX_DEPTH = 256


class Member:
    """One name in a directory: its path, and S_IFMT's bits of its mode as ``kind``.

    A directory may have a hundred thousand: all else is read when it is asked for, and raises FileSystemError.
    """

    __slots__ = ("_found", "_fs", "_parent", "kind", "name")

    def __init__(self, fs: DiskFileSystem, parent: bytes, name: bytes, found: Any, kind: int) -> None:
        self._fs = fs
        self._parent = parent
        self._found = found
        self.name = name
        self.kind = kind

    @property
    def path(self) -> bytes:
        return self._parent + b"/" + self.name

    @property
    def node(self) -> Any:
        return self._fs.child(self._found)

    def stat(self) -> Stat:
        return self._fs.stat(self.node)


class Named:
    """What a path names: a Member that was not found by listing."""

    __slots__ = ("_fs", "kind", "name", "node", "path")

    def __init__(self, fs: DiskFileSystem, path: bytes, node: Any) -> None:
        self._fs = fs
        self.path = b"/" + path.strip(b"/")
        self.name = path
        self.node = node
        self.kind = fs.stat(node).mode & S_IFMT

    def stat(self) -> Stat:
        return self._fs.stat(self.node)


def find(fs: DiskFileSystem, path: bytes, follow: bool = True) -> Named:
    """What ``path`` names.  Raises FileSystemError: ENOENT, ENOTDIR, EIO, ..."""
    return Named(fs, path, fs.lookup(path, follow))


def members(fs: DiskFileSystem, directory: Member | Named, complain: Complain) -> list[Member]:
    """What is in a directory, in the order that whole paths have when they are sorted byte by byte.

    ``complain`` gets what cannot be read, and its path.  Raises FileSystemError: EIO for a damaged directory, EFBIG.
    """
    parent = directory.path.rstrip(b"/")
    content: list[Member] = []
    for count, (name, found) in enumerate(fs.children(directory.node)):
        if count == MAX_NAMES:
            raise FileSystemError(EFBIG, f"more than {MAX_NAMES} names in a directory")
        try:
            if not name or b"/" in name:
                raise FileSystemError(EIO, "a name with a slash in it: damaged directory")
            content.append(Member(fs, parent, name, found, fs.stat(fs.child(found)).mode & S_IFMT))
        except FileSystemError as error:
            complain(error, parent + b"/" + name)
    content.sort(key=_sort_key)
    return content


def _sort_key(member: Member) -> bytes:
    return member.name + b"/" if member.kind == S_IFDIR else member.name


class Walk:
    """One way through the directories from ``top`` down; what ``complain`` hears of is left out.

    A directory has one name only: one that comes again is damage, and is not entered twice.
    """

    __slots__ = ("_complain", "_fs", "_seen", "_top")

    def __init__(self, fs: DiskFileSystem, top: Named, complain: Complain) -> None:
        self._fs = fs
        self._top = top
        self._complain = complain
        self._seen: set[object] = set()

    def in_order(self) -> Iterator[Member]:
        """Everything below ``top``, sorted by path."""
        pending = [(member, 1) for member in reversed(self._enter(self._top, 0))]
        while pending:
            member, depth = pending.pop()
            yield member
            if member.kind == S_IFDIR:
                pending += ((inner, depth + 1) for inner in reversed(self._enter(member, depth)))

    def by_directory(self) -> Iterator[tuple[Member | Named, list[Member]]]:
        """Each directory and its members, ``top`` first."""
        pending: list[tuple[Member | Named, int]] = [(self._top, 0)]
        while pending:
            directory, depth = pending.pop()
            content = self._enter(directory, depth)
            yield directory, content
            pending += ((member, depth + 1) for member in reversed(content) if member.kind == S_IFDIR)

    def _enter(self, directory: Member | Named, depth: int) -> list[Member]:
        try:
            # Objects are numbered, but for ISO 9660's, which lie somewhere.
            key = directory.stat().ino or tuple(directory.node.extents)
            if key in self._seen:
                raise FileSystemError(EIO, "a directory that is elsewhere, too: damaged file system")
            if depth > MAX_DEPTH:
                raise FileSystemError(EIO, f"directories more than {MAX_DEPTH} deep")
            self._seen.add(key)
            return members(self._fs, directory, self._complain)
        except FileSystemError as error:
            self._complain(error, directory.path)
            return []
