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

from bhyveload.errors import HandoffError, MemoryAccessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.handoff.pvh.entry_state import EntryState
    from bhyveload.vm.memory import GuestMemory

MODINFO_END = 0x0000
MODINFO_NAME = 0x0001
MODINFO_SMAP = 0x8000 | 0x1001  # MODINFO_METADATA | MODINFOMD_SMAP
_RECORD = struct.Struct("<II")
_METADATA_MAX = 16 << 20
_RECORDS_MAX = 1 << 16  # about twenty a file

_SMAP_ENTRY = struct.Struct("<QQI")  # struct bios_smap: base, length, type
SMAP_TYPE_MEMORY = 1
_SMAP_MAX = 64

BOOTINFO_VERSION = 1
BI_BASEMEM, BI_EXTMEM = 56, 60
_BOOTINFO_MIN = 84
_EXTMEM_BASE = 1 << 20
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
    at = modulep
    for _ in range(_RECORDS_MAX):
        if at - modulep >= _METADATA_MAX:
            break
        kind, size = _RECORD.unpack(memory.read(at, _RECORD.size))
        at += _RECORD.size
        if kind == MODINFO_END:
            return []
        if at == modulep + _RECORD.size and kind != MODINFO_NAME:
            break
        if kind == MODINFO_SMAP:
            return _smap_entries(memory, at, size)
        at += (size + stride - 1) & -stride
    raise HandoffError(f"module metadata at {modulep:#x} is damaged", "load the VM again with bhyveload")


def _smap_entries(memory: GuestMemory, address: int, size: int) -> list[MapField]:
    if size % _SMAP_ENTRY.size or size > _SMAP_MAX * _SMAP_ENTRY.size:
        raise HandoffError(f"the memory map at {address:#x} is {size} bytes long, not a multiple of {_SMAP_ENTRY.size}")
    return [
        MapField(address + number * _SMAP_ENTRY.size + 8, 0, base)
        for number, (base, _, kind) in enumerate(_SMAP_ENTRY.iter_unpack(memory.read(address, size)))
        if kind == SMAP_TYPE_MEMORY
    ]


def _bootinfo_fields(memory: GuestMemory, bootinfo: int) -> list[MapField]:
    (version,) = struct.unpack_from("<I", memory.read(bootinfo, _BOOTINFO_MIN))
    if version != BOOTINFO_VERSION:
        raise HandoffError(f"bootinfo at {bootinfo:#x} has version {version}, not {BOOTINFO_VERSION}")
    return [MapField(bootinfo + BI_BASEMEM, _KIB_SHIFT, 0), MapField(bootinfo + BI_EXTMEM, _KIB_SHIFT, _EXTMEM_BASE)]
