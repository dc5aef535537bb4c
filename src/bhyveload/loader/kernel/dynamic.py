"""The dynamic section of kernels and shared modules: symbols by name, and through them the module metadata.

Source: stand/common/load_elf.c (the end of loadimage, lookup_symbol, parse_modmetadata, reloc_ptr);
docs/errata.md, "What a load prints".
"""

from __future__ import annotations

from bhyveload.boot_formats.elf_format import (
    DT_HASH,
    DT_REL,
    DT_RELA,
    DT_RELASZ,
    DT_RELSZ,
    DT_STRSZ,
    DT_STRTAB,
    DT_SYMTAB,
    SHN_UNDEF,
    STN_UNDEF,
    STT_NOTYPE,
    STT_OBJECT,
    elf_hash,
)
from bhyveload.boot_formats.modinfo_format import KERNEL_TYPE
from bhyveload.errors import KernelError
from bhyveload.freebsd_errno import EIO
from bhyveload.loader.kernel.guest import MIB, WORD_MASK, copyout, string
from bhyveload.loader.kernel.modmetadata import ModuleSet, fake_module_name
from bhyveload.need import OnDemand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.boot_formats.elf_format import ElfClass, Segment
    from bhyveload.host.interface import GuestCopy
    from bhyveload.loader.console import LoaderConsole
    from bhyveload.loader.kernel import relocation
    from bhyveload.loader.kernel.modmetadata import Relocate
    from bhyveload.loader.kernel.preloaded import PreloadedFile
else:
    relocation = OnDemand("bhyveload.loader.kernel.relocation")

_MAX_DYNAMIC = MIB
_MAX_CHAIN = 4096


class SymbolTable:
    """The DT_HASH table of a loaded file; addresses are guest physical."""

    __slots__ = ("buckets", "chains", "guest", "nbuckets", "nchains", "strtab", "symtab")

    def __init__(self, guest: GuestCopy, hashtab: int, symtab: int, strtab: int) -> None:
        self.guest = guest
        self.symtab = symtab
        self.strtab = strtab
        self.nbuckets = _u32(guest, hashtab)
        self.nchains = _u32(guest, hashtab + 4)
        self.buckets = hashtab + 8
        self.chains = self.buckets + 4 * self.nbuckets


def _u32(guest: GuestCopy, address: int) -> int:
    return int.from_bytes(copyout(guest, address & WORD_MASK, 4), "little")


def read(
    guest: GuestCopy, console: LoaderConsole, elf: ElfClass, file: PreloadedFile, segment: Segment | None, offset: int
) -> SymbolTable | None:
    """Read the modules and dependencies of a loaded file.  The symbol table, or None for a file without a usable one.

    Raises KernelError(EIO) when there is a symbol table but no module metadata set in it.
    """
    if segment is None:
        return None
    entries = _entries(guest, elf, segment, offset)
    hashtab, symtab, strtab = (
        (entries[tag] + offset) & WORD_MASK if tag in entries else 0 for tag in (DT_HASH, DT_SYMTAB, DT_STRTAB)
    )
    if 0 in (hashtab, symtab, strtab, entries.get(DT_STRSZ, 0)):
        return None
    symbols = SymbolTable(guest, hashtab, symtab, strtab)
    bounds = [
        lookup(console, elf, symbols, f"__{side}_set_modmetadata_set".encode(), STT_NOTYPE)
        for side in ("start", "stop")
    ]
    start, stop = bounds
    if start is None or stop is None:
        raise KernelError(EIO, f"{file.name} has no module metadata set: it is not a FreeBSD kernel or module")
    first, last = (start + offset) & WORD_MASK, (stop + offset) & WORD_MASK
    if file.type == KERNEL_TYPE:
        modules = ModuleSet(guest, elf, first, last, offset, dependencies=False)
    elif elf.word == 4:
        # The 64-bit loader has no relocations for i386: it moves pointers as in a kernel when the module has a
        # relocation at all, and leaves them alone otherwise
        some = any(size >= entry for _, size, _, entry in _tables(elf, entries, offset))
        modules = ModuleSet(guest, elf, first, last, offset if some else 0)
    else:
        modules = ModuleSet(guest, elf, first, last, relocate=_relocation(guest, console, elf, entries, offset))
    try:
        if modules.read(file) == 0:
            file.add_module(fake_module_name(file.name), 1)
    except RelocationFailed:
        pass  # as the original: what was read so far stays
    return symbols


class RelocationFailed(Exception):
    """A record of a shared module could not be relocated."""


def _entries(guest: GuestCopy, elf: ElfClass, segment: Segment, offset: int) -> dict[int, int]:
    """The dynamic section up to DT_NULL, tag -> value (the last one of a tag counts)."""
    size = min(segment.p_filesz, _MAX_DYNAMIC) // elf.dyn.size * elf.dyn.size
    entries: dict[int, int] = {}
    for tag, value in elf.dyn.iter_unpack(copyout(guest, (segment.p_vaddr + offset) & WORD_MASK, size)):
        if tag == 0:
            break
        entries[tag] = value
    return entries


def _tables(elf: ElfClass, entries: dict[int, int], offset: int) -> list[tuple[int, int, bool, int]]:
    """(guest address, bytes, whether with addends, bytes an entry) of DT_REL and DT_RELA."""
    kinds = ((DT_REL, DT_RELSZ, elf.rel), (DT_RELA, DT_RELASZ, elf.rela))
    return [
        ((entries.get(tag, 0) + offset) & WORD_MASK, entries.get(size_tag, 0), layout is elf.rela, layout.size)
        for tag, size_tag, layout in kinds
    ]


def _relocation(
    guest: GuestCopy, console: LoaderConsole, elf: ElfClass, entries: dict[int, int], offset: int
) -> Relocate:
    """reloc_ptr for the pointers of an amd64 shared module."""
    found = [
        relocation.Relocations(guest, console.print, address, size, offset, addend)
        for address, size, addend, _ in _tables(elf, entries, offset)
    ]

    def relocate(value: bytearray, address: int) -> None:
        try:
            for relocations in found:
                relocations.apply(value, address, lambda symbol: 0)
        except KernelError as error:
            raise RelocationFailed from error

    return relocate


def lookup(console: LoaderConsole, elf: ElfClass, symbols: SymbolTable | None, name: bytes, type_: int) -> int | None:
    """lookup_symbol: st_value of a defined symbol of that type; None, complaining about a damaged or missing table."""
    if symbols is not None and symbols.nbuckets:
        guest = symbols.guest
        number = _u32(guest, symbols.buckets + elf_hash(name) % symbols.nbuckets * 4)
        for _ in range(_MAX_CHAIN):
            if number == STN_UNDEF:
                return None
            if number >= symbols.nchains:
                break
            data = copyout(guest, (symbols.symtab + number * elf.sym.size) & WORD_MASK, elf.sym.size)
            st_name, st_type, shndx, value = elf.symbol(data)
            if st_name == 0:
                break
            if string(guest, (symbols.strtab + st_name) & WORD_MASK) == name:
                return value if shndx != SHN_UNDEF and value != 0 and st_type == type_ else None
            number = _u32(guest, symbols.chains + number * 4)
    console.print(f"{elf.name}_lookup_symbol: corrupt symbol table\n")
    return None


def look_for_kernphys(console: LoaderConsole, elf: ElfClass, symbols: SymbolTable | None) -> None:
    """is_kernphys_relocatable: userboot makes no use of the answer, but the search may complain."""
    lookup(console, elf, symbols, b"kernphys", STT_OBJECT)
