"""The records that a loader leaves for the kernel, read back from guest memory (sys/sys/linker.h).

All of it is the guest's by then: no number is believed, and the walk ends after MAX_RECORDS records or MAX_SIZE bytes.
"""

from __future__ import annotations

from bhyveload.boot_formats.modinfo_format import MODINFO_END, MODINFO_NAME, RECORD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    class LowMemory(Protocol):
        """Guest memory: ``low`` bytes from address 0."""

        @property
        def low(self) -> int: ...
        def read(self, address: int, length: int, /) -> bytes: ...


MAX_RECORDS = 1 << 16  # about twenty a file
MAX_SIZE = 16 << 20


class Record:
    """``size`` bytes of payload at guest address ``address``, behind the record's header; ``kind`` is MODINFO_*."""

    __slots__ = ("address", "kind", "size")

    def __init__(self, kind: int, address: int, size: int) -> None:
        self.kind = kind
        self.address = address
        self.size = size

    def padded(self, stride: int) -> int:
        """Where the next record's header is."""
        return self.address + (self.size + stride - 1) // stride * stride


def records(memory: LowMemory, modulep: int, stride: int) -> Iterator[Record]:
    """The records at ``modulep``, their payloads padded to ``stride`` bytes (the kernel's word), MODINFO_END last.

    Damaged records end without it: where one does not lie in low memory, where the first is no MODINFO_NAME (it comes
    all the same), or after too many.
    """
    end = min(memory.low, modulep + MAX_SIZE)
    at = modulep
    for number in range(MAX_RECORDS):
        if at + RECORD.size > end:
            return
        kind, size = RECORD.unpack(memory.read(at, RECORD.size))
        record = Record(kind, at + RECORD.size, size)
        if kind != MODINFO_END and record.address + size > end:
            return
        yield record
        if kind == MODINFO_END or (number == 0 and kind != MODINFO_NAME):
            return
        at = record.padded(stride)
