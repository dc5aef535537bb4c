"""The guest's disks as QEMU gets them: every format by name, every file by path, nothing left for QEMU to find out.

QEMU would guess a format from first bytes that the guest may have written, and open whatever file a backing file's
name leads to.  So the driver is always given, and so is the chain of backing files, or that there is none.
"""

from __future__ import annotations

import os
import stat

from bhyveload.errors import HandoffError
from bhyveload.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from bhyveload.image.cache import Progress

_DRIVERS = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx"}
_MAX_CHAIN = 64


class Disk:
    """A disk for the guest, as state.json describes it (docs/state-json.md).

    ``format`` as bhyveload names it (raw, qcow2, vmdk, vhd, vhdx); ``compression`` around it, or "";
    ``snapshot``: what the guest writes goes into a temporary file; ``backing``: (path, format), topmost first.
    """

    __slots__ = ("backing", "compression", "format", "path", "read_only", "sector_size", "snapshot")

    def __init__(
        self,
        path: str,
        read_only: bool = False,
        format: str = "raw",
        *,
        sector_size: int = 512,
        compression: str = "",
        snapshot: bool = False,
        backing: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.path = path
        self.read_only = read_only
        self.format = format
        self.sector_size = sector_size
        self.compression = compression
        self.snapshot = snapshot
        self.backing = tuple(backing)


def disk_from_path(path: str, allow_backing: bool = False) -> Disk:
    """A disk that the user names at run time.  Raises HandoffError when there is no such file, and as open_disk()."""
    from bhyveload.image.magic import media_sector_size
    from bhyveload.image.open import open_disk

    if not os.access(path, os.R_OK):
        raise HandoffError(f"{path}: {'permission denied' if os.path.exists(path) else 'no such disk image'}")
    disk = open_disk(path, allow_backing=allow_backing)
    try:
        describe = getattr(disk, "describe", None)
        if describe is not None:
            return _from_entry(describe())
        return Disk(os.path.abspath(path), disk.read_only, sector_size=media_sector_size(disk))
    finally:
        disk.close()


def disks_of(state: Mapping[str, Any]) -> list[Disk]:
    """The disks that bhyveload was given.  Raises HandoffError when the report is malformed."""
    loaded = state.get("loaded")
    given = loaded.get("disks", []) if isinstance(loaded, dict) else []
    if not isinstance(given, list):
        raise HandoffError("the VM's state does not list its disks", "load the VM again or give --disk")
    return [_from_entry(entry) for entry in given]


def _from_entry(entry: object) -> Disk:
    if not isinstance(entry, dict):
        entry = {}
    backing = entry.get("backing", [])
    if not isinstance(backing, list) or len(backing) > _MAX_CHAIN:
        raise HandoffError("the VM's state has a disk with strange backing files", "load the VM again or give --disk")
    return Disk(
        _path(entry),
        bool(entry.get("read_only")),
        str(entry.get("format", "raw")),
        sector_size=4096 if entry.get("sector_size") == 4096 else 512,
        compression=str(entry.get("compression", "")),
        snapshot=bool(entry.get("snapshot")),
        backing=[(_path(below), str(below.get("format", "raw"))) for below in backing],
    )


def _path(entry: object) -> str:
    path = entry.get("path") if isinstance(entry, dict) else None
    if not isinstance(path, str) or not path or "\0" in path:
        raise HandoffError("the VM's state names a disk without a path", "load the VM again or give --disk")
    return path


def unpacked(disk: Disk, progress: Progress | None = None) -> Disk:
    """``disk`` with its compression taken off: its path leads into the cache.

    Raises InputError, ImageError, HostError as image.cache.unpacked().
    """
    if not disk.compression:
        return disk
    from bhyveload.image.cache import unpacked as unpacked_path
    from bhyveload.image.magic import COMPRESSIONS
    from bhyveload.image.raw import open_raw
    from bhyveload.sandbox import Sandbox

    if disk.compression not in COMPRESSIONS:
        raise HandoffError(f"{disk.path}: the compression '{disk.compression}' is unknown", "load the VM again")
    source = open_raw(disk.path, read_only=True)
    try:
        path = unpacked_path(source, disk.compression, progress, Sandbox())
    finally:
        source.close()
    return Disk(path, disk.read_only, disk.format, sector_size=disk.sector_size, snapshot=True)


# Each disk has a slot on the PCI bus of its own while there are enough; beyond, eight functions share one.  SeaBIOS
# takes 12 KiB for each at the top of low memory, where pvh.FIRMWARE_TOP is kept free of guest data.
_OWN_SLOTS = 16
_FIRST_SHARED_SLOT = 8
MAX_DISKS = 60


def escape(value: str) -> str:
    """``value`` inside one of QEMU's option lists."""
    return value.replace(",", ",,")


def disk_arguments(number: int, disk: Disk, count: int = 1) -> list[str]:
    """QEMU's arguments for disk ``number`` of ``count``.  Raises HandoffError when QEMU cannot have it."""
    if count > MAX_DISKS:
        raise HandoffError(f"{count} disks: QEMU's machine has room for {MAX_DISKS}", "choose some with --disk")
    if disk.compression:
        raise HandoffError(f"{disk.path}: QEMU cannot use a file compressed with {disk.compression}", "unpack it")
    node, read_only = f"disk{number}", "on" if disk.read_only else "off"
    driver, protocol = _driver(disk.path, disk.format)
    device = f"virtio-blk-pci,drive={node}"
    if count > _OWN_SLOTS:
        device += f",multifunction=on,addr={_FIRST_SHARED_SLOT + number // 8:#x}.{number % 8}"
    if disk.sector_size != 512:
        device += f",logical_block_size={disk.sector_size},physical_block_size={disk.sector_size}"
    if disk.format == "raw" and not disk.snapshot:
        options = (
            f"driver={driver},node-name={node},read-only={read_only},"
            f"file.driver={protocol},file.read-only={read_only},file.filename={escape(disk.path)}"
        )
        return ["-blockdev", options, "-device", device]
    tree = _tree(disk.path, disk.format, disk.read_only or disk.snapshot, disk.backing)
    if disk.snapshot:
        return ["-drive", f"if=none,id={node},snapshot=on,file=json:{escape(_json(disk, tree))}", "-device", device]
    return ["-blockdev", _json(disk, {"node-name": node, **tree}), "-device", device]


def _tree(path: str, form: str, read_only: bool, backing: Sequence[tuple[str, str]]) -> dict[str, Any]:
    driver, protocol = _driver(path, form)
    tree: dict[str, Any] = {
        "driver": driver,
        "read-only": read_only,
        "file": {"driver": protocol, "filename": path, "read-only": read_only},
    }
    if form in ("qcow2", "vmdk"):
        tree["backing"] = _tree(*backing[0], True, backing[1:]) if backing else None
    return tree


def _driver(path: str, form: str) -> tuple[str, str]:
    """QEMU's (format, protocol)."""
    driver = _DRIVERS.get(form)
    if driver is None:
        raise HandoffError(
            f"{path}: QEMU cannot use a disk image of format {form}",
            "unpack it, or convert it with qemu-img, and give it with --disk",
        )
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise HandoffError(f"{path}: {reason}", "give the guest's disk with --disk, or --no-disk") from None
    return driver, "host_device" if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) else "file"


def _json(disk: Disk, tree: dict[str, Any]) -> str:
    try:
        for path in (disk.path, *(path for path, _ in disk.backing)):
            path.encode("utf-8")
    except UnicodeEncodeError:
        raise HandoffError(
            f"{disk.path}: QEMU cannot use a {disk.format} image with such a name", "give it a name in UTF-8"
        ) from None
    return dumps(tree)
