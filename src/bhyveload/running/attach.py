"""bhyvectl --console: the user's terminal on a running guest's console."""

from __future__ import annotations

import os
import signal

from bhyveload.handoff.console import Escape, GuestConsole
from bhyveload.handoff.loop import Loop
from bhyveload.running.choices import key_name
from bhyveload.running.terminal import Terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.running.control import Runner


def attach(runner: Runner, key: bytes, tell: Callable[[str], None]) -> None:
    """Until the guest ends, or the user types ``key`` X.  Raises HostError: nobody answers."""
    runner.ask("console")
    loop = Loop()
    console = GuestConsole(loop, runner.socket)
    left = False

    def leave() -> None:
        nonlocal left
        left = True

    escape = Escape(key, {b"x": leave, b".": leave}) if key else None
    if os.isatty(0) and escape is not None:
        tell(f"connected; {key_name(key)} x leaves")
    terminal = Terminal()
    with terminal:
        signal.signal(signal.SIGCONT, lambda *_: terminal.resume())
        terminal.listen(console, escape)
        while not left and not console.ended:
            loop.turn(1.0)
        console.flush(lambda: False)
    if not left and os.isatty(0):
        tell("the guest has ended")
