"""Every checksum a block pointer can name, and their verification (sys/cddl/boot/zfs/zfssubr.c).

A checksum is four 64-bit words.  Most blocks need no more than Fletcher, and labels SHA-256 of 127 KiB: Python's own,
because OpenSSL's, four times as fast, costs 3 ms at start.  The hashes of blocks are in strong.py, which is loaded when
one asks for it.
"""

from __future__ import annotations

from struct import Struct

from bhyveload.need import OnDemand

from . import fletcher
from . import zfs_format as zf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bhyveload.fs.zfs import strong

    from .blkptr import BlockPointer, Salt

    Buffer = bytes | memoryview
    Words = tuple[int, int, int, int]
else:
    strong = OnDemand("bhyveload.fs.zfs.strong")

_WORDS = Struct("<4Q")
_SWAPPED = Struct(">4Q")
_CHECKSUM_NAMES = (
    *("inherit", "on", "off", "label", "gang_header", "zilog", "fletcher2", "fletcher4", "sha256", "zilog2"),
    *("noparity", "sha512", "skein", "edonr", "blake3"),
)

_STRONG = frozenset(
    (
        zf.ZIO_CHECKSUM_SHA256,
        zf.ZIO_CHECKSUM_SHA512,
        zf.ZIO_CHECKSUM_SKEIN,
        zf.ZIO_CHECKSUM_EDONR,
        zf.ZIO_CHECKSUM_BLAKE3,
    )
)

_sha256: Callable[..., Any] | None = None


def checksum_name(number: int) -> str:
    return _CHECKSUM_NAMES[number] if number < len(_CHECKSUM_NAMES) else str(number)


def prepare() -> None:
    """Import and map what every pool needs.  Call before confinement: a later import fails there."""
    global _sha256
    fletcher.prepare()
    try:
        from _sha2 import sha256  # type: ignore[import-not-found]  # Python 3.12
    except ImportError:
        try:
            from _sha256 import sha256  # type: ignore[import-not-found]  # before it
        except ImportError:  # a Python built without hashes of its own
            from hashlib import sha256
    _sha256 = sha256


def sha256(data: Buffer) -> bytes:
    if _sha256 is None:
        prepare()
    assert _sha256 is not None
    digest: bytes = _sha256(data).digest()
    return digest


def compute(checksum: int, data: Buffer, salt: Salt, swapped: bool) -> Words | None:
    """The four words of a plain (not embedded) checksum over ``data``; None for a number that is none of them.

    ``swapped``: the block was written by a machine of the other byte order."""
    if checksum == zf.ZIO_CHECKSUM_FLETCHER_4:
        return fletcher.fletcher_4_byteswap(data) if swapped else fletcher.fletcher_4_native(data)
    if checksum == zf.ZIO_CHECKSUM_FLETCHER_2:
        return fletcher.fletcher_2_byteswap(data) if swapped else fletcher.fletcher_2_native(data)
    if checksum in (zf.ZIO_CHECKSUM_OFF, zf.ZIO_CHECKSUM_NOPARITY):
        return 0, 0, 0, 0
    if checksum == zf.ZIO_CHECKSUM_SHA256:
        return _SWAPPED.unpack(strong.sha256(data))
    if checksum not in _STRONG:
        return None
    return (_SWAPPED if swapped else _WORDS).unpack(strong.digest(checksum, salt, data))


def verify(bp: BlockPointer, data: Buffer, salt: Salt) -> bool:
    """Whether ``data`` (PSIZE bytes) is what the block pointer says (zio_checksum_verify)."""
    if bp.checksum == zf.ZIO_CHECKSUM_FLETCHER_4 and not bp.big_endian:  # nearly every block
        return fletcher.fletcher_4_native(data) == bp.words[12:16]
    if bp.checksum == zf.ZIO_CHECKSUM_GANG_HEADER:
        dva = bp.dvas[0]
        return verify_embedded(data, (dva.vdev, dva.offset, bp.physical_birth, 0))
    return compute(bp.checksum, data, salt, bp.big_endian) == bp.words[12:16]


def verify_embedded(data: Buffer, verifier: Words) -> bool:
    """Whether the checksum in a region's last 40 bytes is right (labels, uberblocks, gang headers): SHA-256 over the
    region with the stored checksum replaced by ``verifier``."""
    tail = len(data) - zf.ZIO_ECK_SIZE
    magic, *stored = zf.ZIO_ECK.unpack_from(data, tail)
    if magic == zf.ZEC_MAGIC:
        words = _WORDS.pack(*verifier)
        expected = _SWAPPED.pack(*stored)
    elif magic == int.from_bytes(zf.ZEC_MAGIC.to_bytes(8, "little"), "big"):
        words = _SWAPPED.pack(*verifier)
        expected = _WORDS.pack(*stored)
    else:
        return False
    return sha256(bytes(data[: tail + 8]) + words) == expected


def seal_embedded(region: bytes, verifier: Words) -> bytes:
    """``region`` with magic number and checksum put in its last 40 bytes (vdev_label_write)."""
    body = region[: -zf.ZIO_ECK_SIZE] + zf.ZEC_MAGIC.to_bytes(8, "little")
    return body + _WORDS.pack(*_SWAPPED.unpack(sha256(body + _WORDS.pack(*verifier))))
