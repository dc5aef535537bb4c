"""Which partition table a disk or slice has, and which of its partitions boots.

Sources: stand/common/part.c (ptable_open, ptable_getbestpart).
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import ENXIO
from bhyveload.partition import bsdlabel, gpt, mbr
from bhyveload.partition.bsdlabel_format import LABELSECTOR
from bhyveload.partition.entry import DOS, FREEBSD_UFS, FREEBSD_ZFS, ISO9660_TYPE, Entry
from bhyveload.partition.gpt_format import GPT_HDR_SIG
from bhyveload.partition.mbr_format import DOSPTYP_386BSD, DOSPTYP_DOS, DOSPTYP_LINUX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.device import Device
    from bhyveload.partition.entry import ReadSectors

GPT = "gpt"
MBR = "mbr"
BSD = "bsd"
ISO9660 = "iso9660"
NONE = "none"

SECTOR_SIZE = 512
LARGE_SECTOR_SIZE = 4096

ISO_DESCRIPTOR_OFFSET = 16 * 2048
ISO_IDENTIFIER = b"CD001"


class PartitionTable:
    """A partition table, read once: keep it as long as the disk is open.

    ``start``: byte where the disk or slice begins; ``sectors`` of ``sector_size`` bytes in it; ``guid``: of a GPT;
    ``backup_only``: a GPT without a valid primary.  ``mediasize``: bytes that loader(8) takes the disk to have: with a
    GPT up to the other header of the one it believes, so 1024 where that is the backup (ptable_gptread).
    """

    __slots__ = (
        "_device",
        "_inside",
        "backup_only",
        "entries",
        "guid",
        "kind",
        "mediasize",
        "sector_size",
        "sectors",
        "start",
    )

    def __init__(
        self,
        device: Device,
        start: int,
        sectors: int,
        sector_size: int,
        kind: str,
        entries: list[Entry],
        guid: str = "",
        backup_only: bool = False,
        mediasize: int | None = None,
    ) -> None:
        self._device = device
        self._inside: dict[int, PartitionTable] = {}
        self.start = start
        self.sectors = sectors
        self.sector_size = sector_size
        self.kind = kind
        self.entries = entries
        self.guid = guid
        self.backup_only = backup_only
        self.mediasize = sectors * sector_size if mediasize is None else mediasize

    def entry(self, index: int) -> Entry | None:
        """The first entry with that index (ptable_getpart)."""
        return next((entry for entry in self.entries if entry.index == index), None)

    def byte_offset(self, entry: Entry) -> int:
        """Where a partition begins, in bytes of the device that the table was read from."""
        return self.start + entry.start * self.sector_size

    def byte_size(self, entry: Entry) -> int:
        """How long a partition claims to be, in bytes."""
        return entry.size * self.sector_size

    def inside(self, entry: Entry) -> PartitionTable:
        """The table inside a partition (a BSD label in a slice), read at the first call.  Raises as read_table."""
        nested = self._inside.get(entry.index)
        if nested is None:
            nested = read_table(self._device, self.byte_offset(entry), entry.size, self.sector_size)
            self._inside[entry.index] = nested
        return nested

    def name(self, entry: Entry) -> str:
        """What loader(8) puts behind the disk's name: `p2`, `s1`, `a`, or nothing (ptable_iterate)."""
        if self.kind == GPT:
            return f"p{entry.index}"
        if self.kind == MBR:
            return f"s{entry.index}"
        if self.kind == BSD:
            return chr(ord("a") + entry.index)
        return ""


def read_table(
    device: Device, start: int = 0, sectors: int | None = None, sector_size: int | None = None
) -> PartitionTable:
    """The partition table of a whole disk, or of the ``sectors`` sectors from byte ``start`` (ptable_open).

    Without ``sector_size``: 512 as bhyveload(8) has it, or 4096 when only that shows a GPT (beyond FreeBSD).
    No table at all is kind "none".  Raises FileSystemError(ENXIO) when the disk cannot be read.
    """
    if sector_size is not None:
        return _read_table(device, start, sectors, sector_size)
    table = _read_table(device, start, sectors, SECTOR_SIZE)
    if table.kind == NONE and start == 0 and _has_large_sectors(device):
        large = _read_table(device, start, None, LARGE_SECTOR_SIZE)
        if large.kind == GPT:
            return large
    return table


def best_partition(table: PartitionTable) -> Entry | None:
    """The partition that loader(8) boots when none is named; what is in it does not matter (ptable_getbestpart)."""
    ranked = [(rank, place, entry) for place, entry in enumerate(table.entries) if (rank := _rank(table.kind, entry))]
    return min(ranked, default=(0, 0, None))[2]


def _rank(kind: str, entry: Entry) -> int:
    """1 is best, 0 never chosen.  A GPT has no active flag."""
    if kind == GPT:
        if entry.type in (FREEBSD_UFS, FREEBSD_ZFS):
            return 2
        return 6 if entry.type == DOS else 0
    if kind != MBR:
        return 0
    if entry.raw_type == DOSPTYP_386BSD:
        rank = 2
    elif entry.raw_type == DOSPTYP_LINUX:
        rank = 4
    elif entry.raw_type in DOSPTYP_DOS:
        rank = 6
    else:
        return 0
    return rank - 1 if entry.active else rank


def _read_table(device: Device, start: int, sectors: int | None, sector_size: int) -> PartitionTable:
    if sectors is None:
        sectors = max(0, device.size - start) // sector_size
    try:
        return _detect(device, start, sectors, sector_size)
    except FileSystemError as error:
        raise FileSystemError(ENXIO, f"partition table: {error.message}") from None


def _detect(device: Device, start: int, sectors: int, sector_size: int) -> PartitionTable:
    """ptable_open: ISO 9660 and a BSD label come before GPT and MBR."""
    read = _sector_reader(device, start, sector_size)

    def table(kind: str, entries: list[Entry]) -> PartitionTable:
        return PartitionTable(device, start, sectors, sector_size, kind, entries)

    boot_sector = read(0, 1)
    if read(ISO_DESCRIPTOR_OFFSET // sector_size, 1)[1:6] == ISO_IDENTIFIER:
        return table(ISO9660, [Entry(0, 0, sectors, ISO9660_TYPE)])
    partitions = bsdlabel.read_bsdlabel(read(LABELSECTOR, 1), sector_size)
    if partitions is not None:
        return table(BSD, partitions)

    slots = mbr.slots_of(boot_sector)
    magic = mbr.has_magic(boot_sector)
    if magic and not mbr.is_sane(slots):
        return table(NONE, [])
    if magic and not mbr.is_protective(slots):
        return table(MBR, mbr.read_mbr(read, slots))
    found = gpt.read_gpt(read, sectors, sector_size)
    if found is None:
        return table(NONE, [])
    mediasize = found.media_sectors * sector_size
    return PartitionTable(
        device, start, found.sectors, sector_size, GPT, found.entries, found.guid, found.backup_only, mediasize
    )


def _sector_reader(device: Device, start: int, sector_size: int) -> ReadSectors:
    """Reads beyond the medium succeed and give zeros: an empty file opens as disk0:."""

    def read(lba: int, count: int) -> bytes:
        offset = start + lba * sector_size
        length = count * sector_size
        there = max(0, min(length, device.size - offset))
        return bytes(device.read(offset, there) if there else b"").ljust(length, b"\0")

    return read


def _has_large_sectors(device: Device) -> bool:
    if device.size < 2 * LARGE_SECTOR_SIZE:
        return False
    return bytes(device.read(LARGE_SECTOR_SIZE, len(GPT_HDR_SIG))) == GPT_HDR_SIG
