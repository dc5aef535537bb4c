"""What C's library has and Python's has not: strtol(3) and strtoul(3) as in libsa (stand/libsa/strtol.c, strtoul.c),
writing the whole of something, and giving back what is mapped."""

from __future__ import annotations

import errno
import mmap
import os
import select

LONG_MAX = (1 << 63) - 1
ULONG_MAX = (1 << 64) - 1
_SPACE = " \t\n\v\f\r"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def _scan(text: str, base: int, binary: bool = False) -> tuple[int, bool, int]:
    """(magnitude, negative, index behind the number); index 0 when there is no number.  ``binary``: 0b is a prefix."""
    at = 0
    while at < len(text) and text[at] in _SPACE:
        at += 1
    negative = text[at : at + 1] == "-"
    if text[at : at + 1] in ("-", "+"):
        at += 1
    if base in (0, 16) and text[at : at + 2].lower() == "0x" and text[at + 2 : at + 3].lower() in tuple(_DIGITS[:16]):
        at += 2
        base = 16
    elif base == 0 and binary and text[at : at + 2].lower() == "0b" and text[at + 2 : at + 3] in ("0", "1"):
        at += 2
        base = 2
    elif base == 0:
        base = 8 if text[at : at + 1] == "0" else 10
    start = at
    value = 0
    while at < len(text):
        digit = _DIGITS.find(text[at].lower())
        if not 0 <= digit < base:
            break
        value = min(value * base + digit, ULONG_MAX + 1)
        at += 1
    return (value, negative, at) if at > start else (0, False, 0)


def strtol(text: str, base: int = 0) -> tuple[int, int]:
    """(value, index of the first character that is no part of it); saturates at LONG_MIN and LONG_MAX."""
    value, negative, end = _scan(text, base)
    if negative:
        return max(-value, -LONG_MAX - 1), end
    return min(value, LONG_MAX), end


def strtoul(text: str, base: int = 0) -> tuple[int, int]:
    """(value modulo 2^64, index behind it); saturates at ULONG_MAX."""
    value, negative, end = _scan(text, base)
    if value > ULONG_MAX:
        return ULONG_MAX, end
    return (-value & ULONG_MAX if negative else value), end


def strtoul_errno(text: str, binary: bool) -> tuple[int, int, bool]:
    """``strtoul`` as FreeBSD's C library has it and whether errno stays 0; ``binary``: 0b is a prefix (14.0)."""
    value, negative, end = _scan(text, 0, binary)
    if value > ULONG_MAX:
        return ULONG_MAX, end, False
    return (-value & ULONG_MAX if negative else value), end, end > 0


def whole_long(text: str, unsigned: bool = False) -> int | None:
    """strtoll(text, &end, 0), or strtoull where ``unsigned``, that has to take all of ``text``: the number, None where
    there is something else in it or it does not fit (errno is set then)."""
    value, negative, end = _scan(text, 0)
    if not text or end != len(text) or value > (ULONG_MAX if unsigned else LONG_MAX + negative):
        return None
    return -value if negative else value


def write_all(fd: int, data: bytes | memoryview) -> None:
    """write(2) until nothing is left; a reader who is slow is waited for, whether ``fd`` blocks or not.
    Raises OSError."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select((), (fd,), ())


def pwrite_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """pwrite(2) until nothing is left.  Raises OSError: ENOSPC where the host takes nothing more."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        if not done:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view, offset = view[done:], offset + done


def to_int(value: int) -> int:
    """What a C int keeps of a long."""
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


def is_mapped(piece: bytes | bytearray | memoryview) -> bool:
    """Whether that is part of a mapped file, and so not yet read."""
    return isinstance(piece, memoryview) and isinstance(piece.obj, mmap.mmap)


def forget_mapped(piece: bytes | bytearray | memoryview) -> None:
    """Unmap what was just read of a mapped disk image (it stays in the page cache): else a process that loads a large
    kernel holds all of it, beside the guest's memory that it was copied to."""
    owner = piece.obj if isinstance(piece, memoryview) else None
    if isinstance(owner, mmap.mmap):
        owner.madvise(mmap.MADV_DONTNEED)
