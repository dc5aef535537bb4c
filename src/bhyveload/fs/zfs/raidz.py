"""RAID-Z1 to Z3: where a block's columns lie, and its data out of the columns that can be read (vdev_raidz_map_alloc).

Source: vdev_raidz_read of sys/cddl/boot/zfs/zfssubr.c; the order of reads is its order.
"""

from __future__ import annotations

from itertools import combinations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EINVAL, EIO

from . import raidz_math as gf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Buffer = bytes | memoryview
    ReadChild = Callable[[int, int, int], Buffer | None]
    """(child id, offset, length) -> its bytes; None: the child is missing or cannot be read there."""

MAX_ATTEMPTS = 4096
"""Combinations of silently bad columns tried for one block: all there are for 3 of 29 columns."""
_MIN_ATTEMPTS = 64
_MAX_WORK = 512 << 20
"""Bytes that may be put together and verified for one block: a hostile pool shall not cost minutes."""

_RAIDZ1_SWAP = 1 << 20


class RaidzColumn:
    __slots__ = ("child", "length", "offset")

    def __init__(self, child: int, offset: int, length: int) -> None:
        self.child = child
        self.offset = offset
        self.length = length


def columns_of(offset: int, size: int, ashift: int, children: int, nparity: int) -> list[RaidzColumn]:
    """The block's columns, parity first (vdev_raidz_map_alloc).  Raises FileSystemError (EINVAL): impossible layout."""
    if not (1 <= nparity <= 3 and nparity < children <= 255 and 9 <= ashift <= 16):
        raise FileSystemError(EINVAL, f"ZFS: raidz{nparity} over {children} devices, ashift {ashift}")
    unit = 1 << ashift
    block, first = divmod(offset >> ashift, children)
    start = block << ashift
    quotient, remainder = divmod(size >> ashift, children - nparity)
    big = remainder + nparity if remainder else 0
    count = children if quotient else big
    result = []
    for number in range(count):
        child, place = first + number, start
        if child >= children:
            child -= children
            place += unit
        result.append(RaidzColumn(child, place, quotient + (number < big) << ashift))
    if nparity == 1 and offset & _RAIDZ1_SWAP and count > 1:
        p, d = result[0], result[1]
        p.child, d.child = d.child, p.child
        p.offset, d.offset = d.offset, p.offset
    return result


def read(
    columns: list[RaidzColumn],
    nparity: int,
    read_child: ReadChild,
    healthy: Callable[[int], bool],
    verify: Callable[[Buffer], bool] | None,
) -> Buffer:
    """The block's data (whole columns' length), verified if ``verify`` is given.

    Data columns are read from the last to the first, then parity if a data column's device is missing; everything when
    that does not verify; then every set of columns that parity allows is taken as silently damaged.
    Raises FileSystemError (EIO): too many columns are missing or damaged."""
    content: list[Buffer | None] = [None] * len(columns)
    tried = [False] * len(columns)
    distrusted = [number for number, column in enumerate(columns) if not healthy(column.child)]

    def fetch(number: int) -> None:
        column = columns[number]
        content[number] = read_child(column.child, column.offset, column.length)
        tried[number] = True

    missing_data = False
    for number in range(len(columns) - 1, -1, -1):
        if number in distrusted:
            missing_data = missing_data or number >= nparity
            tried[number] = True
        elif number >= nparity or missing_data:
            fetch(number)
    data = _assemble(columns, content, nparity, verify)
    if data is not None:
        return data
    more = [number for number in range(len(columns)) if not tried[number]]
    for number in more:
        fetch(number)
    if more:
        data = _assemble(columns, content, nparity, verify)
        if data is not None:
            return data
    try:
        return _combinatorial(columns, content, nparity, verify)
    except FileSystemError:
        # libsa gives up; what the configuration calls offline or degraded may still be right
        if verify is None:
            raise
        for number in distrusted:
            fetch(number)
        if not any(content[number] is not None for number in distrusted):
            raise
        return _combinatorial(columns, content, nparity, verify)


def _combinatorial(
    columns: list[RaidzColumn], content: list[Buffer | None], nparity: int, verify: Callable[[Buffer], bool] | None
) -> Buffer:
    absent = [number for number, piece in enumerate(content) if piece is None]
    spare = nparity - len(absent)
    if spare < 0:
        raise FileSystemError(
            EIO, f"ZFS: raidz: {len(absent)} of {len(columns)} columns are missing, parity is {nparity}"
        )
    present = [number for number, piece in enumerate(content) if piece is not None]
    attempts = 0
    limit = min(MAX_ATTEMPTS, max(_MIN_ATTEMPTS, _MAX_WORK // max(1, sum(column.length for column in columns))))
    for count in range(spare + 1):
        for suspects in combinations(present, count):
            if suspects and not any(number >= nparity for number in (*suspects, *absent)):
                continue  # only parity distrusted: the data has been tried as it is
            attempts += 1
            if attempts > limit:
                break
            reduced = list(content)
            for number in suspects:
                reduced[number] = None
            data = _assemble(columns, reduced, nparity, verify)
            if data is not None:
                return data
    raise FileSystemError(EIO, "ZFS: raidz: no combination of columns gives the right checksum")


def _assemble(
    columns: list[RaidzColumn], content: list[Buffer | None], nparity: int, verify: Callable[[Buffer], bool] | None
) -> Buffer | None:
    """The data with its missing columns computed; None when there is too little parity or the checksum is wrong."""
    missing = [number for number in range(nparity, len(columns)) if content[number] is None]
    data = content[nparity:]
    if missing:
        found = _reconstruct(columns, content, nparity, missing)
        if found is None:
            return None
        for number, piece in zip(missing, found, strict=True):
            data[number - nparity] = piece
    pieces = [piece for piece in data if piece is not None]
    joined: Buffer = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return joined if verify is None or verify(joined) else None


def _reconstruct(
    columns: list[RaidzColumn], content: list[Buffer | None], nparity: int, missing: list[int]
) -> list[bytes] | None:
    """Solve the parity equations for the missing data columns.  Parity r is the sum of (2^r)^(k-1-j) times data j."""
    there = {number: column for number, column in enumerate(content) if column is not None}
    parity = [number for number in range(nparity) if number in there]
    if len(parity) < len(missing):
        return None
    parity = parity[: len(missing)]
    last = len(columns) - 1
    length = columns[0].length
    matrix = [[gf.power(1 << row, last - number) for number in missing] for row in parity]
    solution = gf.solve(matrix)
    if solution is None:
        return None
    known = [number for number in range(nparity, len(columns)) if number in there]
    syndromes: list[Buffer] = []
    for row in parity:
        terms: list[Buffer] = [there[row]]
        terms += [gf.scaled(gf.power(1 << row, last - number), there[number]) for number in known]
        syndromes.append(gf.xor(terms, length))
    result = []
    for number, factors in zip(missing, solution, strict=True):
        terms = [gf.scaled(factor, syndrome) for factor, syndrome in zip(factors, syndromes, strict=True) if factor]
        result.append(gf.xor(terms, length)[: columns[number].length])
    return result
