"""Random guests (support/surfaces.py): whatever their hints, modules and images hold, the loader comes to an end, says
nothing but its own words, and does the same again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bhyveload.image.raw import open_raw
from support import harness, surfaces
from support.images import make_ufs, standard_disk

# More of them: BHYVELOAD_SURFACES=1000 pytest tests/loader/test_surfaces.py
COUNT = int(os.environ.get("BHYVELOAD_SURFACES", "12"))


def run(folder: Path, seed: int, version: str) -> harness.Outcome:
    _, tree, keys = surfaces.guest(seed)
    disk = folder / "disk"
    if not disk.exists():
        standard_disk(disk, make_ufs(surfaces.write_tree(tree, folder / "tree"), folder / "fs", 12 << 20))
    image = open_raw(str(disk))
    try:
        return harness.run([image], keys.encode(), current=version == "current")
    finally:
        image.close()


@pytest.mark.parametrize("seed", range(COUNT))
def test_any_guest_comes_to_an_end(tmp_path: Path, seed: int) -> None:
    for version in ("current", "13.2"):
        done = run(tmp_path, seed, version)
        assert done.end in ("exec", "exit", "input")  # a pager may take the keys
        again = run(tmp_path, seed, version)
        assert (again.end, again.console) == (done.end, done.console)
        assert b"Traceback" not in done.console
        if done.end == "exec":
            assert done.report["files"][0]["name"].startswith("/boot/kernel/kernel")


def test_a_seed_gives_the_same_guest() -> None:
    kinds = set()
    for seed in range(40):
        kind, tree, keys = surfaces.guest(seed)
        kinds.add(kind)
        assert surfaces.guest(seed) == (kind, tree, keys)
    assert kinds == set(surfaces.KINDS)
