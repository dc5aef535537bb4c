"""A VM without a name: guest memory that goes when its process goes (dry runs, comparisons)."""

from __future__ import annotations

import os

from bhyveload.vm.memory import GuestMemory, split_memory


class ScratchMachine:
    """What a load needs of a VirtualMachine, over anonymous memory.  Raises VmMemoryError for a bad size."""

    __slots__ = ("memory", "memory_size", "name")

    def __init__(self, name: str, memory_size: int) -> None:
        low, high = split_memory(memory_size)
        fd = os.memfd_create("guest", os.MFD_CLOEXEC)
        os.ftruncate(fd, memory_size)
        self.name = name
        self.memory_size = memory_size
        self.memory = GuestMemory(fd, low, high)

    def restart(self) -> GuestMemory:
        """Fresh, zero memory behind the same descriptor."""
        os.ftruncate(self.memory.fd, 0)
        os.ftruncate(self.memory.fd, self.memory_size)
        self.memory = GuestMemory(self.memory.fd, self.memory.low, self.memory.high)
        return self.memory

    def close(self) -> None:
        os.close(self.memory.fd)
