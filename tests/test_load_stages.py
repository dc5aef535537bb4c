"""tools/load_stages.py: the seams that it puts its clock at are there, and the stages are the whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import load_stages
from support import stock_disk


def test_the_stages_of_a_load(tmp_path: Path) -> None:
    pytest.importorskip("lupa")
    disk = stock_disk.make_disk(tmp_path)
    environment = {**os.environ, "BHYVE_VMM_DIR": str(tmp_path / "vmm")}
    found = load_stages.stages(["--batch", "-d", str(disk), "vm"], environment)
    assert list(found) == [
        load_stages.BARE,
        "modules of every load",
        "command line, VM, disks",
        "report",
        "modules of this guest",
        "fork",
        "state.json; memory of the guest before",
        "start of the child",
        "confinement",
        "disks, partitions, pools",
        "scripts",
        load_stages.COPY,
        "hand-over",
        load_stages.REST,
    ]
    assert all(seconds >= 0 for name, seconds in found.items() if name != load_stages.REST)
