"""Block pointers: where a block is, how long, how compressed and checked (blkptr_t in zfsimpl.h)."""

from __future__ import annotations

from struct import Struct

from . import zfs_format as zf

TYPE_CHECKING = False
if TYPE_CHECKING:
    Buffer = bytes | memoryview

_PLACE = (1 << 63) - 1
_DVAS = range(0, 2 * zf.SPA_DVAS_PER_BP, 2)
_EMPTY = Struct("<QQ32xQ")  # what tells a hole: the first copy's place, and the properties


class Dva:
    """One copy's place: top-level vdev, byte offset in its allocatable space, whether a gang header is there."""

    __slots__ = ("gang", "offset", "vdev")

    def __init__(self, vdev: int, offset: int, gang: bool) -> None:
        self.vdev = vdev
        self.offset = offset
        self.gang = gang


class BlockPointer:
    """The 16 words of a blkptr_t, taken apart.  ``lsize``/``psize`` in bytes; ``dvas`` without the empty ones."""

    __slots__ = (
        "big_endian",
        "checksum",
        "compress",
        "dvas",
        "embedded",
        "encrypted",
        "level",
        "lsize",
        "psize",
        "type",
        "words",
    )

    def __init__(self, words: tuple[int, ...]) -> None:
        self.words = words
        prop = words[6]
        self.compress = prop >> 32 & 0x7F
        self.embedded = bool(prop >> 39 & 1)
        self.checksum = prop >> 40 & 0xFF
        self.type = prop >> 48 & 0xFF
        self.level = prop >> 56 & 0x1F
        self.encrypted = bool(prop >> 61 & 1)
        self.big_endian = not prop >> 63
        self.dvas: tuple[Dva, ...] = ()
        if self.embedded:
            self.lsize = (prop & 0x1FFFFFF) + 1
            self.psize = (prop >> 25 & 0x7F) + 1
            return
        self.lsize = (prop & 0xFFFF) + 1 << zf.SPA_MINBLOCKSHIFT
        self.psize = (prop >> 16 & 0xFFFF) + 1 << zf.SPA_MINBLOCKSHIFT
        dvas = []
        for index in _DVAS:
            where, place = words[index], words[index + 1]
            if where or place:
                dvas.append(Dva(where >> 32, (place & _PLACE) << zf.SPA_MINBLOCKSHIFT, place >> 63 == 1))
        self.dvas = tuple(dvas)

    @property
    def is_hole(self) -> bool:
        """DVA 0 is empty (and the pointer does not hold the data itself)."""
        return not self.embedded and not self.words[0] and not self.words[1]

    @property
    def physical_birth(self) -> int:
        return self.words[9] or self.words[10]

    def payload(self) -> bytes:
        """The data an embedded block pointer holds: its words but for prop and birth, the first ``psize`` bytes."""
        words = self.words
        packed = zf.BLKPTR.pack(*words[:6], *words[7:10], *words[11:16], 0, 0)
        return packed[: min(self.psize, zf.BPE_PAYLOAD_SIZE)]

    def gang_header(self, size: int) -> BlockPointer:
        """The artificial pointer to this block's gang header of ``size`` bytes (zio_read_gang)."""
        words = list(self.words)
        count = (size >> zf.SPA_MINBLOCKSHIFT) - 1
        prop = words[6] & ~(0xFF << 40 | 0x7F << 32 | 0xFFFFFFFF)
        words[6] = prop | zf.ZIO_CHECKSUM_GANG_HEADER << 40 | zf.ZIO_COMPRESS_OFF << 32 | count << 16 | count
        for index in _DVAS:
            words[index + 1] &= _PLACE
        return BlockPointer(tuple(words))


def decode(data: Buffer, offset: int = 0) -> BlockPointer:
    """The block pointer stored at ``offset`` (128 bytes)."""
    return BlockPointer(zf.BLKPTR.unpack_from(data, offset))


def logical_size(stored: bytes) -> int:
    """Bytes of the block that a stored block pointer names, without taking it apart."""
    prop: int = zf.BLKPTR.unpack(stored)[6]
    return (prop & 0x1FFFFFF) + 1 if prop >> 39 & 1 else (prop & 0xFFFF) + 1 << zf.SPA_MINBLOCKSHIFT


def is_hole(data: Buffer, offset: int) -> bool:
    """Whether the block pointer stored there is a hole, without taking it apart."""
    first, second, properties = _EMPTY.unpack_from(data, offset)
    return not first and not second and not properties >> 39 & 1


class Salt:
    """A pool's checksum salt (MOS directory `org.illumos:checksum_salt`) and the hash states derived from it."""

    __slots__ = ("salt", "states")

    def __init__(self, salt: bytes = bytes(32)) -> None:
        self.salt = salt
        self.states: dict[int, tuple[int, ...]] = {}  # by checksum: what strong.py derived from the salt
