"""VHDX on disk ([MS-VHDX] 2 and 3).  All numbers are little-endian, GUIDs in their mixed order."""

from __future__ import annotations

import struct

FILE_SIGNATURE = b"vhdxfile"
HEADER_OFFSETS = (64 << 10, 128 << 10)
HEADER_SIZE = 4 << 10
HEADER_SIGNATURE = b"head"
# Signature, Checksum, SequenceNumber, FileWriteGuid, DataWriteGuid, LogGuid, LogVersion, Version, LogLength, LogOffset
HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
VERSION = 1
NO_GUID = bytes(16)

LOG_SIGNATURE = b"loge"
# Signature, Checksum, EntryLength, Tail, SequenceNumber, DescriptorCount, Reserved, LogGuid, FlushedFileOffset,
# LastFileOffset
LOG_HEADER = struct.Struct("<4sIIIQII16sQQ")
ZERO_SIGNATURE = b"zero"
ZERO_DESCRIPTOR = struct.Struct("<4sIQQQ")  # ZeroSignature, Reserved, ZeroLength, FileOffset, SequenceNumber
DESCRIPTOR_SIGNATURE = b"desc"
DATA_DESCRIPTOR = struct.Struct("<4s4s8sQQ")  # DataSignature, TrailingBytes, LeadingBytes, FileOffset, SequenceNumber
DATA_SIGNATURE = b"data"  # DataSignature, SequenceHigh, Data, SequenceLow
DATA_SECTOR_SIZE = 4096
DATA_SECTOR_LOW = DATA_SECTOR_SIZE - 4
MAX_LOG = 64 << 20  # logs have 1 MiB
MAX_CHECKED = 4 << 20  # bytes of log entries whose CRC is computed
MAX_ZEROED = 32 << 20  # bytes that the log may change: tables and metadata are smaller

REGION_OFFSETS = (192 << 10, 256 << 10)
REGION_SIZE = 64 << 10
REGION_SIGNATURE = b"regi"
REGION_HEADER = struct.Struct("<4sIII")  # Signature, Checksum, EntryCount, Reserved
REGION_ENTRY = struct.Struct("<16sQII")  # Guid, FileOffset, Length, Required
MAX_ENTRIES = 2047

METADATA_SIGNATURE = b"metadata"
METADATA_HEADER = struct.Struct("<8sHH20s")  # Signature, Reserved, EntryCount, Reserved2
METADATA_ENTRY = struct.Struct("<16sIIII")  # ItemId, Offset, Length, flags, Reserved2
METADATA_REQUIRED = 1 << 2
METADATA_TABLE_SIZE = 64 << 10


def _guid(text: str) -> bytes:
    first, second, third, fourth, fifth = text.split("-")
    head = struct.pack("<IHH", int(first, 16), int(second, 16), int(third, 16))
    return head + bytes.fromhex(fourth + fifth)


REGION_BAT = _guid("2DC27766-F623-4200-9D64-115E9BFD4A08")
REGION_METADATA = _guid("8B7CA206-4790-4B9A-B8FE-575F050F886E")
FILE_PARAMETERS = _guid("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
VIRTUAL_DISK_SIZE = _guid("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
PAGE_83_DATA = _guid("BECA12AB-B2E6-4523-93EF-C309E000C746")
LOGICAL_SECTOR_SIZE = _guid("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
PHYSICAL_SECTOR_SIZE = _guid("CDA348C7-445D-4471-9CC9-E9885251C556")
PARENT_LOCATOR = _guid("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")
KNOWN_ITEMS = frozenset((FILE_PARAMETERS, VIRTUAL_DISK_SIZE, PAGE_83_DATA, LOGICAL_SECTOR_SIZE, PHYSICAL_SECTOR_SIZE))

PARAMETERS = struct.Struct("<II")  # BlockSize, flags
HAS_PARENT = 1 << 1
MIN_BLOCK_SIZE = 1 << 20
MAX_BLOCK_SIZE = 256 << 20
MAX_DISK_SIZE = 64 << 40
SECTORS_PER_BITMAP = 1 << 23

BAT_ENTRY = struct.Struct("<Q")
BAT_STATE = 7
BAT_OFFSET = 0xFFFFFFFFFFF00000
# payload block states; all others read as zero bytes
PAYLOAD_BLOCK_UNMAPPED = 3
PAYLOAD_BLOCK_FULLY_PRESENT = 6
PAYLOAD_BLOCK_PARTIALLY_PRESENT = 7


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _crc32c_table()


def crc32c(data: bytes) -> int:
    """The Castagnoli CRC that guards headers and region tables."""
    table = _TABLE
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
