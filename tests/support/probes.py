"""The probes: what FreeBSD 13.2's loader answered, keystroke by keystroke (tests/data/probes/README.md).

``prepare`` rebuilds a probe's disks with Debian's tools, ``compare`` holds our transcript against the recorded one.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from support.images import (
    MIB,
    blank,
    bsd_label,
    gpt_disk,
    make_ufs,
    mbr_disk,
    put,
    require,
    run_tool,
    standard_disk,
    unpack,
    write_at,
)
from support.places import DATA

PROBES = DATA / "probes"
_TWIDDLE = re.compile(rb"[|/\\-]\x08")


class Probe:
    """One recorded run."""

    def __init__(self, name: str) -> None:
        folder = PROBES / name
        self.name = name
        self.folder = folder
        self.keys = (folder / "keys.txt").read_bytes()
        self.console = (folder / "console.txt").read_bytes()
        self.run = (folder / "run.txt").read_text(encoding="latin-1")
        self.environment = _variables((folder / "env.txt").read_text(encoding="latin-1"))
        self.variables = [
            line[len("environment: ") :].encode("latin-1")
            for line in self.run.splitlines()
            if line.startswith("environment: ")
        ]
        self.interpreter = "4th" if self.field("loader").startswith("userboot_4th") else "lua"
        match = re.search(r"^memory: (\d+) MiB$", self.run, re.M)
        self.memory = int(match[1]) * MIB if match else 128 * MIB

    def field(self, name: str) -> str:
        match = re.search(rf"^{name}: (.*)$", self.run, re.M)
        return match[1] if match else ""


def _variables(recorded: str) -> list[str]:
    """`name=value` lines, sorted.  A second run with `set LINES=9999` and `show` recorded most of them: LINES
    is left out then, and what the probe's own cli_execute said about `show`."""
    lines = recorded.removeprefix("<show>").splitlines()
    return sorted({line for line in lines if "=" in line and line != "LINES=9999"})


def names(*patterns: str) -> list[str]:
    """Probes whose names begin with one of ``patterns``."""
    return sorted(path.name for path in PROBES.iterdir() if path.is_dir() and path.name.startswith(patterns))


def prepare(probe: Probe, tmp_path: Path) -> list[Path]:
    """The probe's disks in order (none for layout-nothing and layout-host-only)."""
    disk = tmp_path / "disk0.img"
    tree = tmp_path / "tree"
    if (probe.folder / "tree.tgz").exists():
        unpack(probe.folder / "tree.tgz", tree)
    if probe.name.startswith("layout-"):
        return _layout(probe.name.removeprefix("layout-"), tree, tmp_path, disk)
    if "ISO 9660" in probe.field("disk 0"):
        require("xorriso")
        run_tool("xorriso", "-as", "mkisofs", "-R", "-V", "OURS", "-o", disk, tree)
        return [disk]
    match = re.search(r"block (\d+), fragment (\d+), size (\d+)m", probe.run)
    assert match, f"{probe.name}: no file system described"
    block, fragment, size = (int(text) for text in match.groups())
    return [standard_disk(disk, make_ufs(tree, tmp_path / "fs", size * MIB, block, fragment))]


def _layout(layout: str, tree: Path, tmp_path: Path, disk: Path) -> list[Path]:
    """layout-*: two file systems of 8192 sectors, /who tells which; partitions at sectors 2048 and 10240."""
    if layout in ("nothing", "host-only"):
        return []
    if layout == "empty":
        return [blank(disk, 0)]
    if layout == "tiny":
        return [blank(disk, 700)]
    if layout == "blank":
        return [blank(disk, 16 * MIB)]
    second = make_ufs(tree, tmp_path / "b", 4 * MIB)
    other = Path(shutil.copytree(tree, tmp_path / "other", symlinks=True))
    (other / "who").write_text("A\n")
    first = make_ufs(other, tmp_path / "a", 4 * MIB)
    if layout in ("bare", "disk-and-host"):
        return [first]
    size = 24 * MIB if layout == "mbr-extended" else 16 * MIB
    gpt: dict[str, list[tuple[int, int, int, str, Path | None]]] = {
        "gpt-boot-swap-ufs": [
            (1, 40, 1024, "A501", None),
            (2, 2048, 8192, "A502", None),
            (3, 10240, 8192, "A503", first),
        ],
        "gpt-both-headers-zero": [(1, 2048, 8192, "A503", first)],
        "gpt-freebsd-type": [(1, 2048, 8192, "A500", first)],
        "gpt-gaps-reverse": [(5, 2048, 8192, "A503", first), (2, 10240, 8192, "A503", second)],
        "gpt-linux-msdata": [(1, 2048, 8192, "8300", first), (2, 10240, 8192, "0700", second)],
        "gpt-no-pmbr": [(1, 2048, 8192, "A503", first)],
        "gpt-primary-header-zero": [(1, 2048, 8192, "A503", first)],
        "gpt-ufs-first": [(1, 2048, 8192, "A503", first)],
    }
    if layout in gpt:
        gpt_disk(disk, gpt[layout], size)
        if layout == "gpt-no-pmbr":
            write_at(disk, 0, bytes(512))
        if layout in ("gpt-both-headers-zero", "gpt-primary-header-zero"):
            write_at(disk, 512, bytes(512))
        if layout == "gpt-both-headers-zero":
            write_at(disk, size - 512, bytes(512))
        return [disk]
    if layout == "second-disk-only":
        gpt_disk(disk, [(1, 40, 1024, "A501", None)], 4 * MIB)
        return [disk, gpt_disk(tmp_path / "disk1.img", [(1, 2048, 8192, "A503", first)], size)]
    if layout == "bsd-dedicated":
        blank(disk, 5 * MIB)
        put(disk, first, 16 * 512)
        write_at(disk, 512, bsd_label(8208, {0: (16, 8192, 7)}))
        return [disk]
    if layout == "mbr-bsd":
        mbr_disk(disk, "start=63, size=8208, type=a5, bootable\n", [(63 + 16, first)], 5 * MIB)
        write_at(disk, 64 * 512, bsd_label(8208, {0: (16, 8192, 7)}))
        return [disk]
    scripts = {
        "mbr-a5-bare": ("start=2048, size=8192, type=a5, bootable\n", [(2048, first)]),
        "mbr-linux-fat": (
            "start=2048, size=8192, type=83\nstart=10240, size=8192, type=c, bootable\n",
            [(2048, first), (10240, second)],
        ),
        "mbr-two-a5-second-active": (
            "start=2048, size=8192, type=a5\nstart=10240, size=8192, type=a5, bootable\n",
            [(2048, first), (10240, second)],
        ),
        "mbr-extended": (
            "start=2048, size=64, type=7\nstart=4096, size=38912, type=5\n"
            "start=6144, size=8192, type=a5\nstart=16384, size=8192, type=83\n",
            [(6144, first), (16384, second)],
        ),
    }
    script, parts = scripts[layout]
    return [mbr_disk(disk, script, parts, size)]


def without_twiddles(console: bytes) -> bytes:
    return _TWIDDLE.sub(b"", console)
