"""The zstd decoder, where this Python has one (image/zstd.py): loaded when a block asks for it."""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EIO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_WINDOW_LOG = 25  # a record has 2^24 bytes at most
_decoder: Callable[[], Any] | None
try:
    from bhyveload.image.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

    _decoder = lambda: ZstdDecompressor(options={DecompressionParameter.window_log_max: _WINDOW_LOG})  # noqa: E731
except ImportError:
    _decoder = None
    ZstdError = ValueError  # type: ignore[misc,assignment]


def decompress(frame: bytes, size: int) -> bytes:
    """At most ``size`` + 1 bytes out of one frame.

    Raises ValueError: damaged; FileSystemError (EIO): there is no decoder."""
    if _decoder is None:
        raise FileSystemError(
            EIO, "ZFS: this pool is compressed with zstd", "install the Python package backports.zstd"
        )
    try:
        decoder = _decoder()
        result: bytes = decoder.decompress(frame, max_length=size)
        if not decoder.eof:
            result += decoder.decompress(b"", max_length=1)
    except (ZstdError, MemoryError, EOFError) as error:
        raise ValueError(str(error)) from error
    if not decoder.eof and len(result) <= size:
        raise ValueError("the frame is cut off")
    return result
