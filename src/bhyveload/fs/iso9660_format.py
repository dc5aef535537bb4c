"""ISO 9660 and Rock Ridge on disk, under FreeBSD's names.

Sources: sys/fs/cd9660/iso.h, cd9660_rrip.h; ECMA-119; IEEE P1281 (SUSP), P1282 (RRIP).
Numbers stored in both byte orders (723, 733) are read from their little-endian half, as libsa does.
"""

from __future__ import annotations

import struct

ISO_DEFAULT_BLOCK_SIZE = 2048
ISO_STANDARD_ID = b"CD001"
ISO_FIRST_DESCRIPTOR = 16  # block number of the first volume descriptor
ISO_VD_PRIMARY = 1
ISO_VD_END = 255

# struct iso_primary_descriptor: offsets of the fields that a loader reads
VD_TYPE = 0
VD_ID = 1
VD_VOLUME_ID = slice(40, 72)
VD_LOGICAL_BLOCK_SIZE = struct.Struct("<128xH")
VD_ROOT_DIRECTORY_RECORD = slice(156, 190)

# struct iso_directory_record: length, ext_attr_length, extent (LE half), size (LE half), flags, name_len
DIRECTORY_RECORD = struct.Struct("<BBI4xI4x7xBxx4xB")
DIRECTORY_RECORD_NAME = 33  # offset of the name: what DIRECTORY_RECORD covers
DIRECTORY_RECORD_DATE = slice(
    18, 25
)  # years since 1900, month, day, hour, minute, second, quarters of an hour from GMT
ISO_FLAG_DIRECTORY = 0x02
ISO_FLAG_MULTI_EXTENT = 0x80

# System Use Sharing Protocol: two letters, length, version, then the entry's own data
SUSP_HEADER_SIZE = 4
SUSP_CONTINUATION = b"CE"
SUSP_PRESENT = b"SP"
SUSP_STOP = b"ST"
SUSP_EXTREF = b"ER"
SUSP_PRESENT_SIZE = 7
SUSP_PRESENT_CHECK = b"\xbe\xef"
SUSP_CE = struct.Struct("<4xI4xI4xI4x")  # block, offset, length

# Rock Ridge
RRIP_NAME = b"NM"
RRIP_LINK = b"SL"
RRIP_CHILD_LINK = b"CL"
RRIP_PARENT_LINK = b"PL"
RRIP_PLACE = struct.Struct("<4xI4x")  # CL, PL: block of the real directory
RRIP_FLAGS = 4  # offset of the flags in NM and SL; their text follows at 5
ISO_SUSP_CFLAG_CONTINUE = 0x01  # NM: the name goes on in the next NM; SL: the link goes on in the next SL
ISO_SUSP_CFLAG_CURRENT = 0x02
ISO_SUSP_CFLAG_PARENT = 0x04
ISO_SUSP_CFLAG_ROOT = 0x08
RRIP_ATTRIBUTES = b"PX"
RRIP_PX = struct.Struct("<4xI4xI4xI4xI4x")  # mode, links, uid, gid
RRIP_TIMES = b"TF"
RRIP_TF_CREATION = 0x01
RRIP_TF_MODIFY = 0x02
RRIP_TF_LONG_FORM = 0x80  # times are 17 digits, not 7 bytes
