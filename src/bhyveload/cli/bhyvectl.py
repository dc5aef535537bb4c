"""bhyvectl(8): look at and destroy named VMs.  Formats and order as in FreeBSD's usr.sbin/bhyvectl/bhyvectl.c."""

from __future__ import annotations

import sys

from bhyveload.cli.getopt import getopt, number_of
from bhyveload.cli.messages import escape, program_name, run
from bhyveload.errors import UsageError, VmError
from bhyveload.jsontext import dumps
from bhyveload.vm.memory import VM_HIGHMEM_BASE
from bhyveload.vm.store import VirtualMachine, destroy_machine, list_machines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from bhyveload.vm.registers import Registers

USAGE = """\
usage: bhyvectl --vm=NAME [--cpu=N] [--json] [--get-all] [--get-lowmem] [--get-highmem]
                [--get-memseg] [--get-memmap] [--get-REGISTER] [--get-desc-SEGMENT] [--destroy]
       bhyvectl --list [--json]
       bhyvectl --help | --version
"""

# The order in which get_all_registers and get_all_segments print.
REGISTERS = (
    *("efer", "cr0", "cr2", "cr3", "cr4", "dr0", "dr1", "dr2", "dr3", "dr6", "dr7", "rsp", "rip"),
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rflags"),
)
SELECTORS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldtr")
DESCRIPTORS = ("ds", "es", "fs", "gs", "ss", "cs", "tr", "ldtr", "gdtr", "idtr")
# What vmm leaves in a vCPU's registers before anybody sets them (vmx_vcpu_init, svm_vcpu_init); the rest is zero.
POWER_ON = {"dr6": 0xFFFF0FF0, "dr7": 0x400}

_VALUELESS = ("destroy", "get-all", "list", "json", "help", "version")
_MEMORY = ("get-lowmem", "get-highmem", "get-memseg", "get-memmap")
# Of a vCPU that runs, or in vmm(4): a VM here has neither between its load and its run.
RUNNING = ("force-poweroff", "force-reset", "get-active-cpus", "get-stats", "get-suspended-cpus")
LONG_OPTIONS = {
    "vm": "vm:",
    "cpu": "cpu:",
    **{name: name for name in (*_VALUELESS, *_MEMORY)},
    **{name: name for name in RUNNING},
    **{f"get-{name}": f"get-{name}" for name in (*REGISTERS, *SELECTORS)},
    **{f"get-desc-{name}": f"get-desc-{name}" for name in DESCRIPTORS},
}


def main() -> int:
    """The program.  Exit status: 0, or as errors.py says (1 no vCPU runs, 64 usage, 66 no such VM, ...)."""
    return run(program_name("bhyvectl"), lambda: control(sys.argv[1:], sys.stdout.write))


def control(words: list[str], put: Callable[[str], object]) -> int:
    """Do what the command line ``words`` say; output goes to ``put``.  Raises UsageError, VmError."""
    options, operands = getopt(words, "", LONG_OPTIONS)
    wanted = {name for name, _ in options}
    if "help" in wanted:
        put(USAGE)
        return 0
    if "version" in wanted:
        from bhyveload import __version__

        put(f"bhyvectl (bhyveload) {__version__}\n")
        return 0
    if operands:
        raise UsageError(f"'{operands[0]}' is not wanted here", "name the VM with --vm=NAME; bhyvectl --help")
    arguments = {name: argument for name, argument in options if argument is not None}
    if "list" in wanted:
        put(_list_json() if "json" in wanted else "".join(f"{escape(name)}\n" for name in list_machines()))
        return 0
    name = arguments.get("vm")
    if name is None:
        raise UsageError("no VM is named", "bhyvectl --vm=NAME, or --list to see all; bhyvectl --help")
    cpu = number_of(arguments.get("cpu", "0"), 0, 9999)
    if cpu is None:
        raise UsageError(f"Invalid vCPU number '{arguments['cpu']}'")
    running = [option for option in RUNNING if option in wanted]
    if running:
        _refuse(name, running[0])
    if wanted - {"vm", "cpu", "destroy"} or "destroy" not in wanted:
        _show(name, cpu, wanted, put)
    if "destroy" in wanted:
        destroy_machine(name)
    return 0


