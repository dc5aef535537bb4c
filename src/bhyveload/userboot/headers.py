"""A loader object's ELF header and program headers: every number checked before anything is mapped.

Source: System V ABI, "Program Header", and the objects themselves.  The object is FreeBSD's, so EI_OSABI says nothing
here: base builds carry 9, which is why the host's own dlopen(3) refuses them.
"""

from __future__ import annotations

from bhyveload.boot_formats import elf_format as elf
from bhyveload.errors import KernelError
from bhyveload.freebsd_errno import ENOEXEC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

PAGE_SIZE = 4096
MAX_SEGMENTS = 64
MAX_SPAN = 1 << 30  # userboot needs about 70 MiB: 64 MiB of it is its heap
MAX_ALIGN = 1 << 21
HINT = "give FreeBSD's own userboot_lua.so or userboot_4th.so for amd64"


def refuse(reason: str, hint: str = HINT) -> NoReturn:
    """Raise KernelError(ENOEXEC): the one way in which a loader object is refused."""
    raise KernelError(ENOEXEC, f"loader object: {reason}", hint)


def page_floor(value: int) -> int:
    return value & -PAGE_SIZE


def page_ceil(value: int) -> int:
    return (value + PAGE_SIZE - 1) & -PAGE_SIZE


class MappedSegment:
    """One PT_LOAD: file bytes [offset, offset + filesz) at ``start``, zeros up to ``end`` (the object's addresses)."""

    __slots__ = ("end", "filesz", "flags", "offset", "start")

    def __init__(self, start: int, end: int, offset: int, filesz: int, flags: int) -> None:
        self.start = start
        self.end = end
        self.offset = offset
        self.filesz = filesz
        self.flags = flags


class Headers:
    """What the mapper needs to know: segments in address order, the dynamic section, RELRO, sizes.

    ``dynamic`` and ``relro`` are (start, end) in the object's own addresses; relro is (0, 0) when there is none.
    """

    __slots__ = ("align", "dynamic", "lowest", "relro", "segments", "span")

    def __init__(
        self, segments: list[MappedSegment], dynamic: tuple[int, int], relro: tuple[int, int], align: int
    ) -> None:
        self.segments = segments
        self.dynamic = dynamic
        self.relro = relro
        self.align = align
        self.lowest = page_floor(segments[0].start)
        self.span = page_ceil(segments[-1].end) - self.lowest

    def segment_at(self, address: int, length: int) -> MappedSegment | None:
        """The segment that holds [address, address + length) wholly."""
        for segment in self.segments:
            if segment.start <= address and address + length <= segment.end:
                return segment
        return None

    def executable(self, address: int) -> bool:
        segment = self.segment_at(address, 1)
        return segment is not None and segment.flags & elf.PF_X != 0


def parse_headers(data: memoryview) -> Headers:
    """Check the ELF header and program headers of ``data`` (the whole file).

    Raises KernelError(ENOEXEC): not an amd64 shared object, a number out of bounds, a segment both writable and
    executable, thread-local storage, no dynamic section.

    PT_GNU_STACK is not looked at: FreeBSD's old linker asks for an executable stack because of one assembler file
    without the note, no userboot uses one, and the stack here is the process's own and never executable.
    """
    if len(data) < elf.ELF64.ehdr.size or data[:4] != elf.ELFMAG:
        refuse("not an ELF file")
    ident, e_type, machine, _version, _entry, phoff, _shoff, _flags, _ehsize, phentsize, phnum, *_ = (
        elf.ELF64.ehdr.unpack_from(data)
    )
    if ident[elf.EI_CLASS] != elf.ELFCLASS64 or ident[elf.EI_DATA] != elf.ELFDATA2LSB or machine != elf.EM_X86_64:
        refuse("not built for amd64")
    if ident[elf.EI_VERSION] != elf.EV_CURRENT or e_type != elf.ET_DYN:
        refuse("not a shared object")
    if phentsize != elf.ELF64.phdr.size or not 0 < phnum <= MAX_SEGMENTS or phoff + phnum * phentsize > len(data):
        refuse(f"{phnum} program headers at {phoff:#x} do not lie in the file")

    segments: list[MappedSegment] = []
    dynamic = relro = (0, 0)
    align = PAGE_SIZE
    for index in range(phnum):
        kind, flags, offset, vaddr, _paddr, filesz, memsz, p_align = elf.ELF64.phdr.unpack_from(
            data, phoff + index * phentsize
        )
        if kind == elf.PT_LOAD:
            if memsz == 0 and filesz == 0:
                continue
            segments.append(_load_segment(len(data), index, flags, offset, vaddr, filesz, memsz, p_align))
            align = max(align, p_align)
        elif kind == elf.PT_DYNAMIC:
            dynamic = vaddr, vaddr + memsz
        elif kind == elf.PT_GNU_RELRO:
            relro = vaddr, vaddr + memsz
        elif kind == elf.PT_TLS and memsz:
            refuse("it wants thread-local storage")

    _check_order(segments)
    headers = Headers(segments, dynamic, relro, align)
    if headers.span > MAX_SPAN:
        refuse(f"it wants {headers.span >> 20} MiB of address space (at most {MAX_SPAN >> 20})")
    if dynamic == (0, 0):
        refuse("it has no dynamic section")
    if headers.segment_at(dynamic[0], dynamic[1] - dynamic[0]) is None:
        refuse(f"its dynamic section at {dynamic[0]:#x} lies in no segment")
    if relro[1] > relro[0]:
        _check_relro(headers, relro)
    return headers


def _check_relro(headers: Headers, relro: tuple[int, int]) -> None:
    """The range may end behind its segment, in the segment's last page: lld rounds it up to the page."""
    holder = headers.segment_at(relro[0], 1)
    if holder is None or not holder.flags & elf.PF_W or page_ceil(relro[1]) > page_ceil(holder.end):
        refuse(f"its RELRO range at {relro[0]:#x} lies in no writable segment")


def _load_segment(
    file_size: int, index: int, flags: int, offset: int, vaddr: int, filesz: int, memsz: int, align: int
) -> MappedSegment:
    name = f"segment {index}"
    if filesz > memsz or offset + filesz > file_size:
        refuse(f"{name}: {filesz:#x} bytes at {offset:#x} do not lie in the file")
    if vaddr + memsz > MAX_SPAN:
        refuse(f"{name}: address {vaddr:#x}+{memsz:#x} is out of bounds")
    if align > 1 and (align & (align - 1) or align > MAX_ALIGN or (vaddr - offset) % min(align, PAGE_SIZE)):
        refuse(f"{name}: alignment {align:#x} does not fit address {vaddr:#x} and offset {offset:#x}")
    if flags & elf.PF_W and flags & elf.PF_X:
        refuse(f"{name} is both writable and executable")
    return MappedSegment(vaddr, vaddr + memsz, offset, filesz, flags)


def _check_order(segments: list[MappedSegment]) -> None:
    if not segments:
        refuse("it has nothing to load")
    end = 0
    for segment in segments:
        if page_floor(segment.start) < end:
            refuse(f"the segment at {segment.start:#x} overlaps another or is out of order")
        end = page_ceil(segment.end)
