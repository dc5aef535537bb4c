"""Random pools (support/pool_surfaces.py): whatever their nvlists and boot environments are, the loader comes to an
end, says nothing but its own words, and does the same again."""

from __future__ import annotations

import os
import random
import zlib

import pytest

from support import harness, pool_surfaces
from support.zfs_pools import pread

# More of them: BHYVELOAD_POOLS=1000 pytest tests/loader/zfs/test_pool_surfaces.py
COUNT = int(os.environ.get("BHYVELOAD_POOLS", "12"))
ENVIRONMENT = (b"autoboot_delay=NO", b"LINES=2000")
PIECE = 1 << 20


def run(seed: int, version: str) -> tuple[str, bytes, int]:
    """How it ended, the console, a checksum of the disk afterwards."""
    _, disk, keys = pool_surfaces.guest(seed)
    done = harness.run([disk], keys.encode("latin-1"), environment=ENVIRONMENT, current=version == "current")
    checksum = 0
    for start in range(0, disk.size, PIECE):
        checksum = zlib.crc32(pread(disk, start, PIECE), checksum)
    return done.end, done.console, checksum


@pytest.mark.parametrize("seed", range(COUNT))
def test_any_pool_comes_to_an_end(seed: int) -> None:
    for version in ("current", "13.2"):
        end, console, checksum = run(seed, version)
        assert end == "exit"
        assert console.endswith(b"OK quit\r\n")
        assert b"Traceback" not in console
        assert run(seed, version) == (end, console, checksum)


def test_a_seed_gives_the_same_pool() -> None:
    kinds = set()
    for seed in range(30):
        kind, disk, keys = pool_surfaces.guest(seed)
        kinds.add(kind)
        again, same, typed = pool_surfaces.guest(seed)
        place = random.Random(seed).randrange(0, 8) * PIECE
        assert (again, typed) == (kind, keys)
        assert pread(same, place, PIECE) == pread(disk, place, PIECE)
    assert kinds == set(pool_surfaces.KINDS)


def test_environments_are_shown_in_pages() -> None:
    """stand/libsa/zfs/zfs.c zfs_bootenv, zfs_set_env: five a page, in the menu's places 4 to 8."""
    for seed in range(200):
        kind, _, keys = pool_surfaces.guest(seed)
        if kind == "environments" and "reloadbe\n" in keys and "currpage" not in keys:
            break
    _, console, _ = run(seed, "current")
    shown = [line for line in console.decode("latin-1").split("\r\n") if line.startswith("bootenv_root[")]
    assert 0 < len(shown) <= 5
    assert all(4 <= int(line[len("bootenv_root[")]) <= 8 for line in shown)
