"""A disk's backing file and its options (usr.sbin/bhyve/block_if.c:blockif_open)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bhyveload.bhyve.devices import Backing
from bhyveload.bhyve.emulations import scan_numbers

if TYPE_CHECKING:
    from bhyveload.bhyve.config import ConfigNode
    from bhyveload.bhyve.starting import Start

_SECTOR_MAX = 1 << 30
_NUMBER = re.compile(r"[ \t\n\v\f\r]*([+-]?\d{1,18})")


def leading_number(text: str) -> int:
    """atoi(3): the number that ``text`` begins with, or 0."""
    match = _NUMBER.match(text)
    return int(match[1]) if match is not None else 0


def backing_of(start: Start, node: ConfigNode) -> Backing:
    """The backing that ``node`` describes.  Raises BhyveError: no path, sector sizes that cannot be."""
    config = start.config
    path = config.get_in(node, "path")
    if path is None:
        raise start.failed('Missing "path" for block device.')
    logical = physical = 0
    text = config.get_in(node, "sectorsize")
    if text is not None:
        sizes = scan_numbers(text, "/", 2)
        if not sizes:
            raise start.failed(f'Invalid sector size "{text}"')
        logical, physical = sizes[0], sizes[-1]
        if not (512 <= logical <= physical <= _SECTOR_MAX) or logical & (logical - 1) or physical & (physical - 1):
            raise start.failed(f"Invalid sector size {logical}/{physical}")
    return Backing(
        path,
        read_only=config.truth_in(node, "ro", False),
        no_cache=config.truth_in(node, "nocache", False),
        synchronous=config.truth_in(node, "sync", False) or config.truth_in(node, "direct", False),
        no_delete=config.truth_in(node, "nodelete", False),
        logical=logical,
        physical=physical,
    )
