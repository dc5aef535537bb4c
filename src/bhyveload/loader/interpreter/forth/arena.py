"""The memory that Forth sees: one bounded array of bytes with a heap in it.

Addresses are offsets into it.  Every access is checked; nothing of Python's can be reached or named through it.
"""

from __future__ import annotations

import mmap
import struct

from bhyveload.loader.interpreter.forth.ficl_format import ARENA_SIZE, HEAP, PAGE
from bhyveload.loader.interpreter.forth.throws import Failure

_GRAIN = 64  # bytes: what the smallest block of the heap takes, so that their number is bounded
_UNALIGNED = struct.Struct("<q")


class Arena:
    """``mem``: its bytes; ``cells``: the same as signed 64-bit numbers, for addresses that are multiples of 8."""

    __slots__ = ("_blocks", "_free", "_top", "cells", "mem")

    def __init__(self) -> None:
        self.mem = mmap.mmap(-1, ARENA_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.cells = memoryview(self.mem).cast("q")
        self._blocks: dict[int, int] = {}  # address -> bytes
        self._free: dict[int, list[int]] = {}  # bytes -> addresses
        self._top = HEAP

    def check(self, address: int, size: int) -> None:
        """Raise Failure unless ``size`` bytes from ``address`` are all in the arena."""
        if not (address >= PAGE and 0 <= size <= ARENA_SIZE - address):
            what = f"{size} bytes at" if size > 1 else "address"
            raise Failure(f"Error: {what} {address & 0xFFFFFFFFFFFFFFFF:#x} outside of memory")

    def fetch(self, address: int) -> int:
        """The cell at ``address``, which may be odd.  Raises Failure."""
        self.check(address, 8)
        number: int = _UNALIGNED.unpack_from(self.mem, address)[0]
        return number

    def store(self, address: int, value: int) -> None:
        """Raises Failure."""
        self.check(address, 8)
        _UNALIGNED.pack_into(self.mem, address, value)

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes; none need no address.  Raises Failure."""
        if size == 0:
            return b""
        self.check(address, size)
        return self.mem[address : address + size]

    def write(self, address: int, data: bytes) -> None:
        """Raises Failure."""
        if data:
            self.check(address, len(data))
            self.mem[address : address + len(data)] = data

    def string(self, address: int) -> bytes:
        """The bytes up to the next 0.  Raises Failure."""
        self.check(address, 1)
        end = self.mem.find(b"\0", address)
        return self.mem[address : end if end >= 0 else ARENA_SIZE]

    # The heap (stand/libsa/zalloc_malloc.c)

    def allocate(self, size: int) -> int:
        """A block of ``size`` bytes; 0 when there is no room."""
        if not 0 <= size <= ARENA_SIZE:
            return 0
        size = max(1, -(-size // _GRAIN)) * _GRAIN
        free = self._free.get(size)
        if free:
            address = free.pop()
        else:
            address = self._top
            if size > ARENA_SIZE - address:
                return self._split(size)
            self._top = address + size
        self._blocks[address] = size
        return address

    def _split(self, size: int) -> int:
        """A block cut from the smallest free one that is larger."""
        larger = [have for have, addresses in self._free.items() if have > size and addresses]
        if not larger:
            return 0
        have = min(larger)
        address = self._free[have].pop()
        self._free.setdefault(have - size, []).append(address + size)
        self._blocks[address] = size
        return address

    def free(self, address: int) -> None:
        """Give a block back.  Raises Failure for what is none."""
        if address == 0:
            return
        size = self._blocks.pop(address, 0)
        if not size:
            raise Failure(f"Error: free of {address & 0xFFFFFFFFFFFFFFFF:#x}, which was not allocated")
        if address + size == self._top:
            self._top = address
        else:
            self._free.setdefault(size, []).append(address)

    def resize(self, address: int, size: int) -> int:
        """The block with another size, its bytes kept; 0 (and the old one left) when there is no room."""
        if address == 0:
            return self.allocate(size)
        have = self._blocks.get(address)
        if have is None:
            raise Failure(f"Error: resize of {address & 0xFFFFFFFFFFFFFFFF:#x}, which was not allocated")
        if 0 <= size <= have:
            return address
        new = self.allocate(size)
        if new:
            self.mem[new : new + have] = self.mem[address : address + have]
            self.free(address)
        return new
