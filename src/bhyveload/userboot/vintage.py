"""Which FreeBSD an object is of: what table of callbacks it uses, which versions it accepts, how its loader behaves.

The table of FreeBSD 11.3 and before has no diskwrite (stand/userboot/userboot.h of releng/11.3; sys/boot/userboot of
10), and no version number changed when it came: in the older table every member behind diskread lies one slot lower.
An object shows its table in its exported functions delay() and exit(), each of which is little more than one call
through the member of its name.  FreeBSD 10's objects moreover accept no version but 3; those that know of other
interpreters (version 5) carry the mark by which loaders tell theirs.
"""

from __future__ import annotations

from bhyveload.bootable import INTERP_MARKER
from bhyveload.userboot.abi import OLD_VERSION, OldLoaderCallbackTable, callback_offset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.compat import LoaderVersion
    from bhyveload.userboot.mapper import MappedObject

_BANNER, _REVISION = b" User boot ", b", Revision "
_CURRENT_REVISION = 3  # 13.2's banner says 1.2, that of 2026 3.0
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


def accepted_version(data: bytes | memoryview, old: bool, version: int) -> int:
    """The version to offer the object whose file is ``data``, of ``version`` at most."""
    return version if not old or bytes(data).find(INTERP_MARKER) >= 0 else min(version, OLD_VERSION)


def behaviour(data: bytes) -> LoaderVersion:
    """Whose behaviour the object's loader has: "13.2" or "current", by the revision in its banner."""
    at = data.find(_REVISION, max(0, data.find(_BANNER)))
    major = data[at + len(_REVISION) :].partition(b".")[0] if at >= 0 else b""
    return "13.2" if major.isdigit() and len(major) < 4 and int(major) < _CURRENT_REVISION else "current"
