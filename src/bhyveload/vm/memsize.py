"""The memory sizes that ``-m`` takes (vm_parse_memsize).

Source: lib/libvmmapi/vmmapi.c, lib/libutil/expand_number.c, lib/libc/stdlib/strtoul.c.
"""

from __future__ import annotations

from bhyveload.errors import UsageError
from bhyveload.libc import ULONG_MAX, strtoul_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.compat import LoaderVersion

MB = 1 << 20
_WHITE_SPACE = " \t\n\v\f\r"
_UNIT_SHIFTS = {"k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}
_HINT = "give a number of MiB or a number with a unit: 512, 512M, 4G"


def parse_memory_size(text: str, compat: LoaderVersion = "current") -> int:
    """Bytes of guest memory that ``-m text`` asks for, as FreeBSD's libvmmapi of that version computes them.

    A bare number below 1048576 counts MiB.  The result may still be no VM's size (0, 1, 2**64-1): split_memory says so.
    Raises UsageError: not a number, unknown unit, out of range.
    """
    plain = text.encode("ascii", "replace").decode()  # C sees bytes: no other alphabet has digits or units
    number, end, _ = strtoul_errno(plain, compat != "13.2")
    if plain and end == len(plain):
        # strtoul's ERANGE goes unnoticed here: too many digits are 2**64-1 bytes
        return number * MB if number < MB else number
    size = _expand_13(plain) if compat == "13.2" else _expand_current(plain)
    if size is None:
        raise UsageError(f"Invalid memsize '{text}'", _HINT)
    return size


def _expand_13(text: str) -> int | None:
    """expand_number of 13.2: what follows the unit letter is ignored; None for its EINVAL and ERANGE."""
    number, end, valid = strtoul_errno(text, binary=False)
    if not valid:
        return None
    unit = text[end : end + 1].lower()
    if unit in ("", "b"):
        return number
    return _shift(number, _UNIT_SHIFTS.get(unit))


def _expand_current(text: str) -> int | None:
    """expand_unsigned: white space, one sign, a digit, a unit, perhaps a ``b``, nothing more."""
    rest = text.lstrip(_WHITE_SPACE)
    negative = rest[:1] == "-"
    if rest[:1] in ("-", "+"):
        rest = rest[1:]
    if not rest or rest[0] not in "0123456789":
        return None
    number, end, valid = strtoul_errno(rest, binary=True)
    if not valid:
        return None
    unit = rest[end : end + 1].lower()
    shift = _UNIT_SHIFTS.get(unit, 0)
    if shift:
        end += 1
    if rest[end : end + 1].lower() == "b":
        end += 1
    if end != len(rest) or (negative and number):
        return None
    return _shift(number, shift)


def _shift(number: int, shift: int | None) -> int | None:
    if shift is None or number << shift > ULONG_MAX:
        return None
    return number << shift
