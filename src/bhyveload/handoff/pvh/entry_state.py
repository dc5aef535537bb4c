"""The guest's entry state: vCPU 0 of state.json, checked and brought into the form that a hand-off can set.

bhyveload(8) leaves exactly two kinds (spec: libvmmapi's vm_setup_freebsd_registers and ..._i386): 64-bit mode with
paging on, and flat 32-bit protected mode without paging.  Everything else is refused: a hand-off that quietly drops a
register would run another machine than the one that was loaded.
"""

from __future__ import annotations

from bhyveload.errors import HandoffError
from bhyveload.vm.registers import CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

GENERAL_REGISTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", *(f"r{n}" for n in range(8, 16)))
_SET = frozenset(("cr0", "cr3", "cr4", "efer", "rflags", "rip", "rsp", *GENERAL_REGISTERS))
# What no hand-off sets may be named only with its power-on value.
_POWER_ON = {"dr6": 0xFFFF0FF0, "dr7": 0x400}

CODE64, DATA64 = 0x209B, 0x0093
CODE32, DATA32 = 0xC09B, 0xC093
BUSY_TSS = 0x8B
CODE_SELECTOR, DATA_SELECTOR, TSS_SELECTOR = 0x08, 0x10, 0x18
_DATA_SEGMENTS = ("ds", "es", "fs", "gs", "ss")


class EntryState:
    """Checked register values.  ``tss`` is (base, limit) of the busy TSS in TR, or None where TR is null."""

    __slots__ = (
        "cr0",
        "cr3",
        "cr4",
        "efer",
        "gdt_base",
        "gdt_limit",
        "general",
        "long_mode",
        "rflags",
        "rip",
        "rsp",
        "tss",
    )

    def __init__(self, registers: Mapping[str, int], gdtr: tuple[int, int], tss: tuple[int, int] | None) -> None:
        self.cr0 = registers.get("cr0", 0)
        self.cr3 = registers.get("cr3", 0)
        self.cr4 = registers.get("cr4", 0)
        self.efer = registers.get("efer", 0)
        self.rflags = registers.get("rflags", 2)
        self.rip = registers.get("rip", 0)
        self.rsp = registers.get("rsp", 0)
        self.general = tuple(registers.get(name, 0) for name in GENERAL_REGISTERS)
        self.gdt_base, self.gdt_limit = gdtr
        self.tss = tss
        self.long_mode = bool(self.cr0 & CR0_PG)


def entry_state(state: Mapping[str, Any]) -> EntryState:
    """The entry state in a parsed state.json.

    Raises HandoffError when a register or descriptor is missing, malformed, or one that no hand-off can set.
    """
    vcpus = state.get("vcpus")
    if not isinstance(vcpus, list) or not vcpus or not isinstance(vcpus[0], dict):
        raise HandoffError("the VM's state names no vCPU", "load the VM again with bhyveload")
    vcpu = vcpus[0]
    registers = _registers(_mapping(vcpu, "registers"))
    selectors = _mapping(vcpu, "selectors")
    descriptors = _mapping(vcpu, "descriptors")
    cr0, cr4, efer = registers.get("cr0", 0), registers.get("cr4", 0), registers.get("efer", 0)
    gdtr = _descriptor(descriptors, "gdtr")[:2]
    if gdtr[1] > 0xFFFF:
        raise HandoffError(f"GDTR limit {gdtr[1]:#x} is larger than 0xffff")
    if not cr0 & CR0_PE:
        raise HandoffError(f"CR0 {cr0:#x}: a guest that starts in real mode cannot be handed over")
    if cr0 >> 32 or cr4 >> 32 or efer >> 32:
        raise HandoffError(f"CR0 {cr0:#x}, CR4 {cr4:#x}, EFER {efer:#x}: bits above 31 cannot be set")
    if cr0 & CR0_PG:
        if not (cr4 & CR4_PAE and efer & EFER_LME and efer & EFER_LMA):
            raise HandoffError(f"CR0 {cr0:#x}, CR4 {cr4:#x}, EFER {efer:#x}: paging is on, but not in 64-bit mode")
        _check_segments(selectors, descriptors, CODE64, DATA64)
        if registers.get("cr3", 0) >> 32:
            raise HandoffError(f"CR3 {registers['cr3']:#x} lies above 4 GiB")
        return EntryState(registers, gdtr, None)
    wide = [name for name, value in registers.items() if value >> 32]
    if wide or gdtr[0] >> 32:
        raise HandoffError(f"{(wide or ['gdtr'])[0]} does not fit a 32-bit guest")
    if efer & EFER_LME:
        raise HandoffError(f"EFER {efer:#x}: 64-bit mode is asked for without paging")
    _check_segments(selectors, descriptors, CODE32, DATA32)
    return EntryState(registers, gdtr, _tss(selectors, descriptors))


def _mapping(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = parent.get(name)
    if not isinstance(value, dict):
        raise HandoffError(f"the VM's state has no {name}", "load the VM again with bhyveload")
    return value


def _number(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise HandoffError(f"{what} in the VM's state is not a 64-bit number", "load the VM again with bhyveload")
    return value


def _registers(given: Mapping[str, Any]) -> dict[str, int]:
    registers = {}
    for name, value in given.items():
        number = _number(value, name)
        if name in _SET:
            registers[name] = number
        elif number not in (0, _POWER_ON.get(name, 0)):
            raise HandoffError(f"register {name} = {number:#x} cannot be set by this hand-off")
    for name in ("rip", "cr0"):
        if name not in registers:
            raise HandoffError(f"the VM's state has no {name}", "load the VM again with bhyveload")
    return registers


def _descriptor(descriptors: Mapping[str, Any], name: str) -> tuple[int, int, int]:
    given = descriptors.get(name)
    if not isinstance(given, dict):
        raise HandoffError(f"the VM's state has no descriptor {name}", "load the VM again with bhyveload")
    return (
        _number(given.get("base"), f"{name} base"),
        _number(given.get("limit"), f"{name} limit"),
        _number(given.get("access"), f"{name} access"),
    )


def _check_segments(selectors: Mapping[str, Any], descriptors: Mapping[str, Any], code: int, data: int) -> None:
    for name in ("cs", *_DATA_SEGMENTS):
        selector, access = (CODE_SELECTOR, code) if name == "cs" else (DATA_SELECTOR, data)
        found = _descriptor(descriptors, name)
        if found[0] != 0 or found[2] != access or _number(selectors.get(name), name) != selector:
            raise HandoffError(f"segment {name} is not the flat one that bhyveload(8) sets")


def _tss(selectors: Mapping[str, Any], descriptors: Mapping[str, Any]) -> tuple[int, int] | None:
    selector = _number(selectors.get("tr", 0), "tr")
    if selector == 0:
        return None
    base, limit, access = _descriptor(descriptors, "tr")
    if selector != TSS_SELECTOR or access != BUSY_TSS or base >> 32 or limit >> 16:
        raise HandoffError("TR is not the task register that bhyveload(8) sets")
    return base, limit
