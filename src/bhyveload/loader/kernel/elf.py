"""Loading ELF kernels (ET_EXEC) and shared-object modules (ET_DYN).

Source: stand/common/load_elf.c; docs/errata.md, "What a load prints", "kernelname".  Files are opened, sought
and read in the original's order: each access may show a progress character.
"""

from __future__ import annotations

from bhyveload.boot_formats.elf_format import (
    EI_CLASS,
    EI_DATA,
    EI_VERSION,
    ELF32,
    ELF64,
    ELFDATA2LSB,
    ELFMAG,
    EM_NAMES,
    ET_DYN,
    ET_EXEC,
    ET_NAMES,
    ET_REL,
    EV_CURRENT,
    PF_W,
    PT_DYNAMIC,
    PT_LOAD,
    SH_ADDR,
    SH_LINK,
    SH_NAME,
    SH_OFFSET,
    SH_SIZE,
    SH_TYPE,
    SHT_STRTAB,
    SHT_SYMTAB,
    ElfHeader,
)
from bhyveload.boot_formats.modinfo_format import (
    KERNEL_TYPE,
    MODINFOMD_CTORS_ADDR,
    MODINFOMD_CTORS_SIZE,
    MODINFOMD_DYNAMIC,
    MODINFOMD_ELFHDR,
    MODINFOMD_ESYM,
    MODINFOMD_SHDR,
    MODINFOMD_SSYM,
    MODULE_TYPE,
)
from bhyveload.errors import FileSystemError, KernelError
from bhyveload.freebsd_errno import EFTYPE, EIO, ENOEXEC, EPERM
from bhyveload.loader.console import MODULE_VERBOSE_FULL, MODULE_VERBOSE_SILENT
from bhyveload.loader.kernel import dynamic
from bhyveload.loader.kernel.guest import (
    ADDRESS_SPACE,
    MIB,
    PAGE_SIZE,
    REACH,
    WORD_MASK,
    copyin,
    kern_pread,
    pread,
    read_into,
    refuse_if_too_small,
    round_up,
    signed,
    zero,
)
from bhyveload.loader.kernel.preloaded import PreloadedFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.boot_formats.elf_format import ElfClass, Segment
    from bhyveload.host.interface import GuestCopy
    from bhyveload.loader.console import LoaderConsole
    from bhyveload.loader.files.open_file import OpenFile

# What is held in our own memory of a file: section headers and section names
MAX_TABLE = 16 * MIB
_PACKED = (
    (b"\x1f\x8b", "gzip", ".gz"),
    (b"BZh", "bzip2", ".bz2"),
    (b"\x28\xb5\x2f\xfd", "zstd", ".zst"),
    (b"\xfd7zXZ", "xz", ".xz"),
)
_KERNEL_OFFSET_MASK = {8: 0xFFFFFFFFFF000000, 4: 0xFF000000}


def describe_foreign(data: bytes) -> str:
    """Why a file that begins with ``data`` is neither an amd64 nor an i386 kernel or module."""
    if not data:
        return "is empty"
    if data[:4] != ELFMAG:
        for magic, format_, suffix in _PACKED:
            if data.startswith(magic):
                return f"is compressed with {format_}: a file X{suffix} is found when X is loaded"
        return "is not an ELF file"
    if len(data) <= ELF64.ehdr.size:
        return "is too short for a kernel"
    if data[EI_DATA] != ELFDATA2LSB:
        return "is for a big-endian machine"
    machine = int.from_bytes(data[18:20], "little")
    for elf in (ELF32, ELF64):
        if (data[EI_CLASS], machine) == (elf.ei_class, elf.machine):
            kind = int.from_bytes(data[16:18], "little")
            if kind not in (ET_EXEC, ET_DYN, ET_REL):
                return f"is an ELF file of type {ET_NAMES.get(kind, kind)}: neither kernel nor module"
            return "has an ELF header that no loader understands"
    return f"is for machine {EM_NAMES.get(machine, machine)}, not amd64 or i386"


def read_header(file: OpenFile, elf: ElfClass) -> tuple[ElfHeader, bytes]:
    """load_elf_header: the ELF header and the file's first page.  Raises KernelError(EFTYPE)."""
    try:
        page = file.read(PAGE_SIZE)
    except FileSystemError as error:
        raise KernelError(EFTYPE, f"{file.name} cannot be read: {error.message}") from None
    if len(page) <= elf.ehdr.size or not acceptable(elf, page):
        raise KernelError(EFTYPE, f"{file.name} {describe_foreign(page)}")
    return ElfHeader(elf, page), page


