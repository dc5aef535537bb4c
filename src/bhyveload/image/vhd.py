"""VHD images, fixed and dynamic.

Sources: Microsoft's specification 1.0; QEMU's block/vpc.c.  As QEMU does, a block that is there is read whole: the
bitmap in front of it, which says what was ever written, is not asked.  Differencing images are refused.

The disk's size is the footer's Current Size.  QEMU goes by cylinders, heads and sectors when it does not know the
program that made the image, and may then see a disk that ends a little earlier.
"""

from __future__ import annotations

from bhyveload.image.container import SECTOR_SIZE, ZERO, Container, ReadOnlyImage, check_range
from bhyveload.image.vhd_format import (
    BAT_ENTRY,
    BAT_UNUSED,
    CHECKSUM_OFFSET,
    FOOTER,
    FOOTER_COOKIE,
    FOOTER_SIZE,
    HEADER,
    HEADER_CHECKSUM_OFFSET,
    HEADER_COOKIE,
    HEADER_SIZE,
    MAX_BLOCK_SIZE,
    MAX_TABLE_ENTRIES,
    TYPE_DIFFERENCING,
    TYPE_DYNAMIC,
    TYPE_FIXED,
    VERSION,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from bhyveload.device import Buffer, Device
    from bhyveload.image.container import Run


class VhdImage(ReadOnlyImage):
    """A Device (device.py) over a VHD file; owns ``source``."""

    format = "vhd"

    def __init__(self, source: Device, name: str) -> None:
        """Raises ImageError: damaged, or of an unknown kind."""
        super().__init__(name, source)
        self._file = file = Container(source, name)
        at = 0
        if bytes(file.structure(0, len(FOOTER_COOKIE), "the VHD footer")) != FOOTER_COOKIE:
            at = file.size - FOOTER_SIZE
        footer = file.structure(at, FOOTER_SIZE, "the VHD footer")
        fields = FOOTER.unpack_from(footer)
        cookie, _, version, header = fields[:4]
        size, kind, checksum = fields[9], fields[13], fields[14]
        if cookie != FOOTER_COOKIE:
            raise file.damaged(at, "no VHD footer")
        if checksum != _checksum(footer, CHECKSUM_OFFSET):
            raise file.damaged(at, "the VHD footer's checksum is wrong")
        if version >> 16 != VERSION >> 16:
            raise file.refused(f"VHD version {version:#x} is unknown", "qemu-img convert may make a raw image of it")
        self.size = size // SECTOR_SIZE * SECTOR_SIZE
        self._block_size = 0  # fixed
        if kind == TYPE_DYNAMIC:
            self._read_header(header)
        elif kind == TYPE_FIXED:
            if self.size > file.size - FOOTER_SIZE:
                raise file.damaged(at, f"a disk of {size} bytes in a file of {file.size}: the file is cut short")
        elif kind == TYPE_DIFFERENCING:
            raise file.refused(
                "a differencing VHD image stands on another one, which is not followed",
                "merge it into its parent, or convert both into one image",
            )
        else:
            raise file.damaged(at, f"VHD disk type {kind}")

    def _read_header(self, at: int) -> None:
        file = self._file
        header = file.structure(at, HEADER_SIZE, "the VHD's dynamic disk header")
        cookie, _, table, version, entries, block_size, checksum = HEADER.unpack_from(header)
        if cookie != HEADER_COOKIE:
            raise file.damaged(at, "no dynamic disk header")
        if checksum != _checksum(header, HEADER_CHECKSUM_OFFSET):
            raise file.damaged(at, "the dynamic disk header's checksum is wrong")
        if version >> 16 != VERSION >> 16:
            raise file.refused(f"VHD dynamic disk header version {version:#x} is unknown")
        if block_size & (block_size - 1) or not SECTOR_SIZE <= block_size <= MAX_BLOCK_SIZE:
            raise file.damaged(at + 32, f"the block size is {block_size}")
        if entries > MAX_TABLE_ENTRIES or entries * block_size < self.size:
            raise file.damaged(at + 28, f"{entries} blocks of {block_size} bytes for a disk of {self.size} bytes")
        needed = -(-self.size // block_size)
        self._table = file.structure(table, needed * BAT_ENTRY.size, "the block allocation table")
        self._block_size = block_size
        bitmap = -(-block_size // SECTOR_SIZE // 8)
        self._bitmap_size = -(-bitmap // SECTOR_SIZE) * SECTOR_SIZE

    def read(self, offset: int, length: int) -> Buffer:
        """Raises FileSystemError(EIO) outside the disk, ImageError where the image is damaged."""
        check_range(self.name, self.size, offset, length)
        if not self._block_size:
            return self._file.source.read(offset, length)
        return self._file.gathered(self._runs(offset, length), length)

    def _runs(self, offset: int, length: int) -> Iterator[Run]:
        end = offset + length
        while offset < end:
            number, start = divmod(offset, self._block_size)
            size = min(self._block_size - start, end - offset)
            (sector,) = BAT_ENTRY.unpack_from(self._table, number * BAT_ENTRY.size)
            if sector == BAT_UNUSED:
                yield ZERO, size, None
            else:
                yield sector * SECTOR_SIZE + self._bitmap_size + start, size, None
            offset += size


def _checksum(data: Buffer, at: int) -> int:
    """The complement of the sum of all bytes but those of the checksum itself."""
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF
