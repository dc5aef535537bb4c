"""Opening a disk, slice or partition by number, and lsdev's list (disk_open, disk_print in stand/common/disk.c)."""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EIO, ENOENT
from bhyveload.partition.entry import FREEBSD
from bhyveload.partition.table import BSD, GPT, ISO9660, best_partition, read_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from bhyveload.device import Buffer, Device
    from bhyveload.partition.entry import Entry
    from bhyveload.partition.table import PartitionTable

# d_slice and d_partition of stand/common/disk.h
SLICENONE = -1
SLICEWILD = 0
PARTNONE = -1
PARTWILD = -2
PARTISGPT = 255

_MAX_NESTING = 3  # slices within slices that lsdev shows: a hostile table may contain itself


class Partition:
    """A Device (device.py): part of another one.

    ``size`` is the partition's length, but as in loader(8) reads go on behind its end as far as the disk does.
    """

    __slots__ = ("device", "name", "offset", "read_only", "sector_size", "size")

    def __init__(self, device: Device, offset: int, size: int) -> None:
        self.device = device
        self.name = device.name
        self.offset = offset
        self.size = size
        self.sector_size = device.sector_size
        self.read_only = device.read_only

    def read(self, offset: int, length: int) -> Buffer:
        """Bytes relative to the partition.  Raises FileSystemError(EIO) before its start or behind the disk's end."""
        if offset < 0:
            raise FileSystemError(EIO, f"read at {offset}: before the start of the partition")
        data = self.device.read(self.offset + offset, length)
        if len(data) != length:  # a library user's device that does not keep to the contract
            raise FileSystemError(EIO, f"read at {self.offset + offset}: {len(data)} bytes instead of {length}")
        return data

    def write(self, offset: int, data: Buffer) -> None:
        """Overwrite bytes relative to the partition.  Raises FileSystemError: EROFS, EIO."""
        if offset < 0:
            raise FileSystemError(EIO, f"write at {offset}: before the start of the partition")
        self.device.write(self.offset + offset, data)

    def descriptors(self) -> Sequence[int]:
        return self.device.descriptors()

    def describe(self) -> dict[str, Any]:
        return self.device.describe()

    def close(self) -> None:
        """Nothing: the device is not this one's."""


def open_partition(disk: Device, table: PartitionTable, entry: Entry) -> Partition:
    """The partition that ``entry`` of a table on ``disk`` describes: the one place where a layer over it would go."""
    return Partition(disk, table.byte_offset(entry), table.byte_size(entry))


class OpenedPartition:
    """What disk_open found: ``device`` to read it through, and its numbers with wildcards resolved."""

    __slots__ = ("device", "partition", "slice")

    def __init__(self, device: Partition, slice: int, partition: int) -> None:
        self.device = device
        self.slice = slice
        self.partition = partition

    @property
    def suffix(self) -> str:
        """What follows the disk in its name: ``p2``."""
        return slice_name(self.slice, self.partition)


def open_slice(device: Device, slice: int, partition: int, table: PartitionTable | None = None) -> OpenedPartition:
    """The partition that ``slice`` and ``partition`` of a disk name, wildcards among them; the whole disk where they
    name none.

    This is disk_open of stand/common/disk.c.  ``table``: the disk's table when it has been read already.
    Raises FileSystemError: ENXIO when the disk cannot be read, ENOENT when there is no such partition.
    """
    if table is None:
        table = read_table(device)
    whole = Partition(device, 0, table.sectors * table.sector_size)
    if table.kind == BSD and partition >= 0:
        return OpenedPartition(open_partition(device, table, _entry(table, partition)), slice, partition)
    if table.kind == ISO9660:
        return OpenedPartition(whole, slice, partition)
    if slice < 0:
        return OpenedPartition(whole, slice, partition)

    entry = best_partition(table) if slice == SLICEWILD else table.entry(slice)
    if entry is None:
        raise FileSystemError(ENOENT, _absent(table, slice))
    if table.kind == GPT:
        return OpenedPartition(open_partition(device, table, entry), entry.index, PARTISGPT)
    if partition == PARTISGPT:  # `disk0p2:` on a disk without GPT
        partition = PARTWILD
    if partition == PARTNONE or (partition == PARTWILD and entry.type != FREEBSD):
        return OpenedPartition(open_partition(device, table, entry), entry.index, partition)
    inside = table.inside(entry)
    if partition < 0:
        if inside.kind != BSD:
            return OpenedPartition(open_partition(device, table, entry), entry.index, partition)
        partition = 0
    return OpenedPartition(open_partition(device, inside, _entry(inside, partition)), entry.index, partition)


def lsdev_lines(table: PartitionTable, disk: str, verbose: bool = False) -> list[str]:
    """The lines (without newline) that lsdev prints below ``disk`` ("disk0"), sizes with ``verbose``."""
    return _lsdev_lines(table, table, f"    {disk}", verbose, _MAX_NESTING)


def _lsdev_lines(whole: PartitionTable, table: PartitionTable, prefix: str, verbose: bool, depth: int) -> list[str]:
    lines = []
    for entry in table.entries:
        name = prefix + table.name(entry)
        line = f"  {name}: {entry.type_name}"
        if verbose:
            tabs = "\t\t" if len(line) < 24 else "\t"
            line += tabs + display_size(_listed_size(table, entry))
        lines.append(line)
        inside = _listed_inside(whole, entry) if depth else None
        if inside is not None:
            lines += _lsdev_lines(whole, inside, f"  {name}", verbose, depth - 1)
    return lines


def _listed_inside(whole: PartitionTable, entry: Entry) -> PartitionTable | None:
    """The table that ptable_print lists below an entry: that of the whole disk's slice with the same number.

    It opens the disk as if that were no larger than the partition: the backup of a GPT is then not found.
    """
    if entry.type != FREEBSD or (whole.kind == GPT and whole.backup_only):
        return None
    slice_ = whole.entry(entry.index)
    if slice_ is None:
        return None
    try:
        return whole.inside(slice_)
    except FileSystemError:
        return None


def _listed_size(table: PartitionTable, entry: Entry) -> int:
    """Bytes: ptable_iso9660read has the one partition of ISO 9660 end behind the last sector, which is one too many."""
    return table.byte_size(entry) + (table.sector_size if table.kind == ISO9660 else 0)


def display_size(size: int) -> str:
    """``size`` bytes as lsdev prints them: "4096KB", "  19MB"."""
    kibibytes = size // 1024
    if kibibytes >= 10485760000:
        return f"{kibibytes // 1073741824:4d}TB"
    if kibibytes >= 10240000:
        return f"{kibibytes // 1048576:4d}GB"
    if kibibytes >= 10000:
        return f"{kibibytes // 1024:4d}MB"
    return f"{kibibytes:4d}KB"


def slice_name(slice: int, partition: int) -> str:
    """What follows the disk's name in a device name: "p2", "s1a", "a" or "" (disk_fmtdev)."""
    name = ""
    if slice > SLICENONE:
        if partition == PARTISGPT:
            return f"p{slice}"
        name = f"s{slice}"
    if partition > PARTNONE:
        name += chr(ord("a") + partition)
    return name


def _entry(table: PartitionTable, index: int) -> Entry:
    entry = table.entry(index)
    if entry is None:
        letter = chr(ord("a") + index) if index < 26 else str(index)
        raise FileSystemError(ENOENT, f"there is no partition {letter}")
    return entry


def _absent(table: PartitionTable, slice: int) -> str:
    if slice != SLICEWILD:
        return f"there is no partition {slice}"
    if not table.entries:
        return "the disk has no partitions"
    return "none of the disk's partitions is of a type that boots"
