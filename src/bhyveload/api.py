"""The library: load a guest into a VM and run it (docs/library.md).

The programs are thin users of ``VirtualMachine``, ``open_disk``, ``load`` and ``run``.  ``load`` forks: call it from a
program with one thread, or accept what fork(2) says about threads.
"""

from __future__ import annotations

import os
import sys
import time

from bhyveload.absolute_path import absolute_path
from bhyveload.compat import loader_version
from bhyveload.confined.deadline import Deadline, deadline_of
from bhyveload.errors import (
    BhyveloadError,
    DataError,
    FileSystemError,
    GuestEnded,
    GuestError,
    GuestTimedOut,
    HandoffError,
    HostError,
    ImageError,
    InputError,
    KernelError,
    LoaderCrashed,
    LoaderError,
    MemoryAccessError,
    NoFileSystem,
    PartitionError,
    PathError,
    ReportError,
    SandboxError,
    Unsupported,
    UsageError,
    VmBusy,
    VmError,
    VmMemoryError,
    VmNameError,
    VmNotFound,
    VmNotLoaded,
    VmStateError,
    VmStorageError,
)
from bhyveload.host.console import FdConsole
from bhyveload.image.open import open_disk
from bhyveload.loader.state import Options
from bhyveload.loading import run_until_loaded
from bhyveload.report import LoadReport
from bhyveload.sandbox import Sandbox
from bhyveload.vm.recall import MEMBER as NEEDED
from bhyveload.vm.registers import Registers
from bhyveload.vm.store import VirtualMachine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from bhyveload.compat import LoaderVersion
    from bhyveload.device import Device
    from bhyveload.guest.session import Finished, Guest
    from bhyveload.handoff.disks import AnyDisk
    from bhyveload.handoff.outcome import RunResult
    from bhyveload.host.interface import HeldConsole, HostDirectory
    from bhyveload.image.progress import Progress
    from bhyveload.userboot.search import Loaders
    from bhyveload.vm.interface import Machine
    from bhyveload.vm.resident import ResidentMemory
    from bhyveload.vm.scratch import ScratchMachine
    from bhyveload.work import restore, start

GUEST_MEMORY = 512 << 20  # of guests to work in
__all__ = [
    "BhyveloadError",
    "DataError",
    "FileSystemError",
    "Finished",
    "Guest",
    "GuestEnded",
    "GuestError",
    "GuestTimedOut",
    "HandoffError",
    "HostError",
    "ImageError",
    "InputError",
    "KernelError",
    "LoadReport",
    "LoaderCrashed",
    "LoaderError",
    "MemoryAccessError",
    "NoFileSystem",
    "Options",
    "PartitionError",
    "PathError",
    "ReportError",
    "RunResult",
    "Sandbox",
    "SandboxError",
    "ScratchMachine",
    "Unsupported",
    "UsageError",
    "VirtualMachine",
    "VmBusy",
    "VmError",
    "VmMemoryError",
    "VmNameError",
    "VmNotFound",
    "VmNotLoaded",
    "VmStateError",
    "VmStorageError",
    "boot",
    "load",
    "load_image",
    "open_disk",
    "restore",
    "run",
    "start",
]


