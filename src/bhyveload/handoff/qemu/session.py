"""Run a loaded VM under QEMU and learn how it ended.

    stub (memfd) --> qemu --> guest
                       |-- QMP on a socket pair: why it stopped, "is every processor halted?"
                       |-- the guest's console on another (console.py)
                       |-- its log on a pipe: "Triple fault"
                       `-- its complaints on a pipe

The outcomes and exit statuses are bhyve(8)'s.  QEMU is told to start paused and is released over QMP, so that no event
can come before somebody listens.  It runs in a box (box.py) and has every file as a descriptor (files.py).
"""

from __future__ import annotations

import os
import time
from _socket import socketpair
from contextlib import ExitStack

from bhyveload.errors import HandoffError
from bhyveload.handoff.console import GuestConsole
from bhyveload.handoff.loop import Loop
from bhyveload.handoff.machine import loaded
from bhyveload.handoff.outcome import HALTED, POWERED_OFF, REBOOTED, STOPPED, TIMED_OUT, TRIPLE_FAULT, RunResult
from bhyveload.handoff.pvh.stub_file import stub_file
from bhyveload.handoff.qemu.box import Box
from bhyveload.handoff.qemu.command import PROGRAM, QemuOptions, flags_of, qemu_command
from bhyveload.handoff.qemu.files import RunFiles, lent
from bhyveload.handoff.qemu.migration import Restoring, Saving, incoming
from bhyveload.handoff.qemu.monitor import POWER_BUTTON, REGISTERS, button_heard
from bhyveload.handoff.qemu.process import Process
from bhyveload.handoff.qemu.qmp import Qmp, version_of
from bhyveload.printable import mask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket
    from collections.abc import Callable
    from typing import Any

    from bhyveload.handoff.disks import Disk
    from bhyveload.handoff.machine import LoadedMachine

_REASONS = {
    "guest-reset": REBOOTED,
    "host-qmp-system-reset": REBOOTED,
    "guest-shutdown": POWERED_OFF,
    "guest-panic": HALTED,
}
_FAILED = "host-signal"  # somebody ended QEMU
_HALT_POLL = 0.5  # seconds
_END_LIMIT = 5.0
_ATTEMPTS = 10_000  # of a fraction of a millisecond each
_MESSAGES_MAX = 1 << 16
_FAILURES_MAX = 16
_HAPPENED = {"VNC_CONNECTED": "query-vnc", "RESUME": "query-status"}  # an event, and who tells whether it has been
_DUMP = "dump-guest-memory"
_OF_A_SIGNAL = "terminating on signal"  # no news where it was ours


class Qemu:
    """The back end (backend.py)."""

    def start(self, vm: LoadedMachine, options: QemuOptions) -> QemuSession:
        return QemuSession(vm, options)

    def command(self, vm: LoadedMachine, options: QemuOptions, kernel: str, *, whole_image: bool = False) -> list[str]:
        return qemu_command(vm, kernel, options, whole_image=whole_image)


