"""Write small ZFS pools of any shape, for what no fixture shows: removed and special vdevs, spares, checkpoints, large
records, pools larger than a fixture may be.

Written from OpenZFS's headers, not from the reader; what real pools have in common with these is checked on the
real ones.
"""

from __future__ import annotations

import functools
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import lz4.block

from bhyveload.fs.zfs import nvlist as nv
from bhyveload.fs.zfs.blkptr import Salt
from bhyveload.fs.zfs.checksum import compute, seal_embedded
from bhyveload.image.raw import RawImage
from support.descriptors import OwnDisk

LABEL = 256 << 10
DATA_START = 4 << 20
MIN_SIZE = 64 << 20
OFF, LZ4, GZIP_1 = 2, 15, 5
FLETCHER_4, SHA256, BLAKE3 = 7, 8, 14
DIRECTORY, FILE, LINK = 0o040755, 0o100644, 0o120777
ROOT_DATASET, CONFIG, FEATURES, PROPS, CHECKPOINT = 2, 3, 8, 9, 10
FIRST_FREE = 32
SALT = bytes(range(32))


def nvlist(**pairs: Any) -> nv.NvList:
    """int -> uint64, bytes -> string, NvList, list of NvLists."""
    result = nv.NvList()
    for name, value in pairs.items():
        kind = {
            int: nv.DATA_TYPE_UINT64,
            bytes: nv.DATA_TYPE_STRING,
            nv.NvList: nv.DATA_TYPE_NVLIST,
            list: nv.DATA_TYPE_NVLIST_ARRAY,
        }[type(value)]
        result.pairs.append(nv.Pair(name.replace("__", ":").encode(), kind, value))
    return result