def load(
    vm: Machine,
    disks: Sequence[Device] = (),
    environment: Sequence[str | bytes] = (),
    *,
    host_directory: HostDirectory | None = None,
    console: HeldConsole | None = None,
    compat: LoaderVersion = "current",
    options: Options | None = None,
    loaders: Loaders | None = None,
    sandbox: Sandbox | bool = True,
    timeout: float | Deadline | None = None,
    wired: bool = False,
    incore: bool = False,
    kept: dict[str, Any] | None = None,
) -> LoadReport:
    """Load a guest into ``vm`` (fresh from VirtualMachine.create) and commit it.

    A machine that does not keep its guest (ScratchMachine) gets disks of the same kind: what the loader would write to
    them goes nowhere.

    ``disks`` in loader order; ``environment`` as ``name=value`` in -e order, text as UTF-8; ``console`` None: no input,
    output dropped; ``compat``: "current" or "13.2", the version of FreeBSD's loader to behave as; ``wired`` locks guest
    memory while it is loaded, ``incore`` makes it part of core dumps (both are kept in state.json for bhyverun).
    ``kept``: further members of state.json.
    ``sandbox``: how the child is confined before it reads a guest byte; True: with all that this host offers (look at
    Sandbox().missing, or demand it with Sandbox(required=True)); False: not at all.

    Raises UsageError (no such ``compat``, a variable with a NUL byte, a disk that is closed or only a name),
    LoaderError (the loader quit, or could not boot), LoaderCrashed, VmError (``vm`` is not there to be loaded),
    VmStorageError and the other BhyveloadErrors.
    """
    began = time.perf_counter_ns()
    _check_machine(vm)
    version = loader_version(compat)
    deadline = deadline_of(timeout)
    _check(disks, environment)
    vm.loading()
    _flush_streams()
    options = options or Options()
    if sandbox is True:
        sandbox = Sandbox()
    seen = disks
    if not vm.keeps:
        from bhyveload.image.overlay import Overlay

        seen = [Overlay(disk) for disk in disks]
    resident = _make_resident(vm, wired, incore)
    with _Silence(console) as talk, resident:
        result = run_until_loaded(
            vm,
            talk,
            seen,
            environment,
            host_directory,
            version,
            options,
            loaders,
            sandbox or None,
            deadline,
        )
    vcpu = Registers.of(result.pop("vcpu"))
    needed = result.pop(NEEDED, None)
    result["disks"] = [_described(disk) for disk in disks]
    result["timings"]["total"] = time.perf_counter_ns() - began
    report = {"schema": 1, "vm": vm.name, **result}
    memory = vm.loading()
    extra = {**(kept or {}), "flags": {"wired": wired, "incore": incore}}
    if needed is not None:
        extra[NEEDED] = needed  # last: vm/recall.py
    vm.commit([vcpu], report, extra)
    return LoadReport({**report, "vcpu": vcpu.as_dict(), "memory": {"low": memory.low, "high": memory.high}})


def _check_machine(vm: object) -> None:
    if isinstance(vm, str | bytes | os.PathLike):
        raise TypeError(f"vm: must be a VirtualMachine (VirtualMachine.open, VirtualMachine.create), not {vm!r}")


def _described(disk: Device) -> dict[str, Any]:
    entry = disk.describe()
    return {**entry, "path": absolute_path(entry["path"])}


def _check(disks: Sequence[Device], environment: Sequence[str | bytes]) -> None:
    """What is easily mistaken and would only be seen in the child, or not at all.  Raises UsageError."""
    if isinstance(environment, str | bytes):
        raise UsageError("environment: is one text", "give a list of NAME=VALUE texts")
    if isinstance(environment, dict) or not all(isinstance(entry, str | bytes) for entry in environment):
        raise TypeError("environment: must be a list of NAME=VALUE texts")
    if hasattr(disks, "descriptors"):
        raise TypeError("disks: is one disk: give a list of them")
    for disk in disks:
        if isinstance(disk, str | bytes | os.PathLike):
            raise UsageError(f"disks: {os.fsdecode(disk)!r} is a name", "give what open_disk() returns")
        if any(descriptor < 0 for descriptor in disk.descriptors()):
            raise UsageError(f"{disk.name}: is closed", "open_disk() opens it again")


def run(
    vm: VirtualMachine,
    *,
    accel: str = "auto",
    cpus: int = 1,
    disks: Sequence[AnyDisk] | None = None,
    net: str = "none",
    timeout: float | None = None,
    extra: Sequence[str] = (),
    console: tuple[int, int] = (0, 1),
) -> RunResult:
    """Run a loaded VM under QEMU until it ends; its ``outcome``, ``exit_status``, ``seconds`` (handoff/backend.py).

    ``console``: file descriptors of its input and output; ``disks``: paths as for bhyverun's -d, or what ``open_disk``
    returns; None for those that ``load`` was given.
    Raises HandoffError, VmNotLoaded, UsageError; TypeError: an argument is of another kind.
    """
    _check_machine(vm)
    from bhyveload.handoff.network import parse_network
    from bhyveload.handoff.qemu.run import run as run_qemu  # subprocess and the like: not on the way of a load

    _flush_streams()
    network = parse_network(net)
    return run_qemu(vm, accel=accel, cpus=cpus, disks=disks, net=network, timeout=timeout, extra=extra, console=console)


