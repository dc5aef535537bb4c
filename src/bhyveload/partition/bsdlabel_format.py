"""BSD disklabels on disk: sys/sys/disk/bsd.h.  Little endian."""

from __future__ import annotations

import struct

DISKMAGIC = 0x82564557
LABELSECTOR = 1
RAW_PART = 2  # partition c, the whole disk or slice
DISKLABEL_SIZE = 276
BSD_NPARTS_MIN = 8
BSD_NPARTS_MAX = 20

D_MAGIC_OFFSET = 0
D_SECSIZE_OFFSET = 40
D_MAGIC2_OFFSET = 132
D_NPARTITIONS_OFFSET = 138
D_PARTITIONS_OFFSET = 148

# p_size, p_offset, p_fsize, p_fstype, p_frag, p_cpg
BSD_PARTITION = struct.Struct("<IIIBBH")

FS_SWAP = 1
FS_BSDFFS = 7
FS_VINUM = 14
FS_ZFS = 27
