"""Start a loaded VM to work in: ``bhyveload.api.start``."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from bhyveload.guest.exchange import COPY_LIMIT, Exchange
from bhyveload.guest.session import Guest
from bhyveload.handoff.disks import Disk, disks_of
from bhyveload.handoff.network import parse_network
from bhyveload.handoff.qemu.overlay import unnamed_file
from bhyveload.handoff.qemu.run import run_options
from bhyveload.handoff.qemu.session import Qemu

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    copy_limit: int = COPY_LIMIT,
) -> Guest:
    """Start a loaded VM under QEMU, to work in (guest/session.py).  What it writes to its disks is dropped at the end,
    unless they are given here with an overlay.

    ``user``, ``password``: who logs in on the console, within ``patience`` seconds; ``log``: a descriptor that gets
    everything that the console says; ``copy_limit``: bytes that a folder may have for ``Guest.put_tree`` and
    ``get_tree``, by one more disk; 0: no such disk.  Raises HandoffError, VmNotLoaded, UsageError.
    """
    for stream in (sys.stdout, sys.stderr):  # what the caller has printed comes first
        if stream is not None and not stream.closed:
            stream.flush()
    if disks is None:
        disks = [disk.changed(read_only=False, snapshot=True) for disk in disks_of(vm.state or {})]
    with contextlib.ExitStack() as closing:
        exchange = closing.enter_context(Exchange(unnamed_file(), copy_limit)) if copy_limit else None
        disks = [*disks, *([disk_for(exchange)] if exchange is not None else [])]
        options = run_options(vm, accel=accel, cpus=cpus, disks=disks, net=parse_network(net), extra=extra)
        session = closing.enter_context(contextlib.closing(Qemu().start(vm, options)))
        if log >= 0:
            session.console.attach(-1, log, patient=True)
        guest = Guest(session, user=user, password=password, patience=patience, exchange=exchange)
        guest.closing = closing.pop_all()
    return guest


def disk_for(exchange: Exchange) -> Disk:
    """The disk for folders, as a hypervisor has it."""
    return Disk(exchange.path, size=exchange.limit, name="the disk for folders")
