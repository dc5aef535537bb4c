"""Decompress a whole file into another one, leaving holes where there are zero bytes."""

from __future__ import annotations

import errno
import os

from bhyveload.errors import HostError, ImageError
from bhyveload.libc import pwrite_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from bhyveload.device import Buffer, Device
    from bhyveload.image.xz import XzImage

    Progress = Callable[[int, int], None]

    class _Stream(Protocol):
        @property
        def eof(self) -> bool: ...
        @property
        def needs_input(self) -> bool: ...
        @property
        def unused_data(self) -> bytes: ...

        def decompress(self, data: Buffer, max_length: int, /) -> bytes: ...


MAX_SIZE = 8 << 40  # bytes of a disk
_CHUNK = 1 << 20
_FIRST_STEP = 1 << 12  # what is read of a stream first: what belongs to the next one is handed back by copying it
_PIECE = 1 << 16  # the unit of holes
_ZEROS = bytes(_CHUNK)
_LZMA_MEMORY = 256 << 20
MAX_PADDING = 64 << 20  # zero bytes between and behind streams, in all
_SPARE_STREAMS = 1000  # so many streams more than ...
_STREAM_SIZE = 4096  # ... one for each of these that came out; bgzip's have 64 KiB


class _Gzip:
    """zlib's decompressor with the interface of the other two."""

    def __init__(self) -> None:
        import zlib

        self._object = zlib.decompressobj(31)
        self._held: Buffer = b""
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: Buffer, max_length: int, /) -> bytes:
        out = self._object.decompress(data or self._held, max_length)
        self._held = self._object.unconsumed_tail
        self.needs_input = not self._held and len(out) < max_length
        return out


def _xz() -> _Stream:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY)


def _zstd() -> _Stream:
    from bhyveload.image.zstd import ZstdDecompressor

    return ZstdDecompressor()


def _bzip2() -> _Stream:
    import bz2

    return bz2.BZ2Decompressor()


def _lzma() -> _Stream:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY)


_OPENERS: dict[str, Callable[[], _Stream]] = {
    "xz": _xz,
    "gz": _Gzip,
    "zst": _zstd,
    "bz2": _bzip2,
    "lzma": _lzma,
}


def prepare(compression: str) -> None:
    """Import what unpack() needs.  Raises ImageError when this Python lacks it."""
    try:
        _OPENERS[compression]()
    except ImportError as error:
        hint = "install backports.zstd" if compression == "zst" else "use another one, or unpack it"
        raise ImageError(f"this Python cannot decompress .{compression}: {error}", hint) from None


def unpack(
    source: Device,
    names: tuple[str, str],
    compression: str,
    fd: int,
    limit: int,
    room: int,
    progress: Progress,
) -> int:
    """Decompress ``source`` into the file ``fd``, a hole of ``limit`` bytes; the size of the disk in bytes.

    ``names``: of the file and of the folder that ``fd`` is in, for messages.  ``room``: bytes that may be written.
    ``progress(done, total)`` is called about once a MiB with bytes of ``source``.
    Raises ImageError (damaged, cut short), HostError (no room).
    """
    name = names[0]
    written = size = position = padding = streams = 0
    stream = _OPENERS[compression]()
    fresh, step = True, _FIRST_STEP
    while True:
        packed: Buffer = b""
        if stream.needs_input:
            packed = source.read(position, min(step, source.size - position))
            if not packed:
                break
            position += len(packed)
            step = min(2 * step, _CHUNK)
            progress(position, source.size)
        try:
            data = stream.decompress(packed, _CHUNK)
        except Exception as error:  # LZMAError, zlib.error, ZstdError
            raise _damaged(name, position, str(error)) from None
        fresh = False
        if size + len(data) > limit:
            raise _too_large(name, limit)
        written += _write(names, fd, data, size, room - written)
        size += len(data)
        if stream.eof:
            end = position - len(stream.unused_data)
            position = _skip_padding(source, end, MAX_PADDING - padding)
            padding += position - end
            if padding > MAX_PADDING:
                raise _damaged(name, end, f"more than {MAX_PADDING >> 20} MiB of zero bytes are no part of a stream")
            if position == source.size:
                return size
            streams += 1
            if streams > _SPARE_STREAMS + size // _STREAM_SIZE:
                raise _damaged(name, end, f"{streams} streams with next to nothing in them")
            stream = _OPENERS[compression]()
            fresh, step = True, _FIRST_STEP
    raise _damaged(name, source.size, "nothing is there" if fresh else "it ends in the middle: the file is cut short")


def unpack_blocks(
    image: XzImage,
    names: tuple[str, str],
    fd: int,
    limit: int,
    room: int,
    progress: Progress,
    share: tuple[int, int],
) -> int:
    """As unpack(), but only every so many-th block: ``share`` is (the first one, of how many).  The whole disk's size.

    The processes that have the other shares work at the same time; each may take its part of ``room``.
    """
    first, step = share
    if image.size > limit:
        raise _too_large(names[0], limit)
    written = 0
    for number in range(first, image.blocks, step):
        offset, data = image.block(number)
        written += _write(names, fd, data, offset, room // step - written)
        progress(number + 1, image.blocks)
    return image.size


def flatten(disk: Device, names: tuple[str, str], fd: int, limit: int, room: int, progress: Progress) -> int:
    """As unpack(): write the content of ``disk`` into ``fd``."""
    if disk.size > limit:
        raise _too_large(names[0], limit)
    written = 0
    for offset in range(0, disk.size, _CHUNK):
        data = disk.read(offset, min(_CHUNK, disk.size - offset))
        written += _write(names, fd, bytes(data), offset, room - written)
        progress(offset + len(data), disk.size)
    return disk.size


def _too_large(name: str, limit: int) -> ImageError:
    return ImageError(f"{name}: more than {limit} bytes come out of it, which is too much for the file system")


def _skip_padding(source: Device, position: int, most: int) -> int:
    """Where the zero bytes behind a stream end; a place more than ``most`` bytes away when they are more."""
    end = min(source.size, position + most + 1)
    step = 16  # mostly there are none
    while position < end:
        piece = bytes(source.read(position, min(step, end - position)))
        rest = len(piece.lstrip(b"\0"))
        position += len(piece) - rest
        if rest:
            break
        step = _CHUNK
    return position


def _damaged(name: str, position: int, why: str) -> ImageError:
    return ImageError(f"{name}: near byte {position:#x}: {why}", "download or copy the file again")


def _write(names: tuple[str, str], fd: int, data: bytes, offset: int, room: int) -> int:
    """Write what is not zero; how many bytes these were."""
    if data == _ZEROS[: len(data)]:
        return 0
    written = 0
    try:
        for at in range(0, len(data), _PIECE):
            piece = data[at : at + _PIECE]
            if piece == _ZEROS[: len(piece)]:
                continue
            written += len(piece)
            if written > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            pwrite_all(fd, piece, offset + at)
    except OSError as error:
        raise HostError(
            f"{names[0]}: cannot be unpacked in {names[1]}: {error.strerror}",
            "make room there, or let XDG_CACHE_HOME name another place",
        ) from None
    return written
