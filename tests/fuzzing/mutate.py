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
    draw = generator.random  # an index by multiplication: randrange and choice would take most of the time
    while True:
        yield mutate(bytearray(known[int(draw() * len(known))]), known, generator)[:limit]


def mutate(data: bytearray, known: Sequence[bytes], generator: random.Random) -> bytes:
    draw = generator.random
    for _ in range(_COUNTS[int(draw() * len(_COUNTS))]):
        at = int(draw() * (len(data) + 1))
        kind = int(draw() * 7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << int(draw() * 8)
        elif kind == 1 and at < len(data):
            data[at] = int(draw() * 256)
        elif kind == 2:
            piece = _INTERESTING[int(draw() * len(_INTERESTING))]
            data[at : at + len(piece)] = piece
        elif kind == 3:
            del data[at : at + 1 + int(draw() * 32)]
        elif kind == 4:
            data[at:at] = generator.randbytes(1 + int(draw() * 16))
        elif kind == 5:
            other = known[int(draw() * len(known))]
            start = int(draw() * (len(other) + 1))
            data[at : at + int(draw() * 64)] = other[start : start + 1 + int(draw() * 64)]
        elif data:
            start = int(draw() * len(data))
            data[at:at] = data[start : start + 1 + int(draw() * 64)]
    return bytes(data)


_COUNTS = (1, 1, 2, 4, 8, 16)
