"""Random partition layouts, ISOs and cut-off disks: console and registers as FreeBSD's own loaders left them
(tests/data/layouts/README.md), and disks of further seeds, on which nothing must break."""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path

import pytest

from support import harness, layouts
from support.golden import memory_disk

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

WHOLE = os.environ.get("BHYVELOAD_LAYOUTS", "")
NOT_COMPARABLE = (15, 282)
VERSIONS = ("current", "13.2")


@functools.cache
def records() -> dict[int, dict[str, tuple[bytes, list[str]]]]:
    """seed -> version -> (console, register callbacks)"""
    if WHOLE:
        return {seed: _folder(Path(WHOLE) / str(seed)) for seed in sorted(int(name) for name in os.listdir(WHOLE))}
    packed = json.loads(zstd.decompress((layouts.DATA / "records.json.zst").read_bytes()))
    return {
        int(seed): {version: (run["console"].encode("latin-1"), run["calls"]) for version, run in runs.items()}
        for seed, runs in packed.items()
    }


def _folder(folder: Path) -> dict[str, tuple[bytes, list[str]]]:
    runs = {}
    for version in VERSIONS:
        booted = folder / f"run-{version}.txt"
        calls = booted.read_text().splitlines() if booted.exists() else []
        runs[version] = (folder / f"console-{version}.txt").read_bytes(), calls
    return runs


def run(seed: int, version: str) -> harness.Outcome:
    _, content, keys = layouts.disk(seed)
    disk = memory_disk(content)
    try:
        return harness.run([disk], keys.encode(), memory=256 << 20, current=version == "current")
    finally:
        disk.close()


@pytest.mark.parametrize("seed", [seed for seed in records() if seed not in NOT_COMPARABLE])
def test_same_as_freebsd(seed: int) -> None:
    for version in VERSIONS:
        console, calls = records()[seed][version]
        done = run(seed, version)
        assert done.console == console, version
        assert (done.report["calls"] if done.end == "exec" else []) == calls, version


@pytest.mark.parametrize("seed", range(5000, 5006))
def test_any_layout_comes_to_an_end(seed: int) -> None:
    assert run(seed, VERSIONS[seed % 2]).end in ("exec", "exit")
