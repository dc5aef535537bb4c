"""Which calls of libvmmapi leave a vCPU as bhyveload(8) leaves it, in its order and under its names for what failed.

Source: usr.sbin/bhyveload/bhyveload.c (cb_setreg, cb_setmsr, cb_setcr, cb_setgdt, cb_exec),
lib/libvmmapi/amd64/vmmapi_freebsd_machdep.c.  libvmmapi exports vm_setup_freebsd_registers, too, but not what a
loader's own vm_set_register added.
"""

from __future__ import annotations

from bhyveload.vm.registers import SEGMENTS, VM_REG_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from bhyveload.vm.registers import Registers

    Call = tuple[str, str, tuple[int, ...]]  # what bhyveload.c says when it fails, the function, its arguments

VM_CAP_UNRESTRICTED_GUEST = 3
SETUP = "vm_setup_freebsd_registers"  # also what cb_exec says of the i386 one
GET_CAPABILITY = "vm_get_capability"
_NUMBERS = {name: number for number, name in enumerate(VM_REG_NAMES)}
_CALLBACKS = {
    "rsp": "vm_set_register",
    "efer": "vm_set_msr",
    "cr4": "vm_set_cr",
    "cr3": "vm_set_cr",
    "cr0": "vm_set_cr",
}
_AT_LAST = ("rip", "cr3", "gdtr", "rsp")


def register_calls(vcpu: Registers) -> Iterator[Call]:
    """The loader's callbacks, then what vm_setup_freebsd_registers or its i386 sibling does.

    The callbacks set what the registers are to be in the end: what a loader put there in between (CR4 with VMXE) is
    replaced a few calls later in C as well.
    """
    wide = vcpu.registers.get("efer") != 0
    for name, function in _CALLBACKS.items():
        if wide or name == "rsp":  # a 32-bit loader calls neither setmsr nor setcr
            yield from _set(vcpu, name, function)
    yield from _set(vcpu, "gdtr", "vm_set_desc(gdt)")
    for name in vcpu.registers:
        if name not in (*_CALLBACKS, "rip", "rflags"):
            yield from _set(vcpu, name, "vm_set_register")
    if not wide:
        yield SETUP, GET_CAPABILITY, (VM_CAP_UNRESTRICTED_GUEST,)
        yield SETUP, "vm_set_capability", (VM_CAP_UNRESTRICTED_GUEST, 1)
    for name in ("cr0", "cr4", "efer", *(() if wide else ("gdtr",)), "rflags"):
        yield from _set(vcpu, name, SETUP)
    for name in SEGMENTS:
        yield from _set(vcpu, name, SETUP)
    for name in vcpu.descriptors:
        if name not in (*SEGMENTS, "gdtr"):
            yield from _set(vcpu, name, SETUP)
    for name in SEGMENTS:
        if name in vcpu.selectors:
            yield SETUP, "vm_set_register", (_NUMBERS[name], vcpu.selectors[name])
    for name in _AT_LAST if wide else ("rip", "rsp"):
        yield from _set(vcpu, name, SETUP)


def _set(vcpu: Registers, name: str, what: str) -> Iterator[Call]:
    """Nothing for what nobody set: it keeps its value of a reset."""
    if name in vcpu.descriptors:
        yield what, "vm_set_desc", (_NUMBERS[name], *vcpu.descriptors[name])
    elif name in vcpu.registers:
        yield what, "vm_set_register", (_NUMBERS[name], vcpu.registers[name])
