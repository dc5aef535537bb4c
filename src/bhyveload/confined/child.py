"""One forked child that does everything that sees a guest byte; the parent waits, and turns what it says into values.

The child ends by sending one report through a pipe (wire.py) and never returns into the caller's code.  The parent
trusts nothing in it: sizes are bounded, error classes come from a list, the rest has to fit its shape (run.py).  A
child that dies, or says nothing, is a LoaderCrashed (docs/architecture.md, "Processes").
"""

from __future__ import annotations

import _signal
import gc
import os
import select
import time

from bhyveload import errors
from bhyveload.confined.reports import ERROR
from bhyveload.confined.shape import Misfit
from bhyveload.confined.wire import MAX_SIZE, decode, encode
from bhyveload.errors import BhyveloadError, HostError, LoaderCrashed, ReportError
from bhyveload.libc import write_all
from bhyveload.need import ModulesNeeded
from bhyveload.sandbox import die_with_parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from bhyveload.confined.confinement import Subject
    from bhyveload.confined.deadline import Deadline

    Report = dict[str, Any]

_PATIENCE = 2.0  # seconds between the end of a report and that of its child
_LONGEST_WAIT = 86400.0  # seconds; poll(2) takes milliseconds as an int
# By name: FreeBSD's numbers differ
_SIGNALS = {
    getattr(_signal, name): name
    for name in (
        "SIGILL", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGSEGV", "SIGALRM", "SIGXCPU", "SIGSYS"
    )
}  # fmt: skip

# What ends a program ends the child at once; crashes do, too, whatever handlers the parent has (faulthandler's cannot
# put the old ones back in the sandbox and would crash for ever)
_TERMINATING = (
    _signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGUSR1, _signal.SIGUSR2, _signal.SIGALRM, _signal.SIGTERM
)  # fmt: skip
_ENDING = (
    *_TERMINATING, _signal.SIGILL, _signal.SIGABRT, _signal.SIGBUS, _signal.SIGFPE, _signal.SIGSEGV, _signal.SIGSYS
)  # fmt: skip


class Leave:
    """Ends the child from anywhere: sends a report and never returns."""

    def __init__(self, pipe: int, subject: Subject) -> None:
        self.descriptor = pipe
        self._subject = subject

    def __call__(self, report: Report) -> NoReturn:
        try:
            console = self._subject.console
            if console is None:
                pass
            elif "need" in report:
                report = {**report, "shown": console.discard()}
            else:
                console.flush()
            data = encode(report)
        except BaseException as error:
            data = encode(self._describe(error))
        try:
            write_all(self.descriptor, data)
        except OSError:
            pass  # nobody reads it any more
        os._exit(0)

    def failure(self, error: BaseException) -> NoReturn:
        """End with what went wrong."""
        self(self._describe(error))

    def _describe(self, error: BaseException) -> Report:
        if isinstance(error, ModulesNeeded):
            return {"need": error.name}
        if isinstance(error, BhyveloadError):
            report: Report = {"error": type(error).__name__, "message": error.message[:4096], "hint": error.hint[:4096]}
            for name in ("errno", "exit_status"):
                value = getattr(error, name, None)
                if isinstance(value, int):
                    report[name] = value
            if isinstance(error, errors.LoaderError):
                report["explanation"] = error.explanation
            return report
        name = self._subject.name
        if isinstance(error, MemoryError):
            return {"error": "LoaderCrashed", "message": f"{name} ran out of memory", "hint": ""}
        if isinstance(error, RecursionError):
            return {"error": "LoaderCrashed", "message": f"{name} ran out of stack", "hint": ""}
        where = ""
        trace = error.__traceback__
        while trace is not None:
            where = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
            trace = trace.tb_next
        text = f"internal error in {name}: {type(error).__name__}: {error} at {where}"
        return {"error": "LoaderCrashed", "message": text[:4096], "hint": "please report it"}


