"""Guest memory drawn: as lines for a terminal, as an SVG that stands alone."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from bhyveload.cli.messages import escape
from bhyveload.handoff.pvh.places import FIRMWARE, FREE, HOLE, KERNEL, MODULE, TABLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhyveload.handoff.pvh.places import Place

_COLOURS = {
    KERNEL: "#b7410e",
    MODULE: "#d9902f",
    TABLES: "#5b7f95",
    FIRMWARE: "#8c6bb1",
    FREE: "#dfe8d8",
    HOLE: "#eeeeee",
}
_MARKS = {KERNEL: "#", MODULE: "=", TABLES: "+", FIRMWARE: "%", FREE: ".", HOLE: " "}
_ROW, _WIDTH, _LEFT, _BAR = 14, 900, 330, 90


def as_lines(places: Sequence[Place]) -> str:
    """A line each: where, how large, a bar that grows with the logarithm of the size, what."""
    return "".join(
        f"{place.start:#013x}-{place.end:#013x} {size_text(place.size):>8} "
        f"|{_MARKS[place.kind] * _weight(place):<9}| {escape(place.name)}\n"
        for place in places
    )


def as_svg(places: Sequence[Place], name: str) -> str:
    """Lowest addresses at the bottom; heights grow with the logarithm of the size."""
    title = f"Memory of {html.escape(escape(name))}"
    heights = [_ROW + 6 * _weight(place) for place in places]
    total = sum(heights) + 50
    rows = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{total}" viewBox="0 0 {_WIDTH} {total}" '
        f'role="img" font-family="monospace" font-size="12">',
        f"<title>{title}</title>",
        f'<rect width="{_WIDTH}" height="{total}" fill="white"/>',
        f'<text x="10" y="22" font-size="16">{title}</text>',
    ]
    y = total - 10
    for place, height in zip(places, heights, strict=True):
        y -= height
        text = html.escape(f"{size_text(place.size)}  {escape(place.name)}")
        middle = y + height // 2 + 4
        rows += [
            f'<rect x="{_LEFT - _BAR}" y="{y}" width="{_BAR}" height="{height}" fill="{_COLOURS[place.kind]}" '
            'stroke="#333"/>',
            f'<text x="{_LEFT - _BAR - 8}" y="{middle}" text-anchor="end">{place.start:#x}-{place.end:#x}</text>',
            f'<text x="{_LEFT + 8}" y="{middle}">{text}</text>',
        ]
    return "\n".join([*rows, "</svg>", ""])


def size_text(size: int) -> str:
    """ "3G", "1.5M", "84": at most one digit behind the point."""
    for shift, unit in ((30, "G"), (20, "M"), (10, "K")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.1f}".removesuffix(".0") + unit
    return str(size)


def _weight(place: Place) -> int:
    """1 for a page or less, one more for each four times as much, 9 at most."""
    return min(9, 1 + max(0, (place.size.bit_length() - 13) // 2))
