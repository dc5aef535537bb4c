"""Decompression of blocks: every algorithm of OpenZFS (enum zio_compress).

Input may be followed by padding; output is never longer than the block's logical size, whatever the input says.
``prepare`` imports the decoder of lz4; that of zstd is loaded when a block asks for it.
"""

from __future__ import annotations

import zlib

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EIO
from bhyveload.need import OnDemand, put_off

from . import zfs_format as zf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.compat import LoaderVersion
    from bhyveload.fs.zfs import zstd_blocks

    Buffer = bytes | memoryview
else:
    zstd_blocks = OnDemand("bhyveload.fs.zfs.zstd_blocks")

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_NAMES = ("inherit", "on", "uncompressed", "lzjb", "empty", *(f"gzip-{n}" for n in range(1, 10)), "zle", "lz4", "zstd")
_ZLE_MAX = 64

_lz4_block: Callable[..., bytes] | None = None
_Lz4Error: type[Exception] = ValueError
_prepared = False


def compression_name(number: int) -> str:
    return _NAMES[number] if number < len(_NAMES) else str(number)


def prepare() -> None:
    """Import the decoder of nearly every pool."""
    global _lz4_block, _Lz4Error, _prepared
    if _prepared:
        return
    _prepared = True
    try:
        for package in ("lz4", "lz4.block"):
            put_off(package)
        from lz4.block._block import LZ4BlockError, decompress

        _lz4_block, _Lz4Error = decompress, LZ4BlockError
    except ImportError:
        _lz4_block = None


def supported_by_loader(compress: int, strict: LoaderVersion | None) -> bool:
    """Whether that version's loader has the algorithm (zio_compress_table); all of them without a version."""
    if strict is None:
        return True
    if zf.ZIO_COMPRESS_GZIP_1 <= compress <= zf.ZIO_COMPRESS_GZIP_9:
        return strict != "13.2"
    return compress in (zf.ZIO_COMPRESS_LZJB, zf.ZIO_COMPRESS_ZLE, zf.ZIO_COMPRESS_LZ4, zf.ZIO_COMPRESS_ZSTD)


def _failed(compress: int, reason: str) -> FileSystemError:
    return FileSystemError(EIO, f"ZFS: a {compression_name(compress)} block cannot be decompressed: {reason}")


def decompress(compress: int, data: Buffer, size: int) -> Buffer:
    """``size`` bytes out of the stored ones.  Raises FileSystemError (EIO): unknown algorithm, damaged data, a decoder
    that is not installed."""
    if compress == zf.ZIO_COMPRESS_LZ4:
        result: Buffer = _lz4(data, size)
    elif compress == zf.ZIO_COMPRESS_ZSTD:
        result = _zstd_magicless(data, size)
    elif zf.ZIO_COMPRESS_GZIP_1 <= compress <= zf.ZIO_COMPRESS_GZIP_9:
        result = _gzip(compress, data, size)
    elif compress == zf.ZIO_COMPRESS_LZJB:
        result = lzjb(data, size)
    elif compress == zf.ZIO_COMPRESS_ZLE:
        result = zle(data, size)
    elif compress == zf.ZIO_COMPRESS_EMPTY:
        result = bytes(size)
    elif compress == zf.ZIO_COMPRESS_OFF:
        result = data[:size]
    else:
        raise FileSystemError(EIO, f"ZFS: unsupported compression algorithm {compression_name(compress)}")
    if len(result) != size:
        if len(result) > size or compress == zf.ZIO_COMPRESS_OFF:
            raise _failed(compress, f"{len(result)} bytes instead of {size}")
        # A shorter frame is legal (lz4, zstd and gzip say where they end); the rest of the block is undefined.
        result = bytes(result) + bytes(size - len(result))
    return result


def _lz4(data: Buffer, size: int) -> bytes:
    if _lz4_block is None:
        prepare()
    if _lz4_block is None:
        raise FileSystemError(EIO, "ZFS: this pool is compressed with lz4", "install the Python package lz4")
    length = int.from_bytes(data[:4], "big")
    if length + 4 > len(data):
        raise _failed(zf.ZIO_COMPRESS_LZ4, f"{length} bytes do not fit in the block")
    try:
        return _lz4_block(data[4 : 4 + length], uncompressed_size=size)
    except (_Lz4Error, ValueError, MemoryError, OverflowError) as error:
        raise _failed(zf.ZIO_COMPRESS_LZ4, str(error)) from error


def _zstd_magicless(data: Buffer, size: int) -> bytes:
    length = int.from_bytes(data[:4], "big")
    if length + 8 > len(data):
        raise _failed(zf.ZIO_COMPRESS_ZSTD, f"{length} bytes do not fit in the block")
    try:
        return zstd_blocks.decompress(_ZSTD_MAGIC + bytes(data[8 : 8 + length]), size)
    except ValueError as error:
        raise _failed(zf.ZIO_COMPRESS_ZSTD, str(error)) from error


def _gzip(compress: int, data: Buffer, size: int) -> bytes:
    decoder = zlib.decompressobj(47)
    try:
        result = decoder.decompress(data, size)
        if not decoder.eof:
            result += decoder.decompress(decoder.unconsumed_tail, 1)
    except (zlib.error, MemoryError) as error:
        raise _failed(compress, str(error)) from error
    if not decoder.eof:
        raise _failed(compress, "its stream does not end")
    return result


def lzjb(data: Buffer, size: int) -> bytes:
    """A control byte, bits from the lowest: 0 a literal byte, 1 two bytes: length 3-66 and distance back."""
    source = bytes(data)
    end = len(source)
    out = bytearray()
    position = 0
    try:
        while len(out) < size:
            control = source[position]
            position += 1
            if not control:  # eight literals at once
                out += source[position : position + 8]
                position += 8
                if position > end:
                    break
                continue
            for bit in range(8):
                if control >> bit & 1:
                    first = source[position]
                    distance = (first << 8 | source[position + 1]) & 0x3FF
                    length = (first >> 2) + 3
                    position += 2
                    start = len(out) - distance
                    if start < 0 or not distance:
                        raise _failed(zf.ZIO_COMPRESS_LZJB, "a copy from before its start")
                    if distance >= length:
                        out += out[start : start + length]
                    else:
                        out += (out[start:] * (length // distance + 1))[:length]
                else:
                    out.append(source[position])
                    position += 1
                if len(out) >= size:
                    break
    except IndexError as error:
        raise _failed(zf.ZIO_COMPRESS_LZJB, "it ends too early") from error
    if len(out) < size:
        raise _failed(zf.ZIO_COMPRESS_LZJB, "it ends too early")
    return bytes(out[:size])


def zle(data: Buffer, size: int) -> bytes:
    """Runs: up to 64 literal bytes, or zero bytes."""
    source = bytes(data)
    end = len(source)
    parts = []
    made = position = 0
    while made < size and position < end:
        length = source[position] + 1
        position += 1
        if length <= _ZLE_MAX:
            piece = source[position : position + length]
            if len(piece) < length:
                break
            position += length
        else:
            length -= _ZLE_MAX
            piece = bytes(length)
        parts.append(piece)
        made += length
    if made != size:
        raise _failed(zf.ZIO_COMPRESS_ZLE, f"{made} bytes instead of {size}")
    return b"".join(parts)
