"""What the image formats share: a mapped file whose every range is checked, and answers put together from pieces."""

from __future__ import annotations

from bhyveload.errors import FileSystemError, ImageError
from bhyveload.freebsd_errno import EIO, EROFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Protocol

    from bhyveload.device import Buffer, Device

    # A stretch of the disk: (where in the file, bytes, None), (ZERO, bytes, None) or (PIECE, bytes, the bytes)
    Run = tuple[int, int, Buffer | None]

    class Decompressor(Protocol):
        """zlib.decompressobj(), ZstdDecompressor(): the second argument bounds what comes out."""

        def decompress(self, data: Buffer, max_length: int, /) -> bytes: ...


SECTOR_SIZE = 512
MAX_READ = 2 << 30  # bytes of one read: what has to be put together is put together in memory
ZERO = -1
PIECE = -2


class ReadOnlyImage:
    """What the readers of image formats have in common: a Device (device.py) put together from ``sources``, which it
    owns, that takes no writes."""

    format = ""
    read_only = True
    sector_size = SECTOR_SIZE  # bhyveload(8) never says anything else
    size: int

    def __init__(self, name: str, *sources: Device) -> None:
        self.name = name
        self.sources: list[Device] = list(sources)

    @property
    def kind(self) -> str:
        """In words, for messages."""
        return self.format

    def write(self, offset: int, data: Buffer) -> None:
        raise refuse_write(self.name, self.kind)

    def descriptors(self) -> list[int]:
        return [fd for source in self.sources for fd in source.descriptors()]

    def describe(self) -> dict[str, Any]:
        """What can be said without the user's choices (image.disk.ImageDisk has these)."""
        return {
            "path": self.name,
            "format": self.format,
            "size": self.size,
            "read_only": True,
            "sector_size": self.sector_size,
        }

    def close(self) -> None:
        """Close the sources.  Views already handed out stay valid."""
        for source in self.sources:
            source.close()


class Container:
    """An image file (image.raw.RawImage, or whatever holds it) as structures and data lie in it.

    ``advice``: what to do about a damaged one.
    ``slack``: so many bytes less one may lack at the end of the file: programs do not fill the last cluster.
    """

    __slots__ = ("advice", "name", "size", "slack", "source")

    def __init__(
        self, source: Device, name: str, advice: str = "qemu-img check tells more about a damaged image"
    ) -> None:
        self.advice = advice
        self.slack = 1
        self.source = source
        self.name = name
        self.size = source.size

    def structure(self, offset: int, length: int, what: str) -> Buffer:
        """``length`` bytes at ``offset``, all of which must be there.  Raises ImageError, naming ``what``."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise self.damaged(offset, f"{what} ({length} bytes) is outside the file of {self.size} bytes")
        return self.source.read(offset, length)

    def data(self, offset: int, length: int) -> list[Buffer | int]:
        """Guest data at ``offset``; where the file ends in its last cluster, zero bytes follow.  Raises ImageError."""
        there = min(length, self.size - offset)
        if offset < 0 or there <= 0 or length - there >= self.slack:
            raise self.damaged(offset, f"guest data is outside the file of {self.size} bytes: the file is cut short")
        pieces: list[Buffer | int] = [self.source.read(offset, there)]
        if there < length:
            pieces.append(length - there)
        return pieces

    def damaged(self, offset: int, why: str) -> ImageError:
        return ImageError(f"{self.name}: at byte {offset:#x}: {why}", self.advice)

    def refused(self, why: str, hint: str = "") -> ImageError:
        return ImageError(f"{self.name}: {why}", hint)

    def unpacked(self, decompressor: Decompressor, packed: Buffer, length: int, offset: int) -> bytes:
        """At most ``length`` bytes out of ``packed``, which lies at ``offset``.  Raises ImageError."""
        try:
            return decompressor.decompress(packed, length)
        except Exception as error:  # zlib.error, ZstdError, EOFError: each library has its own
            raise self.damaged(offset, f"compressed data: {error}") from None

    def gathered(self, runs: Iterable[Run], length: int) -> Buffer:
        """The ``length`` bytes that ``runs`` make up.  What lies one behind the other in the file is one piece of it.

        Raises ImageError when a run is not in the file.
        """
        pieces: list[Buffer | int] = []
        start = size = 0  # of the data not yet fetched
        for where, count, piece in runs:
            if size and where == start + size:
                size += count
                continue
            if size:
                pieces += self.data(start, size)
                size = 0
            if piece is not None:
                pieces.append(piece)
            elif where == ZERO:
                pieces.append(count)
            else:
                start, size = where, count
        if size:
            pieces += self.data(start, size)
        return joined(pieces, length)


class Cache:
    """The decompressed clusters used last, up to a number of bytes."""

    __slots__ = ("_entries", "_limit", "_size")

    def __init__(self, limit: int = 16 << 20) -> None:
        self._entries: dict[int, bytes] = {}
        self._limit = limit
        self._size = 0

    def get(self, key: int, make: Callable[[int], bytes]) -> bytes:
        data = self._entries.pop(key, None)
        if data is None:
            data = make(key)
            self._size += len(data)
            while self._entries and self._size > self._limit:
                self._size -= len(self._entries.pop(next(iter(self._entries))))
        self._entries[key] = data
        return data


def check_range(name: str, size: int, offset: int, length: int) -> None:
    """The contract of Device.  Raises FileSystemError(EIO)."""
    if offset < 0 or length < 0 or offset + length > size:
        raise FileSystemError(EIO, f"{name}: {length} bytes at {offset} lie outside the {size}-byte disk")
    if length > MAX_READ:
        raise FileSystemError(EIO, f"{name}: a read of {length} bytes at once")


def refuse_write(name: str, form: str) -> FileSystemError:
    article = "an" if form in ("xz", "lzma") else "a"
    return FileSystemError(
        EROFS,
        f"{name}: {article} {form} image is only read",
        "convert it to a raw image if the loader is to write to it",
    )


def joined(pieces: Sequence[Buffer | int], length: int) -> Buffer:
    """The pieces one behind the other; an int stands for that many zero bytes.  A single piece is not copied."""
    if not pieces:
        return b""
    if len(pieces) == 1:
        (piece,) = pieces
        return bytes(piece) if isinstance(piece, int) else piece
    whole = bytearray(length)
    position = 0
    for piece in pieces:
        if isinstance(piece, int):
            position += piece
        else:
            whole[position : position + len(piece)] = piece
            position += len(piece)
    return memoryview(whole)
