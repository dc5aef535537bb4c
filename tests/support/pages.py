"""What is in a page or a picture, and that it needs nothing but itself."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

# what the pictures and pages are made of; nothing in it fetches or runs anything
_ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "p", "figure", "table", "caption", "tr", "th", "td"),
    *("svg", "rect", "text", "polyline", "path"),
}
_NAMESPACE = "http://www.w3.org/2000/svg"


class Page(HTMLParser):
    """``title``; ``rows``: the cells of each row of a table; ``shapes``: the attributes of the parts' rectangles;
    ``texts``: the picture's words; ``elements`` and ``attributes``: names and values of all there are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.title = ""
        self.rows: list[list[str]] = []
        self.shapes: list[dict[str, str | None]] = []
        self.texts: list[str] = []
        self.elements: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self._inside = ""
        self.feed(text)
        self.close()
        self.rows = [row for row in self.rows if row]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {(name, value or "") for name, value in attrs}
        self._inside = tag
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")
        elif tag == "rect" and "kind" in (dict(attrs).get("class") or ""):
            self.shapes.append(dict(attrs))
        elif tag == "text":
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "td":
            self.rows[-1][-1] += data
        elif self._inside == "text":
            self.texts[-1] += data
        elif self._inside == "title" and not self.title:
            self.title = data


def check_alone(path: Path) -> None:
    """Only harmless elements, no attribute that names or runs something, no style that fetches."""
    text = path.read_text("ascii")
    page = Page(text)
    assert page.elements <= _ELEMENTS
    assert not any(
        name.startswith("on") or name in ("href", "src", "style", "xlink:href") for name, _ in page.attributes
    )
    assert not any("://" in value and value != _NAMESPACE for _, value in page.attributes)
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    assert "url(" not in styles
    assert "@import" not in styles
