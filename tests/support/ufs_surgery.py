"""Change where a file's blocks lie on a UFS2 that makefs wrote in one piece: ages of use, and holes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from bhyveload.fs.ufs import UfsFileSystem
from support import ufs_images

_NDADDR = 12
_POINTER = struct.Struct("<q")


def _full_blocks(content: bytearray, fs: UfsFileSystem, path: bytes) -> tuple[list[tuple[int, int]], int, int]:
    """[(where the pointer is, block address in fragments)] of each whole block, and the sizes of block and fragment."""
    node = fs.lookup(path)
    block, fragment = fs.superblock.bsize, fs.superblock.fsize
    inode = ufs_images.inode_offset(fs, node)
    places = [inode + 112 + 8 * slot for slot in range(_NDADDR)]

    def entries(address: int) -> Iterator[int]:
        start = address * fragment
        return iter(range(start, start + block, 8))

    def value(place: int) -> int:
        return int(_POINTER.unpack_from(content, place)[0])

    single, double = node.pointers[_NDADDR], node.pointers[_NDADDR + 1]
    if single:
        places += entries(single)
    if double:
        for place in entries(double):
            if value(place):
                places += entries(value(place))
    return [(place, value(place)) for place in places[: node.size // block]], block, fragment


def _edit(disk: Path, offset: int) -> tuple[bytearray, UfsFileSystem]:
    content = bytearray(disk.read_bytes()[offset:])
    return content, ufs_images.mount(content)


def _save(disk: Path, offset: int, content: bytearray) -> None:
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def scatter(disk: Path, offset: int, path: bytes) -> int:
    """Put the blocks of ``path`` in reverse order; how many there are."""
    content, fs = _edit(disk, offset)
    blocks, size, fragment = _full_blocks(content, fs, path)
    data = [bytes(content[address * fragment : address * fragment + size]) for _, address in blocks]
    addresses = [address for _, address in blocks]
    for (place, _), address, piece in zip(blocks, reversed(addresses), data, strict=True):
        _POINTER.pack_into(content, place, address)
        content[address * fragment : address * fragment + size] = piece
    _save(disk, offset, content)
    return len(blocks)


def punch_holes(disk: Path, offset: int, path: bytes) -> int:
    """Make the zero blocks of ``path`` holes, and their old places garbage; how many there are."""
    content, fs = _edit(disk, offset)
    blocks, size, fragment = _full_blocks(content, fs, path)
    holes = 0
    for place, address in blocks:
        start = address * fragment
        if not any(content[start : start + size]):
            _POINTER.pack_into(content, place, 0)
            content[start : start + size] = b"\xdb" * size
            holes += 1
    _save(disk, offset, content)
    return holes
