"""The file systems on a set of disks, found as loader(8) finds them, and which of them it would boot.

Sources: stand/userboot/userboot/main.c (extract_currdev), stand/common/disk.c, stand/libsa/zfs/zfs.c (zfs_probe_dev).
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError, NoFileSystem, PartitionError, UsageError
from bhyveload.freebsd_errno import ENOENT, ENXIO
from bhyveload.fs.registry import mounted, titles
from bhyveload.loader.files.devices import parse_device
from bhyveload.need import OnDemand, declare, need
from bhyveload.partition.entry import FREEBSD, FREEBSD_ZFS
from bhyveload.partition.slices import PARTWILD, SLICEWILD, open_partition, open_slice
from bhyveload.partition.table import NONE, read_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bhyveload.compat import LoaderVersion
    from bhyveload.device import Device
    from bhyveload.fs import zfs
    from bhyveload.fs.interface import DiskFileSystem, ProbedFileSystem
    from bhyveload.partition.entry import Entry
    from bhyveload.partition.table import PartitionTable
else:
    zfs = OnDemand("bhyveload.fs.zfs")

# With all that a block may ask for: bhyvedisk cannot start over in mid-file
ZFS_FACTS = "bhyveload.fs.zfs.facts"
declare(ZFS_FACTS, "bhyveload.fs.zfs", "bhyveload.fs.zfs.strong", "bhyveload.fs.zfs.zstd_blocks")

_MAX_NESTING = 3  # slices within slices: a hostile table may contain itself
LABEL_SIZE = 256 << 10
VDEV_PHYS_OFFSET = 16 << 10


def no_twiddle(n: int) -> None:
    """Nobody watches a progress indicator here."""


class Volume:
    """A whole disk or a partition of it.

    ``name`` as loader(8) has it, without colon ("disk0p2"); ``start`` in bytes of the disk; ``entry`` and ``table``
    are where it is listed (None for a whole disk).  ``level``: 0 a disk, 1 its partitions, 2 those of a slice.
    """

    __slots__ = ("_mounted", "damaged", "device", "entry", "level", "name", "pool", "start", "table", "unit")

    def __init__(
        self,
        unit: int,
        name: str,
        device: Device,
        start: int = 0,
        entry: Entry | None = None,
        table: PartitionTable | None = None,
        level: int = 0,
    ) -> None:
        self.unit = unit
        self.name = name
        self.device = device
        self.start = start
        self.entry = entry
        self.table = table
        self.level = level
        self.pool = ""  # the pool whose vdev this is
        self.damaged = False  # whether it holds a file system that cannot be mounted; after mount()
        self._mounted: ProbedFileSystem | FileSystemError | None = None

    def mount(self) -> ProbedFileSystem:
        """The file system in it (fs/registry.py).  Raises FileSystemError: ENOENT there is none, or what is wrong."""
        if self._mounted is None:
            self._mounted, self.damaged = _probe(self.device)
        if isinstance(self._mounted, FileSystemError):
            error = self._mounted
            raise FileSystemError(error.errno, f"{self.name}: {error.message}", error.hint)
        return self._mounted

    @property
    def holds_file_system(self) -> bool:
        try:
            self.mount()
        except FileSystemError:
            return False
        return True


def _probe(device: Device) -> tuple[ProbedFileSystem | FileSystemError, bool]:
    """In loader(8)'s order: the file system; or an error, and whether that is about one that is there."""
    fs, refusals = mounted(device, no_twiddle)
    if fs is not None:
        return fs, False
    refusal = refusals[0]  # the first kind's: the others have a signature, without which they say nothing
    if isinstance(refusal, NoFileSystem):
        return FileSystemError(ENOENT, f"no file system that can be read here ({', '.join(titles())})"), False
    return refusal, True


class FoundPools:
    """The pools on a set of disks: all that can be read (``readable``), and what FreeBSD's loader of today makes of
    them (``bootable``)."""

    __slots__ = ("bootable", "readable")

    def __init__(self, candidates: Sequence[Volume]) -> None:
        """``candidates``: what may be a vdev; each is told the name of its pool.  Raises ModulesNeeded (need.py)."""
        need(ZFS_FACTS)
        self.readable = _probed(candidates, None)
        self.bootable = _probed(candidates, "current")

    def check(self, name: str = "") -> None:
        """Raises FileSystemError: why that pool (any, without a name) cannot be used."""
        for dropped, error in self.readable.dropped:
            if name in ("", dropped):
                raise FileSystemError(error.errno, f"pool {dropped}: {error.message}", error.hint)


