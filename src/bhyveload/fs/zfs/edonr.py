"""Edon-R 512, with the second-round tweak: the salted checksum `edonr` of OpenZFS (edonr_zfs.c).

FreeBSD's loader refuses pools with this feature; bhyvedisk reads them.  Written from the Edon-R submission to SHA-3:
four rows of quasigroup operations over two halves of 8 words, chained over blocks of 128 bytes.
"""

from __future__ import annotations

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    Buffer = bytes | memoryview
    Half = tuple[int, ...]  # of eight words

_MASK = (1 << 64) - 1
_BLOCK = Struct("<16Q")
_BLOCK_BYTES = 128
_INITIAL: tuple[int, ...] = Struct(">16Q").unpack(bytes(range(0x80, 0x100)))
_A = 0xAAAAAAAAAAAAAAAA
_NOT_A = 0x5555555555555555


def _rotated(word: int, count: int) -> int:
    word &= _MASK
    return (word << count | word >> 64 - count) & _MASK


def _quasigroup(x: Half, y: Half) -> Half:
    """x * y: both halves through their Latin squares and rotations, then mixed by XOR and added."""
    x0, x1, x2, x3, x4, x5, x6, x7 = x
    a = x0 + x4
    b = x1 + x7
    c = x2 + x3
    d = x5 + x6
    ab = a + b
    cd = c + d
    s0 = (_A + ab + x2) & _MASK
    s1 = _rotated(ab + x3, 5)
    s2 = _rotated(ab + x6, 15)
    s3 = _rotated(cd + x7, 22)
    s4 = _rotated(cd + x1, 31)
    s5 = _rotated(a + c + x5, 40)
    s6 = _rotated(b + d + x0, 50)
    s7 = _rotated(cd + x4, 59)
    y0, y1, y2, y3, y4, y5, y6, y7 = y
    a = y0 + y1
    b = y2 + y5
    c = y3 + y4
    d = y6 + y7
    t0 = (_NOT_A + a + b + y7) & _MASK
    t1 = _rotated(a + c + y6, 10)
    t2 = _rotated(a + b + y3, 19)
    t3 = _rotated(c + d + y2, 29)
    t4 = _rotated(a + c + y5, 36)
    t5 = _rotated(b + d + y4, 44)
    t6 = _rotated(b + d + y1, 48)
    t7 = _rotated(c + d + y0, 55)
    return (
        (s0 ^ s4 ^ s1) + (t0 ^ t1 ^ t5) & _MASK,
        (s0 ^ s4 ^ s7) + (t2 ^ t6 ^ t7) & _MASK,
        (s1 ^ s7 ^ s6) + (t0 ^ t1 ^ t3) & _MASK,
        (s2 ^ s3 ^ s4) + (t0 ^ t3 ^ t4) & _MASK,
        (s0 ^ s1 ^ s7) + (t1 ^ t2 ^ t5) & _MASK,
        (s3 ^ s5 ^ s6) + (t3 ^ t4 ^ t6) & _MASK,
        (s2 ^ s5 ^ s6) + (t2 ^ t5 ^ t7) & _MASK,
        (s2 ^ s3 ^ s5) + (t4 ^ t6 ^ t7) & _MASK,
    )


def _compress(pipe: tuple[int, ...], block: tuple[int, ...]) -> tuple[int, ...]:
    low, high = block[:8], block[8:]
    p = _quasigroup(high[::-1], low)
    q = _quasigroup(p, high)
    p = _quasigroup(pipe[8:], p)
    q = _quasigroup(p, q)
    p = _quasigroup(p, pipe[:8])
    q = _quasigroup(q, p)
    p = _quasigroup(low[::-1], p)
    q = _quasigroup(p, q)
    return tuple(old ^ data ^ new for old, data, new in zip(pipe, (*high, *low), (*p, *q), strict=True))


def _absorb(pipe: tuple[int, ...], data: Buffer) -> tuple[int, ...]:
    for block in _BLOCK.iter_unpack(data):
        pipe = _compress(pipe, block)
    return pipe


def edonr_512(data: Buffer, pipe: tuple[int, ...] = _INITIAL, before: int = 0) -> bytes:
    """The 64-byte digest of ``data``, from a chaining value reached after ``before`` bytes (whole blocks)."""
    whole = len(data) // _BLOCK_BYTES * _BLOCK_BYTES
    rest = bytes(data[whole:]) + b"\x80"
    rest += bytes((-len(rest) - 8) % _BLOCK_BYTES) + ((before + len(data)) * 8).to_bytes(8, "little")
    pipe = _absorb(_absorb(pipe, data[:whole]), rest)
    return _BLOCK.pack(*pipe)[64:]


def salted_state(salt: bytes) -> tuple[int, ...]:
    """The chaining value after the salt block H(salt) || H(H(salt)): the same for every block of a pool."""
    first = edonr_512(salt)
    return _absorb(_INITIAL, first + edonr_512(first))


def edonr_salted(state: tuple[int, ...], data: Buffer) -> bytes:
    """The 32 bytes that are stored, from a ``salted_state``."""
    return edonr_512(data, state, _BLOCK_BYTES)[:32]
