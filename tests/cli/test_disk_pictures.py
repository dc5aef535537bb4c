"""bhyvedisk info --svg and --html: against the partitions that sgdisk and sfdisk were told to make."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bhyveload.cli.drawing import Part, _heights, _spread
from bhyveload.confined.reports import LAYOUT
from bhyveload.inspect.layout import FILES, OTHER, TABLE, _Area, _strip
from support import zfs_pools
from support.end_to_end import PROGRAMS, program
from support.images import MIB, blank, bsd_label, gpt_disk, make_ufs, mbr_disk, put, require, standard_disk, write_at
from support.pages import Page, check_alone

SECTOR = 512


@pytest.fixture(scope="module")
def ufs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("ufs")
    (base / "tree/boot/kernel").mkdir(parents=True)
    (base / "tree/boot/kernel/kernel").write_bytes(b"kernel")
    return make_ufs(base / "tree", base / "ufs.img", 4 * MIB, 8192, 1024, version=1)


class Drawn:
    """The page of some disks: ``rows`` (byte, size, what, kind) and the heights of their parts; it stands alone."""

    def __init__(self, folder: Path, *disks: str | Path) -> None:
        svg, page = folder / "disks.svg", folder / "disks.html"
        done = program("bhyvedisk", "info", "--svg", svg, "--html", page, *disks, check=0)
        assert (done.out, done.err) == (b"", b"")
        check_alone(svg)
        check_alone(page)
        self.page = Page(page.read_text())
        self.rows = [(int(row[0]), row[1], row[2], row[3]) for row in self.page.rows]
        self.heights = [int(str(shape["height"])) for shape in self.page.shapes][: len(self.rows)]
        alone = ET.parse(svg).getroot()
        assert len(list(alone.iter("{http://www.w3.org/2000/svg}polyline"))) == len(self.rows)

    def starting(self, what: str) -> tuple[int, str]:
        """(byte, kind) of the only row whose words begin so."""
        (row,) = [row for row in self.rows if row[2].startswith(what)]
        return row[0], row[3]


def test_a_gpt(tmp_path: Path, ufs: Path) -> None:
    sectors = ufs.stat().st_size // SECTOR
    parts = [(1, 40, 1024, "A501", None), (2, 2048, sectors, "A503", ufs), (3, 2048 + sectors, 16384, "A502", None)]
    disk = gpt_disk(tmp_path / "disk.img", parts, 16 * MIB)
    found = Drawn(tmp_path, disk)
    told = subprocess.run(["sfdisk", "--json", str(disk)], capture_output=True, check=True).stdout
    for part in json.loads(told)["partitiontable"]["partitions"]:
        number = part["node"].removeprefix(str(disk))
        assert found.starting(f"disk0p{number}: ")[0] == part["start"] * SECTOR
    assert found.rows[0] == (0, "17.0 KiB", "GPT", "partition table")
    assert found.rows[-1] == (16 * MIB - 33 * SECTOR, "16.5 KiB", "GPT's backup", "partition table")
    assert [kind for _, _, what, kind in found.rows if what.startswith("disk0")] == [
        *("boot code", "file system", "swap"),
    ]
    assert found.starting("disk0p2: freebsd-ufs, UFS1, blocks of 8192")[0] == MIB
    (boots,) = [row for row in found.rows if row[2].endswith(" (boots)")]
    assert boots[0] == MIB
    assert [row[0] for row in found.rows if row[2] == "unused"] == [
        *(34 * SECTOR, 1064 * SECTOR, (2048 + sectors + 16384) * SECTOR),
    ]
    # in scale: swap is twice the file system, nothing is too thin to be seen
    heights = dict(zip([row[2][:7] for row in found.rows], found.heights, strict=True))
    assert 1.8 < heights["disk0p3"] / heights["disk0p2"] < 2.2
    assert min(found.heights) >= 5


def test_a_slice_has_a_strip_of_its_own(tmp_path: Path, ufs: Path) -> None:
    sectors = ufs.stat().st_size // SECTOR
    script = f"start=64,size={sectors + 64},type=a5,bootable\nstart=20480,size=2048,type=83\n"
    disk = mbr_disk(tmp_path / "disk.img", script, [(80, ufs)], 12 * MIB)
    write_at(disk, 65 * SECTOR, bsd_label(sectors + 64, {0: (16, sectors, 7), 1: (16 + sectors, 48, 1)}))
    found = Drawn(tmp_path, disk)
    assert found.starting("MBR") == (0, "partition table")
    assert found.starting("disk0s1: freebsd, active") == (64 * SECTOR, "slice")
    assert found.starting("disk0s2: linux") == (20480 * SECTOR, "other")
    assert found.starting("disk0s1a: freebsd-ufs, UFS1") == (80 * SECTOR, "file system")
    assert found.starting("disk0s1b: freebsd-swap") == ((80 + sectors) * SECTOR, "swap")
    titles = [text for text in found.page.texts if text.startswith("disk0s1: BSD label")]
    assert len(titles) == 1


def test_a_label_alone_and_a_file_system_alone(tmp_path: Path, ufs: Path) -> None:
    disk = blank(tmp_path / "label.img", 8 * MIB)
    write_at(disk, SECTOR, bsd_label(16384, {0: (64, 8192, 7)}))
    put(disk, ufs, 64 * SECTOR)
    found = Drawn(tmp_path, disk, ufs)
    assert found.starting("BSD label") == (0, "partition table")
    assert found.starting("disk0a: freebsd-ufs, UFS1") == (64 * SECTOR, "file system")
    assert found.starting("UFS1, blocks of 8192") == (0, "file system")


def test_a_pool(tmp_path: Path) -> None:
    disks = []
    for name in zfs_pools.disk_names("raidz2"):
        image = zfs_pools.disk(name)
        disks.append(tmp_path / f"{name}.img")
        disks[-1].write_bytes(zfs_pools.pread(image, 0, image.size))
    found = Drawn(tmp_path, *disks)
    pools = [row[2] for row in found.rows if row[3] == "ZFS"]
    assert len(pools) == len(disks)
    assert all("ZFS, pool rz2" in what and what.endswith("(boots)") for what in pools)


def test_names_of_a_hostile_guest(tmp_path: Path) -> None:
    require("sfdisk")
    disk = blank(tmp_path / "disk.img", 4 * MIB)
    kind = "516E7CB6-6ECF-11D6-8FF8-00022D09712B"  # freebsd-ufs
    script = f'label: gpt\nstart=64,size=64,type={kind},name="</text><script>&\u202e"\n'
    subprocess.run(["sfdisk", "-q", str(disk)], input=script, text=True, check=True, capture_output=True)
    what = next(row[2] for row in Drawn(tmp_path, disk).rows if "disk0p1" in row[2])
    assert what == 'disk0p1: freebsd-ufs, "</text><script>&\\xe2\\x80\\xae"'


def test_partitions_that_overlap_or_end_behind_the_disk(tmp_path: Path) -> None:
    script = "start=64,size=4096,type=83\nstart=4160,size=4096,type=83\n"
    disk = mbr_disk(tmp_path / "disk.img", script, [], 8 * MIB)
    write_at(disk, 446 + 16 + 8, (2000).to_bytes(4, "little"))  # the second now begins in the first
    write_at(disk, 446 + 16 + 12, (0xFFFFFF00).to_bytes(4, "little"))
    found = Drawn(tmp_path, disk)
    assert [(row[0], row[2]) for row in found.rows[-2:]] == [
        (64 * SECTOR, "disk0s1: linux"),
        (2000 * SECTOR, "disk0s2: linux, overlaps what is before it, reaches behind the end"),
    ]
    assert sum(found.heights) <= 260  # what overlaps is drawn once


def test_a_damaged_table(tmp_path: Path, ufs: Path) -> None:
    disk = standard_disk(tmp_path / "disk.img", ufs)
    write_at(disk, SECTOR, bytes(SECTOR))
    assert Drawn(tmp_path, disk).rows[0][2] == "GPT (damaged; the one at the end is used)"


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    """The one of before stays; nothing is left of the new one."""
    disk, folder = blank(tmp_path / "disk.img", MIB), tmp_path / "pictures"
    folder.mkdir()
    (folder / "old.svg").write_text("old")
    words = [str(PROGRAMS / "bhyvedisk"), "info", str(disk), "--svg"]
    for name in ("old.svg", "new.svg"):
        limited = ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", *words, str(folder / name)]
        done = subprocess.run(limited, capture_output=True, text=True, check=False)
        assert done.returncode == 71 and f"--svg {folder / name}: File too large\n" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["old.svg"]
    assert (folder / "old.svg").read_text() == "old"
    done = subprocess.run([*words, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 71 and "Is a directory" in done.stderr


def test_text_json_and_pictures(tmp_path: Path, ufs: Path) -> None:
    picture = tmp_path / "a.svg"
    done = program("bhyvedisk", "info", "--json", "--svg", picture, ufs, check=0)
    assert done.json["disks"][0]["name"] == "disk0"
    assert picture.exists()
    done = program("bhyvedisk", "ls", "--svg", picture, ufs, check=64)
    assert "--svg goes with info only" in done.messages
    done = program("bhyvedisk", "info", "--html", tmp_path / "no/a.html", ufs, check=71)
    assert f"--html {tmp_path}/no/a.html: No such file or directory" in done.messages
    done = program("bhyvedisk", "info", "--svg", ufs, ufs, check=64)
    assert "is one of the disks" in done.messages


areas = st.lists(
    st.builds(
        lambda kind, start, size: _Area(kind, start, start + size, "x"),
        st.sampled_from([FILES, TABLE, OTHER]),
        st.integers(0, 1 << 70) | st.integers(0, 5000),
        st.integers(0, 1 << 70) | st.integers(0, 5000),
    ),
    max_size=30,
)


@given(areas, st.integers(0, 4000), st.integers(0, 4000))
def test_any_areas(found: list[_Area], begin: int, size: int) -> None:
    """All of the strip is shown, once, in order; the report's shape takes it."""
    strip = _strip("title", begin, begin + size, found)
    inside = [area for area in found if begin <= area.start < begin + size]
    if len(inside) == len(found):
        assert sum(part["shown"] for part in strip["parts"]) == size
    assert sum(part["shown"] for part in strip["parts"]) <= size
    starts = [part["start"] for part in strip["parts"]]
    assert starts == sorted(starts)
    assert LAYOUT.check({"notes": [], "strips": [strip]}) == {"notes": [], "strips": [strip]}


@given(st.lists(st.integers(0, 1 << 64), min_size=1, max_size=60))
def test_any_weights(weights: list[int]) -> None:
    """Lines keep their order and their distance, and end where the bar or the table ends."""
    parts = [Part(FILES, "0", "1", "x", weight) for weight in weights]
    heights = _heights(parts)
    assert min(heights) >= 5
    edges = [sum(heights[:number]) for number in range(len(heights))]
    middles = [edge + height / 2 for edge, height in zip(edges, heights, strict=True)]
    bottom = max(sum(heights), 18 * len(parts))
    lines = _spread(middles, 0, bottom)
    assert all(below - above >= 18 - 1e-6 for above, below in pairwise(lines))
    assert lines[0] >= 9 - 1e-6
    assert lines[-1] <= bottom - 9 + 1e-6
