"""libsa's host file system: the ``-h`` folder as ``host0:``, seen through the loader callbacks.

Source: stand/userboot/userboot/host.c.  There is no device to probe and no twiddle; a node is an
open callback handle, which its last user's forgetting closes.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EINVAL, ENOENT, ENOTDIR, EROFS
from bhyveload.fs.stat import Stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from bhyveload.device import Buffer
    from bhyveload.host.callbacks import LoaderCallbacks
    from bhyveload.host.interface import HostFile

PIECE = 16 << 20  # bytes asked from the callback at once


class HostDirFile:
    """An open host file.  ``size`` is the one it had when it was opened; reading goes to its true end."""

    __slots__ = ("_callbacks", "_handle", "size")

    def __init__(self, callbacks: LoaderCallbacks, handle: HostFile) -> None:
        self._callbacks = callbacks
        self._handle = handle
        self.size = handle.size

    def read(self, offset: int, length: int) -> list[Buffer]:
        """Pieces of [offset, offset + length).  Raises FileSystemError: EINVAL (a folder, a read error)."""
        pieces: list[Buffer] = []
        self._callbacks.seek(self._handle, offset, 0)
        while length > 0:
            data = self._callbacks.read(self._handle, min(length, PIECE))
            if not data:
                break
            pieces.append(data)
            length -= len(data)
        return pieces

    def write(self, offset: int, data: Buffer) -> int:
        raise FileSystemError(EROFS, "host0: read-only file system")


class HostFileSystem:
    """The FileSystem of device ``host0`` (fs/interface.py)."""

    name = "host"

    def __init__(self, callbacks: LoaderCallbacks) -> None:
        self._callbacks = callbacks

    def lookup(self, path: bytes, follow: bool = True) -> HostFile:
        """The host follows links itself, whatever ``follow`` says.  Raises what the open callback raises.

        ``ls -l /`` asks for `//name`: several slashes are one here, as on every other file system (13.2's host side
        appended the name to its path; beneath-only look-up would take the second slash for a way out).
        """
        return self._callbacks.open(b"/" + path.lstrip(b"/") if path.startswith(b"/") else path)

    def stat(self, node: HostFile) -> Stat:
        return Stat(node.mode, node.size, node.uid, node.gid, node.mtime, node.ino, node.dev)

    def readdir(self, node: HostFile) -> Iterator[tuple[int, int, bytes]]:
        """Entries in the host's order.  A node can be read through once.  Raises FileSystemError(ENOTDIR)."""
        if not self._callbacks.isdir(node):
            raise FileSystemError(ENOTDIR, "host0: not a directory")
        while True:
            try:
                entry = self._callbacks.readdir(node)
            except FileSystemError as error:
                if error.errno == ENOENT:
                    return
                raise
            yield entry

    def readlink(self, node: HostFile) -> bytes:
        raise FileSystemError(EINVAL, "host0: not a symbolic link")

    def open(self, node: HostFile) -> HostDirFile:
        return HostDirFile(self._callbacks, node)
