"""BLAKE3 keyed hashing in pure Python: what verifies `blake3` blocks where the package `blake3` is not installed.

Written from the BLAKE3 paper.  Some 300 KB/s: enough for a pool's metadata and a kernel, not for a file server.
"""

from __future__ import annotations

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    Buffer = bytes | memoryview

_MASK = 0xFFFFFFFF
_WORDS = Struct("<16I")
_KEY = Struct("<8I")
_IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
_CHUNK_START, _CHUNK_END, _PARENT, _ROOT, _KEYED_HASH = 1, 2, 4, 8, 16
_CHUNK = 1024
_BLOCK = 64

_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
_LANES = (
    (0, 4, 8, 12),
    (1, 5, 9, 13),
    (2, 6, 10, 14),
    (3, 7, 11, 15),
    (0, 5, 10, 15),
    (1, 6, 11, 12),
    (2, 7, 8, 13),
    (3, 4, 9, 14),
)


def _schedule() -> tuple[tuple[int, int, int, int, int, int], ...]:
    """All 56 mixes of the seven rounds: the state's four words and the message's two."""
    order = list(range(16))
    result = []
    for _ in range(7):
        for number, lane in enumerate(_LANES):
            result.append((*lane, order[number * 2], order[number * 2 + 1]))
        order = [order[index] for index in _PERMUTATION]
    return tuple(result)


_SCHEDULE = _schedule()


def _compress(chain: tuple[int, ...], block: tuple[int, ...], counter: int, length: int, flags: int) -> tuple[int, ...]:
    v = [*chain, *_IV[:4], counter & _MASK, counter >> 32, length, flags]
    for a, b, c, d, x, y in _SCHEDULE:
        va = (v[a] + v[b] + block[x]) & _MASK
        vd = v[d] ^ va
        vd = (vd >> 16 | vd << 16) & _MASK
        vc = (v[c] + vd) & _MASK
        vb = v[b] ^ vc
        vb = (vb >> 12 | vb << 20) & _MASK
        v[a] = va = (va + vb + block[y]) & _MASK
        vd ^= va
        v[d] = vd = (vd >> 8 | vd << 24) & _MASK
        v[c] = vc = (vc + vd) & _MASK
        vb ^= vc
        v[b] = (vb >> 7 | vb << 25) & _MASK
    return tuple(v[index] ^ v[index + 8] for index in range(8))


def _chunk(key: tuple[int, ...], data: Buffer, counter: int, flags: int, root: int) -> tuple[int, ...]:
    chain = key
    flags |= _CHUNK_START
    last = max(0, (len(data) - 1) // _BLOCK * _BLOCK)
    for offset in range(0, last + 1, _BLOCK):
        piece = bytes(data[offset : offset + _BLOCK])
        if offset == last:
            flags |= _CHUNK_END | root
        chain = _compress(chain, _WORDS.unpack(piece.ljust(_BLOCK, b"\0")), counter, len(piece), flags)
        flags &= ~_CHUNK_START
    return chain


def _hash(key: tuple[int, ...], data: Buffer, flags: int) -> bytes:
    length = len(data)
    if length <= _CHUNK:
        return _KEY.pack(*_chunk(key, data, 0, flags, _ROOT))
    nodes = [
        _chunk(key, data[offset : offset + _CHUNK], offset // _CHUNK, flags, 0) for offset in range(0, length, _CHUNK)
    ]
    while len(nodes) > 1:
        root = _ROOT if len(nodes) == 2 else 0
        parents = [
            _compress(key, nodes[index] + nodes[index + 1], 0, _BLOCK, flags | _PARENT | root)
            for index in range(0, len(nodes) - 1, 2)
        ]
        nodes = parents + nodes[len(nodes) & ~1 :]
    return _KEY.pack(*nodes[0])


def blake3_keyed(key: bytes, data: Buffer) -> bytes:
    """The 32-byte keyed hash; ``key`` is 32 bytes."""
    return _hash(_KEY.unpack(key), data, _KEYED_HASH)


def blake3_plain(data: Buffer) -> bytes:
    """The 32-byte hash without a key."""
    return _hash(_IV, data, 0)
