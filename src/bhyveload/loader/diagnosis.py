"""Why a boot without a prompt failed: what, where, and what to do, in a user's words.

The loader itself says little ("can't load 'kernel'"), and for nearly everything that it is no such file.  So what it
met is looked at once more, without a trace on the console.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError, NoFileSystem, PathError
from bhyveload.freebsd_errno import EINVAL, ENOENT, ENOTDIR
from bhyveload.fs.registry import mounted
from bhyveload.loader.boot_device import places
from bhyveload.loader.files.devices import DeviceSpec, parse_device
from bhyveload.loader.state import Absent
from bhyveload.partition.table import NONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.loader.state import Loader

_LOOK_AROUND = "run it without --batch to look around at the loader's prompt"
_DAMAGED = "check the guest's file system with fsck in the guest, or the download"


def explain(loader: Loader) -> tuple[str, str]:
    """(what is wrong and where, what to do)."""
    loader.console.silent = True
    currdev = loader.environment.get("currdev") or ""
    trouble = _pool_trouble(loader, currdev)
    if trouble is not None:
        return trouble
    try:
        spec, _ = parse_device(currdev, loader.version)
    except FileSystemError as error:
        return error.message, _LOOK_AROUND
    image = _image(loader, spec)
    where = f"{image} ({currdev.rstrip(':')})" if image else currdev.rstrip(":")
    reason, hint = _device_trouble(loader, spec, image) or ("", "")
    if not reason and isinstance(loader.diagnosis, Absent):
        reason, hint = _kernel_trouble(loader)
    cut = "" if isinstance(reason, Absent) else _cut_short(loader, spec)
    if cut:
        reason = f"{cut}: {reason or loader.diagnosis or loader.message}".removesuffix(": ")
        hint = f"is the download complete? bhyvedisk info {image} shows what is on it"
    reason = reason or loader.diagnosis or loader.message or "the guest cannot be booted"
    return f"{where}: {reason}", (hint or _LOOK_AROUND) + _elsewhere(loader, currdev)


def _elsewhere(loader: Loader, currdev: str) -> str:
    """The other places that could be booted, as words behind a hint."""
    others = [name for name in places(loader) if not currdev.startswith((f"{name}/", f"{name}:"))]
    if not others:
        return ""
    more = f" (or {', '.join(others[1:])})" if others[1:] else ""
    return f"; or --boot-device {others[0]}{more}"


def _pool_trouble(loader: Loader, currdev: str) -> tuple[str, str] | None:
    """What is wrong with the pool or dataset that should be booted."""
    pools = loader.files.pools
    if pools is None:
        return None
    if not currdev and pools.dropped:
        name, error = pools.dropped[0]
        return f"the ZFS pool {name} cannot be used: {error.message}", error.hint or _LOOK_AROUND
    if pools.refused and loader.files.mounted is None:
        return pools.refused[0].message, pools.refused[0].hint or _LOOK_AROUND
    if currdev.startswith("zfs:"):
        try:
            pools.dataset(currdev[len("zfs:") : -1])
        except FileSystemError as error:
            return f"{currdev.rstrip(':')}: {error.message}", error.hint or _LOOK_AROUND
    return None


def _image(loader: Loader, spec: DeviceSpec) -> str:
    """The name of the image that currdev lies in, as the user gave it."""
    if spec.kind == "disk" and 0 <= spec.unit < len(loader.host.disks):
        return loader.host.disks[spec.unit].name
    return ""


def _device_trouble(loader: Loader, spec: DeviceSpec, image: str) -> tuple[str, str] | None:
    """What keeps currdev from being read at all."""
    if spec.kind == "host":
        if loader.host.host_directory is None:
            return "there is neither a disk nor a host directory", "name the guest's disk with -d"
        return None
    if spec.kind not in ("disk", "vdisk") or loader.files.mounted is not None:
        return None
    hint = f"is it a FreeBSD disk? bhyvedisk info {image} shows what is on it"
    try:
        if loader.disks.media(spec.kind, spec.unit).size == 0:
            return "the disk is empty: it has no bytes at all", "is the path right, and the download complete?"
        device = loader.disks.open(spec)
        table = loader.disks.table(spec.kind, spec.unit)
    except FileSystemError as error:
        refusal, absent = error, error.errno in (EINVAL, ENOENT)
    else:
        fs, refusals = mounted(device, lambda divisor: None)
        if fs is not None:
            return None
        refusal, absent = refusals[0], isinstance(refusals[0], NoFileSystem)
    if not absent:  # there is one, damaged
        return refusal.message, refusal.hint or hint
    table = loader.disks.table(spec.kind, spec.unit)
    if spec.slice > 0:
        return f"no file system that can be read: {refusal.message}", hint
    if table.kind == NONE:
        return "neither a partition table nor a file system that can be read", hint
    return f"no partition to boot from in its {table.kind} table: {refusal.message}", hint


def _cut_short(loader: Loader, spec: DeviceSpec) -> str:
    """Says so when the image ends before the partition that currdev names; empty: it does not."""
    if spec.kind not in ("disk", "vdisk") or (spec.slice < 0 and spec.partition < 0):
        return ""
    try:
        size = loader.disks.media(spec.kind, spec.unit).size
        partition = loader.disks.open(spec)
    except FileSystemError:
        return ""
    end = partition.offset + partition.size
    return f"the disk image is cut short? its partition ends at byte {end}, the image at {size}" if end > size else ""


def _kernel_trouble(loader: Loader) -> tuple[str, str]:
    """The first component on the way to the kernel that cannot be had."""
    name = (loader.environment.get("kernel") or loader.environment.get("bootfile") or "kernel").partition(";")[0]
    paths = ["/", "/boot", f"/boot/{name}", f"/boot/{name}/kernel"]
    if name.startswith("/"):
        paths = ["/", name]
    try:
        fs = loader.files.open("/").fs
    except FileSystemError:
        return _absent("/")
    for path in paths:
        try:
            fs.lookup(path.encode("latin-1", "replace"))
        except FileSystemError as error:
            if error.errno not in (ENOENT, ENOTDIR):
                return f"{path}: {error.message}", _DAMAGED
            if isinstance(error, PathError):
                return f"{path}: {error.message}", "look where the links lead: bhyvedisk ls -l"
            return _absent(path)
    return loader.diagnosis, ""


def _absent(path: str) -> tuple[str, str]:
    return Absent(f"there is no {path}"), "name another kernel with --kernel, or another disk with -d"
