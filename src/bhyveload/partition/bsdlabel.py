"""BSD disklabels as loader(8) reads them (ptable_bsdread in stand/common/part.c)."""

from __future__ import annotations

from bhyveload.partition.bsdlabel_format import (
    BSD_NPARTS_MAX,
    BSD_NPARTS_MIN,
    BSD_PARTITION,
    D_MAGIC2_OFFSET,
    D_MAGIC_OFFSET,
    D_NPARTITIONS_OFFSET,
    D_PARTITIONS_OFFSET,
    D_SECSIZE_OFFSET,
    DISKLABEL_SIZE,
    DISKMAGIC,
    FS_BSDFFS,
    FS_SWAP,
    FS_VINUM,
    FS_ZFS,
    RAW_PART,
)
from bhyveload.partition.entry import FREEBSD_SWAP, FREEBSD_UFS, FREEBSD_VINUM, FREEBSD_ZFS, UNKNOWN, Entry

_TYPES = {FS_SWAP: FREEBSD_SWAP, FS_BSDFFS: FREEBSD_UFS, FS_VINUM: FREEBSD_VINUM, FS_ZFS: FREEBSD_ZFS}


def read_bsdlabel(sector: bytes, sector_size: int) -> list[Entry] | None:
    """The partitions of the label in ``sector`` (LABELSECTOR of a disk or slice), None when it holds no label.

    Index 0 is partition a.  Starts are relative to partition c, which itself is left out: that serves labels with
    absolute offsets and with relative ones.
    """
    if sector_size < DISKLABEL_SIZE:
        return None
    # Either magic will do, and the checksum is not looked at: so does loader(8).
    if _u32(sector, D_MAGIC_OFFSET) != DISKMAGIC and _u32(sector, D_MAGIC2_OFFSET) != DISKMAGIC:
        return None
    count = int.from_bytes(sector[D_NPARTITIONS_OFFSET : D_NPARTITIONS_OFFSET + 2], "little")
    if _u32(sector, D_SECSIZE_OFFSET) != sector_size or not BSD_NPARTS_MIN <= count <= BSD_NPARTS_MAX:
        return None
    end = D_PARTITIONS_OFFSET + count * BSD_PARTITION.size
    partitions = list(BSD_PARTITION.iter_unpack(sector[D_PARTITIONS_OFFSET:end]))
    base = partitions[RAW_PART][1]
    return [
        Entry(index, (offset - base) & 0xFFFFFFFF, size, _TYPES.get(fstype, UNKNOWN), raw_type=fstype)
        for index, (size, offset, _, fstype, _, _) in enumerate(partitions)
        if index != RAW_PART and size
    ]


def _u32(sector: bytes, offset: int) -> int:
    return int.from_bytes(sector[offset : offset + 4], "little")
