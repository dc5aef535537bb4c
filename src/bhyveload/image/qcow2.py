"""qcow2 images, versions 2 and 3, read in place.

Source: QEMU's docs/interop/qcow2.rst.  Snapshots and bitmaps are left alone: the active disk is read.  Encrypted
images, external data files, images marked corrupt and unknown incompatible features are refused by name.  An image
marked dirty was not closed after its last use: its reference counts may be wrong, which only matters for writing.
A backing file is opened only through ``open_backing``, which the user has to ask for.
"""

from __future__ import annotations

import struct
import zlib

from bhyveload.errors import ImageError
from bhyveload.image.container import PIECE, SECTOR_SIZE, ZERO, Cache, Container, ReadOnlyImage, check_range
from bhyveload.image.qcow2_format import (
    ALL_ALLOCATED,
    COMPRESSION_TYPE,
    COMPRESSION_ZLIB,
    COMPRESSION_ZSTD,
    EXTENSION_BACKING_FORMAT,
    EXTENSION_END,
    EXTENSION_FEATURE_TABLE,
    FEATURE_ROW,
    HEADER_EXTENSION,
    HEADER_V2,
    HEADER_V3,
    INCOMPAT_CORRUPT,
    INCOMPAT_DATA_FILE,
    INCOMPAT_EXTL2,
    INCOMPAT_KNOWN,
    L1E_OFFSET_MASK,
    L2E_COMPRESSED,
    L2E_OFFSET_MASK,
    L2E_ZERO,
    MAX_BACKING_NAME,
    MAX_CLUSTER_BITS,
    MAX_L1_SIZE,
    MIN_CLUSTER_BITS,
    MIN_EXTL2_CLUSTER_BITS,
    QCOW_MAGIC,
    SUBCLUSTERS,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bhyveload.device import Buffer, Device
    from bhyveload.image.container import Decompressor, Run

    # (name as written in the image, its format or "") -> the disk behind it
    OpenBacking = Callable[[str, str], Device]

REPAIR = "qemu-img check -r all repairs it"


class Qcow2Header:
    """The header, checked: ``cluster_bits``, ``size`` in bytes, ``l1_offset``, ``l1_size`` in entries."""

    __slots__ = (
        "backing",
        "backing_format",
        "cluster_bits",
        "extended",
        "l1_offset",
        "l1_size",
        "size",
        "version",
        "zstd",
    )

    def __init__(self, file: Container) -> None:
        """Raises ImageError."""
        fields = HEADER_V2.unpack_from(file.structure(0, HEADER_V2.size, "the qcow2 header"))
        magic, self.version, backing_offset, backing_size, self.cluster_bits, self.size = fields[:6]
        crypt_method, self.l1_size, self.l1_offset = fields[6:9]
        if magic != QCOW_MAGIC:
            raise file.refused("not a qcow2 image")
        if self.version == 1:  # mkimg -f qcow makes it
            raise file.refused(
                "this is a QCOW (version 1) image, which is not read",
                "qemu-img convert -O qcow2 makes one of version 3",
            )
        if self.version not in (2, 3):
            raise file.refused(f"qcow2 version {self.version} is unknown", "qemu-img convert makes a raw image of it")
        if crypt_method:
            raise file.refused(f"the qcow2 image is encrypted (method {crypt_method})", "qemu-img convert decrypts it")
        if not MIN_CLUSTER_BITS <= self.cluster_bits <= MAX_CLUSTER_BITS:
            raise file.damaged(20, f"cluster_bits is {self.cluster_bits}")
        self.extended = self.zstd = False
        self.backing_format = ""
        length = HEADER_V2.size
        if self.version == 3:
            length = self._read_v3(file)
        else:
            self._read_extensions(file, length, 0)
        self.backing = ""
        if backing_offset:
            if backing_size > MAX_BACKING_NAME:
                raise file.damaged(16, f"the backing file's name has {backing_size} bytes")
            name = file.structure(backing_offset, backing_size, "the backing file's name")
            self.backing = bytes(name).decode("utf-8", "surrogateescape")
        self._check_l1(file)

    def _read_v3(self, file: Container) -> int:
        v3 = file.structure(HEADER_V2.size, HEADER_V3.size, "the qcow2 header")
        incompatible, _, _, _, length = HEADER_V3.unpack_from(v3)
        if length < HEADER_V2.size + HEADER_V3.size or length % 8 or length > 1 << self.cluster_bits:
            raise file.damaged(100, f"the header's length is {length}")
        self._read_extensions(file, length, incompatible)
        if incompatible & INCOMPAT_CORRUPT:
            raise file.refused("the qcow2 image is marked corrupt", REPAIR)
        if incompatible & INCOMPAT_DATA_FILE:
            raise file.refused("the qcow2 image keeps its data in an external file", "qemu-img convert joins them")
        self.extended = bool(incompatible & INCOMPAT_EXTL2)
        if self.extended and self.cluster_bits < MIN_EXTL2_CLUSTER_BITS:
            raise file.damaged(20, f"cluster_bits is {self.cluster_bits}, too few for extended L2 entries")
        if length > COMPRESSION_TYPE:
            kind = file.structure(COMPRESSION_TYPE, 1, "the compression type")[0]
            if kind not in (COMPRESSION_ZLIB, COMPRESSION_ZSTD):
                raise file.refused(f"the qcow2 image's compression type {kind} is unknown")
            self.zstd = kind == COMPRESSION_ZSTD
        return int(length)

    def _read_extensions(self, file: Container, offset: int, incompatible: int) -> None:
        names: dict[int, str] = {}
        end = min(1 << self.cluster_bits, file.size)
        while offset + HEADER_EXTENSION.size <= end:
            kind, length = HEADER_EXTENSION.unpack_from(file.structure(offset, HEADER_EXTENSION.size, "an extension"))
            offset += HEADER_EXTENSION.size
            if kind == EXTENSION_END or offset + length > end:
                break
            data = bytes(file.structure(offset, length, "an extension"))
            if kind == EXTENSION_BACKING_FORMAT:
                self.backing_format = data[:64].decode("ascii", "replace")
            elif kind == EXTENSION_FEATURE_TABLE:
                for group, bit, name in FEATURE_ROW.iter_unpack(data[: length - length % FEATURE_ROW.size]):
                    if group == 0:
                        names[bit] = name.rstrip(b"\0").decode("ascii", "replace")
            offset += (length + 7) // 8 * 8
        unknown = incompatible & ~(INCOMPAT_KNOWN | INCOMPAT_CORRUPT | INCOMPAT_DATA_FILE)
        if unknown:
            listed = ", ".join(names.get(bit) or f"bit {bit}" for bit in range(64) if unknown >> bit & 1)
            raise file.refused(f"the qcow2 image needs features that are unknown here: {listed}")

    def _check_l1(self, file: Container) -> None:
        if self.size >= 1 << 63:
            raise file.damaged(24, f"the disk's size is {self.size}")
        if self.l1_size * 8 > MAX_L1_SIZE:
            raise file.damaged(36, f"the L1 table has {self.l1_size} entries")
        covered = self.l1_size << (2 * self.cluster_bits - (4 if self.extended else 3))
        if covered < self.size:
            raise file.damaged(36, f"an L1 table of {self.l1_size} entries is too small for {self.size} bytes")
        if self.l1_offset % (1 << self.cluster_bits):
            raise file.damaged(40, f"the L1 table's offset {self.l1_offset:#x} is not that of a cluster")


class Qcow2Image(ReadOnlyImage):
    """A Device (device.py) over a qcow2 file; owns ``source``."""

    format = "qcow2"

    def __init__(self, source: Device, name: str, open_backing: OpenBacking | None = None) -> None:
        """Raises ImageError: damaged, of an unknown kind, or with a backing file and no ``open_backing``."""
        super().__init__(name, source)
        self._file = file = Container(source, name)
        header = Qcow2Header(file)
        self.size = header.size
        self._bits = header.cluster_bits
        file.slack = 1 << header.cluster_bits
        self._extended = header.extended
        self._zero_flag = L2E_ZERO if header.version == 3 and not header.extended else 0
        self._table_bits = header.cluster_bits - (4 if header.extended else 3)  # log2 of an L2 table's entries
        self._l1 = file.structure(header.l1_offset, header.l1_size * 8, "the L1 table")
        self._unpacked = Cache()
        self._zstd = _zstd_decompressor() if header.zstd else None
        self._backing: Device | None = None
        if header.backing:
            if open_backing is None:
                raise file.refused(
                    f"the qcow2 image stands on another file, {header.backing!a}, which is not followed",
                    "--allow-backing follows backing files; only use it on images whose names you trust",
                )
            self._backing = open_backing(header.backing, header.backing_format)
            self.sources.append(self._backing)

    def read(self, offset: int, length: int) -> Buffer:
        """Raises FileSystemError(EIO) outside the disk, ImageError where the image is damaged."""
        check_range(self.name, self.size, offset, length)
        return self._file.gathered(self._runs(offset, length), length)

    def _runs(self, offset: int, length: int) -> Iterator[Run]:
        """Where each cluster of the range is, in the order of the disk."""
        end = offset + length
        while offset < end:
            l1_index = offset >> (self._bits + self._table_bits)
            here_end = min(end, (l1_index + 1) << (self._bits + self._table_bits))
            table = self._l1_entry(l1_index)
            if not table:
                yield from self._below(offset, here_end - offset)
                offset = here_end
                continue
            runs = self._extended_runs if self._extended else self._standard_runs
            yield from runs(table, offset, here_end)
            offset = here_end

    def _standard_runs(self, table: int, offset: int, end: int) -> Iterator[Run]:
        """The clusters of one L2 table from ``offset`` to ``end``."""
        cluster_size = 1 << self._bits
        raw = self._entries(table, offset, end, 8)
        entries: tuple[int, ...] = struct.unpack(f">{len(raw) // 8}Q", raw)
        index = 0
        while offset < end:
            entry = entries[index]
            count = 1
            start = offset & (cluster_size - 1)
            if entry & L2E_COMPRESSED:
                size = min(cluster_size - start, end - offset)
                yield PIECE, size, memoryview(self._unpacked.get(entry, self._unpack))[start : start + size]
            elif not entry & L2E_OFFSET_MASK or entry & self._zero_flag:
                size = min(cluster_size - start, end - offset)
                if entry & self._zero_flag:
                    yield ZERO, size, None
                else:
                    yield from self._below(offset, size)
            else:
                count = _contiguous(entries, index, cluster_size)
                size = min(count * cluster_size - start, end - offset)
                yield self._host(entry) + start, size, None
            index += count
            offset += size

    def _extended_runs(self, table: int, offset: int, end: int) -> Iterator[Run]:
        """The same for extended L2 entries."""
        cluster_size = 1 << self._bits
        for entry, bitmap in struct.iter_unpack(">QQ", self._entries(table, offset, end, 16)):
            start = offset & (cluster_size - 1)
            size = min(cluster_size - start, end - offset)
            if entry & L2E_COMPRESSED:
                yield PIECE, size, memoryview(self._unpacked.get(entry, self._unpack))[start : start + size]
            elif bitmap == ALL_ALLOCATED:
                yield self._host(entry) + start, size, None
            elif bitmap == 0:
                yield from self._below(offset, size)
            else:
                yield from self._subclusters(entry & L2E_OFFSET_MASK, bitmap, offset, size)
            offset += size

    def _l1_entry(self, index: int) -> int:
        (entry,) = struct.unpack_from(">Q", self._l1, index * 8)
        return int(entry) & L1E_OFFSET_MASK

    def _entries(self, table: int, offset: int, end: int, width: int) -> Buffer:
        """The L2 entries, of ``width`` bytes, for ``offset`` to ``end``, which one table covers."""
        mask = (1 << self._table_bits) - 1
        first = offset >> self._bits & mask
        count = (end - 1 >> self._bits & mask) - first + 1
        if table & ((1 << self._bits) - 1):
            raise self._file.damaged(table, "an L2 table does not lie at a cluster's start")
        return self._file.structure(table + first * width, count * width, "an L2 table")

    def _host(self, entry: int) -> int:
        """Where the cluster of a standard L2 entry lies in the file."""
        host = entry & L2E_OFFSET_MASK
        if host & ((1 << self._bits) - 1):
            raise self._file.damaged(host, "a cluster does not lie at a multiple of the cluster size")
        return host

    def _subclusters(self, host: int, bitmap: int, offset: int, size: int) -> Iterator[Run]:
        sub_size = (1 << self._bits) // SUBCLUSTERS
        end = offset + size
        while offset < end:
            start = offset & ((1 << self._bits) - 1)
            index = start // sub_size
            here = min(sub_size - start % sub_size, end - offset)
            allocated, zero = bitmap >> index & 1, bitmap >> (SUBCLUSTERS + index) & 1
            if allocated and zero:
                raise self._file.damaged(host, f"subcluster {index} is both allocated and zero")
            if allocated:
                yield self._host(host) + start, here, None
            elif zero:
                yield ZERO, here, None
            else:
                yield from self._below(offset, here)
            offset += here

    def _below(self, offset: int, size: int) -> Iterator[Run]:
        """What the backing file has at ``offset``: zero bytes behind its end, or without one."""
        there = 0
        if self._backing is not None and offset < self._backing.size:
            there = min(size, self._backing.size - offset)
            yield PIECE, there, self._backing.read(offset, there)
        if there < size:
            yield ZERO, size - there, None

    def _unpack(self, entry: int) -> bytes:
        """The cluster of a compressed L2 entry."""
        place_bits = 62 - (self._bits - 8)
        place = entry & ((1 << place_bits) - 1)
        sectors = (entry & (L2E_COMPRESSED - 1)) >> place_bits
        length = (sectors + 1) * SECTOR_SIZE - place % SECTOR_SIZE
        if place >= self._file.size:
            raise self._file.damaged(place, "a compressed cluster is outside the file: the file is cut short")
        packed = self._file.source.read(place, min(length, self._file.size - place))
        decompressor = self._zstd() if self._zstd else zlib.decompressobj(-zlib.MAX_WBITS)
        data = self._file.unpacked(decompressor, packed, 1 << self._bits, place)
        if len(data) != 1 << self._bits:
            raise self._file.damaged(place, f"a compressed cluster makes {len(data)} bytes")
        return data


def _contiguous(entries: tuple[int, ...], index: int, cluster_size: int) -> int:
    """How many clusters, a power of two, lie one behind the other in the file from entry ``index`` on.

    Few large comparisons instead of one step a cluster.  Entries with other flags than the first one's end a run.
    """
    first, left = entries[index], len(entries) - index
    count = 1
    while (
        2 * count <= left
        and entries[index + 2 * count - 1] == first + (2 * count - 1) * cluster_size
        and entries[index + count : index + 2 * count]
        == tuple(range(first + count * cluster_size, first + 2 * count * cluster_size, cluster_size))
    ):
        count *= 2
    return count


def _zstd_decompressor() -> Callable[[], Decompressor]:
    try:
        from bhyveload.image.zstd import small_decompressor
    except ImportError:
        raise ImageError("a qcow2 image compressed with zstd", "install backports.zstd") from None
    return small_decompressor
