"""Rebuild this folder from the whole fixtures (README.md): python reduce.py FIXTURES.

An image of a pool on one disk keeps its partition tables, its labels and every block that a live dataset refers to, all
copies of it; everything else (freed blocks of older transactions, blocks of encrypted datasets) becomes zeros.  Images
of raidz pools are copied as they are.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bhyveload.device import Buffer
from bhyveload.errors import FileSystemError
from bhyveload.fs.zfs.blkptr import BlockPointer
from bhyveload.fs.zfs.pool import Pool
from bhyveload.fs.zfs.poolset import PoolSet
from bhyveload.fs.zfs.zio import BlockReader
from bhyveload.fs.zfs.zpl import ZfsFileSystem
from bhyveload.image.raw import RawImage, open_raw
from bhyveload.partition.slices import Partition

SECTOR = 512
START = 2048
LABELS = 1024
TABLE = 40
HEADER = 4096
REDUCED = ("bootenv", "comp", "crypt", "csum", "edonr", "gang", "legacy")
WHOLE = ("raidz2",)
RECORDS = (*REDUCED, *WHOLE, "deg-raidz2-2of5", "deg-raidz2-3of5")


class Watched(Partition):
    """The ZFS partition of a disk, which remembers the sectors that were read."""

    def __init__(self, disk: RawImage) -> None:
        super().__init__(disk, START * SECTOR, disk.size - (START + TABLE - 7) * SECTOR)
        self.kept = bytearray(disk.size // SECTOR)
        self.keep(0, START + LABELS)
        end = START + self.size // (256 << 10) * (256 << 10) // SECTOR
        self.keep(end - LABELS, end)
        self.keep(len(self.kept) - TABLE, len(self.kept))

    def keep(self, first: int, last: int) -> None:
        self.kept[first:last] = b"\1" * (last - first)

    def read(self, offset: int, length: int) -> Buffer:
        start = START * SECTOR + offset
        self.keep(start // SECTOR, -(-(start + length) // SECTOR))
        return super().read(offset, length)

    def write(self, offset: int, data: object) -> None:
        raise OSError("the recipe only reads its images")

    def reduced(self) -> bytes:
        content = bytearray(self.device.size)
        for number, kept in enumerate(self.kept):
            if kept:
                content[number * SECTOR : (number + 1) * SECTOR] = self.device.read(number * SECTOR, SECTOR)
        return bytes(content)


class EveryCopy(BlockReader):
    """Reads all copies of each block, not only the first good one."""

    __slots__ = ()

    def read_bp(self, bp: BlockPointer, depth: int = 0) -> bytes | memoryview:
        for copy in bp.dvas[1:]:
            self.top_vdevs[copy.vdev].read(copy.offset, HEADER if copy.gang else bp.psize, 0, None)
        return super().read_bp(bp, depth)


def datasets(pool: Pool, name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}@{snapshot}" for snapshot in pool.list_snapshots(name))
    for child in pool.list_children(name):
        if not child.startswith("$"):
            yield from datasets(pool, f"{name}/{child}")


def read_all(filesystem: ZfsFileSystem, path: bytes) -> None:
    node = filesystem.lookup(path or b"/", follow=False)
    kind = filesystem.stat(node).mode >> 12
    if kind == 4:
        for _, _, name in list(filesystem.readdir(node)):
            read_all(filesystem, path + b"/" + name)
    elif kind == 8:
        file = filesystem.open(node)
        file.read(0, file.size)
    else:
        filesystem.readlink(node)


def reduce(source: Path, target: Path) -> None:
    with tempfile.NamedTemporaryFile() as raw:
        subprocess.run(["zstd", "-dqf", "--long=27", source, "-o", raw.name], check=True)
        disk = Watched(open_raw(raw.name))
        pools = PoolSet()
        pools.probe(disk, "disk0p2")
        for pool in pools.pools:
            pool.blocks.__class__ = EveryCopy
        pools.finish()
        list(pools.describe(verbose=True))
        for name in datasets(pools.pools[0], pools.pools[0].name):
            try:
                read_all(pools.dataset(name), b"")
            except FileSystemError as error:
                print(error)
        Path(raw.name).write_bytes(disk.reduced())
        subprocess.run(["zstd", "-q", "--ultra", "-22", "--long=27", "-f", raw.name, "-o", target], check=True)


def main(fixtures: Path) -> None:
    here = Path(__file__).parent
    manifest = json.loads((fixtures / "manifest.json").read_text())
    pools = {}
    for name in (*REDUCED, *WHOLE):
        entry = manifest["pools"][name]
        for image in entry.pop("images"):
            source, target = fixtures / image["file"], here / image["file"]
            reduce(source, target) if name in REDUCED else shutil.copyfile(source, target)
        pools[name] = entry
    used = {tree for entry in pools.values() for tree in entry["datasets"].values()}
    trees = {name: tree for name, tree in manifest["trees"].items() if name in used}
    (here / "manifest.json").write_text(json.dumps({"pools": pools, "trees": trees}, indent=1, sort_keys=True) + "\n")
    for name in RECORDS:
        shutil.copytree(fixtures / "records" / name, here / "records" / name, dirs_exist_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
