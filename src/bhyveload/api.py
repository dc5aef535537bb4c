"""The library: load a guest into a VM and run it.

The programs are thin users of ``VirtualMachine``, ``load`` and ``run``.  ``load`` forks: call it from a program with
one thread, or accept what fork(2) says about threads.
"""

from __future__ import annotations

import os
import time

from bhyveload.errors import LoaderError, ReportError
from bhyveload.host.callbacks import USERBOOT_EXIT_REBOOT, LoaderCallbacks, loader_environment
from bhyveload.host.child import run_child
from bhyveload.host.confinement import confine
from bhyveload.host.console import FdConsole
from bhyveload.image.magic import media_sector_size
from bhyveload.loader.run import run_loader
from bhyveload.loader.state import Options
from bhyveload.need import GROUPS, load_all
from bhyveload.need import load as load_module
from bhyveload.report import LoadReport
from bhyveload.sandbox import Sandbox
from bhyveload.vm.registers import Registers
from bhyveload.vm.store import VirtualMachine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from bhyveload.handoff.qemu import Disk
    from bhyveload.handoff.run import RunResult
    from bhyveload.host.child import Leave
    from bhyveload.host.interface import BlockDevice, Console, HostDirectory
    from bhyveload.vm.memory import GuestMemory
    from bhyveload.vm.scratch import ScratchMachine

_MAX_RESTARTS = 50  # a guest whose scripts reboot or swap for ever
BUILT_IN = ("lua", "simp")
__all__ = ["LoadReport", "Options", "Sandbox", "VirtualMachine", "load", "run"]
_SEGMENT_FIELDS = ("base", "limit", "access")


def load(
    vm: VirtualMachine | ScratchMachine,
    disks: Sequence[BlockDevice] = (),
    environment: Sequence[str] = (),
    *,
    host_directory: HostDirectory | None = None,
    console: Console | None = None,
    compat: str = "current",
    options: Options | None = None,
    sandbox: Sandbox | bool = True,
    timeout: float | None = None,
    flags: dict[str, Any] | None = None,
) -> LoadReport:
    """Load a guest into ``vm`` (fresh from VirtualMachine.create) with the built-in loader and commit it.

    A ScratchMachine is loaded but not kept.

    ``disks`` in loader order; ``environment`` as ``name=value`` in -e order; ``console`` None: no input, output
    dropped; ``compat``: "current" or "13.2"; ``flags``: kept in state.json.
    ``sandbox``: how the child is confined before it reads a guest byte; True: with all that this host offers (look at
    Sandbox().missing, or demand it with Sandbox(required=True)); False: not at all.

    Raises LoaderError (the loader quit, or could not boot), LoaderCrashed, VmStorageError and the other
    BhyveloadErrors.
    """
    began = time.perf_counter_ns()
    options = options or Options()
    if sandbox is True:
        sandbox = Sandbox()
    with _Silence(console) as talk:
        result = _run_until_loaded(
            vm, talk, disks, environment, host_directory, compat == "current", options, sandbox or None, timeout
        )
    vcpu = _vcpu_of(result.pop("vcpu", None))
    result.pop("end")
    result["disks"] = [_describe_disk(disk) for disk in disks]
    result["timings"]["total"] = time.perf_counter_ns() - began
    report = {"schema": 1, "vm": vm.name, "loader": "built-in", **result}
    if isinstance(vm, VirtualMachine):
        vm.commit([vcpu], report, {"flags": flags} if flags else None)
    return LoadReport({**report, "vcpu": vcpu.as_dict(), "memory": {"low": _memory(vm).low, "high": _memory(vm).high}})


def run(
    vm: VirtualMachine,
    *,
    accel: str = "auto",
    cpus: int = 1,
    disks: Sequence[Disk] | None = None,
    net: str = "none",
    timeout: float | None = None,
    extra: Sequence[str] = (),
    console: tuple[int, int] = (0, 1),
) -> RunResult:
    """Run a loaded VM under QEMU until it ends; its ``outcome``, ``exit_status``, ``seconds`` (handoff/run.py).

    ``console``: file descriptors of its input and output; ``disks``: None for those that ``load`` was given.
    Raises HandoffError, VmNotLoaded.
    """
    from bhyveload.handoff.run import run as run_qemu  # subprocess and the like: not on the way of a load

    return run_qemu(vm, accel=accel, cpus=cpus, disks=disks, net=net, timeout=timeout, extra=extra, console=console)


