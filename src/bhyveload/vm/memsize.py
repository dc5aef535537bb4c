"""The memory sizes that ``-m`` takes (vm_parse_memsize).

Source: lib/libvmmapi/vmmapi.c, lib/libutil/expand_number.c, lib/libc/stdlib/strtoul.c.
"""

from __future__ import annotations

from bhyveload.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.compat import LoaderVersion

MB = 1 << 20
_ULONG_MAX = (1 << 64) - 1
_WHITE_SPACE = " \t\n\v\f\r"
_DIGITS = "0123456789abcdef"
_UNIT_SHIFTS = {"k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}
_HINT = "give a number of MiB or a number with a unit: 512, 512M, 4G"


def parse_memory_size(text: str, compat: LoaderVersion = "current") -> int:
    """Bytes of guest memory that ``-m text`` asks for, as FreeBSD's libvmmapi of that version computes them.

    A bare number below 1048576 counts MiB.  The result may still be no VM's size (0, 1, 2**64-1): split_memory says so.
    Raises UsageError: not a number, unknown unit, out of range.
    """
    plain = text.encode("ascii", "replace").decode()  # C sees bytes: no other alphabet has digits or units
    number, end, _ = _strtoul(plain, compat)
    if plain and end == len(plain):
        # strtoul's ERANGE goes unnoticed here: too many digits are 2**64-1 bytes
        return number * MB if number < MB else number
    size = _expand_13(plain) if compat == "13.2" else _expand_current(plain)
    if size is None:
        raise UsageError(f"Invalid memsize '{text}'", _HINT)
    return size


def _strtoul(text: str, compat: LoaderVersion) -> tuple[int, int, bool]:
    """strtoul(text, &end, 0) with a 64-bit long: (value, end, whether errno stays 0)."""
    at = len(text) - len(text.lstrip(_WHITE_SPACE))
    negative = text[at : at + 1] == "-"
    if text[at : at + 1] in ("-", "+"):
        at += 1
    base, digits_at = _base(text, at, compat)
    end = digits_at
    value = 0
    digits = _DIGITS[:base]
    while end < len(text) and text[end].lower() in digits:
        value = min(value * base + digits.index(text[end].lower()), _ULONG_MAX + 1)
        end += 1
    if end == digits_at:
        return 0, 0, False
    if value > _ULONG_MAX:
        return _ULONG_MAX, end, False
    return (-value & _ULONG_MAX if negative else value), end, True


def _base(text: str, at: int, compat: LoaderVersion) -> tuple[int, int]:
    """(base, where its digits start): a prefix counts only in front of a digit of its base."""
    prefix, digit = text[at : at + 2].lower(), text[at + 2 : at + 3].lower()
    if prefix == "0x" and digit and digit in _DIGITS:
        return 16, at + 2
    if prefix == "0b" and digit and digit in "01" and compat != "13.2":  # strtoul of 14.0 and later
        return 2, at + 2
    return (8 if text[at : at + 1] == "0" else 10), at


def _expand_13(text: str) -> int | None:
    """expand_number of 13.2: what follows the unit letter is ignored; None for its EINVAL and ERANGE."""
    number, end, valid = _strtoul(text, "13.2")
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
    number, end, valid = _strtoul(rest, "current")
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
    if shift is None or number << shift > _ULONG_MAX:
        return None
    return number << shift
