"""Master boot records and chains of extended partitions as loader(8) reads them (stand/common/part.c)."""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.partition.entry import DOS, FREEBSD, LINUX, LINUX_SWAP, UNKNOWN, Entry
from bhyveload.partition.mbr_format import (
    DOS_PARTITION,
    DOS_PARTITIONS_SIZE,
    DOSMAGIC,
    DOSMAGICOFFSET,
    DOSPARTOFF,
    DOSPTYP_386BSD,
    DOSPTYP_DOS,
    DOSPTYP_EXT,
    DOSPTYP_EXTLBA,
    DOSPTYP_LINSWP,
    DOSPTYP_LINUX,
    DOSPTYP_NTFS,
    DOSPTYP_PMBR,
    DP_ACTIVE,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.partition.entry import ReadSectors

    Slots = list[tuple[int, int, int, int]]  # four of (dp_flag, dp_typ, dp_start, dp_size)

MAXEBRENTRIES = 8  # loader(8) follows an extended chain no further
FIRST_LOGICAL = 5

_TYPES = {
    DOSPTYP_386BSD: FREEBSD,
    DOSPTYP_LINSWP: LINUX_SWAP,
    DOSPTYP_LINUX: LINUX,
    DOSPTYP_NTFS: DOS,
    **dict.fromkeys(DOSPTYP_DOS, DOS),
}


def has_magic(sector: bytes) -> bool:
    """Whether the sector ends as a boot sector does (55 AA)."""
    return sector[DOSMAGICOFFSET : DOSMAGICOFFSET + 2] == DOSMAGIC


def slots_of(sector: bytes) -> Slots:
    """The four entries of a boot sector as they are."""
    return list(DOS_PARTITION.iter_unpack(sector[DOSPARTOFF : DOSPARTOFF + DOS_PARTITIONS_SIZE]))


def is_sane(slots: Slots) -> bool:
    """Whether all boot flags are 00 or 80: code in place of a table rarely looks so."""
    return all(flag in (0, DP_ACTIVE) for flag, _, _, _ in slots)


def is_protective(slots: Slots) -> bool:
    """Whether the record only guards a GPT."""
    return any(typ == DOSPTYP_PMBR and start == 1 for _, typ, start, _ in slots)


def read_mbr(read: ReadSectors, slots: Slots) -> list[Entry]:
    """Primary partitions (index 1-4) and the logical ones of the first extended partition (index 5...)."""
    entries = [
        _entry(number, start, size, typ, flag)
        for number, (flag, typ, start, size) in enumerate(slots, 1)
        if typ and start and size
    ]
    for entry in entries:
        if entry.raw_type in (DOSPTYP_EXT, DOSPTYP_EXTLBA):
            return entries + _logical(read, entry.start)
    return entries


def _logical(read: ReadSectors, base: int) -> list[Entry]:
    """Follow a chain of extended boot records from sector ``base`` (ptable_ebrread).  Sums wrap at 32 bits there."""
    entries: list[Entry] = []
    offset = base
    for _ in range(MAXEBRENTRIES):
        try:
            (flag, typ, start, size), (_, next_type, next_start, _), *_ = slots_of(read(offset, 1))
        except FileSystemError:
            break
        if typ == 0:
            break
        if typ == DOSPTYP_EXT and next_type == 0:
            offset = (base + start) & 0xFFFFFFFF
            continue
        number = FIRST_LOGICAL + len(entries)
        entries.append(_entry(number, (offset + start) & 0xFFFFFFFF, size, typ, flag))
        if next_type == 0:
            break
        offset = (base + next_start) & 0xFFFFFFFF
    return entries


def _entry(index: int, start: int, size: int, typ: int, flag: int) -> Entry:
    return Entry(index, start, size, _TYPES.get(typ, UNKNOWN), raw_type=typ, active=bool(flag & DP_ACTIVE))
