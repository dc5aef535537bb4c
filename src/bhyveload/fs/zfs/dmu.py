"""Objects: dnodes, their blocks, object sets (dnode_read and objset_get_dnode of zfsimpl.c).

libsa keeps one block: the last one read, of whatever object.  Nothing is read of a device for a block that is still
there; any other block is fetched through all levels of indirection again.  ``ObjectReader`` counts reads by that rule.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EIO

from . import blkptr
from . import zfs_format as zf
from .meanwhile import Meanwhile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any, TypeVar

    from .zio import BlockReader

    Found = TypeVar("Found")

    Buffer = bytes | memoryview

_MAX_LEVELS = 8
_MAX_PATHS = 64  # of one dnode
_MAX_KNOWN = 256  # searches of one object set
_LARGE_DNODES = 128 << 10  # bytes of a block that is not kept for a search
_LARGE_FILE = 1 << 20  # read once, from its start to its end: its blocks would drive out all others
_zeros = bytes(128 << 10)


def zeros(length: int) -> memoryview:
    """That many zero bytes; one buffer serves all."""
    global _zeros
    if length > len(_zeros):
        _zeros = bytes(length)
    return memoryview(_zeros)[:length]


class Dnode:
    """A dnode_phys_t.  ``bonus`` is all there is of it, also in slots beyond the first; ``spill`` the stored spill
    block pointer or None; ``bsize`` the data block size; ``paths``: the stored pointers that lead to some blocks, those
    of indirect blocks first."""

    __slots__ = (
        "block_pointers",
        "bonus",
        "bonuslen",
        "bonustype",
        "bsize",
        "indblkshift",
        "is_large_file",
        "maxblkid",
        "nlevels",
        "number",
        "paths",
        "spill",
        "type",
    )

    def __init__(self, data: Buffer, number: int = 0) -> None:
        """Raises FileSystemError (EIO): numbers that no dnode can have."""
        (
            self.type,
            self.indblkshift,
            self.nlevels,
            nblkptr,
            self.bonustype,
            _,
            _,
            flags,
            sectors,
            self.bonuslen,
            self.maxblkid,
            _,
        ) = zf.DNODE_CORE.unpack_from(data)
        self.number = number
        self.paths: dict[int, list[bytes]] = {}
        self.bsize = sectors << zf.SPA_MINBLOCKSHIFT
        self.is_large_file = (
            self.type == zf.DMU_OT_PLAIN_FILE_CONTENTS and (self.maxblkid + 1) * self.bsize > _LARGE_FILE
        )
        if self.type == 0:
            raise FileSystemError(EIO, f"ZFS: object {number} does not exist")
        if not 1 <= nblkptr <= zf.DN_MAX_NBLKPTR or not 1 <= self.nlevels <= _MAX_LEVELS:
            raise FileSystemError(EIO, f"ZFS: the dnode of object {number} is damaged")
        if not zf.SPA_BLKPTRSHIFT < self.indblkshift <= zf.DN_MAX_INDBLKSHIFT:
            raise FileSystemError(EIO, f"ZFS: object {number} has indirect blocks of 2^{self.indblkshift} bytes")
        start = zf.DNODE_CORE_SIZE
        bonus = start + nblkptr * zf.BLKPTR_SIZE
        end = len(data)
        self.spill: bytes | None = None
        if flags & zf.DNODE_FLAG_SPILL_BLKPTR:
            end -= zf.BLKPTR_SIZE
            self.spill = bytes(data[end:])
        self.block_pointers = bytes(data[start:bonus])
        self.bonus = bytes(data[bonus : min(bonus + self.bonuslen, end)])

    def again(self) -> Dnode:
        """As if read again: for ``LastBlock`` another one."""
        other = Dnode.__new__(Dnode)
        for name in Dnode.__slots__:
            setattr(other, name, getattr(self, name))
        return other


class LastBlock:
    """libsa's one remembered block (dnode_cache_obj, dnode_cache_bn), one for all pools."""

    __slots__ = ("block", "data", "dnode")

    def __init__(self) -> None:
        self.dnode: Dnode | None = None
        self.block = 0
        self.data: Buffer = b""

    def forget(self) -> None:
        """What zfs_close does."""
        self.dnode = None
        self.data = b""

    def kept(self) -> Meanwhile:
        """``with last.kept()``: it is the same behind as before, whatever is read within."""
        return Meanwhile(self, dnode=self.dnode, block=self.block, data=self.data)


