"""The terminal while a loader has it: raw, and always as before afterwards (usr.sbin/bhyveload/bhyveload.c, main)."""

from __future__ import annotations

import _signal
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bhyveload.host.terminal_watcher import Watcher

_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6

# What ends a program that does not ask for it; Python has SIGINT.  Their numbers are each system's own.
_TERMINATING = (
    _signal.SIGHUP, _signal.SIGQUIT, _signal.SIGUSR1, _signal.SIGUSR2, _signal.SIGALRM, _signal.SIGTERM
)  # fmt: skip
_SIGNALS = (*_TERMINATING, _signal.SIGINT)


class Terminated(BaseException):
    """A signal to end arrived: unwind, restore the terminal, end with 128 + the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


class RawTerminal:
    """``with RawTerminal(fd):`` raw mode on a terminal, nothing on anything else.

    As cfmakeraw(3) with CLOCAL, except that Ctrl-C still interrupts: the loader knows no use for the byte, and a
    guest's script must not be able to hold the user.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: list[Any] | None = None
        self._watcher: Watcher | None = None

    def __enter__(self) -> RawTerminal:
        for number in _TERMINATING:
            _signal.signal(number, _terminate)
        if not os.isatty(self._fd):
            return self
        import termios

        self._saved = termios.tcgetattr(self._fd)
        mode = termios.tcgetattr(self._fd)
        mode[_IFLAG] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
            | termios.ICRNL | termios.IXON
        )  # fmt: skip
        mode[_OFLAG] &= ~termios.OPOST
        mode[_CFLAG] = mode[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8 | termios.CLOCAL
        mode[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
        characters = list(mode[_CC])
        characters[termios.VMIN], characters[termios.VTIME] = 1, 0
        for key in (termios.VQUIT, termios.VSUSP):
            characters[key] = bytes((os.fpathconf(self._fd, "PC_VDISABLE"),))  # only Ctrl-C is left of ISIG
        mode[_CC] = characters
        try:
            termios.tcsetattr(self._fd, termios.TCSAFLUSH, mode)
            from bhyveload.host.terminal_watcher import Watcher

            self._watcher = Watcher(self._fd, self._saved)
        except BaseException:  # a signal right behind it
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            import termios

            mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _SIGNALS)
            try:
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)
            except termios.error:
                pass  # the terminal is gone
            self._saved = None
            if self._watcher is not None:
                self._watcher.dismiss()
                self._watcher = None
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)


def _terminate(number: int, frame: object) -> None:
    """The first one counts: a second must not interrupt the cleaning up."""
    for other in _TERMINATING:
        _signal.signal(other, _signal.SIG_IGN)
    raise Terminated(number)
