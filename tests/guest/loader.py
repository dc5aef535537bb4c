"""A loader for tests of the hand-off: puts the probe guest into a VM the way FreeBSD's userboot does.

Written from FreeBSD's boot protocol (stand/userboot/userboot/{bootinfo,elf64_freebsd,elf32_freebsd}.c,
stand/common/load_elf.c), on purpose without the package's own loader: the two check each other.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from bhyveload.vm.memory import GuestMemory, split_memory
from bhyveload.vm.registers import Registers, setup_freebsd_registers, setup_freebsd_registers_i386

MB = 1 << 20
PAGE = 4096
_PT_LOAD, _SHT_SYMTAB = 1, 2
NAME, TYPE, ADDR, SIZE = 1, 2, 3, 4
SSYM, ESYM, ENVP, HOWTO, KERNEND, SHDR, ELFHDR, SMAP = 0x8003, 0x8004, 0x8006, 0x8007, 0x8008, 0x8009, 0x8002, 0x9001
RB_BOOTINFO = 0x80000000


class LoadedVm:
    """What vm/store.py's VirtualMachine offers to a hand-off: memory, path, state."""

    def __init__(self, path: Path, memory: GuestMemory, state: dict[str, object]) -> None:
        self.path = str(path)
        self.name = path.name
        self.memory = memory
        self.state = state
        self.records: list[tuple[int, bytes]] = []
        self.kernel_size = 0

    def close(self) -> None:
        os.close(self.memory.fd)


def round_up(value: int, unit: int) -> int:
    return (value + unit - 1) // unit * unit


