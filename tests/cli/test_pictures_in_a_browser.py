"""The pictures as a browser shows them: colours where they should be, every line legible and none over another."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

from support.browser import Colour, Screenshot, screenshot
from support.end_to_end import load, needs_gcc, program
from support.images import MIB, blank, gpt_disk
from support.pages import Page

SVG = "{http://www.w3.org/2000/svg}"
PAPER = {False: "#ffffff", True: "#16181c"}


def colour(text: str) -> Colour:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def number(element: ET.Element, name: str) -> float:
    return float(element.attrib[name])


class Shown:
    """An SVG and its screenshot."""

    def __init__(self, path: Path, folder: Path, dark: bool) -> None:
        self.root = ET.parse(path).getroot()
        self.width, self.height = int(self.root.attrib["width"]), int(self.root.attrib["height"])
        # a headless window is less high inside
        self.pixels: Screenshot = screenshot(path, folder, self.width, self.height + 200, dark)
        self.dark = dark

    def check_colours(self) -> None:
        style = self.root.findtext(f"{SVG}style") or ""
        dark = dict(re.findall(r"\.(kind\d+) \{ fill: (#\w{6}) \}", style))
        parts = [rect for rect in self.root.iter(f"{SVG}rect") if "part" in rect.attrib["class"]]
        assert len(parts) > 5
        for rect in parts:
            x = number(rect, "x") + number(rect, "width") / 2
            y = number(rect, "y") + number(rect, "height") / 2
            wanted = dark[rect.attrib["class"].split()[1]] if self.dark else rect.attrib["fill"]
            assert self.pixels.at(x, y) == colour(wanted)
        for x, y in ((1, 1), (self.width - 2, 1), (self.width - 2, self.height - 2)):
            assert self.pixels.at(x, y) == colour(PAPER[self.dark])

    def check_lines(self) -> None:
        """There is ink where a text is, none between two lines, none at the right edge."""
        leaders = [line.attrib["points"].split()[-1] for line in self.root.iter(f"{SVG}polyline")]
        left = max(float(point.partition(",")[0]) for point in leaders) + 2
        lines = sorted({number(text, "y") for text in self.root.iter(f"{SVG}text") if number(text, "x") > left})
        assert len(lines) > 5
        for y in lines:
            assert not self.pixels.is_plain(left, y - 9, self.width - left - 1, 9)
        for above, below in pairwise(lines):
            assert below - above >= 18
            assert self.pixels.is_plain(left, above + 4.5, self.width - left - 1, 2)
        assert self.pixels.is_plain(self.width - 6, 1, 5, self.height - 2)
        for text in self.root.iter(f"{SVG}text"):
            if text.attrib.get("text-anchor") == "end":  # right in front of the next column
                assert self.pixels.is_plain(number(text, "x") + 2, number(text, "y") - 9, 12, 12)


@needs_gcc
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_memory(probe_disk: Path, tmp_path: Path, dark: bool) -> None:
    load("-d", probe_disk, "-m", "5G")
    program("bhyvectl", "--vm=vm", f"--svg={tmp_path}/map.svg", check=0)
    shown = Shown(tmp_path / "map.svg", tmp_path, dark)
    shown.check_colours()
    shown.check_lines()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_disks(tmp_path: Path, dark: bool) -> None:
    """Many small partitions beside a large one."""
    small = [(number, 40 + 16 * number, 8, "A502", None) for number in range(1, 13)]
    disk = gpt_disk(tmp_path / "disk.img", [*small, (13, 4096, 200000, "A503", None)], 128 * MIB)
    program("bhyvedisk", "info", "--svg", tmp_path / "disks.svg", disk, blank(tmp_path / "empty.img", MIB), check=0)
    shown = Shown(tmp_path / "disks.svg", tmp_path, dark)
    shown.check_colours()
    shown.check_lines()


def test_a_page(tmp_path: Path) -> None:
    """The page, in a window as wide as its picture: the picture is in it, with its colours."""
    disk = gpt_disk(tmp_path / "disk.img", [(1, 2048, 20000, "A502", None)], 16 * MIB)
    program("bhyvedisk", "info", "--html", tmp_path / "disks.html", disk, check=0)
    shapes = Page((tmp_path / "disks.html").read_text()).shapes
    pixels = screenshot(tmp_path / "disks.html", tmp_path, 900, 900)
    middle = 24 + 16 + 60  # margins, half a bar
    column = {pixels.at(middle, y) for y in range(200, 800)}
    assert {colour(str(shape["fill"])) for shape in shapes} <= column
