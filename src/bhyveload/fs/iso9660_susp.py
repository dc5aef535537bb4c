"""Rock Ridge: the System Use entries behind a directory record, and the names and links they hold.

libsa's reading of them is stand/libsa/cd9660.c (susp_lookup_record, rrip_check, rrip_lookup_name).
``read_block`` everywhere: block number -> its 2048 bytes; it raises FileSystemError(EIO) outside the device.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.fs.iso9660_format import (
    DIRECTORY_RECORD_DATE,
    DIRECTORY_RECORD_NAME,
    ISO_DEFAULT_BLOCK_SIZE,
    ISO_SUSP_CFLAG_CONTINUE,
    ISO_SUSP_CFLAG_CURRENT,
    ISO_SUSP_CFLAG_PARENT,
    ISO_SUSP_CFLAG_ROOT,
    RRIP_ATTRIBUTES,
    RRIP_FLAGS,
    RRIP_LINK,
    RRIP_NAME,
    RRIP_PX,
    RRIP_TF_CREATION,
    RRIP_TF_LONG_FORM,
    RRIP_TF_MODIFY,
    RRIP_TIMES,
    SUSP_CE,
    SUSP_CONTINUATION,
    SUSP_EXTREF,
    SUSP_HEADER_SIZE,
    SUSP_PRESENT,
    SUSP_PRESENT_CHECK,
    SUSP_PRESENT_SIZE,
    SUSP_STOP,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CONTINUATIONS = 32  # continuation areas of one record
MAX_ENTRIES = 1024  # System Use entries of one record


def susp_entries(read_block: Callable[[int], bytes], record: bytes, skip: int) -> list[tuple[bytes, bytes]]:
    """(two letters, whole entry) of each System Use entry of ``record``, continuation areas followed.

    ``skip`` is the volume's len_skp.  What is malformed ends the list, as it ends libsa's search.
    """
    name_len = record[DIRECTORY_RECORD_NAME - 1]
    area = record[DIRECTORY_RECORD_NAME + name_len + (1 - name_len % 2) + skip :]
    entries: list[tuple[bytes, bytes]] = []
    for _ in range(MAX_CONTINUATIONS):
        continuation = None
        position = 0
        while position + SUSP_HEADER_SIZE <= len(area):
            kind = area[position : position + 2]
            entry = area[position : position + area[position + 2]]
            if kind == SUSP_STOP or len(entry) < SUSP_HEADER_SIZE or len(entries) >= MAX_ENTRIES:
                break
            if kind == SUSP_CONTINUATION and len(entry) >= SUSP_CE.size:
                continuation = entry
            else:
                entries.append((kind, entry))
            position += len(entry)
        if continuation is None:
            break
        block, offset, length = SUSP_CE.unpack_from(continuation)
        try:
            area = read_block(block)[offset : min(offset + length, ISO_DEFAULT_BLOCK_SIZE)]
        except FileSystemError:
            break
    return entries


def rrip_check(read_block: Callable[[int], bytes], record: bytes) -> int | None:
    """The volume's len_skp if ``record``, the root's `.`, says that Rock Ridge is in use: SP first, and some ER."""
    if len(record) < DIRECTORY_RECORD_NAME:
        return None
    start = DIRECTORY_RECORD_NAME + record[DIRECTORY_RECORD_NAME - 1]
    present = record[start : start + SUSP_PRESENT_SIZE]
    if len(present) < SUSP_PRESENT_SIZE or present[:2] != SUSP_PRESENT or present[2] != SUSP_PRESENT_SIZE:
        return None
    if present[4:6] != SUSP_PRESENT_CHECK:
        return None
    if not any(kind == SUSP_EXTREF for kind, _ in susp_entries(read_block, record, 0)):
        return None
    return present[6]


def rock_ridge_name(entries: list[tuple[bytes, bytes]], strict: bool) -> bytes | None:
    """The name in the NM entries; None: there is none that libsa understands (``strict``) or none at all."""
    name = b""
    found = False
    for kind, entry in entries:
        if kind != RRIP_NAME or len(entry) <= RRIP_FLAGS:
            continue
        flags = entry[RRIP_FLAGS]
        if flags == ISO_SUSP_CFLAG_CURRENT and not found:
            return b"."
        if flags == ISO_SUSP_CFLAG_PARENT and not found:
            return b".."
        if flags & ~ISO_SUSP_CFLAG_CONTINUE or (strict and flags):
            return None
        found = True
        name += entry[RRIP_FLAGS + 1 :]
        if not flags & ISO_SUSP_CFLAG_CONTINUE:
            break
    return name if found else None


def iso_name(stored: bytes) -> bytes:
    """An ISO name as it is shown: bytes 00 and 01 stand for `.` and `..`."""
    return b"." if stored == b"\0" else b".." if stored == b"\1" else stored


def link_text(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A symbolic link's text from its SL entries: component records of flags, length and text."""
    components: list[bytes] = []
    open_ended = False  # the last component goes on in the next record
    for kind, entry in entries:
        if kind != RRIP_LINK:
            continue
        position = RRIP_FLAGS + 1
        while position + 2 <= len(entry):
            flags, length = entry[position], entry[position + 1]
            text = entry[position + 2 : position + 2 + length]
            position += 2 + length
            if flags & ISO_SUSP_CFLAG_ROOT:
                text = b""
            elif flags & ISO_SUSP_CFLAG_PARENT:
                text = b".."
            elif flags & ISO_SUSP_CFLAG_CURRENT:
                text = b"."
            if open_ended:
                components[-1] += text
            else:
                components.append(text)
            open_ended = bool(flags & ISO_SUSP_CFLAG_CONTINUE)
    return b"/" if components == [b""] else b"/".join(components)