def empty_vm(path: Path, size: int) -> LoadedVm:
    """A VM's directory with all-zero memory and no registers."""
    path.mkdir()
    low, high = split_memory(size)
    fd = os.open(path / "memory", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.ftruncate(fd, low + high)
    return LoadedVm(path, GuestMemory(fd, low, high), {})


class Elf:
    """The little of an ELF file that the loader looks at."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.wide = data[4] == 2
        head = struct.unpack_from("<HHIQQQIHHHHHH" if self.wide else "<HHIIIIIHHHHHH", data, 16)
        self.entry, self.phoff, self.shoff = head[3:6]
        self.header = data[: head[7]]
        self.phentsize, self.phnum, self.shentsize, self.shnum = head[8:12]

    def segments(self) -> list[tuple[int, int, int, int]]:
        """(offset, vaddr, filesz, memsz) of each PT_LOAD."""
        found = []
        for number in range(self.phnum):
            at = self.phoff + number * self.phentsize
            if self.wide:
                kind, _, offset, vaddr, _, filesz, memsz = struct.unpack_from("<IIQQQQQ", self.data, at)
            else:
                kind, offset, vaddr, _, filesz, memsz = struct.unpack_from("<IIIIII", self.data, at)
            if kind == _PT_LOAD:
                found.append((offset, vaddr, filesz, memsz))
        return found

    def sections(self) -> list[tuple[int, int, int, int]]:
        """(type, offset, size, link) of each section."""
        layout, skip = ("<IQQQQI", 4) if self.wide else ("<IIIIII", 4)
        found = []
        for number in range(self.shnum):
            kind, _, _, offset, size, link = struct.unpack_from(
                layout, self.data, self.shoff + number * self.shentsize + skip
            )
            found.append((kind, offset, size, link))
        return found


def load_probe(
    path: Path,
    kernel: Path,
    size: int = 256 * MB,
    environment: Mapping[str, str] | None = None,
    preloads: Sequence[tuple[str, str, bytes]] = (),
    howto: int = 0,
    disks: Sequence[Mapping[str, object]] = (),
    load_above: int = 0,
) -> LoadedVm:
    """A VM in the directory ``path`` as bhyveload leaves it: the kernel, (name, type, content) preloads, the metadata.

    ``load_above``: place what follows the kernel at this address or above.
    """
    elf = Elf(kernel.read_bytes())
    vm = empty_vm(path, size)
    memory = vm.memory
    word = 8 if elf.wide else 4
    pack_word = "<Q" if elf.wide else "<I"
    base = elf.entry & ~0xFFF
    offset = -(base & (0xFFFFFFFFFF000000 if elf.wide else 0xFF000000))
    first, last = 1 << 64, 0
    for file_offset, vaddr, filesz, memsz in elf.segments():
        start = (vaddr + offset) & ((1 << 64) - 1)
        memory.write(start, elf.data[file_offset : file_offset + filesz])
        first, last = min(first, start), max(last, start + memsz)
    ssym = round_up(last, 8)
    symbols = next(section for section in elf.sections() if section[0] == _SHT_SYMTAB)
    strings = elf.sections()[symbols[3]]
    esym = ssym
    for _, at, length, _ in (symbols, strings):
        table = struct.pack(pack_word, length) + elf.data[at : at + length]
        memory.write(esym, table)
        esym += round_up(len(table), word)
    files = [("/boot/kernel/kernel", "elf kernel", first, esym - first)]
    top = max(esym, load_above)
    for name, kind, content in preloads:
        start = round_up(top, PAGE)
        memory.write(start, content)
        files.append((name, kind, start, len(content)))
        top = start + len(content)
    envp = round_up(top, PAGE)
    strings_block = b"".join(f"{k}={v}".encode() + b"\0" for k, v in sorted((environment or {}).items())) + b"\0"
    memory.write(envp, strings_block)
    modulep = round_up(envp + len(strings_block), PAGE)
    smap = struct.pack("<QQI", 0, 0xA0000, 1) + struct.pack("<QQI", MB, memory.low - MB, 1)
    if memory.high:
        smap += struct.pack("<QQI", 1 << 32, memory.high, 1)
    if not elf.wide:
        howto |= RB_BOOTINFO
    sections = elf.data[elf.shoff : elf.shoff + elf.shnum * elf.shentsize]

    def records(kernend: int) -> list[tuple[int, bytes]]:
        made = []
        for name, kind, start, length in files:
            made += [(NAME, name.encode() + b"\0"), (TYPE, kind.encode() + b"\0")]
            made += [(ADDR, struct.pack(pack_word, start)), (SIZE, struct.pack("<Q", length))]
            if kind == "elf kernel":
                made += [(SMAP, smap), (KERNEND, struct.pack("<Q", kernend)), (ENVP, struct.pack("<Q", envp))]
                made += [(HOWTO, struct.pack("<I", howto)), (ELFHDR, elf.header)]
                made += [(ESYM, struct.pack(pack_word, esym)), (SSYM, struct.pack(pack_word, ssym)), (SHDR, sections)]
        return made

    def buffer(kernend: int) -> bytes:
        blob = b""
        for kind, payload in records(kernend):
            blob += struct.pack("<II", kind, len(payload)) + payload.ljust(round_up(len(payload), word), b"\0")
        return blob + bytes(8)

    kernend = round_up(modulep + len(buffer(0)), PAGE)
    memory.write(modulep, buffer(kernend))
    vcpu = Registers()
    if elf.wide:
        memory.write(0x1000, struct.pack("<III", 0, modulep, kernend))
        memory.write(0x2000, struct.pack("<Q", 0x3003) * 512)
        memory.write(0x3000, struct.pack("<Q", 0x4003) * 512)
        memory.write(0x4000, b"".join(struct.pack("<Q", i * 0x200000 | 0x83) for i in range(512)))
        memory.write(0x5000, struct.pack("<QQQ", 0, 0x0020980000000000, 0x0000900000000000))
        setup_freebsd_registers(vcpu, elf.entry, 0x2000, 0x5000, 0x1000)
    else:
        extmem = (memory.low - MB) >> 10
        bootinfo = struct.pack("<II", 1, 0x2054) + bytes(40) + struct.pack("<IB3xII", 0x54, 1, 640, extmem)
        bootinfo += struct.pack("<5I", ssym, esym, kernend, envp, modulep)
        memory.write(0x2000, bootinfo + b"/boot/kernel/kernel\0")
        memory.write(0x1FDC, struct.pack("<9I", 0xBEEFFACE, howto, 0, 0, 0, 0, 0x2000, modulep, kernend))
        setup_freebsd_registers_i386(vcpu, memory, elf.entry & 0xFFFFFF, 0x3000, 0x1FDC)
    vm.records = records(kernend)
    vm.kernel_size = last - first
    vm.state = {
        "schema": 1,
        "name": path.name,
        "memory": {"low": memory.low, "high": memory.high},
        "vcpus": [vcpu.as_dict()],
        "loaded": {"disks": [dict(disk) for disk in disks], "modulep": modulep, "kernend": kernend},
    }
    (path / "state.json").write_text(json.dumps(vm.state))
    return vm
