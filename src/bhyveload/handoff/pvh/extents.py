"""Where a sparse memory file holds data: lseek(2) with SEEK_DATA and SEEK_HOLE."""

from __future__ import annotations

import errno
import os

from bhyveload.errors import HandoffError
from bhyveload.vm.memory import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def data_extents(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """[first, last) file offsets that hold data, by SEEK_DATA and SEEK_HOLE; a hole is zero for sure."""
    at = start
    while at < end:
        try:
            first = os.lseek(fd, at, os.SEEK_DATA)
            if first >= end:
                return
            at = min(os.lseek(fd, first, os.SEEK_HOLE), end)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise HandoffError(f"guest memory: {error.strerror}") from None
        yield max(first, start), at


def round_page(size: int) -> int:
    return (size + PAGE_SIZE - 1) & -PAGE_SIZE
