"""Devices as loader(8) names them: host0:, disk0p2:, vdisk0:, zfs:pool/dataset:.

Sources: stand/userboot/userboot/{devicename,userboot_disk,host}.c, stand/common/{disk,vdisk}.c, stand/libsa/dev.c;
docs/errata.md, "Device names", "Errors of devices".
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EINVAL, EIO, ENOENT, EPART, ESLICE, EUNIT, strerror
from bhyveload.libc import strtol, to_int
from bhyveload.partition.slices import (
    PARTISGPT,
    PARTNONE,
    PARTWILD,
    SLICENONE,
    SLICEWILD,
    OpenedPartition,
    Partition,
    lsdev_lines,
    open_slice,
)
from bhyveload.partition.table import read_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from bhyveload.compat import LoaderVersion
    from bhyveload.device import Device
    from bhyveload.fs.interface import FileSystem
    from bhyveload.host.callbacks import LoaderCallbacks
    from bhyveload.partition.table import PartitionTable

DEVICE_SWITCH = ("host", "disk", "vdisk", "zfs")


class DeviceSpec:
    """What a specification names (struct devdesc): ``kind`` of DEVICE_SWITCH, ``unit``, ``slice``, ``partition``;
    for ZFS ``pool`` and ``dataset`` instead, ``root``, the dataset's object number once that was looked up, and
    ``opendata``, its file system once the device is open."""

    __slots__ = ("dataset", "kind", "opendata", "partition", "pool", "root", "slice", "unit")

    def __init__(
        self,
        kind: str,
        unit: int = 0,
        slice_: int = SLICENONE,
        partition: int = PARTNONE,
        pool: str = "",
        dataset: str = "",
    ) -> None:
        self.kind = kind
        self.unit = unit
        self.slice = slice_
        self.partition = partition
        self.pool = pool
        self.dataset = dataset
        self.root = 0
        self.opendata: FileSystem | None = None

    def format(self) -> str:
        """devformat: the name with its final colon."""
        if self.kind == "zfs":
            return f"zfs:{self.pool}/{self.dataset}:" if self.dataset else f"zfs:{self.pool}:"
        text = f"{self.kind}{self.unit}"
        if self.kind != "host" and self.slice >= 0:
            if self.partition == PARTISGPT:
                return f"{text}p{self.slice}:"
            text += f"s{self.slice}"
        if self.kind != "host" and self.partition >= 0:
            text += chr((self.partition + ord("a")) & 0xFF)
        return text + ":"


def _refuse(number: int, spec: str) -> NoReturn:
    raise FileSystemError(number, f"{spec}: {strerror(number)}")


def parse_device(spec: str, version: LoaderVersion) -> tuple[DeviceSpec, str]:
    """devparse: (device, path behind the colon).

    Raises FileSystemError: EINVAL (grammar), ENOENT (no such kind), EUNIT, ESLICE, EPART.  Whether the device exists
    is not looked at, except that a ZFS pool is resolved by the caller (ENXIO there).
    """
    if len(spec) < 2:
        _refuse(EINVAL, spec)
    for kind in DEVICE_SWITCH:
        if spec.startswith(kind):
            break
    else:
        _refuse(ENOENT, spec)
    if kind == "zfs":
        return _parse_zfs(spec)
    if kind == "host":
        return _parse_host(spec)
    # 13.2 always skips the length of "disk", so that vdisk0 is not understood
    skip = len(kind) if version == "current" else len("disk")
    return _parse_disk(kind, spec, skip)


def _parse_zfs(spec: str) -> tuple[DeviceSpec, str]:
    name, colon, path = spec[len("zfs:") :].rpartition(":")
    if not spec.startswith("zfs:") or not colon:
        _refuse(EINVAL, spec)
    pool, _, dataset = name.partition("/")
    return DeviceSpec("zfs", pool=pool, dataset=dataset), path


def _parse_host(spec: str) -> tuple[DeviceSpec, str]:
    rest = spec[len("host") :]
    unit = 0
    if rest and rest[0] != ":":
        unit, end = strtol(rest)
        if end == 0:
            _refuse(EUNIT, spec)
        rest = rest[end:]
    if rest and rest[0] != ":":
        _refuse(EINVAL, spec)
    return DeviceSpec("host", to_int(unit)), rest[1:]


def _parse_disk(kind: str, spec: str, skip: int) -> tuple[DeviceSpec, str]:
    rest = spec[skip:]
    if not rest or rest[0] == ":":
        _refuse(EINVAL, spec)
    has_path = bool(rest.partition(":")[2])
    slice_, partition = (SLICEWILD, PARTWILD) if has_path else (SLICENONE, PARTNONE)
    unit, end = strtol(rest, 10)
    if end == 0:
        _refuse(EUNIT, spec)
    rest = rest[end:]
    if rest[:1] in ("p", "s"):
        gpt = rest[0] == "p"
        slice_, end = strtol(rest[1:], 10)
        if end == 0:
            _refuse(ESLICE, spec)
        rest = rest[1 + end :]
        if gpt:
            if rest and rest[0] != ":":
                _refuse(EINVAL, spec)
            partition = PARTISGPT
    if rest and rest[0] != ":":
        partition = ord(rest[0]) - ord("a")
        if partition < 0:
            _refuse(EPART, spec)
        rest = rest[1:]
    if rest and rest[0] != ":":
        _refuse(EINVAL, spec)
    return DeviceSpec(kind, to_int(unit), to_int(slice_), partition), rest[1:]


class Disks:
    """The disks of a run, their partition tables read once; vdisks are added by map-vdisk."""

    def __init__(self, host: LoaderCallbacks) -> None:
        self.host = host
        self.vdisks: dict[int, tuple[str, Device]] = {}
        self._tables: dict[tuple[str, int], PartitionTable] = {}
        self._opened: dict[tuple[str, int, int, int], OpenedPartition] = {}

    def media(self, kind: str, unit: int) -> Device:
        """The whole disk.  Raises FileSystemError(EIO) for a unit that does not exist."""
        if kind == "disk":
            if 0 <= unit < len(self.host.disks):
                return self.host.disks[unit]
        elif unit in self.vdisks:
            return self.vdisks[unit][1]
        raise FileSystemError(EIO, f"{kind}{unit}: there is no such disk")

    def table(self, kind: str, unit: int) -> PartitionTable:
        """The disk's partition table.  Raises FileSystemError."""
        key = kind, unit
        if key not in self._tables:
            self._tables[key] = read_table(self.media(kind, unit))
        return self._tables[key]

    def forget(self, kind: str, unit: int) -> None:
        self._tables.pop((kind, unit), None)
        self._opened.clear()

    def open(self, spec: DeviceSpec) -> Partition:
        """disk_open: resolves wild slice and partition in ``spec`` and returns what they name.

        Raises FileSystemError: EIO (no such unit), ENXIO (unreadable), ENOENT (no such partition).
        """
        name = spec.kind, spec.unit, spec.slice, spec.partition
        opened = self._opened.get(name)
        if opened is None:
            media = self.media(spec.kind, spec.unit)
            table = self.table(spec.kind, spec.unit)
            opened = self._opened[name] = open_slice(media, spec.slice, spec.partition, table)
        spec.slice, spec.partition = opened.slice, opened.partition
        return opened.device

    def describe(self, kind: str, verbose: bool) -> list[str]:
        """The lines of lsdev for the disks of one kind (disk_print of stand/common/disk.c)."""
        if kind == "disk":
            names = [(unit, "Guest drive image") for unit in range(len(self.host.disks))]
        else:
            names = [(unit, "") for unit in sorted(self.vdisks)]
        lines = [f"{kind} devices:\n"] if names else []
        for unit, title in names:
            media = self.media(kind, unit)
            if kind == "vdisk":
                if verbose:
                    lines.append(f"  {self.vdisks[unit][0]}\n")
                lines.append(f"    vdisk{unit}:    {media.size // 512} X 512 blocks\n")
            else:
                lines.append(f"    {kind}{unit}:   {title}\n")
            try:
                lines += [line + "\n" for line in lsdev_lines(self.table(kind, unit), f"{kind}{unit}", verbose)]
            except FileSystemError:
                continue
        return lines
