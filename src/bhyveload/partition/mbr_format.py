"""Master boot records on disk: sys/sys/disk/mbr.h."""

from __future__ import annotations

import struct

DOSMAGICOFFSET = 510
DOSMAGIC = b"\x55\xaa"
DOSPARTOFF = 446
NDOSPART = 4

# dp_flag, CHS start (3 bytes), dp_typ, CHS end (3 bytes), dp_start, dp_size
DOS_PARTITION = struct.Struct("<B3xB3xII")
DOS_PARTITIONS_SIZE = NDOSPART * DOS_PARTITION.size

DOSPTYP_EXT = 0x05
DOSPTYP_EXTLBA = 0x0F
DOSPTYP_LINSWP = 0x82
DOSPTYP_LINUX = 0x83
DOSPTYP_386BSD = 0xA5
DOSPTYP_PMBR = 0xEE
DOSPTYP_DOS = (0x01, 0x04, 0x06, 0x0B, 0x0C, 0x0E)
DOSPTYP_NTFS = 0x07  # listed as DOS/Windows, never chosen as best partition

DP_ACTIVE = 0x80
