"""What is on a guest's disks, as facts: image, partition table, file systems, pools, and what would boot."""

from __future__ import annotations

from bhyveload.bootable import (
    FIRST_INTERPRETER,
    KERNELS,
    LOADER_PATH,
    LUA_SCRIPT,
    MAX_LOADER_FILE,
    interpreter_marker,
    wanted_interpreter,
)
from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import ENOENT
from bhyveload.fs.registry import kind_named
from bhyveload.fs.stat import S_IFMT, S_IFREG
from bhyveload.inspect.sizes import human_size
from bhyveload.need import OnDemand
from bhyveload.partition.table import ISO9660, NONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from bhyveload.device import Device
    from bhyveload.fs import zfs
    from bhyveload.fs.interface import DiskFileSystem
    from bhyveload.inspect.volumes import DiskVolumes, FoundPools, Volume

    Facts = dict[str, Any]
else:
    zfs = OnDemand("bhyveload.fs.zfs")

_MAX_SCRIPT = 1 << 16
_VERSION_MARK = b'USERLAND_VERSION="'  # of /bin/freebsd-version


def survey(images: Sequence[Device], disks: DiskVolumes) -> Facts:
    """``disks``, ``pools`` and ``boot`` (None where nothing is): JSON types only, sizes and offsets in bytes."""
    return {
        "schema": 1,
        "disks": [_disk(image, disks, unit) for unit, image in enumerate(images)],
        "pools": [] if disks.pools is None else list(_pools(disks, disks.pools)),
        "boot": _boot(disks),
    }


def _disk(image: Device, disks: DiskVolumes, unit: int) -> Facts:
    table = disks.tables[unit]
    whole, *parts = [volume for volume in disks.volumes if volume.unit == unit]
    entry = image.describe()
    facts: Facts = {
        "name": whole.name,
        "path": image.name,
        "format": entry["format"],
        "compression": entry.get("compression", ""),
        "size": image.size,
    }
    if isinstance(table, FileSystemError):
        facts["table"] = {"type": NONE, "error": table.message}
    else:
        facts["table"] = {"type": table.kind, "sector_size": table.sector_size}
        if table.guid:
            facts["table"]["guid"] = table.guid
    if isinstance(table, FileSystemError) or table.kind in (NONE, ISO9660) or whole.holds_file_system or whole.pool:
        facts["file_system"] = _file_system(whole)
    facts["partitions"] = [_partition(volume) for volume in parts]
    return facts


def _partition(volume: Volume) -> Facts:
    entry = volume.entry
    assert entry is not None
    facts: Facts = {
        "name": volume.name,
        "level": volume.level,
        "type": entry.type,
        "start": volume.start,
        "size": volume.device.size,
    }
    if entry.raw_type:
        facts["type_number"] = entry.raw_type
    if entry.type_guid:
        facts.update(type_guid=entry.type_guid, guid=entry.guid, label=entry.label)
    if entry.active:
        facts["active"] = True
    facts["file_system"] = _file_system(volume)
    return facts


def _file_system(volume: Volume) -> Facts | None:
    """None where there is none; "error" where there is one that cannot be read."""
    if volume.pool:
        return {"type": "zfs", "pool": volume.pool}
    try:
        fs = volume.mount()
    except FileSystemError as error:
        reason = error.message.removeprefix(f"{volume.name}: ")
        return {"type": "unknown", "error": reason} if volume.damaged else None
    try:
        return fs.facts()
    except FileSystemError as error:
        return {"type": "unknown", "error": error.message}


def _pools(disks: DiskVolumes, found: FoundPools) -> Iterator[Facts]:
    def devices(name: str) -> list[str]:
        return [volume.name for volume in disks.volumes if volume.pool == name]

    for pool in found.readable.pools:
        facts: Facts = {**zfs.pool_facts(pool), "devices": devices(pool.name)}
        try:
            facts["bootonce"] = pool.bootonce()
        except FileSystemError as error:
            facts["error"] = error.message
        refusal = _refusal(found, pool.name)
        if refusal:
            facts["refused"] = refusal
        yield facts
    for name, reason in found.readable.dropped:
        yield {"name": name, "devices": devices(name), "error": reason.message}


def _refusal(found: FoundPools, name: str) -> str:
    """Why FreeBSD's loader of today, and so bhyveload, does not read a pool that can be read; empty: it does."""
    pools = found.bootable
    if any(pool.name == name for pool in pools.pools):
        return ""
    if len(found.readable.pools) == 1 and pools.messages:
        return str(pools.messages[0])  # the first is the cause of the others
    reason = dict(pools.dropped).get(name)
    return f"FreeBSD's loader does not read pool {name}" + (f": {reason.message}" if reason else "")


def _unusable_pool(disks: DiskVolumes) -> str:
    """The first pool that is on the disks and not booted from, and why; empty: there is none, or one to boot from."""
    found = disks.pools
    if found is None or found.bootable.pools:
        return ""
    for pool in found.readable.pools:
        return f"pool {pool.name}: {_refusal(found, pool.name)}"
    for name, reason in found.readable.dropped:
        return f"pool {name}: {reason.message}"
    return ""


