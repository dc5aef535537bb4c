"""One forked child that does everything that sees a guest byte; the parent waits, and turns what it says into values.

The child ends by sending one report through a pipe (wire.py) and never returns into the caller's code.  The parent
trusts nothing in it: sizes are bounded, error classes come from a list.  A child that dies, or says nothing, is a
LoaderCrashed (docs/architecture.md, "Processes").
"""

from __future__ import annotations

import _signal
import os
import select
import time

from bhyveload import errors
from bhyveload.confined.wire import MAX_SIZE, decode, encode
from bhyveload.errors import BhyveloadError, LoaderCrashed, ReportError
from bhyveload.need import ModulesNeeded
from bhyveload.sandbox import die_with_parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Report = dict[str, Any]

_PATIENCE = 2.0  # seconds between the end of a report and that of its child
_SIGNALS = {
    4: "SIGILL",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    14: "SIGALRM",
    24: "SIGXCPU",
    31: "SIGSYS",
}

# SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTERM end the child at once; crashes do, too, whatever handlers
# the parent has (faulthandler's cannot put the old ones back in the sandbox and would crash for ever)
_ENDING = (1, 2, 3, 10, 12, 14, 15, 4, 6, 7, 8, 11, 31)


class Leave:
    """Ends the child from anywhere: sends a report and never returns."""

    def __init__(self, pipe: int, before: Callable[[], None], before_needing: Callable[[], int] | None) -> None:
        self.descriptor = pipe
        self._before = before
        self._before_needing = before_needing

    def __call__(self, report: Report) -> NoReturn:
        try:
            if "need" in report and self._before_needing is not None:
                report = {**report, "shown": self._before_needing()}
            else:
                self._before()
            data = encode(report)
        except BaseException as error:
            data = encode(_describe(error))
        while data:
            try:
                data = data[os.write(self.descriptor, data) :]
            except OSError:
                break
        os._exit(0)

    def failure(self, error: BaseException) -> NoReturn:
        """End with what went wrong."""
        self(_describe(error))


def _describe(error: BaseException) -> Report:
    if isinstance(error, ModulesNeeded):
        return {"need": error.name}
    if isinstance(error, BhyveloadError):
        report: Report = {"error": type(error).__name__, "message": error.message[:4096], "hint": error.hint[:4096]}
        for name in ("errno", "exit_status"):
            value = getattr(error, name, None)
            if isinstance(value, int):
                report[name] = value
        return report
    if isinstance(error, MemoryError):
        return {"error": "LoaderCrashed", "message": "the loader ran out of memory", "hint": ""}
    if isinstance(error, RecursionError):
        return {"error": "LoaderCrashed", "message": "the loader ran out of stack", "hint": ""}
    where = ""
    trace = error.__traceback__
    while trace is not None:
        where = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
        trace = trace.tb_next
    text = f"internal error in the loader: {type(error).__name__}: {error} at {where}"
    return {"error": "LoaderCrashed", "message": text[:4096], "hint": "please report it"}


def run_child(
    work: Callable[[Leave], Report],
    before_leaving: Callable[[], None],
    timeout: float | None = None,
    before_needing: Callable[[], int] | None = None,
    since: float | None = None,
) -> Report:
    """Fork, run ``work`` in the child, return its report.

    ``before_leaving`` runs in the child just before it reports (flush the console).  ``timeout`` in seconds, counted
    from ``since`` (time.monotonic(); None: now), which several children can share.
    Raises the BhyveloadError that the child reported, ReportError, or LoaderCrashed (signal, time out, silence).
    A report that asks for modules comes back as {"need": name}; ``before_needing`` runs in its place then, and what it
    returns is the report's "shown".
    """
    return Child(work, before_leaving, before_needing).report(timeout, since)


