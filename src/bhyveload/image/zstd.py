"""zstd, wherever this Python has it: in the standard library from 3.14 on, from backports.zstd before.

A module of its own because the import is slow: who needs it imports it, before the process confines itself.
"""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

__all__ = ["DecompressionParameter", "ZstdDecompressor", "ZstdError", "small_decompressor"]

_SMALL_WINDOW_LOG = 23  # 8 MiB: more than any cluster needs, and all the memory that a damaged frame can ask for


def small_decompressor() -> ZstdDecompressor:
    """A decompressor for the small frames inside an image."""
    return ZstdDecompressor(options={DecompressionParameter.window_log_max: _SMALL_WINDOW_LOG})