class _Silence:
    """A console for library users who gave none."""

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self._fd = -1

    def __enter__(self) -> Console:
        if self._console is not None:
            return self._console
        self._fd = os.open(os.devnull, os.O_RDWR)
        return FdConsole(self._fd, self._fd)

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _memory(vm: VirtualMachine | ScratchMachine) -> GuestMemory:
    assert vm.memory is not None
    return vm.memory


def _run_until_loaded(
    vm: VirtualMachine | ScratchMachine,
    console: Console,
    disks: Sequence[BlockDevice],
    environment: Sequence[str],
    host_directory: HostDirectory | None,
    current: bool,
    options: Options,
    sandbox: Sandbox | None,
    timeout: float | None,
) -> dict[str, Any]:
    """Run the loader, again after a reboot or a change of interpreter, until it leaves a guest."""
    variables = [text.encode("latin-1", "replace") for text in environment]
    interpreter = "lua"
    if not options.batch:
        load_all()
    for _ in range(_MAX_RESTARTS + len(GROUPS)):
        listing = loader_environment(variables)

        def work(leave: Leave, listing: list[bytes] = listing, interpreter: str = interpreter) -> dict[str, Any]:
            if sandbox is not None:
                confine(sandbox, leave, console, _memory(vm), disks, host_directory)
            host = LoaderCallbacks(console, _memory(vm), disks, host_directory, listing)
            return run_loader(host, interpreter, current, options, leave)

        result = run_child(work, console.flush, timeout)
        if "need" in result:
            if result["need"] not in GROUPS:
                raise ReportError("the loader asked for a module that does not exist")
            load_module(result["need"])
            continue
        end = result.get("end")
        if end == "exec":
            return _checked(result)
        if end == "swap":
            interpreter = _swap(str(result.get("interpreter", "")))
        elif end == "exit" and result.get("code") == USERBOOT_EXIT_REBOOT:
            pass  # the loader starts over, as bhyveload.c does since 2024
        else:
            code = result.get("code")
            status = code & 0xFF if isinstance(code, int) else 1
            raise LoaderError("the loader ended without starting a guest", exit_status=status)
        vm.restart()
    raise LoaderError(f"the guest restarted its loader {_MAX_RESTARTS} times", "look at its scripts")


def _swap(name: str) -> str:
    if name in BUILT_IN:
        return name
    raise LoaderError(
        f"the guest's boot scripts are for the '{name}' loader, which is not built in",
        f"use FreeBSD's own: -l userboot_{name}.so" if name.isalnum() else "use FreeBSD's own with -l",
    )


def _checked(result: dict[str, Any]) -> dict[str, Any]:
    """The fields that the parent itself goes on with have the right types; the rest is only shown."""
    for name, kind in (("timings", dict), ("files", list), ("environment", dict), ("vcpu", dict)):
        if not isinstance(result.get(name), kind):
            raise ReportError(f"the loader's report lacks '{name}'")
    return result


def _vcpu_of(value: Any) -> Registers:
    """Registers from the report of a possibly hostile child.  Raises ReportError."""
    vcpu = Registers()
    try:
        for name, number in value["registers"].items():
            vcpu.registers[name] = _u64(number)
        for name, number in value["selectors"].items():
            vcpu.selectors[name] = _u64(number)
        for name, fields in value["descriptors"].items():
            base, limit, access = (_u64(fields[field]) for field in _SEGMENT_FIELDS)
            vcpu.descriptors[name] = base, limit, access
    except (AttributeError, KeyError, TypeError):
        raise ReportError("the loader's report has no usable registers") from None
    return vcpu


def _u64(number: object) -> int:
    if not isinstance(number, int) or not 0 <= number < 1 << 64:
        raise TypeError
    return number


def _describe_disk(disk: BlockDevice) -> dict[str, Any]:
    """A disk's entry in state.json (docs/state-json.md)."""
    describe = getattr(disk, "describe", None)
    if describe is not None:
        return dict(describe())
    return {
        "path": os.path.abspath(getattr(disk, "name", "")),
        "format": "raw",
        "size": disk.size,
        "read_only": disk.read_only,
        "sector_size": media_sector_size(disk),
    }
