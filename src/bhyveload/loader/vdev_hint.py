"""A cheap look whether a disk can hold ZFS at all, so that the ZFS reader is imported only for such disks.

The label's packed nvlist starts 16 KiB into each of the four labels (spec/zfs.md 1): encoding XDR, then version and
flags.  A disk whose labels are all damaged at that spot is not found; loader(8) would not verify them either.
"""

from __future__ import annotations

from bhyveload.partition.entry import FREEBSD, FREEBSD_ZFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.fs.interface import Device
    from bhyveload.partition.table import Table

LABEL_SIZE = 256 << 10
VDEV_PHYS_OFFSET = 16 << 10
NV_ENCODE_XDR = 1


def may_hold_zfs(disk: Device, table: Table) -> bool:
    """Whether the raw disk or one of its ZFS or FreeBSD partitions looks like a vdev."""
    if _looks_like_vdev(disk, 0, disk.size):
        return True
    for entry in table.entries:
        if entry.type == FREEBSD_ZFS:
            return True
        if entry.type == FREEBSD:
            start, size = table.byte_offset(entry), table.byte_size(entry)
            if _looks_like_vdev(disk, start, size) or any(
                inner.type == FREEBSD_ZFS for inner in table.inside(entry).entries
            ):
                return True
    return False


def _looks_like_vdev(disk: Device, start: int, size: int) -> bool:
    end = start + size // LABEL_SIZE * LABEL_SIZE
    for label in (start, start + LABEL_SIZE, end - 2 * LABEL_SIZE, end - LABEL_SIZE):
        at = label + VDEV_PHYS_OFFSET
        if start <= label and at + 12 <= min(start + size, disk.size):
            head = bytes(disk.read(at, 12))
            # u8 encoding, u8 endian, u16 0, i32 version 0, u32 nvflag 1, the last two big endian
            if head[0] == NV_ENCODE_XDR and head[1] < 2 and head[2:] == b"\0\0\0\0\0\0\0\0\0\1":
                return True
    return False
