"""Numbers of bytes for people."""

from __future__ import annotations


def human_size(size: int) -> str:
    """`512 B`, `64.0 KiB`, `1.5 GiB`."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    unit = 0
    while value >= 1024 and unit < 6:
        value /= 1024
        unit += 1
    return f"{value:.1f} {' KMGTPE'[unit]}iB"
