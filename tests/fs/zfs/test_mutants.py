"""Damaged pools: a thousand small changes to what is read, with checksums out of the way so that every parser sees
them.  Only our own errors may come out, in bounded time and memory.  Seeds are fixed; a failure names its mutant.
$BHYVELOAD_MUTANTS=10 tries ten times as many.
"""

from __future__ import annotations

import os
import random
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from bhyveload.device import Buffer
from bhyveload.errors import BhyveloadError
from bhyveload.fs.zfs import checksum, label
from bhyveload.fs.zfs.poolset import PoolSet
from bhyveload.fs.zfs.zpl import ZfsFileSystem
from support.devices import Hostless
from support.zfs_pools import SECTOR, disk, disk_names, vdev_partition

PATHS = (b"/", b"/boot", b"/boot/links", b"/boot/names", b"/boot/sizes")
MAX_SECONDS = 20  # of processor time for one mutant; 0.2 is usual
MAX_MEMORY = 256 << 20
MULTIPLE = int(os.environ.get("BHYVELOAD_MUTANTS", "1"))
Patch = tuple[int, bytes]


class Patched(Hostless):
    """A device with some bytes changed; remembers what was read."""

    sector_size = SECTOR
    read_only = True

    def __init__(self, name: str, patches: list[Patch]) -> None:
        self.inner = vdev_partition(disk(name))
        self.size = self.inner.size
        self.patches = patches
        self.seen: set[tuple[int, int]] = set()

    def read(self, offset: int, length: int) -> Buffer:
        self.seen.add((offset, length))
        data: Buffer | bytearray = self.inner.read(offset, length)
        for at, patch in self.patches:
            start, end = max(at, offset), min(at + len(patch), offset + length)
            if start < end:
                data = bytearray(data)
                data[start - offset : end - offset] = patch[start - at : end - at]
        return bytes(data) if isinstance(data, bytearray) else data

    def write(self, offset: int, data: Buffer) -> None:
        raise AssertionError("nothing is written")


def use(pools: PoolSet) -> None:
    """Read some of everything; our own errors are answers."""
    for pool in pools.pools:
        list(pool.status())
        pool.bootenv()
        for step in (pool.nvstore, lambda pool=pool: pool.bootfs, lambda pool=pool: pool.list_snapshots(pool.name)):
            try:
                step()
            except BhyveloadError:
                continue
        for name in ("", pool.name, *children(pools, pool.name)):
            try:
                filesystem = pools.dataset(name)
            except BhyveloadError:
                continue
            for path in PATHS:
                try:
                    look_around(filesystem, path)
                except BhyveloadError:
                    continue


def children(pools: PoolSet, name: str) -> Iterator[str]:
    try:
        for child in pools.by_name(name).list_children(name)[:12]:
            yield f"{name}/{child}"
    except BhyveloadError:
        return


def look_around(filesystem: ZfsFileSystem, path: bytes) -> None:
    for number, (_, _, name) in enumerate(filesystem.readdir(filesystem.lookup(path))):
        if number == 15:
            break
        try:
            node = filesystem.lookup(path + b"/" + name)
            stat = filesystem.stat(node)
            if stat.mode >> 12 == 8:
                file = filesystem.open(node)
                for start in (0, 1000, stat.size - 10, 1 << 40):
                    file.read(start, 5000)
        except BhyveloadError:
            continue


def patches_for(generator: random.Random, ranges: list[tuple[int, int]]) -> list[Patch]:
    patches = []
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        offset, length = generator.choice(ranges)
        if generator.random() < 0.5:
            at = offset + generator.randrange(length)
        else:
            at = offset + 8 * generator.randrange(max(1, min(length, 1024) // 8))
        patch = generator.choice(
            (
                generator.randbytes(1),
                generator.randbytes(4),
                generator.randbytes(8),
                bytes(8),
                b"\xff" * 8,
                (1 << generator.randrange(64)).to_bytes(8, "little"),
                bytes(512),
                b"\xff" * 128,
            )
        )
        patches.append((at, patch))
    return patches


def read_ranges(names: list[str]) -> list[list[tuple[int, int]]]:
    devices = [Patched(name, []) for name in names]
    pools = PoolSet()
    for number, device in enumerate(devices):
        pools.probe(device, f"disk{number}")
    pools.finish()
    use(pools)
    return [sorted(device.seen) for device in devices]


def trust_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksum, "verify", lambda bp, data, salt: True)
    monkeypatch.setattr(checksum, "verify_embedded", lambda data, verifier: True)
    monkeypatch.setattr(label, "verify_embedded", lambda data, verifier: True)


@pytest.mark.parametrize(
    ("pool", "count", "checked"),
    [
        ("bootenv", 250, False),
        ("legacy", 40, False),
        ("gang", 250, False),
        ("comp", 80, False),
        ("csum", 80, False),
        ("crypt", 150, False),
        ("raidz2", 100, False),
        ("raidz2", 30, True),
        ("gang", 50, True),
    ],
)
def test_mutants(pool: str, count: int, checked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    names = disk_names(pool)
    ranges = read_ranges(names)
    if not checked:
        trust_everything(monkeypatch)
    for seed in range(count * MULTIPLE):
        generator = random.Random(f"{pool} {seed}")
        devices = [Patched(name, patches_for(generator, ranges[number])) for number, name in enumerate(names)]
        began = time.process_time()
        try:
            pools = PoolSet(strict=generator.choice((None, "current", "13.2")))
            for number, device in enumerate(devices):
                try:
                    pools.probe(device, f"disk{number}")
                except BhyveloadError:
                    continue
            pools.finish()
            use(pools)
        except Exception as error:
            raise AssertionError(f"mutant {seed}: {[device.patches for device in devices]}") from error
        assert time.process_time() - began < MAX_SECONDS, f"mutant {seed}"


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    names = disk_names("bootenv")
    ranges = read_ranges(names)
    trust_everything(monkeypatch)
    tracemalloc.start()
    for seed in range(8):
        generator = random.Random(f"memory {seed}")
        pools = PoolSet()
        try:
            pools.probe(Patched(names[0], patches_for(generator, ranges[0])), "disk0")
        except BhyveloadError:
            continue
        pools.finish()
        use(pools)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MAX_MEMORY
