"""The zstd decoder, where this Python has one (image/zstd.py): loaded when a block asks for it."""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EIO

try:
    from bhyveload.image import zstd

    _there = True
except ImportError:
    _there = False

_WINDOW_LOG = 25  # a record has 2^24 bytes at most


def decompress(frame: bytes, size: int) -> bytes:
    """At most ``size`` + 1 bytes out of one frame.

    Raises ValueError: damaged; FileSystemError (EIO): there is no decoder."""
    if not _there:
        raise FileSystemError(
            EIO, "ZFS: this pool is compressed with zstd", "install the Python package backports.zstd"
        )
    try:
        decoder = zstd.ZstdDecompressor(options={zstd.WINDOW_LOG_MAX: _WINDOW_LOG})
        result = decoder.decompress(frame, max_length=size)
        if not decoder.eof:
            result += decoder.decompress(b"", max_length=1)
    except (zstd.ZstdError, MemoryError, EOFError) as error:
        raise ValueError(str(error)) from error
    if not decoder.eof and len(result) <= size:
        raise ValueError("the frame is cut off")
    return result
