"""ls, cat, cp and checksum on a guest's file system."""

from __future__ import annotations

from bhyveload.errors import FileSystemError, InputError, PathError
from bhyveload.freebsd_errno import EFTYPE, EISDIR, ELOOP, EMLINK, ENAMETOOLONG, ENOENT, ENOTDIR, strerror
from bhyveload.fs.stat import S_IFDIR, S_IFLNK, S_IFREG
from bhyveload.inspect.listing import checksum_line, long_line, shown
from bhyveload.inspect.output import pieces_of
from bhyveload.inspect.sizes import human_size
from bhyveload.inspect.tree import Walk, find, members

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.fs.interface import DiskFile, DiskFileSystem
    from bhyveload.inspect.output import Output
    from bhyveload.inspect.tree import Member, Named

# The name that was asked for is at fault, not the disk.
_NAMING = (ENOENT, ENOTDIR, EISDIR, ELOOP, EMLINK, ENAMETOOLONG)


class GuestFiles:
    """One file system of a guest and where to say what.

    ``device``: its name with colon; ``warn``: hears of what cannot be read.  ``damage``: how often it did.
    ``room``: bytes that all disks have together.
    """

    __slots__ = ("_output", "_room", "_warn", "damage", "device", "fs")

    def __init__(self, device: str, fs: DiskFileSystem, output: Output, warn: Callable[[str], None], room: int) -> None:
        self._room = room
        self.device = device
        self.fs = fs
        self._output = output
        self._warn = warn
        self.damage = 0

    def _complain(self, error: FileSystemError, path: bytes) -> None:
        self.damage += 1
        self._warn(f"{self.device}{shown(path)}: {error.message}")

    def _find(self, path: bytes, follow: bool = True) -> Named:
        """Raises InputError: there is no such file; FileSystemError: it cannot be read."""
        try:
            return find(self.fs, path, follow)
        except FileSystemError as error:
            raise self._failure(error, path) from None

    def _failure(self, error: FileSystemError, path: bytes) -> FileSystemError | InputError:
        where = f"{self.device}{shown(b'/' + path.lstrip(b'/'))}"
        if error.errno in _NAMING:
            reason = error.message if isinstance(error, PathError) else strerror(error.errno)
            return InputError(f"{where}: {reason}", error.hint)
        return FileSystemError(error.errno, f"{where}: {error.message}", error.hint)

    def list(self, path: bytes, long: bool = False, recursive: bool = False) -> None:
        """ls: the names in a directory, or the file itself.  Raises InputError, FileSystemError, OutputFailed."""
        # Like ls(1), -l shows a link that is named rather than where it leads; a slash at its end asks for that.
        top = self._find(path, follow=not long or path.endswith(b"/"))
        if top.kind != S_IFDIR:
            self._show(top, path, long)
            return
        if not recursive:
            try:
                content = members(self.fs, top, self._complain)
            except FileSystemError as error:
                raise self._failure(error, path) from None
            for member in content:
                self._show(member, member.name, long)
            return
        first = True
        for directory, content in Walk(self.fs, top, self._complain).by_directory():
            if not first:
                self._output.line(b"")
            first = False
            self._output.line(f"{shown(directory.path)}:")
            for member in content:
                self._show(member, member.name, long)

    def _show(self, member: Member | Named, name: bytes, long: bool) -> None:
        if not long:
            self._output.line(shown(name))
            return
        link = None
        try:
            if member.kind == S_IFLNK:
                link = self.fs.readlink(member.node)
        except FileSystemError as error:
            self._complain(error, member.path)
        try:
            line = long_line(member, name, link)
        except FileSystemError as error:
            self._complain(error, member.path)
            return
        self._output.line(line)

    def cat(self, path: bytes) -> int:
        """Send a regular file's content; its mode.  Raises InputError, FileSystemError, OutputFailed."""
        member = self._find(path)
        if member.kind == S_IFDIR:
            raise InputError(f"{self.device}{shown(member.path)}: {strerror(EISDIR)}", "bhyvedisk ls -R lists it")
        if member.kind != S_IFREG:
            raise FileSystemError(EFTYPE, f"{self.device}{shown(member.path)}: not a regular file")
        try:
            self._output.content(self._opened(member))
        except FileSystemError as error:
            raise self._failure(error, path) from None
        return member.stat().mode

    def _opened(self, member: Member | Named) -> DiskFile:
        """A file, having said when it is larger than all disks.  Raises FileSystemError."""
        file = self.fs.open(member.node)
        if file.size > self._room:
            self._warn(
                f"{self.device}{shown(member.path)}: {human_size(file.size)}, of which the disks hold "
                f"{human_size(self._room)} at most: the rest is holes, or the file system is damaged"
            )
        return file

    def checksum(self, path: bytes) -> None:
        """A line for the file at ``path``, or for each regular file below it.  Raises as ``list``."""
        top = self._find(path)
        if top.kind != S_IFDIR:
            if top.kind != S_IFREG:
                raise FileSystemError(EFTYPE, f"{self.device}{shown(top.path)}: not a regular file")
            self._sum(top)
            return
        for member in Walk(self.fs, top, self._complain).in_order():
            if member.kind == S_IFREG:
                self._sum(member)

    def _sum(self, member: Member | Named) -> None:
        import hashlib  # loaded before the process was confined

        digest = hashlib.sha256()
        try:
            for piece in pieces_of(self._opened(member)):
                digest.update(piece)
        except FileSystemError as error:
            self._complain(error, member.path)
            return
        self._output.line(checksum_line(digest.hexdigest(), member.path, self._output.terminal))
