"""A file of UFS: where its blocks are, and reading and overwriting them (stand/libsa/ufs.c).

libsa (block_map, buf_read_file) reads a file block by block through one remembered data block and one remembered
indirect block a level, and turns its twiddle for each block that it really reads.  Here whole runs of adjacent blocks
are read at once, but what is remembered and when the twiddle turns is the same, call for call (docs/errata.md,
"Twiddles").
"""

from __future__ import annotations

import struct

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EFBIG, EINVAL, EIO, EROFS
from bhyveload.fs.ufs_format import UFS_NDADDR, UFS_NIADDR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.device import Buffer, Device
    from bhyveload.fs.interface import Twiddle
    from bhyveload.fs.ufs_super import Superblock

MAX_READ = 1 << 32  # in one call: a sparse file can claim 2^63 bytes, nobody needs as many at once
WRITE_STEP = 512  # ufs_write goes on in such steps

_ZEROS = memoryview(bytes(1 << 20))
_UNREAD = -1


class UfsNode:
    """An inode: ``pointers`` are the 12 direct and 3 indirect block addresses (fragments), ``short`` the same bytes as
    the text of a short symbolic link."""

    __slots__ = ("gid", "ino", "mode", "mtime", "pointers", "short", "size", "uid")

    def __init__(
        self,
        ino: int,
        mode: int,
        size: int,
        uid: int,
        gid: int,
        mtime: int,
        pointers: tuple[int, ...],
        short: bytes,
    ) -> None:
        self.ino = ino
        self.mode = mode
        self.size = size
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.pointers = pointers
        self.short = short


