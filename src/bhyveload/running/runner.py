"""One run of a guest from its start to its end, and all around it: terminal, consoles, signals, control socket."""

from __future__ import annotations

import contextlib

from bhyveload.absolute_path import absolute_path
from bhyveload.handoff.console import Escape
from bhyveload.running.background import tell_service_manager
from bhyveload.running.choices import STDIO, key_name
from bhyveload.running.signals import Signals
from bhyveload.running.terminal import Terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from bhyveload.handoff.backend import Session
    from bhyveload.handoff.disks import Disk
    from bhyveload.handoff.machine import LoadedMachine
    from bhyveload.handoff.outcome import RunResult
    from bhyveload.handoff.qemu.command import QemuOptions
    from bhyveload.handoff.qemu.session import QemuSession
    from bhyveload.running.choices import Choices
    from bhyveload.running.control import Save, Step
    from bhyveload.saved.afterwards import Afterwards


class Ended:
    """``result`` of the run; ``interrupted`` by SIGINT; ``by_signal``: by any signal."""

    __slots__ = ("by_signal", "interrupted", "result")

    def __init__(self, result: RunResult, interrupted: bool, by_signal: bool) -> None:
        self.result = result
        self.interrupted = interrupted
        self.by_signal = by_signal


def run_guest(
    vm: LoadedMachine, prepare: Callable[[], QemuOptions], choices: Choices, tell: Callable[[str], None]
) -> Ended:
    """Run ``vm`` under QEMU with the options that ``prepare`` makes; ``tell`` is for words to the user.

    Raises HandoffError, HostError, and what ``prepare`` raises.
    """
    from bhyveload.handoff.qemu.session import Qemu

    terminal = Terminal()
    with contextlib.ExitStack() as closing:
        closing.enter_context(terminal)
        signals = closing.enter_context(Signals(terminal.resume))
        options = prepare()
        session = closing.enter_context(contextlib.closing(Qemu().start(vm, options)))
        # QEMU takes longer for its own start than this for its imports
        from bhyveload.running.consoles import open_console, open_log
        from bhyveload.running.control import ControlSocket

        for lack in session.lacks:
            tell(f"sandbox: {lack}")
        place = STDIO
        if choices.console == STDIO:
            terminal.attach(session, escape_of(session, choices.escape), tell)
        else:
            place = open_console(choices.console, session, closing)
            if place not in (choices.console, "none"):
                tell(f"the console is {place}")
        if choices.log:
            open_log(choices.log, session, closing, tell)
        keeper = choices.keeper
        if keeper is not None:
            keeper.attend(session)
        facts = facts_of(options.disks, place, options.cpus)
        save = _saver(vm, options, session, tell) if keeper is None else keeper.save_to
        closing.enter_context(ControlSocket(session, vm.path, facts, save))
        if choices.eyes is not None:
            choices.eyes.look_at(session)
        session.on_ready(choices.running)
        session.on_ready(tell_service_manager)
        signals.attach(session)
        if choices.work is not None:
            choices.work(session)
        result = session.wait(choices.timeout)
        if choices.eyes is not None:
            result.outcome = choices.eyes.outcome_of(result.outcome)
    return Ended(result, signals.interrupted, signals.ended)


def _saver(vm: LoadedMachine, options: QemuOptions, session: QemuSession, tell: Callable[[str], None]) -> Save:
    """What saves a guest that was not started for it; imported for the first who asks."""
    made: list[Afterwards] = []

    def save(folder: str, answer: Callable[[str], None], step: Step) -> None:
        if not made:
            from bhyveload.saved.afterwards import Afterwards

            made.append(Afterwards(vm, options, session, tell))
        made[0].save(folder, answer, step)

    return save


def facts_of(disks: Sequence[Disk], console: str, cpus: int) -> dict[str, Any]:
    """What the control socket tells of a run."""
    listed = [
        {"path": absolute_path(disk.name), "read_only": disk.read_only, "keeps": not disk.snapshot} for disk in disks
    ]
    return {"disks": listed, "console": console, "cpus": cpus}


def escape_of(session: Session, key: bytes) -> Escape | None:
    """Commands for the run behind ``key``: X ends it, P is the power button, H tells what there is."""
    if not key:
        return None
    name = key_name(key)

    def tell() -> None:
        lines = (f"{name} h  this text", f"{name} p  power button", f"{name} x  end the run", f"{name} {name}  the key")
        session.console.say("".join(f"\r\n{line}" for line in lines).encode() + b"\r\n")

    return Escape(key, {b"x": session.stop, b"p": session.power_button, b"h": tell, b"?": tell})
