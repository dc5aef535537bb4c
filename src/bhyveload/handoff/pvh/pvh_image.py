"""ELF images that a PVH loader starts: the stub alone, or a whole VM in one file.

An ELF file is one when a note of Xen's names its 32-bit entry point (Xen's public/elfnote.h).
"""

from __future__ import annotations

import os
import struct

from bhyveload.boot_formats.elf_format import (
    ELF64,
    ELFCLASS64,
    ELFDATA2LSB,
    ELFMAG,
    EM_X86_64,
    ET_EXEC,
    EV_CURRENT,
    PF_R,
    PF_W,
    PF_X,
    PT_LOAD,
    PT_NOTE,
)
from bhyveload.errors import HandoffError
from bhyveload.handoff.pvh.extents import data_extents, round_page
from bhyveload.handoff.pvh.firmware import ROM_END
from bhyveload.libc import pwrite_all
from bhyveload.new_file import NewFile
from bhyveload.vm.memory import MB, PAGE_SIZE, VM_HIGHMEM_BASE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bhyveload.handoff.pvh.stub import Stub
    from bhyveload.vm.memory import GuestMemory

XEN_ELFNOTE_PHYS32_ENTRY = 18
_NOTE = struct.Struct("<III4sI")
_ELF_IDENT = (ELFMAG + bytes((ELFCLASS64, ELFDATA2LSB, EV_CURRENT))).ljust(16, b"\0")
_COPY_STEP = 4 * MB
_PHNUM_MAX = 0xFFFE  # PN_XNUM is 0xffff


def write_stub_elf(fd: int, stub: Stub) -> None:
    """Write the stub alone as an ELF image for ``qemu -kernel``, the VM's memory file being guest RAM."""
    _write_elf(fd, stub, [])


def write_image(fd: int, stub: Stub, memory: GuestMemory) -> None:
    """Write one ELF image that holds the stub and all of the guest's memory content: a VM in a single file.

    It runs anywhere with ``qemu-system-x86_64 -M pc,max-ram-below-4g=3G -m SIZE -kernel FILE`` and the VM's size.
    Raises HandoffError, OSError.
    """
    _write_elf(fd, stub, [extent for extent in _content(memory) if extent[1] > extent[0]], memory)


def save_stub(path: str, stub: Stub) -> None:
    """``write_stub_elf`` into the file ``path``, which appears complete or not at all.  Raises HandoffError."""
    _save(path, lambda fd: write_stub_elf(fd, stub))


def save_image(path: str, stub: Stub, memory: GuestMemory) -> None:
    """``write_image`` into the file ``path``, which appears complete or not at all.  Raises HandoffError."""
    _save(path, lambda fd: write_image(fd, stub, memory))


def _save(path: str, write: Callable[[int], None]) -> None:
    try:
        with NewFile(path) as new:
            write(new.fd)
            new.place()
    except OSError as error:
        raise HandoffError(f"{path}: {error.strerror}") from None


def _content(memory: GuestMemory) -> Iterator[tuple[int, int]]:
    yield from data_extents(memory.fd, ROM_END, memory.low)
    yield from data_extents(memory.fd, memory.low, memory.low + memory.high)


def _write_elf(fd: int, stub: Stub, extents: list[tuple[int, int]], memory: GuestMemory | None = None) -> None:
    """One PT_LOAD for the stub and one per extent (file offsets of the memory file)."""
    end = stub.base + len(stub.image)
    pieces = []
    for first, last in extents:  # the stub's own pages are zero in the guest: leave them out
        if first < end and last > stub.base:
            pieces += [(a, b) for a, b in ((first, min(last, stub.base)), (max(first, end), last)) if a < b]
        else:
            pieces.append((first, last))
    count = len(pieces) + 2
    if count > _PHNUM_MAX:
        raise HandoffError("guest memory is in too many pieces for one ELF image")
    note_at = ELF64.ehdr.size + ELF64.phdr.size * count
    at = round_page(note_at + _NOTE.size)
    headers = [ELF64.phdr.pack(PT_NOTE, PF_R, note_at, 0, 0, _NOTE.size, _NOTE.size, 4)]
    headers.append(_load(at, stub.base, len(stub.image)))
    places = []
    offset = at + round_page(len(stub.image))
    for first, last in pieces:
        low = 0 if memory is None else memory.low
        headers.append(_load(offset, first if first < low else VM_HIGHMEM_BASE + first - low, last - first))
        places.append((offset, first, last))
        offset += round_page(last - first)
    kind = _ELF_IDENT, ET_EXEC, EM_X86_64, EV_CURRENT
    sizes = ELF64.ehdr.size, ELF64.phdr.size, count, 0, 0, 0
    head = ELF64.ehdr.pack(*kind, stub.base, ELF64.ehdr.size, 0, 0, *sizes)
    note = _NOTE.pack(4, 4, XEN_ELFNOTE_PHYS32_ENTRY, b"Xen\0", stub.base)
    pwrite_all(fd, head + b"".join(headers) + note, 0)
    pwrite_all(fd, stub.image, at)
    for to, first, last in places:
        while memory is not None and first < last:
            data = os.pread(memory.fd, min(last - first, _COPY_STEP), first)
            if not data:
                raise HandoffError("guest memory: the memory file is shorter than the VM's memory")
            pwrite_all(fd, data, to)
            first, to = first + len(data), to + len(data)
    os.ftruncate(fd, offset)


def _load(offset: int, address: int, size: int) -> bytes:
    return ELF64.phdr.pack(PT_LOAD, PF_R | PF_W | PF_X, offset, address, address, size, size, PAGE_SIZE)
