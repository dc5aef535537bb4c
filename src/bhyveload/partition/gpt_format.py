"""GUID partition tables on disk: sys/sys/disk/gpt.h.  Little endian throughout."""

from __future__ import annotations

import struct

GPT_HDR_SIG = b"EFI PART"
GPT_HDR_REVISION = 0x00010000
GPT_MIN_HDR_SIZE = 92

# hdr_sig, hdr_revision, hdr_size, hdr_crc_self, reserved, hdr_lba_self, hdr_lba_alt, hdr_lba_start, hdr_lba_end,
# hdr_uuid, hdr_lba_table, hdr_entries, hdr_entsz, hdr_crc_table
GPT_HDR = struct.Struct("<8sIIIIQQQQ16sQIII")
GPT_HDR_CRC_OFFSET = 16

# ent_type, ent_uuid, ent_lba_start, ent_lba_end, ent_attr, ent_name (36 UTF-16LE units)
GPT_ENT = struct.Struct("<16s16sQQQ72s")
GPT_ENT_TYPE_UNUSED = bytes(16)

GPT_ENT_TYPE_EFI = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
GPT_ENT_TYPE_MS_BASIC_DATA = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"
GPT_ENT_TYPE_FREEBSD_BOOT = "83bd6b9d-7f41-11dc-be0b-001560b84f0f"
GPT_ENT_TYPE_FREEBSD = "516e7cb4-6ecf-11d6-8ff8-00022d09712b"
GPT_ENT_TYPE_FREEBSD_SWAP = "516e7cb5-6ecf-11d6-8ff8-00022d09712b"
GPT_ENT_TYPE_FREEBSD_UFS = "516e7cb6-6ecf-11d6-8ff8-00022d09712b"
GPT_ENT_TYPE_FREEBSD_VINUM = "516e7cb8-6ecf-11d6-8ff8-00022d09712b"
GPT_ENT_TYPE_FREEBSD_ZFS = "516e7cba-6ecf-11d6-8ff8-00022d09712b"
GPT_ENT_TYPE_APPLE_APFS = "7c3457ef-0000-11aa-aa11-00306543ecac"

_GUID = struct.Struct("<IHH")


def guid_text(raw: bytes) -> str:
    """A 16-byte on-disk GUID in its usual form, lower case."""
    low, mid, high = _GUID.unpack_from(raw)
    tail = raw[8:].hex()
    return f"{low:08x}-{mid:04x}-{high:04x}-{tail[:4]}-{tail[4:]}"
