"""Which loader_callbacks table an object was built for: the one of FreeBSD 12 and later, or the older one.

Until 2018 the table had no diskwrite (stand/userboot/userboot.h; sys/boot/userboot/userboot.h of FreeBSD 10), and the
version number did not change when it came, so every member behind diskread lies one slot lower.  FreeBSD 10's objects
moreover accept no version but 3.  An object shows its table in its exported functions delay() and exit(), each of which
is little more than one call through the member of its name.
"""

from __future__ import annotations

from bhyveload.userboot.abi import OldLoaderCallbackTable, callback_offset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.userboot.mapper import MappedObject

_WITNESSES = ("delay", "exit")
_WINDOW = 96  # bytes of program: the call is near the start, at every level of optimisation
_SIB = 4
_CALL, _JUMP = 2, 4


def has_old_table(mapped: MappedObject) -> bool:
    """Whether ``mapped`` calls its callbacks through the table without diskwrite.

    An object that lacks the witnesses, or in which they disagree, is a new one.
    """
    return all(_member_offset(mapped, name) == callback_offset(name, OldLoaderCallbackTable) for name in _WITNESSES)


def _member_offset(mapped: MappedObject, name: str) -> int:
    """Offset in the table that the object's function ``name`` calls through; 0 when that cannot be seen."""
    address = mapped.lookup(name)
    if address is None or not mapped.executable(address):
        return 0
    at = address - mapped.address
    program = bytes(mapped.image[at : at + _WINDOW])
    possible = {callback_offset(name), callback_offset(name, OldLoaderCallbackTable)}
    for index in range(len(program) - 5):
        offset = _displacement(program, index)
        if offset in possible:
            return offset
    return 0


def _displacement(program: bytes, index: int) -> int:
    """The 32-bit displacement of an instruction `call`, `jmp` or 64-bit `mov` through [register + displacement] whose
    operation code is at ``index``; 0 for anything else."""
    operation, modrm = program[index], program[index + 1]
    kind = modrm >> 3 & 7
    if operation not in (0xFF, 0x8B) or modrm >> 6 != 2 or modrm & 7 == _SIB:
        return 0
    if operation == 0xFF and kind not in (_CALL, _JUMP):
        return 0
    return int.from_bytes(program[index + 2 : index + 6], "little")
