"""The guest's console: what COM1 says goes to everybody who listens, what they type goes to the guest.

    QEMU -- socket pair -- Console --- the terminal, a pipe or a file (whoever started the run)
                                   |-- a log
                                   |-- a pseudo-terminal, a socket's clients, bhyvectl --console

The program that runs the guest never has the terminal itself.  Whoever started the run and the log get every byte: when
they are slow, the guest waits.  The others are there by the way: one that does not keep up loses output or is dropped.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket
    from collections.abc import Callable

    from bhyveload.handoff.loop import Loop

_STEP = 4096  # PIPE_BUF: a pipe that poll(2) calls writable takes that much without waiting
_HELD = 1 << 16  # bytes for a slow listener before the guest has to wait, or the listener is dropped
_TYPED = 1 << 12
_GATHER = 0.002  # seconds in which more bytes may come together: QEMU hands them over one by one
_RECENT = 1 << 13  # bytes for who comes later
_WAIT_AGAIN = (errno.EAGAIN, errno.EINTR)


class Port:
    """One listener, who may also type.  ``patient``: it gets every byte, the guest waits for it.  ``failed`` is called
    with the reason when it can have no more."""

    __slots__ = ("_console", "escape", "failed", "in_fd", "out_fd", "patient", "pending", "released")

    def __init__(
        self,
        console: GuestConsole,
        in_fd: int,
        out_fd: int,
        patient: bool,
        escape: Escape | None,
        released: Callable[[], None] | None,
    ) -> None:
        self._console = console
        self.in_fd = in_fd  # -1: it does not type
        self.out_fd = out_fd
        self.patient = patient
        self.escape = escape
        self.released = released
        self.failed: Callable[[str], None] | None = None
        self.pending = bytearray()

    def give(self, data: bytes) -> None:
        """What the guest says.  Waits in ``pending`` until it can be written."""
        self.pending += data
        if not self.patient and len(self.pending) > _HELD:
            if self.released is not None:
                self._console.detach(self)
                return
            del self.pending[:-_STEP]  # a pseudo-terminal that nobody has open
        self._console.rewatch(self)

    def can_write(self) -> None:
        try:
            done = os.write(self.out_fd, self.pending[:_STEP])
        except OSError as error:
            if error.errno in _WAIT_AGAIN:
                return
            if error.errno == errno.EIO and self.released is None:
                self.pending.clear()  # a terminal that was hung up
            else:
                self._console.detach(self)
                if self.failed is not None:
                    self.failed(str(error.strerror))
                return
            done = 0
        del self.pending[:done]
        self._console.rewatch(self)

    def can_read(self) -> None:
        try:
            data = os.read(self.in_fd, _TYPED)
        except OSError as error:
            if error.errno in _WAIT_AGAIN:
                return
            data = b""
        if not data:
            self._console.typed_end(self)
        else:
            self._console.type(data if self.escape is None else self.escape.filter(data))


class Escape:
    """An escape key in front of commands for the run itself, as QEMU's and cu's: the key, then a letter."""

    __slots__ = ("_armed", "_commands", "_key")

    def __init__(self, key: bytes, commands: dict[bytes, Callable[[], None]]) -> None:
        self._key = key
        self._commands = commands
        self._armed = False

    def filter(self, data: bytes) -> bytes:
        """``data`` without the commands in it, which are carried out.  The key twice is the key once."""
        out = bytearray()
        for number in data:
            byte = bytes([number])
            if self._armed:
                self._armed = False
                if byte == self._key:
                    out += byte
                    continue
                command = self._commands.get(byte.lower())
                if command is not None:
                    command()
            elif byte == self._key:
                self._armed = True
            else:
                out += byte
        return bytes(out)


class GuestConsole:
    """Between the guest's end, a socket, and its listeners.  Lives on ``loop``."""

    def __init__(self, loop: Loop, guest: Socket) -> None:
        guest.setblocking(False)
        self.loop = loop
        self._recent = bytearray()
        self._guest = guest
        self._ports: list[Port] = []
        self._hearers: list[Callable[[bytes], None]] = []
        self._typed = bytearray()
        self.ended = False
        self._gathering = False
        self._watch_guest()

    def attach(
        self,
        in_fd: int,
        out_fd: int,
        *,
        patient: bool = False,
        escape: Escape | None = None,
        released: Callable[[], None] | None = None,
        recent: bool = False,
    ) -> Port:
        """Another listener on ``out_fd``, typing on ``in_fd`` (-1: it does not).

        ``released`` is called when it has gone, to close the descriptors; without it they stay the caller's, and the
        port stays.  ``recent``: it gets what the guest said last, too.
        """
        port = Port(self, in_fd, out_fd, patient, escape, released)
        self._ports.append(port)
        if recent:
            port.pending += self._recent
        self.rewatch(port)
        return port

    def hear(self, call: Callable[[bytes], None]) -> None:
        """Have ``call`` called with everything that the guest says; the guest waits while it runs."""
        self._hearers.append(call)

    @property
    def somebody_types(self) -> bool:
        """Whether there is a listener that may type."""
        return any(port.in_fd >= 0 for port in self._ports)

    def detach(self, port: Port) -> None:
        if port in self._ports:
            self._ports.remove(port)
            self.loop.forget(port.out_fd)
            if port.in_fd >= 0:
                self.loop.forget(port.in_fd)
            if port.released is not None:
                port.released()
            self._watch_guest()

    def type(self, data: bytes) -> None:
        """Send ``data`` to the guest."""
        self._typed += data
        self._watch_guest()
        for port in self._ports:
            self.rewatch(port)

    def typed_end(self, port: Port) -> None:
        """Nothing more will be typed on ``port``."""
        if port.released is not None:
            self.detach(port)
            return
        self.loop.forget(port.in_fd)
        port.in_fd = -1
        self.rewatch(port)

    def say(self, data: bytes) -> None:
        """A word to those who run the guest, not from it."""
        for port in self._ports:
            if port.escape is not None:
                port.give(data)

    def flush(self, limit: Callable[[], bool]) -> None:
        """After the guest's end: what it said is still given to the patient ones.  ``limit``: whether time is up."""
        while any(port.pending and port.patient for port in self._ports) and not limit():
            self.loop.turn(0.1)

    def close(self) -> None:
        """Release everybody."""
        for port in list(self._ports):
            self.detach(port)
        self.loop.forget(self._guest.fileno())
        self._guest.close()
        self.ended = True

    def rewatch(self, port: Port) -> None:
        if port not in self._ports:
            return
        reader = port.can_read if port.in_fd >= 0 and len(self._typed) < _TYPED else None
        writer = port.can_write if port.pending else None
        if port.in_fd == port.out_fd:
            self.loop.watch(port.out_fd, reader, writer)
        else:
            self.loop.watch(port.out_fd, None, writer)
            if port.in_fd >= 0:
                self.loop.watch(port.in_fd, reader, None)
        self._watch_guest()

    def _watch_guest(self) -> None:
        if self.ended:
            return
        full = any(port.patient and len(port.pending) > _HELD for port in self._ports)
        says = None if full or self._gathering else self._guest_says
        self.loop.watch(self._guest.fileno(), says, self._guest_hears if self._typed else None)

    def _guest_says(self) -> None:
        try:
            data = self._guest.recv(_HELD)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.ended = True
            self.loop.forget(self._guest.fileno())
            return
        self._gathering = True
        self.loop.later(_GATHER, self._gathered)
        self._watch_guest()
        self._recent += data
        del self._recent[:-_RECENT]
        for port in list(self._ports):
            port.give(data)
        for call in self._hearers:
            call(data)

    def _gathered(self) -> None:
        self._gathering = False
        self._watch_guest()

    def _guest_hears(self) -> None:
        try:
            del self._typed[: self._guest.send(self._typed)]
        except BlockingIOError:
            return
        except OSError:
            self._typed.clear()
        self._watch_guest()
        for port in list(self._ports):
            self.rewatch(port)


def own_description(fd: int) -> int:
    """A descriptor of the terminal on ``fd`` with flags of its own, not to wait for; ``fd`` itself where that cannot be
    had.  The flags of ``fd`` are shared with the shell and whoever else has the terminal."""
    try:
        if os.isatty(fd):
            return os.open(os.ttyname(fd), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        pass
    return fd
