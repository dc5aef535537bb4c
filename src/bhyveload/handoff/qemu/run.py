"""Run a loaded VM under QEMU from its first instruction to its end."""

from __future__ import annotations

import contextlib

from bhyveload.confined.deadline import FOREVER, deadline_of
from bhyveload.handoff.disks import as_disks, disks_of, refuse_twice, unpacked
from bhyveload.handoff.machine import loaded
from bhyveload.handoff.qemu.command import QemuOptions, check_processors
from bhyveload.handoff.qemu.session import QemuSession

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from bhyveload.confined.deadline import Deadline
    from bhyveload.handoff.backend import Session
    from bhyveload.handoff.disks import AnyDisk
    from bhyveload.handoff.machine import LoadedMachine
    from bhyveload.handoff.network import Network
    from bhyveload.handoff.outcome import RunResult
    from bhyveload.image.progress import Progress


def run(
    vm: LoadedMachine,
    *,
    accel: str = "auto",
    cpus: int = 1,
    disks: Sequence[AnyDisk] | None = None,
    net: Network | None = None,
    timeout: float | None = None,
    extra: Sequence[str] = (),
    progress: Progress | None = None,
    console: tuple[int, int] = (0, 1),
    started: Callable[[Session], None] | None = None,
) -> RunResult:
    """Run ``vm`` until it ends, with its console on the two file descriptors ``console`` (input, output).

    ``disks`` as ``as_disks`` takes them; None for those that bhyveload was given.  ``timeout``: seconds until the run
    is stopped.  ``extra``: further arguments for QEMU.  ``started`` gets the running session, for signal handlers and
    the like.
    The VM's memory file is not changed; its disks are.

    Raises HandoffError: the VM cannot be handed over, QEMU is not installed or refuses; VmNotLoaded.
    """
    deadline_of(timeout)  # what is no time is told before anything is done
    options = run_options(vm, accel=accel, cpus=cpus, disks=disks, net=net, extra=extra, progress=progress)
    with contextlib.closing(QemuSession(vm, options)) as session:
        session.console.attach(*console, patient=True)
        if started is not None:
            started(session)
        return session.wait(timeout)


def run_options(
    vm: LoadedMachine,
    *,
    accel: str = "auto",
    cpus: int = 1,
    disks: Sequence[AnyDisk] | None = None,
    net: Network | None = None,
    extra: Sequence[str] = (),
    progress: Progress | None = None,
    deadline: Deadline = FOREVER,
    **more: Any,
) -> QemuOptions:
    """The options of ``run``, with what they leave open decided and the disks as QEMU can have them.

    ``deadline`` for unpacking disks; ``more``: further members of Options.
    Raises HandoffError, VmNotLoaded, TypeError (disks, processors or extra words are something else), and as
    disks.unpacked().
    """
    check_processors(cpus)
    if isinstance(extra, str):
        raise TypeError(f"extra: must be a list of QEMU's arguments, not one text {extra!r}")
    _, state = loaded(vm)
    if accel == "auto":
        accel = choose_accelerator()
    given = disks_of(state) if disks is None else as_disks(disks)
    ready = [disk if disk.overlay else unpacked(disk, progress, deadline) for disk in given]
    refuse_twice(ready)
    return QemuOptions(ready, accel, cpus, net, extra, **more)


def choose_accelerator() -> str:
    """ "kvm" where it runs kernels, else "tcg"."""
    from bhyveload.handoff.kvm_probe import kvm_runs_kernels

    return "kvm" if kvm_runs_kernels() else "tcg"
