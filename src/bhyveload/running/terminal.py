"""The user's terminal while a guest has it: raw, and as before afterwards, whatever happened to it in between."""

from __future__ import annotations

import _signal
import errno
import fcntl
import os
import termios

from bhyveload.handoff.console import own_description
from bhyveload.host.terminal_watcher import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bhyveload.handoff.backend import Session
    from bhyveload.handoff.console import Escape, GuestConsole, Port

_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6
_SLAVE_ONLY = -1
_READER_LEFT = os.strerror(errno.EPIPE)


class Terminal:
    """Standard input and output of the program.  A job in the background neither reads the terminal nor changes it:
    ``resume`` (on SIGCONT) sees whether that is over."""

    def __init__(self, in_fd: int = 0, out_fd: int = 1) -> None:
        self._in, self._out = in_fd, out_fd
        self._modes: list[tuple[int, list[Any]]] = []
        self._flags: list[tuple[int, int]] = []
        self._opened: list[int] = []
        self._console: GuestConsole | None = None
        self._port: Port | None = None
        self._watcher: Watcher | None = None

    def __enter__(self) -> Terminal:
        for fd in (self._in, self._out):
            try:
                self._flags.append((fd, fcntl.fcntl(fd, fcntl.F_GETFL)))
                if os.isatty(fd):
                    self._modes.append((fd, termios.tcgetattr(fd)))
            except OSError:
                continue  # closed
        return self

    def attach(self, session: Session, escape: Escape | None, tell: Callable[[str], None]) -> None:
        """Make it the console of ``session``, with ``escape`` in front of commands for the run itself; ``tell`` hears
        when what the guest says can no longer be written, but where its reader has left."""
        self.listen(session.console, escape)

        def failed(reason: str) -> None:
            if reason != _READER_LEFT:
                tell(f"standard output: {reason}: no more of the console is written there")

        if self._port is not None:
            self._port.failed = failed

    def listen(self, console: GuestConsole, escape: Escape | None) -> None:
        """Put it on ``console``."""
        self._console = console
        if self._modes:
            _signal.signal(_signal.SIGTTOU, _signal.SIG_IGN)  # a terminal with tostop: what the guest says may be shown
        self._raw()
        in_fd = self._in if self._may_read() else _SLAVE_ONLY
        if in_fd < 0:
            console.loop.each_turn.append(self._look)
        self._port = console.attach(in_fd, self._own(self._out), patient=True, escape=escape)

    def resume(self) -> None:
        """The job goes on, in the foreground or, after a shell's bg, in the background."""
        self._raw()
        self._read_if_allowed()

    def _look(self) -> None:
        """A shell's fg makes no signal when the job was running."""
        if self._may_read() and self._console is not None:
            self._console.loop.each_turn.remove(self._look)
            self.resume()

    def _read_if_allowed(self) -> None:
        if self._port is None or self._console is None:
            return
        if not self._may_read():
            if self._port.in_fd >= 0:
                self._console.typed_end(self._port)
                self._console.loop.each_turn.append(self._look)
        elif self._port.in_fd < 0:
            self._port.in_fd = self._in
            self._console.rewatch(self._port)

    def __exit__(self, *_: object) -> None:
        for fd, flags in self._flags:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags)
        for fd, mode in self._modes:
            if _in_foreground(fd):
                try:
                    termios.tcsetattr(fd, termios.TCSADRAIN, mode)
                except termios.error:
                    pass  # the terminal is gone
        if self._watcher is not None:
            self._watcher.dismiss()
            self._watcher = None
        for fd in self._opened:
            os.close(fd)
        self._opened.clear()

    def _own(self, fd: int) -> int:
        own = own_description(fd)
        if own != fd:
            self._opened.append(own)
        return own

    def _may_read(self) -> bool:
        return not os.isatty(self._in) or _in_foreground(self._in)

    def _raw(self) -> None:
        """As QEMU has it: every key is the guest's; output is still processed."""
        for fd, saved in self._modes:
            if fd != self._in or not _in_foreground(fd):
                continue
            mode = [*saved[:_CC], list(saved[_CC])]
            mode[_IFLAG] &= ~(
                termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
                | termios.ICRNL | termios.IXON
            )  # fmt: skip
            mode[_OFLAG] |= termios.OPOST
            mode[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG)
            mode[_CFLAG] = mode[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
            mode[_CC][termios.VMIN], mode[_CC][termios.VTIME] = 1, 0
            try:
                termios.tcsetattr(fd, termios.TCSANOW, mode)
            except termios.error:
                continue  # the terminal is gone
            if self._watcher is None:
                self._watcher = Watcher(fd, saved)


def _in_foreground(fd: int) -> bool:
    """Whether we may change the terminal ``fd`` and read from it; also where it is not the one we are controlled by."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return True  # somebody else's terminal: no job control there