def micro_zap(entries: dict[bytes, int], size: int = 0) -> bytes:
    data = struct.pack("<QQ48x", 0x8000000000000003, 1)
    for name, value in entries.items():
        data += struct.pack("<QI2x50s", value, 0, name)
    length = max(size, 512, -(-len(data) // 512) * 512)
    return data.ljust(length, b"\0")


def name_hash(salt: int, name: bytes) -> int:
    """CRC-64 (ECMA-182, reflected) started with the salt, a bit at a time; the top 28 bits count."""
    crc = salt
    for byte in name:
        low = (crc ^ byte) & 0xFF
        for _ in range(8):
            low = low >> 1 ^ (0xC96C5795D7870F42 if low & 1 else 0)
        crc = crc >> 8 ^ low
    return crc >> 36 << 36


def fat_zap(
    entries: Mapping[bytes, tuple[int, Sequence[int]]], shift: int = 12, leaf_bits: int = 0, outside: bool = False
) -> bytes:
    """A ZAP in blocks of 2^``shift`` bytes: name -> (bytes per integer, integers).

    2^``leaf_bits`` leaves, by the first bits of the hash; ``outside``: the pointer table has a block of its own, behind
    the leaves."""
    size = 1 << shift
    salt = 0x1234567890ABCDEF
    leaves: list[dict[bytes, tuple[int, Sequence[int]]]] = [{} for _ in range(1 << leaf_bits)]
    for name, value in entries.items():
        leaves[name_hash(salt, name) >> 64 - leaf_bits if leaf_bits else 0][name] = value
    table_shift = shift - 3 if outside else shift - 4
    table = [(index >> table_shift - leaf_bits) + 1 for index in range(1 << table_shift)]
    packed = struct.pack(f"<{len(table)}Q", *table)
    place = (len(leaves) + 1, 1) if outside else (0, 0)
    header = struct.pack(
        "<2Q5Q3Q3Q",
        *(0x8000000000000001, 0x2F52AB2AB),
        *(*place, table_shift, 0, 0),
        *(len(leaves) + 2, len(leaves), len(entries)),
        *(salt, 0, 0),
    )
    first = header.ljust(size, b"\0") if outside else header.ljust(size // 2, b"\0") + packed
    blocks = [_leaf(leaf, salt, shift, number, leaf_bits) for number, leaf in enumerate(leaves)]
    return first + b"".join(blocks) + (packed if outside else b"")


def _leaf(entries: Mapping[bytes, tuple[int, Sequence[int]]], salt: int, shift: int, prefix: int, bits: int) -> bytes:
    hash_shift = shift - 5
    heads = [0xFFFF] * (1 << hash_shift)
    chunks: list[bytes] = []

    def array(data: bytes) -> int:
        first = len(chunks)
        count = max(1, -(-len(data) // 21))
        for index in range(count):
            after = first + index + 1 if index + 1 < count else 0xFFFF
            chunks.append(struct.pack("<B21sH", 251, data[21 * index : 21 * index + 21], after))
        return first

    for name, (width, values) in entries.items():
        hashed = name_hash(salt, name)
        bucket = hashed >> 64 - hash_shift - bits & (1 << hash_shift) - 1
        at_name = array(name + b"\0")
        at_value = array(b"".join(value.to_bytes(width, "big") for value in values))
        fields = (252, width, heads[bucket], at_name, len(name) + 1, at_value, len(values), 0, hashed)
        heads[bucket] = len(chunks)
        chunks.append(struct.pack("<2B5HIQ", *fields))
    count = ((1 << shift) - 2 * len(heads)) // 24 - 2
    assert len(chunks) <= count, "too many entries for the leaf"
    chunks += [struct.pack("<B23x", 253)] * (count - len(chunks))
    head = struct.pack("<3QI4H", 0x8000000000000000, 0, prefix, 0x2AB1EAF, 0, len(entries), bits, 0).ljust(48, b"\0")
    return (head + struct.pack(f"<{len(heads)}H", *heads) + b"".join(chunks)).ljust(1 << shift, b"\0")


class Leaf:
    """One device of a vdev: a partitionless disk in memory."""

    def __init__(self, guid: int, size: int) -> None:
        self.guid = guid
        self.size = size
        self.fd = os.memfd_create("vdev")
        os.ftruncate(self.fd, size)

    def write(self, offset: int, data: bytes) -> None:
        os.pwrite(self.fd, data, offset)

    def image(self) -> RawImage:
        return OwnDisk(os.dup(self.fd), f"leaf-{self.guid:x}", read_only=False)

    def __del__(self) -> None:
        try:
            os.close(self.fd)
        except OSError:
            pass  # in a child that confined itself


class Top:
    """A top-level vdev: ``kind`` "disk", "mirror" or "raidz" (then ``nparity``); ``extra`` goes into its nvlist."""

    def __init__(
        self, number: int, kind: str = "disk", leaves: int = 1, ashift: int = 12, nparity: int = 0, size: int = MIN_SIZE
    ) -> None:
        self.id = number
        self.kind = kind
        self.ashift = ashift
        self.nparity = nparity
        self.guid = 0x7000 + number
        self.leaves = [Leaf(0x7100 + number * 16 + index, size) for index in range(leaves)]
        if kind == "disk":
            self.leaves[0].guid = self.guid
        self.used = 0
        self.extra: dict[str, Any] = {}
        self.leaf_extra: dict[int, dict[str, Any]] = {}

    def tree(self) -> nv.NvList:
        asize = (self.leaves[0].size - DATA_START - 2 * LABEL) * (len(self.leaves) if self.kind == "raidz" else 1)
        common = {"id": self.id, "guid": self.guid, "ashift": self.ashift, "asize": asize}
        if self.kind == "disk":
            return nvlist(type=b"disk", path=b"/dev/" + self.name(0), **common, **self.extra)
        children = [
            nvlist(**{"type": b"disk", "id": index, "guid": leaf.guid, "path": b"/dev/" + self.name(index)}
                   | self.leaf_extra.get(index, {}))
            for index, leaf in enumerate(self.leaves)
        ]  # fmt: skip
        parity = {"nparity": self.nparity} if self.nparity else {}
        return nvlist(type=self.kind.encode(), **common, **parity, children=children, **self.extra)

    def name(self, index: int) -> bytes:
        return b"t%dd%d" % (self.id, index)

    def put(self, data: bytes) -> int:
        """Store a block; its offset."""
        unit = 1 << self.ashift
        data = data.ljust(-(-len(data) // unit) * unit, b"\0")
        offset = self.used
        if self.kind == "raidz":
            self._put_raidz(offset, data)
            rows = -(-len(data) // unit // (len(self.leaves) - self.nparity))
            sectors = len(data) // unit + self.nparity * rows
            self.used += -(-sectors // (self.nparity + 1)) * (self.nparity + 1) * unit
        else:
            for leaf in self.leaves:
                leaf.write(DATA_START + offset, data)
            self.used += len(data)
        return offset

    def _put_raidz(self, offset: int, data: bytes) -> None:
        """Columns as vdev_raidz_map_alloc lays them out, parity a byte at a time."""
        unit, count, parity = 1 << self.ashift, len(self.leaves), self.nparity
        block, sectors = offset >> self.ashift, len(data) >> self.ashift
        quotient, rest = divmod(sectors, count - parity)
        big = rest + parity if rest else 0
        lengths = [quotient + (column < big) for column in range(count if quotient else big)]
        columns: list[bytearray] = []
        at = 0
        for number, length in enumerate(lengths):
            size = length * unit
            columns.append(bytearray(lengths[0] * unit) if number < parity else bytearray(data[at : at + size]))
            at += size if number >= parity else 0
        for row in range(parity):
            total = columns[row]
            for column in columns[parity:]:
                for index in range(len(total)):
                    value = total[index]
                    for _ in range(row):
                        value = (value << 1) ^ (0x11D if value & 0x80 else 0)
                    total[index] = value ^ (column[index] if index < len(column) else 0)
        places = []
        for number in range(len(lengths)):
            child, place = block % count + number, (block // count) << self.ashift
            places.append((child - count, place + unit) if child >= count else (child, place))
        if parity == 1 and offset & 1 << 20:
            places[0], places[1] = places[1], places[0]
        for (child, place), content in zip(places, columns, strict=True):
            self.leaves[child].write(DATA_START + place, bytes(content))


class Writer:
    """A pool on ``tops``; write datasets, then ``finish``."""

    def __init__(self, tops: Iterable[Top], name: bytes = b"made", txg: int = 40) -> None:
        self.tops = {top.id: top for top in tops}
        self.where = min(self.tops)
        self.name = name
        self.txg = txg
        self.guid = 0xBEEF
        self.compress = LZ4
        self.checksum = FLETCHER_4
        self.copies = 1
        self.spread: tuple[int, ...] = ()  # the devices of the copies, instead of `where` for all
        self.bsize = 128 << 10
        self.mos: dict[int, bytes] = {}
        self.next = FIRST_FREE
        self.datasets: dict[bytes, int] = {}
        self.features: dict[bytes, int] = {b"org.illumos:lz4_compress": 1}
        self.arrays: dict[bytes, tuple[int, Sequence[int]]] = {}  # of the object directory, which is a fat ZAP then
        self.bootfs = b""
        self.tree_extra: list[nv.NvList] = []
        self.rootbp = b""

    def new(self) -> int:
        self.next += 1
        return self.next - 1

    def block(self, data: bytes, kind: int, level: int = 0, compress: int | None = None) -> bytes:
        """Store ``data``; its block pointer."""
        method = self.compress if compress is None else compress
        stored, method = _compressed(data, method)
        stored = stored.ljust(-(-len(stored) // 512) * 512, b"\0")
        words = [0] * 16
        for copy, where in enumerate(self.spread or (self.where,) * self.copies):
            top = self.tops[where]
            offset = top.put(stored)
            words[2 * copy] = top.id << 32 | len(stored) >> 9
            words[2 * copy + 1] = offset >> 9
        words[6] = (
            (len(data) >> 9) - 1
            | (len(stored) >> 9) - 1 << 16
            | method << 32
            | self.checksum << 40
            | kind << 48
            | level << 56
            | 1 << 63
        )
        words[10] = self.txg
        words[11] = 1
        sums = compute(self.checksum, stored, Salt(SALT), False)
        assert sums is not None
        words[12:] = sums
        return struct.pack("<16Q", *words)

    def gang(self, data: bytes, kind: int, header_size: int = 512) -> bytes:
        """The same in pieces: a gang header of ``header_size`` bytes names a member for each third of the data."""
        third = -(-len(data) // 3 // 512) * 512
        members = b"".join(
            self.block(data[start : start + third], kind, compress=OFF) for start in range(0, len(data), third)
        )
        top = self.tops[self.where]
        offset = top.used
        verifier = (top.id, offset, self.txg, 0)
        top.put(seal_embedded(members.ljust(header_size, b"\0"), verifier))
        words = list(struct.unpack("<16Q", self.block(data, kind, compress=OFF)))
        words[1] = offset >> 9 | 1 << 63
        return struct.pack("<16Q", *words)

    def object(
        self,
        data: bytes,
        kind: int,
        bonus: bytes = b"",
        bonustype: int = 0,
        bsize: int = 0,
        indblkshift: int = 17,
    ) -> bytes:
        """A dnode of one slot whose data is ``data``; blocks of zeros are holes."""
        bsize = bsize or min(self.bsize, max(512, -(-len(data) // 512) * 512))
        pointers = b""
        for start in range(0, len(data), bsize):
            piece = data[start : start + bsize].ljust(bsize, b"\0")
            pointers += self.block(piece, kind) if piece.strip(b"\0") else bytes(128)
        maxblkid = max(0, len(pointers) // 128 - 1)
        levels = 1
        while len(pointers) > 128:
            size = 1 << indblkshift
            above = b""
            for start in range(0, len(pointers), size):
                above += self.block(pointers[start : start + size].ljust(size, b"\0"), kind, levels)
            pointers = above
            levels += 1
        core = struct.pack(
            "<8BHHB3xQQ",
            *(kind, indblkshift, levels, 1, bonustype, 0, 0, 1),
            *(bsize >> 9, len(bonus), 0, maxblkid, 0),
        )
        return (core.ljust(64, b"\0") + pointers.ljust(128, b"\0") + bonus).ljust(512, b"\0")

    def objset(self, objects: dict[int, bytes], kind: int) -> bytes:
        """Store an object set; its block pointer."""
        dnodes = b"".join(objects.get(number, bytes(512)) for number in range(max(objects) + 1))
        meta = self.object(dnodes, 10, bsize=16384)
        return self.block((meta + bytes(192) + struct.pack("<Q", kind)).ljust(1024, b"\0"), 11)

    def zap(self, entries: dict[bytes, int], kind: int) -> bytes:
        return self.object(micro_zap(entries), kind)

    def file_system(
        self, tree: dict[bytes, bytes | None], edit: Callable[[dict[int, bytes]], None] | None = None
    ) -> bytes:
        """An object set of ``tree``: path -> content, None for a directory, b"-> target" for a link."""
        objects: dict[int, bytes] = {}
        names: dict[bytes, dict[bytes, int]] = {b"": {}}
        numbers = {b"": 2}
        for number, path in enumerate(sorted(tree), 3):
            content = tree[path]
            parent, _, name = path.rpartition(b"/")
            kind = 4 if content is None else 10 if content.startswith(b"-> ") else 8
            names[parent][name] = kind << 60 | number
            numbers[path] = number
            if content is None:
                names[path] = {}
            elif kind == 10:
                objects[number] = self.object(b"", 19, _attributes(LINK, len(content) - 3, content[3:]), 44)
            else:
                objects[number] = self.object(content, 19, _attributes(FILE, len(content)), 44)
        for path, entries in names.items():
            objects[numbers[path]] = self.object(
                micro_zap(entries), 20, _attributes(DIRECTORY, len(entries) + 2), 44, bsize=len(micro_zap(entries))
            )
        objects[1] = self.zap({b"ROOT": 2, b"VERSION": 5}, 21)
        if edit is not None:
            edit(objects)
        return self.objset(objects, 2)

    def dataset(self, name: bytes, objset: bytes) -> None:
        """Add `pool/name` (empty: the root dataset); its parents must have been added."""
        number = ROOT_DATASET if not name else self.new()
        head, children, snapshots = self.new(), self.new(), self.new()
        self.datasets[name] = number
        parent = 0 if not name else self.datasets[name.rpartition(b"/")[0]]
        bonus = struct.pack("<5Q", 0, head, parent, 0, children).ljust(256, b"\0")
        self.mos[number] = self.object(b"", 12, bonus, 12)
        bonus = struct.pack("<16Q", number, 0, 0, 0, snapshots, 0, 1700000000, *[0] * 9) + objset
        self.mos[head] = self.object(b"", 16, bonus.ljust(320, b"\0"), 16)
        self.mos[snapshots] = self.zap({}, 14)
        if name == self.bootfs:
            self.mos[PROPS] = self.zap({b"bootfs": head}, 15)

    def write_mos(self) -> bytes:
        """Store the MOS as it is now; its block pointer, which `rootbp` keeps."""
        for name, number in self.datasets.items():
            children = {
                other.rpartition(b"/")[2]: found
                for other, found in self.datasets.items()
                if other and other.rpartition(b"/")[0] == name
            }
            zap = struct.unpack_from("<Q", self.mos[number], 64 + 128 + 32)[0]
            self.mos[zap] = self.zap(children, 13)
        packed = nv.encode(self.config())
        self.mos[CONFIG] = self.object(packed, 3, struct.pack("<Q", len(packed)), 4, bsize=16384)
        self.mos[FEATURES] = self.zap(self.features, 0xC4)
        directory = {b"root_dataset": ROOT_DATASET, b"config": CONFIG, b"features_for_read": FEATURES}
        if PROPS in self.mos:
            directory[b"pool_props"] = PROPS
        if self.arrays:
            single = {name: (8, (value,)) for name, value in directory.items()}
            self.mos[1] = self.object(fat_zap(single | self.arrays), 1, bsize=4096)
        else:
            self.mos[1] = self.zap(directory, 1)
        self.rootbp = self.objset(self.mos, 1)
        return self.rootbp

    def config(self) -> nv.NvList:
        trees = [top.tree() for top in self.tops.values()] + self.tree_extra
        root = nvlist(type=b"root", id=0, guid=self.guid, children=trees)
        return nvlist(version=5000, name=self.name, pool_guid=self.guid, vdev_children=len(trees), vdev_tree=root)

    def finish(self) -> list[RawImage]:
        """Write the MOS and the labels; every leaf as a disk, in order."""
        if not self.rootbp:
            self.write_mos()
        leaves = []
        for top in self.tops.values():
            for leaf in top.leaves:
                write_labels(leaf, self.label(top, leaf), self.uberblock(), top.ashift)
                leaves.append(leaf.image())
        return leaves

    def label(self, top: Top, leaf: Leaf, **changes: Any) -> nv.NvList:
        pairs = {
            "version": 5000,
            "name": self.name,
            "state": 0,
            "txg": self.txg,
            "pool_guid": self.guid,
            "top_guid": top.guid,
            "guid": leaf.guid,
            "vdev_children": len(self.tops) + len(self.tree_extra),
            "vdev_tree": top.tree(),
            "features_for_read": nvlist(),
        }
        return nvlist(**{name: value for name, value in (pairs | changes).items() if value is not None})

    def uberblock(self, txg: int = 0, timestamp: int = 1700000000) -> bytes:
        words = (0x00BAB10C, 5000, txg or self.txg, 0, timestamp, *struct.unpack("<16Q", self.rootbp), *[0] * 5)
        return struct.pack("<26Q", *words)


def write_labels(leaf: Leaf, config: nv.NvList, uberblock: bytes, ashift: int, slot: int = 3) -> None:
    size = 1 << min(max(ashift, 10), 13)
    for number in range(4):
        start = number * LABEL if number < 2 else leaf.size - (4 - number) * LABEL
        phys = nv.encode(config).ljust(112 << 10, b"\0")
        leaf.write(start + (16 << 10), seal_embedded(phys, (start + (16 << 10), 0, 0, 0)))
        place = start + (128 << 10) + slot * size
        leaf.write(place, seal_embedded(uberblock.ljust(size, b"\0"), (place, 0, 0, 0)))
        empty = start + (8 << 10)
        leaf.write(empty, seal_embedded(bytes(8 << 10), (empty, 0, 0, 0)))


@functools.lru_cache(maxsize=64)
def _compressed(data: bytes, method: int) -> tuple[bytes, int]:
    if method == LZ4:
        body = lz4.block.compress(data, store_size=False)
        stored = struct.pack(">I", len(body)) + body
    elif method == GZIP_1:
        stored = zlib.compress(data, 1)
    else:
        return data, OFF
    return (stored, method) if len(stored) <= len(data) - len(data) // 8 else (data, OFF)


def _attributes(mode: int, size: int, link: bytes = b"") -> bytes:
    head = struct.pack("<IH2x", 0x2F505A, 1 << 10 | 2)
    body = struct.pack("<7Q", mode, size, 1, 0, 0, 2, 0) + struct.pack("<8Q", *[1700000000, 0] * 4)
    return (head + body + struct.pack("<Q", 1)).ljust(8 + 160, b"\0") + link
