"""A guest on its way out of a loader, for what looks at it then."""

from __future__ import annotations

import os

from bhyveload.vm.memory import GuestMemory
from bhyveload.vm.registers import Registers, setup_freebsd_registers, setup_freebsd_registers_i386


def loaded_guest(memory_fd: int, size: int, wide: bool) -> tuple[GuestMemory, Registers]:
    """Zero memory behind ``memory_fd``, and the registers of an amd64 (``wide``) or an i386 kernel."""
    os.ftruncate(memory_fd, 0)
    os.ftruncate(memory_fd, size)
    memory = GuestMemory(memory_fd, size, 0, fresh=False)
    vcpu = Registers()
    if wide:
        setup_freebsd_registers(vcpu, 0xFFFFFFFF80200000, 0x3000, 0x5000, 0x1000)
    else:
        setup_freebsd_registers_i386(vcpu, memory, 0x800000, 0x3000, 0x1000)
    return memory, vcpu