def load_image(
    image: str | os.PathLike[str],
    memory: int = GUEST_MEMORY,
    environment: Sequence[str | bytes] = (),
    *,
    kernel: str = "",
    options: Options | None = None,
    compat: LoaderVersion = "current",
    sandbox: Sandbox | bool = True,
    timeout: float | Deadline | None = None,
    progress: Progress | None = None,
) -> VirtualMachine:
    """A VM of its own, with a name that nobody has, loaded from the disk ``image`` (as for -d: ``PATH,format=F,ro``),
    which is only read.  For a run and no more: ``destroy`` it then.  ``kernel``: a file of the host to boot instead of
    the image's, whose folder the loader then sees as host0:.

    Raises as ``open_disk`` and ``load``.
    """
    from bhyveload.image.named import named_disk
    from bhyveload.vm.passing import passing_name, remove_abandoned

    named = named_disk(os.fspath(image))
    deadline = deadline_of(timeout)
    disk = open_disk(
        named.path,
        read_only=True,
        format=named.format,
        allow_backing=named.backing,
        progress=progress,
        sandbox=sandbox,
        deadline=deadline,
    )
    folder = None
    chosen = options or Options(batch=True)
    try:
        if kernel:
            from bhyveload.host.directory import open_host_directory

            folder = open_host_directory(os.path.dirname(absolute_path(kernel)))
            chosen = Options(batch=True, kernel=f"host0:/{os.path.basename(kernel)}")
        remove_abandoned()
        vm = VirtualMachine.create(passing_name(), memory)
        try:  # its lock is kept from now on: else it would look like one that was abandoned
            load(
                vm,
                [disk],
                environment,
                host_directory=folder,
                options=chosen,
                compat=compat,
                sandbox=sandbox,
                timeout=deadline,
            )
        except BaseException:
            vm.abandon()
            raise
    finally:
        if folder is not None:
            folder.close()
        disk.close()
    return vm


def boot(
    image: str | os.PathLike[str],
    memory: int = GUEST_MEMORY,
    environment: Sequence[str | bytes] = (),
    *,
    load_options: Options | None = None,
    **more: Any,
) -> Guest:
    """``load_image`` and ``start`` (``more``: its options) in one; the VM is destroyed when the guest is closed."""
    from bhyveload.work import start

    vm = load_image(image, memory, environment, options=load_options)
    try:
        guest = start(vm, **more)
    except BaseException:
        vm.destroy()
        raise
    guest.closing.callback(vm.destroy)
    return guest


def _flush_streams() -> None:
    """What the caller has printed comes before what another process writes to the same descriptors."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()


def __getattr__(name: str) -> Any:
    """These modules are imported only by who asks for them: not on the way of a load that is kept."""
    if name == "RunResult":
        from bhyveload.handoff.outcome import RunResult

        return RunResult
    if name in ("Finished", "Guest"):
        from bhyveload.guest import session

        return getattr(session, name)
    if name == "ScratchMachine":
        from bhyveload.vm.scratch import ScratchMachine

        return ScratchMachine
    if name in ("restore", "start"):
        from bhyveload import work

        return getattr(work, name)
    raise AttributeError(name)


class _NotResident:
    """Guest memory is not mapped: in no core dump, not locked."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def _make_resident(vm: Machine, wired: bool, incore: bool) -> ResidentMemory | _NotResident:
    if not (wired or incore) or not vm.loading().descriptors():  # vmm(4) has been told by vm_set_memflags
        return _NotResident()
    from bhyveload.vm.resident import ResidentMemory

    return ResidentMemory(vm.loading().descriptors(), vm.memory_size, wired=wired, incore=incore)


class _Silence:
    """A console for library users who gave none."""

    def __init__(self, console: HeldConsole | None) -> None:
        self._console = console
        self._fd = -1

    def __enter__(self) -> HeldConsole:
        if self._console is not None:
            return self._console
        self._fd = os.open(os.devnull, os.O_RDWR)
        return FdConsole(self._fd, self._fd)

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
