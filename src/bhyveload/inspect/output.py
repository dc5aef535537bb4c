"""Where bytes leave the confined child: a descriptor it was given."""

from __future__ import annotations

import os

from bhyveload.libc import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from bhyveload.device import Buffer
    from bhyveload.fs.interface import File

PIECE = 4 << 20  # bytes of a file held at a time
_BUFFER = 1 << 16


class OutputFailed(Exception):
    """The descriptor took no more; ``errno`` is the host's."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


class Output:
    """Buffers lines, passes on data.  Every method raises OutputFailed."""

    __slots__ = ("_held", "_pending", "fd", "terminal")

    def __init__(self, fd: int) -> None:
        self.fd = fd
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

    def data(self, pieces: Iterable[Buffer]) -> None:
        """Send bytes as they are."""
        self.flush()
        for piece in pieces:
            self._write(memoryview(piece))

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
