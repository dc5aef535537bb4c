"""What a hand-off needs of a VM: vm.store.VirtualMachine has it, and so has a test's own directory."""

from __future__ import annotations

from bhyveload.errors import VmNotLoaded
from bhyveload.vm.directory import as_operand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from bhyveload.vm.memory import GuestMemory

    class LoadedMachine(Protocol):
        """A loaded, locked VM: ``path`` is its directory, with the file ``memory``; ``state`` its parsed state.json."""

        @property
        def name(self) -> str: ...
        @property
        def path(self) -> str: ...
        @property
        def memory(self) -> GuestMemory | None: ...
        @property
        def state(self) -> dict[str, Any] | None: ...


def loaded(vm: LoadedMachine) -> tuple[GuestMemory, dict[str, Any]]:
    """Memory and state of a VM that holds a guest.  Raises VmNotLoaded."""
    if vm.state is None or vm.memory is None:
        raise VmNotLoaded(f"VM '{vm.name}' holds no loaded guest", f"load one: bhyveload -d disk {as_operand(vm.name)}")
    return vm.memory, vm.state
