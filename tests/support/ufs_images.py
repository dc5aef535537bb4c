"""UFS images for tests: the fixtures of tests/data/ufs, disks in memory, and what makefs makes."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EIO
from bhyveload.fs import ufs
from bhyveload.fs.ufs_file import UfsNode
from support.devices import Hostless
from support.images import require
from support.places import TESTS

DATA = TESTS / "data" / "ufs"
SMALL = ("ufs1-4k-512", "ufs2-4k-512-sb8192")
GENUINE = ("ufs1-32k", "ufs2-32k")


def decompress(path: Path) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    content: bytes = zstd.decompress(path.read_bytes())
    return content


def image(name: str) -> bytearray:
    return bytearray(decompress(DATA / f"{name}.img.zst"))


def manifest() -> dict[str, Any]:
    """name of an image -> path -> ["f", sha256] | ["l", target] | ["d"]"""
    recorded: dict[str, Any] = json.loads((DATA / "manifest.json").read_text())
    return {name: content["files"] for name, content in recorded.items() if not name.startswith("_")}


class MemoryDisk(Hostless):
    """A Device over a bytearray that counts what is asked of it."""

    def __init__(self, content: bytearray, read_only: bool = False) -> None:
        self.content = content
        self.size = len(content)
        self.sector_size = 512
        self.read_only = read_only
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise FileSystemError(EIO, f"read of {length} bytes at {offset}")
        self.reads.append((offset, length))
        return bytes(self.content[offset : offset + length])

    def write(self, offset: int, data: bytes | memoryview) -> None:
        assert not self.read_only
        assert 0 <= offset <= self.size - len(data)
        self.writes.append((offset, len(data)))
        self.content[offset : offset + len(data)] = data


def silent(n: int) -> None:
    """A twiddle that does nothing."""


def mount(content: bytearray) -> ufs.UfsFileSystem:
    return ufs.probe(MemoryDisk(content), silent)


def read_all(fs: ufs.UfsFileSystem, path: bytes) -> bytes:
    file = fs.open(fs.lookup(path))
    return b"".join(file.read(0, file.size))


def names(fs: ufs.UfsFileSystem, path: bytes) -> list[bytes]:
    return [name for _, _, name in fs.readdir(fs.lookup(path))]


def numbered_text(length: int, letter: bytes) -> bytes:
    """What the files of the small images hold: each 16 bytes say where they are."""
    return b"".join(b"%s%014d\n" % (letter, offset) for offset in range(0, length, 16))[:length]


def small_tree() -> dict[bytes, bytes]:
    """The regular files of the small images."""
    tree = {
        b"/boot/loader.conf": b'autoboot_delay="1"\n',
        b"/boot/empty": b"",
        b"/boot/mid": numbered_text(70_001, b"m"),
        b"/boot/kernel/kernel": numbered_text(3_000_000, b"k"),
        b"/boot/deep/er/still/leaf": b"leaf\n",
    }
    for number in range(60):
        tree[b"/boot/kernel/module_with_a_long_name_%02d.ko" % number] = b"%d\n" % number
    return tree


def check_against_manifest(fs: ufs.UfsFileSystem, files: dict[str, Any]) -> None:
    """Every file, link and directory of a manifest, and no name beside them."""
    for path, (kind, *what) in files.items():
        node = fs.lookup(path.encode(), follow=False)
        if kind == "f":
            digest = hashlib.sha256()
            file = fs.open(node)
            for piece in file.read(0, file.size):
                digest.update(piece)
            assert digest.hexdigest() == what[0], path
        elif kind == "l":
            assert fs.readlink(node) == what[0].encode(), path
        else:
            base = path.rstrip("/") + "/"
            below = {name[len(base) :] for name in files if name.startswith(base) and name != base}
            expected = sorted(name for name in below if name and "/" not in name)
            assert sorted(names(fs, path.encode())) == sorted([b".", b"..", *(name.encode() for name in expected)]), (
                path
            )


def makefs(output: Path, tree: Path, *arguments: str) -> Path:
    """Run Debian's makefs; skips the test where there is none."""
    require("makefs")
    subprocess.run(["makefs", "-t", "ffs", *arguments, str(output), str(tree)], check=True, capture_output=True)
    return output


def inode_offset(fs: ufs.UfsFileSystem, node: UfsNode) -> int:
    return fs.superblock.inode_offset(node.ino)


def set_inode(
    content: bytearray,
    fs: ufs.UfsFileSystem,
    node: UfsNode,
    size: int | None = None,
    pointers: dict[int, int] | None = None,
) -> None:
    """Change size and block pointers (0-11 direct, 12-14 indirect) of an inode."""
    base = inode_offset(fs, node)
    ufs1 = fs.superblock.version == 1
    if size is not None:
        struct.pack_into("<Q", content, base + (8 if ufs1 else 16), size)
    for slot, pointer in (pointers or {}).items():
        if ufs1:
            struct.pack_into("<i", content, base + 40 + 4 * slot, pointer)
        else:
            struct.pack_into("<q", content, base + 112 + 8 * slot, pointer)
    fs._forget()  # the inodes that it remembers
