"""What lies behind what, drawn: bars with a table beside them, as an SVG or as a page that holds one.

Both stand alone: no script, nothing from elsewhere, light and dark by the reader's choice.  Every text may be a guest's
and is escaped here.
"""

from __future__ import annotations

import errno
import html
import os

from bhyveload.cli.copytarget import CopyTarget
from bhyveload.errors import HostError
from bhyveload.libc import write_all
from bhyveload.printable import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MARGIN, _BAR, _LEADER, _GAP = 16, 120, 76, 18  # pixels
_ROW = 18  # a line of the table
_LETTER = 7.4  # the widest of the common monospaced fonts at 12 pixels
_TALLEST = 260  # of a bar in scale, where the table is not taller
_THINNEST = 5
_LONGEST = 88  # letters of a name
_HEADING = 26

_STYLE = """
text { font-family: ui-monospace, "DejaVu Sans Mono", "Liberation Mono", Menlo, Consolas, monospace; font-size: 12px }
text.heading { font-size: 15px; font-weight: bold }
@media (prefers-color-scheme: dark) {
  .paper { fill: #16181c } text { fill: #e4e6ea } .leader { stroke: #7d838c } .part { stroke: #c3c7cd }
%s}
"""
_PAGE_STYLE = """
:root { color-scheme: light dark }
body { margin: 1.5rem; font: 15px/1.45 system-ui, sans-serif; color: #1b1d20; background: #fff }
h1 { font-size: 1.5rem; overflow-wrap: anywhere }
figure { margin: 1rem 0; overflow-x: auto }
table { border-collapse: collapse; margin: .4rem 0 1.6rem; font: 13px/1.4 ui-monospace, monospace }
caption { text-align: left; font: bold 15px/2 system-ui, sans-serif }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ccd0d6;
  overflow-wrap: anywhere }
td.number { text-align: right; white-space: nowrap }
@media (prefers-color-scheme: dark) {
  body { color: #e4e6ea; background: #16181c } th, td { border-color: #3a3f47 }
}
"""


class Kind:
    """``label`` for people; ``light`` and ``dark``: its colour on either paper; ``empty``: nothing is there."""

    __slots__ = ("dark", "empty", "label", "light")

    def __init__(self, label: str, light: str, dark: str, empty: bool = False) -> None:
        self.label = label
        self.light = light
        self.dark = dark
        self.empty = empty


class Part:
    """A bar's part and its line in the table: ``place`` and ``size`` in words, ``name``; ``weight`` is its share of the
    bar.  ``marked``: with an arrow."""

    __slots__ = ("kind", "marked", "name", "place", "size", "weight")

    def __init__(self, kind: str, place: str, size: str, name: str, weight: int, marked: bool = False) -> None:
        self.kind = kind
        self.place = place
        self.size = size
        self.name = name
        self.weight = weight
        self.marked = marked


class Column:
    """A bar from top to bottom, and what it shows."""

    __slots__ = ("parts", "title")

    def __init__(self, title: str, parts: Sequence[Part]) -> None:
        self.title = title
        self.parts = parts


