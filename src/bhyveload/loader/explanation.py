"""--explain: the way that a load took before it failed, what it looked for, and what is there instead.

diagnosis.py has the one line for everybody; this is all there is to know, as plain values (EXPLANATION in
confined/reports.py).  Every list has a bound: the disks are a guest's.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EINVAL, ENOENT
from bhyveload.fs.registry import mounted, titles
from bhyveload.fs.stat import S_IFDIR, S_IFMT
from bhyveload.loader.boot_device import places
from bhyveload.loader.files.devices import parse_device
from bhyveload.loader.files.trail import Trail
from bhyveload.need import OnDemand
from bhyveload.partition.entry import FREEBSD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from bhyveload.fs import zfs
    from bhyveload.loader.state import Loader
else:
    zfs = OnDemand("bhyveload.fs.zfs")

_MAX_DISKS = 32
_MAX_PARTITIONS = 64  # of a disk
_MAX_NEAR = 12
_MAX_NAMES = 2000  # of a directory
_MAX_TEXT = 300
_SCRIPTS = ("loader.lua", "loader.rc", "loader.4th")
_DISTRIBUTION = "/usr/freebsd-dist/kernel.txz"  # of an installation medium


def begin(loader: Loader) -> None:
    """From now on what is looked for is noted."""
    loader.files.trail = Trail()


def explanation(loader: Loader) -> dict[str, Any]:
    """Looks around once more, without a trace on the console."""
    loader.console.silent = True
    trail, loader.files.trail = loader.files.trail, None
    assert trail is not None
    currdev = (loader.environment.get("currdev") or "").removesuffix(":")
    elsewhere = [name for name in places(loader) if not f"{currdev}:".startswith((f"{name}/", f"{name}:"))]
    return {
        "device": currdev[:_MAX_TEXT],
        "file_system": loader.files.mounted or "",
        "interpreter": loader.interpreter.name if loader.interpreter is not None else "",
        "disks": [_disk(loader, unit) for unit in range(min(_MAX_DISKS, len(loader.host.disks)))],
        "pools": _pools(loader),
        "looked_for": trail.described(),
        "near": _near(loader, trail),
        "elsewhere": [name[:_MAX_TEXT] for name in elsewhere],
    }


def _disk(loader: Loader, unit: int) -> dict[str, Any]:
    media = loader.host.disks[unit]
    disk: dict[str, Any] = {"name": f"disk{unit}", "path": media.name, "size": media.size, "table": "", "error": ""}
    parts: list[tuple[str, str]] = []
    try:
        disk["table"] = loader.disks.table("disk", unit).kind
        parts = list(_partitions(loader, unit))
    except FileSystemError as error:
        disk["error"] = error.message[:_MAX_TEXT]
    parts = parts[:_MAX_PARTITIONS] or [(disk["name"], "the whole disk")]
    disk["partitions"] = [_partition(loader, name, type_) for name, type_ in parts]
    return disk


def _partitions(loader: Loader, unit: int) -> Iterator[tuple[str, str]]:
    """(name, type), those of a slice behind it."""
    table = loader.disks.table("disk", unit)
    for entry in table.entries:
        if not table.name(entry):
            continue
        name = f"disk{unit}{table.name(entry)}"
        yield name, entry.type
        if entry.type == FREEBSD:
            inside = table.inside(entry)
            yield from ((name + inside.name(inner), inner.type) for inner in inside.entries if inside.name(inner))


def _partition(loader: Loader, name: str, type_: str) -> dict[str, Any]:
    """Its file system, or why there is none that can be read."""
    kind, why = "", ""
    try:
        device = loader.disks.open(parse_device(f"{name}:", loader.version)[0])
        fs, refusals = mounted(device, lambda divisor: None)
        if fs is not None:
            kind = fs.name
        elif loader.files.pools is not None:
            zfs.PoolSet(None, None, loader.version).probe(device, name)
            kind = "zfs"
        else:
            refusal = refusals[0]  # the first kind's: the others have a signature, without which they say nothing
            none = refusal.errno in (EINVAL, ENOENT) and not refusal.hint
            why = f"no file system that can be read ({', '.join(titles())})" if none else refusal.message
    except FileSystemError as error:
        why = error.message
    return {"name": name, "type": type_, "file_system": kind, "why": why[:_MAX_TEXT]}


def _pools(loader: Loader) -> list[dict[str, Any]]:
    pools = loader.files.pools
    if pools is None:
        return []
    refused = [{"name": "", "error": error.message[:_MAX_TEXT]} for error in pools.refused]
    dropped = [{"name": name[:_MAX_TEXT], "error": error.message[:_MAX_TEXT]} for name, error in pools.dropped]
    return [*({"name": pool.name[:_MAX_TEXT], "error": ""} for pool in pools.pools), *dropped, *refused][:_MAX_DISKS]


def _near(loader: Loader, trail: Trail) -> list[str]:
    """Files that may be meant by those that are missing: of other names beside them, kernels elsewhere in /boot."""
    currdev = loader.environment.get("currdev") or ""
    asked = loader.diagnosis or loader.message or ""
    found: list[str] = []
    kernel = False
    for path in trail.missed:
        name = path.removeprefix(currdev)
        last = name.rpartition("/")[2]
        if not name.startswith("/") or not ("kernel" in name or last in _SCRIPTS or last in asked):
            continue
        kernel = kernel or last in ("kernel", "")
        found += _beside(loader, name)
    if kernel:
        found += [f"/boot/{name}/kernel" for name in _names(loader, "/boot")] + [_DISTRIBUTION]
    there = [name for name in dict.fromkeys(found) if loader.files.exists(name)]
    return [f"{currdev}{name}"[:_MAX_TEXT] for name in there[:_MAX_NEAR]]


def _beside(loader: Loader, path: str) -> Iterator[str]:
    """``path`` with its first component that is not there replaced by ones that look like it; may not exist."""
    above, rest = "", path.strip("/").split("/")
    while rest:
        names = _names(loader, above or "/")
        if rest[0] not in names:
            break
        above += f"/{rest.pop(0)}"
    else:
        return
    wanted, *behind = rest
    for name in _alike(wanted, names):
        yield "/".join((f"{above}/{name}", *behind))
        if behind:
            yield f"{above}/{name}"


def _alike(wanted: str, names: list[str]) -> list[str]:
    """Names that begin as ``wanted`` does, half of it at least, the most alike first."""
    least = max(3, (len(wanted) + 1) // 2)
    shared = {name: _shared(name.lower(), wanted.lower()) for name in names}
    return sorted((name for name in names if shared[name] >= least), key=lambda name: -shared[name])


def _shared(one: str, other: str) -> int:
    """How many characters they begin with in common."""
    for number, (first, second) in enumerate(zip(one, other, strict=False)):
        if first != second:
            return number
    return min(len(one), len(other))


def _names(loader: Loader, folder: str) -> list[str]:
    """What is in a folder of currdev; nothing where it is none."""
    names: list[str] = []
    try:
        fs = loader.files.open("/").fs
        node = fs.lookup(folder.encode("latin-1", "replace"))
        if fs.stat(node).mode & S_IFMT != S_IFDIR:
            return []
        for _, _, name in fs.readdir(node):
            if name not in (b".", b".."):
                names.append(name.decode("latin-1"))
            if len(names) >= _MAX_NAMES:
                break
    except FileSystemError:
        pass
    return names
