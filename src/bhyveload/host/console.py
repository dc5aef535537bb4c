"""The loader's console over two file descriptors (bhyveload.c's cb_putc, cb_getc, cb_poll).

Output is held back until somebody waits for input, sleeps or leaves: a boot without keys writes once.  A terminal gets
every line at once, so that a guest's script that hangs hangs where it is seen to.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from bhyveload.libc import write_all

_HOLD = 1 << 16
_NOTHING = struct.pack("i", 0)


class FdConsole:
    """Console over ``in_fd`` and ``out_fd``.

    ``device``: -c was given; the descriptor is non-blocking and silence is not the end of input.
    """

    __slots__ = ("_held", "_size", "_skip", "_terminal", "at_end", "device", "in_fd", "out_fd", "shown")

    def __init__(self, in_fd: int, out_fd: int, device: bool = False) -> None:
        self.in_fd = in_fd
        self.out_fd = out_fd
        self.device = device
        self.at_end = False
        self.shown = 0
        self._held: list[bytes] = []
        self._size = 0
        self._skip = 0
        self._terminal = os.isatty(out_fd)

    def descriptors(self) -> tuple[int, ...]:
        return self.in_fd, self.out_fd

    def write(self, data: bytes) -> None:
        """Send bytes; a console that nobody reads any more is no error (write's result is ignored, as in C)."""
        self._held.append(data)
        self._size += len(data)
        if self._size > _HOLD or (self._terminal and b"\n" in data):
            self.flush()

    def flush(self) -> None:
        data = b"".join(self._held)
        self._held.clear()
        self._size = 0
        if self._skip:
            known, data = data[: self._skip], data[self._skip :]
            self._skip -= len(known)
            self.shown += len(known)
        try:
            write_all(self.out_fd, data)
        except OSError:
            return
        self.shown += len(data)

    def discard(self) -> int:
        """Forget what is held back; how many bytes have been shown before."""
        self._held.clear()
        self._size = 0
        return self.shown

    def skip(self, count: int) -> None:
        """A loader starts over: ``count`` bytes of what it is going to write have been shown already."""
        self._skip = count

    def getc(self) -> int:
        self.flush()
        try:
            data = os.read(self.in_fd, 1)
        except BlockingIOError:
            return -1
        except OSError:
            self.at_end = True
            return -1
        if not data:
            self.at_end = True
            return -1
        return data[0] - 256 if data[0] > 127 else data[0]

    def poll(self) -> bool:
        """FIONREAD: bytes are pending.  0 at the end of input, and where the descriptor cannot tell."""
        try:
            return bool(struct.unpack("i", fcntl.ioctl(self.in_fd, termios.FIONREAD, _NOTHING))[0] > 0)
        except OSError:
            return False
