"""Targets: partition tables, file systems, ZFS, image containers, decompressors."""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from bhyveload.errors import BhyveloadError, FileSystemError
from bhyveload.fs import compressed, iso9660, ufs
from bhyveload.image.container import MAX_READ
from bhyveload.partition.slices import PARTWILD, SLICEWILD, lsdev_lines, open_slice
from bhyveload.partition.table import best_partition, read_table
from fuzzing import Run, Target
from fuzzing.devices import BytesDevice, Damage, sparse
from support import zfs_pools
from support.places import DATA

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

KIB, MIB = 1 << 10, 1 << 20
_MAX_NODES, _MAX_DEPTH, _MAX_ENTRIES = 24, 4, 200
# qemu-img's smallest images, made when fuzzing begins
_QEMU_IMAGES = {
    "qcow2": ("-f", "qcow2", "-o", "cluster_size=512"),
    "vmdk": ("-f", "vmdk"),
    "vmdk-stream": ("-f", "vmdk", "-o", "subformat=streamOptimized"),
    "vhd": ("-f", "vpc"),
}


def image(path: Path) -> bytes:
    return zstd.decompress(path.read_bytes())


# Partition tables


def _partition() -> Run:
    def run(data: bytes) -> None:
        look_at_partitions(BytesDevice(data, max(len(data) & ~511, 512)))

    return run


def look_at_partitions(device: BytesDevice) -> None:
    table = read_table(device)
    best_partition(table)
    lsdev_lines(table, "disk0", verbose=True)
    for slice, partition in ((SLICEWILD, PARTWILD), (1, 0), (1, PARTWILD), (0, 0), (2, 3), (128, 1)):
        try:
            open_slice(device, slice, partition)
        except FileSystemError:
            pass


def _partition_seeds() -> Iterator[bytes]:
    for name in ("plain", "mbr-bsd"):
        for path in sorted(DATA.glob(f"golden/*/{name}/disk.img.zst"))[:1]:
            disk = image(path)
            yield bytes(disk[: 40 * 512])
            yield bytes(disk[: 34 * 512]) + bytes(disk[-33 * 512 :])


# File systems: a walk over everything that can be reached, within limits


