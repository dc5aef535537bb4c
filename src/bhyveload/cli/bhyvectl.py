"""bhyvectl(8): look at and destroy named VMs.  Formats and order as in FreeBSD's usr.sbin/bhyvectl/bhyvectl.c."""

from __future__ import annotations

import os
import sys

from bhyveload.absolute_path import absolute_path
from bhyveload.cli.base_system import refer
from bhyveload.cli.getopt import getopt, number_of
from bhyveload.cli.messages import program_name, run, say, warn
from bhyveload.errors import UsageError, VmError
from bhyveload.jsontext import dumps
from bhyveload.vm.directory import as_operand
from bhyveload.vm.memory import VM_HIGHMEM_BASE
from bhyveload.vm.store import VirtualMachine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from bhyveload.vm.registers import Registers

HELP = """\
usage: bhyvectl --vm=NAME [--cpu=N] [--json] [--get-all] [--get-lowmem] [--get-highmem]
                [--get-memseg] [--get-memmap] [--get-REGISTER] [--get-desc-SEGMENT]
                [--get-stats] [--get-active-cpus] [--get-debug-cpus] [--get-suspended-cpus]
                [--get-cpu-topology] [--inject-nmi]
                [--power-button | --save[=FOLDER] | --force-poweroff | --force-reset | --destroy]
       bhyvectl --vm=NAME --map [--svg=FILE] [--html=FILE]
       bhyvectl --vm=NAME --dump=FILE [--symbols=FOLDER]
       bhyvectl --vm=NAME --console [--escape=KEY]
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

_ACTIONS = ("destroy", "force-reset", "force-poweroff")
_VALUELESS = (*_ACTIONS, "inject-nmi", "power-button", "get-all", "list", "json", "console", "map", "help", "version")
_MEMORY = ("get-lowmem", "get-highmem", "get-memseg", "get-memmap")
# Of a guest that runs.
RUNNING = ("get-active-cpus", "get-cpu-topology", "get-debug-cpus", "get-stats", "get-suspended-cpus")
LONG_OPTIONS = {
    "vm": "vm:",
    "cpu": "cpu:",
    "escape": "escape:",
    "svg": "svg:",
    "html": "html:",
    "dump": "dump:",
    "save": "save?",
    "symbols": "symbols:",
    "suspend": "suspend:",
    **{name: name for name in (*_VALUELESS, *_MEMORY)},
    **{name: name for name in RUNNING},
    **{f"get-{name}": f"get-{name}" for name in (*REGISTERS, *SELECTORS)},
    **{f"get-desc-{name}": f"get-desc-{name}" for name in DESCRIPTORS},
}
_DUMP_LIMIT = 600.0  # seconds
_SAVE_LIMIT = 600.0  # seconds
EXIT_USAGE = 1  # bhyvectl.c's


def main() -> int:
    """The program.  Exit status: 0, or as errors.py says (1 no vCPU runs, 64 usage, 66 no such VM, ...)."""
    return run(program_name("bhyvectl"), _main)


def _main() -> int:
    refer("bhyvectl", "/usr/sbin/bhyvectl")
    return control(sys.argv[1:], sys.stdout.write)


def control(words: list[str], put: Callable[[str], object]) -> int:
    """Do what the command line ``words`` say; output goes to ``put``.  Raises UsageError, VmError, HostError."""
    options, operands = getopt(words, "", LONG_OPTIONS)
    wanted = {name for name, _ in options}
    if "help" in wanted:
        put(HELP)
        return 0
    if "version" in wanted:
        from bhyveload import __version__

        put(f"bhyvectl (bhyveload) {__version__}\n")
        return 0
    if operands:
        raise UsageError(f"'{operands[0]}' is not wanted here", "name the VM with --vm=NAME; bhyvectl --help")
    arguments = {name: argument for name, argument in options if argument is not None}
    if "list" in wanted:
        from bhyveload.cli.listing import as_json, as_text

        put(as_json() if "json" in wanted else as_text())
        return 0
    name = arguments.get("vm")
    if name is None:
        say(usage())
        return EXIT_USAGE
    cpu = number_of(arguments.get("cpu", "0"), 0, 9999)
    if cpu is None:
        raise UsageError(f"Invalid vCPU number '{arguments['cpu']}'")
    actions = [action for action in _ACTIONS if action in wanted]
    if len(actions) > 1:
        raise VmError("mutually exclusive actions specified", ", ".join(f"--{action}" for action in actions))
    if "suspend" in wanted:
        _refuse_to_suspend(name)
    if "console" in wanted:
        return _console(name, arguments.get("escape", "Ctrl-A"))
    if wanted & {"map", "svg", "html"}:
        _draw(name, arguments, "map" in wanted, put)
        return 0
    if "symbols" in arguments and "dump" not in arguments:
        raise UsageError("--symbols is for --dump", "bhyverun --gdb has it, too")
    if "dump" in arguments:
        _dump(name, arguments["dump"], arguments.get("symbols", ""))
        return 0
    told = {option for option in RUNNING if option in wanted}
    if told:
        _tell_of_the_running(name, cpu, told, put)
    shown = wanted - {"vm", "cpu", "escape", "inject-nmi", "power-button", "save", *_ACTIONS, *RUNNING}
    if shown or not (told or actions or wanted & {"inject-nmi", "power-button", "save"}):
        _show(name, cpu, wanted, put)
    if "inject-nmi" in wanted:
        _ask(name, "inject-nmi")
    if "power-button" in wanted:
        _ask(name, "power-button")
    if "save" in wanted:
        _save(name, arguments.get("save", ""))
    for action in actions:
        _act(name, action)
    return 0


def usage() -> str:
    """As bhyvectl.c prints it: one line an option."""
    lines = [f"Usage: {program_name('bhyvectl')} --vm=<vmname>\n"]
    described = {
        "cpu": "vcpu_number",
        "escape": "key",
        "svg": "file",
        "html": "file",
        "dump": "file",
        "symbols": "folder",
    }
    for name, yielded in LONG_OPTIONS.items():
        if name not in ("vm", "suspend"):  # that is in none of FreeBSD's releases
            lines.append(f"       [--{name}{f'=<{described[name]}>' if yielded.endswith(':') else ''}]\n")
    return "".join(lines)


def _draw(name: str, files: dict[str, str], text: bool, put: Callable[[str], object]) -> None:
    """What lies where in guest memory as the loader left it.  Raises HostError: a file cannot be written."""
    from bhyveload.cli.drawing import save
    from bhyveload.cli.memory_picture import as_lines, picture
    from bhyveload.handoff.pvh.places import places

    with VirtualMachine.open(name, lock=False, require_loaded=True) as vm:
        found = places(vm)
    save(picture(found, name), files.get("svg"), files.get("html"))
    if text:
        put(as_lines(found))


def _dump(name: str, path: str, symbols: str) -> None:
    """An ELF core of guest memory: of the guest that runs, or as the loader left it.  Raises HostError."""
    from bhyveload.cli.symbols import tell
    from bhyveload.handoff.core import new_file, write_core, written_file
    from bhyveload.handoff.core_notes import annotate
    from bhyveload.running.machines import running

    runner = running(name)
    if runner is not None:
        with runner:
            runner.ask("dump", _DUMP_LIMIT, path=absolute_path(path))
    with VirtualMachine.open(name, lock=False, require_loaded=runner is None) as vm:
        if vm.memory is None or vm.state is None:
            return  # a clone: its loader's state is not here
        fd = new_file(path) if runner is None else written_file(path)
        try:
            if runner is None:
                write_core(fd, vm.memory, path)
            annotate(fd, vm.memory, vm.state, registers=runner is None, path=path)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
        tell(vm.state, symbols, [path], lambda text: warn(program_name("bhyvectl"), text))


def _refuse_to_suspend(name: str) -> NoReturn:
    VirtualMachine.open(name, lock=False).close()
    raise VmError(f"VM '{name}': --suspend: cannot be saved so, nor by FreeBSD's releases", "--save=FOLDER does it")


def _act(name: str, action: str) -> None:
    """End a guest: as FreeBSD's bhyvectl(8), without an error where none runs."""
    from bhyveload.running.machines import destroy

    if action == "destroy":
        destroy(name)
    else:
        _ask(name, "power-off" if action == "force-poweroff" else "reset")


