"""Run a loaded VM under QEMU and learn how it ended.

    stub (memfd) --> qemu --> guest
                       |-- QMP on a socket pair: why it stopped, "is every processor halted?"
                       |-- its log on a pipe: "Triple fault"
                       `-- its complaints on a pipe

The outcomes and exit statuses are bhyve(8)'s.  QEMU is told to start paused and is released over QMP, so that no event
can come before somebody listens.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

from bhyveload.errors import HandoffError
from bhyveload.handoff.disks import disks_of, unpacked
from bhyveload.handoff.machine import loaded
from bhyveload.handoff.outcome import EXIT_STATUS, HALTED, POWERED_OFF, REBOOTED, STOPPED, TIMED_OUT, TRIPLE_FAULT
from bhyveload.handoff.pvh import build_stub
from bhyveload.handoff.pvh_image import write_stub_elf
from bhyveload.handoff.qemu import PROGRAM, Options, qemu_command
from bhyveload.handoff.qmp import Qmp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bhyveload.handoff.disks import Disk
    from bhyveload.handoff.machine import LoadedMachine
    from bhyveload.image.cache import Progress

_REASONS = {"guest-reset": REBOOTED, "guest-shutdown": POWERED_OFF, "guest-panic": HALTED}
_HALT_POLL = 0.5  # seconds
_END_LIMIT = 5.0
_MESSAGES_MAX = 1 << 16
_PR_SET_PDEATHSIG = 1
_PROCESSOR = re.compile(r"[ER]IP=([0-9a-f]+) [ER]FL=([0-9a-f]+).*?HLT=(\d).*?CS =([0-9a-f]+)", re.DOTALL)
_INTERRUPTS_ON = 0x200
_RESET_VECTOR = (0xFFF0, 0xF000)  # IP, CS of a processor that was never started


class RunResult:
    """How a run ended.  ``outcome`` is one of outcome.py's, ``seconds`` the time since QEMU was started,
    ``messages`` what QEMU said on its standard error."""

    __slots__ = ("messages", "outcome", "seconds")

    def __init__(self, outcome: str, seconds: float, messages: str) -> None:
        self.outcome = outcome
        self.seconds = seconds
        self.messages = messages

    @property
    def exit_status(self) -> int:
        return EXIT_STATUS[self.outcome]


def run(
    vm: LoadedMachine,
    *,
    accel: str = "auto",
    cpus: int = 1,
    disks: Sequence[Disk] | None = None,
    net: str = "none",
    timeout: float | None = None,
    extra: Sequence[str] = (),
    progress: Progress | None = None,
    console: tuple[int, int] = (0, 1),
    started: Callable[[Session], None] | None = None,
) -> RunResult:
    """Run ``vm`` until it ends, with its console on the two file descriptors ``console`` (input, output).

    ``disks``: None for those that bhyveload was given.  ``timeout``: seconds until the run is stopped.  ``extra``:
    further arguments for QEMU.  ``started`` gets the running Session, for signal handlers and the like.
    The VM's memory file is not changed; its disks are.

    Raises HandoffError: the VM cannot be handed over, QEMU is not installed or refuses; VmNotLoaded.
    """
    options = run_options(vm, accel=accel, cpus=cpus, disks=disks, net=net, extra=extra, progress=progress)
    session = Session(vm, options, console)
    try:
        if started is not None:
            started(session)
        return session.wait(timeout)
    finally:
        session.kill()


def run_options(
    vm: LoadedMachine,
    *,
    accel: str = "auto",
    cpus: int = 1,
    disks: Sequence[Disk] | None = None,
    net: str = "none",
    extra: Sequence[str] = (),
    progress: Progress | None = None,
) -> Options:
    """The options of ``run``, with what they leave open decided and compressed disks unpacked.

    Raises HandoffError, VmNotLoaded, and as disks.unpacked().
    """
    _, state = loaded(vm)
    if accel == "auto":
        from bhyveload.handoff.kvm_probe import kvm_runs_kernels

        accel = "kvm" if kvm_runs_kernels() else "tcg"
    given = disks_of(state) if disks is None else disks
    return Options([unpacked(disk, progress) for disk in given], accel, cpus, net, extra)


def stub_file(vm: LoadedMachine) -> int:
    """A file descriptor of an unnamed file that holds the stub's ELF image.  Raises HandoffError, VmNotLoaded."""
    stub = build_stub(*loaded(vm))
    fd = os.memfd_create("bhyverun stub", os.MFD_CLOEXEC)
    try:
        write_stub_elf(fd, stub)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Session:
    """A running QEMU.  ``wait`` for its end; ``power_button`` and ``stop`` may be called from a signal handler."""

    def __init__(self, vm: LoadedMachine, options: Options, console: tuple[int, int]) -> None:
        """Start QEMU, paused.  Raises HandoffError."""
        self._outcome = ""
        self._ended_by_us = False
        self._triple_fault = False
        self._messages = b""
        self._log_tail = b""
        self._halted_at: list[tuple[str, ...]] | None = None
        self._begin = time.monotonic()
        stub = stub_file(vm)
        ours, theirs = socket.socketpair()
        log_read, log_write = os.pipe()
        error_read, error_write = os.pipe()
        command = qemu_command(vm, f"/proc/self/fd/{stub}", options)
        command += ["-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control", "-S"]
        command += ["-d", "cpu_reset", "-D", f"/proc/self/fd/{log_write}"]
        self._qmp = Qmp(ours)
        self._log, self._errors = log_read, error_read
        try:
            self._process = subprocess.Popen(
                command,
                stdin=console[0],
                stdout=console[1],
                stderr=error_write,
                pass_fds=(stub, theirs.fileno(), log_write),
                preexec_fn=_end_with_parent(),  # noqa: PLW1509 - it calls two functions that were looked up before
            )
        except OSError as error:
            for fd in (log_read, error_read):
                os.close(fd)
            ours.close()
            if error.errno == 2:
                raise HandoffError(f"{PROGRAM} is not installed", "apt install qemu-system-x86") from None
            raise HandoffError(f"{PROGRAM}: {error.strerror}") from None
        finally:
            for fd in (stub, log_write, error_write):
                os.close(fd)
            theirs.close()

    def wait(self, timeout: float | None = None) -> RunResult:
        """Until the guest ends.  Raises HandoffError when QEMU itself fails."""
        deadline = None if timeout is None else self._begin + timeout
        next_poll = self._begin + _HALT_POLL
        poller = select.poll()
        for fd in (self._qmp.socket.fileno(), self._log, self._errors):
            poller.register(fd, select.POLLIN)
        open_ends = 3
        while open_ends:
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                self._outcome = self._outcome or TIMED_OUT
                self.kill()
                deadline = None
            if now >= next_poll:
                next_poll = now + _HALT_POLL
                self._qmp.send("human-monitor-command", **{"command-line": "info registers -a"})
            until = next_poll if deadline is None else min(next_poll, deadline)
            for fd, _ in poller.poll(max(0.0, until - now) * 1000 + 1):
                if not self._read(fd):
                    poller.unregister(fd)
                    open_ends -= 1
        return self._result()

    def _read(self, fd: int) -> bool:
        """Take what has arrived on ``fd``; False at its end."""
        if fd == self._qmp.socket.fileno():
            for message in self._qmp.receive():
                self._message(message)
            return not self._qmp.closed
        data = os.read(fd, 1 << 16)
        if fd == self._errors:
            self._messages = (self._messages + data)[:_MESSAGES_MAX]
        else:
            self._log_tail = self._log_tail[-16:] + data
            self._triple_fault = self._triple_fault or b"Triple fault" in self._log_tail
        return bool(data)

    def _message(self, message: dict[str, Any]) -> None:
        if "QMP" in message:
            self._qmp.send("qmp_capabilities")
            self._qmp.send("cont")
        elif message.get("event") == "SHUTDOWN":
            data = message.get("data")
            reason = data.get("reason") if isinstance(data, dict) else None
            self._outcome = self._outcome or _REASONS.get(str(reason), STOPPED)
        elif message.get("id") == "human-monitor-command":
            self._look_for_halt(message.get("return"))

    def _look_for_halt(self, registers: object) -> None:
        """A machine is halted for good when every processor waits with interrupts off, twice at the same place."""
        processors = _PROCESSOR.findall(registers) if isinstance(registers, str) else []
        halted = bool(processors) and all(
            (int(ip, 16), int(cs, 16)) == _RESET_VECTOR or (hlt == "1" and not int(flags, 16) & _INTERRUPTS_ON)
            for ip, flags, hlt, cs in processors
        )
        if halted and processors == self._halted_at:
            self._outcome = self._outcome or HALTED
            self._qmp.send("quit")
        self._halted_at = processors if halted else None

    def power_button(self) -> None:
        """Ask the guest to power off (ACPI), as SIGTERM asks bhyve(8)."""
        self._qmp.send("system_powerdown")

    def stop(self) -> None:
        """Pull the plug."""
        self._outcome = self._outcome or STOPPED
        self._terminate()

    def _terminate(self) -> None:
        self._ended_by_us = True
        self._process.terminate()

    def kill(self) -> None:
        """Make sure that no QEMU is left."""
        if self._process.poll() is None:
            self._terminate()
            try:
                self._process.wait(_END_LIMIT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _result(self) -> RunResult:
        try:
            status = self._process.wait(_END_LIMIT)
        except subprocess.TimeoutExpired:
            self.kill()
            status = 0
        seconds = time.monotonic() - self._begin
        for fd in (self._log, self._errors):
            os.close(fd)
        self._qmp.socket.close()
        messages = self._messages.decode("utf-8", "replace")
        if self._ended_by_us:
            messages = "".join(line for line in messages.splitlines(True) if "terminating on signal" not in line)
        if not self._outcome:
            if status:
                raise HandoffError(_failure(status, messages))
            self._outcome = STOPPED
        if self._outcome == REBOOTED and self._triple_fault:
            self._outcome = TRIPLE_FAULT
        return RunResult(self._outcome, seconds, messages)


def _failure(status: int, messages: str) -> str:
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    reason = lines[-1] if lines else f"ended with status {status}"
    if len(lines) > 1 and reason.partition(": ")[2].startswith("Is another process using"):
        reason = lines[-2]  # that was only a hint at the end
    reason = "".join(char if char.isprintable() else "?" for char in reason)
    return reason if reason.startswith(PROGRAM) else f"{PROGRAM}: {reason}"


def _end_with_parent() -> Callable[[], None]:
    """For the child before it becomes QEMU: end when bhyverun is killed.  Looked up now, a fork must not import."""
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return in_child
