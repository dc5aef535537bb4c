"""ZAPs: name to value, the directories of everything in a pool (mzap_lookup, fzap_lookup).

Source: mzap_lookup, fzap_lookup, zap_list and zap_rlookup of stand/libsa/zfs/zfsimpl.c; blocks are read in their order.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EINVAL, EIO, ENOENT

from . import zfs_format as zf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .dmu import Dnode, ObjectReader

    Buffer = bytes | memoryview

_MASK = (1 << 64) - 1
_INTEGERS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_MAX_VALUE = 8192
_MZE_NAME = 14
_MAX_ENTRY_CHUNKS = 1024


def _crc64_table() -> tuple[int, ...]:
    table = [0]
    value = 1
    for _ in range(8):  # from the bit that comes last to the one that comes first
        value = value >> 1 ^ (zf.ZFS_CRC64_POLY if value & 1 else 0)
        table = [left ^ right for left in table for right in (0, value)]
    return tuple(table)


_CRC64 = _crc64_table()


def zap_hash(salt: int, name: bytes) -> int:
    """The hash of a name; of 64 bits only the top 28 count."""
    crc = salt
    for byte in name:
        crc = crc >> 8 ^ _CRC64[(crc ^ byte) & 0xFF]
    return crc & (_MASK << 64 - zf.ZAP_HASHBITS) & _MASK


def _damaged(dnode: Dnode, reason: str) -> FileSystemError:
    return FileSystemError(EIO, f"ZFS: the ZAP object {dnode.number} is damaged: {reason}")


def lookup(objects: ObjectReader, dnode: Dnode, name: bytes) -> int:
    """The first integer of a name's value.  Raises FileSystemError: ENOENT, EIO."""
    return lookup_array(objects, dnode, name, 8)[0]


def lookup_array(objects: ObjectReader, dnode: Dnode, name: bytes, integer_size: int = 8) -> tuple[int, ...]:
    """All integers of a name's value.

    Raises FileSystemError: ENOENT no such name, EINVAL its integers are wider than ``integer_size``, EIO damaged."""
    block = _first_block(objects, dnode)
    kind = _block_type(block)
    if kind == zf.ZBT_MICRO:
        return (micro_lookup(block, name),)
    if kind != zf.ZBT_HEADER:
        objects.blocks.say(f"ZFS: invalid zap_type={kind:x}")
        raise _damaged(dnode, f"type {kind:#x}")
    header = _fat_header(dnode, block)
    hashed = zap_hash(header.salt, name)
    leaf = ZapLeaf(objects, dnode, header.block_shift, _leaf_number(objects, dnode, header, block, hashed))
    return leaf.lookup(hashed, name, integer_size)


def entries(objects: ObjectReader, dnode: Dnode) -> Iterator[tuple[bytes, tuple[int, ...]]]:
    """(name, integers) in the order of blocks and chunks, as libsa lists them."""
    block = _first_block(objects, dnode)
    if _block_type(block) == zf.ZBT_MICRO:
        for name, value in micro_entries(block):
            yield name, (value,)
        return
    for leaf in leaves(objects, dnode, _fat_header(dnode, block)):
        yield from leaf.entries()


def reverse_lookup(objects: ObjectReader, dnode: Dnode, value: int) -> bytes:
    """The first name with that value.  Raises FileSystemError: ENOENT, EIO."""
    for name, integers in entries(objects, dnode):
        if integers[:1] == (value,):
            return name
    raise FileSystemError(ENOENT, f"ZFS: no name has the value {value}")


def _first_block(objects: ObjectReader, dnode: Dnode) -> Buffer:
    if dnode.bsize < zf.MZAP_ENT_LEN:
        raise _damaged(dnode, "its block is too small")
    return objects.block(dnode, 0)


def _block_type(block: Buffer) -> int:
    return int.from_bytes(block[:8], "little")


def is_micro(block: Buffer) -> bool:
    return _block_type(block) == zf.ZBT_MICRO


def micro_entry(block: Buffer, offset: int) -> tuple[bytes, int]:
    """(name, value) of the entry at ``offset`` of a micro ZAP's block; an empty name: the entry is free."""
    stored = bytes(block[offset + _MZE_NAME : offset + zf.MZAP_ENT_LEN])
    name, _, _ = stored.partition(b"\0")
    return name, int.from_bytes(block[offset : offset + 8], "little")


