"""Looking for ZFS on the disks as loader(8) does at start (stand/libsa/zfs/zfs.c zfs_probe_dev).

The walk over disks and partitions, and the twiddles that its reads show, belong to every boot.  The ZFS reader itself
is imported only when a label is in sight: it costs milliseconds that most guests need not pay.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.partition.entry import FREEBSD, FREEBSD_ZFS
from bhyveload.partition.slices import open_partition
from bhyveload.partition.table import BSD, read_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from bhyveload.device import Buffer, Device
    from bhyveload.loader.state import Loader
    from bhyveload.partition.table import PartitionTable

    Probe = Callable[[Device, str], bool]

VDEV_LABELS = 4
LABEL_SIZE = 256 << 10
VDEV_PHYS_OFFSET = 16 << 10
SPA_MINDEVSIZE = 64 << 20
NV_ENCODE_XDR = 1
_ENDLESS = 1 << 80
_MAX_DEPTH = 3  # slices within slices: a hostile table may contain itself


class _RawReads:
    """A disk as zfs_diskread reads it: each read is one of a raw descriptor, twiddle(4); short ones are errors."""

    read_only = True

    def __init__(self, device: Device) -> None:
        self._device = device
        self.name = device.name
        self.size = _ENDLESS  # so that reads behind the end come here, too
        self.sector_size = device.sector_size
        self.reads = 0

    def read(self, offset: int, length: int) -> Buffer:
        self.reads += 1
        return self._device.read(offset, length)

    def write(self, offset: int, data: Buffer) -> None:
        self._device.write(offset, data)

    def descriptors(self) -> Sequence[int]:
        return self._device.descriptors()

    def describe(self) -> dict[str, Any]:
        return self._device.describe()

    def close(self) -> None:
        """Nothing: the device is not this one's."""


def walk_disks(loader: Loader, probe: Probe) -> None:
    """Offer every disk, and each of its ZFS and FreeBSD partitions, to ``probe`` (device, name such as "disk0p2");
    True from it ends the search below that device.

    Found is more than FreeBSD's loader finds (partitions of a GPT that has lost its primary, say), shown are only the
    twiddles of what it reads.
    """
    for unit, disk in enumerate(loader.host.disks):
        name = f"disk{unit}"
        try:
            table = loader.disks.table("disk", unit)
        except FileSystemError:
            continue
        with_labels = table.mediasize >= SPA_MINDEVSIZE
        if not _offer(loader, probe, disk, name, with_labels):
            _walk(loader, probe, table, table.mediasize // table.sector_size, disk, name, _MAX_DEPTH)


def _offer(loader: Loader, probe: Probe, device: Device, name: str, shown: bool) -> bool:
    before = loader.console.silent
    loader.console.silent = before or not shown
    try:
        return probe(device, name)
    finally:
        loader.console.silent = before


def _walk(
    loader: Loader, probe: Probe, table: PartitionTable, sectors: int, disk: Device, name: str, depth: int
) -> None:
    """The partitions of ``table``, of which FreeBSD's loader reads ``sectors`` sectors."""
    seen = _show_reading(loader, disk, table, sectors)
    for entry in table.entries:
        if entry.type not in (FREEBSD, FREEBSD_ZFS):
            continue
        part = name + table.name(entry)
        before = loader.console.silent
        loader.console.silent = before or (entry.index, entry.start) not in seen
        try:
            # devparse knows letters in a slice, but nothing within another partition
            known = depth == _MAX_DEPTH or (table.kind == BSD and "p" not in name)
            device = open_partition(disk, table, entry)
            if not _offer(loader, probe, device, part, known) and known and entry.type == FREEBSD and depth:
                _walk(loader, probe, table.inside(entry), entry.size, disk, part, depth - 1)
        except FileSystemError:
            continue
        finally:
            loader.console.silent = before


def _show_reading(loader: Loader, disk: Device, table: PartitionTable, sectors: int) -> set[tuple[int, int]]:
    """The twiddles of reading ``table`` through a raw descriptor; index and start of each entry that this finds."""
    if loader.console.silent:
        return set()
    counted = _RawReads(disk)
    try:
        found = read_table(counted, table.start, sectors, table.sector_size).entries
    except FileSystemError:
        found = []
    loader.console.twiddle(4, counted.reads)
    return {(entry.index, entry.start) for entry in found}


def find_vdevs(loader: Loader) -> bool:
    """Whether any device that loader(8) would probe starts like a vdev label; shows no twiddles."""
    found: list[str] = []

    def look(device: Device, name: str) -> bool:
        if looks_like_vdev(device):
            found.append(name)
        return False

    loader.console.silent = True
    walk_disks(loader, look)
    loader.console.silent = False
    return bool(found)


def show_label_reads(loader: Loader) -> None:
    """The twiddles of a search that finds nothing: four label reads for each device large enough for a pool."""

    def read_labels(device: Device, name: str) -> bool:
        if device.size // LABEL_SIZE * LABEL_SIZE >= SPA_MINDEVSIZE:
            loader.console.twiddle(4, VDEV_LABELS)
        return False

    walk_disks(loader, read_labels)


def looks_like_vdev(device: Device) -> bool:
    """Whether one of the four labels has a packed nvlist where its configuration belongs (vdev_label_read_config)."""
    end = device.size // LABEL_SIZE * LABEL_SIZE
    for label in (0, LABEL_SIZE, end - 2 * LABEL_SIZE, end - LABEL_SIZE):
        at = label + VDEV_PHYS_OFFSET
        if label < 0 or at + 12 > device.size:
            continue
        try:
            head = bytes(device.read(at, 12))
        except FileSystemError:
            continue
        # u8 encoding, u8 endian, u16 0, then big endian: i32 version 0, u32 nvflag 1
        if head[0] == NV_ENCODE_XDR and head[1] < 2 and head[2:] == b"\0\0\0\0\0\0\0\0\0\1":
            return True
    return False
