"""Skein-512 with 256-bit output as a MAC: the salted checksum `skein` (sys/cddl/boot/zfs/skein_zfs.c).

Written from "The Skein Hash Function Family" 1.3: Threefish-512, UBI chaining, sequential.
"""

from __future__ import annotations

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    Buffer = bytes | memoryview

_MASK = (1 << 64) - 1
_C240 = 0x1BD11BDAA9FC1A22
_BLOCK = Struct("<8Q")
_BLOCK_BYTES = 64

_T1_FIRST = 1 << 62
_T1_FINAL = 1 << 63
_TYPE_KEY = 0 << 56
_TYPE_CONFIG = 4 << 56
_TYPE_MESSAGE = 48 << 56
_TYPE_OUTPUT = 63 << 56

_SCHEMA = b"SHA3\1\0\0\0"

_ROTATIONS = (
    (46, 36, 19, 37),
    (33, 27, 14, 42),
    (17, 49, 36, 39),
    (44, 9, 54, 56),
    (39, 30, 34, 24),
    (13, 50, 10, 17),
    (25, 29, 39, 43),
    (8, 35, 56, 22),
)
_PAIRS = (
    ((0, 1), (2, 3), (4, 5), (6, 7)),
    ((2, 1), (4, 7), (6, 5), (0, 3)),
    ((4, 1), (6, 3), (0, 5), (2, 7)),
    ((6, 1), (0, 7), (2, 5), (4, 3)),
)


def _mixes(rounds: range) -> tuple[tuple[int, int, int, int], ...]:
    """(a, b, rotation, 64 - rotation) of four rounds: the permutation between rounds is folded into the indexes."""
    return tuple(
        (a, b, rotation, 64 - rotation)
        for number in rounds
        for (a, b), rotation in zip(_PAIRS[number % 4], _ROTATIONS[number], strict=True)
    )


_EVEN = _mixes(range(4))
_ODD = _mixes(range(4, 8))


def _ubi(chain: list[int], data: Buffer, kind: int) -> list[int]:
    """Chain over ``data`` in blocks of 64 bytes, the last one padded with zeros."""
    length = len(data)
    padded = bytes(data) + bytes(-length % _BLOCK_BYTES) if length % _BLOCK_BYTES or not length else data
    done = 0
    flags = kind | _T1_FIRST
    for block in _BLOCK.iter_unpack(padded):
        done += _BLOCK_BYTES
        if done >= length:
            done = length
            flags |= _T1_FINAL
        chain = _compress(chain, block, done, flags)
        flags = kind
    return chain


def _compress(chain: list[int], block: tuple[int, ...], t0: int, t1: int) -> list[int]:
    parity = _C240
    for word in chain:
        parity ^= word
    key = [*chain, parity] * 3
    tweak = (t0, t1, t0 ^ t1) * 7
    x = [(word + subkey) & _MASK for word, subkey in zip(block, chain, strict=True)]
    x[5] = (x[5] + t0) & _MASK
    x[6] = (x[6] + t1) & _MASK
    for step in range(1, 19):
        for a, b, left, right in _ODD if step % 2 == 0 else _EVEN:
            word = x[b]
            x[a] = total = (x[a] + word) & _MASK
            x[b] = ((word << left | word >> right) & _MASK) ^ total
        start = step % 9
        x = [(word + subkey) & _MASK for word, subkey in zip(x, key[start : start + 8], strict=True)]
        x[5] = (x[5] + tweak[step]) & _MASK
        x[6] = (x[6] + tweak[step + 1]) & _MASK
        x[7] = (x[7] + step) & _MASK
    return [word ^ plain for word, plain in zip(x, block, strict=True)]


def keyed_state(key: bytes, output_bits: int = 256) -> tuple[int, ...]:
    """The chaining value after key and configuration: the same for every block of a pool.  An empty key: plain hash."""
    chain = _ubi([0] * 8, key, _TYPE_KEY) if key else [0] * 8
    return tuple(_ubi(chain, _SCHEMA + output_bits.to_bytes(8, "little") + bytes(16), _TYPE_CONFIG))


def skein_512(state: tuple[int, ...], data: Buffer, output_bytes: int = 32) -> bytes:
    """The digest (up to 64 bytes) of ``data`` from a ``keyed_state``."""
    chain = _ubi(list(state), data, _TYPE_MESSAGE)
    return _BLOCK.pack(*_ubi(chain, bytes(8), _TYPE_OUTPUT))[:output_bytes]
