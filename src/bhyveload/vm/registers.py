"""vCPU 0's registers and segment descriptors as bhyveload(8) leaves them.

Source: lib/libvmmapi/amd64/vmmapi_freebsd_machdep.c (vm_setup_freebsd_registers, ..._i386), sys/amd64/include/vmm.h.
"""

from __future__ import annotations

import struct

from bhyveload.errors import MemoryAccessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Protocol

    class Writable(Protocol):
        """Guest memory, as far as it is needed here."""

        def write(self, gpa: int, data: bytes, /) -> None: ...


MSR_EFER = 0xC0000080
CR0_PE, CR0_NE, CR0_PG = 0x1, 0x20, 0x80000000
CR4_PAE = 0x20
EFER_LME, EFER_LMA = 0x100, 0x400

# VM_REG_GUEST_* by number (sys/amd64/include/vmm.h, enum vm_reg_name)
VM_REG_NAMES = [
    "rax",
    "rbx",
    "rcx",
    "rdx",
    "rsi",
    "rdi",
    "rbp",
    "r8",
    "r9",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
    "cr0",
    "cr3",
    "cr4",
    "dr7",
    "rsp",
    "rip",
    "rflags",
    "es",
    "cs",
    "ss",
    "ds",
    "fs",
    "gs",
    "ldtr",
    "tr",
    "idtr",
    "gdtr",
    "efer",
    "cr2",
    "pdpte0",
    "pdpte1",
    "pdpte2",
    "pdpte3",
    "intr_shadow",
    "dr0",
    "dr1",
    "dr2",
    "dr3",
    "dr6",
    "entry_inst_length",
    "fs_base",
    "gs_base",
    "kgs_base",
    "tpr",
]
SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldtr")
# The three groups of state.json: these have selectors, these descriptors, and all others are plain registers.
DESCRIPTORS = (*SEGMENTS, "idtr", "gdtr")
GENERAL = tuple(name for name in VM_REG_NAMES if name not in DESCRIPTORS)
MAX_SELECTOR = 0xFFFF
MAX_LIMIT = MAX_ACCESS = 0xFFFFFFFF
_DATA_SEGMENTS = ("ds", "es", "fs", "gs", "ss")

# A 32-bit guest's GDT, written by libvmmapi; slot 3 is the TSS, its base is filled in.
_I386_GDT = (0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF, 0x0000890000000067)
I386_TSS_OFFSET = 0x1000
I386_TSS_LIMIT = 0x67


class Registers:
    """One vCPU.

    ``registers`` (name -> value), ``selectors`` (name -> value), ``descriptors`` (name -> (base, limit, access)).
    Names are lower case as in state.json.  What nobody set is absent and means the power-on value.
    """

    __slots__ = ("descriptors", "registers", "selectors")

    def __init__(self) -> None:
        self.registers: dict[str, int] = {}
        self.selectors: dict[str, int] = {}
        self.descriptors: dict[str, tuple[int, int, int]] = {}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Registers:
        """The vCPU that ``values``, an object of state.json or of a report that has been checked, is about."""
        vcpu = cls()
        vcpu.registers = dict(values["registers"])
        vcpu.selectors = dict(values["selectors"])
        vcpu.descriptors = {
            name: (entry["base"], entry["limit"], entry["access"]) for name, entry in values["descriptors"].items()
        }
        return vcpu

    def as_dict(self) -> dict[str, dict[str, object]]:
        """The vCPU's object in state.json."""
        return {
            "registers": dict(self.registers),
            "selectors": dict(self.selectors),
            "descriptors": {
                name: {"base": base, "limit": limit, "access": access}
                for name, (base, limit, access) in self.descriptors.items()
            },
        }


def setup_freebsd_registers(vcpu: Registers, rip: int, cr3: int, gdtbase: int, rsp: int) -> None:
    """vm_setup_freebsd_registers: 64-bit entry with paging on (libvmmapi)."""
    vcpu.registers.update(cr0=CR0_PE | CR0_NE | CR0_PG, cr4=CR4_PAE, efer=EFER_LME | EFER_LMA, rflags=0x2)
    vcpu.descriptors["cs"] = (0, 0, 0x209B)
    for name in _DATA_SEGMENTS:
        vcpu.descriptors[name] = (0, 0, 0x0093)
    vcpu.descriptors["tr"] = (0, 0, 0x008B)
    vcpu.descriptors["ldtr"] = (0, 0, 0x10000)
    vcpu.selectors.update(cs=0x08, ds=0x10, es=0x10, fs=0x10, gs=0x10, ss=0x10, tr=0, ldtr=0)
    vcpu.registers.update(rip=rip, cr3=cr3)
    vcpu.descriptors["gdtr"] = (gdtbase, 3 * 8 - 1, 0)
    vcpu.registers["rsp"] = rsp


def setup_freebsd_registers_i386(vcpu: Registers, memory: Writable, eip: int, gdtbase: int, esp: int) -> None:
    """vm_setup_freebsd_registers_i386: flat 32-bit entry; writes the GDT to guest memory (libvmmapi).

    Raises MemoryAccessError when the GDT does not lie in guest memory (libvmmapi's EFAULT).
    """
    vcpu.registers.update(cr0=CR0_PE | CR0_NE, cr4=0, efer=0)
    tss = gdtbase + I386_TSS_OFFSET
    if tss > 0xFFFFFF:
        raise MemoryAccessError(f"GDT at {gdtbase:#x}: a 32-bit guest's TSS must lie below 16 MiB")
    memory.write(gdtbase, struct.pack("<4Q", *_I386_GDT[:3], _I386_GDT[3] | tss << 16))
    vcpu.descriptors["gdtr"] = (gdtbase, 4 * 8 - 1, 0)
    vcpu.registers["rflags"] = 0x2
    vcpu.descriptors["cs"] = (0, 0xFFFFFFFF, 0xC09B)
    for name in _DATA_SEGMENTS:
        vcpu.descriptors[name] = (0, 0xFFFFFFFF, 0xC093)
    vcpu.descriptors["tr"] = (tss, I386_TSS_LIMIT, 0x8B)
    vcpu.descriptors["ldtr"] = (0, 0, 0x10000)
    vcpu.selectors.update(cs=0x08, ds=0x10, es=0x10, fs=0x10, gs=0x10, ss=0x10, tr=0x18, ldtr=0)
    vcpu.registers.update(rip=eip, rsp=esp)