def _boot(disks: DiskVolumes) -> Facts:
    """Where loader(8) would boot from, and what it finds there."""
    facts: Facts = {"device": None, "file_system": None, "kernel": None, "interpreter": None, "version": None}
    try:
        facts["device"] = disks.boot_name()
        _, fs = disks.boot_file_system()
    except FileSystemError as error:
        facts["error"] = (_unusable_pool(disks) if error.errno == ENOENT else "") or error.message
        return facts
    facts["file_system"] = fs.name
    facts["kernel"] = next((path for path in KERNELS if _is_file(fs, path.encode())), None)
    facts["interpreter"] = _interpreter(fs)
    script = _content(fs, b"/bin/freebsd-version", _MAX_SCRIPT) or b""
    _, mark, rest = script.partition(_VERSION_MARK)
    facts["version"] = _text(rest.partition(b'"')[0][:64]) if mark else None
    return facts


def _interpreter(fs: DiskFileSystem) -> str | None:
    """Whose scripts the loader would run; None when there is neither a /boot/loader nor a script of Lua's."""
    loader = _content(fs, LOADER_PATH.encode(), MAX_LOADER_FILE + 1)
    marker = None if loader is None or len(loader) > MAX_LOADER_FILE else interpreter_marker(loader)
    has_lua_script = _is_file(fs, LUA_SCRIPT.encode())
    if loader is None and not has_lua_script:
        return None
    return wanted_interpreter(marker, FIRST_INTERPRETER, lambda: has_lua_script)


def _is_file(fs: DiskFileSystem, path: bytes) -> bool:
    try:
        return fs.stat(fs.lookup(path)).mode & S_IFMT == S_IFREG
    except FileSystemError:
        return False


def _content(fs: DiskFileSystem, path: bytes, limit: int) -> bytes | None:
    """A regular file's first bytes; None when there is no such file or it cannot be read."""
    try:
        node = fs.lookup(path)
        if fs.stat(node).mode & S_IFMT != S_IFREG:
            return None
        file = fs.open(node)
        return b"".join(file.read(0, min(file.size, limit)))
    except FileSystemError:
        return None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def describe(facts: Facts) -> Iterator[str]:
    """The facts as lines for people.  Guests' names are in them: escape each line before it is shown."""
    for disk in facts["disks"]:
        table = disk["table"]
        yield f"{disk['name']}: {disk['path']}"
        form = disk["format"] + (f".{disk['compression']}" if disk["compression"] else "")
        yield f"  {form} image, {human_size(disk['size'])}, {table_words(table)}"
        if disk.get("file_system"):
            yield from file_system_lines("  ", disk["file_system"])
        for part in disk["partitions"]:
            indent = "  " * part["level"]
            label = f'  "{part["label"]}"' if part.get("label") else ""
            active = ", active" if part.get("active") else ""
            size = human_size(part["size"])
            yield f"{indent}{part['name']}: {part['type']}{active}, {size} at {part['start']}{label}"
            if part["file_system"]:
                yield from file_system_lines(indent + "  ", part["file_system"])
    for pool in facts["pools"]:
        yield from pool_lines(pool)
        if "error" not in pool:
            yield from zfs.pool_lines(pool)
    yield from boot_lines(facts["boot"])


def pool_lines(pool: Facts) -> Iterator[str]:
    """A pool: where it is and how it is, not what is in it."""
    detail = pool.get("error") or f"{pool['state']}, bootfs {pool['bootfs'] or 'not set'}"
    yield f"pool {pool['name']} on {', '.join(pool['devices'])}: {detail}"
    if pool.get("bootonce"):
        yield f"  to be booted once: {pool['bootonce']}"
    if pool.get("refused"):
        yield f"  note: {pool['refused']}"


def table_words(table: Facts) -> str:
    """A partition table in words."""
    if "error" in table:
        return str(table["error"])
    kind = {"gpt": "GPT", "mbr": "MBR", "bsd": "BSD label", "iso9660": "ISO 9660"}.get(table["type"])
    if kind is None:
        return "no partition table"
    return kind if table["sector_size"] == 512 else f"{kind} with sectors of {table['sector_size']} bytes"


def file_system_lines(indent: str, fs: Facts) -> Iterator[str]:
    """A file system, and the notes about it."""
    kind = kind_named(fs["type"])
    if kind is not None:
        yield f"{indent}{kind.load().describe(fs, human_size)}"
    else:
        yield f"{indent}ZFS, pool {fs['pool']}" if fs["type"] == "zfs" else f"{indent}{fs['error']}"
    for note in fs.get("notes", ()):
        yield f"{indent}note: {note}"


def boot_lines(boot: Facts) -> Iterator[str]:
    """What would boot, in one line."""
    if "error" in boot:
        yield f"boots nothing: {boot['error']}"
        return
    kind = kind_named(boot["file_system"])
    what = [boot["file_system"].upper() if kind is None else kind.title]
    if boot["version"]:
        what.append(f"FreeBSD {boot['version']}")
    what.append(boot["kernel"] or "no /boot/kernel/kernel")
    if boot["interpreter"]:
        what.append(f"scripts: {boot['interpreter']}")
    yield f"boots {boot['device']} {', '.join(what)}"
