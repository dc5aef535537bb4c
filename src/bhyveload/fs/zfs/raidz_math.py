"""Arithmetic over GF(2^8), polynomial 0x11D, on whole columns at once (vdev_raidz_pow2 and _log2).

A column is a bytes-like of up to some MiB.  XOR goes through Python's big integers, a multiplication by a constant
through bytes.translate: no loop over bytes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    Buffer = bytes | memoryview


def _powers() -> tuple[list[int], list[int]]:
    exp, log = [0] * 510, [0] * 256
    value = 1
    for power in range(255):
        exp[power] = exp[power + 255] = value
        log[value] = power
        value = value << 1 ^ (0x11D if value & 0x80 else 0)
    return exp, log


_EXP, _LOG = _powers()
_tables: dict[int, bytes] = {}


def multiply(a: int, b: int) -> int:
    return _EXP[_LOG[a] + _LOG[b]] if a and b else 0


def inverse(a: int) -> int:
    return _EXP[255 - _LOG[a]]


def power(base: int, exponent: int) -> int:
    return _EXP[_LOG[base] * exponent % 255]


def scaled(factor: int, column: Buffer) -> Buffer:
    """``factor`` times every byte."""
    if factor == 1:
        return column
    table = _tables.get(factor)
    if table is None:
        table = _tables[factor] = bytes(multiply(factor, value) for value in range(256))
    return bytes(column).translate(table)


def xor(columns: list[Buffer], length: int) -> bytes:
    """The sum of columns; shorter ones count as continued with zeros."""
    total = 0
    for column in columns:
        total ^= int.from_bytes(column, "little")
    return total.to_bytes(length, "little")


def solve(matrix: list[list[int]]) -> list[list[int]] | None:
    """The inverse of a square matrix (at most 3 x 3), or None when it has none."""
    size = len(matrix)
    rows = [[*row, *(int(index == number) for index in range(size))] for number, row in enumerate(matrix)]
    for column in range(size):
        pivot = next((row for row in range(column, size) if rows[row][column]), None)
        if pivot is None:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        scale = inverse(rows[column][column])
        rows[column] = [multiply(scale, value) for value in rows[column]]
        for row in range(size):
            factor = rows[row][column]
            if row != column and factor:
                rows[row] = [
                    value ^ multiply(factor, other) for value, other in zip(rows[row], rows[column], strict=True)
                ]
    return [row[size:] for row in rows]
