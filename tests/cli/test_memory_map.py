"""bhyvectl --map, --svg, --html: what lies where, against what readelf says of the kernel and bhyveload of the rest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from support.end_to_end import load, needs_gcc, program
from support.pages import Page, check_alone

pytestmark = needs_gcc
LINE = re.compile(r"(0x[0-9a-f]+)-(0x[0-9a-f]+) +(\S+) \|(.{9})\| (.*)")


def drawn(*words: str) -> list[tuple[int, int, str]]:
    """(start, end, what) of each line."""
    lines = program("bhyvectl", "--vm=vm", "--map", *words, check=0).out.decode().splitlines()
    found = [match for line in lines if (match := LINE.fullmatch(line))]
    assert len(found) == len(lines)
    return [(int(match[1], 16), int(match[2], 16), match[5]) for match in found]


def check_whole(found: list[tuple[int, int, str]], end: int) -> None:
    """From 0 to ``end`` without gaps or overlaps."""
    assert [start for start, _, _ in found] == [0, *(last for _, last, _ in found[:-1])]
    assert found[-1][1] == end


def test_a_guest(probe_disk: Path, probe_kernel: Path) -> None:
    lines = ("load /boot/kernel/kernel", "load -t raw /boot/data")
    report = load("-d", probe_disk, "-m", "64M", *(word for line in lines for word in ("--loader-command", line)))
    found = drawn()
    check_whole(found, 64 << 20)
    places = {what: (start, end) for start, end, what in found if what != "free"}
    headers = subprocess.run(["readelf", "-lW", str(probe_kernel)], capture_output=True, text=True, check=True).stdout
    segments = [line.split() for line in headers.splitlines() if line.split()[:1] == ["LOAD"]]
    base = int(segments[0][2], 16) - report["kernel"]["address"]
    for _, _, vaddr, _, filled, whole, *flags in segments:
        start = int(vaddr, 16) - base
        part = "text" if "E" in flags else "data"
        assert places[f"/boot/kernel/kernel: {part}"] == (start, start + int(filled, 16))
        if filled != whole:
            bss = places["/boot/kernel/kernel: bss"]
            assert bss == (start + int(filled, 16), start + int(whole, 16))
    raw = next(file for file in report["files"] if file["name"] == "/boot/data")
    assert places["/boot/data (raw)"] == (raw["address"], raw["address"] + raw["size"])
    cr3 = report["vcpu"]["registers"]["cr3"]
    assert places["page tables"] == (cr3, cr3 + 3 * 4096)
    start, end = places["environment and module metadata"]
    assert start <= report["modulep"] < end == report["kernend"]


def test_memory_above_the_hole(probe_disk: Path) -> None:
    load("-d", probe_disk, "-m", "5G")
    found = drawn()
    check_whole(found, 6 << 30)
    assert (3 << 30, 4 << 30, "devices") in found


def test_a_picture(probe_disk: Path, tmp_path: Path) -> None:
    load("-d", probe_disk, "-m", "64M")
    words = [what for _, _, what in drawn(f"--svg={tmp_path}/map.svg")]
    root = ET.parse(tmp_path / "map.svg").getroot()
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert all(any(text.endswith(word) for text in texts) for word in words)
    for option in ("svg", "html"):
        done = program("bhyvectl", "--vm=vm", f"--{option}={tmp_path}/no/map", check=71)
        assert f"--{option} {tmp_path}/no/map: No such file or directory" in done.messages


def test_a_page(probe_disk: Path, tmp_path: Path) -> None:
    """Every place is a row of its table, every name in full; the picture in it is that of --svg."""
    load("-d", probe_disk, "-m", "64M")
    found = drawn(f"--svg={tmp_path}/map.svg", f"--html={tmp_path}/map.html")
    page = Page((tmp_path / "map.html").read_text())
    rows = [(row[0], row[2]) for row in page.rows]
    assert rows == [(f"{start:#x}-{end:#x}", what) for start, end, what in reversed(found)]
    assert page.title == "Memory of vm"
    root = ET.parse(tmp_path / "map.svg").getroot()
    alone = [rect.attrib for rect in root.iter("{http://www.w3.org/2000/svg}rect")][1:]
    # only a heading stands above one of them
    assert [shape.items() - {("y", shape["y"])} for shape in page.shapes] == [
        shape.items() - {("y", shape["y"])} for shape in alone
    ]
    check_alone(tmp_path / "map.html")
    check_alone(tmp_path / "map.svg")


def test_a_page_of_a_hostile_guest(probe_disk: Path, tmp_path: Path) -> None:
    load("-d", probe_disk, "-m", "64M")
    path = Path(os.environ["BHYVE_VMM_DIR"]) / "vm" / "state.json"
    state = json.loads(path.read_text())
    evil = "</text></svg><script>alert(1)</script><img src=x onerror='alert(2)'>\x1b]0;x\x07\u202e\"& " + "long" * 50
    state["loaded"]["files"].append({"name": evil, "type": "<b>", "address": 0x1000000, "size": 5})
    path.write_text(json.dumps(state))
    program("bhyvectl", "--vm=vm", f"--svg={tmp_path}/map.svg", f"--html={tmp_path}/map.html", check=0)
    check_alone(tmp_path / "map.html")
    check_alone(tmp_path / "map.svg")
    page = Page((tmp_path / "map.html").read_text())
    names = [row[2] for row in page.rows]
    assert sum(name.startswith("</text></svg><script>alert(1)</script><img src=x") for name in names) == 1
    assert all(name.isascii() and name.isprintable() for name in names)


@pytest.mark.parametrize("what", ["files", "numbers", "kernel"])
def test_a_state_that_lies(probe_disk: Path, what: str) -> None:
    """Nothing of the guest's is trusted: the rest is still drawn, escaped."""
    load("-d", probe_disk, "-m", "64M")
    path = Path(os.environ["BHYVE_VMM_DIR"]) / "vm" / "state.json"
    state = json.loads(path.read_text())
    kernel = state["loaded"]["files"][0]
    if what == "files":
        state["loaded"]["files"] = [7, {"name": "\x1b[2J", "type": "<&>", "address": 0x300000, "size": 5}, kernel]
    elif what == "numbers":
        kernel["address"], kernel["size"] = 1 << 62, 1 << 61
        state["loaded"]["kernend"] = 1 << 62
    else:
        with (path.parent / "memory").open("r+b") as memory:
            memory.seek(kernel["address"] + 32)
            memory.write(b"\xff" * 32)
    path.write_text(json.dumps(state))
    found = drawn()
    check_whole(found, 64 << 20)
    words = {word for _, _, word in found}
    if what == "files":
        assert "\\x1b[2J (<&>)" in words
    assert "page tables" in words
