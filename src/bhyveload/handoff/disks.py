"""The guest's disks, whoever runs the guest: what bhyveload was given, or what the user names at run time."""

from __future__ import annotations

import os

from bhyveload.absolute_path import absolute_path
from bhyveload.confined.deadline import FOREVER
from bhyveload.errors import HandoffError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeAlias

    from bhyveload.confined.deadline import Deadline
    from bhyveload.device import Device
    from bhyveload.image.progress import Progress

    AnyDisk: TypeAlias = "Disk | Device | str | os.PathLike[str]"

_MAX_CHAIN = 64
_AGAIN = "load the VM again or give --disk"


class Disk:
    """A disk for the guest, as state.json describes it (docs/state-json.md).

    ``format`` as bhyveload names it (raw, qcow2, vmdk, vhd, vhdx); ``size`` in bytes; ``compression`` around it, or "";
    ``name``: what messages call it; ``snapshot``: what the guest writes goes into a temporary file; ``overlay``: it
    goes into that qcow2 image; ``backing``: (path, format), topmost first.
    """

    __slots__ = (
        "backing",
        "compression",
        "format",
        "name",
        "overlay",
        "path",
        "read_only",
        "sector_size",
        "size",
        "snapshot",
    )

    def __init__(
        self,
        path: str,
        read_only: bool = False,
        format: str = "raw",
        *,
        size: int = 0,
        sector_size: int = 512,
        compression: str = "",
        snapshot: bool = False,
        overlay: str = "",
        backing: Sequence[tuple[str, str]] = (),
        name: str = "",
    ) -> None:
        self.path = path
        self.name = name or path
        self.read_only = read_only
        self.format = format
        self.size = size
        self.sector_size = sector_size
        self.compression = compression
        self.snapshot = snapshot
        self.overlay = overlay
        self.backing = tuple(backing)

    def changed(self, **members: Any) -> Disk:
        """The same disk with some of it replaced."""
        now = {name: getattr(self, name) for name in self.__slots__}
        return Disk(**{**now, **members})


def as_disks(given: Sequence[AnyDisk], snapshot: bool = False) -> list[Disk]:
    """The disks that a user of the library names: paths as for -d, what ``open_disk`` has returned, or Disks.

    ``snapshot``: what the guest writes to those that are no Disks is dropped.  Raises TypeError: something else; and as
    ``disk_from_path``.
    """
    if isinstance(given, str | bytes | os.PathLike) or not hasattr(given, "__iter__"):
        raise TypeError(f"disks: must be a list of them, not {given!r}")
    return [_as_disk(disk, snapshot) for disk in given]


def _as_disk(given: AnyDisk, snapshot: bool) -> Disk:
    if isinstance(given, Disk):
        return given
    if isinstance(given, str | os.PathLike):
        return _opened(disk_from_path(os.fspath(given)), snapshot)
    describe = getattr(given, "describe", None)
    if describe is None:
        raise TypeError(f"disks: must be paths, or what open_disk() returns, not {given!r}")
    entry = describe()
    return _opened(_from_entry({**entry, "path": absolute_path(entry["path"])}), snapshot)


def _opened(disk: Disk, snapshot: bool) -> Disk:
    return disk.changed(read_only=False, snapshot=True) if snapshot else disk


def disk_from_path(text: str, allow_backing: bool = False, tell: Callable[[str], None] | None = None) -> Disk:
    """A disk that the user names at run time (image/named.py).  ``tell``: who hears what is odd about it.

    Raises HandoffError when there is no such file, UsageError, and as open_disk().
    """
    from bhyveload.image.named import named_disk
    from bhyveload.image.open import open_disk
    from bhyveload.image.remembered import forgotten_warning

    named = named_disk(text)
    path = named.path
    if not os.access(path, os.R_OK):
        raise HandoffError(f"{path}: {'permission denied' if os.path.exists(path) else 'no such disk image'}")
    disk = open_disk(path, read_only=named.read_only, format=named.format, allow_backing=allow_backing or named.backing)
    try:
        if disk.forgotten and tell is not None:
            tell(forgotten_warning(disk.name, disk.kind))
        return _from_entry({**disk.describe(), "path": absolute_path(disk.name)})
    finally:
        disk.close()


def refuse_twice(disks: Sequence[Disk]) -> None:
    """Two disks that the guest writes to must not be one.  Raises HandoffError."""
    seen: dict[tuple[int, int, int], Disk] = {}
    for disk in disks:
        try:
            status = os.stat(disk.path)
        except OSError:
            continue  # whoever opens it says so
        other = seen.setdefault((status.st_dev, status.st_ino, status.st_rdev), disk)
        if other is not disk and not all(each.read_only or each.snapshot or each.overlay for each in (disk, other)):
            raise HandoffError(
                f"{disk.name}: is the same disk as {other.name}: a guest that writes to both destroys it",
                "give each disk once, or with ,ro behind its name",
            )


def disks_of(state: Mapping[str, Any]) -> list[Disk]:
    """The disks that bhyveload was given.  Raises HandoffError when the report is malformed."""
    loaded = state.get("loaded")
    given = loaded.get("disks", []) if isinstance(loaded, dict) else []
    if not isinstance(given, list):
        raise HandoffError("the VM's state does not list its disks", _AGAIN)
    return [_from_entry(entry) for entry in given]


def _from_entry(entry: object) -> Disk:
    if not isinstance(entry, dict):
        entry = {}
    backing = entry.get("backing", [])
    if not isinstance(backing, list) or len(backing) > _MAX_CHAIN:
        raise HandoffError("the VM's state has a disk with strange backing files", _AGAIN)
    size = entry.get("size", 0)
    return Disk(
        _path(entry),
        bool(entry.get("read_only")),
        str(entry.get("format", "raw")),
        size=size if isinstance(size, int) and 0 <= size < 1 << 62 else 0,
        sector_size=4096 if entry.get("sector_size") == 4096 else 512,
        compression=str(entry.get("compression", "")),
        snapshot=bool(entry.get("snapshot")),
        backing=[(_path(below), str(below.get("format", "raw"))) for below in backing],
    )


def _path(entry: object) -> str:
    path = entry.get("path") if isinstance(entry, dict) else None
    if not isinstance(path, str) or not path or "\0" in path:
        raise HandoffError("the VM's state names a disk without a path", _AGAIN)
    return path


def unpacked(disk: Disk, progress: Progress | None = None, deadline: Deadline = FOREVER) -> Disk:
    """``disk`` as a hypervisor can have it: compressed and VMDK images as raw ones in the cache (image/cache.py).

    What the guest writes to those is kept nowhere, or in ``disk.overlay``.
    Raises InputError, ImageError, HostError, LoaderCrashed (``deadline``) as image.cache.unpacked().
    """
    from bhyveload.image.raw import open_raw

    if disk.compression:
        disk = _decompressed(disk, progress, deadline)
    if disk.format == "vmdk":
        disk = disk.changed(path=_flat(disk.path, progress, deadline), format="raw", snapshot=not disk.overlay)
    if disk.backing and disk.backing[-1][1] == "vmdk":  # nothing lies below one
        disk = disk.changed(backing=(*disk.backing[:-1], (_flat(disk.backing[-1][0], progress, deadline), "raw")))
    if disk.format == "raw" and (disk.snapshot or disk.overlay):
        file = open_raw(disk.path, read_only=True)
        disk = disk.changed(size=file.size)
        file.close()
    return disk


def _decompressed(disk: Disk, progress: Progress | None, deadline: Deadline) -> Disk:
    from bhyveload.image.cache import unpacked as unpacked_path
    from bhyveload.image.magic import COMPRESSIONS
    from bhyveload.image.raw import open_raw
    from bhyveload.sandbox import Sandbox

    if disk.compression not in COMPRESSIONS:
        raise HandoffError(f"{disk.path}: the compression '{disk.compression}' is unknown", "load the VM again")
    source = open_raw(disk.path, read_only=True)
    try:
        path = unpacked_path(source, disk.compression, progress, Sandbox(), deadline)
    finally:
        source.close()
    return disk.changed(path=path, compression="", snapshot=not disk.overlay)


def _flat(path: str, progress: Progress | None, deadline: Deadline) -> str:
    """QEMU's VMDK driver follows names in a guest's image: so our own reader makes one raw image of it."""
    from bhyveload.image.cache import flattened
    from bhyveload.image.disk import open_image
    from bhyveload.sandbox import Sandbox

    opened = open_image(path, "vmdk", progress=progress, deadline=deadline)
    try:
        return flattened(opened, progress, Sandbox(), deadline)
    finally:
        opened.close()
