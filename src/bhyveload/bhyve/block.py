"""A disk's backing file and its options (usr.sbin/bhyve/block_if.c:blockif_open)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bhyveload.bhyve.devices import Backing
from bhyveload.libc import strtol

if TYPE_CHECKING:
    from bhyveload.bhyve.config import ConfigNode
    from bhyveload.bhyve.starting import Start

_SECTOR_MAX = 1 << 30


def leading_number(text: str) -> int:
    """atoi(3): the number that ``text`` begins with, or 0."""
    return strtol(text, 10)[0]


def backing_of(start: Start, node: ConfigNode) -> Backing:
    """The backing that ``node`` describes.  Raises BhyveError: no path, sector sizes that cannot be."""
    config = start.config
    logical, physical = _sector_sizes(start, config.get_in(node, "sectorsize"))
    path = config.get_in(node, "path")
    if path is None:
        raise start.failed('Missing "path" for block device.')
    if logical and (
        not (512 <= logical <= physical <= _SECTOR_MAX) or logical & (logical - 1) or physical & (physical - 1)
    ):
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


def _sector_sizes(start: Start, text: str | None) -> tuple[int, int]:
    """``logical[/physical]`` in bytes, not judged yet; 0 is as if it were not there."""
    if text is None:
        return 0, 0
    logical, end = strtol(text, 10)
    physical, rest = logical, text[end:]
    if end and rest[:1] == "/":
        physical, end = strtol(rest[1:], 10)
        rest = rest[1 + end :]
    if not end or rest:
        raise start.failed(f'Invalid sector size "{text}"')
    return logical, physical if logical else 0
