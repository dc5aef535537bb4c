"""--boot-device: currdev by the user's word instead of the loader's search (not FreeBSD's); and what else there is."""

from __future__ import annotations

from bhyveload.errors import FileSystemError, LoaderError
from bhyveload.loader.files.devices import DeviceSpec, parse_device
from bhyveload.need import OnDemand
from bhyveload.partition.entry import FREEBSD
from bhyveload.partition.slices import PARTNONE, PARTWILD, SLICENONE, SLICEWILD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.state import Loader
    from bhyveload.loader.zfs import pools as zfs_pools

    SetCurrdev = Callable[[Loader, str], None]
else:
    zfs_pools = OnDemand("bhyveload.loader.zfs.pools", "bhyveload.fs.zfs")

MAX_PLACES = 8  # that a hint names
_BOOTABLE = ("/boot/loader.conf", "/boot/loader", "/boot/kernel/kernel")


def boot_from(loader: Loader, wanted: str, set_currdev: SetCurrdev) -> None:
    """Make ``wanted`` (disk0p3, disk1, disk0s1a, zfs:pool, zfs:pool/dataset) currdev.

    Raises LoaderError: there is no such device, or no file system on it; the hint names those that there are.
    """
    name = wanted.removesuffix(":")
    if name.startswith("zfs:"):
        if loader.files.pools is None:
            raise _refused(loader, wanted, "there is no ZFS pool on the disks")
        zfs_pools.boot_from(loader, name.removeprefix("zfs:"), set_currdev)
        return
    before, loader.console.silent = loader.console.silent, True
    try:
        spec = _resolved(loader, name)
        if not loader.files.holds_file_system(spec):
            raise _refused(loader, wanted, "no file system that can be booted from")
    except FileSystemError as error:
        raise _refused(loader, wanted, error.message.removeprefix(f"{name}:").lstrip(": ")) from None
    finally:
        loader.console.silent = before
    set_currdev(loader, spec.format())


def _resolved(loader: Loader, name: str) -> DeviceSpec:
    """Of a disk alone the partition that the loader itself would take.  Raises FileSystemError."""
    spec, _ = parse_device(f"{name}:", loader.version)
    if spec.kind == "disk" and spec.slice == SLICENONE and spec.partition == PARTNONE:
        best = DeviceSpec("disk", spec.unit, SLICEWILD, PARTWILD)
        try:
            loader.disks.open(best)
            return best
        except FileSystemError:
            pass  # the whole disk, then
    if spec.kind in ("disk", "vdisk"):
        loader.disks.open(spec)
    return spec


def _refused(loader: Loader, wanted: str, why: str) -> LoaderError:
    found = places(loader)
    hint = f"there are {', '.join(found)}" if found else "bhyvedisk info shows what is on the disks"
    return LoaderError(f"--boot-device {wanted}: {why}", hint)


def places(loader: Loader) -> list[str]:
    """Devices on the disks that hold something to boot, as --boot-device takes them, at most MAX_PLACES."""
    before, loader.console.silent = loader.console.silent, True
    try:
        found = [f"zfs:{pool.name}" for pool in loader.files.pools.pools] if loader.files.pools is not None else []
        for unit in range(len(loader.host.disks)):
            for name in _parts(loader, unit):
                if len(found) < MAX_PLACES and any(loader.files.exists(f"{name}:{path}") for path in _BOOTABLE):
                    found.append(name)
        return found[:MAX_PLACES]
    finally:
        loader.console.silent = before


def _parts(loader: Loader, unit: int) -> list[str]:
    disk = f"disk{unit}"
    names = []
    try:
        table = loader.disks.table("disk", unit)
        for entry in table.entries:
            inside = table.inside(entry).entries if entry.type == FREEBSD else []
            part = disk + table.name(entry)
            names += [part + table.inside(entry).name(inner) for inner in inside] or [part]
    except FileSystemError:
        pass
    return names or [disk]