def acceptable(elf: ElfClass, data: bytes) -> bool:
    """Whether ``data`` begins with an ELF header of that class and its machine."""
    if (
        data[:4] != ELFMAG
        or data[EI_CLASS] != elf.ei_class
        or data[EI_DATA] != ELFDATA2LSB
        or data[EI_VERSION] != EV_CURRENT
    ):
        return False
    header = ElfHeader(elf, data)
    return (header.e_version, header.e_machine) == (EV_CURRENT, elf.machine)


def refuse_wrong_kind(
    console: LoaderConsole, elf: ElfClass, path: str, header: ElfHeader, page: bytes, kernel: PreloadedFile | None
) -> None:
    """Raise KernelError unless a file with that header can be loaded next, ``kernel`` being loaded: EPERM (order of
    loading, or no kernel), EFTYPE (neither a kernel nor a shared module)."""
    if header.e_type == ET_EXEC:
        if kernel is not None:
            console.print(f"{elf.name}_loadfile: kernel already loaded\n")
            raise KernelError(EPERM, f"{path} is a second kernel: {kernel.name} is loaded", "unload it first")
        if header.e_entry < PAGE_SIZE:
            console.print(f"{elf.name}_loadfile: not a kernel (maybe static binary?)\n")
            raise KernelError(EPERM, f"{path} is not a kernel: it starts at address {header.e_entry:#x}")
    elif header.e_type != ET_DYN:
        raise KernelError(EFTYPE, f"{path} {describe_foreign(page)}")
    elif kernel is None:
        console.print(f"{elf.name}_loadfile: can't load module before kernel\n")
        raise KernelError(EPERM, f"{path} is a module: load a kernel first")


def load(
    guest: GuestCopy,
    console: LoaderConsole,
    elf: ElfClass,
    file: OpenFile,
    header: ElfHeader,
    page: bytes,
    path: str,
    dest: int,
) -> PreloadedFile:
    """The rest of elfN_loadfile: load ``file``, whose header and first page were accepted; modules go to ``dest``.

    Raises KernelError: EIO (damaged), ENOMEM (memory too small), ENOEXEC (segments overlap).
    """
    is_kernel = header.e_type == ET_EXEC
    preloaded = PreloadedFile(path, KERNEL_TYPE if is_kernel else MODULE_TYPE)
    if is_kernel:
        base = header.e_entry & ~(PAGE_SIZE - 1)
        offset = -(base & _KERNEL_OFFSET_MASK[elf.word]) & WORD_MASK
    else:
        offset = round_up(dest, PAGE_SIZE)
    verbose = console.module_verbose
    if verbose >= MODULE_VERBOSE_FULL:
        if is_kernel:
            console.print(f"{path} entry at {header.e_entry:#x}\n")
    elif verbose > MODULE_VERBOSE_SILENT:
        console.print(f"{path} ")
    image = _Image(guest, console, elf, file, header, page, preloaded, offset)
    image.load()
    symbols = dynamic.read(guest, console, elf, preloaded, image.dynamic, offset)
    if preloaded.size == 0 or preloaded.addr == 0:
        raise KernelError(EIO, f"{path} has nothing to load")
    preloaded.add_metadata(MODINFOMD_ELFHDR, header.raw)
    dynamic.look_for_kernphys(console, elf, symbols)
    return preloaded