def micro_lookup(block: Buffer, name: bytes) -> int:
    """The value of a name in a micro ZAP's block.  Raises FileSystemError (ENOENT)."""
    data = bytes(block)
    stored = name + b"\0"
    place = data.find(stored, zf.MZAP_ENT_LEN) if name else -1
    while place >= 0:
        if place % zf.MZAP_ENT_LEN == _MZE_NAME:
            start = place - _MZE_NAME
            return int.from_bytes(data[start : start + 8], "little")
        place = data.find(stored, place + 1)
    raise FileSystemError(ENOENT, "ZFS: no such name")


def micro_entries(block: Buffer) -> Iterator[tuple[bytes, int]]:
    """The used entries of a micro ZAP's block."""
    for offset in range(zf.MZAP_ENT_LEN, len(block) // zf.MZAP_ENT_LEN * zf.MZAP_ENT_LEN, zf.MZAP_ENT_LEN):
        if block[offset + _MZE_NAME]:
            yield micro_entry(block, offset)


class FatHeader:
    """What counts of a zap_phys_t."""

    __slots__ = ("block_shift", "num_leafs", "ptrtbl_blk", "ptrtbl_numblks", "ptrtbl_shift", "salt")

    def __init__(self, fields: tuple[int, ...], block_shift: int) -> None:
        self.ptrtbl_blk, self.ptrtbl_numblks, self.ptrtbl_shift = fields[2:5]
        self.num_leafs = fields[8]
        self.salt = fields[10]
        self.block_shift = block_shift


def fat_header(objects: ObjectReader, dnode: Dnode) -> FatHeader:
    return _fat_header(dnode, _first_block(objects, dnode))


def _fat_header(dnode: Dnode, block: Buffer) -> FatHeader:
    shift = dnode.bsize.bit_length() - 1
    if 1 << shift != dnode.bsize:
        raise _damaged(dnode, f"blocks of {dnode.bsize} bytes")
    fields = zf.ZAP_PHYS.unpack_from(block)
    if fields[0] != zf.ZBT_HEADER or fields[1] != zf.ZAP_MAGIC:
        raise _damaged(dnode, f"magic number {fields[1]:#x}")
    return FatHeader(fields, shift)


def _leaf_number(objects: ObjectReader, dnode: Dnode, header: FatHeader, block: Buffer, hashed: int) -> int:
    """The leaf's block number, from the pointer table in block 0 or in blocks of its own."""
    shift = header.ptrtbl_shift
    if shift > 48:
        raise _damaged(dnode, f"a pointer table of 2^{shift}")
    index = hashed >> 64 - shift if shift else 0
    per_block = header.block_shift - 3
    if not header.ptrtbl_numblks:
        place = (index + (1 << per_block - 1)) * 8
        if place + 8 > len(block):
            raise _damaged(dnode, "its pointer table is longer than its block")
        return int.from_bytes(block[place : place + 8], "little")
    number = header.ptrtbl_blk + (index >> per_block)
    if number > dnode.maxblkid:
        raise _damaged(dnode, "its pointer table is outside of it")
    place = (index & (1 << per_block) - 1) * 8
    return int.from_bytes(objects.block(dnode, number)[place : place + 8], "little")


def leaves(objects: ObjectReader, dnode: Dnode, header: FatHeader) -> Iterator[ZapLeaf]:
    """All leaves in block order.  libsa takes blocks 1 to num_leafs; that is right until the pointer table leaves block
    0, then every block that has a leaf's magic number is one."""
    if not header.ptrtbl_numblks:
        for number in range(1, min(header.num_leafs, dnode.maxblkid) + 1):
            yield ZapLeaf(objects, dnode, header.block_shift, number)
        return
    for number in range(1, dnode.maxblkid + 1):
        block = objects.block(dnode, number)
        if _block_type(block) == zf.ZBT_LEAF and int.from_bytes(block[24:28], "little") == zf.ZAP_LEAF_MAGIC:
            yield ZapLeaf(objects, dnode, header.block_shift, number)


class ZapLeaf:
    """A leaf block: a hash table, then chunks of 24 bytes: entries, and arrays that hold names and values."""

    __slots__ = ("_block", "_chunks", "_dnode", "_hash_shift", "count")

    def __init__(self, objects: ObjectReader, dnode: Dnode, block_shift: int, number: int) -> None:
        if not 0 < number <= dnode.maxblkid or block_shift < 9:
            raise _damaged(dnode, f"leaf {number}")
        self._dnode = dnode
        self._block = objects.block(dnode, number)
        self._hash_shift = block_shift - 5
        table = 2 << self._hash_shift
        self._chunks = zf.ZAP_LEAF_HEADER_SIZE + table
        self.count = ((1 << block_shift) - table) // zf.ZAP_LEAF_CHUNKSIZE - 2
        if _block_type(self._block) != zf.ZBT_LEAF:
            raise _damaged(dnode, f"block {number} is no leaf")

    def entry(self, chunk: int) -> tuple[int, ...] | None:
        """(type, value_intlen, next, name_chunk, name_numints, value_chunk, value_numints, cd, hash); None: that chunk
        is no entry."""
        fields = zf.ZAP_LEAF_ENTRY.unpack_from(self._block, self._chunks + chunk * zf.ZAP_LEAF_CHUNKSIZE)
        return fields if fields[0] == zf.ZAP_CHUNK_ENTRY else None

    def _array(self, chunk: int, length: int) -> bytes:
        """``length`` bytes out of a chain of array chunks."""
        parts: list[bytes] = []
        left = length
        while left > 0:
            if chunk >= self.count or len(parts) > _MAX_ENTRY_CHUNKS:
                raise _damaged(self._dnode, "a chain of chunks leads outside")
            start = self._chunks + chunk * zf.ZAP_LEAF_CHUNKSIZE
            if self._block[start] != zf.ZAP_CHUNK_ARRAY:
                raise _damaged(self._dnode, "a chain of chunks is broken")
            parts.append(bytes(self._block[start + 1 : start + 1 + zf.ZAP_LEAF_ARRAY_BYTES]))
            left -= zf.ZAP_LEAF_ARRAY_BYTES
            chunk = int.from_bytes(self._block[start + 22 : start + 24], "little")
        return b"".join(parts)[:length]

    def name(self, fields: tuple[int, ...]) -> bytes:
        return self._array(fields[3], min(fields[4], _MAX_VALUE)).partition(b"\0")[0]

    def value(self, fields: tuple[int, ...]) -> tuple[int, ...]:
        """The integers of an entry's value (stored big endian)."""
        width, count = fields[1], fields[6]
        if width not in _INTEGERS or width * count > _MAX_VALUE:
            raise _damaged(self._dnode, f"a value of {count} integers of {width} bytes")
        return Struct(f">{count}{_INTEGERS[width]}").unpack(self._array(fields[5], width * count))

    def lookup(self, hashed: int, name: bytes, integer_size: int) -> tuple[int, ...]:
        prefix = int.from_bytes(self._block[16:24], "little")
        prefix_length = int.from_bytes(self._block[32:34], "little")
        if prefix_length > 64 - self._hash_shift or (prefix_length and prefix != hashed >> 64 - prefix_length):
            raise _damaged(self._dnode, "a leaf is in the wrong place")
        bucket = hashed >> 64 - self._hash_shift - prefix_length & (1 << self._hash_shift) - 1
        place = zf.ZAP_LEAF_HEADER_SIZE + 2 * bucket
        chunk = int.from_bytes(self._block[place : place + 2], "little")
        steps = 0
        while chunk != zf.CHAIN_END:
            fields = self.entry(chunk) if chunk < self.count else None
            steps += 1
            if fields is None or steps > self.count:
                raise _damaged(self._dnode, "a chain of entries is broken")
            if fields[8] == hashed and self.name(fields) == name:
                if fields[1] > integer_size:
                    raise FileSystemError(EINVAL, f"ZFS: a value of {fields[1]}-byte integers")
                value = self.value(fields)
                if not value:
                    raise _damaged(self._dnode, "a value of no integers")
                return value
            chunk = fields[2]
        raise FileSystemError(ENOENT, "ZFS: no such name")

    def entries(self) -> Iterator[tuple[bytes, tuple[int, ...]]]:
        """All entries in chunk order."""
        try:
            for chunk in range(self.count):
                fields = self.entry(chunk)
                if fields is not None:
                    yield self.name(fields), self.value(fields)
        except StructError as error:
            raise _damaged(self._dnode, "a leaf is too short") from error
