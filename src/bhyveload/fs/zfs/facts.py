"""What can be said of a pool in plain values: for bhyvedisk info and for listing boot environments."""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.printable import mask

from . import zfs_format as zf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .pool import Pool
    from .vdev import Vdev

    Facts = dict[str, Any]

_MAX_DATASETS = 10_000
_MAX_DEPTH = 50


def pool_facts(pool: Pool) -> Facts:
    """JSON types only: "name", "guid", "version", "txg", "state", "bootfs", "vdevs" (a tree), "features" (active ones:
    name -> count), "datasets" (whole names; "snapshots" as short names, "encrypted"), "boot_environments".

    What cannot be read is left out, and "damage" then says why."""
    damage: list[str] = []
    facts: Facts = {
        "name": pool.name,
        "guid": pool.guid,
        "version": pool.version,
        "txg": pool.uberblock.txg,
        "state": zf.VDEV_STATE_NAMES[pool.state],
        "bootfs": _try(lambda: pool.bootfs, damage) or "",
        "vdevs": [_vdev(top) for top in pool.root.children],
        "features": {name: count for name, count in sorted(pool.features.items()) if count},
        "checkpoint": pool.checkpoint is not None,
        "datasets": list(_datasets(pool, damage)),
        "boot_environments": _try(lambda: boot_environments(pool), damage) or [],
    }
    if damage:
        facts["damage"] = damage[:20]
    return facts


def _try(step: Callable[..., Any], damage: list[str], *arguments: str) -> Any:
    try:
        return step(*arguments)
    except FileSystemError as error:
        damage.append(error.message)
        return None


def _vdev(vdev: Vdev) -> Facts:
    facts: Facts = {"name": vdev.name, "type": vdev.type, "state": zf.VDEV_STATE_NAMES[vdev.state]}
    if vdev.leaf is not None:
        facts["device"] = vdev.leaf.name
    if vdev.is_log:
        facts["log"] = True
    if vdev.top is vdev and vdev.ashift:
        facts["ashift"] = vdev.ashift
    if vdev.children:
        facts["children"] = [_vdev(child) for child in vdev.children]
    return facts


def _datasets(pool: Pool, damage: list[str]) -> Iterator[Facts]:
    """Every dataset, parents first, children by name."""
    waiting = [pool.name]
    for _ in range(_MAX_DATASETS):
        if not waiting:
            return
        name = waiting.pop()
        facts: Facts = {"name": name}
        snapshots = _try(pool.list_snapshots, damage, name)
        if snapshots:
            facts["snapshots"] = snapshots
        if _try(pool.is_encrypted, damage, name):
            facts["encrypted"] = True
        yield facts
        if name.count("/") < _MAX_DEPTH:
            children = _try(pool.list_children, damage, name) or []
            waiting += [f"{name}/{child}" for child in sorted(children, reverse=True) if not child.startswith("$")]
    damage.append(f"more than {_MAX_DATASETS} datasets")


def boot_environments(pool: Pool) -> list[Facts]:
    """The datasets beside bootfs, in the order of the loader's menu: "name", "bootfs" and "boot_once" (whether the next
    boot takes it always, or once), "created" (seconds since 1970).  Nothing where bootfs is not set.

    Raises FileSystemError (EIO)."""
    bootfs = pool.bootfs
    root, _, _ = bootfs.rpartition("/")
    if not root:
        return [_environment(pool, bootfs, bootfs, _boot_once(pool))] if bootfs else []
    once = _boot_once(pool)
    names = [name for name in reversed(pool.list_children(root)) if not name.startswith("$")]
    return [_environment(pool, f"{root}/{name}", bootfs, once) for name in names]


def _environment(pool: Pool, name: str, bootfs: str, once: str) -> Facts:
    return {"name": name, "bootfs": name == bootfs, "boot_once": name == once, "created": pool.created(name)}


def _boot_once(pool: Pool) -> str:
    block = pool.bootenv()
    once = block.string(zf.FREEBSD_BOOTONCE) if block is not None else None
    return mask((once or b"").partition(b"\0")[0]).removeprefix("zfs:").removesuffix(":")


def pool_lines(facts: Facts) -> Iterator[str]:
    """The facts as bhyvedisk info prints them, after the pool's own line."""
    for vdev in facts["vdevs"]:
        yield from _vdev_lines(vdev, "  ")
    if facts["features"]:
        yield f"  features in use: {', '.join(facts['features'])}"
    for dataset in facts["datasets"]:
        marks = ["encrypted"] if dataset.get("encrypted") else []
        marks += [f"@{name}" for name in dataset.get("snapshots", ())[:8]]
        yield f"  dataset {dataset['name']}" + (f" ({', '.join(marks)})" if marks else "")
    for environment in facts["boot_environments"]:
        marks = [word for word, key in (("bootfs", "bootfs"), ("boot once", "boot_once")) if environment[key]]
        yield f"  boot environment {environment['name']}" + (f" ({', '.join(marks)})" if marks else "")
    for reason in facts.get("damage", ()):
        yield f"  damaged: {reason}"


def _vdev_lines(vdev: Facts, indent: str) -> Iterator[str]:
    device = f" on {vdev['device']}" if "device" in vdev and vdev["device"] != vdev["name"] else ""
    yield f"{indent}{vdev['name']} {vdev['state']}{device}{' (log)' if vdev.get('log') else ''}"
    for child in vdev.get("children", ()):
        yield from _vdev_lines(child, indent + "  ")