class Child:
    """A confined child at work on ``subject``; ``report`` waits for it.  Several can work at the same time.

    ``work`` gets the Leave, and may return its report; ``prepare`` runs before the child is confined: what it does must
    not depend on a byte of a guest's.
    Raises HostError: no process can be made.
    """

    __slots__ = ("_pid", "_reading", "_subject")

    def __init__(
        self, work: Callable[[Leave], Report], subject: Subject, prepare: Callable[[], object] | None = None
    ) -> None:
        self._subject = subject
        parent = os.getpid()
        # A handler of the parent's must not run in the child: what it raises would lead it into the caller's code.
        mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _TERMINATING)
        try:
            self._reading, writing = os.pipe()
            try:
                self._pid = os.fork()
            except BaseException:
                os.close(self._reading)
                os.close(writing)
                raise
            if self._pid == 0:
                leave = Leave(writing, subject)
                try:
                    gc.freeze()  # what is there stays: looking through it would copy every page of it
                    gc.enable()  # whatever the parent has chosen
                    for number in _ENDING:
                        _signal.signal(number, _signal.SIG_DFL)
                    _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
                    os.close(self._reading)
                    die_with_parent(parent)
                    if prepare is not None:
                        prepare()
                    subject.confine(leave.descriptor)
                    leave(work(leave))
                except BaseException as error:
                    leave.failure(error)
                finally:
                    os._exit(1)
        except OSError as error:
            raise HostError(f"no process can be started: {error.strerror}") from None
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        os.close(writing)

    def report(self, deadline: Deadline) -> Report:
        """What it sends: any table but an error.  Raises the BhyveloadError that the child reported, ReportError, or
        LoaderCrashed (signal, time out, silence); the child has ended then."""
        try:
            data = _read_report(self._reading, deadline)
        except OSError as error:
            self.kill()
            raise HostError(f"the loader's report cannot be read: {error.strerror}") from None
        except BaseException:
            self.kill()
            raise
        os.close(self._reading)
        name = self._subject.name
        if data is None:
            _kill(self._pid)
            raise LoaderCrashed(f"{name} did not finish in {deadline.seconds:g} seconds", "give it longer: --timeout")
        if len(data) > MAX_SIZE:
            _kill(self._pid)
            raise ReportError(f"{name}'s report is too large")
        return understand(data, _await(self._pid), self._subject)

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


def _read_report(fd: int, deadline: Deadline) -> bytes | None:
    """Everything the child sends, at most one byte more than MAX_SIZE; None when time is up."""
    parts: list[bytes] = []
    size = 0
    pipe = select.poll()  # not select: a library user may have more than 1024 descriptors
    pipe.register(fd, select.POLLIN)
    while size <= MAX_SIZE:
        while (left := deadline.left()) is not None:
            if left <= 0:
                return None
            if pipe.poll(min(left, _LONGEST_WAIT) * 1000):
                break
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


def understand(data: bytes, status: int, subject: Subject) -> Report:
    """The report in ``data`` of a child that ended with the wait ``status``.  Raises as Child.report."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        signal = _SIGNALS.get(number, f"signal {number}")
        why = {
            _signal.SIGBUS: ": a disk image became shorter while it was read, or lies on a tmpfs that is full",
            _signal.SIGSYS: f": {subject.name} tried something forbidden",
        }.get(number, "")
        raise LoaderCrashed(f"{subject.name} died by {signal}{why}", subject.consequence)
    if not data:
        raise LoaderCrashed(
            f"{subject.name} ended without a report (status {os.WEXITSTATUS(status)})", subject.consequence
        )
    report = decode(data)
    if not isinstance(report, dict):
        raise ReportError(f"{subject.name}'s report is not a table")
    if "error" in report:
        raise _rebuild(report, subject)
    return report


def _rebuild(report: Report, subject: Subject) -> BhyveloadError:
    """The child's error as an object of its class."""
    try:
        report = ERROR.check(report)
    except Misfit as misfit:
        return ReportError(f"{subject.name}'s report of an error lacks a usable '{misfit.where}'")
    kind = getattr(errors, report["error"], None)
    message, hint = report["message"], report["hint"]
    if not (isinstance(kind, type) and issubclass(kind, BhyveloadError)):
        return ReportError(f"{subject.name} reported an unknown error: {message}")
    if issubclass(kind, errors.FileSystemError | errors.KernelError):
        return kind(report["errno"], message, hint)
    error = kind(message, hint)
    if isinstance(error, errors.LoaderError):
        error.exit_status = report["exit_status"] or error.exit_status
        error.explanation = report["explanation"]
    return error
