"""zstd, wherever this Python has it: in the standard library from 3.14 on, from backports.zstd before.

A module of its own because the import is slow: who needs it imports it, before the process confines itself.
"""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

__all__ = ["ZstdDecompressor", "ZstdError"]
