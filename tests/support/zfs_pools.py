"""The ZFS pools of the fixtures: disks, contents, and what FreeBSD's own loader said of them.

A folder of more pools, where there is one, is used too: $BHYVELOAD_FIXTURES/zfs, or ../shared/fixtures/zfs beside the
repository.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, Literal

from bhyveload.fs.zfs.poolset import PoolSet
from bhyveload.image.raw import RawImage
from bhyveload.partition.slices import Partition
from support.descriptors import OwnDisk
from support.golden import unquote
from support.places import DATA, ROOT

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HERE = DATA / "zfs"
_BESIDE = ROOT.parent / "shared" / "fixtures"
MORE = Path(os.environ.get("BHYVELOAD_FIXTURES", _BESIDE)) / "zfs"
SECTOR = 512
PARTITION_START = 2048 * SECTOR
TABLE_END = 33 * SECTOR
PIECE = 64 << 10


@functools.cache
def manifest() -> dict[str, Any]:
    """Pools and trees of all folders."""
    pools: dict[str, Any] = {}
    trees: dict[str, Any] = {}
    for folder in (MORE, HERE):
        if (folder / "manifest.json").exists():
            found = json.loads((folder / "manifest.json").read_text())
            pools |= found["pools"]
            trees |= found["trees"]
    return {"pools": pools, "trees": trees}


def _image(name: str) -> Path:
    return next(path for folder in (HERE, MORE) if (path := folder / f"{name}.img.zst").exists())


class _Sparse:
    """A file in memory that is written once, from its start, with holes where there are zeros."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("disk")
        self.size = 0

    def append(self, data: bytes | memoryview) -> None:
        for at in range(0, len(data), PIECE):
            piece = bytes(data[at : at + PIECE])
            if piece.count(0) != len(piece):
                os.pwrite(self.fd, piece, self.size + at)
        self.size += len(data)
        os.ftruncate(self.fd, self.size)


@functools.cache
def disk(name: str) -> RawImage:
    """Disk ``name`` ("raidz2.0"), read-only and shared by all tests of this process."""
    target = _Sparse()
    decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})
    data = _image(name).read_bytes()
    while not decoder.eof:
        target.append(decoder.decompress(data, max_length=1 << 20))
        data = b""
    return RawImage(target.fd, name, read_only=True)


def pread(image: RawImage, offset: int, length: int) -> bytes:
    """Read past the mapping: a hole in memory that is read through one becomes memory."""
    return os.pread(image.descriptor, length, offset)


def writable_disk(name: str) -> RawImage:
    """A disk of its own to write to."""
    target, source = _Sparse(), disk(name)
    for start in range(0, source.size, 1 << 20):
        target.append(pread(source, start, min(1 << 20, source.size - start)))
    return OwnDisk(target.fd, name, read_only=False)


def disk_names(pool: str) -> list[str]:
    found = {path.name[: -len(".img.zst")] for folder in (HERE, MORE) for path in folder.glob(f"{pool}.*.img.zst")}
    return sorted(found)


def pool_names() -> list[str]:
    return sorted(name for name in manifest()["pools"] if disk_names(name))


def vdev_partition(image: RawImage) -> Partition:
    return Partition(image, PARTITION_START, image.size - PARTITION_START - TABLE_END)


def open_pools(*names: str, strict: Literal["current", "13.2"] | None = None) -> PoolSet:
    """The pools on disks ``names``, opened without a loader."""
    pools = PoolSet(strict=strict)
    for number, name in enumerate(names):
        pools.probe(vdev_partition(disk(name)), f"disk{number}p2")
    pools.finish()
    return pools


class Record:
    """One recorded run of FreeBSD's loader on a pool."""

    def __init__(self, name: str) -> None:
        self.folder = next(path for folder in (HERE, MORE) if (path := folder / "records" / name).is_dir())
        self.run = (self.folder / "run.txt").read_text(encoding="latin-1")
        self.console = (self.folder / "console.txt").read_bytes()
        self.keys = unquote(self._fields("keys")[0])
        self.environment = [text.encode("latin-1") for text in self._fields("environment") if text]

    def _fields(self, name: str) -> list[str]:
        return re.findall(rf"^{name}: ?(.*)$", self.run, re.M)

    @property
    def disks(self) -> list[str]:
        words = self._fields("disks")[0]
        first, dots, last = words.partition(" of ")[0].partition(" .. ")
        if not dots:
            return words.split()
        pool, _, low = first.rpartition(".")
        return [f"{pool}.{number}" for number in range(int(low), int(last.rpartition(".")[2]) + 1)]

    @property
    def writes(self) -> list[tuple[int, int, int]]:
        """(disk, offset, length) of everything it wrote."""
        found = re.findall(r"^DISKWRITE (\d+) off=(0x[0-9a-f]+) n=(\d+)$", self.run, re.M)
        return [(int(unit), int(offset, 16), int(length)) for unit, offset, length in found]

    @property
    def changed(self) -> int:
        """How many bytes of the disks were different afterwards."""
        return sum(map(int, re.findall(r"^disk \d+ changed: (\d+) bytes$", self.run, re.M)))


def record_names() -> list[str]:
    found = {path.name for folder in (HERE, MORE) for path in (folder / "records").glob("*")}
    return sorted(name for name in found if all(disk_names(part.rpartition(".")[0]) for part in Record(name).disks))
