"""A program that is started, and waited for.  Not subprocess: its import is a tenth of the way to a guest's start."""

from __future__ import annotations

import _signal
import errno
import fcntl
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_NO_PROGRAM = 127
_IGNORED_BY_PYTHON = (_signal.SIGPIPE, _signal.SIGXFSZ)
_FIRST_NAP, _LAST_NAP = 0.0005, 0.05  # seconds


class Process:
    """``program`` with the words ``command``, in a process group of its own; its input is empty.

    ``output``: a descriptor for what it writes to standard output and error.  ``enter`` is called in the new process
    right before it becomes the program, and decides which descriptors that has.
    """

    __slots__ = ("_status", "pid")

    def __init__(self, program: str, command: list[str], output: int, enter: Callable[[], None]) -> None:
        """Raises OSError: no process is to be had, or it cannot become the program."""
        self._status: int | None = None
        reading, writing = os.pipe()
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _become(program, command, output, enter, writing)
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        with open(reading, "rb") as file:
            failed = file.read()  # nothing: its end is closed when it has become the program
        if failed:
            self.wait()
            number = int(failed)
            raise OSError(number, os.strerror(number), program)

    def poll(self) -> int | None:
        """Its exit status, or the negative number of the signal that ended it; None while it runs."""
        return self._look(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int | None:
        """As ``poll``, when it has ended or ``timeout`` seconds are over."""
        if timeout is None:
            return self._look(0)
        end = time.monotonic() + timeout
        nap = _FIRST_NAP
        while self.poll() is None and (left := end - time.monotonic()) > 0:
            time.sleep(min(nap, left))
            nap = min(nap * 2, _LAST_NAP)
        return self._status

    def terminate(self) -> None:
        self._send(_signal.SIGTERM)

    def kill(self) -> None:
        self._send(_signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self.poll() is None:  # else its number may be another's by now
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def _look(self, flags: int) -> int | None:
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, flags)
            except ChildProcessError:  # somebody else has waited for all children
                pid, status = self.pid, 0
            if pid == self.pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status


def _become(program: str, command: list[str], output: int, enter: Callable[[], None], writing: int) -> NoReturn:
    """In the new process."""
    number = errno.EINVAL
    try:
        os.setpgid(0, 0)
        for signal in _IGNORED_BY_PYTHON:  # what a process ignores, the program that it becomes ignores
            _signal.signal(signal, _signal.SIG_DFL)
        output, writing = _above_standard(output), _above_standard(writing)
        null = _above_standard(os.open(os.devnull, os.O_RDONLY))
        for fd, source in enumerate((null, output, output)):
            os.dup2(source, fd)
        enter()
        os.execv(program, command)
    except OSError as error:
        number = error.errno or number
    finally:
        try:
            os.write(writing, str(number).encode())
        finally:
            os._exit(_NO_PROGRAM)


def _above_standard(fd: int) -> int:
    """The same file under a number that no standard descriptor has: those may have been closed when ``fd`` was made."""
    return fd if fd > 2 else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
