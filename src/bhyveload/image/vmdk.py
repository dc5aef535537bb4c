"""VMDK images: sparse files (one, or split), streamOptimized, and flat files with a descriptor.

Sources: VMware's Virtual Disk Format 5.0; QEMU's block/vmdk.c, which decides where both leave room, because the guest's
kernel will see the disk through QEMU.  Snapshots (a parent CID), ESX's COWD and SESPARSE and raw device mappings are
refused by name.  The files that a descriptor names must lie beside it: see ``extent_files``.
"""

from __future__ import annotations

import zlib

from bhyveload.image.container import (
    PIECE,
    SECTOR_SIZE,
    ZERO,
    Cache,
    Container,
    ReadOnlyImage,
    check_range,
    joined,
)
from bhyveload.image.vmdk_descriptor import Descriptor
from bhyveload.image.vmdk_format import (
    COMPRESSION_DEFLATE,
    COWD_MAGIC,
    DESCRIPTOR_MAGIC,
    ENTRY,
    FLAG_COMPRESSED,
    FLAG_MARKERS,
    FLAG_NEWLINES,
    FLAG_ZEROED_GRAIN,
    FOOTER_SIZE,
    GD_AT_END,
    GRAIN_MARKER,
    GTE_ZEROED,
    MARKER,
    MARKER_EOS,
    MARKER_FOOTER,
    MAX_DESCRIPTOR,
    MAX_GD_ENTRIES,
    MAX_GRAIN,
    MAX_GTES,
    MAX_VERSION,
    MIN_GRAIN,
    NEWLINES,
    SPARSE_HEADER,
    SPARSE_MAGIC,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bhyveload.device import Buffer, Device
    from bhyveload.image.container import Run

    # names as written in the descriptor -> the files of these names, in that order
    OpenExtents = Callable[[Sequence[str]], Sequence[Device]]


class SparseExtent:
    """One sparse file: a directory of tables of grains."""

    def __init__(self, file: Container, whole_disk: bool) -> None:
        """``whole_disk``: the file stands alone, its embedded descriptor counts.  Raises ImageError."""
        self._file = file
        fields = _header(file, 0)
        if fields[9] == GD_AT_END:
            fields = _footer(file, fields)
        _, _, flags, self.sectors, grain, descriptor, descriptor_size, self._gtes, _, gd_offset, _, _, _, algorithm = (
            fields
        )
        if grain & (grain - 1) or not MIN_GRAIN <= grain <= MAX_GRAIN:
            raise file.damaged(20, f"the grain size is {grain} sectors")
        if not 1 <= self._gtes <= MAX_GTES:
            raise file.damaged(44, f"a grain table has {self._gtes} entries")
        if not 0 < self.sectors < 1 << 54:
            # QEMU takes a capacity of 0 for a reason to follow the embedded descriptor to other files
            raise file.damaged(12, f"the capacity is {self.sectors} sectors")
        self.compressed = bool(flags & FLAG_COMPRESSED)
        self._markers = bool(flags & FLAG_MARKERS)
        if self.compressed and algorithm != COMPRESSION_DEFLATE:
            raise file.refused(f"the VMDK file's compression {algorithm} is unknown", "qemu-img convert may know it")
        self._zeroed = GTE_ZEROED if flags & FLAG_ZEROED_GRAIN else 0
        self._grain_size = file.slack = grain * SECTOR_SIZE
        self._span = self._grain_size * self._gtes  # bytes of the disk that one table covers
        entries = -(-self.sectors * SECTOR_SIZE // self._span)
        if entries > MAX_GD_ENTRIES:
            raise file.damaged(12, f"a grain directory of {entries} entries")
        self._directory = file.structure(gd_offset * SECTOR_SIZE, entries * ENTRY.size, "the grain directory")
        self._unpacked = Cache()
        if whole_disk and descriptor and descriptor_size:
            size = min(descriptor_size * SECTOR_SIZE, MAX_DESCRIPTOR)
            text = file.structure(descriptor * SECTOR_SIZE, size, "the embedded descriptor")
            inside = Descriptor(file, bytes(text))
            inside.check_kind()
            if any(kind != "SPARSE" for kind, _, _, _ in inside.extents) or len(inside.extents) > 1:
                raise file.refused("the descriptor in the VMDK image names other files")

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """Where each grain of the range is, in the order of the extent."""
        end = offset + length
        while offset < end:
            number = offset // self._span
            here_end = min(end, (number + 1) * self._span)
            (table,) = ENTRY.unpack_from(self._directory, number * ENTRY.size)
            if not table:
                yield ZERO, here_end - offset, None
                offset = here_end
                continue
            first = offset % self._span // self._grain_size
            count = (here_end - 1) % self._span // self._grain_size - first + 1
            place = table * SECTOR_SIZE + first * ENTRY.size
            for (entry,) in ENTRY.iter_unpack(self._file.structure(place, count * ENTRY.size, "a grain table")):
                start = offset % self._grain_size
                size = min(self._grain_size - start, here_end - offset)
                if entry in (0, self._zeroed):
                    yield ZERO, size, None
                elif self.compressed:
                    data = self._unpacked.get(entry, self._unpack)
                    if start + size > len(data):
                        raise self._file.damaged(entry * SECTOR_SIZE, f"a grain of only {len(data)} bytes")
                    yield PIECE, size, memoryview(data)[start : start + size]
                else:
                    yield entry * SECTOR_SIZE + start, size, None
                offset += size

    def _unpack(self, entry: int) -> bytes:
        """The compressed grain of a table's ``entry``: as many bytes as it makes, the last one may be short."""
        place = entry * SECTOR_SIZE
        size = 2 * self._grain_size
        if self._markers:
            _, size = GRAIN_MARKER.unpack_from(self._file.structure(place, GRAIN_MARKER.size, "a grain's marker"))
            place += GRAIN_MARKER.size
            if size > 2 * self._grain_size:
                raise self._file.damaged(place, f"a compressed grain of {size} bytes")
        if place >= self._file.size:
            raise self._file.damaged(place, "a compressed grain is outside the file: the file is cut short")
        packed = self._file.source.read(place, min(size, self._file.size - place))
        return self._file.unpacked(zlib.decompressobj(), packed, self._grain_size, place)

    def read(self, offset: int, length: int) -> Buffer:
        return self._file.gathered(self.runs(offset, length), length)


def _header(
    file: Container, offset: int
) -> tuple[bytes, int, int, int, int, int, int, int, int, int, int, int, bytes, int]:
    fields = SPARSE_HEADER.unpack_from(file.structure(offset, SPARSE_HEADER.size, "the VMDK header"))
    if fields[0] == COWD_MAGIC:
        raise file.refused("an ESX sparse file (COWD) is not read", "qemu-img convert makes a raw image of it")
    if fields[0] != SPARSE_MAGIC:
        raise file.damaged(offset, "no VMDK header")
    if not 1 <= fields[1] <= MAX_VERSION:
        raise file.refused(f"VMDK version {fields[1]} is unknown", "qemu-img convert makes a raw image of it")
    if fields[2] & FLAG_NEWLINES and fields[12] != NEWLINES:
        raise file.damaged(offset + 73, "the newline characters were changed: the file was transferred as text")
    return fields


def _footer(
    file: Container, first: tuple[bytes, int, int, int, int, int, int, int, int, int, int, int, bytes, int]
) -> tuple[bytes, int, int, int, int, int, int, int, int, int, int, int, bytes, int]:
    """The header at the end of a stream, between two markers."""
    at = file.size - FOOTER_SIZE
    _, size, kind = MARKER.unpack_from(file.structure(at, MARKER.size, "the footer"))
    sectors, end_size, end_kind = MARKER.unpack_from(file.structure(at + 2 * SECTOR_SIZE, MARKER.size, "the footer"))
    if (size, kind, sectors, end_size, end_kind) != (0, MARKER_FOOTER, 0, 0, MARKER_EOS):
        raise file.damaged(at, "no footer at the end of the stream: the file is cut short")
    fields = _header(file, at + SECTOR_SIZE)
    if fields[9] == GD_AT_END:
        raise file.damaged(at + SECTOR_SIZE, "the footer says that the grain directory is elsewhere")
    if fields[3:5] != first[3:5] or fields[7] != first[7]:
        # a reader that goes by the first header would see another disk
        raise file.damaged(at + SECTOR_SIZE, "the footer and the first header contradict each other")
    return fields


class FlatExtent:
    """A part of a file, as it is."""

    def __init__(self, file: Container, start: int, sectors: int) -> None:
        self._file = file
        self._start = start
        self.sectors = sectors
        if start + sectors * SECTOR_SIZE > file.size:
            raise file.refused(
                f"{sectors} sectors from byte {start} do not fit into the file of {file.size} bytes",
                "the file is cut short, or belongs to another descriptor",
            )

    def read(self, offset: int, length: int) -> Buffer:
        return self._file.source.read(self._start + offset, length)


class ZeroExtent:
    """Nothing but zero bytes."""

    def __init__(self, sectors: int) -> None:
        self.sectors = sectors

    def read(self, offset: int, length: int) -> Buffer:
        return bytes(length)


class VmdkImage(ReadOnlyImage):
    """A Device (device.py) over a VMDK file and those beside it; owns ``source``."""

    format = "vmdk"

    def __init__(self, source: Device, name: str, open_extents: OpenExtents | None = None) -> None:
        """Raises ImageError: damaged, of an unknown kind, or a descriptor without ``open_extents``."""
        super().__init__(name, source)
        file = Container(source, name)
        self._extents: list[SparseExtent | FlatExtent | ZeroExtent] = []
        if bytes(source.read(0, min(source.size, len(DESCRIPTOR_MAGIC)))) == DESCRIPTOR_MAGIC:
            self._follow(file, open_extents)
        else:
            self._extents.append(SparseExtent(file, whole_disk=True))
        self._starts = [0]
        for extent in self._extents:
            self._starts.append(self._starts[-1] + extent.sectors * SECTOR_SIZE)
        self.size = self._starts[-1]
        if self.size >= 1 << 63:
            raise file.damaged(0, f"the disk's size is {self.size}")

    def _follow(self, file: Container, open_extents: OpenExtents | None) -> None:
        if file.size > MAX_DESCRIPTOR:
            raise file.refused(f"a VMDK descriptor of {file.size} bytes")
        descriptor = Descriptor(file, bytes(file.source.read(0, file.size)))
        descriptor.check_kind()
        if not descriptor.extents:
            raise file.refused("the VMDK descriptor names no extents")
        names = descriptor.file_names()
        if names and open_extents is None:
            raise file.refused("the VMDK descriptor's extents cannot be opened here")
        opened = open_extents(names) if names and open_extents is not None else []
        self.sources += opened
        files = dict(zip(names, opened, strict=True))
        for kind, sectors, name, start in descriptor.extents:
            if kind == "ZERO":
                self._extents.append(ZeroExtent(sectors))
                continue
            part = Container(files[name], f"{file.name}: extent {name!a}")
            if kind == "SPARSE":
                sparse = SparseExtent(part, whole_disk=False)
                if sparse.sectors < sectors:
                    raise part.refused(f"the extent has {sparse.sectors} sectors, the descriptor says {sectors}")
                sparse.sectors = sectors
                self._extents.append(sparse)
            else:
                self._extents.append(FlatExtent(part, start * SECTOR_SIZE, sectors))

    def read(self, offset: int, length: int) -> Buffer:
        """Raises FileSystemError(EIO) outside the disk, ImageError where the image is damaged."""
        check_range(self.name, self.size, offset, length)
        if len(self._extents) == 1:
            return self._extents[0].read(offset, length)
        pieces: list[Buffer | int] = []
        end = offset + length
        for extent, begin, limit in zip(self._extents, self._starts, self._starts[1:], strict=False):
            if begin < end and limit > offset:
                first, last = max(begin, offset), min(limit, end)
                pieces.append(extent.read(first - begin, last - first))
        return joined(pieces, length)
