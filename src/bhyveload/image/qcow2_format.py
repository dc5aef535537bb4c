"""qcow2 on disk, under QEMU's names (docs/interop/qcow2.rst).  All numbers are big-endian."""

from __future__ import annotations

import struct

QCOW_MAGIC = b"QFI\xfb"

# magic, version, backing_file_offset, backing_file_size, cluster_bits, size, crypt_method, l1_size, l1_table_offset,
# refcount_table_offset, refcount_table_clusters, nb_snapshots, snapshots_offset
HEADER_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
# from byte 72: incompatible_features, compatible_features, autoclear_features, refcount_order, header_length
HEADER_V3 = struct.Struct(">QQQII")
COMPRESSION_TYPE = 104  # one byte, if the header is that long
COMPRESSION_ZLIB = 0
COMPRESSION_ZSTD = 1

MIN_CLUSTER_BITS = 9
MAX_CLUSTER_BITS = 21
MAX_L1_SIZE = 32 << 20  # bytes (QEMU's QCOW_MAX_L1_SIZE)
MAX_BACKING_NAME = 1023

INCOMPAT_DIRTY = 1 << 0
INCOMPAT_CORRUPT = 1 << 1
INCOMPAT_DATA_FILE = 1 << 2
INCOMPAT_COMPRESSION = 1 << 3
INCOMPAT_EXTL2 = 1 << 4
INCOMPAT_KNOWN = INCOMPAT_DIRTY | INCOMPAT_COMPRESSION | INCOMPAT_EXTL2

HEADER_EXTENSION = struct.Struct(">II")  # type, length; data padded to 8 bytes
EXTENSION_END = 0
EXTENSION_FEATURE_TABLE = 0x6803F857  # 48-byte rows: type (0 incompatible), bit, name
EXTENSION_BACKING_FORMAT = 0xE2792ACA
FEATURE_ROW = struct.Struct(">BB46s")

L1E_OFFSET_MASK = 0x00FFFFFFFFFFFE00
L2E_OFFSET_MASK = 0x00FFFFFFFFFFFE00
L2E_COMPRESSED = 1 << 62
L2E_ZERO = 1  # version 3, without extended L2 entries
ALL_ALLOCATED = 0xFFFFFFFF
SUBCLUSTERS = 32  # of an extended L2 entry: bits 0-31 allocated, 32-63 zero
MIN_EXTL2_CLUSTER_BITS = 14
