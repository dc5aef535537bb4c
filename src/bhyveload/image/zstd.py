"""zstd, wherever this Python has it: in the standard library from 3.14 on, from backports.zstd before.

A module of its own because the import is slow: who needs it imports it, before the process confines itself.  Of
backports.zstd it takes the extension module alone: what the package does around it, with enum and functools, is 3 of
3.6 ms.
"""

from __future__ import annotations

import sys

from bhyveload.need import put_off

TYPE_CHECKING = False
if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

    WINDOW_LOG_MAX: int = DecompressionParameter.window_log_max
elif not TYPE_CHECKING:
    __import__("backports")  # the folder of it
    put_off("backports.zstd")
    try:
        from backports.zstd._zstd import ZSTD_d_windowLogMax as WINDOW_LOG_MAX
        from backports.zstd._zstd import ZstdDecompressor, ZstdError
    except ImportError:  # another version of it
        from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

        WINDOW_LOG_MAX = DecompressionParameter.window_log_max
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

    WINDOW_LOG_MAX: int = DecompressionParameter.window_log_max

__all__ = ["WINDOW_LOG_MAX", "ZstdDecompressor", "ZstdError", "small_decompressor"]

_SMALL_WINDOW_LOG = 23  # 8 MiB: more than any cluster needs, and all the memory that a damaged frame can ask for


def small_decompressor() -> ZstdDecompressor:
    """A decompressor for the small frames inside an image."""
    return ZstdDecompressor(options={WINDOW_LOG_MAX: _SMALL_WINDOW_LOG})