def _probed(candidates: Sequence[Volume], strict: LoaderVersion | None) -> zfs.PoolSet:
    pools = zfs.PoolSet(None, None, strict)
    for volume in candidates:
        try:
            pool = pools.find(pools.probe(volume.device, volume.name))
        except FileSystemError:
            continue
        if pool is not None:
            volume.pool = pool.name
    pools.finish()
    return pools


class DiskVolumes:
    """``disks`` in -d order, and everything on them.

    ``tables``: the partition table of each disk, or why there is none.  ``volumes``: each disk, followed by its
    partitions in the table's order.  ``pools``: None where no disk has a vdev.
    """

    __slots__ = ("pools", "tables", "volumes")

    def __init__(self, disks: Sequence[Device]) -> None:
        self.tables: list[PartitionTable | FileSystemError] = []
        self.volumes: list[Volume] = []
        for unit, disk in enumerate(disks):
            name = f"disk{unit}"
            self.volumes.append(Volume(unit, name, disk))
            try:
                table = read_table(disk)
            except FileSystemError as error:
                self.tables.append(FileSystemError(error.errno, f"{name}: {error.message}", error.hint))
                continue
            self.tables.append(table)
            self.volumes += _partitions(unit, name, disk, table, 1)
        candidates = [volume for volume in self.volumes if _may_be_vdev(volume)]
        self.pools = FoundPools(candidates) if candidates else None

    def is_empty(self, unit: int) -> bool:
        """Whether a disk has neither a partition table nor a file system nor a vdev: it may be anything else."""
        table = self.tables[unit]
        whole = next(volume for volume in self.volumes if volume.unit == unit)
        if not isinstance(table, FileSystemError) and table.kind != NONE and table.entries:
            return False
        return not (whole.pool or whole.holds_file_system or whole.damaged)

    def boot_name(self) -> str:
        """currdev as loader(8) would choose it, with its colon.  Raises FileSystemError(ENXIO): no disks."""
        if self.pools is not None and self.pools.bootable.pools:
            return self._bootonce(self.pools.bootable.pools[0]) or self.pools.bootable.format()
        if not self.volumes:
            raise FileSystemError(ENXIO, "no disks were given")
        table = self.tables[0]
        suffix = ""
        if not isinstance(table, FileSystemError):
            try:
                suffix = open_slice(self.volumes[0].device, SLICEWILD, PARTWILD, table).suffix
            except FileSystemError:
                pass  # the raw disk, then
        return f"disk0{suffix}:"

    def _bootonce(self, pool: zfs.Pool) -> str:
        """What the pool's labels say is to be booted once; empty: nothing, or nothing that is there."""
        try:
            name = pool.bootonce()
            self._dataset(name.removeprefix("zfs:").removesuffix(":"))
        except (FileSystemError, PartitionError):
            return ""
        return name if name.startswith("zfs:") and name.endswith(":") else ""

    def boot_file_system(self) -> tuple[str, DiskFileSystem]:
        """What loader(8) would boot from.  Raises FileSystemError: there is nothing that it could read."""
        name = self.boot_name()
        if name.startswith("zfs:"):
            return name, self._dataset(name[len("zfs:") : -1])[1]
        return name, self.volume(name).mount()

    def file_system(self, partition: str = "", dataset: str = "") -> tuple[str, DiskFileSystem]:
        """(device name with colon, file system): of ``partition`` ("disk0p2"), of ``dataset`` ("pool/ds"), or the one
        that would boot, else the only one there is.

        Raises UsageError (such a name cannot be), PartitionError (there is none, or several), FileSystemError.
        """
        if dataset:
            return self._dataset(dataset)
        if partition:
            volume = self.volume(partition)
            return f"{volume.name}:", self._mount(volume)
        name = self.boot_name()
        if name.startswith("zfs:"):
            return self.boot_file_system()
        chosen = self.volume(name)
        readable = [volume for volume in self.volumes if volume.holds_file_system]
        if not readable and self.pools is not None:
            if self.pools.readable.pools:
                return self.pools.readable.format(), self.pools.readable.dataset("")
            self.pools.check()
        if chosen.holds_file_system or not readable:
            return f"{chosen.name}:", self._mount(chosen)
        if len(readable) == 1:
            return f"{readable[0].name}:", readable[0].mount()
        names = ", ".join(volume.name for volume in readable)
        raise PartitionError(
            f"{chosen.name}, which would boot, holds no file system that can be read",
            f"name one with --partition: {names}",
        )

    def volume(self, name: str) -> Volume:
        """The disk or partition of that name.  Raises UsageError (not a name), PartitionError (there is none)."""
        try:
            spec, path = parse_device(name, "current")
        except FileSystemError:
            spec, path = None, ""
        if spec is None or path or spec.kind != "disk":
            raise UsageError(f"'{name}' does not name a partition", "disk0 is the first disk, disk0p2 its partition 2")
        if not 0 <= spec.unit < len(self.tables):
            raise PartitionError(f"there is no disk{spec.unit}", f"{len(self.tables)} disks were given")
        table = self.tables[spec.unit]
        disk = next(volume for volume in self.volumes if volume.unit == spec.unit)
        if isinstance(table, FileSystemError):
            if spec.slice < 0 and spec.partition < 0:
                return disk
            raise PartitionError(table.message, table.hint)
        try:
            opened = open_slice(disk.device, spec.slice, spec.partition, table)
        except FileSystemError as error:
            known = ", ".join(other.name for other in self.volumes if other.unit == spec.unit)
            raise PartitionError(f"{name}: {error.message}", f"there are: {known}") from None
        full, start = f"disk{spec.unit}{opened.suffix}", opened.device.offset
        for volume in self.volumes:
            if volume.unit == spec.unit and volume.start == start and volume.name.startswith(full):
                return volume
        return Volume(spec.unit, full, opened.device, start)

    def _mount(self, volume: Volume) -> DiskFileSystem:
        if volume.pool and self.pools is not None:
            self.pools.check(volume.pool)
            return self.pools.readable.by_name(volume.pool).dataset("")
        return volume.mount()

    def _dataset(self, name: str) -> tuple[str, DiskFileSystem]:
        found = self.pools
        if found is None or not (found.readable.pools or found.readable.dropped):
            raise PartitionError("there is no ZFS pool on these disks", "--dataset names a dataset of a pool on them")
        found.check(name.partition("/")[0].partition("@")[0])
        try:
            return f"zfs:{name}:", found.readable.dataset(name)
        except FileSystemError as error:
            if error.errno not in (ENOENT, ENXIO):
                raise
            pools = ", ".join(pool.name for pool in found.readable.pools)
            raise PartitionError(f"there is no dataset {name}", f"pools on these disks: {pools}") from None


