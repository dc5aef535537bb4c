"""What a loader handed to a FreeBSD kernel, read back from guest memory: metadata records, environment, files.

For comparing loads (cross_check.py), so nothing here trusts what it reads: numbers that do not fit end the walk and are
noted.  Source: stand/userboot/userboot/bootinfo.c, sys/sys/linker.h, elf64_exec.
"""

from __future__ import annotations

import struct

from bhyveload.errors import MemoryAccessError
from bhyveload.vm.memory import PAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.vm.interface import Memory
    from bhyveload.vm.registers import Registers

STACK_PAGE = 0x1000
MAX_RECORDS = 4096
MAX_METADATA = 16 << 20
MAX_ENVIRONMENT = 1 << 20

MODINFO_END, MODINFO_NAME, MODINFO_TYPE, MODINFO_ADDR, MODINFO_SIZE = 0, 1, 2, 3, 4
MODINFOMD_ENVP = 0x8006
MODINFOMD_KEYBUF = 0x800D
KEYBUF_ENTRY = 4 + 512  # struct keybuf_ent
RECORD_NAMES = {
    MODINFO_NAME: "NAME",
    MODINFO_TYPE: "TYPE",
    MODINFO_ADDR: "ADDR",
    MODINFO_SIZE: "SIZE",
    5: "EMPTY",
    6: "ARGS",
    0x8001: "AOUTEXEC",
    0x8002: "ELFHDR",
    0x8003: "SSYM",
    0x8004: "ESYM",
    0x8005: "DYNAMIC",
    MODINFOMD_ENVP: "ENVP",
    0x8007: "HOWTO",
    0x8008: "KERNEND",
    0x8009: "SHDR",
    0x800A: "CTORS_ADDR",
    0x800B: "CTORS_SIZE",
    0x800C: "FW_HANDLE",
    MODINFOMD_KEYBUF: "KEYBUF",
    0x800E: "FONT",
    0x800F: "SPLASH",
    0x8010: "SHTDWNSPLASH",
    0x9001: "SMAP",
}
_TEXTS = ("NAME", "TYPE", "ARGS")
_BYTES = ("ELFHDR", "SHDR", "KEYBUF", "FONT")


class PreloadedFile:
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
        self.files: list[PreloadedFile] = []
        self.environment: list[tuple[str, str]] = []
        self.faults: list[str] = []


def text(raw: bytes) -> str:
    """A NUL-terminated guest string, a character a byte."""
    return raw.partition(b"\0")[0].decode("latin-1")


def describe(record: str, payload: bytes) -> str:
    """A record's payload in words."""
    if record in _TEXTS:
        return f'"{text(payload)}"'
    if record == "SMAP" and len(payload) % 20 == 0:
        return " ".join(f"{base:#x}+{length:#x}:{kind}" for base, length, kind in struct.iter_unpack("<QQI", payload))
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
    data = _available(memory, result.modulep, MAX_METADATA)
    at = 0
    for _ in range(MAX_RECORDS):
        if at + 8 > len(data):
            break
        tag, size = struct.unpack_from("<II", data, at)
        if tag == MODINFO_END:
            result.metadata_size = at + 8
            return
        payload = data[at + 8 : at + 8 + size]
        if len(payload) != size:
            break
        if tag == MODINFOMD_KEYBUF:
            used = min(size, 4 + KEYBUF_ENTRY * int.from_bytes(payload[:4], "little"))
            payload = payload[:used] + bytes(size - used)
            start = result.modulep + at + 8
            result.leftovers.append((start + used, start + size))
        if tag == MODINFO_NAME:
            result.files.append(PreloadedFile())
        if not result.files:
            result.faults.append(f"the metadata at {result.modulep:#x} does not begin with a name")
            return
        result.files[-1].records.append((RECORD_NAMES.get(tag, f"record {tag:#x}"), payload))
        at += 8 + (size + stride - 1) // stride * stride
    result.metadata_size = at
    result.faults.append(f"the metadata at {result.modulep:#x} has no end (record at +{at:#x})")


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