def _refuse(name: str, option: str) -> NoReturn:
    """Raises VmError: what only a running vCPU has; VmNotFound and the others of VirtualMachine.open."""
    VirtualMachine.open(name, lock=False).close()
    hint = "end bhyverun to stop the guest" if option.startswith("force-") else "--get-all shows what was loaded"
    raise VmError(f"VM '{name}': --{option}: no vCPU is running between bhyveload and bhyverun", hint)


def _show(name: str, cpu: int, wanted: set[str], put: Callable[[str], object]) -> None:
    """Print what was asked for.  Without a lock: bhyvectl works beside a running VM."""
    asked = wanted - {"vm", "cpu", "destroy"}
    with VirtualMachine.open(name, lock=False, require_loaded=bool(asked)) as vm:
        if not asked:
            return
        _check_vcpu(vm, cpu)
        if "json" in wanted:
            put(dumps(vm.state, indent=2) + "\n")
            return
        put("".join(_report(vm, cpu, wanted)))


def _check_vcpu(vm: VirtualMachine, cpu: int) -> None:
    """Raises UsageError: the command line names a vCPU that was not loaded."""
    there = vm.state["vcpus"] if vm.state else []
    if isinstance(there, list) and cpu >= len(there):
        raise UsageError(f"VM '{vm.name}' has no vCPU {cpu}", "the loader sets up vCPU 0 only")


def _report(vm: VirtualMachine, cpu: int, wanted: set[str]) -> list[str]:
    everything = "get-all" in wanted
    vcpu = vm.registers(cpu)
    low, high = (vm.memory.low, vm.memory.high) if vm.memory else (0, 0)
    lines: list[str] = []
    if everything or "get-lowmem" in wanted:
        lines.append(f"lowmem\t\t0x{0:016x}/{low}\n")
    if everything or "get-highmem" in wanted:
        lines.append(f"highmem\t\t0x{VM_HIGHMEM_BASE:016x}/{high}\n")
    if everything or "get-memseg" in wanted:
        lines += ["ID  Length      Name\n", f"{0:<4}{humanize(low + high):<12}sysmem\n"]
    if everything or "get-memmap" in wanted:
        lines.append("Address     Length      Segment     Offset      Prot  Flags\n")
        for gpa, length, offset in ((0, low, 0), (VM_HIGHMEM_BASE, high, low)):
            if length:
                lines.append(f"{gpa:<12X}{humanize(length):<12}{'sysmem':<12}{offset:<12X}RWX   \n")
    for name in REGISTERS:
        if everything or f"get-{name}" in wanted:
            tabs = "\t" if name == "rflags" else "\t\t"
            lines.append(f"{name}[{cpu}]{tabs}0x{vcpu.registers.get(name, POWER_ON.get(name, 0)):016x}\n")
    for name in DESCRIPTORS:
        if everything or f"get-desc-{name}" in wanted:
            lines.append(_descriptor(vcpu, name, cpu))
    for name in SELECTORS:
        if everything or f"get-{name}" in wanted:
            lines.append(f"{name}[{cpu}]\t\t0x{vcpu.selectors.get(name, 0):04x}\n")
    return lines


def _descriptor(vcpu: Registers, name: str, cpu: int) -> str:
    base, limit, access = vcpu.descriptors.get(name, (0, 0, 0))
    if name in ("gdtr", "idtr"):
        return f"{name}[{cpu}]\t\t0x{base:016x}/0x{limit:08x}\n"
    return f"{name} desc[{cpu}]\t0x{base:016x}/0x{limit:08x}/0x{access:08x}\n"


def humanize(size: int) -> str:
    """humanize_number(3) as bhyvectl calls it: 7 characters, "B", no space: 262144K is 256MB, 3 GiB is 3072MB."""
    remainder = 0
    prefixes = "KMGTPE"
    unit = ""
    while size > 99999 or (size == 99999 and remainder >= 512):
        size, remainder = divmod(size, 1024)
        unit, prefixes = prefixes[0], prefixes[1:]
    return f"{size + (remainder >= 512)}{unit}B"


def _list_json() -> str:
    machines: list[dict[str, object]] = []
    for name in list_machines():
        entry: dict[str, object] = {"name": name, "loaded": False, "memory": None}
        try:
            with VirtualMachine.open(name, lock=False) as vm:
                if vm.state is not None:
                    entry.update(loaded=True, memory=vm.state["memory"])
        except VmError as error:
            entry["error"] = error.message
        machines.append(entry)
    return dumps(machines, indent=2) + "\n"


if __name__ == "__main__":
    sys.exit(main())
