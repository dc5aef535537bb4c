"""bhyverun --save and --restore: a guest that has booted, kept in a folder; clones of it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from bhyveload.cli.messages import warn
from bhyveload.errors import HandoffError, VmError
from bhyveload.running.eyes import compiled
from bhyveload.running.restoring import Restoration
from bhyveload.running.runner import Choices, Ended, run_guest
from bhyveload.running.saving import Keeper
from bhyveload.vm.store import VirtualMachine

if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.cli.bhyverun_options import Arguments
    from bhyveload.handoff.machine import LoadedMachine
    from bhyveload.handoff.qemu.command import QemuOptions


def run_saving(
    program: str, arguments: Arguments, choices: Choices, make_options: Callable[[VirtualMachine, Keeper], QemuOptions]
) -> tuple[Ended, bool]:
    """Run the VM that the command line names; how it ended, and whether it is saved.  Raises BhyveloadError."""

    def tell(text: str) -> None:
        warn(program, text)

    marker = compiled(arguments.save_at) if arguments.save_at else None
    with (
        VirtualMachine.open(arguments.name, require_loaded=True) as vm,
        Keeper(arguments.save, marker, tell) as keeper,
    ):
        machine = keeper.machine(vm)
        choices.keeper = keeper

        def prepare() -> QemuOptions:
            options = make_options(vm, keeper)
            keeper.prepare(machine, options)
            return options

        return run_guest(machine, prepare, choices, tell), keeper.saved


def clone(arguments: Arguments, closing: contextlib.ExitStack) -> tuple[LoadedMachine, Callable[[], QemuOptions]]:
    """The saved guest under the name that the command line gives; no VM stays.  Raises BhyveloadError."""
    restoration = Restoration(arguments.restore, closing)
    if arguments.accel not in ("auto", restoration.saved.accel):
        raise HandoffError(f"{arguments.restore}: was saved with --accel {restoration.saved.accel}")
    vm = closing.enter_context(VirtualMachine.create(arguments.name, restoration.saved.memory))
    if os.path.lexists(os.path.join(vm.path, "state.json")):
        raise VmError(f"VM '{arguments.name}' is loaded with something else", "give the clone a name of its own")
    return restoration.machine(vm), lambda: restoration.options(arguments.net, arguments.user, arguments.confined)