class QemuSession:
    """A running QEMU: backend.py's Session."""

    def __init__(self, vm: LoadedMachine, options: QemuOptions) -> None:
        """Start QEMU, paused.  Raises HandoffError."""
        self._outcome = ""
        self._ended_by_us = False
        self._failed = False
        self._triple_fault = False
        self._messages = b""
        self._failures: dict[str, None] = {}  # lines about disks, each once
        self._disks = {f"disk{number}": _written_at(disk) for number, disk in enumerate(options.disks)}
        self._log_tail = b""
        self._halted_at: list[tuple[str, ...]] | None = None
        self._confined = options.confined
        self._hold, self._pins = options.hold, options.pins
        self._incoming, self._wanted, self._whole = "", options.version, options.whole
        self._move: Saving | Restoring | None = None
        self.version = ""  # QEMU's, once it has said so
        self._running = False
        self._attempts = 0
        self._when_running: list[Callable[[], None]] = []
        self._when_ready: list[Callable[[], None]] = []
        self._unheard: list[Callable[[], None]] = []  # of pressed power buttons that are being asked for
        self._dumped: Callable[[str], None] | None = None
        self._begin = time.monotonic()
        self._next_poll = self._begin + _HALT_POLL
        self.loop = Loop()
        with ExitStack() as ours, ExitStack() as theirs:
            try:
                self._start(vm, options, ours, theirs)
            except OSError as error:
                from bhyveload.handoff.qemu.failures import cannot_start

                raise cannot_start(error) from None
            self._kept = ours.pop_all()

    def _start(self, vm: LoadedMachine, options: QemuOptions, ours: ExitStack, theirs: ExitStack) -> None:
        """``ours``: what is open during the run; ``theirs``: what QEMU has once it runs."""
        memory, state = loaded(vm)
        flags = flags_of(state)
        box = Box(
            PROGRAM,
            user=options.user,
            kvm=options.accel == "kvm",
            network=options.open_network,
            resolver=options.open_network,
            core=bool(flags.get("incore")),
            memory_lock=bool(flags.get("wired")),
            folders=options.folders,
            confined=options.confined,
        )
        self.lacks = box.missing
        files = RunFiles(theirs, ours)
        self._names = files.names
        self.temporaries = files.temporaries  # what the guest writes to the disks that keep nothing, in their order
        stub = files.keep(os.dup(options.kernel) if options.kernel >= 0 else stub_file(vm))
        files.given.append(memory.fd)
        qmp, guest_end = _socket_pair(ours, theirs, files), _socket_pair(ours, theirs, files)
        self._log, log_write = _pipe(ours, theirs)
        self._errors, error_write = _pipe(ours, theirs)
        files.given.append(log_write)
        command = qemu_command(
            vm,
            f"/proc/self/fd/{stub}",
            options,
            files,
            memory_path=f"/proc/self/fd/{memory.fd}",
            console=["-chardev", f"socket,id=console,fd={guest_end[1]}"],
        )
        command += ["-chardev", f"socket,id=qmp,fd={qmp[1]}", "-qmp", "chardev:qmp", "-S"]
        if options.incoming >= 0:
            self._incoming = incoming(options.version, options.incoming, files)
            command += ["-incoming", "defer"]
        command[1:1] = files.arguments + box.arguments()
        self._command = command
        command += ["-d", "cpu_reset", "-D", f"/proc/self/fd/{log_write}"]
        self._qmp = Qmp(qmp[0])
        self.console = GuestConsole(self.loop, guest_end[0])
        enter, prepared = box.entry([memory.fd, stub, log_write], files.given)
        for fd in prepared:
            theirs.callback(os.close, fd)
        self._lent = ours.enter_context(ExitStack())
        self._lent.enter_context(lent(memory.fd, box.identity, options.incoming < 0))
        if box.identity is not None:
            os.fchown(log_write, *box.identity)
        # in a group of its own: what ends ours (timeout(1), a shell's kill) presses the guest's power button, no more
        self._process = Process(box.program, command, error_write, enter)
        ours.callback(self._end_process)
        self.loop.watch(qmp[0].fileno(), self._hear_qmp)
        self.loop.watch(self._log, self._hear_log)
        self.loop.watch(self._errors, self._hear_errors)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, timeout: float | None = None) -> RunResult:
        """Until the guest ends.  Raises HandoffError when QEMU itself fails."""
        deadline = None if timeout is None else self._begin + timeout
        while not self.over:
            left = _HALT_POLL if deadline is None else deadline - time.monotonic()
            if left <= 0:
                self._outcome = self._outcome or TIMED_OUT
                self._end_process()
                deadline = None
            self.turn(left)
        return self._result()

    @property
    def over(self) -> bool:
        return not any(self.loop.watches(fd) for fd in (self._qmp.socket.fileno(), self._log, self._errors))

    def turn(self, seconds: float) -> None:
        now = time.monotonic()
        if now >= self._next_poll:
            self._next_poll = now + _HALT_POLL
            if self._running:
                self._monitor(REGISTERS)
            elif isinstance(self._move, Saving):
                self._move.ask()
        self.loop.turn(min(seconds, self._next_poll - now))

    def on_running(self, call: Callable[[], None] | None) -> None:
        """Have ``call`` called once the guest runs.  Before ``wait``."""
        if call is not None:
            self._when_running.append(call)

    def on_ready(self, call: Callable[[], None] | None) -> None:
        if call is not None:
            self._when_ready.append(call)

    def _is_ready(self) -> None:
        calls, self._when_ready = self._when_ready, []
        for call in calls:
            call()

    def _hear_qmp(self) -> None:
        for message in self._qmp.receive():
            self._message(message)
        if self._qmp.closed:
            self.loop.forget(self._qmp.socket.fileno())

    def _hear_log(self) -> None:
        data = os.read(self._log, 1 << 16)
        self._log_tail = self._log_tail[-16:] + data
        self._triple_fault = self._triple_fault or b"Triple fault" in self._log_tail
        if not data:
            self.loop.forget(self._log)

    def _hear_errors(self) -> None:
        data = os.read(self._errors, 1 << 16)
        self._messages = (self._messages + data)[:_MESSAGES_MAX]
        if not data:
            self.loop.forget(self._errors)

    def _message(self, message: dict[str, Any]) -> None:
        event = message.get("event")
        if self._move is not None:
            self._move.hear(message)
        if "QMP" in message:
            self._lent.close()  # QEMU has opened it
            self.version = version_of(message)
            self._qmp.send("qmp_capabilities")
            if self._incoming:
                if self.version != self._wanted:
                    raise HandoffError(f"saved by QEMU {self._wanted}, this is {self.version}", "save the guest again")
                self._move = Restoring(self._qmp, self._incoming, self._ready, whole=self._whole)
            elif self._pins:
                self._qmp.send("query-cpus-fast")
            else:
                self._ready()
        elif message.get("id") == "cont" and "error" in message:
            if self._attempts:  # "Migration is not finalized yet": the word that it is done comes a little before
                self._attempts -= 1
                self._qmp.send("cont")
        elif message.get("id") == "cont":
            self._is_ready()
            for call in self._when_running:
                call()
            self._when_running.clear()
        elif message.get("id") == "query-cpus-fast":
            self._pin(message.get("return"))
            self._ready()
        elif message.get("id") in _HAPPENED.values():
            answer = message.get("return")
            if self._hold and isinstance(answer, dict) and (answer.get("clients") or answer.get("running")):
                self._go()
        elif event is not None and event == self._hold:
            self._go()
        elif event == "SHUTDOWN":
            data = message.get("data")
            reason = str(data.get("reason")) if isinstance(data, dict) else ""
            self._failed = reason == _FAILED and not self._ended_by_us
            self._outcome = self._outcome or _REASONS.get(reason, STOPPED)
        elif event == "BLOCK_IO_ERROR":
            self._disk_fails(message.get("data"))
        elif message.get("id") == _DUMP:
            error = message.get("error")
            told, self._dumped = self._dumped, None
            if told is not None:
                told(str(error.get("desc"))[:200] if isinstance(error, dict) else "")
        elif message.get("id") == "human-monitor-command":
            self._monitor_says(message.get("return"))

    def _disk_fails(self, told: object) -> None:
        """What the guest was told is an error, and why: for the end of the run."""
        if isinstance(told, dict) and len(self._failures) < _FAILURES_MAX:
            node = str(told.get("node-name") or told.get("device"))
            place = self._disks.get(node)
            if place is None:
                from bhyveload.handoff.qemu.failures import files_of_nodes

                place = files_of_nodes(self._command, self._names).get(node, node)
            self._failures.setdefault(f"{place}: a {told.get('operation')} failed: {told.get('reason')}")

    def _ready(self) -> None:
        """Start the guest, or wait for what it has to wait for; that may have happened before events could reach us."""
        if not self._hold:
            self._go()
            return
        self._is_ready()
        if self._hold in _HAPPENED:
            self._qmp.send(_HAPPENED[self._hold])

    def save(
        self, fd: int, done: Callable[[str], None], whole: bool = False, step: Callable[[int, int], None] | None = None
    ) -> None:
        """Stop the guest and write its devices to ``fd``; its memory is to be ``shared``, or goes there, too
        (``whole``).  ``done`` is called with "", or with a reason why not: then it runs on; ``step`` with bytes."""

        def over(reason: str) -> None:
            self._running = bool(reason)
            done(reason)

        if not (self._running or self.restored):
            done("it does not run")
            return
        self._running = False
        try:
            self._move = Saving(self._qmp, fd, over, whole, step, self.version)
        except OSError as error:
            over(error.strerror or str(error))

    @property
    def restored(self) -> bool:
        """Whether it has read what it was given (``incoming``)."""
        return isinstance(self._move, Restoring) and self._move.over

    def resume(self) -> None:
        """Let a guest that has been saved run on."""
        self._attempts = _ATTEMPTS
        self._go()

    def _go(self) -> None:
        self._hold = ""
        self._running = True
        self._qmp.send("cont")

    def _pin(self, processors: object) -> None:
        """Let each virtual processor run where the user wants it.  Raises HandoffError."""
        for entry in processors if isinstance(processors, list) else []:
            number, thread = (
                (entry.get("cpu-index"), entry.get("thread-id")) if isinstance(entry, dict) else (None, None)
            )
            if not (isinstance(number, int) and isinstance(thread, int) and number in self._pins):
                continue
            if not os.path.exists(f"/proc/{self.pid}/task/{thread}"):
                continue  # not a thread of its own: somebody else speaks there
            try:
                os.sched_setaffinity(thread, self._pins[number])
            except OSError as error:
                where = ",".join(map(str, sorted(self._pins[number])))
                raise HandoffError(f"vcpu {number} cannot run on hostcpu {where}: {error.strerror}") from None

    def _monitor(self, command: str) -> None:
        self._qmp.send("human-monitor-command", **{"command-line": command})

    def _monitor_says(self, answer: object) -> None:
        heard = button_heard(answer)
        if heard is None:
            self._look_for_halt(answer)
            return
        for unheard in self._unheard:
            if heard:
                self._qmp.send("system_powerdown")
            else:
                unheard()
        self._unheard.clear()

    def _look_for_halt(self, registers: object) -> None:
        """A machine is halted for good when every processor waits with interrupts off, twice at the same place."""
        from bhyveload.handoff.qemu.processors import halted_at

        places = halted_at(registers)
        if places is not None and places == self._halted_at:
            self._outcome = self._outcome or HALTED
            self._qmp.send("quit")
        self._halted_at = places

    def power_button(self, unheard: Callable[[], None] | None = None) -> None:
        if unheard is None:
            self._qmp.send("system_powerdown")
            return
        if not self._running:  # nobody there yet; nor does QEMU answer before it has been greeted
            unheard()
            return
        self._unheard.append(unheard)
        self._monitor(POWER_BUTTON)

    def dump(self, fd: int, told: Callable[[str], None]) -> bool:
        if self._dumped is not None or not self._running:
            return False
        self._dumped = told
        self._qmp.send_descriptor(fd, "getfd", fdname=_DUMP)
        self._qmp.send(_DUMP, paging=False, protocol=f"fd:{_DUMP}")
        return True

    def reset(self) -> None:
        self._qmp.send("system_reset")

    def inject_nmi(self) -> None:
        self._qmp.send("inject-nmi")

    def power_off(self) -> None:
        self.stop(POWERED_OFF)

    def stop(self, outcome: str = STOPPED) -> None:
        self._outcome = self._outcome or outcome
        self._terminate()

    def _terminate(self) -> None:
        self._ended_by_us = True
        self._process.terminate()

    def _end_process(self) -> None:
        if self._process.poll() is None:
            self._terminate()
            if self._process.wait(_END_LIMIT) is None:
                self._process.kill()
                self._process.wait()

    def close(self) -> None:
        self._kept.close()

    def _result(self) -> RunResult:
        status = self._process.wait(_END_LIMIT)
        if status is None:
            self._end_process()
            status = 0
        seconds = time.monotonic() - self._begin
        patience = time.monotonic() + _END_LIMIT
        while not self.console.ended and time.monotonic() < patience:
            self.loop.turn(patience - time.monotonic())
        # what was said is given to slow listeners however long they take, but for a user who wants the end
        patience = time.monotonic() + _END_LIMIT
        self.console.flush(lambda: self._ended_by_us and time.monotonic() > patience)
        lines = self._messages.decode("utf-8", "replace").splitlines(keepends=True)
        messages = "".join(line for line in lines if not (self._ended_by_us and _OF_A_SIGNAL in line))
        failures = "".join(mask(line) + "\n" for line in self._failures)
        if not self._outcome or self._failed:
            if status or self._failed:
                from bhyveload.handoff.qemu.failures import failure

                raise failure(status, messages, self._names, self._confined)
            self._outcome = STOPPED
        if self._outcome == REBOOTED and self._triple_fault:
            self._outcome = TRIPLE_FAULT
        return RunResult(self._outcome, seconds, failures + messages)


def _written_at(disk: Disk) -> str:
    """Where what the guest writes to ``disk`` is, for its user."""
    return disk.overlay or (
        f"{disk.name} (what is written to it is in a temporary file)" if disk.snapshot else disk.name
    )


def _socket_pair(ours: ExitStack, theirs: ExitStack, files: RunFiles) -> tuple[Socket, int]:
    mine, other = socketpair()
    ours.callback(mine.close)
    theirs.callback(other.close)
    files.given.append(other.fileno())
    return mine, other.fileno()


def _pipe(ours: ExitStack, theirs: ExitStack) -> tuple[int, int]:
    read, write = os.pipe()
    ours.callback(os.close, read)
    theirs.callback(os.close, write)
    return read, write
