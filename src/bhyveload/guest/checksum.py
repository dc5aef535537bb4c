"""The checksum of cksum(1): POSIX's CRC of a file's bytes and of its length."""

from __future__ import annotations

import zlib

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def cksum(data: bytes) -> int:
    """POSIX's CRC runs from the highest bit, zlib's from the lowest: the same with all bits turned round."""
    length = len(data)
    tail = length.to_bytes(-(-length.bit_length() // 8), "little")
    value = zlib.crc32((data + tail).translate(_REVERSED), 0xFFFFFFFF)
    return int(f"{value:032b}"[::-1], 2)
