"""VHDX images, fixed and dynamic.

Source: [MS-VHDX].  The log of an image that was not closed is replayed in memory (vhdx_log.py).  Differencing images
are refused.
"""

from __future__ import annotations

import struct

from bhyveload.image.container import ZERO, Container, ReadOnlyImage, check_range
from bhyveload.image.vhdx_format import (
    BAT_ENTRY,
    BAT_OFFSET,
    BAT_STATE,
    FILE_PARAMETERS,
    FILE_SIGNATURE,
    HAS_PARENT,
    HEADER,
    HEADER_OFFSETS,
    HEADER_SIGNATURE,
    HEADER_SIZE,
    KNOWN_ITEMS,
    LOGICAL_SECTOR_SIZE,
    MAX_BLOCK_SIZE,
    MAX_DISK_SIZE,
    MAX_ENTRIES,
    METADATA_ENTRY,
    METADATA_HEADER,
    METADATA_REQUIRED,
    METADATA_SIGNATURE,
    METADATA_TABLE_SIZE,
    MIN_BLOCK_SIZE,
    NO_GUID,
    PARAMETERS,
    PARENT_LOCATOR,
    PAYLOAD_BLOCK_FULLY_PRESENT,
    PAYLOAD_BLOCK_PARTIALLY_PRESENT,
    PAYLOAD_BLOCK_UNMAPPED,
    REGION_BAT,
    REGION_ENTRY,
    REGION_HEADER,
    REGION_METADATA,
    REGION_OFFSETS,
    REGION_SIGNATURE,
    REGION_SIZE,
    SECTORS_PER_BITMAP,
    VERSION,
    VIRTUAL_DISK_SIZE,
    crc32c,
)
from bhyveload.image.vhdx_log import replayed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from bhyveload.device import Buffer, Device
    from bhyveload.image.container import Run


