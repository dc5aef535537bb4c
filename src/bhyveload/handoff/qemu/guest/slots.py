"""Where bhyve's PCI devices sit on the bus of QEMU's ``pc`` machine.

That machine has its own devices in two slots: the host bridge in 0, and in 1 PIIX3's ISA bridge (function 0), IDE (1)
and power management (3).  bhyve's host and LPC bridges need no place, all from slot 2 on keep theirs; what the command
line has in slots 0 and 1 goes to the free functions of slot 1, in front of the others as it was.  A further bus is a
bridge in a slot that nobody uses.
"""

from __future__ import annotations

from bhyveload.errors import HandoffError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from bhyveload.bhyve.emulations import Address

FIRST_SLOT, LAST_SLOT = 2, 31
_SPARE_FUNCTIONS = (4, 5, 6, 7, 2)  # of PIIX3's slot; 2 is USB's, which this machine lacks


class Slots:
    """The places for the devices at ``addresses``."""

    def __init__(self, addresses: Iterable[Address]) -> None:
        """Raises HandoffError: more devices in slots 0 and 1 than there is room for."""
        self._places: dict[Address, str] = {}
        self._ids: dict[Address, str] = {}
        self.bridges: list[str] = []  # -device arguments for further buses, to stand in front
        ordered = sorted(set(addresses))
        self._taken: set[int] = {address.slot for address in ordered if address.bus == 0}
        spare = list(_SPARE_FUNCTIONS)
        buses: dict[int, str] = {}
        for address in ordered:
            self._ids[address] = f"pci{address.bus}.{address.slot}.{address.function}"
            if address.bus:
                if address.bus not in buses:
                    buses[address.bus] = self._bridge(address.bus)
                self._places[address] = f"bus={buses[address.bus]},{_addr(address.slot, address.function)}"
            elif address.slot >= FIRST_SLOT:
                self._places[address] = _addr(address.slot, address.function)
            else:
                if not spare:
                    raise HandoffError(
                        f"pci slot {address}: slots 0 and 1 have room for {len(_SPARE_FUNCTIONS)} devices here",
                        "move it to a slot from 2 on",
                    )
                self._places[address] = f"addr=0x1.{spare.pop(0):#x}"

    def _bridge(self, bus: int) -> str:
        name = f"bus{bus}"
        slot = self.free_slot(FIRST_SLOT)
        self.bridges += ["-device", f"pci-bridge,id={name},chassis_nr={bus},shpc=off,{_addr(slot, 0)}"]
        return name

    def free_slot(self, after: int) -> int:
        """A slot of bus 0 that nobody has, behind ``after`` where possible; taken from now on.  Raises HandoffError."""
        slots: list[int] = [*range(after + 1, LAST_SLOT + 1), *range(FIRST_SLOT, after + 1)]
        for slot in slots:
            if slot not in self._taken:
                self._taken.add(slot)
                return slot
        raise HandoffError("no PCI slot is left for the guest's devices", "give it fewer")

    def name(self, address: Address) -> str:
        """The id of the device at ``address``, as part of other ids."""
        return self._ids[address]

    def place(self, address: Address) -> str:
        """Where it sits: the end of its -device argument."""
        return self._places[address]


def _addr(slot: int, function: int) -> str:
    """QEMU reads both in hexadecimal.  Function 0 says that there may be more of them, as bhyve's always may."""
    return f"addr={slot:#x}.{function:#x},multifunction=on"
