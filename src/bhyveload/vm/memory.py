"""Guest memory: one file, one checked gateway for every guest physical address.

Layout of the file (docs/architecture.md, "What a VM is"): guest RAM below the PCI hole at [0, low), then high memory
(guest physical address 4 GiB + x) right behind it at low + x.  Low memory ends at 3 GiB at most
(VM_LOWMEM_LIMIT in vmmapi.c).  Data is written with pwritev(2), not through a mapping: that is faster on fresh pages,
cannot raise SIGBUS and takes pieces of a mapped disk image as they are.
"""

from __future__ import annotations

import errno
import os

from bhyveload.errors import MemoryAccessError, VmMemoryError, VmStorageError
from bhyveload.libc import forget_mapped, pwrite_all
from bhyveload.vm.huge_pages import gather

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Buffer = bytes | bytearray | memoryview

MB = 1 << 20
GB = 1 << 30
VM_LOWMEM_LIMIT = 3 * GB
VM_HIGHMEM_BASE = 4 * GB
PAGE_SIZE = 4096
_IOV_MAX = 1024
_BATCH = 4 << 20
_WORTHWHILE = 4 << 20  # below that, what it takes to ask for huge pages is not made up for
_ZEROS = bytes(1 << 16)


def split_memory(size: int) -> tuple[int, int]:
    """(low, high) bytes of a VM with ``size`` bytes of RAM (vm_setup_memory in lib/libvmmapi/vmmapi.c).

    Raises VmMemoryError when the size is zero or no multiple of a page: the kernel's EINVAL; TypeError: it is no int.
    """
    if not isinstance(size, int):
        raise TypeError(f"memory size: must be a whole number of bytes, as 64 << 20, not {size!r}")
    if size <= 0 or size % PAGE_SIZE:
        raise VmMemoryError(
            f"vm_setup_memory: Invalid argument (memory size {size})", "give a multiple of 4 KiB: -m 256M"
        )
    if size <= VM_LOWMEM_LIMIT:
        return size, 0
    return VM_LOWMEM_LIMIT, size - VM_LOWMEM_LIMIT


class GuestMemory:
    """Guest RAM in a file: a Memory (vm/interface.py).  Every method takes guest physical addresses and checks them.

    ``fresh`` says that the file has never been written: zeroing what no write has reached then costs nothing.
    ``huge``: how many pages of 2 MiB it may be made of (huge_pages.ready).
    """

    __slots__ = ("_huge", "_top", "fd", "fresh", "high", "low")

    def __init__(self, fd: int, low: int, high: int, fresh: bool = True, huge: int = 0) -> None:
        self.fd = fd
        self.low = low
        self.high = high
        self.fresh = fresh
        self._huge = huge
        self._top = 0  # file offset behind the last byte written, for zero()

    def offset(self, gpa: int, length: int) -> int:
        """File offset of [gpa, gpa + length): vm_map_gpa's rule, wholly in low or wholly in high memory.

        Raises MemoryAccessError otherwise.
        """
        if length >= 0:
            if gpa >= 0 and gpa + length <= self.low:
                return gpa
            if gpa >= VM_HIGHMEM_BASE and gpa + length <= VM_HIGHMEM_BASE + self.high:
                return self.low + gpa - VM_HIGHMEM_BASE
        raise MemoryAccessError(f"guest address {gpa:#x}+{length:#x} is outside guest memory")

    check = offset

    def descriptors(self) -> tuple[int, ...]:
        """What this reads and writes through."""
        return (self.fd,)

    def write(self, gpa: int, data: Buffer) -> None:
        """Copy ``data`` to guest address ``gpa``.  Raises MemoryAccessError, VmStorageError (no space)."""
        self.write_pieces(gpa, (data,), len(data))

    def expect(self, gpa: int, length: int) -> None:
        """[gpa, gpa + length) is about to be written, in whatever pieces: take huge pages for it, as far as there are.

        Raises MemoryAccessError.
        """
        at = self.offset(gpa, length)
        if length >= _WORTHWHILE:
            self._huge -= gather(self.fd, at, at + length, self._huge)

    def write_pieces(self, gpa: int, pieces: Sequence[Buffer], length: int) -> None:
        """Copy consecutive ``pieces`` (``length`` bytes in all) to ``gpa``: many of them with one pwritev."""
        at = self.offset(gpa, length)
        end = at + length
        self._top = max(self._top, end)
        try:
            if length < _BATCH and len(pieces) <= _IOV_MAX:
                self._write_batch(pieces, length, at)
                return
            for batch, size in _batches(pieces):
                self._write_batch(batch, size, at)
                forget_mapped(batch[0])
                at += size
        except OSError as error:
            raise _storage_error(error) from None

    def _write_batch(self, batch: Sequence[Buffer], want: int, at: int) -> None:
        done = os.pwritev(self.fd, batch, at)
        if done != want:  # a short write: only a full file system or a signal does this
            pwrite_all(self.fd, memoryview(b"".join(batch))[done:], at + done)

    def zero(self, gpa: int, length: int) -> None:
        """Make [gpa, gpa + length) zero."""
        at = self.offset(gpa, length)
        end = at + length
        if self.fresh:
            end = min(end, self._top)
        while at < end:
            step = min(end - at, len(_ZEROS))
            try:
                os.pwrite(self.fd, _ZEROS[:step], at)
            except OSError as error:
                raise _storage_error(error) from None
            at += step

    def read(self, gpa: int, length: int) -> bytes:
        """The bytes at [gpa, gpa + length).  Raises MemoryAccessError, VmStorageError."""
        at = self.offset(gpa, length)
        try:
            data = os.pread(self.fd, length, at)
        except OSError as error:
            raise _storage_error(error) from None
        return data if len(data) == length else data + bytes(length - len(data))


def _batches(pieces: Sequence[Buffer]) -> Iterator[tuple[Sequence[Buffer], int]]:
    """``pieces`` in parts for one pwritev, each with its size: at most 1024 buffers, and 8 MiB where they can be parted
    or, if it is a single one, cut.  No look at each piece: there may be thousands."""
    todo = [pieces[first : first + _IOV_MAX] for first in range(0, len(pieces), _IOV_MAX)]
    todo.reverse()
    while todo:
        batch = todo.pop()
        size = sum(map(len, batch))
        if size <= _BATCH:
            yield batch, size
        elif len(batch) > 1:
            half = len(batch) // 2
            todo += [batch[half:], batch[:half]]
        else:
            whole = memoryview(batch[0])
            for start in range(0, size, _BATCH):
                piece = whole[start : start + _BATCH]
                yield (piece,), len(piece)


def _storage_error(error: OSError) -> VmStorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
        return VmStorageError(
            f"guest memory: {error.strerror}", "make room in the VM directory or point BHYVE_VMM_DIR elsewhere"
        )
    return VmStorageError(f"guest memory: {error.strerror}")