def walk(fs: Any) -> None:
    left = [_MAX_NODES]

    def visit(node: Any, depth: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            return
        stat = fs.stat(node)
        kind = stat.mode & 0o170000
        if kind == 0o040000:
            for _ in islice(fs.readdir(node), _MAX_ENTRIES):
                pass
            if depth < _MAX_DEPTH:
                for name, found in islice(fs.children(node), _MAX_ENTRIES):
                    assert name not in (b".", b"..")
                    try:
                        child = fs.child(found)
                    except FileSystemError:
                        continue
                    visit(child, depth + 1)
        elif kind == 0o120000:
            fs.readlink(node)
        else:
            file = fs.open(node)
            for offset in (0, stat.size // 2, stat.size - 600, 1 << 40):
                try:
                    file.read(max(offset, 0), 1200)
                except FileSystemError:
                    pass

    visit(fs.lookup(b"/"), 0)
    for path in (b"/boot/loader", b"/boot/../boot/./kernel/kernel", b"/link/x", b"/" + b"a/" * 300):
        try:
            visit(fs.lookup(path), _MAX_DEPTH)
        except FileSystemError:
            pass


def _ignore(_: int) -> None:
    pass


def _walk_ufs(device: BytesDevice) -> None:
    walk(ufs.probe(device, _ignore))


def _walk_iso(device: BytesDevice) -> None:
    walk(iso9660.probe(device, _ignore))


def _damaged(paths: list[Path], look: Callable[[BytesDevice], None]) -> list[Damage]:
    return [Damage(image(path), look) for path in paths]


def on_damaged(make: Callable[[], list[Damage]], look: Callable[[BytesDevice], None]) -> Callable[[], Run]:
    """The first byte chooses the image, the rest damages it.  ``make`` is cached: the seeds ask for the same."""

    def prepare() -> Run:
        images = make()

        def run(data: bytes) -> None:
            if data and images:
                look(images[data[0] % len(images)].device(data[1:]))

        return run

    return prepare


def damage_seeds(make: Callable[[], list[Damage]]) -> Callable[[], Iterator[bytes]]:
    def seeds() -> Iterator[bytes]:
        for number, damage in enumerate(make()):
            for seed in damage.seeds():
                yield bytes((number,)) + seed

    return seeds


@functools.cache
def _ufs_images() -> list[Damage]:
    return _damaged([DATA / "ufs" / "ufs1-4k-512.img.zst", DATA / "ufs" / "ufs2-4k-512-sb8192.img.zst"], _walk_ufs)


@functools.cache
def _iso_images() -> list[Damage]:
    return _damaged(sorted((DATA / "iso").glob("*.iso.zst")), _walk_iso)


# ZFS


def _look_into_pools(device: BytesDevice) -> None:
    from bhyveload.fs.zfs.poolset import PoolSet

    pools = PoolSet()
    pools.probe(device, "disk0")
    for pool in pools.finish():
        list(islice(pool.status(), 100))
        assert isinstance(pool.bootfs, str)
        for name in [pool.name, *pool.list_children(pool.name)[:3]]:
            try:
                pool.list_snapshots(name)
                walk(pool.dataset(name))
            except FileSystemError:  # $MOS is no dataset
                pass
        benv = pool.bootenv()
        if benv is not None:
            list(benv)


def _walk_zfs(device: BytesDevice) -> None:
    """With every checksum taken for right: a damage would be refused at once, and an attacker writes right ones."""
    from bhyveload.fs.zfs import checksum
    from bhyveload.fs.zfs import label as module

    label: Any = module
    kept = checksum.verify, label.verify_embedded
    checksum.verify = lambda bp, data, salt: True
    label.verify_embedded = lambda data, verifier: True
    try:
        _look_into_pools(device)
    finally:
        checksum.verify, label.verify_embedded = kept


@functools.cache
def _zfs_images() -> list[Damage]:
    from bhyveload.fs import zfs

    zfs.prepare()
    found = [zfs_pools.vdev_partition(zfs_pools.disk(f"{name}.0")) for name in ("bootenv", "gang", "edonr")]
    return [Damage(sparse(part), _walk_zfs) for part in found]


def _nvlist() -> Run:
    from bhyveload.fs.zfs.nvlist import decode, encode

    def run(data: bytes) -> None:
        decoded = decode(data)
        for pair in decoded:
            decoded.pair(pair.name)
        assert decode(encode(decoded)) is not None

    return run


def _nvlist_seeds() -> Iterator[bytes]:
    from bhyveload.fs.zfs import nvlist

    inner = nvlist.NvList()
    inner.set(b"guid", nvlist.DATA_TYPE_UINT64, 5)
    outer = nvlist.NvList()
    outer.set(b"name", nvlist.DATA_TYPE_STRING, b"tank")
    outer.set(b"version", nvlist.DATA_TYPE_UINT64, 5000)
    outer.set(b"vdev_tree", nvlist.DATA_TYPE_NVLIST, inner)
    yield nvlist.encode(outer)


def _zap() -> Run:
    from bhyveload.fs.zfs import dmu, zap
    from bhyveload.fs.zfs import zfs_format as zf

    class Blocks:
        """A dnode's blocks of 512 bytes to 16 KiB, straight from the fuzzed bytes."""

        def __init__(self, data: bytes, size: int) -> None:
            self.data = data
            self.size = size
            self.blocks = self
            self.say = str

        def block(self, dnode: Any, number: int) -> memoryview:
            if not 0 <= number < 64:
                raise FileSystemError(5, "no such block")
            piece = self.data[number * self.size : (number + 1) * self.size]
            return memoryview(piece.ljust(self.size, b"\0"))

        def read_bytes(self, dnode: Any, offset: int, length: int) -> bytes:
            return self.data[offset : offset + length].ljust(length, b"\0")

        def read(self, dnode: Any, offset: int, length: int) -> list[bytes]:
            return [self.read_bytes(dnode, offset, length)]

    def run(data: bytes) -> None:
        size = 512 << (data[0] % 6 if data else 0)
        core = zf.DNODE_CORE.pack(196, 17, 1, 1, 0, 0, 0, 0, size // 512, 0, 63, 0)
        dnode = dmu.Dnode(core.ljust(512, b"\0"))
        blocks: Any = Blocks(data[1:], size)
        for look in (
            lambda: list(islice(zap.entries(blocks, dnode), 3000)),
            lambda: zap.lookup(blocks, dnode, b"bootfs"),
            lambda: zap.lookup_array(blocks, dnode, b"features", 1),
            lambda: zap.reverse_lookup(blocks, dnode, 7),
        ):
            try:
                look()
            except FileSystemError:
                pass

    return run


def _zap_seeds() -> Iterator[bytes]:
    micro = struct.pack("<QQQ", 0x8000000000000003, 1, 0) + bytes(40)
    micro += struct.pack("<QIH", 7, 0, 0) + b"bootfs".ljust(50, b"\0")
    yield b"\0" + micro.ljust(512, b"\0")
    header = struct.pack("<QQQQQQQ", 0x8000000000000001, 0x2F52AB2AB, 0, 0, 10, 0, 0)
    fat = header.ljust(2048, b"\0") + struct.pack("<Q", 1) * 256
    leaf = struct.pack("<QQQIHHHH", 0x8000000000000000, 0, 0, 0x2AB1EAF, 100, 0, 0, 0)
    yield b"\3" + fat.ljust(4096, b"\0") + leaf.ljust(4096, b"\xff")


def _zfs_decompress() -> Run:
    from bhyveload.fs.zfs import decompress

    decompress.prepare()

    def run(data: bytes) -> None:
        if len(data) > 3:
            size = (int.from_bytes(data[1:3], "little") + 1) * 16
            decompress.decompress(data[0] % 20, data[3:], size)

    return run


def _zfs_decompress_seeds() -> Iterator[bytes]:
    text = b"the quick brown fox " * 50
    packed = zlib.compress(text)
    yield bytes((5,)) + struct.pack("<H", 62) + packed
    yield bytes((3,)) + struct.pack("<H", 3) + b"\0abcdefgh\x80\x04\x01" + bytes(20)
    yield bytes((14,)) + struct.pack("<H", 62) + bytes(8) + text
    frame = zstd.compress(text)
    yield bytes((16,)) + struct.pack("<H", 62) + struct.pack(">II", len(frame), 0x03) + frame[4:]
    lz4 = b"\xf0\x05" + text[:20] + b"\x14\x00\xff\xff\x10" + b"\x50fox  "
    yield bytes((15,)) + struct.pack("<H", 10) + struct.pack(">I", len(lz4)) + lz4


# Compressed files


class _MemoryFile:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, length: int) -> list[bytes]:
        return [self.data[offset : offset + length]]

    def write(self, offset: int, data: bytes | memoryview) -> int:
        raise FileSystemError(30, "read-only")


def _compressed(opener: Callable[..., Any]) -> Callable[[], Run]:
    def prepare() -> Run:
        def run(data: bytes) -> None:
            file = opener(_MemoryFile(data), lambda text: None, 8 * MIB)
            for offset, length in ((0, 100), (50, 5000), (10, 10), (1 << 20, 4096), (0, 1 << 24)):
                try:
                    file.read(offset, length)
                except FileSystemError:
                    pass

        return run

    return prepare


def _packed(compress: Callable[[bytes], bytes]) -> Callable[[], Iterator[bytes]]:
    def seeds() -> Iterator[bytes]:
        yield compress(b"a kernel" * 200)
        yield compress(bytes(1 << 20))
        yield compress(b"") + compress(b"second")

    return seeds


def _unpack() -> Run:
    """A whole image decompressed into a file; the first byte says by what."""
    from bhyveload.image import unpack

    kinds = ("xz", "gz", "zst", "bz2", "lzma")
    for kind in kinds:
        unpack.prepare(kind)
    fd = os.memfd_create("unpacked")

    def run(data: bytes) -> None:
        os.ftruncate(fd, 0)
        kind = kinds[data[0] % len(kinds)] if data else "xz"
        unpack.unpack(BytesDevice(data[1:]), ("x", "y"), kind, fd, 16 * MIB, 8 * MIB, lambda done, total: None)

    return run


def _unpack_seeds() -> Iterator[bytes]:
    def alone(data: bytes) -> bytes:
        return lzma.compress(data, lzma.FORMAT_ALONE)

    kinds: tuple[Callable[[bytes], bytes], ...] = (lzma.compress, gzip.compress, zstd.compress, bz2.compress, alone)
    for number, compress in enumerate(kinds):
        for packed in _packed(compress)():
            yield bytes((number,)) + packed


# Image containers


def _container(module: str, kind: str) -> Callable[[], Run]:
    def prepare() -> Run:
        __import__(f"bhyveload.image.{module}")
        make = getattr(sys.modules[f"bhyveload.image.{module}"], kind)
        from bhyveload.image.xz import NoIndex as no_index

        def run(data: bytes) -> None:
            try:
                disk = make(BytesDevice(data), "fuzzed")
            except no_index:
                return  # the caller unpacks the file instead
            middle = disk.size // 2 // 512 * 512
            for offset, length in ((0, 4096), (middle, 66048), (disk.size - 512, 512), (0, MIB), (512, MAX_READ + 1)):
                try:
                    disk.read(offset, length)
                except BhyveloadError:
                    pass

        return run

    return prepare


def _qemu_images(*names: str) -> Callable[[], Iterator[bytes]]:
    def seeds() -> Iterator[bytes]:
        if shutil.which("qemu-img") is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder, "raw")
            raw.write_bytes(b"\xeb".ljust(8192, b"x") + bytes(56 * KIB) + b"end".ljust(512, b"."))
            for name in names:
                target = Path(folder, name)
                command = ["qemu-img", "convert", "-c"] if name == "vmdk-stream" else ["qemu-img", "convert"]
                words = [*command, "-O", *_QEMU_IMAGES[name][1:], str(raw), str(target)]
                subprocess.run(words, check=True, capture_output=True)
                yield target.read_bytes()[: 128 * KIB]

    return seeds


@functools.cache
def _vhdx_images() -> list[Damage]:
    if shutil.which("qemu-img") is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        raw, target = Path(folder, "raw"), Path(folder, "vhdx")
        raw.write_bytes(b"x" * MIB)
        subprocess.run(["qemu-img", "convert", "-O", "vhdx", str(raw), str(target)], check=True, capture_output=True)
        return [Damage(target.read_bytes(), _read_vhdx)]


def _read_vhdx(device: BytesDevice) -> None:
    """With every checksum taken for right, as for ZFS."""
    from bhyveload.image import vhdx as module

    vhdx: Any = module
    kept = vhdx._sound
    vhdx._sound = lambda data: True
    try:
        disk = vhdx.VhdxImage(device, "fuzzed")
    finally:
        vhdx._sound = kept
    for offset, length in ((0, 4096), (disk.size - 512, 512), (0, 256 * KIB)):
        try:
            disk.read(offset, length)
        except BhyveloadError:
            pass


def _xz_seeds() -> Iterator[bytes]:
    yield lzma.compress(b"a disk" * 1000)
    yield lzma.compress(bytes(100_000), preset=0)


TARGETS = [
    Target("partition", _partition, _partition_seeds, rounds=150, size=48 * KIB),
    Target("ufs", on_damaged(_ufs_images, _walk_ufs), damage_seeds(_ufs_images), rounds=200),
    Target("iso9660", on_damaged(_iso_images, _walk_iso), damage_seeds(_iso_images), rounds=150),
    Target("zfs", on_damaged(_zfs_images, _walk_zfs), damage_seeds(_zfs_images), rounds=60),
    Target("zfs-nvlist", _nvlist, _nvlist_seeds, rounds=2000),
    Target("zfs-zap", _zap, _zap_seeds, rounds=1000, size=32 * KIB),
    Target("zfs-decompress", _zfs_decompress, _zfs_decompress_seeds, rounds=2000),
    Target("gzip", _compressed(compressed.open_gzip), _packed(gzip.compress)),
    Target("bzip2", _compressed(compressed.open_bzip2), _packed(bz2.compress)),
    Target("xz", _compressed(compressed.open_xz), _packed(lzma.compress)),
    Target("zstd", _compressed(compressed.open_zstd), _packed(zstd.compress)),
    Target("unpack", _unpack, _unpack_seeds),
    Target("qcow2", _container("qcow2", "Qcow2Image"), _qemu_images("qcow2"), size=256 * KIB),
    Target("vmdk", _container("vmdk", "VmdkImage"), _qemu_images("vmdk", "vmdk-stream"), size=256 * KIB),
    Target("vhd", _container("vhd", "VhdImage"), _qemu_images("vhd"), size=256 * KIB),
    Target("vhdx", on_damaged(_vhdx_images, _read_vhdx), damage_seeds(_vhdx_images)),
    Target("xz-image", _container("xz", "XzImage"), _xz_seeds),
]
