"""How fast a file comes off a guest's disk into guest memory, beside pwrite(2) of the same bytes from a flat file.

    python tools/bench_disks.py [MIB]

Each row: the fastest of several rounds that alternate with the flat file's, cold where it can be (a file system freshly
probed), with warm page cache.  Needs makefs and xorriso.
"""

from __future__ import annotations

import mmap
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bhyveload.fs import iso9660, ufs
from bhyveload.fs.interface import DiskFileSystem
from bhyveload.fs.ufs_format import UFS_NDADDR
from bhyveload.image.disk import ImageDisk
from bhyveload.image.open import open_disk
from bhyveload.image.raw import RawImage, open_raw
from bhyveload.vm.memory import GuestMemory

ROUNDS = 15
MIB = 1 << 20


def silent(n: int) -> None:
    """Nobody watches."""


class Target:
    """Guest memory in a file of /dev/shm, emptied before each round: what a load writes to."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fd = os.memfd_create("guest")

    def fresh(self) -> GuestMemory:
        os.ftruncate(self.fd, 0)
        os.ftruncate(self.fd, self.size)
        return GuestMemory(self.fd, self.size, 0)


def seconds(work: Callable[[GuestMemory], None], target: Target) -> float:
    memory = target.fresh()
    started = time.perf_counter()
    work(memory)
    return time.perf_counter() - started


def from_flat_file(path: Path) -> Callable[[GuestMemory], None]:
    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def work(memory: GuestMemory) -> None:
        done = 0
        while done < len(view):
            done += os.pwrite(memory.fd, memoryview(view)[done:], done)

    return work


def from_file_system(
    image: RawImage | ImageDisk, probe: Callable[..., DiskFileSystem], path: bytes
) -> Callable[[GuestMemory], None]:
    def work(memory: GuestMemory) -> None:
        fs = probe(image, silent)
        file = fs.open(fs.lookup(path))
        pieces = file.read(0, file.size)
        memory.write_pieces(0, pieces, file.size)

    return work


def make_ufs(tree: Path, image: Path, block: int, fragment: int, size: int) -> Path:
    options = f"version=2,bsize={block},fsize={fragment}"
    subprocess.run(
        ["makefs", "-t", "ffs", "-o", options, "-s", str(size), image, tree], check=True, capture_output=True
    )
    return rewritten(image)


def rewritten(image: Path) -> Path:
    """Written anew from front to back, as a download is: the page cache then holds it, as it holds the flat file, in
    large folios (what makefs writes here and there lies in single pages, and reads 25 % slower)."""
    image.write_bytes(image.read_bytes())
    return image


def fragment_file(image: Path, path: bytes, block_size: int) -> None:
    """Exchange the blocks of a file at random, as years of use would."""
    disk = open_raw(str(image))
    fs = ufs.probe(disk, silent)
    node = fs.lookup(path)
    content = bytearray(disk.read(0, disk.size))
    superblock = fs.superblock
    nindir, shift = superblock.nindir, superblock.fshift
    slots = [superblock.inode_offset(node.ino) + 112 + 8 * number for number in range(UFS_NDADDR)]

    def walk(pointer: int, level: int) -> None:
        for number in range(nindir):
            at = (pointer << shift) + 8 * number
            (inner,) = struct.unpack_from("<q", content, at)
            if inner and level:
                walk(inner, level - 1)
            elif inner:
                slots.append(at)

    for level in range(2):
        if node.pointers[UFS_NDADDR + level]:
            walk(node.pointers[UFS_NDADDR + level], level)
    whole = [at for at in slots if struct.unpack_from("<q", content, at)[0]][: node.size // block_size]
    pointers = [struct.unpack_from("<q", content, at)[0] for at in whole]
    blocks = [bytes(content[pointer << shift : (pointer << shift) + block_size]) for pointer in pointers]
    order = list(range(len(whole)))
    random.Random(1).shuffle(order)
    for at, block, place in zip(whole, blocks, order, strict=True):
        struct.pack_into("<q", content, at, pointers[place])
        content[pointers[place] << shift : (pointers[place] << shift) + block_size] = block
    disk.close()
    image.write_bytes(content)


def main() -> int:
    size = int(sys.argv[1] if len(sys.argv) > 1 else "30") * MIB
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        tree = base / "tree"
        tree.mkdir()
        flat = tree / "file"
        flat.write_bytes(random.Random(1).randbytes(size))
        path = b"/file"
        small = make_ufs(tree, base / "ufs-4k", 4096, 512, size * 5 // 4)
        fragmented = base / "ufs-4k-fragmented"
        fragmented.write_bytes(small.read_bytes())
        fragment_file(fragmented, path, 4096)
        large = make_ufs(tree, base / "ufs-32k", 32768, 4096, size * 5 // 4)
        iso = base / "iso"
        subprocess.run(["xorriso", "-as", "mkisofs", "-R", "-o", iso, tree], check=True, capture_output=True)
        rewritten(iso)
        qcow2 = base / "qcow2"
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", large, qcow2], check=True)
        rows = [
            ("UFS2 32K/4K", from_file_system(open_raw(str(large)), ufs.probe, path)),
            ("UFS2 4K/512", from_file_system(open_raw(str(small)), ufs.probe, path)),
            ("UFS2 4K/512 fragmented", from_file_system(open_raw(str(fragmented)), ufs.probe, path)),
            ("ISO 9660", from_file_system(open_raw(str(iso)), iso9660.probe, path)),
            ("UFS2 32K/4K in qcow2", from_file_system(open_disk(str(qcow2)), ufs.probe, path)),
        ]
        target = Target(size)
        baseline = from_flat_file(flat)
        expected = flat.read_bytes()
        for label, work in rows:
            work(target.fresh())
            if os.pread(target.fd, size, 0) != expected:
                print(f"{label}: wrong bytes")
                return 1
            flat_best = min(seconds(baseline, target) for _ in range(3))
            best = seconds(work, target)
            for _ in range(ROUNDS):
                flat_best = min(flat_best, seconds(baseline, target))
                best = min(best, seconds(work, target))
            rate, flat_rate = size / best / MIB, size / flat_best / MIB
            print(f"{label:24} {rate:7.0f} MiB/s   flat file {flat_rate:7.0f} MiB/s   {100 * flat_best / best:4.0f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