class UfsFile:
    """An open file; ``size`` in bytes."""

    __slots__ = (
        "_device",
        "_indirect",
        "_node",
        "_on_write",
        "_pointer",
        "_pointer_code",
        "_remembered",
        "_superblock",
        "_twiddle",
        "size",
    )

    def __init__(
        self,
        device: Device,
        superblock: Superblock,
        node: UfsNode,
        twiddle: Twiddle,
        on_write: Callable[[], None] | None = None,
    ) -> None:
        self.size = node.size
        self._device = device
        self._superblock = superblock
        self._node = node
        self._twiddle = twiddle
        self._on_write = on_write
        self._pointer_code = "I" if superblock.version == 1 else "q"
        self._remembered = _UNREAD  # libsa's f_buf_blkno: logical number of the block that was read last
        self._pointer = 0  # and its address
        self._indirect: list[tuple[int, bytes]] = [(0, b"")] * UFS_NIADDR  # f_blkno, f_blk

    def read(self, offset: int, length: int) -> list[Buffer]:
        """Consecutive pieces of [offset, offset + length), clipped to the end of the file: views of the device, zeros
        for holes.

        Raises FileSystemError: EIO for an address outside the file system or an unreadable disk, EFBIG behind the
        last triple indirect block or for more than MAX_READ bytes, EINVAL for a negative offset or length.
        """
        if offset < 0 or length < 0:
            raise FileSystemError(EINVAL, f"ufs: read of {length} bytes at {offset}")
        end = min(offset + length, self.size)
        if offset >= end:
            return []
        if end - offset > MAX_READ:
            raise FileSystemError(EFBIG, f"ufs: read of {end - offset} bytes at once")
        bshift = self._superblock.bshift
        runs = self._runs(offset >> bshift, (end - 1) >> bshift)
        return self._pieces(runs, offset & (self._superblock.bsize - 1), end - offset)

    def pass_over(self, block: int) -> None:
        """Logical block ``block`` is read, and what is in it is not looked at.  Raises FileSystemError as read()."""
        self._runs(block, block)

    def extent(self, offset: int) -> tuple[int, bool]:
        """How many bytes from ``offset`` are alike, and whether they are a hole.  Raises FileSystemError as read()."""
        bshift = self._superblock.bshift
        block = offset >> bshift
        pointers, count = self._map(block, (self.size - 1 >> bshift) - block + 1)
        hole = pointers is None
        if pointers is not None:
            hole = not pointers[0]
            count = next((index for index, pointer in enumerate(pointers) if (not pointer) != hole), count)
        return min(block + count << bshift, self.size) - offset, hole

    def write(self, offset: int, data: Buffer) -> int:
        """Overwrite existing bytes in place; how many fitted before the end of the file.  Size and times stay.

        Raises FileSystemError: EROFS, EFBIG for a hole, EIO.
        """
        if self._device.read_only:
            raise FileSystemError(EROFS, "ufs: the disk was opened read-only")
        if offset < 0:
            raise FileSystemError(EINVAL, f"ufs: write at {offset}")
        bsize, fsize, bshift = self._superblock.bsize, self._superblock.fsize, self._superblock.bshift
        end = min(offset + len(data), self.size)
        view = memoryview(data)
        position = offset
        while position < end:
            block, within = position >> bshift, position & (bsize - 1)
            block_size = bsize
            if block < UFS_NDADDR and self.size < (block + 1) << bshift:
                block_size = -(-(self.size & (bsize - 1)) // fsize) * fsize
            step = min(WRITE_STEP, end - position, block_size - within)
            pointers, _ = self._map(block, 1)
            if pointers is None or pointers[0] == 0:
                raise FileSystemError(EFBIG, f"ufs: inode {self._node.ino}: no space is allocated at {position}")
            address = self._address(pointers[0], within + step) + within
            if (within or step < block_size) and block != self._remembered:
                self._twiddle(4)  # libsa reads the block that it changes
                self._remembered, self._pointer = block, pointers[0]
            self._twiddle(4)
            self._device.write(address, view[position - offset : position - offset + step])
            position += step
        if position > offset and self._on_write is not None:
            self._on_write()
        return max(0, position - offset)

    def _runs(self, first: int, last: int) -> list[tuple[int, int]]:
        """(address, blocks) of adjacent blocks from logical block ``first`` to ``last``; address 0 is a hole."""
        twiddle, frag, limit = self._twiddle, self._superblock.frag, self._superblock.size
        runs = []
        start, blocks, expected = 0, 0, _UNREAD
        if first == self._remembered:
            start, blocks = self._pointer, 1
            expected = start + frag if start else 0
        block = first + blocks
        while block <= last:
            pointers, count = self._map(block, last - block + 1)
            block += count
            if pointers is None:
                if expected != 0:
                    if blocks:
                        runs.append((start, blocks))
                    start, blocks, expected = 0, 0, 0
                blocks += count
                continue
            for pointer in pointers:
                if pointer:
                    twiddle(4)
                    if not 0 < pointer < limit:
                        raise self._outside(pointer)
                if pointer == expected:
                    blocks += 1
                else:
                    if blocks:
                        runs.append((start, blocks))
                    start, blocks = pointer, 1
                expected = pointer + frag if pointer else 0
        runs.append((start, blocks))
        self._remembered = last
        self._pointer = start + (blocks - 1) * frag if start else 0
        return runs

    def _pieces(self, runs: list[tuple[int, int]], skip: int, length: int) -> list[Buffer]:
        """The bytes of ``runs`` from ``skip`` on."""
        bshift = self._superblock.bshift
        pieces: list[Buffer] = []
        for pointer, blocks in runs:
            there = min((blocks << bshift) - skip, length)
            length -= there
            if pointer:
                pieces.append(self._device.read(self._address(pointer, skip + there) + skip, there))
            else:
                while there > 0:
                    pieces.append(_ZEROS[:there])
                    there -= len(_ZEROS)
            skip = 0
        return pieces

    def _map(self, block: int, wanted: int) -> tuple[tuple[int, ...] | None, int]:
        """Addresses of up to ``wanted`` blocks from logical block ``block`` that lie together in the inode or in one
        indirect block, and their number; (None, number) when they all are one hole (block_map)."""
        pointers = self._node.pointers
        if block < UFS_NDADDR:
            direct = pointers[block : min(UFS_NDADDR, block + wanted)]
            return direct, len(direct)
        nindir, code = self._superblock.nindir, self._pointer_code
        index, span = block - UFS_NDADDR, nindir
        level = 0
        while index >= span:
            index -= span
            span *= nindir
            level += 1
            if level == UFS_NIADDR:
                raise FileSystemError(EFBIG, f"ufs: inode {self._node.ino}: block {block} is too far for UFS")
        pointer = pointers[UFS_NDADDR + level]
        width = struct.calcsize("<" + code)
        while pointer:
            content = self._indirect_block(level, pointer)
            if level == 0:
                count = min(wanted, nindir - index)
                return struct.unpack_from(f"<{count}{code}", content, index * width), count
            level -= 1
            span //= nindir
            slot, index = divmod(index, span)
            (pointer,) = struct.unpack_from("<" + code, content, slot * width)
        return None, min(wanted, span - index)

    def _indirect_block(self, level: int, pointer: int) -> bytes:
        known, content = self._indirect[level]
        if known != pointer:
            self._twiddle(1)
            bsize = self._superblock.bsize
            content = bytes(self._device.read(self._address(pointer, bsize), bsize))
            self._indirect[level] = (pointer, content)
        return content

    def _address(self, pointer: int, length: int) -> int:
        """Byte address of fragment ``pointer``, from which ``length`` bytes must lie in the file system."""
        address = pointer << self._superblock.fshift
        if pointer <= 0 or address + length > self._superblock.size << self._superblock.fshift:
            raise self._outside(pointer)
        return address

    def _outside(self, pointer: int) -> FileSystemError:
        return FileSystemError(
            EIO, f"ufs: inode {self._node.ino}: block address {pointer} lies outside the file system: damaged inode"
        )
