"""A small engine of mutations for runs without atheris: deterministic, blind to coverage."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

_INTERESTING = [
    value.to_bytes(size, order, signed=False)
    for size in (1, 2, 4, 8)
    for value in (0, 1, 0x7F, 0x80, (1 << 8 * size - 1) - 1, 1 << 8 * size - 1, (1 << 8 * size) - 1)
    for order in ("little", "big")
    if value < 1 << 8 * size
]


def inputs(seeds: Sequence[bytes], generator: random.Random, limit: int) -> Iterator[bytes]:
    """The seeds themselves, then mutations of them without end."""
    yield from (seed[:limit] for seed in seeds)
    known = [*seeds, b""]
    while True:
        yield mutate(bytearray(generator.choice(known)), known, generator)[:limit]


def mutate(data: bytearray, known: Sequence[bytes], generator: random.Random) -> bytes:
    for _ in range(generator.choice((1, 1, 2, 4, 8, 16))):
        at = generator.randrange(len(data) + 1)
        kind = generator.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << generator.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = generator.randrange(256)
        elif kind == 2:
            piece = generator.choice(_INTERESTING)
            data[at : at + len(piece)] = piece
        elif kind == 3:
            del data[at : at + generator.randrange(1, 33)]
        elif kind == 4:
            data[at:at] = generator.randbytes(generator.randrange(1, 17))
        elif kind == 5:
            other = generator.choice(known)
            start = generator.randrange(len(other) + 1)
            data[at : at + generator.randrange(64)] = other[start : start + generator.randrange(1, 65)]
        elif data:
            start = generator.randrange(len(data))
            data[at:at] = data[start : start + generator.randrange(1, 65)]
    return bytes(data)
