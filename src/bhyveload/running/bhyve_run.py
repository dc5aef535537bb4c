"""One run of one of bhyve's guests, and all around it: terminal, signals, title, control socket."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from bhyveload.absolute_path import absolute_path
from bhyveload.bhyve.devices import Stdio, TerminalPort
from bhyveload.handoff.outcome import HALTED, REBOOTED, TIMED_OUT, TRIPLE_FAULT
from bhyveload.handoff.qemu.guest.machine import backings_of, on_the_terminal
from bhyveload.handoff.qemu.session import Qemu
from bhyveload.host.nmdm import is_nmdm, other_end
from bhyveload.running.background import tell_service_manager
from bhyveload.running.bhyve_signals import BhyveSignals
from bhyveload.running.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bhyveload.bhyve.devices import Backend
    from bhyveload.bhyve.guest import BhyveGuest
    from bhyveload.handoff.outcome import RunResult
    from bhyveload.handoff.qemu.command import QemuOptions
    from bhyveload.vm.store import VirtualMachine

_SUSPICIOUS_SECONDS = 1.0
# What QEMU says of guests that are as the user wants them
_NOTHING_WRONG = (
    "char device redirected to",
    "has no peer",
    "doesn't support hyperthreading",
    "Please configure -smp options properly",
)


class BhyveEnd(NamedTuple):
    """``result`` of the run; ``fatal``: the signal that ended it and should end the program, or 0."""

    result: RunResult
    fatal: int


def run_bhyve_guest(
    vm: VirtualMachine,
    guest: BhyveGuest,
    options: QemuOptions,
    *,
    timeout: float | None = None,
    accelerator: str = "",
    tell: Callable[[str], None],
) -> BhyveEnd:
    """Run ``vm`` as ``guest`` with its ``options``; ``accelerator`` is a sentence about it for ``tell``.

    Raises BhyveError, HandoffError, HostError.
    """
    terminal = Terminal()
    with contextlib.ExitStack() as stack:
        stack.enter_context(terminal)
        signals = stack.enter_context(BhyveSignals(terminal.resume))
        session = stack.enter_context(contextlib.closing(Qemu().start(vm, options)))
        # QEMU takes longer for its own start than this for its imports
        from bhyveload.running.control import ControlSocket
        from bhyveload.running.title import set_title

        for words in (accelerator, *(f"sandbox: {lack}" for lack in session.lacks), *_other_ends(guest)):
            if words:
                tell(words)
        if on_the_terminal(guest):
            terminal.attach(session, None, tell)
        stack.enter_context(ControlSocket(session, vm.path, _facts(guest), _refuse_to_save, _elsewhere(guest)))
        session.on_ready(tell_service_manager)
        set_title("bhyve", f"bhyve: {vm.name}")
        signals.attach(session)
        result = session.wait(timeout)
    if not signals.fatal:
        _tell_the_end(vm.name, options.accel, result, tell)
    return BhyveEnd(result, signals.fatal)


def _refuse_to_save(_folder: str, answer: Callable[[str], None], _step: object) -> None:
    """Its devices have files, terminals and ports of the host that a second QEMU cannot have as well."""
    answer("a guest that bhyve runs cannot be saved: run it with bhyverun")


def _facts(guest: BhyveGuest) -> dict[str, object]:
    """What bhyvectl tells of the run."""
    disks = [
        {"path": absolute_path(backing.path), "read_only": backing.read_only, "keeps": True}
        for backing in backings_of(guest)
    ]
    console = _place(guest.serial_ports[0].backend) if guest.serial_ports else "none"
    cpus, sockets, cores, threads = guest.topology
    return {"disks": disks, "console": console, "cpus": cpus, "topology": [sockets, cores, threads]}


def _place(backend: Backend | None) -> str:
    """As bhyverun's --console names it."""
    if backend is None:
        return "none"
    if isinstance(backend, Stdio):
        return "stdio"
    if isinstance(backend, TerminalPort):
        return backend.path
    return ":".join(("unix" if len(backend) == 1 else "tcp", *map(str, backend)))


def _elsewhere(guest: BhyveGuest) -> str:
    """Why bhyvectl --console does not reach the guest's first serial port; "": it does."""
    if not guest.serial_ports:
        return "the guest has no serial port: bhyve -s 31,lpc gives it some"
    backend = guest.serial_ports[0].backend
    if backend is None or on_the_terminal(guest):
        return ""
    place = _place(backend)
    if isinstance(backend, TerminalPort) and is_nmdm(backend.path):
        place += f", its other end {other_end(backend.path)}"
    return f"the guest's console is {place}"


def _other_ends(guest: BhyveGuest) -> Iterator[str]:
    """Where users find null modems that are not in /dev."""
    for port in guest.serial_ports:
        if isinstance(port.backend, TerminalPort) and is_nmdm(port.backend.path):
            end = other_end(port.backend.path)
            if os.path.dirname(end) != "/dev":
                yield f"com{port.number + 1}: the other end of {port.backend.path} is {end}"


def _tell_the_end(name: str, accel: str, result: RunResult, tell: Callable[[str], None]) -> None:
    for line in result.messages.splitlines():
        if not any(words in line for words in _NOTHING_WRONG):
            tell(line)
    if result.outcome in (HALTED, TRIPLE_FAULT, TIMED_OUT):
        tell(f"{name}: {result.outcome}")
    elif result.outcome == REBOOTED and accel == "kvm" and result.seconds < _SUSPICIOUS_SECONDS:
        tell(f"{name}: reset at once: perhaps a triple fault, which KVM does not tell from a reboot")
