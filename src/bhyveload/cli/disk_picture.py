"""A guest's disks drawn: what bhyvedisk's reader says of their layout (inspect/layout.py), as a picture."""

from __future__ import annotations

import os

from bhyveload.cli.drawing import Column, Kind, Part, Picture
from bhyveload.inspect.layout import BOOT, FILES, OTHER, POOL, SLICE, SWAP, TABLE, UNREADABLE, UNUSED
from bhyveload.inspect.sizes import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_KINDS = {
    TABLE: Kind("partition table", "#5b6470", "#9aa3af"),
    BOOT: Kind("boot code", "#7d5ba6", "#a98bd0"),
    SLICE: Kind("slice", "#c9a227", "#d9bc5c"),
    FILES: Kind("file system", "#b7410e", "#e0703a"),
    POOL: Kind("ZFS", "#1f6f8b", "#56b0cf"),
    SWAP: Kind("swap", "#4d7c4a", "#7fb37b"),
    OTHER: Kind("other", "#b9b2a3", "#6f6a60"),
    UNREADABLE: Kind("unreadable", "#8b1e3f", "#d4587d"),
    UNUSED: Kind("unused", "#eeeeee", "#24272d", empty=True),
}


def picture(layout: Mapping[str, Any], disks: Sequence[str]) -> Picture:
    """In scale, with a least height; an arrow at what boots.  ``layout``: as LAYOUT (confined/reports.py) has it."""
    columns = [Column(strip["title"], [_part(part) for part in strip["parts"]]) for strip in layout["strips"]]
    heads = ("byte", "size", "what")
    names = ", ".join(os.path.basename(disk) for disk in disks)
    return Picture(f"Disks: {names}", columns, _KINDS, heads, layout["notes"])


def _part(part: Mapping[str, Any]) -> Part:
    kind = part["kind"] if part["kind"] in _KINDS else OTHER
    name = f"{part['name']} (boots)" if part["boots"] else part["name"]
    return Part(kind, str(part["start"]), human_size(part["size"]), name, part["shown"], part["boots"])