def _ask(name: str, command: str) -> None:
    from bhyveload.running.machines import running

    runner = running(name)
    if runner is not None:
        with runner:
            runner.ask(command)


def _save(name: str, folder: str) -> None:
    """Raises VmError: nobody runs it; HostError: it is not saved, and runs on."""
    from bhyveload.running.machines import running

    runner = running(name)
    if runner is None:
        raise VmError(f"VM '{name}': --save: the guest is not running", f"bhyverun {as_operand(name)}")
    from bhyveload.cli.progress import CopyProgress

    progress = CopyProgress(program_name("bhyvectl"), f"{name}: saving its memory")
    with runner:
        try:
            runner.ask("save", _SAVE_LIMIT, progress.step, path=absolute_path(folder) if folder else "")
        finally:
            progress.end()
        runner.wait_for_the_end(_SAVE_LIMIT)


def _console(name: str, key: str) -> int:
    from bhyveload.running.attach import attach
    from bhyveload.running.choices import parse_key
    from bhyveload.running.machines import running

    escape_key = parse_key(key)
    if not escape_key and key != "none":
        raise UsageError(f"--escape {key}: must be a key, as Ctrl-A, ^] or ~, or none")
    runner = running(name)
    if runner is None:
        raise VmError(f"VM '{name}' is not running", f"bhyverun {as_operand(name)}")
    with runner:
        attach(runner, escape_key, lambda text: warn(program_name("bhyvectl"), f"{name}: {text}"))
    return 0