def _partitions(unit: int, prefix: str, disk: Device, table: PartitionTable, level: int) -> Iterator[Volume]:
    for entry in table.entries:
        suffix = table.name(entry)
        if not suffix:
            continue  # an ISO image's only entry is the disk
        start = table.byte_offset(entry)
        name = prefix + suffix
        yield Volume(unit, name, open_partition(disk, table, entry), start, entry, table, level)
        if entry.type == FREEBSD and level < _MAX_NESTING:
            try:
                yield from _partitions(unit, name, disk, table.inside(entry), level + 1)
            except FileSystemError:
                continue


def _may_be_vdev(volume: Volume) -> bool:
    """What zfs_probe_dev looks at: whole disks, ZFS partitions and FreeBSD slices; and whether one of its labels has
    a packed nvlist where its configuration belongs."""
    if volume.entry is not None and volume.entry.type not in (FREEBSD, FREEBSD_ZFS):
        return False
    end = volume.device.size // LABEL_SIZE * LABEL_SIZE
    for label in (0, LABEL_SIZE, end - 2 * LABEL_SIZE, end - LABEL_SIZE):
        try:
            head = bytes(volume.device.read(label + VDEV_PHYS_OFFSET, 12))
        except FileSystemError:
            continue
        if head[0] == 1 and head[1] < 2 and head[2:] == b"\0\0\0\0\0\0\0\0\0\1":
            return True
    return False