class VhdxImage(ReadOnlyImage):
    """A Device (device.py) over a VHDX file; owns ``source``."""

    format = "vhdx"

    def __init__(self, source: Device, name: str) -> None:
        """Raises ImageError: damaged, or of an unknown kind."""
        super().__init__(name, source)
        self._file = file = Container(source, name)
        if bytes(file.structure(0, len(FILE_SIGNATURE), "the VHDX signature")) != FILE_SIGNATURE:
            raise file.damaged(0, "no VHDX signature")
        log = _log_of(file)
        if log is not None:
            self._file = file = Container(replayed(file, *log), name)
        regions = _regions(file)
        items = _metadata(file, *regions[REGION_METADATA])
        block_size, flags = PARAMETERS.unpack_from(_item(file, items, FILE_PARAMETERS, PARAMETERS.size))
        (self.size,) = struct.unpack("<Q", _item(file, items, VIRTUAL_DISK_SIZE, 8))
        (self.logical_sector_size,) = struct.unpack("<I", _item(file, items, LOGICAL_SECTOR_SIZE, 4))
        if flags & HAS_PARENT or PARENT_LOCATOR in items:
            raise file.refused(
                "a differencing VHDX image stands on another one, which is not followed",
                "merge it into its parent, or convert both into one image",
            )
        if block_size & (block_size - 1) or not MIN_BLOCK_SIZE <= block_size <= MAX_BLOCK_SIZE:
            raise file.damaged(items[FILE_PARAMETERS][0], f"the block size is {block_size}")
        if self.logical_sector_size not in (512, 4096):
            raise file.damaged(items[LOGICAL_SECTOR_SIZE][0], f"sectors of {self.logical_sector_size} bytes")
        if self.size > MAX_DISK_SIZE or self.size % self.logical_sector_size:
            raise file.damaged(items[VIRTUAL_DISK_SIZE][0], f"the disk's size is {self.size}")
        self._block_size = block_size
        # one bitmap block's entry follows so many payload blocks' entries, also where there are no bitmaps
        self._chunk_ratio = SECTORS_PER_BITMAP * self.logical_sector_size // block_size
        blocks = -(-self.size // block_size)
        entries = blocks + (blocks - 1) // self._chunk_ratio if blocks else 0
        at, length = regions[REGION_BAT]
        if length < entries * BAT_ENTRY.size:
            raise file.damaged(at, f"a block allocation table of {length} bytes for {entries} entries")
        self._table = file.structure(at, entries * BAT_ENTRY.size, "the block allocation table")

    def read(self, offset: int, length: int) -> Buffer:
        """Raises FileSystemError(EIO) outside the disk, ImageError where the image is damaged."""
        check_range(self.name, self.size, offset, length)
        return self._file.gathered(self._runs(offset, length), length)

    def _runs(self, offset: int, length: int) -> Iterator[Run]:
        end = offset + length
        while offset < end:
            number, start = divmod(offset, self._block_size)
            size = min(self._block_size - start, end - offset)
            (entry,) = BAT_ENTRY.unpack_from(self._table, (number + number // self._chunk_ratio) * BAT_ENTRY.size)
            state = entry & BAT_STATE
            if state == PAYLOAD_BLOCK_FULLY_PRESENT:
                yield (entry & BAT_OFFSET) + start, size, None
            elif state <= PAYLOAD_BLOCK_UNMAPPED:
                yield ZERO, size, None
            elif state == PAYLOAD_BLOCK_PARTIALLY_PRESENT:
                raise self._file.damaged(0, f"block {number} is half there, which only a differencing image may have")
            else:
                raise self._file.damaged(0, f"block {number} has state {state}")
            offset += size


def _sound(data: Buffer) -> bool:
    """Whether the CRC at byte 4 is that of ``data`` with zero bytes in its place."""
    content = bytes(data)
    return crc32c(content[:4] + bytes(4) + content[8:]) == int.from_bytes(content[4:8], "little")


def _log_of(file: Container) -> tuple[bytes, int, int] | None:
    """(GUID, offset, length) of the log that the current header names, if it may hold anything.  Raises ImageError."""
    current: tuple[int, bytes, int, int, int, int] | None = None
    for at in HEADER_OFFSETS:
        header = file.structure(at, HEADER_SIZE, "a VHDX header")
        signature, _, sequence, _, _, guid, log_version, version, length, offset = HEADER.unpack_from(header)
        if signature == HEADER_SIGNATURE and _sound(header) and (current is None or sequence > current[0]):
            current = sequence, guid, log_version, version, length, offset
    if current is None:
        raise file.damaged(HEADER_OFFSETS[0], "neither VHDX header is sound")
    _, guid, log_version, version, length, offset = current
    if version != VERSION:
        raise file.refused(f"VHDX version {version} is unknown", "qemu-img convert may make a raw image of it")
    if log_version:
        raise file.refused(f"VHDX log version {log_version} is unknown")
    return (guid, offset, length) if guid != NO_GUID and length else None


def _regions(file: Container) -> dict[bytes, tuple[int, int]]:
    """GUID -> (offset, length) out of the first sound region table.  Raises ImageError."""
    for at in REGION_OFFSETS:
        table = file.structure(at, REGION_SIZE, "a VHDX region table")
        signature, _, count, _ = REGION_HEADER.unpack_from(table)
        if signature == REGION_SIGNATURE and count <= MAX_ENTRIES and _sound(table):
            break
    else:
        raise file.damaged(REGION_OFFSETS[0], "neither VHDX region table is sound")
    regions: dict[bytes, tuple[int, int]] = {}
    for number in range(count):
        entry = REGION_HEADER.size + number * REGION_ENTRY.size
        guid, offset, length, required = REGION_ENTRY.unpack_from(table, entry)
        if guid in (REGION_BAT, REGION_METADATA):
            if guid in regions:
                raise file.damaged(at + entry, "a VHDX region is there twice")
            regions[guid] = offset, length
        elif required & 1:
            raise file.refused(f"the VHDX image needs a region that is unknown here: {guid.hex()}")
    if len(regions) != 2:
        raise file.damaged(at, "the VHDX region table lacks the block allocation table or the metadata")
    return regions


def _metadata(file: Container, at: int, length: int) -> dict[bytes, tuple[int, int]]:
    """Item -> (offset in the file, length).  Raises ImageError."""
    table = file.structure(at, min(length, METADATA_TABLE_SIZE), "the VHDX metadata table")
    if len(table) < METADATA_TABLE_SIZE:
        raise file.damaged(at, f"a VHDX metadata table of {length} bytes")
    signature, _, count, _ = METADATA_HEADER.unpack_from(table)
    if signature != METADATA_SIGNATURE or count > MAX_ENTRIES:
        raise file.damaged(at, "no VHDX metadata table")
    items: dict[bytes, tuple[int, int]] = {}
    for number in range(count):
        entry = METADATA_HEADER.size + number * METADATA_ENTRY.size
        item, offset, size, flags, _ = METADATA_ENTRY.unpack_from(table, entry)
        if offset + size > length:
            raise file.damaged(at + entry, "a VHDX metadata item is outside its region")
        if flags & METADATA_REQUIRED and item not in KNOWN_ITEMS and item != PARENT_LOCATOR:
            raise file.refused(f"the VHDX image needs metadata that is unknown here: {item.hex()}")
        items[item] = at + offset, size
    return items


def _item(file: Container, items: dict[bytes, tuple[int, int]], item: bytes, size: int) -> Buffer:
    at, length = items.get(item, (0, 0))
    if length < size:
        raise file.damaged(at, "the VHDX metadata lack the block size, the disk's size or the sector size")
    return file.structure(at, size, "VHDX metadata")