class _Image:
    """elfN_loadimage: one file on its way into memory.  ``dynamic`` is its PT_DYNAMIC segment afterwards."""

    def __init__(
        self,
        guest: GuestCopy,
        console: LoaderConsole,
        elf: ElfClass,
        file: OpenFile,
        header: ElfHeader,
        page: bytes,
        preloaded: PreloadedFile,
        offset: int,
    ) -> None:
        self.guest = guest
        self.console = console
        self.elf = elf
        self.file = file
        self.header = header
        self.page = page
        self.preloaded = preloaded
        self.offset = offset
        self.verbose = console.module_verbose
        self.first = 0
        self.last = 0
        self.segments: list[Segment] = []
        self.dynamic: Segment | None = None

    def load(self) -> None:
        """Copy segments and symbols; sets addr, size and metadata of the preloaded file.  Raises KernelError."""
        console, elf, header = self.console, self.elf, self.header
        size = elf.phdr.size
        if header.e_phoff + header.e_phnum * size > len(self.page):
            console.print(f"{elf.name}_loadimage: program header not within first page\n")
            raise KernelError(EIO, f"{self.preloaded.name}: its program headers are not within the first page")
        headers = [elf.segment(self.page, header.e_phoff + index * size) for index in range(header.e_phnum)]
        self.segments = [segment for segment in headers if segment.p_type == PT_LOAD]
        self.dynamic = next((segment for segment in headers if segment.p_type == PT_DYNAMIC), None)
        try:
            self._refuse_misplaced()
            for segment in self.segments:
                self._load_segment(segment)
            if not self.segments and self.header.e_type == ET_DYN:
                self.last = self.offset  # refused in the end; the original writes its symbols to address 0
            self.last = round_up(self.last, 8)
            self._load_sections()
        except KernelError as error:
            if error.errno != EIO and self.verbose > MODULE_VERBOSE_SILENT:  # ours: end the line that was begun
                console.print("\n")
            raise
        if self.verbose > MODULE_VERBOSE_SILENT:
            console.print("\n")
        length = self.last - self.first
        if length >= REACH:
            raise KernelError(EIO, f"{self.preloaded.name}: its segments lie {length // MIB} MiB apart")
        self.preloaded.addr = self.first
        self.preloaded.size = length
        if self.dynamic is not None:
            self.preloaded.add_metadata(MODINFOMD_DYNAMIC, self._word(self.dynamic.p_vaddr))

    def _refuse_misplaced(self) -> None:
        """Refuse what cannot be loaded, before anything is written."""
        name = self.preloaded.name
        top = 0
        ranges: list[tuple[int, int]] = []
        for segment in self.segments:
            size = max(segment.p_memsz, segment.p_filesz)
            start = (segment.p_vaddr + self.offset) & WORD_MASK
            end = start + size
            outside = self.header.e_type == ET_DYN and start < self.offset  # over what was loaded before
            if outside or segment.p_vaddr + size > 1 << 8 * self.elf.word or end > ADDRESS_SPACE:
                raise KernelError(ENOEXEC, f"{name}: a segment at {segment.p_vaddr:#x} wraps around the address space")
            if start < REACH or self.header.e_type == ET_DYN:
                top = max(top, end)
            if segment.p_memsz:
                ranges.append((start, start + segment.p_memsz))
        highest = 0
        for start, end in sorted(ranges):
            if start < highest:
                raise KernelError(ENOEXEC, f"{name}: two segments overlap at {start:#x}")
            highest = end
        known = self.file.file.size
        if 0 <= known < max((segment.p_offset + segment.p_filesz for segment in self.segments), default=0):
            return  # cut short: that is what reading it is going to say
        # What follows the segments: about as much as the rest of the file, and the variables
        rest = max(0, known - sum(segment.p_filesz for segment in self.segments))
        refuse_if_too_small(self.guest, self._what(), top, min(rest, REACH) + MIB)

    def _what(self) -> str:
        return f"{'kernel' if self.header.e_type == ET_EXEC else 'module'} {self.preloaded.name}"

    def _word(self, value: int) -> bytes:
        """A number as an Elf_Addr."""
        return (value & WORD_MASK).to_bytes(8, "little")[: self.elf.word]

    def _load_segment(self, segment: Segment) -> None:
        guest, console, page = self.guest, self.console, self.page
        start = (segment.p_vaddr + self.offset) & WORD_MASK
        filesz, memsz = segment.p_filesz, segment.p_memsz
        self._announce(segment, start)
        cached = max(0, len(page) - segment.p_offset)  # copied whole, even when the segment is shorter
        if cached:
            copyin(guest, page[segment.p_offset :], start)
        if filesz > cached and not kern_pread(
            guest, self.file, start + cached, filesz - cached, (segment.p_offset + cached) & WORD_MASK
        ):
            console.print(f"\n{self.elf.name}_loadimage: read failed\n")
            raise KernelError(EIO, f"{self.preloaded.name}: the file ends within a segment")
        if filesz < memsz:
            if self.verbose >= MODULE_VERBOSE_FULL:
                console.print(f" (bss: {start + filesz:#x}-{start + memsz - 1:#x})")
            zero(guest, start + filesz, memsz - filesz)
        if self.verbose >= MODULE_VERBOSE_FULL:
            console.print("\n")
        if self.first == 0 or self.first > start:
            self.first = start
        self.last = max(self.last, start + memsz)

    def _announce(self, segment: Segment, start: int) -> None:
        filesz, memsz = segment.p_filesz, segment.p_memsz
        if self.verbose >= MODULE_VERBOSE_FULL:
            last = (start + memsz - 1) & WORD_MASK
            self.console.print(f"Segment: {filesz:#x}@{segment.p_offset:#x} -> {start:#x}-{last:#x}")
        elif self.verbose > MODULE_VERBOSE_SILENT:
            if not segment.p_flags & PF_W:
                self.console.print(f"text={filesz:#x} ")
            else:
                bss = f"+{memsz - filesz:#x}" if filesz < memsz else ""
                self.console.print(f"data={filesz:#x}{bss} ")

    # Section headers, constructors and symbols

    def _load_sections(self) -> None:
        header, shdr = self.header, self.elf.shdr
        size = header.e_shnum * header.e_shentsize
        if size == 0 or header.e_shoff == 0:
            return
        table = pread(self.file, header.e_shoff, size) if size <= MAX_TABLE else None
        if table is None:
            self.console.print(f"\n{self.elf.name}_loadimage: failed to read section headers")
            return
        self.preloaded.add_metadata(MODINFOMD_SHDR, table)
        count = min(header.e_shnum, size // shdr.size)
        sections = [list(shdr.unpack_from(table, index * shdr.size)) for index in range(count)]
        if header.e_shstrndx < count:
            self._find_ctors(sections, sections[header.e_shstrndx])
        symtab = self._symbol_table(sections)
        if symtab is None:
            return
        strtab = sections[symtab][SH_LINK]
        if strtab >= count:  # the original reads behind its table, or gives up on a negative index
            return
        self._load_symbols([sections[symtab], sections[strtab]])

    def _find_ctors(self, sections: list[list[int]], names: list[int]) -> None:
        if not 0 < names[SH_SIZE] <= MAX_TABLE:
            return
        text = pread(self.file, names[SH_OFFSET], names[SH_SIZE])
        if text is None:
            return
        text += b"\0"
        for section in sections:
            at = section[SH_NAME]
            if text[at : at + 7] == b".ctors\0":
                self.preloaded.add_metadata(MODINFOMD_CTORS_ADDR, self._word(section[SH_ADDR]))
                self.preloaded.add_metadata(MODINFOMD_CTORS_SIZE, self._word(section[SH_SIZE]))
                return

    def _symbol_table(self, sections: list[list[int]]) -> int | None:
        """The index of the last symbol table that no segment holds already."""
        found = None
        for index, section in enumerate(sections):
            start, size = section[SH_OFFSET], section[SH_SIZE]
            if section[SH_TYPE] != SHT_SYMTAB or start == 0 or size == 0:
                continue
            if not any(
                segment.p_offset <= start and start + size <= segment.p_offset + segment.p_filesz
                for segment in self.segments
            ):
                found = index
        return found

    def _load_symbols(self, tables: list[list[int]]) -> None:
        """Copy symbol table and string table behind the segments, each with its size in front."""
        guest, console, elf = self.guest, self.console, self.elf
        verbose = self.verbose
        if verbose >= MODULE_VERBOSE_FULL:
            console.print("syms=[")
        at = ssym = self.last
        for index, section in enumerate(tables):
            start, size = section[SH_OFFSET], section[SH_SIZE]
            copyin(guest, self._word(size), at)
            at += elf.word
            if verbose >= MODULE_VERBOSE_FULL:
                name = {SHT_SYMTAB: "symtab", SHT_STRTAB: "strtab"}.get(section[SH_TYPE], "WHOA!!")
                console.print(f"\n{name}: {size:#x}@{start:#x} -> {at:#x}-{at + size:#x}")
            elif verbose > MODULE_VERBOSE_SILENT:
                console.print(f"{'+' if index else ''}{elf.word:#x}+{size:#x}")
            try:
                self.file.lseek(signed(start))
            except FileSystemError:
                console.print(f"\n{elf.name}_loadimage: could not seek for symbols - skipped!")
                return
            known = self.file.file.size
            here = min(size, max(0, known - start)) if known >= 0 else size
            if at < REACH and here == size:
                refuse_if_too_small(guest, self._what(), at + size, MIB)
            done = read_into(guest, self.file, at, size)
            if done != size:
                shown = done & WORD_MASK
                console.print(f"\n{elf.name}_loadimage: could not read symbols - skipped! ({shown} != {size})")
                return
            at = round_up(at + size, elf.word)
        self.last = at
        if verbose >= MODULE_VERBOSE_FULL:
            console.print("]")
        self.preloaded.add_metadata(MODINFOMD_SSYM, self._word(ssym))
        self.preloaded.add_metadata(MODINFOMD_ESYM, self._word(at))
