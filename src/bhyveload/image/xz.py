"""A .xz file read at any place, where it consists of blocks (xz -T makes them): one block is decompressed, not all.

Source: The .xz File Format 1.2.  The blocks are found from the index at the end of each stream; a block is
decompressed by liblzma as a stream of its own, which checks its checksum too.
"""

from __future__ import annotations

import lzma
import zlib

from bhyveload.errors import ImageError
from bhyveload.image.container import PIECE, Cache, Container, ReadOnlyImage, check_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from bhyveload.device import Buffer, Device
    from bhyveload.image.container import Run

HEADER_MAGIC = b"\xfd7zXZ\0"
FOOTER_MAGIC = b"YZ"
HEADER_SIZE = FOOTER_SIZE = 12
MAX_BLOCK = 32 << 20  # bytes out of one block; xz -6 makes 24 MiB
MAX_BLOCKS = 1 << 16
MAX_STREAMS = 1 << 10
MAX_PADDING = 64 << 20  # zero bytes between and behind streams, in all
_OVERHEAD = 1 << 16  # what a block's headers and incompressible data may add to its size, and as much as its 16th part
_STEP = 1 << 16
MEMORY_LIMIT = 256 << 20  # of one decompressor: the dictionary of xz -9 has 64 MiB
_CACHE_SIZE = 8 * MAX_BLOCK
_AGAIN = 384 << 20  # bytes out of blocks that were forgotten meanwhile: two seconds
_AGAIN_PER_BYTE = 64  # and as many more for each byte that was read


class NoIndex(Exception):
    """The file cannot be read block by block, or not cheaply: it has to be unpacked."""


