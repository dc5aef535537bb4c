"""VHD on disk (Microsoft's Virtual Hard Disk Image Format Specification 1.0).  All numbers are big-endian."""

from __future__ import annotations

import struct

FOOTER_COOKIE = b"conectix"
# Cookie, Features, File Format Version, Data Offset, Time Stamp, Creator Application, Creator Version, Creator Host OS,
# Original Size, Current Size, Cylinder, Heads, Sectors, Disk Type, Checksum, Unique Id, Saved State
FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB")
FOOTER_SIZE = 512
CHECKSUM_OFFSET = 64
VERSION = 0x00010000
TYPE_FIXED = 2
TYPE_DYNAMIC = 3
TYPE_DIFFERENCING = 4

HEADER_COOKIE = b"cxsparse"
# Cookie, Data Offset, Table Offset, Header Version, Max Table Entries, Block Size, Checksum
HEADER = struct.Struct(">8sQQIIII")
HEADER_SIZE = 1024
HEADER_CHECKSUM_OFFSET = 36

BAT_ENTRY = struct.Struct(">I")
BAT_UNUSED = 0xFFFFFFFF
MAX_BLOCK_SIZE = 256 << 20
MAX_TABLE_ENTRIES = 64 << 20
