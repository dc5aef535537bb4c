"""UFS1 and UFS2 on disk: sys/ufs/ffs/fs.h, sys/ufs/ufs/{dinode,dir}.h.  Little endian throughout.

A superblock is 1376 bytes with fields at scattered places: SUPERBLOCK_FIELDS gives those that anybody here looks at,
under FreeBSD's names without `fs_`.
"""

from __future__ import annotations

import struct

FS_UFS1_MAGIC = 0x00011954
FS_UFS2_MAGIC = 0x19540119
FS_BAD_MAGIC = 0x19960408  # newfs has not finished
FS_MAGIC_OFFSET = 1372

SBLOCK_FLOPPY = 0
SBLOCK_UFS1 = 8192
SBLOCK_UFS2 = 65536
SBLOCK_PIGGY = 262144
SBLOCKSEARCH = (SBLOCK_UFS2, SBLOCK_UFS1, SBLOCK_FLOPPY, SBLOCK_PIGGY)
SBLOCKSIZE = 8192

MINBSIZE = 4096
MAXBSIZE = 65536
MAXFRAG = 8
DEV_BSIZE = 512
SUPERBLOCK_SIZE = 1376
CSUM_SIZE = 16  # struct csum, one a cylinder group

FS_FLAGS_UPDATED = 0x80  # in fs_old_flags: fs_flags is the one to look at
FS_METACKHASH = 0x200
FS_FLAGS_MASK = 0x00FFFFFF  # what a reader keeps of fs_flags before it computes the check hash
CK_SUPPORTED = 0x07
CK_SUPERBLOCK = 0x01
FS_CKHASH_OFFSET = 1304
FS_METACKHASH_OFFSET = 1308
FS_FLAGS_OFFSET = 1312

SUPERBLOCK_FIELDS = {
    "sblkno": (8, "i"),
    "cblkno": (12, "i"),
    "iblkno": (16, "i"),
    "dblkno": (20, "i"),
    "old_cgoffset": (24, "i"),
    "old_cgmask": (28, "i"),
    "old_size": (36, "i"),
    "ncg": (44, "I"),
    "bsize": (48, "i"),
    "fsize": (52, "i"),
    "frag": (56, "i"),
    "bmask": (72, "i"),
    "fmask": (76, "i"),
    "bshift": (80, "i"),
    "fshift": (84, "i"),
    "fragshift": (96, "i"),
    "fsbtodb": (100, "i"),
    "sbsize": (104, "i"),
    "nindir": (116, "i"),
    "inopb": (120, "I"),
    "id0": (144, "i"),
    "id1": (148, "i"),
    "old_csaddr": (152, "i"),
    "cssize": (156, "i"),
    "cgsize": (160, "i"),
    "ipg": (184, "I"),
    "fpg": (188, "i"),
    "clean": (209, "b"),
    "old_flags": (211, "B"),
    "maxbsize": (860, "i"),
    "metaspace": (880, "q"),
    "sblockactualloc": (992, "q"),
    "sblockloc": (1000, "q"),
    "size": (1080, "q"),
    "csaddr": (1096, "q"),
    "ckhash": (FS_CKHASH_OFFSET, "I"),
    "metackhash": (FS_METACKHASH_OFFSET, "I"),
    "flags": (FS_FLAGS_OFFSET, "I"),
    "maxsymlinklen": (1320, "i"),
    "magic": (FS_MAGIC_OFFSET, "I"),
}
VOLNAME_OFFSET = 680
VOLNAME_SIZE = 32

UFS_ROOTINO = 2
UFS_NDADDR = 12
UFS_NIADDR = 3

# di_mode, di_size, di_mtime, pointers or short link (60 bytes), di_uid, di_gid
UFS1_DINODE_SIZE = 128
UFS1_DINODE = struct.Struct("<H6xQ8xI12x60s12xII")
UFS1_POINTERS = struct.Struct("<12I3I")
UFS1_MAXSYMLINKLEN = 60

# di_mode, di_uid, di_gid, di_size, di_mtime, pointers or short link (120 bytes)
UFS2_DINODE_SIZE = 256
UFS2_DINODE = struct.Struct("<H2xII4xQ16xq64x120s")
UFS2_POINTERS = struct.Struct("<12q3q")
UFS2_MAXSYMLINKLEN = 120

# d_ino, d_reclen, d_type, d_namlen; the name follows
DIRECT = struct.Struct("<IHBB")
UFS_MAXNAMLEN = 255

MAXPATHLEN = 1024
MAXSYMLINKS = 32


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


def calculate_crc32c(data: bytes) -> int:
    """FreeBSD's calculate_crc32c(~0, data): Castagnoli, starting from all ones, not inverted at the end."""
    table = _crc32c_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc
