"""The PVH stub: a small ELF image that QEMU starts and that turns its entry state into the loaded guest's.

QEMU maps the VM's memory file as guest RAM, its firmware (SeaBIOS) runs, sets up PCI and ACPI, and enters the stub by
the note that Xen defined for PVH guests.  The firmware has by then overwritten parts of guest memory (measured with
QEMU 7.2 and SeaBIOS 1.16 for 16 MiB to 5 GiB of RAM):

    0 - 0x500, 0x5a0 - 0x680, 0x11c0 - 0x2218, 0x6740 - 0x90000     put back by the stub from 0x1000 on
    0x9fc00 - 0x100000                                              the firmware's: EBDA, video memory, ROM
    [top - 16 MiB - 0x121000, top - 16 MiB)                         scratch; put back by the stub
    [top - 0x3c000, top)                                            the firmware's: ACPI tables, SMM, virtio rings

where top is the end of low memory.  Guest data in what stays the firmware's is refused.  The guest's own memory map
is cut down to what the firmware leaves (memory_map.py).  The VM's file is never written: QEMU maps it privately.

Source: Xen's public/arch-x86/hvm/start_info.h; pvh_image.py writes the ELF image.
"""

from __future__ import annotations

import struct

from bhyveload.errors import HandoffError
from bhyveload.handoff.pvh.entry_state import entry_state
from bhyveload.handoff.pvh.extents import data_extents, round_page
from bhyveload.handoff.pvh.firmware import ROM_END, SEABIOS, FirmwareMap
from bhyveload.handoff.pvh.memory_map import map_fields
from bhyveload.handoff.pvh.stub_code import STUB
from bhyveload.vm.memory import GB, MB, PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from bhyveload.handoff.pvh.entry_state import EntryState
    from bhyveload.handoff.pvh.memory_map import MapField
    from bhyveload.vm.memory import GuestMemory

# stub.S
STUB_BASE = 1  # offset of the immediate that holds the stub's own address
STUB_PARAMETERS = 16
_PARAMETERS = struct.Struct("<7I4xQ HQ6x 3Q 15Q")
_COPY = struct.Struct("<III")  # to, from (0: zeros), 32-bit words
_FIX = struct.Struct("<IIQ")  # address, shift, base

PREFERRED_BASE = 0x100000  # free in every guest that bhyveload loads: nothing lies between 0x6000 and the kernel
_IDENTITY_LIMIT = 1 * GB

PG_V, PG_PS = 0x1, 0x80
_PG_FRAME = 0x000FFFFFFFFFF000
_READ_STEP = 4 * MB


class Stub:
    """The stub for one VM: ``image`` (bytes) belongs at guest physical address ``base``, its entry point."""

    __slots__ = ("base", "image")

    def __init__(self, base: int, image: bytes) -> None:
        self.base = base
        self.image = image


