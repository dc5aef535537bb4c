"""A VM without a name: guest memory that goes when its process goes (dry runs, comparisons)."""

from __future__ import annotations

import os

from bhyveload.errors import VmError
from bhyveload.vm.huge_pages import ready
from bhyveload.vm.memory import GuestMemory, split_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhyveload.vm.registers import Registers


class ScratchMachine:
    """A Machine (vm/interface.py) over anonymous memory.  Raises VmMemoryError for a bad size.

    ``memory`` can be read once the guest is loaded, until ``close``.
    """

    __slots__ = ("_closed", "memory", "memory_size", "name")

    keeps = False
    starts_over = True

    def __init__(self, name: str, memory_size: int) -> None:
        low, high = split_memory(memory_size)
        fd = os.memfd_create("guest", os.MFD_CLOEXEC)
        os.ftruncate(fd, memory_size)
        self.name = name
        self.memory_size = memory_size
        self.memory = GuestMemory(fd, low, high, huge=ready())
        self._closed = False

    def recall(self) -> None:
        """Nothing is kept."""

    def loading(self) -> GuestMemory:
        """The memory to load into.  Raises VmError: it holds a guest already, or is closed."""
        if self._closed or not self.memory.fresh:
            raise VmError(f"VM '{self.name}' is not being loaded: it is closed, or holds a guest already")
        return self.memory

    def restart(self) -> GuestMemory:
        """Fresh, zero memory behind the same descriptor."""
        memory = self.loading()
        os.ftruncate(memory.fd, 0)
        os.ftruncate(memory.fd, self.memory_size)
        self.memory = GuestMemory(memory.fd, memory.low, memory.high, huge=ready())
        return self.memory

    def commit(
        self, vcpus: Sequence[Registers], loaded: dict[str, object], extra: dict[str, object] | None = None
    ) -> None:
        """The guest is loaded; nothing of it is kept but ``memory``."""
        memory = self.loading()
        self.memory = GuestMemory(memory.fd, memory.low, memory.high, fresh=False)

    def abandon(self) -> None:
        self.close()

    def close(self) -> None:
        """Let the memory go.  Calling it again does nothing."""
        if not self._closed:
            self._closed = True
            os.close(self.memory.fd)

    def __enter__(self) -> ScratchMachine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
