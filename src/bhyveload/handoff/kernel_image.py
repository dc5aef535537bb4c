"""The kernel as it lies in guest memory: its segments, by the program headers in its first page.

All of it is the guest's: what does not fit is left out.
"""

from __future__ import annotations

from bhyveload.boot_formats.elf_format import ELF64, ELFMAG, PT_LOAD, ElfHeader
from bhyveload.errors import MemoryAccessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.vm.memory import GuestMemory

_PAGE = 4096
_HEADERS_MAX = 32


class KernelSegment:
    """``start`` to ``end`` guest physical, of which the file filled up to ``filled``; linked at ``vaddr``."""

    __slots__ = ("end", "filled", "flags", "start", "vaddr")

    def __init__(self, vaddr: int, start: int, filled: int, end: int, flags: int) -> None:
        self.vaddr = vaddr
        self.start = start
        self.filled = filled
        self.end = end
        self.flags = flags


def kernel_segments(memory: GuestMemory, address: int) -> list[KernelSegment]:
    """Those of a kernel of 64 bits at guest physical ``address``; of any other, none."""
    try:
        raw = memory.read(address, ELF64.ehdr.size)
        if raw[:5] != ELFMAG + bytes([ELF64.ei_class]):
            return []
        header = ElfHeader(ELF64, raw)
        if header.e_phnum > _HEADERS_MAX or header.e_phoff > _PAGE:
            return []
        data = memory.read(address + header.e_phoff, header.e_phnum * ELF64.phdr.size)
    except MemoryAccessError:
        return []
    found = [ELF64.segment(data, number * ELF64.phdr.size) for number in range(header.e_phnum)]
    load = [segment for segment in found if segment.p_type == PT_LOAD]
    if not load or load[0].p_offset:
        return []
    base = load[0].p_vaddr
    return [
        KernelSegment(
            segment.p_vaddr,
            segment.p_vaddr - base + address,
            segment.p_vaddr - base + address + segment.p_filesz,
            segment.p_vaddr - base + address + segment.p_memsz,
            segment.p_flags,
        )
        for segment in load
        if segment.p_vaddr >= base and segment.p_filesz <= segment.p_memsz
    ]