class ObjectReader:
    """Reads bytes of objects of one pool."""

    __slots__ = ("blocks", "last")

    def __init__(self, blocks: BlockReader, last: LastBlock) -> None:
        self.blocks = blocks
        self.last = last

    def block(self, dnode: Dnode, number: int) -> Buffer:
        """Data block ``number``: ``bsize`` bytes.  Raises FileSystemError (EIO)."""
        last = self.last
        if last.dnode is dnode and last.block == number:
            return last.data
        data = self._fetch(dnode, number)
        last.dnode, last.block, last.data = dnode, number, data
        return data

    def _fetch(self, dnode: Dnode, number: int) -> Buffer:
        size = dnode.bsize
        if size > zf.SPA_MAXBLOCKSIZE:
            self.blocks.say(f"ZFS: I/O error - blocks larger than {zf.SPA_MAXBLOCKSIZE} are not supported")
            raise FileSystemError(EIO, f"ZFS: object {dnode.number} has blocks of {size} bytes")
        stored, _ = self._pointer(dnode, number)
        if stored is None:
            return zeros(size)
        data = self.blocks.read(stored, not dnode.is_large_file)
        if len(data) != size:
            # only a damaged pool: the dnode and the block pointer disagree about the block's size
            return bytes(data[:size]).ljust(size, b"\0")
        return data

    def _pointer(self, dnode: Dnode, number: int) -> tuple[bytes | None, int]:
        """The stored pointer to data block ``number``, and 0; or None, and the level in which there is a hole."""
        path = dnode.paths.get(number)
        if path is not None:
            for stored in path[:-1]:
                self.blocks.read(stored)  # as libsa does: it counts
            return path[-1], 0
        path = []
        if number > dnode.maxblkid:
            return None, dnode.nlevels
        shift = dnode.indblkshift - zf.SPA_BLKPTRSHIFT
        mask = (1 << shift) - 1
        data: Buffer = dnode.block_pointers
        level = dnode.nlevels - 1
        while True:
            place = (number >> level * shift & mask) * zf.BLKPTR_SIZE
            if place + zf.BLKPTR_SIZE > len(data):
                raise FileSystemError(EIO, f"ZFS: block {number} of object {dnode.number} is out of reach")
            if blkptr.is_hole(data, place):
                return None, level
            stored = bytes(data[place : place + zf.BLKPTR_SIZE])
            path.append(stored)
            if not level:
                if len(dnode.paths) < _MAX_PATHS:
                    dnode.paths[number] = path
                return stored, 0
            if blkptr.logical_size(stored) > 1 << zf.DN_MAX_INDBLKSHIFT:  # larger ones are not remembered
                raise FileSystemError(EIO, f"ZFS: an indirect block of object {dnode.number} is too large")
            data = self.blocks.read(stored)
            level -= 1

    def extent(self, dnode: Dnode, offset: int) -> tuple[int, bool]:
        """How many bytes from ``offset`` are alike, as far as one way through the levels tells, and whether they are a
        hole."""
        size = dnode.bsize
        if not size:
            raise FileSystemError(EIO, f"ZFS: object {dnode.number} has blocks of no size")
        number = offset // size
        if number > dnode.maxblkid:
            return 1 << 63, True
        stored, level = self._pointer(dnode, number)
        span = 1 << level * (dnode.indblkshift - zf.SPA_BLKPTRSHIFT)  # blocks below one pointer of that level
        return (number // span + 1) * span * size - offset, stored is None

    def read(self, dnode: Dnode, offset: int, length: int) -> list[Buffer]:
        """Consecutive pieces of [offset, offset + length); zeros where nothing is stored."""
        size = dnode.bsize
        if not size:
            raise FileSystemError(EIO, f"ZFS: object {dnode.number} has blocks of no size")
        pieces: list[Buffer] = []
        end = offset + length
        if dnode.maxblkid == 0 and end > size:
            # also for block sizes that are no power of two: nothing is stored past the only block
            tail = end - max(offset, size)
            end -= tail
        else:
            tail = 0
        while offset < end:
            number, start = divmod(offset, size)
            stop = min(size, start + end - offset)
            data = self.block(dnode, number)
            pieces.append(data if start == 0 and stop == len(data) else memoryview(data)[start:stop])
            offset += stop - start
        while tail:
            part = min(tail, 1 << 20)
            pieces.append(zeros(part))
            tail -= part
        return pieces

    def read_bytes(self, dnode: Dnode, offset: int, length: int) -> bytes:
        pieces = self.read(dnode, offset, length)
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(map(bytes, pieces))

    def read_block_pointer(self, stored: bytes) -> Buffer:
        """The block a stored block pointer names (a spill block)."""
        if blkptr.is_hole(stored, 0):
            raise FileSystemError(EIO, "ZFS: a spill block is missing")
        return self.blocks.read(stored)


class Objset:
    """An object set: its type and its objects."""

    __slots__ = ("_known", "meta", "objects", "os_type")

    def __init__(self, data: Buffer, objects: ObjectReader) -> None:
        """Raises FileSystemError (EIO): too short, or its meta dnode is damaged."""
        if len(data) < zf.OBJSET_OS_TYPE_OFFSET + 8:
            raise FileSystemError(EIO, f"ZFS: an object set of {len(data)} bytes")
        self.os_type = int.from_bytes(data[zf.OBJSET_OS_TYPE_OFFSET : zf.OBJSET_OS_TYPE_OFFSET + 8], "little")
        self.objects = objects
        self._known: dict[tuple[Hashable, int], tuple[Any, int, Dnode | None, int, Buffer]] = {}
        self.meta = Dnode(bytes(data[: zf.DNODE_SIZE]))
        if not self.meta.bsize:
            raise FileSystemError(EIO, "ZFS: an object set's meta dnode has blocks of no size")

    def again(
        self, key: Hashable, search: Callable[[], Found], keep: Callable[[Found], bool] = lambda found: True
    ) -> Found:
        """What ``search`` finds.  What is known under ``key`` is not looked for again: its reads, which libsa would
        make again, are counted, and the last block is what they leave.

        ``search`` must read one of this set's dnodes before anything else, and nobody may keep a Dnode of its: then the
        block that was the last before it decides about its first read and about no other.  Nothing is kept of a search
        that raises, that made libsa speak, or that is not to ``keep``."""
        objects = self.objects
        blocks, last = objects.blocks, objects.last
        reads = blocks.reads
        start = last.block if last.dnode is self.meta else -1
        known = self._known.get((key, start))
        if known is not None:
            found: Found = known[0]
            _, calls, last.dnode, last.block, last.data = known
            reads.count(calls)
            return found
        if reads.paused:
            return search()
        shown, spoken = reads.shown, blocks.spoken
        found = search()
        if spoken == blocks.spoken and len(self._known) < _MAX_KNOWN and keep(found):
            calls = reads.shown - shown
            if last.dnode is not self.meta:  # one that nobody else has
                self._known[key, start] = found, calls, None, 0, b""
            elif len(last.data) <= _LARGE_DNODES:
                self._known[key, start] = found, calls, last.dnode, last.block, last.data
        return found

    def dnode(self, number: int) -> Dnode:
        """The dnode of object ``number`` with all its slots.  Raises FileSystemError (EIO): there is none."""
        offset = number * zf.DNODE_SIZE
        if number < 0 or offset > self.meta.maxblkid * self.meta.bsize + self.meta.bsize - zf.DNODE_SIZE:
            raise FileSystemError(EIO, f"ZFS: object {number} does not exist")
        block, start = divmod(offset, self.meta.bsize)
        data = self.objects.block(self.meta, block)
        slots = data[start + 12] + 1
        return Dnode(memoryview(data)[start : start + slots * zf.DNODE_SIZE], number)
