"""Loading relocatable object modules (ET_REL): amd64's .ko files.

Source: stand/common/load_elf_obj.c; docs/errata.md, "What a load prints", "Relocatable objects".
"""

from __future__ import annotations

from bhyveload.boot_formats.elf_format import (
    SH_ADDR,
    SH_ADDRALIGN,
    SH_FLAGS,
    SH_INFO,
    SH_LINK,
    SH_NAME,
    SH_OFFSET,
    SH_SIZE,
    SH_TYPE,
    SHF_ALLOC,
    SHN_UNDEF,
    SHT_FINI_ARRAY,
    SHT_INIT_ARRAY,
    SHT_NOBITS,
    SHT_PROGBITS,
    SHT_REL,
    SHT_RELA,
    SHT_STRTAB,
    SHT_SYMTAB,
    SHT_X86_64_UNWIND,
)
from bhyveload.boot_formats.modinfo_format import MODINFOMD_ELFHDR, MODINFOMD_SHDR, OBJECT_TYPE
from bhyveload.errors import KernelError
from bhyveload.freebsd_errno import EIO, EOPNOTSUPP
from bhyveload.loader.console import MODULE_VERBOSE_SILENT
from bhyveload.loader.kernel.guest import (
    MIB,
    PAGE_SIZE,
    copyout,
    kern_pread,
    pread,
    refuse_if_too_small,
    round_up,
    zero,
)
from bhyveload.loader.kernel.modmetadata import ModuleSet
from bhyveload.loader.kernel.preloaded import PreloadedFile
from bhyveload.loader.kernel.relocation import Relocations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from bhyveload.boot_formats.elf_format import ElfClass, ElfHeader
    from bhyveload.host.interface import GuestCopy
    from bhyveload.loader.console import LoaderConsole
    from bhyveload.loader.files.open_file import OpenFile

_PLACED = (SHT_PROGBITS, SHT_NOBITS, SHT_X86_64_UNWIND, SHT_INIT_ARRAY, SHT_FINI_ARRAY)
_MODMETADATA_SET = b"set_modmetadata_set\0"
_MAX_NAMES = MIB
# FreeBSD's largest modules have some sixty sections with relocations and 200,000 of these
_MAX_RELOCATED, _MAX_TABLES, _MAX_RELOCATIONS = 1024, 8, 1 << 20


def load(
    guest: GuestCopy, console: LoaderConsole, elf: ElfClass, file: OpenFile, header: ElfHeader, path: str, dest: int
) -> PreloadedFile:
    """The rest of elfN_obj_loadfile: load ``file``, whose header was accepted, at ``dest`` rounded up to a page.

    Raises KernelError: EIO (damaged), ENOMEM (memory too small).
    """
    verbose = console.module_verbose > MODULE_VERBOSE_SILENT
    base = round_up(dest, PAGE_SIZE)
    if verbose:
        console.print(f"{path} ")
    preloaded = PreloadedFile(path, OBJECT_TYPE, base)
    try:
        preloaded.size = _Object(guest, console, elf, file, header, path, base).load(preloaded)
        if verbose:
            console.print(f"size {preloaded.size:#x} at {base:#x}")
    finally:
        if verbose:
            console.print("\n")
    if preloaded.size == 0:
        raise KernelError(EIO, f"{path} has nothing to load")
    preloaded.add_metadata(MODINFOMD_ELFHDR, header.raw)
    return preloaded