def _tell_of_the_running(name: str, cpu: int, told: set[str], put: Callable[[str], object]) -> None:
    """Raises VmError: nobody runs it."""
    from bhyveload.running.machines import running
    from bhyveload.running.statistics import lines

    runner = running(name)
    if runner is None:
        raise VmError(f"VM '{name}': --{sorted(told)[0]}: the guest is not running", f"bhyverun {as_operand(name)}")
    with runner:
        info = runner.ask("info")
        cpus = info.get("cpus")
        count = cpus if isinstance(cpus, int) and 0 < cpus < 1 << 16 else 1
        if "get-cpu-topology" in told:
            sockets, cores, threads = _topology(info.get("topology"), count)
            put(f"cpu_topology:\tsockets={sockets}, cores={cores}, threads={threads}, maxcpus={count}\n")
        if "get-active-cpus" in told:
            put("active cpus:\t" + ",".join(f" {number}" for number in range(count)) + "\n")
        for which in ("debug", "suspended"):  # as print_cpus has it where there are none
            if f"get-{which}-cpus" in told:
                put(f"{which} cpus:\t (none)\n")
        if "get-stats" in told:
            put("".join(lines(runner.ask("stats"), cpu)))


def _topology(told: object, cpus: int) -> tuple[int, int, int]:
    if isinstance(told, list) and len(told) == 3 and all(isinstance(number, int) for number in told):
        return told[0], told[1], told[2]
    return cpus, 1, 1


def _show(name: str, cpu: int, wanted: set[str], put: Callable[[str], object]) -> None:
    """Print what was asked for.  Without a lock: bhyvectl works beside a running VM."""
    asked = wanted - {"vm", "cpu", "escape", *_ACTIONS}
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


if __name__ == "__main__":
    sys.exit(main())
