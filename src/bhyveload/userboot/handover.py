"""What a loader handed to a FreeBSD kernel, read back from guest memory: metadata records, environment, files.

For comparing loads (cross_check.py), so nothing here trusts what it reads: numbers that do not fit end the walk and are
noted.  Source: stand/userboot/userboot/bootinfo.c, sys/sys/linker.h, elf64_exec.
"""

from __future__ import annotations

import struct

from bhyveload.boot_formats import modinfo_format
from bhyveload.boot_formats.modinfo import records
from bhyveload.boot_formats.modinfo_format import (
    KEYBUF_ENTRY,
    MODINFO_END,
    MODINFO_METADATA,
    MODINFO_NAME,
    MODINFOMD_KEYBUF,
    SMAP_ENTRY,
)
from bhyveload.errors import MemoryAccessError
from bhyveload.vm.memory import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.vm.interface import Memory
    from bhyveload.vm.registers import Registers

STACK_PAGE = 0x1000
MAX_ENVIRONMENT = 1 << 20

_COMMON = ("NAME", "TYPE", "ADDR", "SIZE", "EMPTY", "ARGS")
_KERNELS = (
    *("AOUTEXEC", "ELFHDR", "SSYM", "ESYM", "DYNAMIC", "ENVP", "HOWTO", "KERNEND", "SHDR", "CTORS_ADDR", "CTORS_SIZE"),
    *("FW_HANDLE", "KEYBUF", "FONT", "SPLASH", "SHTDWNSPLASH", "SMAP"),
)
RECORD_NAMES: dict[int, str] = {
    **{getattr(modinfo_format, f"MODINFO_{name}"): name for name in _COMMON},
    **{MODINFO_METADATA | getattr(modinfo_format, f"MODINFOMD_{name}"): name for name in _KERNELS},
}
_TEXTS = ("NAME", "TYPE", "ARGS")
_BYTES = ("ELFHDR", "SHDR", "KEYBUF", "FONT")


class FileRecords:
    """One file's records in the order of the buffer: (name of the record, payload)."""

    __slots__ = ("records",)

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes]] = []

    def payload(self, record: str) -> bytes | None:
        for name, payload in self.records:
            if name == record:
                return payload
        return None

    def number(self, record: str) -> int:
        return int.from_bytes((self.payload(record) or b"")[:8], "little")

    @property
    def name(self) -> str:
        return text(self.payload("NAME") or b"")

    def extent(self) -> tuple[int, int]:
        """(guest address, size) of the file's image."""
        return self.number("ADDR"), self.number("SIZE")


class Handover:
    """``files`` in list order; ``environment`` as (name, value) in order; ``metadata_size`` includes the terminator.

    ``leftovers``: guest address ranges (start, end) that the real loader copies from its own stack or heap without
    having written them; ``faults`` says in words what could not be read.
    """

    __slots__ = (
        "environment",
        "environment_at",
        "environment_size",
        "faults",
        "files",
        "kernend",
        "leftovers",
        "metadata_size",
        "modulep",
    )

    def __init__(self) -> None:
        self.modulep = self.kernend = self.metadata_size = 0
        self.environment_at = self.environment_size = 0
        self.leftovers: list[tuple[int, int]] = []
        self.files: list[FileRecords] = []
        self.environment: list[tuple[str, str]] = []
        self.faults: list[str] = []


def text(raw: bytes) -> str:
    """A NUL-terminated guest string, a character a byte."""
    return raw.partition(b"\0")[0].decode("latin-1")


def describe(record: str, payload: bytes) -> str:
    """A record's payload in words."""
    if record in _TEXTS:
        return f'"{text(payload)}"'
    if record == "SMAP" and len(payload) % SMAP_ENTRY.size == 0:
        return " ".join(f"{base:#x}+{length:#x}:{kind}" for base, length, kind in SMAP_ENTRY.iter_unpack(payload))
    if record in _BYTES or len(payload) > 8:
        return f"{len(payload)} bytes"
    return f"{int.from_bytes(payload, 'little'):#x} ({len(payload)} bytes)"


def read_handover(memory: Memory, vcpu: Registers) -> Handover:
    """Follow the stack to the metadata and the environment.  Raises nothing: see ``faults``."""
    result = Handover()
    long_mode = bool(vcpu.registers.get("efer"))
    stack = vcpu.registers.get("rsp", 0)
    if long_mode:
        result.leftovers.append((STACK_PAGE + 12, STACK_PAGE + PAGE_SIZE))
    elif STACK_PAGE < stack <= STACK_PAGE + PAGE_SIZE:
        result.leftovers.append((STACK_PAGE, stack))
    try:
        result.modulep, result.kernend = struct.unpack("<II", memory.read(stack + (4 if long_mode else 28), 8))
    except MemoryAccessError:
        result.faults.append(f"the stack at {stack:#x} lies outside guest memory")
        return result
    _read_metadata(memory, result, 8 if long_mode else 4)
    for file in result.files:
        address = file.payload("ENVP")
        if address is not None:
            result.environment_at = int.from_bytes(address[:8], "little")
            _read_environment(memory, result)
            break
    return result


def _available(memory: Memory, address: int, limit: int) -> bytes:
    """What guest low memory holds from ``address`` on, at most ``limit`` bytes."""
    try:
        return memory.read(address, max(0, min(limit, memory.low - address)))
    except MemoryAccessError:
        return b""


def _read_metadata(memory: Memory, result: Handover, stride: int) -> None:
    at = result.modulep
    for record in records(memory, at, stride):
        if record.kind == MODINFO_END:
            result.metadata_size = record.address - result.modulep
            return
        payload = memory.read(record.address, record.size)
        if record.kind == MODINFO_METADATA | MODINFOMD_KEYBUF:
            used = min(record.size, 4 + KEYBUF_ENTRY * int.from_bytes(payload[:4], "little"))
            payload = payload[:used] + bytes(record.size - used)
            result.leftovers.append((record.address + used, record.address + record.size))
        if record.kind == MODINFO_NAME:
            result.files.append(FileRecords())
        if not result.files:
            result.faults.append(f"the metadata at {result.modulep:#x} does not begin with a name")
            return
        result.files[-1].records.append((RECORD_NAMES.get(record.kind, f"record {record.kind:#x}"), payload))
        at = record.padded(stride)
    result.metadata_size = at - result.modulep
    result.faults.append(f"the metadata at {result.modulep:#x} has no end (record at +{result.metadata_size:#x})")


def _read_environment(memory: Memory, result: Handover) -> None:
    data = _available(memory, result.environment_at, MAX_ENVIRONMENT)
    end = 0 if data[:1] == b"\0" else data.find(b"\0\0")
    if end < 0 or not data:
        result.faults.append(f"the environment at {result.environment_at:#x} has no end")
        return
    result.environment_size = end + (2 if end else 1)
    for item in data[:end].split(b"\0") if end else ():
        name, _, value = item.partition(b"=")
        result.environment.append((text(name), text(value)))
