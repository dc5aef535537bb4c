"""Where the guest's kernel reads how much memory it has.

The loader writes a map that knows nothing of firmware: all of low memory is RAM (kernel-loading: SMAP, bootinfo).
QEMU's firmware keeps its ACPI tables at the top of low memory and its extended BIOS data area below 640 KiB.  A kernel
that believes the loader's map takes the pages of the tables (seen: "panic: Using MADT but ACPI doesn't work").  So
the stub cuts the lengths down in the running guest's memory; this module finds the words to cut.

All of it is guest data: every address goes through GuestMemory's gateway and every loop has a bound.
Sources: sys/sys/linker.h (MODINFO_*), sys/x86/include/metadata.h (MODINFOMD_SMAP), sys/x86/include/pc/bios.h
(struct bios_smap), sys/i386/include/bootinfo.h (struct bootinfo).
"""

from __future__ import annotations

import struct

from bhyveload.boot_formats.modinfo import records
from bhyveload.boot_formats.modinfo_format import (
    BI_BASEMEM,
    BI_EXTMEM,
    BOOTINFO_VERSION,
    EXTENDED_MEMORY,
    MODINFO_END,
    MODINFO_METADATA,
    MODINFOMD_SMAP,
    SMAP_ENTRY,
    SMAP_TYPE_MEMORY,
)
from bhyveload.errors import HandoffError, MemoryAccessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.handoff.pvh.entry_state import EntryState
    from bhyveload.vm.memory import GuestMemory

_SMAP_MAX = 64
_BOOTINFO_MIN = 84
_KIB_SHIFT = 10


class MapField:
    """The length of the RAM at ``base``, kept at guest address ``address``.

    A u64 in bytes where ``shift`` is 0, else a u32 in units of 1 << ``shift`` bytes.
    """

    __slots__ = ("address", "base", "shift")

    def __init__(self, address: int, shift: int, base: int) -> None:
        self.address = address
        self.shift = shift
        self.base = base


def map_fields(memory: GuestMemory, entry: EntryState) -> list[MapField]:
    """Every length of RAM that the kernel will read; empty when the guest was given no module metadata.

    Raises HandoffError when the metadata is damaged.
    """
    try:
        if entry.long_mode:
            (modulep,) = struct.unpack("<I", memory.read(entry.rsp + 4, 4))
            return _smap_fields(memory, modulep, 8) if modulep else []
        # btext's frame from ESP: return address, howto, bootdev, 3 words, bootinfo, modulep, kernend
        bootinfo, modulep = struct.unpack("<II", memory.read(entry.rsp + 24, 8))
        fields = _bootinfo_fields(memory, bootinfo) if bootinfo else []
        return fields + (_smap_fields(memory, modulep, 4) if modulep else [])
    except MemoryAccessError as error:
        raise HandoffError(f"module metadata: {error}", "load the VM again with bhyveload") from None


def _smap_fields(memory: GuestMemory, modulep: int, stride: int) -> list[MapField]:
    """The length words of the SMAP record in the records at ``modulep`` (each padded to ``stride`` bytes)."""
    for record in records(memory, modulep, stride):
        if record.kind == MODINFO_END:
            return []
        if record.kind == MODINFO_METADATA | MODINFOMD_SMAP:
            return _smap_entries(memory, record.address, record.size)
    raise HandoffError(f"module metadata at {modulep:#x} is damaged", "load the VM again with bhyveload")


def _smap_entries(memory: GuestMemory, address: int, size: int) -> list[MapField]:
    if size % SMAP_ENTRY.size or size > _SMAP_MAX * SMAP_ENTRY.size:
        raise HandoffError(f"the memory map at {address:#x} is {size} bytes long, not a multiple of {SMAP_ENTRY.size}")
    return [
        MapField(address + number * SMAP_ENTRY.size + 8, 0, base)
        for number, (base, _, kind) in enumerate(SMAP_ENTRY.iter_unpack(memory.read(address, size)))
        if kind == SMAP_TYPE_MEMORY
    ]


def _bootinfo_fields(memory: GuestMemory, bootinfo: int) -> list[MapField]:
    (version,) = struct.unpack_from("<I", memory.read(bootinfo, _BOOTINFO_MIN))
    if version != BOOTINFO_VERSION:
        raise HandoffError(f"bootinfo at {bootinfo:#x} has version {version}, not {BOOTINFO_VERSION}")
    return [MapField(bootinfo + BI_BASEMEM, _KIB_SHIFT, 0), MapField(bootinfo + BI_EXTMEM, _KIB_SHIFT, EXTENDED_MEMORY)]
