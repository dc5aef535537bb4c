"""Which machine a command line loads into: a VM of the store (vm/store.py), one of vmm(4)'s through libvmmapi
(vm/freebsd.py), or none that stays (dry runs)."""

from __future__ import annotations

import sys

from bhyveload.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.vm.interface import Machine

AUTO, STORE, LIBVMMAPI = "auto", "store", "libvmmapi"


def check_vmm(choice: str) -> str:
    """``--vmm``'s argument: auto, store, libvmmapi or libvmmapi:PATH.  Raises UsageError."""
    kind, colon, path = choice.partition(":")
    if kind == LIBVMMAPI and (path or not colon):
        return choice
    if choice in (AUTO, STORE):
        return choice
    raise UsageError(f"--vmm knows auto, store, libvmmapi and libvmmapi:PATH, not '{choice}'")


def uses_vmm(choice: str) -> bool:
    """Whether the VM is one of vmm(4)'s: by default on FreeBSD."""
    return choice.startswith(LIBVMMAPI) or (choice == AUTO and sys.platform.startswith("freebsd"))


def open_machine(
    choice: str, name: str, memory: int, *, dry_run: bool = False, wired: bool = False, incore: bool = False
) -> Machine:
    """A machine named ``name`` with ``memory`` bytes of RAM, ready to be loaded.

    Raises HostError (no libvmmapi), VmNameError, VmMemoryError, VmBusy and the other VmErrors.
    """
    if dry_run:
        from bhyveload.vm.scratch import ScratchMachine

        return ScratchMachine(name, memory)
    if not uses_vmm(choice):
        from bhyveload.vm.store import VirtualMachine

        return VirtualMachine.create(name, memory)
    from bhyveload.vm.freebsd import VM_MEM_F_INCORE, VM_MEM_F_WIRED, FreebsdVirtualMachine, Vmmapi

    api = Vmmapi(choice.partition(":")[2])
    flags = (VM_MEM_F_INCORE if incore else 0) | (VM_MEM_F_WIRED if wired else 0)
    return FreebsdVirtualMachine.create(name, memory, api, flags)