class Picture:
    """``title``, ``notes`` below it, ``columns`` one below the other; ``kinds`` by the names that parts use.

    ``scaled``: a bar's parts are as tall as their weights say, with a least height; else each weight is pixels.
    ``heads``: what stands above the table's columns.
    """

    def __init__(
        self,
        title: str,
        columns: Sequence[Column],
        kinds: dict[str, Kind],
        heads: Sequence[str],
        notes: Sequence[str] = (),
        scaled: bool = True,
    ) -> None:
        self.title = title
        self.columns = columns
        self.kinds = kinds
        self.heads = heads
        self.notes = notes
        self.scaled = scaled

    def svg(self) -> str:
        """A file of its own."""
        return self._svg((self.title, *self.notes)) + "\n"

    def page(self) -> str:
        """HTML: the picture, and all of it as tables, names in full."""
        title = _shown(self.title)
        lines = [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>\n<style>{_PAGE_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>",
            *(f"<p>{_shown(note)}</p>" for note in self.notes),
            f"<figure>{self._svg(())}</figure>",
        ]
        for column in self.columns:
            heads = "".join(f'<th scope="col">{_shown(head)}</th>' for head in (*self.heads, "kind"))
            lines.append(f"<table>\n<caption>{_shown(column.title)}</caption>\n<tr>{heads}</tr>")
            lines += [self._table_row(part) for part in column.parts]
            lines.append("</table>")
        return "\n".join([*lines, "</body>\n</html>\n"])

    def _table_row(self, part: Part) -> str:
        cells = f'<td class="number">{_shown(part.place)}</td><td class="number">{_shown(part.size)}</td>'
        return f"<tr>{cells}<td>{_shown(part.name)}</td><td>{_shown(self.kinds[part.kind].label)}</td></tr>"

    def _svg(self, heading: Sequence[str]) -> str:
        table = _Table([part for column in self.columns for part in column.parts])
        rows: list[str] = []
        y = _MARGIN
        for number, text in enumerate(heading):
            y += _ROW if number else _HEADING - 6
            rows.append(_text(_MARGIN, y, text, "" if number else "heading"))
        for column in self.columns:
            y += _HEADING + 6
            rows.append(_text(_MARGIN, y, column.title, "heading"))
            y += 10
            heights = _heights(column.parts) if self.scaled else [part.weight for part in column.parts]
            rows += self._bar(column.parts, heights, y, table)
            y += max(sum(heights), _ROW * len(heights))
        texts = [*(column.title for column in self.columns), *heading]
        width = max(table.width, *(int(len(escape(text)) * _LETTER * 1.3) + 2 * _MARGIN for text in texts), 480)
        legend, y = self._legend(y + _HEADING, width)
        height = y + _MARGIN
        used = enumerate(self.kinds.values())
        style = _STYLE % "".join(f"  .kind{number} {{ fill: {kind.dark} }}\n" for number, kind in used)
        title = _shown(self.title)
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="0 0 {width} {height}" role="img" font-family="monospace" font-size="12">',
                f"<title>{title}</title>\n<style>{style}</style>",
                f'<rect class="paper" width="{width}" height="{height}" fill="#ffffff"/>',
                *rows,
                *legend,
                "</svg>",
            ]
        )

    def _bar(self, parts: Sequence[Part], heights: Sequence[int], top: int, table: _Table) -> Iterator[str]:
        edges = [top]
        for height in heights:
            edges.append(edges[-1] + height)
        middles = [first + height / 2 for first, height in zip(edges, heights, strict=False)]
        bottom = top + max(edges[-1] - top, _ROW * len(parts))
        right = _MARGIN + _BAR
        for part, first, height, middle, line in zip(
            parts, edges, heights, middles, _spread(middles, top, bottom), strict=False
        ):
            words = _shown(f"{part.place}  {part.size}  {part.name}")
            yield f'<rect x="{_MARGIN}" y="{first}" width="{_BAR}" height="{height}" {self._look(part.kind)}>'
            yield f"<title>{words}</title></rect>"
            yield (
                f'<polyline class="leader" points="{right},{middle:.1f} {right + 8},{middle:.1f} '
                f'{right + _LEADER - 8},{line:.1f} {right + _LEADER - 2},{line:.1f}" fill="none" stroke="#8a9099"/>'
            )
            if part.marked:
                yield f'<path class="leader" d="M3 {middle - 5:.1f}l9 5l-9 5z" fill="#c2410c" stroke="none"/>'
            yield from table.row(part, line + 4)

    def _look(self, kind: str) -> str:
        number = list(self.kinds).index(kind)
        dashes = ' stroke-dasharray="2 2"' if self.kinds[kind].empty else ""
        return f'class="part kind{number}" fill="{self.kinds[kind].light}" stroke="#33373d"{dashes}'

    def _legend(self, y: int, width: int) -> tuple[list[str], int]:
        """What the colours of this picture mean; where it ends."""
        rows = []
        x = _MARGIN
        used = {part.kind for column in self.columns for part in column.parts}
        for name, kind in self.kinds.items():
            if name not in used:
                continue
            room = 20 + int(len(kind.label) * _LETTER) + _GAP
            if x > _MARGIN and x + room > width:
                x, y = _MARGIN, y + _ROW
            rows.append(f'<rect x="{x}" y="{y - 10}" width="13" height="12" {self._look(name)}/>')
            rows.append(_text(x + 20, y, kind.label))
            x += room
        return rows, y


class _Table:
    """Where the columns of the words beside all bars stand."""

    def __init__(self, parts: Sequence[Part]) -> None:
        def room(texts: Iterator[str]) -> int:
            return int(max((len(escape(text)) for text in texts), default=0) * _LETTER) + 1

        left = _MARGIN + _BAR + _LEADER + 6
        self._place = left + room(part.place for part in parts)
        self._size = self._place + _GAP + room(part.size for part in parts)
        self._name = self._size + _GAP
        self.width = self._name + room(_short(part.name) for part in parts) + _MARGIN

    def row(self, part: Part, y: float) -> Iterator[str]:
        yield _text(self._place, y, part.place, "", "end")
        yield _text(self._size, y, part.size, "", "end")
        yield _text(self._name, y, _short(part.name))


def save(picture: Picture, svg: str | None, page: str | None) -> None:
    """Into the files of these names, which are there whole or stay as they were.  Raises HostError: one cannot be
    written."""
    for option, path, text in (("svg", svg, Picture.svg), ("html", page, Picture.page)):
        if path is None:
            continue
        try:
            if os.path.isdir(path):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            with CopyTarget(path, path) as target:
                write_all(target.fd, text(picture).encode("ascii"))
                target.commit(0o666)
        except OSError as error:
            raise HostError(f"--{option} {path}: {error.strerror}") from None


def _heights(parts: Sequence[Part]) -> list[int]:
    """In scale, but none thinner than can be seen."""
    room = max(_TALLEST, _ROW * len(parts)) - _THINNEST * len(parts)
    whole = sum(part.weight for part in parts) or 1
    return [_THINNEST + part.weight * room // whole for part in parts]


def _spread(middles: Sequence[float], top: int, bottom: int) -> list[float]:
    """Lines as near to ``middles`` as they can be without touching each other, in the same order."""
    lines: list[float] = []
    for middle in middles:
        lines.append(max(middle, lines[-1] + _ROW if lines else top + _ROW / 2))
    limit = bottom - _ROW / 2
    for number in range(len(lines) - 1, -1, -1):
        lines[number] = min(lines[number], limit)
        limit = lines[number] - _ROW
    return lines


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "") -> str:
    styled = f' class="{style}"' if style else ""
    anchored = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:g}" y="{y:g}"{styled}{anchored} xml:space="preserve">{_shown(text)}</text>'


def _shown(text: str) -> str:
    return html.escape(escape(text))


def _short(name: str) -> str:
    """A name that fits: its beginning and its end."""
    name = escape(name)
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST // 2 - 2]}...{name[-(_LONGEST // 2 - 1) :]}"