def build_stub(memory: GuestMemory, state: Mapping[str, Any], firmware: FirmwareMap = SEABIOS) -> Stub:
    """The stub that starts the guest loaded in ``memory`` with vCPU 0 of ``state`` (a parsed state.json), on a machine
    whose firmware treats memory as ``firmware`` says.

    Raises HandoffError: a register that cannot be set, damaged metadata, guest data where the firmware keeps its own,
    no room for the stub, page tables that do not map the stub where it lies.
    """
    entry = entry_state(state)
    _refuse_firmware_pages(memory, firmware)
    fields = map_fields(memory, entry)
    copies = list(_low_copies(memory, firmware)) + list(_scratch_copies(memory, firmware))
    content = PAGE_SIZE * sum(words * 4 // PAGE_SIZE for _, data, words in copies if data)
    lists_size = (len(copies) + 1) * _COPY.size + (len(fields) + 1) * _FIX.size
    size = PAGE_SIZE + round_page(lists_size) + content
    base = _free_region(memory, size, firmware)
    if entry.long_mode and not _mapped_identically(memory, entry.cr3, base):
        raise HandoffError(f"the guest's page tables at {entry.cr3:#x} do not map {base:#x} to itself")
    return Stub(base, _assemble(base, entry, copies, fields, size))


def _assemble(
    base: int, entry: EntryState, copies: list[tuple[int, bytes, int]], fields: list[MapField], size: int
) -> bytes:
    """Code and parameters in the first page, then the lists, then the pages to put back."""
    image = bytearray(size)
    image[: len(STUB)] = STUB
    struct.pack_into("<I", image, STUB_BASE, base)
    copies_at = PAGE_SIZE
    fixes_at = copies_at + (len(copies) + 1) * _COPY.size
    data_at = round_page(fixes_at + (len(fields) + 1) * _FIX.size)
    _PARAMETERS.pack_into(
        image,
        STUB_PARAMETERS,
        int(entry.long_mode),
        base + copies_at,
        base + fixes_at,
        entry.cr0,
        entry.cr3,
        entry.cr4,
        entry.efer & ~0x400 & 0xFFFFFFFF,  # LMA is set by the processor
        _tss_descriptor(entry.tss),
        entry.gdt_limit,
        entry.gdt_base,
        entry.rflags,
        entry.rip,
        entry.rsp,
        *entry.general,
    )
    for number, (to, data, words) in enumerate(copies):
        source = 0
        if data:
            source = base + data_at
            image[data_at : data_at + len(data)] = data
            data_at += len(data)
        _COPY.pack_into(image, copies_at + number * _COPY.size, to, source, words)
    for number, field in enumerate(fields):
        _FIX.pack_into(image, fixes_at + number * _FIX.size, field.address, field.shift, field.base)
    return bytes(image)


def _tss_descriptor(tss: tuple[int, int] | None) -> int:
    """An available 32-bit TSS (type 9, present): loading TR makes it busy."""
    if tss is None:
        return 0
    base, limit = tss
    return limit & 0xFFFF | (base & 0xFFFFFF) << 16 | 0x89 << 40 | (base >> 24) << 56


def _refuse_firmware_pages(memory: GuestMemory, firmware: FirmwareMap) -> None:
    """Guest data that the firmware would overwrite for good."""
    top = memory.low
    if top <= ROM_END + firmware.top:
        raise HandoffError(
            f"{top >> 10} KiB of memory are too few for QEMU's firmware", "load the VM again with -m 64M"
        )
    for start, end in ((0, PAGE_SIZE), (firmware.base_end, ROM_END), (top - firmware.top, top)):
        for at, _ in _data_pages(memory, start, end):
            hint = f"load the VM again with more memory: -m {(top >> 20) + 16}M" if start >= ROM_END else ""
            raise HandoffError(f"guest data at {at:#x}: QEMU's firmware keeps its own data there", hint)


def _low_copies(memory: GuestMemory, firmware: FirmwareMap) -> Iterator[tuple[int, bytes, int]]:
    """Base memory as the loader left it: its pages, and zeros where it wrote nothing."""
    at = PAGE_SIZE
    for start, data in _data_pages(memory, PAGE_SIZE, firmware.base_end):
        if start > at:
            yield at, b"", (start - at) // 4
        yield start, data, len(data) // 4
        at = start + len(data)
    if at < firmware.base_end:
        yield at, b"", (firmware.base_end - at) // 4


def _scratch_copies(memory: GuestMemory, firmware: FirmwareMap) -> Iterator[tuple[int, bytes, int]]:
    scratch, end = firmware.scratch(memory.low)
    if end > ROM_END:
        for start, data in _data_pages(memory, max(scratch, ROM_END), end):
            yield start, data, len(data) // 4


def _data_pages(memory: GuestMemory, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Runs of pages of low memory that are not zero."""
    zero = bytes(PAGE_SIZE)
    for first, last in data_extents(memory.fd, start, end):
        first &= -PAGE_SIZE
        data = memory.read(first, min(round_page(last), memory.low) - first)
        run = -1
        for at in range(0, len(data) + PAGE_SIZE, PAGE_SIZE):
            used = at < len(data) and data[at : at + PAGE_SIZE] != zero
            if used and run < 0:
                run = at
            elif not used and run >= 0:
                yield first + run, data[run:at]
                run = -1


def _is_zero(memory: GuestMemory, start: int, size: int) -> bool:
    for first, last in data_extents(memory.fd, start, start + size):
        while first < last:
            data = memory.read(first, min(last - first, _READ_STEP))
            if data.count(0) != len(data):
                return False
            first += len(data)
    return True


def _free_region(memory: GuestMemory, size: int, firmware: FirmwareMap) -> int:
    """Where the stub fits: 1 MiB, or the first gap that is neither the guest's nor the firmware's.

    Raises HandoffError when there is none.
    """
    regions = list(_stub_regions(memory, firmware))
    if _is_zero(memory, PREFERRED_BASE, size) and PREFERRED_BASE + size <= regions[0][1]:
        return PREFERRED_BASE
    for start, end in regions:
        at = start
        for first, last in data_extents(memory.fd, start, end):
            if round_page(at) + size <= first:
                break
            at = last
        at = round_page(at)
        if at + size <= end:
            return at
    raise HandoffError(
        f"no {size >> 10} KiB of guest memory are free for the start-up stub",
        f"load the VM again with more memory: -m {(memory.low >> 20) + 32}M",
    )


def _stub_regions(memory: GuestMemory, firmware: FirmwareMap) -> Iterator[tuple[int, int]]:
    """What the firmware leaves alone, on both sides of its scratch memory, as far as bhyveload's page tables map it to
    itself."""
    scratch, scratch_end = firmware.scratch(memory.low)
    end = min(memory.low - firmware.top, _IDENTITY_LIMIT)
    if scratch <= ROM_END:
        yield ROM_END, end
        return
    yield ROM_END, min(scratch, _IDENTITY_LIMIT)
    yield scratch_end, end


def _mapped_identically(memory: GuestMemory, cr3: int, address: int) -> bool:
    """Whether the guest's four-level page tables map the page at ``address`` to itself.  Raises HandoffError."""
    table = cr3 & _PG_FRAME
    for shift in (39, 30, 21, 12):
        index = address >> shift & 0x1FF
        if table + PAGE_SIZE > memory.low:
            return False
        entry: int = struct.unpack("<Q", memory.read(table + index * 8, 8))[0]
        if not entry & PG_V:
            return False
        if shift == 12 or (entry & PG_PS and shift < 39):
            span = (1 << shift) - 1
            return entry & _PG_FRAME & ~span == address & ~span
        table = entry & _PG_FRAME
    return False