class _Object:
    """elfN_obj_loadimage: one object on its way into memory.  A section's sh_addr is its guest address, 0: none."""

    def __init__(
        self,
        guest: GuestCopy,
        console: LoaderConsole,
        elf: ElfClass,
        file: OpenFile,
        header: ElfHeader,
        path: str,
        base: int,
    ) -> None:
        self.guest = guest
        self.console = console
        self.elf = elf
        self.file = file
        self.header = header
        self.path = path
        self.base = base
        self.sections: list[list[int]] = []
        self.symtab: list[int] = []
        self._relocations: dict[int, Relocations] = {}
        self._relocatable: list[tuple[int, int, list[int]]] = []

    def load(self, preloaded: PreloadedFile) -> int:
        """Copy the object into memory; its size there.  Raises KernelError."""
        guest, shdr = self.guest, self.elf.shdr
        table = pread(self.file, self.header.e_shoff, self.header.e_shnum * shdr.size)
        if table is None:
            self._fail("read section headers failed")
        self.sections = [list(fields) for fields in shdr.iter_unpack(table)]
        end = self._place()
        refuse_if_too_small(guest, f"module {self.path}", end, MIB)
        zero(guest, self.base, end - self.base)
        self._read_sections()
        preloaded.add_metadata(MODINFOMD_SHDR, b"".join([shdr.pack(*section) for section in self.sections]))
        modules = self._module_set()
        if modules is not None:
            try:
                modules.read(preloaded)
            except KernelError as error:  # whatever parse_modmetadata returns, loadfile makes EIO of it
                raise KernelError(EIO, f"{self.path}: {error.message}") from None
        return end - self.base

    def _fail(self, text: str) -> NoReturn:
        self.console.print(f"\n{self.elf.name}_obj_loadimage: {text}\n")
        raise KernelError(EIO, f"{self.path}: {text}")

    def _place(self) -> int:
        """Decide where every section goes; the end of the last."""
        sections = self.sections
        end = self.base

        def place(section: list[int]) -> None:
            nonlocal end
            end = round_up(end, max(1, section[SH_ADDRALIGN]))
            section[SH_ADDR] = end
            end += section[SH_SIZE]

        for section in sections:
            section[SH_ADDR] = 0
        for section in sections:
            if section[SH_SIZE] and section[SH_TYPE] in _PLACED and section[SH_FLAGS] & SHF_ALLOC:
                place(section)
        tables = [section for section in sections if section[SH_TYPE] == SHT_SYMTAB]
        if len(tables) != 1:
            self._fail("file has no valid symbol table")
        self.symtab = tables[0]
        place(self.symtab)
        strtab = self._string_table(self.symtab[SH_LINK])
        if strtab is None:
            self._fail("file has invalid symbol strings")
        place(strtab)
        names = self._string_table(self.header.e_shstrndx) if self.header.e_shstrndx else None
        if names is None:
            self._fail("file has no section names")
        place(names)
        for section in sections:
            if section[SH_TYPE] in (SHT_REL, SHT_RELA) and section[SH_INFO] < len(sections):
                if sections[section[SH_INFO]][SH_FLAGS] & SHF_ALLOC:
                    place(section)
        for section in sections:  # place() of a hostile size or alignment must not leave the word
            if section[SH_ADDR] >> (8 * self.elf.word):
                self._fail("sections do not fit into the address space")
        return end

    def _string_table(self, index: int) -> list[int] | None:
        if index < len(self.sections) and self.sections[index][SH_TYPE] == SHT_STRTAB:
            return self.sections[index]
        return None

    def _read_sections(self) -> None:
        """Read what is in the file, by ascending offset; of two sections at one offset only the first."""
        by_offset: dict[int, list[int]] = {}
        for section in self.sections:
            if section[SH_ADDR] and section[SH_TYPE] != SHT_NOBITS:
                by_offset.setdefault(section[SH_OFFSET], section)
        for offset in sorted(by_offset):
            section = by_offset[offset]
            if not kern_pread(self.guest, self.file, section[SH_ADDR], section[SH_SIZE], offset):
                self._fail("read failed")

    # Module metadata

    def _module_set(self) -> ModuleSet | None:
        """obj_lookup_set: the section set_modmetadata_set, if there is one."""
        names = self.sections[self.header.e_shstrndx]
        text = copyout(self.guest, names[SH_ADDR], min(names[SH_SIZE], _MAX_NAMES)) + b"\0"
        for section in self.sections:
            at = section[SH_NAME]
            if section[SH_TYPE] == SHT_PROGBITS and at and text.startswith(_MODMETADATA_SET, at):
                start = section[SH_ADDR]
                stop = start + section[SH_SIZE]
                return ModuleSet(self.guest, self.elf, start, stop, relocate=self._relocate, say=self.console.print)
        return None

    def _relocate(self, value: bytearray, address: int) -> None:
        """obj_reloc_ptr: apply what every relocation section has for this piece of memory."""
        if not self._relocatable:
            self._relocatable = self._find_relocatable()
        for start, end, tables in self._relocatable:
            if start <= address and address + len(value) <= end:
                for index in tables:
                    relocations = self._relocations.get(index)
                    if relocations is None:
                        relocations = self._relocations[index] = self._read_relocations(index, start)
                    relocations.apply(value, address, self._symbol_address)

    def _find_relocatable(self) -> list[tuple[int, int, list[int]]]:
        """(start, end, indices of the relocation sections for it) of every section in memory that has any."""
        tables: dict[int, list[int]] = {}
        for index, section in enumerate(self.sections):
            if section[SH_TYPE] in (SHT_RELA, SHT_REL) and section[SH_ADDR]:
                tables.setdefault(section[SH_INFO], []).append(index)
        if len(tables) > _MAX_RELOCATED or max(map(len, tables.values()), default=0) > _MAX_TABLES:
            raise KernelError(EIO, f"{len(tables)} sections with relocations")
        found = []
        for target, indices in tables.items():
            start = self.sections[target][SH_ADDR]
            if start:
                found.append((start, start + self.sections[target][SH_SIZE], indices))
        return found

    def _read_relocations(self, index: int, base: int) -> Relocations:
        if self.elf.word == 4:  # the 64-bit loader cannot relocate i386 code
            raise KernelError(EOPNOTSUPP, "an i386 object module cannot be relocated")
        section = self.sections[index]
        known = sum(relocations.count for relocations in self._relocations.values())
        if known + section[SH_SIZE] // self.elf.rel.size > _MAX_RELOCATIONS:
            raise KernelError(EIO, "too many relocations of module metadata")
        address, size, addend = section[SH_ADDR], section[SH_SIZE], section[SH_TYPE] == SHT_RELA
        return Relocations(self.guest, self.console.print, address, size, base, addend)

    def _symbol_address(self, index: int) -> int:
        """obj_symaddr: where a symbol of the object lies, 0 when it is not in it."""
        size = self.elf.sym.size
        if index >= self.symtab[SH_SIZE] // size:
            return 0
        data = copyout(self.guest, self.symtab[SH_ADDR] + index * size, size)
        _, _, shndx, value = self.elf.symbol(data)
        if shndx == SHN_UNDEF or shndx >= len(self.sections):
            return 0
        base = self.sections[shndx][SH_ADDR]
        return base + value if base else 0
