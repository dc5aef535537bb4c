"""bhyverun --save and --restore: a guest that has booted, kept in a folder; clones of it."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from bhyveload.cli.messages import warn
from bhyveload.errors import GuestEnded, GuestError, HandoffError, VmError
from bhyveload.guest import typed
from bhyveload.guest.exchange import COPY_LIMIT, Exchange
from bhyveload.guest.session import Guest
from bhyveload.handoff.qemu.overlay import scratch_file
from bhyveload.running.choices import Choices
from bhyveload.running.eyes import compiled
from bhyveload.running.runner import Ended, run_guest
from bhyveload.saved.restoring import Restoration
from bhyveload.saved.saving import Keeper
from bhyveload.vm.store import VirtualMachine
from bhyveload.work import disk_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.cli.bhyverun_options import Arguments
    from bhyveload.handoff.backend import Session
    from bhyveload.handoff.disks import Disk
    from bhyveload.handoff.machine import LoadedMachine
    from bhyveload.handoff.qemu.command import QemuOptions

    MakeOptions = Callable[[VirtualMachine, Keeper, list[Disk]], QemuOptions]


class Opened(NamedTuple):
    """What is to run.  ``exchange``: the disk for folders; ``shell``: one of guest/session.py's waits; ``keeper`` saves
    the guest."""

    machine: LoadedMachine
    prepare: Callable[[], QemuOptions]
    exchange: Exchange | None = None
    shell: bool = False
    keeper: Keeper | None = None


def saving(
    program: str,
    arguments: Arguments,
    vm: VirtualMachine,
    make_options: MakeOptions,
    closing: contextlib.ExitStack,
) -> Opened:
    """``vm`` in a way that can be saved, with a disk for folders: clones may want it.  Raises BhyveloadError."""
    marker = compiled(arguments.save_at) if arguments.save_at else None
    keeper = closing.enter_context(Keeper(arguments.save, marker, lambda text: warn(program, text)))
    exchange = closing.enter_context(Exchange(scratch_file(), arguments.copy_limit or COPY_LIMIT))
    machine = keeper.machine(vm)

    def prepare() -> QemuOptions:
        options = make_options(vm, keeper, [disk_for(exchange)])
        keeper.prepare(machine, options, exchange.limit)
        return options

    return Opened(machine, prepare, exchange, keeper=keeper)


def run_saving(program: str, arguments: Arguments, choices: Choices, make_options: MakeOptions) -> tuple[Ended, bool]:
    """Run the VM that the command line names; how it ended, and whether it is saved.  Raises BhyveloadError."""
    with contextlib.ExitStack() as closing:
        vm = closing.enter_context(VirtualMachine.open(arguments.name, require_loaded=True))
        opened = saving(program, arguments, vm, make_options, closing)
        choices.keeper = opened.keeper
        ended = run_guest(opened.machine, opened.prepare, choices, lambda text: warn(program, text))
        return ended, opened.keeper is not None and opened.keeper.saved


def clone(arguments: Arguments, closing: contextlib.ExitStack) -> Opened:
    """The saved guest under the name that the command line gives; no VM stays.  Raises BhyveloadError."""
    restoration = Restoration(arguments.restore, closing)
    saved = restoration.saved
    if arguments.accel not in ("auto", saved.accel):
        raise HandoffError(f"{arguments.restore}: was saved with --accel {saved.accel}")
    vm = closing.enter_context(VirtualMachine.create(arguments.name, saved.memory))
    if os.path.lexists(os.path.join(vm.path, "state.json")):
        raise VmError(f"VM '{arguments.name}' is loaded with something else", "give the clone a name of its own")
    exchange = closing.enter_context(Exchange(scratch_file(), saved.exchange)) if saved.exchange else None
    disk = disk_for(exchange) if exchange is not None else None

    def prepare() -> QemuOptions:
        return restoration.options(arguments.net, arguments.user, arguments.confined, disk, arguments.overlays)

    return Opened(restoration.machine(vm.name, vm.path), prepare, exchange, saved.shell)


def wake(guest: Guest, arguments: Arguments, timeout: float | None) -> None:
    """Run what --on-restore says in a clone, which takes itself for the saved guest.  Raises GuestError and below."""
    if not arguments.on_restore:
        return
    facts = {"NAME": arguments.name, "MAC": own_address(arguments.name), "TIME": str(int(time.time()))}
    words = [b"BHYVE_%s=%s" % (name.encode(), typed.quoted(os.fsencode(value))) for name, value in facts.items()]
    done = guest.run(b"export " + b" ".join(words) + b"; " + os.fsencode(arguments.on_restore), timeout=timeout)
    if done.status:
        said = done.text.strip().splitlines()
        raise GuestError(f"--on-restore: exit status {done.status}" + (f": {said[-1]}" if said else ""))


def waking(arguments: Arguments, opened: Opened, password: str) -> Callable[[Session], None] | None:
    """The same for a clone that is then left to itself."""
    if not arguments.on_restore:
        return None

    def work(session: Session) -> None:
        guest = guest_in(session, arguments, opened, password)
        try:
            wake(guest, arguments, arguments.timeout)
            guest.leave()
        except GuestEnded:
            if not session.over:  # else the run's end is told, which may be what --expect wanted
                raise

    return work


def guest_in(session: Session, arguments: Arguments, opened: Opened, password: str) -> Guest:
    """The guest of ``session``, to work in."""
    if arguments.restore and not opened.shell:  # what asked for a name has scrolled by
        session.on_running(lambda: session.console.type(b"\r"))
    save = opened.keeper.save_at_shell if opened.keeper is not None else None
    return Guest(
        session, user=arguments.login, password=password, exchange=opened.exchange, shell=opened.shell, save=save
    )


def own_address(name: str) -> str:
    """An Ethernet address for the clone of that name: locally administered, the same each time."""
    import hashlib

    return ":".join(f"{byte:02x}" for byte in b"\x02" + hashlib.sha256(os.fsencode(name)).digest()[:5])
