"""Looking for ZFS on the disks as loader(8) does at start (stand/libsa/zfs/zfs.c zfs_probe_dev; spec/disks.md 8).

The walk over disks and partitions, and the twiddles that its reads show, belong to every boot.  The ZFS reader itself
is imported only when a label is in sight: it costs milliseconds that most guests need not pay.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.partition.entry import FREEBSD, FREEBSD_ZFS
from bhyveload.partition.slices import Partition
from bhyveload.partition.table import read_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from bhyveload.device import Buffer, Device
    from bhyveload.loader.state import Loader
    from bhyveload.partition.entry import Entry
    from bhyveload.partition.table import Table

    Probe = Callable[[Device, str], bool]

VDEV_LABELS = 4
LABEL_SIZE = 256 << 10
VDEV_PHYS_OFFSET = 16 << 10
SPA_MINDEVSIZE = 64 << 20
NV_ENCODE_XDR = 1
_MAX_DEPTH = 3  # slices within slices: a hostile table may contain itself


class _RawReads:
    """A device that counts its reads: each is a raw descriptor read, twiddle(4) (spec/errata.md A1)."""

    read_only = True

    def __init__(self, device: Device) -> None:
        self._device = device
        self.name = device.name
        self.size = device.size
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
    True from it ends the search below that device."""
    for unit, disk in enumerate(loader.host.disks):
        name = f"disk{unit}"
        if probe(disk, name):
            continue
        try:
            table = _read_table(loader, disk, 0, None, loader.disks.table("disk", unit).sector_size)
        except FileSystemError:
            continue
        for entry in table.entries:
            _probe_partition(loader, probe, table, entry, disk, name, _MAX_DEPTH)


def _probe_partition(
    loader: Loader, probe: Probe, table: Table, entry: Entry, disk: Device, name: str, depth: int
) -> None:
    if entry.type not in (FREEBSD, FREEBSD_ZFS) or depth == 0:
        return
    name += table.name(entry)
    start, size = table.byte_offset(entry), table.byte_size(entry)
    if probe(Partition(disk, start, size), name) or entry.type != FREEBSD:
        return
    try:
        inside = _read_table(loader, disk, start, size // table.sector_size, table.sector_size)
    except FileSystemError:
        return
    for inner in inside.entries:
        _probe_partition(loader, probe, inside, inner, disk, name, depth - 1)


def _read_table(loader: Loader, disk: Device, start: int, sectors: int | None, sector_size: int) -> Table:
    """A table with the twiddles of reading it.

    Where only a GPT's backup is left FreeBSD's loader takes the disk to end behind the primary (spec/disks.md 5.1): it
    then reads the primary a second time instead of the backup and its entries.
    """
    counted = _RawReads(disk)
    table = read_table(counted, start, sectors, sector_size)
    for _ in range(counted.reads - (1 if table.backup_only else 0)):
        loader.console.twiddle(4)
    return table


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
    """The twiddles of a search that finds nothing: four label reads for each device large enough for a pool.

    On a disk whose GPT has lost its primary FreeBSD's loader sees two sectors and no partition.
    """
    lost = set()
    for unit in range(len(loader.host.disks)):
        try:
            if loader.disks.table("disk", unit).backup_only:
                lost.add(f"disk{unit}")
        except FileSystemError:
            continue

    def read_labels(device: Device, name: str) -> bool:
        if name.partition("p")[0] in lost:
            return False
        if device.size // LABEL_SIZE * LABEL_SIZE >= SPA_MINDEVSIZE:
            for _ in range(VDEV_LABELS):
                loader.console.twiddle(4)
        return False

    walk_disks(loader, read_labels)


def looks_like_vdev(device: Device) -> bool:
    """Whether one of the four labels has a packed nvlist where its configuration belongs (spec/zfs.md 1)."""
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
