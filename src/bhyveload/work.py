"""Start a loaded VM to work in: ``bhyveload.api.start``."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from bhyveload.guest.session import Guest
from bhyveload.handoff.disks import disks_of
from bhyveload.handoff.network import parse_network
from bhyveload.handoff.qemu.session import Qemu, run_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhyveload.handoff.disks import Disk
    from bhyveload.vm.store import VirtualMachine


def start(
    vm: VirtualMachine,
    *,
    accel: str = "auto",
    cpus: int = 1,
    disks: Sequence[Disk] | None = None,
    net: str = "none",
    extra: Sequence[str] = (),
    user: str = "root",
    password: str = "",
    patience: float = 600.0,
    log: int = -1,
) -> Guest:
    """Start a loaded VM under QEMU, to work in (guest/session.py).  What it writes to its disks is dropped at the end,
    unless they are given here with an overlay.

    ``user``, ``password``: who logs in on the console, within ``patience`` seconds; ``log``: a descriptor that gets
    everything that the console says.  Raises HandoffError, VmNotLoaded, UsageError.
    """
    for stream in (sys.stdout, sys.stderr):  # what the caller has printed comes first
        if stream is not None and not stream.closed:
            stream.flush()
    if disks is None:
        disks = [disk.changed(read_only=False, snapshot=True) for disk in disks_of(vm.state or {})]
    options = run_options(vm, accel=accel, cpus=cpus, disks=disks, net=parse_network(net), extra=extra)
    with contextlib.ExitStack() as closing:
        session = closing.enter_context(contextlib.closing(Qemu().start(vm, options)))
        if log >= 0:
            session.console.attach(-1, log, patient=True)
        guest = Guest(session, user=user, password=password, patience=patience)
        guest.closing = closing.pop_all()
    return guest