class Child:
    """A child at work, as run_child() has it; ``report`` waits for it.  Several can work at the same time."""

    __slots__ = ("_pid", "_reading")

    def __init__(
        self,
        work: Callable[[Leave], Report],
        before_leaving: Callable[[], None],
        before_needing: Callable[[], int] | None = None,
    ) -> None:
        self._reading, writing = os.pipe()
        parent = os.getpid()
        # A handler of the parent's must not run in the child: what it raises would lead it into the caller's code.
        mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _ENDING[:7])
        try:
            self._pid = os.fork()
            if self._pid == 0:
                leave = Leave(writing, before_leaving, before_needing)
                try:
                    for number in _ENDING:
                        _signal.signal(number, _signal.SIG_DFL)
                    _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
                    os.close(self._reading)
                    die_with_parent(parent)
                    leave(work(leave))
                except BaseException as error:
                    leave.failure(error)
                finally:
                    os._exit(1)
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        os.close(writing)

    def report(self, timeout: float | None = None, since: float | None = None) -> Report:
        """What it sends.  Raises as run_child(); the child has ended then."""
        deadline = None if timeout is None else (time.monotonic() if since is None else since) + timeout
        try:
            data = _read_report(self._reading, deadline)
        except BaseException:
            self.kill()
            raise
        os.close(self._reading)
        if data is None:
            _kill(self._pid)
            raise LoaderCrashed(f"the loader did not finish in {timeout:g} seconds", "give it longer: --timeout")
        if len(data) > MAX_SIZE:
            _kill(self._pid)
            raise ReportError("the loader's report is too large")
        return _understand(data, _await(self._pid))

    def kill(self) -> None:
        """End it without its report."""
        os.close(self._reading)
        _kill(self._pid)


def _await(pid: int) -> int:
    """The status of a child that has closed its pipe.  One that goes on all the same is hostile, and killed."""
    pause = 0.0
    patience = time.monotonic() + _PATIENCE
    try:
        while time.monotonic() < patience:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status
            time.sleep(pause)
            pause = min(pause * 2 + 20e-6, 0.01)
    except BaseException:
        _kill(pid)
        raise
    return _kill(pid)


def _read_report(fd: int, deadline: float | None) -> bytes | None:
    """Everything the child sends, at most one byte more than MAX_SIZE; None when time is up."""
    parts: list[bytes] = []
    size = 0
    pipe = select.poll()  # not select: a library user may have more than 1024 descriptors
    pipe.register(fd, select.POLLIN)
    while size <= MAX_SIZE:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0 or not pipe.poll(left * 1000):
                return None
        data = os.read(fd, 1 << 16)
        if not data:
            break
        parts.append(data)
        size += len(data)
    return b"".join(parts)


def _kill(pid: int) -> int:
    """Its status; 0 when somebody has taken that already (a signal right behind waitpid)."""
    try:
        os.kill(pid, 9)
        return os.waitpid(pid, 0)[1]
    except (ProcessLookupError, ChildProcessError):
        return 0


def _understand(data: bytes, status: int) -> Report:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = _SIGNALS.get(number, f"signal {number}")
        why = {7: ": a disk image became shorter while it was read", 31: ": the loader tried something forbidden"}.get(
            number, ""
        )
        raise LoaderCrashed(f"the loader died by {name}{why}", "nothing was loaded")
    if not data:
        raise LoaderCrashed(
            f"the loader ended without a report (status {os.WEXITSTATUS(status)})", "nothing was loaded"
        )
    report = decode(data)
    if not isinstance(report, dict):
        raise ReportError("the loader's report is not a table")
    if "error" in report:
        raise _rebuild(report)
    return report


def _rebuild(report: Report) -> BhyveloadError:
    """The child's error as an object of its class."""
    kind = getattr(errors, str(report["error"]), None)
    message, hint = str(report.get("message", "")), str(report.get("hint", ""))
    if not (isinstance(kind, type) and issubclass(kind, BhyveloadError)):
        return ReportError(f"the loader reported an unknown error: {message}")
    if issubclass(kind, errors.FileSystemError | errors.KernelError):
        number = report.get("errno")
        return kind(number if isinstance(number, int) else 5, message, hint)
    error = kind(message, hint)
    status = report.get("exit_status")
    if isinstance(error, errors.LoaderError) and isinstance(status, int) and 0 <= status <= 255:
        error.exit_status = status
    return error
