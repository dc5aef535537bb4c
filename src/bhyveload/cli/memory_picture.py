"""Guest memory drawn: as lines for a terminal, as a picture."""

from __future__ import annotations

from bhyveload.cli.drawing import Column, Kind, Part, Picture
from bhyveload.handoff.pvh.places import FIRMWARE, FREE, HOLE, KERNEL, MODULE, TABLES
from bhyveload.printable import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhyveload.handoff.pvh.places import Place

_KINDS = {
    KERNEL: Kind("kernel", "#b7410e", "#e0703a"),
    MODULE: Kind("modules and files", "#d9902f", "#e5b567"),
    TABLES: Kind("tables and stack", "#3f6f8f", "#6ba3c7"),
    FIRMWARE: Kind("firmware's", "#7d5ba6", "#a98bd0"),
    FREE: Kind("free", "#dfe8d8", "#2c3a2a", empty=True),
    HOLE: Kind("no memory", "#ececec", "#24272d", empty=True),
}
_MARKS = {KERNEL: "#", MODULE: "=", TABLES: "+", FIRMWARE: "%", FREE: ".", HOLE: " "}
_LINE = 18  # pixels


def as_lines(places: Sequence[Place]) -> str:
    """A line each: where, how large, a bar that grows with the logarithm of the size, what."""
    return "".join(
        f"{place.start:#013x}-{place.end:#013x} {size_text(place.size):>8} "
        f"|{_MARKS[place.kind] * _weight(place):<9}| {escape(place.name)}\n"
        for place in places
    )


def picture(places: Sequence[Place], name: str) -> Picture:
    """Lowest addresses at the bottom; heights grow with the logarithm of the size."""
    parts = [
        Part(
            place.kind,
            f"{place.start:#x}-{place.end:#x}",
            size_text(place.size),
            place.name,
            _LINE + 5 * _weight(place),
        )
        for place in reversed(places)
    ]
    column = Column("guest physical addresses, the lowest at the bottom; heights by the logarithm of the size", parts)
    return Picture(f"Memory of {name}", [column], _KINDS, ("addresses", "size", "what"), scaled=False)


def size_text(size: int) -> str:
    """ "3G", "1.5M", "84": at most one digit behind the point."""
    for shift, unit in ((30, "G"), (20, "M"), (10, "K")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.1f}".removesuffix(".0") + unit
    return str(size)


def _weight(place: Place) -> int:
    """1 for a page or less, one more for each four times as much, 9 at most."""
    return min(9, 1 + max(0, (place.size.bit_length() - 13) // 2))
