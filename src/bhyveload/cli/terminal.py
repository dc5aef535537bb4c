"""The terminal while a loader has it: raw, and always as before afterwards (usr.sbin/bhyveload/bhyveload.c, main)."""

from __future__ import annotations

import _signal
import os
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6

# What ends a program that does not ask for it: SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTERM; Python has SIGINT.
_TERMINATING = (1, 3, 10, 12, 14, 15)
_SIGNALS = (*_TERMINATING, 2)


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
        self._watcher: _Watcher | None = None

    def __enter__(self) -> RawTerminal:
        for number in _TERMINATING:
            _signal.signal(number, _terminate)
        if not os.isatty(self._fd):
            return self
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
            characters[key] = b"\0"  # only Ctrl-C is left of ISIG
        mode[_CC] = characters
        try:
            termios.tcsetattr(self._fd, termios.TCSAFLUSH, mode)
            self._watcher = _Watcher(self._fd, self._saved)
        except BaseException:  # a signal right behind it
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
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


class _Watcher:
    """A process that gives the terminal ``fd`` the mode ``saved`` back when its parent cannot any more (kill -9).

    It waits at the end of a pipe that its parent holds open, in a process group of its own: what is sent to the whole
    job is not for it.
    """

    def __init__(self, fd: int, saved: list[Any]) -> None:
        self._pid = self._writing = -1
        reading, writing = os.pipe()
        mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _SIGNALS)  # for good in the watcher
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _watch(fd, saved, reading, writing)
            self._writing = writing
        except OSError:
            os.close(writing)  # no process is to be had: then it goes without
        finally:
            os.close(reading)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)

    def dismiss(self) -> None:
        """The terminal is as before, or gone."""
        if self._writing >= 0:
            writing, self._writing = self._writing, -1
            try:
                os.write(writing, b".")
                os.close(writing)
                os.waitpid(self._pid, 0)
            except OSError:
                pass  # somebody has killed it


def _watch(fd: int, saved: list[Any], reading: int, writing: int) -> NoReturn:
    """The watcher's life.  A terminal that somebody has changed since is left alone: a shell sets its own mode."""
    try:
        os.close(writing)
        os.setpgid(0, 0)
        _signal.signal(_signal.SIGTTOU, _signal.SIG_IGN)  # of a process in the background that sets the mode
        left = termios.tcgetattr(fd)
        if not os.read(reading, 1) and termios.tcgetattr(fd) == left:
            termios.tcsetattr(fd, termios.TCSANOW, saved)
    finally:
        os._exit(0)


def _terminate(number: int, frame: object) -> None:
    """The first one counts: a second must not interrupt the cleaning up."""
    for other in _TERMINATING:
        _signal.signal(other, _signal.SIG_IGN)
    raise Terminated(number)