def attributes(record: bytes, entries: list[tuple[bytes, bytes]]) -> tuple[int, int, int, int] | None:
    """(mode, uid, gid, time of the last change) by PX and TF; the time by the record itself where TF has none.

    None without PX: a volume without Rock Ridge has no more than ``changed`` tells.
    """
    found: tuple[int, int, int] | None = None
    time = changed(record)
    for kind, entry in entries:
        if kind == RRIP_ATTRIBUTES and len(entry) >= RRIP_PX.size and found is None:
            mode, _, uid, gid = RRIP_PX.unpack_from(entry)
            found = mode, uid, gid
        elif kind == RRIP_TIMES and len(entry) > RRIP_FLAGS:
            time = _modified(entry, time)
    return None if found is None else (found[0], found[1], found[2], time)


def changed(record: bytes) -> int:
    """The date of a directory record in seconds since 1970; 0 when it is none."""
    return _seconds(record[DIRECTORY_RECORD_DATE])


def _modified(entry: bytes, otherwise: int) -> int:
    flags = entry[RRIP_FLAGS]
    size = 17 if flags & RRIP_TF_LONG_FORM else 7
    start = RRIP_FLAGS + 1 + (size if flags & RRIP_TF_CREATION else 0)
    date = entry[start : start + size]
    if not flags & RRIP_TF_MODIFY or len(date) < size:
        return otherwise
    if size == 7:
        return _seconds(date)
    digits = date[:14]
    if not digits.isdigit():
        return otherwise
    numbers = [int(digits[:4]) - 1900, *(int(digits[at : at + 2]) for at in range(4, 14, 2))]
    return _seconds(bytes([*numbers, date[16]])) if 0 <= numbers[0] < 256 else otherwise


def _seconds(date: bytes) -> int:
    if len(date) < 7 or not (1 <= date[1] <= 12 and 1 <= date[2] <= 31):
        return 0
    year, month, day, hour, minute, second, quarters = date[:7]
    zone = (quarters - 256 if quarters > 127 else quarters) * 900
    # days from 1970-01-01 in the Gregorian calendar, years beginning in March
    year, month = 1900 + year - (month < 3), (month + 9) % 12
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + day - 719469
    return days * 86400 + hour * 3600 + minute * 60 + second - zone
