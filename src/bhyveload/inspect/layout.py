"""Where everything lies on a guest's disks, for drawings: a strip for each partition table, as gpart(8) shows them.

Made in the confined child of the facts of survey.py; the shape of what leaves it is LAYOUT (confined/reports.py).
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.inspect.sizes import human_size
from bhyveload.inspect.survey import boot_lines, file_system_lines, pool_lines, table_words
from bhyveload.partition.entry import EFI, FREEBSD, FREEBSD_BOOT, FREEBSD_SWAP, LINUX_SWAP
from bhyveload.partition.table import BSD, GPT, MBR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from bhyveload.inspect.survey import Facts
    from bhyveload.inspect.volumes import DiskVolumes
    from bhyveload.partition.table import PartitionTable

TABLE, BOOT, SLICE, FILES, POOL, SWAP = "table", "boot", "slice", "files", "pool", "swap"
OTHER, UNREADABLE, UNUSED = "other", "unreadable", "unused"

MAX_PARTS = 400  # of one strip: what a hostile table has more is left out
MAX_STRIPS = 100
_GPT_ENTRIES = 16 << 10  # bytes at least (UEFI 2.10, 5.3.1)
_MAX_TEXT = 1000


class _Area:
    """``start`` to ``end``, in bytes of the disk."""

    __slots__ = ("boots", "end", "kind", "name", "start")

    def __init__(self, kind: str, start: int, end: int, name: str, boots: bool = False) -> None:
        self.kind = kind
        self.start = start
        self.end = end
        self.name = name
        self.boots = boots


def layout(disks: DiskVolumes, facts: Facts) -> dict[str, Any]:
    """As LAYOUT has it: lines as "notes", "strips" with their "parts" in the disk's order.  "start", "size": bytes;
    "shown": those of them that no part before it has."""
    boots = _booting(facts)
    strips: list[dict[str, Any]] = []
    for disk, table in zip(facts["disks"], disks.tables, strict=True):
        strips += _disk_strips(disk, None if isinstance(table, FileSystemError) else table, boots)
    notes = [*boot_lines(facts["boot"]), *(line.strip() for pool in facts["pools"] for line in pool_lines(pool))]
    return {"notes": [note[:_MAX_TEXT] for note in notes[:MAX_STRIPS]], "strips": strips[:MAX_STRIPS]}


def _booting(facts: Facts) -> set[str]:
    """The names of what the loader boots from: a partition, or all of a pool's."""
    device = (facts["boot"]["device"] or "").removesuffix(":")
    if not device.startswith("zfs:") or "error" in facts["boot"]:
        return set() if "error" in facts["boot"] else {device}
    pool = device.removeprefix("zfs:").partition("/")[0]
    return {name for known in facts["pools"] if known["name"] == pool for name in known["devices"]}


def _disk_strips(disk: Facts, table: PartitionTable | None, boots: set[str]) -> Iterator[dict[str, Any]]:
    form = disk["format"] + (f".{disk['compression']}" if disk["compression"] else "")
    title = f"{disk['name']}: {disk['path']} ({form}, {human_size(disk['size'])}, {table_words(disk['table'])})"
    outer: list[_Area] = []
    inner: list[tuple[Facts, list[_Area]]] = []
    for part in disk["partitions"]:
        area = _partition(part, boots)
        above = [slice_ for slice_, _ in inner if part["name"].startswith(slice_["name"])]
        if part["level"] > 1 and above:
            next(areas for slice_, areas in inner if slice_ is above[-1]).append(area)
        else:
            outer.append(area)
        if part["type"] == FREEBSD:
            inner.append((part, []))
    whole = disk.get("file_system")
    if whole and not outer:
        words = ", ".join(file_system_lines("", whole))
        outer.append(_Area(_kind("", whole), 0, disk["size"], words, disk["name"] in boots))
    if table is not None:
        outer += _tables(table, disk["size"], min((area.start for area in outer), default=0))
    yield _strip(title, 0, disk["size"], outer)
    for slice_, areas in inner:
        if areas:
            title = f"{slice_['name']}: BSD label ({human_size(slice_['size'])} of {disk['name']})"
            yield _strip(title, slice_["start"], min(disk["size"], slice_["start"] + slice_["size"]), areas)


def _partition(part: Facts, boots: set[str]) -> _Area:
    fs = part["file_system"]
    words = [part["type"]]
    if part.get("active"):
        words.append("active")
    if part.get("label"):
        words.append(f'"{part["label"]}"')
    if fs:
        words += [line for line in file_system_lines("", fs) if not line.startswith("note: ")]
    name = f"{part['name']}: {', '.join(words)}"
    return _Area(_kind(part["type"], fs), part["start"], part["start"] + part["size"], name, part["name"] in boots)


def _kind(type_: str, fs: Facts | None) -> str:
    if fs:
        return {"zfs": POOL, "unknown": UNREADABLE}.get(fs["type"], FILES)
    return {FREEBSD_BOOT: BOOT, EFI: BOOT, FREEBSD: SLICE, FREEBSD_SWAP: SWAP, LINUX_SWAP: SWAP}.get(type_, OTHER)


def _tables(table: PartitionTable, size: int, first: int) -> Iterator[_Area]:
    """The places of the table itself, as far as they lie in front of the ``first`` partition and behind the last."""
    sector = table.sector_size
    if table.kind == GPT:
        entries = -(-_GPT_ENTRIES // sector) * sector
        name = "GPT (damaged; the one at the end is used)" if table.backup_only else "GPT"
        yield _Area(TABLE, 0, min(2 * sector + entries, max(first, 2 * sector)), name)
        end = size // sector * sector if table.backup_only else min(size, table.mediasize)
        yield _Area(TABLE, end - entries - sector, end, "GPT's backup")
    elif table.kind == MBR:
        yield _Area(TABLE, 0, sector, "MBR")
    elif table.kind == BSD and first >= 2 * sector:
        yield _Area(TABLE, 0, 2 * sector, "BSD label")


def _strip(title: str, begin: int, end: int, areas: Sequence[_Area]) -> dict[str, Any]:
    """``areas`` from ``begin`` to ``end`` in order, with what is unused between them.  Overlaps are named."""
    parts: list[dict[str, Any]] = []
    at = begin
    ordered = sorted(areas, key=lambda area: (area.start, -area.end))[:MAX_PARTS]
    for area in [*ordered, _Area(UNUSED, end, end, "")]:
        if min(area.start, end) > at:
            parts.append(_part(_Area(UNUSED, at, min(area.start, end), "unused"), at))
        if area.end > area.start or area.kind != UNUSED:
            words = ""
            if area.start < at and area.kind != TABLE:
                words = ", overlaps what is before it"
            if area.end > end:
                words += ", reaches behind the end"
            area.name += words
            parts.append(_part(area, min(at, end), end))
        at = max(at, min(area.end, end))
    if len(areas) > MAX_PARTS:
        title += f", of which {MAX_PARTS} of {len(areas)} are shown"
    return {"title": title[: 4 * _MAX_TEXT], "parts": parts}


def _part(area: _Area, at: int, end: int | None = None) -> dict[str, Any]:
    last = area.end if end is None else min(area.end, end)
    return {
        "kind": area.kind,
        "start": area.start,
        "size": area.end - area.start,
        "shown": max(0, last - max(area.start, at)),
        "name": area.name[:_MAX_TEXT],
        "boots": area.boots,
    }
