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

MAX_NAMES = 1 << 18  # in one directory: they are sorted in memory
MAX_DEPTH = 256


class Member:
    """One name in a directory: where it is, and what."""

    __slots__ = ("name", "node", "path", "stat")

    def __init__(self, path: bytes, name: bytes, node: Any, stat: Stat) -> None:
        self.path = path
        self.name = name
        self.node = node
        self.stat = stat

    @property
    def kind(self) -> int:
        return self.stat.mode & S_IFMT


def find(fs: DiskFileSystem, path: bytes, follow: bool = True) -> Member:
    """What ``path`` names.  Raises FileSystemError: ENOENT, ENOTDIR, EIO, ..."""
    node = fs.lookup(path, follow)
    return Member(b"/" + path.strip(b"/"), path.rstrip(b"/").rpartition(b"/")[2], node, fs.stat(node))


def members(fs: DiskFileSystem, directory: Member, complain: Complain) -> list[Member]:
    """What is in a directory, in the order that whole paths have when they are sorted byte by byte.

    ``complain`` gets what cannot be read, and its path.  Raises FileSystemError: EIO for a damaged directory, EFBIG.
    """
    base = directory.path.rstrip(b"/") + b"/"
    found: list[Member] = []
    for count, (name, node) in enumerate(fs.children(directory.node)):
        if count == MAX_NAMES:
            raise FileSystemError(EFBIG, f"more than {MAX_NAMES} names in a directory")
        try:
            if isinstance(node, FileSystemError):
                raise node
            if not name or b"/" in name:
                raise FileSystemError(EIO, "a name with a slash in it: damaged directory")
            found.append(Member(base + name, name, node, fs.stat(node)))
        except FileSystemError as error:
            complain(error, base + name)
    found.sort(key=_sort_key)
    return found


def _sort_key(member: Member) -> bytes:
    return member.name + b"/" if member.kind == S_IFDIR else member.name


class Walk:
    """One way through the directories from ``top`` down; what ``complain`` hears of is left out.

    A directory has one name only: one that comes again is damage, and is not entered twice.
    """

    __slots__ = ("_complain", "_fs", "_seen", "_top")

    def __init__(self, fs: DiskFileSystem, top: Member, complain: Complain) -> None:
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

    def by_directory(self) -> Iterator[tuple[Member, list[Member]]]:
        """Each directory and its members, ``top`` first."""
        pending = [(self._top, 0)]
        while pending:
            directory, depth = pending.pop()
            content = self._enter(directory, depth)
            yield directory, content
            pending += ((member, depth + 1) for member in reversed(content) if member.kind == S_IFDIR)

    def _enter(self, directory: Member, depth: int) -> list[Member]:
        # Objects are numbered, but for ISO 9660's, which lie somewhere.
        key = directory.stat.ino or tuple(directory.node.extents)
        try:
            if key in self._seen:
                raise FileSystemError(EIO, "a directory that is elsewhere, too: damaged file system")
            if depth > MAX_DEPTH:
                raise FileSystemError(EIO, f"directories more than {MAX_DEPTH} deep")
            self._seen.add(key)
            return members(self._fs, directory, self._complain)
        except FileSystemError as error:
            self._complain(error, directory.path)
            return []
