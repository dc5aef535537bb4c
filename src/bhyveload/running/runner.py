"""One run of a guest from its start to its end, and all around it: terminal, consoles, signals, control socket."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from bhyveload.absolute_path import absolute_path
from bhyveload.handoff.console import Escape
from bhyveload.running.background import tell_service_manager
from bhyveload.running.consoles import STDIO, open_console, open_log
from bhyveload.running.control import ControlSocket
from bhyveload.running.signals import Signals
from bhyveload.running.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from bhyveload.handoff.backend import RunResult, Session
    from bhyveload.handoff.disks import Disk
    from bhyveload.handoff.machine import LoadedMachine
    from bhyveload.handoff.qemu.command import QemuOptions
    from bhyveload.running.eyes import Eyes
    from bhyveload.saved.saving import Keeper

_CTRL = 0x1F


class Choices:
    """How a run is attended.  ``console``: as consoles.py has it; ``log``: a file, or ""; ``escape``: the key in front
    of commands for the run, b"" for none; ``timeout`` in seconds; ``running`` is called once the guest runs; ``work``
    is done in the guest before its end is waited for; ``eyes`` are on its console; ``keeper`` saves it."""

    __slots__ = ("console", "escape", "eyes", "keeper", "log", "running", "timeout", "work")

    def __init__(
        self,
        console: str = STDIO,
        log: str = "",
        escape: bytes = b"\1",
        timeout: float | None = None,
        running: Callable[[], None] | None = None,
        work: Callable[[Session], None] | None = None,
        eyes: Eyes | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self.console = console
        self.log = log
        self.escape = escape
        self.timeout = timeout
        self.running = running
        self.work = work
        self.eyes = eyes
        self.keeper = keeper


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
    from bhyveload.saved.afterwards import Afterwards

    terminal = Terminal()
    with contextlib.ExitStack() as closing:
        closing.enter_context(terminal)
        signals = closing.enter_context(Signals(terminal.resume))
        options = prepare()
        session = closing.enter_context(contextlib.closing(Qemu().start(vm, options)))
        for lack in session.lacks:
            tell(f"sandbox: {lack}")
        place = STDIO
        if choices.console == STDIO:
            terminal.attach(session, escape_of(session, choices.escape))
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
        save = Afterwards(vm, options, session, tell).save if keeper is None else keeper.save_to
        closing.enter_context(ControlSocket(session, vm.path, facts, save))
        if choices.eyes is not None:
            choices.eyes.look_at(session)
        session.on_running(choices.running)
        session.on_running(tell_service_manager)
        signals.attach(session)
        if choices.work is not None:
            choices.work(session)
        result = session.wait(choices.timeout)
        if choices.eyes is not None:
            result.outcome = choices.eyes.outcome_of(result.outcome)
    return Ended(result, signals.interrupted, signals.ended)


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


def key_name(key: bytes) -> str:
    return f"Ctrl-{chr(key[0] | 0x40)}" if key[0] < 0x20 else key.decode("ascii", "replace")


def parse_key(text: str) -> bytes:
    """The key that ``text`` names: a character, ``^A``, ``Ctrl-A``.  b"" for "none", and for what is no key."""
    if text == "none":
        return b""
    for prefix in ("^", "Ctrl-", "ctrl-", "C-"):
        if text.startswith(prefix) and len(text) == len(prefix) + 1 and "@" <= text[-1].upper() <= "_":
            return bytes([ord(text[-1].upper()) & _CTRL])
    return text.encode("ascii") if len(text) == 1 and text.isascii() and text.isprintable() else b""
