"""Give a terminal in raw mode its own mode back when the program that set it is killed."""

from __future__ import annotations

import _signal
import os
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_SIGNALS = (
    _signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGUSR1, _signal.SIGUSR2, _signal.SIGALRM, _signal.SIGTERM
)  # fmt: skip


class Watcher:
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