class XzImage(ReadOnlyImage):
    """A Device (device.py) over a .xz file; owns ``source``."""

    format = "xz"

    def __init__(self, source: Device, name: str) -> None:
        """Raises ImageError (damaged) and NoIndex (one block, or large ones)."""
        super().__init__(name, source)
        self._file = Container(source, name, "download or copy the file again")
        self._blocks: list[tuple[int, int, int, bytes]] = []  # place, packed size, size, the stream's flags
        self._padding = 0
        self._starts = [0]  # of the blocks in the disk, and the disk's end
        end = source.size
        for _ in range(MAX_STREAMS):
            end = self._read_stream(end)
            if not end:
                break
        else:
            raise NoIndex
        self._blocks.reverse()
        for _, _, size, _ in self._blocks:
            self._starts.append(self._starts[-1] + size)
        self.size = self._starts[-1]
        self._unpacked = Cache(_CACHE_SIZE)
        self._seen: set[int] = set()
        self._again = 0

    def _read_stream(self, end: int) -> int:
        """Add the blocks of the stream that ends at ``end``, last first; where the stream begins."""
        file = self._file
        end = self._before_padding(end)
        footer = bytes(file.structure(end - FOOTER_SIZE, FOOTER_SIZE, "the xz stream footer"))
        if footer[10:] != FOOTER_MAGIC or zlib.crc32(footer[4:10]) != int.from_bytes(footer[:4], "little"):
            raise file.damaged(
                end - FOOTER_SIZE, "no xz stream footer at the end: the file is cut short, or more was added"
            )
        flags = footer[8:10]
        index_size = (int.from_bytes(footer[4:8], "little") + 1) * 4
        index_at = end - FOOTER_SIZE - index_size
        if index_size > MAX_BLOCKS * 18:
            raise NoIndex
        index = bytes(file.structure(index_at, index_size, "the xz index"))
        if index[0] or zlib.crc32(index[:-4]) != int.from_bytes(index[-4:], "little"):
            raise file.damaged(index_at, "the xz index is damaged")
        count, position = _number(index, 1)
        if len(self._blocks) + count > MAX_BLOCKS:
            raise NoIndex
        sizes = []
        for _ in range(count):
            packed, position = _number(index, position)
            size, position = _number(index, position)
            if size > MAX_BLOCK:
                raise NoIndex
            if packed > size + size // 16 + _OVERHEAD:
                raise file.damaged(index_at, f"an xz block of {packed} bytes for {size}")
            sizes.append(((packed + 3) // 4 * 4, size))
        place = index_at
        for packed, size in reversed(sizes):
            place -= packed
            if size:
                self._blocks.append((place, packed, size, flags))
        header = bytes(file.structure(place - HEADER_SIZE, HEADER_SIZE, "the xz stream header"))
        if header[:6] != HEADER_MAGIC or header[6:8] != flags:
            raise file.damaged(place - HEADER_SIZE, "the xz index does not fit the blocks")
        return place - HEADER_SIZE

    def _before_padding(self, end: int) -> int:
        """Where the zero bytes (four by four) begin that end at ``end``.  Raises ImageError: too many of them."""
        step = 16  # mostly there are none
        while end >= 4:
            piece = bytes(self._file.structure(max(0, end - step), min(end, step), "xz padding"))
            zeros = (len(piece) - len(piece.rstrip(b"\0"))) // 4 * 4
            end -= zeros
            self._padding += zeros
            if self._padding > MAX_PADDING:
                raise self._file.damaged(end, f"more than {MAX_PADDING >> 20} MiB of xz padding")
            if zeros < len(piece) // 4 * 4:
                break
            step = _STEP
        return end

    def read(self, offset: int, length: int) -> Buffer:
        """Raises FileSystemError(EIO) outside the disk, ImageError where the file is damaged."""
        check_range(self.name, self.size, offset, length)
        self._again -= length * _AGAIN_PER_BYTE
        return self._file.gathered(self._runs(offset, length), length)

    def _runs(self, offset: int, length: int) -> Iterator[Run]:
        end = offset + length
        number = _last_not_above(self._starts, offset)
        while offset < end:
            start, limit = self._starts[number], self._starts[number + 1]
            size = min(limit, end) - offset
            if size:
                block = memoryview(self._unpacked.get(number, self._unpack_to_read))
                yield PIECE, size, block[offset - start : offset - start + size]
            offset += size
            number += 1

    def _unpack_to_read(self, number: int) -> bytes:
        """Raises ImageError: too much of it is done again and again (the guest decides what is read next)."""
        if number in self._seen:
            self._again += self._starts[number + 1] - self._starts[number]
            if self._again > _AGAIN:
                raise ImageError(
                    f"{self.name}: reading it here and there unpacks its blocks again and again", "unpack it: xz -dk"
                )
        self._seen.add(number)
        return self._unpack(number)

    @property
    def blocks(self) -> int:
        """How many there are."""
        return len(self._blocks)

    def block(self, number: int) -> tuple[int, bytes]:
        """Where a block begins in the disk, and what is in it.  Raises ImageError."""
        return self._starts[number], self._unpack(number)

    def _unpack(self, number: int) -> bytes:
        place, packed, size, flags = self._blocks[number]
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY_LIMIT)
        stream = HEADER_MAGIC + flags + zlib.crc32(flags).to_bytes(4, "little")
        stream += bytes(self._file.structure(place, packed, "an xz block"))
        # one byte more than there may be, so that liblzma goes on to the block's checksum
        data = self._file.unpacked(decompressor, stream, size + 1, place)
        if len(data) != size:
            raise self._file.damaged(place, f"an xz block of {len(data)} bytes, the index says {size}")
        return data


def blocks_of(source: Device, name: str) -> int:
    """In how many blocks the file can be read; 0: not block by block.  Raises ImageError."""
    try:
        return XzImage(source, name).blocks
    except NoIndex:
        return 0


def _number(data: bytes, position: int) -> tuple[int, int]:
    """A number of up to 63 bits, seven a byte; (it, where it ends)."""
    value = shift = 0
    while position < len(data) and shift < 63:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise NoIndex


def _last_not_above(starts: list[int], offset: int) -> int:
    """The index of the last of the sorted ``starts`` that is not above ``offset`` (bisect_right - 1)."""
    low, high = 0, len(starts)
    while low < high:
        middle = (low + high) // 2
        if starts[middle] > offset:
            high = middle
        else:
            low = middle + 1
    return low - 1
