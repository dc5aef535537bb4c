"""GUID partition tables as loader(8) reads them (ptable_gptread in stand/common/part.c)."""

from __future__ import annotations

import zlib
from codecs import utf_16_le_decode  # "utf-16-le" would be imported when it is first used: too late in the child

from bhyveload.errors import FileSystemError
from bhyveload.partition.entry import (
    APFS,
    DOS,
    EFI,
    FREEBSD,
    FREEBSD_BOOT,
    FREEBSD_SWAP,
    FREEBSD_UFS,
    FREEBSD_VINUM,
    FREEBSD_ZFS,
    UNKNOWN,
    Entry,
)
from bhyveload.partition.gpt_format import (
    GPT_ENT,
    GPT_ENT_TYPE_APPLE_APFS,
    GPT_ENT_TYPE_EFI,
    GPT_ENT_TYPE_FREEBSD,
    GPT_ENT_TYPE_FREEBSD_BOOT,
    GPT_ENT_TYPE_FREEBSD_SWAP,
    GPT_ENT_TYPE_FREEBSD_UFS,
    GPT_ENT_TYPE_FREEBSD_VINUM,
    GPT_ENT_TYPE_FREEBSD_ZFS,
    GPT_ENT_TYPE_MS_BASIC_DATA,
    GPT_ENT_TYPE_UNUSED,
    GPT_HDR,
    GPT_HDR_CRC_OFFSET,
    GPT_HDR_REVISION,
    GPT_HDR_SIG,
    GPT_MIN_HDR_SIZE,
    guid_text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.partition.entry import ReadSectors

MAXTBLSZ = 64  # sectors of the entry array that loader(8) reads

_TYPES = {
    GPT_ENT_TYPE_EFI: EFI,
    GPT_ENT_TYPE_MS_BASIC_DATA: DOS,
    GPT_ENT_TYPE_FREEBSD_BOOT: FREEBSD_BOOT,
    GPT_ENT_TYPE_FREEBSD: FREEBSD,
    GPT_ENT_TYPE_FREEBSD_SWAP: FREEBSD_SWAP,
    GPT_ENT_TYPE_FREEBSD_UFS: FREEBSD_UFS,
    GPT_ENT_TYPE_FREEBSD_VINUM: FREEBSD_VINUM,
    GPT_ENT_TYPE_FREEBSD_ZFS: FREEBSD_ZFS,
    GPT_ENT_TYPE_APPLE_APFS: APFS,
}


class GptHeader:
    """A header that passed its checks; LBAs in sectors."""

    __slots__ = (
        "alternate",
        "array",
        "array_crc",
        "entries",
        "entry_size",
        "first_usable",
        "guid",
        "identity",
        "last_usable",
    )

    def __init__(self, raw: bytes) -> None:
        fields = GPT_HDR.unpack_from(raw)
        self.alternate: int = fields[6]
        self.first_usable: int = fields[7]
        self.last_usable: int = fields[8]
        self.guid: bytes = fields[9]
        self.array: int = fields[10]
        self.entries: int = fields[11]
        self.entry_size: int = fields[12]
        self.array_crc: int = fields[13]
        # What primary and backup must agree on: all but their own places, and the header's CRC that covers those.
        self.identity = (fields[1], fields[2], *fields[7:10], *fields[11:14])


def check_header(raw: bytes, lba: int, sector_size: int) -> GptHeader | None:
    """The header in sector ``lba``, or None when anything about it is wrong (gpt_checkhdr)."""
    signature, revision, size, crc, _, lba_self, lba_alternate = GPT_HDR.unpack_from(raw)[:7]
    if signature != GPT_HDR_SIG or not GPT_MIN_HDR_SIZE <= size <= sector_size:
        return None
    checked = raw[:GPT_HDR_CRC_OFFSET] + bytes(4) + raw[GPT_HDR_CRC_OFFSET + 4 : size]
    if zlib.crc32(checked) != crc or revision < GPT_HDR_REVISION:
        return None
    if lba_self != lba or lba_alternate == lba_self:
        return None
    header = GptHeader(raw)
    if header.entries == 0 or header.entry_size < GPT_ENT.size or sector_size % header.entry_size:
        return None
    return header


class GptTable:
    """A GUID partition table that is valid: ``sectors`` of the disk, its ``guid``, the ``entries``.

    ``backup_only``: the primary is not valid; ``media_sectors``: the disk's size as loader(8) has it."""

    __slots__ = ("backup_only", "entries", "guid", "media_sectors", "sectors")

    def __init__(self, sectors: int, guid: str, entries: list[Entry], backup_only: bool, media_sectors: int) -> None:
        self.sectors = sectors
        self.guid = guid
        self.entries = entries
        self.backup_only = backup_only
        self.media_sectors = media_sectors


def read_gpt(read: ReadSectors, sectors: int, sector_size: int) -> GptTable | None:
    """The primary or the backup; None when neither is valid.

    ``sectors`` is the size of the medium: where the backup is looked for when there is no primary.
    """
    primary = check_header(read(1, 1), 1, sector_size)
    array = _read_array(read, primary, sector_size) if primary else None
    if array is None:
        primary = None

    # A backup that is valid and says something else than the primary wins.
    place = primary.alternate if primary else sectors - 1
    backup = _read_backup(read, place, sector_size)
    chosen = primary
    if backup and (primary is None or backup.identity != primary.identity):
        backup_array = _read_array(read, backup, sector_size)
        if backup_array is not None:
            chosen, array = backup, backup_array
    if chosen is None or array is None:
        return None

    # loader(8) takes alternate + 1 from a backup header too, where that is the primary's place.
    media_sectors = (chosen.alternate + 1) & 0xFFFFFFFFFFFFFFFF
    disk_sectors = media_sectors if chosen is primary else sectors
    return GptTable(disk_sectors, guid_text(chosen.guid), _entries(chosen, array), primary is None, media_sectors)


def _read_backup(read: ReadSectors, lba: int, sector_size: int) -> GptHeader | None:
    try:
        return check_header(read(lba & 0xFFFFFFFFFFFFFFFF, 1), lba, sector_size)
    except FileSystemError:
        return None


def _read_array(read: ReadSectors, header: GptHeader, sector_size: int) -> bytes | None:
    """The part of the entry array that loader(8) looks at; None when unreadable or its CRC is wrong."""
    length = header.entries * header.entry_size
    count = min(MAXTBLSZ, -(-length // sector_size))
    try:
        array = read(header.array, count)
    except FileSystemError:
        return None
    # A longer array cannot be checked: its CRC covers what was not read (gpt_checktbl).
    if length <= len(array):
        array = array[:length]
        if zlib.crc32(array) != header.array_crc:
            return None
    return array


def _entries(header: GptHeader, array: bytes) -> list[Entry]:
    entries = []
    for position in range(min(header.entries, len(array) // header.entry_size)):
        ent_type, ent_uuid, first, last, _, name = GPT_ENT.unpack_from(array, position * header.entry_size)
        if ent_type == GPT_ENT_TYPE_UNUSED:
            continue
        if first < header.first_usable or last > header.last_usable or first > last:
            continue
        type_guid = guid_text(ent_type)
        entries.append(
            Entry(
                index=position + 1,
                start=first,
                size=last - first + 1,
                type=_TYPES.get(type_guid, UNKNOWN),
                label=utf_16_le_decode(name, "replace", True)[0].partition("\0")[0],
                guid=guid_text(ent_uuid),
                type_guid=type_guid,
            )
        )
    return entries
