"""Start a loaded VM to work in: ``bhyveload.api.start``."""

from __future__ import annotations

import contextlib
import os
import sys

from bhyveload.confined.deadline import FOREVER
from bhyveload.guest.exchange import COPY_LIMIT, Exchange
from bhyveload.guest.session import Guest
from bhyveload.handoff.disks import Disk, as_disks, disks_of
from bhyveload.handoff.network import Network, parse_network
from bhyveload.handoff.qemu.overlay import scratch_file
from bhyveload.handoff.qemu.run import run_options
from bhyveload.handoff.qemu.session import Qemu
from bhyveload.saved.restoring import Restoration
from bhyveload.saved.saving import Keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhyveload.handoff.disks import AnyDisk
    from bhyveload.handoff.machine import LoadedMachine
    from bhyveload.handoff.qemu.command import QemuOptions
    from bhyveload.handoff.qemu.session import QemuSession
    from bhyveload.vm.store import VirtualMachine


def start(
    vm: VirtualMachine,
    *,
    accel: str = "auto",
    cpus: int = 1,
    disks: Sequence[AnyDisk] | None = None,
    net: str = "none",
    extra: Sequence[str] = (),
    user: str = "root",
    password: str = "",
    patience: float = 600.0,
    log: int = -1,
    copy_limit: int = COPY_LIMIT,
    save_to: str | os.PathLike[str] = "",
) -> Guest:
    """Start a loaded VM under QEMU, to work in (guest/session.py).  What it writes to its disks is dropped at the end,
    unless they are given here as Disks with an overlay; ``disks`` else: paths as for -d, or what ``open_disk`` returns.

    ``user``, ``password``: who logs in on the console, within ``patience`` seconds; ``log``: a descriptor that gets
    everything that the console says; ``copy_limit``: bytes that a folder may have for ``Guest.put_tree`` and
    ``get_tree``, by one more disk; 0: no such disk; ``save_to``: a new folder that ``Guest.save`` keeps the guest in.
    Raises HandoffError, VmNotLoaded, UsageError.
    """
    _flush()
    if disks is None:
        ready = [disk.changed(read_only=False, snapshot=True) for disk in disks_of(vm.state or {})]
    else:
        ready = as_disks(disks, snapshot=True)
    with contextlib.ExitStack() as closing:
        keeper = closing.enter_context(Keeper(os.fspath(save_to), None, _silent)) if save_to else None
        exchange = _exchange(copy_limit, closing)
        if keeper is not None:
            ready = keeper.disks(ready, None, FOREVER)
        ready += [disk_for(exchange)] if exchange is not None else []
        options = run_options(vm, accel=accel, cpus=cpus, disks=ready, net=parse_network(net), extra=extra)
        machine: LoadedMachine = vm
        if keeper is not None:
            machine = standing = keeper.machine(vm)
            keeper.prepare(standing, options, exchange.limit if exchange is not None else 0)
        session = _session(machine, options, log, closing)
        save = None
        if keeper is not None:
            keeper.attend(session)
            save = keeper.save_at_shell
        guest = Guest(session, user=user, password=password, patience=patience, exchange=exchange, save=save)
        guest.closing = closing.pop_all()
    return guest


def restore(
    folder: str | os.PathLike[str],
    *,
    net: str = "",
    user: str = "root",
    password: str = "",
    patience: float = 600.0,
    log: int = -1,
    overlays: Sequence[str] = (),
) -> Guest:
    """A clone of the guest that was saved in ``folder`` (``Guest.save``, bhyverun --save), to work in.

    Clones share the saved memory until they write to it.  What one writes to its disks is dropped at its end, or kept
    in new files, ``overlays``.  ``net``: as for ``start``, of the saved guest's kind.  The rest as for ``start``.
    Raises HandoffError: it is damaged, or QEMU, the processor or an image is not what it was; UsageError.
    """
    _flush()
    with contextlib.ExitStack() as closing:
        restoration = Restoration(os.fspath(folder), closing)
        saved = restoration.saved
        exchange = _exchange(saved.exchange, closing)
        network = parse_network(net) if net else Network()
        disk = disk_for(exchange) if exchange is not None else None
        options = restoration.options(network, None, True, disk, overlays)
        session = _session(restoration.machine("clone", os.fspath(folder)), options, log, closing)
        guest = Guest(session, user=user, password=password, patience=patience, exchange=exchange, shell=saved.shell)
        if not saved.shell:  # what asked for a name has scrolled by
            session.on_running(lambda: session.console.type(b"\r"))
        guest.closing = closing.pop_all()
    return guest


def _exchange(limit: int, closing: contextlib.ExitStack) -> Exchange | None:
    return closing.enter_context(Exchange(scratch_file(), limit)) if limit else None


def _session(machine: LoadedMachine, options: QemuOptions, log: int, closing: contextlib.ExitStack) -> QemuSession:
    session = closing.enter_context(contextlib.closing(Qemu().start(machine, options)))
    if log >= 0:
        session.console.attach(-1, log, patient=True)
    return session


def _flush() -> None:
    """What the caller has printed comes first."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()


def _silent(_text: str) -> None:
    pass


def disk_for(exchange: Exchange) -> Disk:
    """The disk for folders, as a hypervisor has it."""
    return Disk(exchange.path, size=exchange.limit, name="the disk for folders")
