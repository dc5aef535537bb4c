"""Where bytes leave the confined child: a descriptor it was given."""

from __future__ import annotations

import os

from bhyveload.libc import pwrite_all, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from bhyveload.device import Buffer
    from bhyveload.fs.interface import DiskFile, File

PIECE = 4 << 20  # bytes of a file held at a time
_BUFFER = 1 << 16


class OutputFailed(Exception):
    """The descriptor took no more; ``errno`` is the host's."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


class Output:
    """Buffers lines, passes on data.  Every method raises OutputFailed.

    ``sparse``: the descriptor is that of a new, empty file, in which holes may stay holes.
    """

    __slots__ = ("_held", "_pending", "_sparse", "fd", "terminal")

    def __init__(self, fd: int, sparse: bool = False) -> None:
        self.fd = fd
        self._sparse = sparse
        self._pending: list[bytes] = []
        self._held = 0
        try:
            self.terminal = os.isatty(fd)
        except OSError:
            self.terminal = False

    def line(self, text: bytes | str) -> None:
        """Send a line; text must be ASCII."""
        data = text.encode("ascii", "backslashreplace") if isinstance(text, str) else text
        self._pending += (data, b"\n")
        self._held += len(data) + 1
        if self._held >= _BUFFER:
            self.flush()

    def content(self, file: DiskFile) -> None:
        """Send a file.  Raises FileSystemError."""
        self.flush()
        if not self._sparse:
            for piece in pieces_of(file):
                self._write(memoryview(piece))
            return
        position = 0
        hole = False
        while position < file.size:
            length, hole = file.extent(position)
            if not hole:
                length = min(length, PIECE)
                at = position
                for piece in file.read(position, length):
                    self._write_at(memoryview(piece), at)
                    at += len(piece)
                length = at - position
                if not length:
                    return
            position += length
        if hole:
            self._write_at(memoryview(b"\0"), file.size - 1)

    def _write_at(self, view: memoryview, offset: int) -> None:
        try:
            pwrite_all(self.fd, view, offset)
        except OSError as error:
            raise OutputFailed(error.errno or 0) from None

    def flush(self) -> None:
        data = b"".join(self._pending)
        self._pending.clear()
        self._held = 0
        self._write(memoryview(data))

    def _write(self, view: memoryview) -> None:
        try:
            write_all(self.fd, view)
        except OSError as error:
            raise OutputFailed(error.errno or 0) from None


def pieces_of(file: File) -> Iterable[Buffer]:
    """A file from its first byte to its last, a bounded part of it at a time.  Raises FileSystemError."""
    position = 0
    while position < file.size:
        count = 0
        for piece in file.read(position, PIECE):
            count += len(piece)
            yield piece
        if not count:
            return
        position += count
