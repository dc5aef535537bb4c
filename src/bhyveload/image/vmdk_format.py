"""VMDK on disk (VMware's Virtual Disk Format 5.0, QEMU's block/vmdk.c).  All numbers are little-endian, in sectors."""

from __future__ import annotations

import struct

SPARSE_MAGIC = b"KDMV"
COWD_MAGIC = b"COWD"  # ESX 3 sparse files
DESCRIPTOR_MAGIC = b"# Disk DescriptorFile"

# magicNumber, version, flags, capacity, grainSize, descriptorOffset, descriptorSize, numGTEsPerGT, rgdOffset, gdOffset,
# overHead, uncleanShutdown, newline detection, compressAlgorithm
SPARSE_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
FLAG_NEWLINES = 1 << 0  # the four newline characters are there
FLAG_ZEROED_GRAIN = 1 << 2  # an entry of 1 is a grain of zero bytes
FLAG_COMPRESSED = 1 << 16
FLAG_MARKERS = 1 << 17
NEWLINES = b"\n \r\n"  # what a transfer as text would change
COMPRESSION_DEFLATE = 1
GD_AT_END = 0xFFFFFFFFFFFFFFFF  # the header that counts is the footer's
ENTRY = struct.Struct("<I")
GTE_ZEROED = 1

MARKER = struct.Struct("<QII")  # numSectors, size, type
MARKER_EOS = 0
MARKER_FOOTER = 3
FOOTER_SIZE = 3 * 512  # footer marker, header, end-of-stream marker
GRAIN_MARKER = struct.Struct("<QI")  # lba, size; compressed data follows

MAX_VERSION = 3
MIN_GRAIN = 8  # the specification's: 4 KiB
MAX_GRAIN = 1 << 15  # 16 MiB; VMware and QEMU write 128
MAX_GTES = 512
MAX_GD_ENTRIES = 64 << 20

MAX_DESCRIPTOR = 64 << 10  # bytes
MAX_EXTENTS = 512  # 1 TiB in files of 2 GiB
NO_PARENT = "ffffffff"
