"""A mapped loader object's dynamic section: its tables, its symbols, its relocations.

Everything is read from the mapped image (a writable view of the whole span) and checked against the segments, so a
hostile table leads to KernelError, not to a stray access.  Source: System V ABI, "Dynamic Linking"; DT_RELR from the
generic ABI.
"""

from __future__ import annotations

import struct

from bhyveload.boot_formats import elf_format as elf
from bhyveload.printable import escape_bytes
from bhyveload.userboot.headers import Headers, refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Resolve(Protocol):
        """Absolute address of symbol ``index``; ``called``: it is a function that only calls refer to."""

        def __call__(self, index: int, called: bool = False) -> int: ...


MAX_DYNAMIC = 1024
MAX_NAME = 256
MAX_CHAIN = 1 << 16
MAX_RELOCATIONS = 1 << 20  # userboot has some thousands
_MASK = (1 << 64) - 1
_C_LIBRARY = "libc.so."
UNDEFINED_HINT = "a userboot object leaves only time, memmem and abort to the host"
_KEPT = frozenset(
    (
        *(elf.DT_HASH, elf.DT_GNU_HASH, elf.DT_STRTAB, elf.DT_STRSZ, elf.DT_SYMTAB, elf.DT_SYMENT),
        *(elf.DT_RELA, elf.DT_RELASZ, elf.DT_RELAENT, elf.DT_REL, elf.DT_RELSZ, elf.DT_RELENT),
        *(elf.DT_RELR, elf.DT_RELRSZ, elf.DT_RELRENT, elf.DT_JMPREL, elf.DT_PLTREL, elf.DT_PLTRELSZ),
        *(elf.DT_INIT, elf.DT_INIT_ARRAY, elf.DT_INIT_ARRAYSZ),
        *(elf.DT_FLAGS, elf.DT_FLAGS_1, elf.DT_BIND_NOW),
    )
)
_ENTRY_SIZES = (
    (elf.DT_SYMENT, elf.ELF64.sym.size),
    (elf.DT_RELAENT, elf.ELF64.rela.size),
    (elf.DT_RELENT, elf.ELF64.rel.size),
    (elf.DT_RELRENT, 8),
)


class Dynamic:
    """``image`` is the object's memory from ``headers.lowest`` on; ``base`` is what is added to an object address."""

    __slots__ = ("base", "headers", "image", "strings", "strings_end", "symtab", "tags")

    def __init__(self, headers: Headers, image: memoryview, base: int) -> None:
        self.headers = headers
        self.image = image
        self.base = base
        self.tags = self._read_tags()
        for tag, size in _ENTRY_SIZES:
            if self.tags.get(tag, size) != size:
                refuse(f"dynamic tag {tag}: entries of {self.tags[tag]} bytes")
        if elf.DT_SYMTAB not in self.tags or elf.DT_STRTAB not in self.tags:
            refuse("it has no dynamic symbols")
        self.symtab = self.tags[elf.DT_SYMTAB]
        self.strings = self.tags[elf.DT_STRTAB]
        self.strings_end = self.strings + self.tags.get(elf.DT_STRSZ, 0)
        self._at(self.strings, self.strings_end - self.strings, "string table")

    def _read_tags(self) -> dict[int, int]:
        start, end = self.headers.dynamic
        at = self._at(start, end - start, "dynamic section")
        count = min((end - start) // elf.ELF64.dyn.size, MAX_DYNAMIC)
        tags: dict[int, int] = {}
        needed: list[int] = []
        for tag, value in elf.ELF64.dyn.iter_unpack(self.image[at : at + count * elf.ELF64.dyn.size]):
            if tag == elf.DT_NULL:
                break
            if tag == elf.DT_NEEDED:
                needed.append(value)
            elif tag == elf.DT_TEXTREL or (tag == elf.DT_FLAGS and value & elf.DF_TEXTREL):
                refuse("it has relocations in its program text")
            if tag in _KEPT:
                tags.setdefault(tag, value)
        if needed:
            self._check_needed(needed, tags)
        return tags

    def _check_needed(self, needed: list[int], tags: dict[int, int]) -> None:
        """FreeBSD's own builds need nothing.  One linked without -nostdlib names the C library, of which libsa's own
        functions leave nothing to use; any other library is refused."""
        for offset in needed:
            name = ""
            if elf.DT_STRTAB in tags and elf.DT_STRSZ in tags:
                self.strings = tags[elf.DT_STRTAB]
                self.strings_end = self.strings + tags[elf.DT_STRSZ]
                self._at(self.strings, tags[elf.DT_STRSZ], "string table")
                name = self.string(offset)
            if not name.startswith(_C_LIBRARY):
                refuse(f"it needs another library ({name or 'unnamed'})")

    def _at(self, address: int, length: int, what: str) -> int:
        """Index into the image of [address, address + length), which must lie in one segment."""
        if self.headers.segment_at(address, length) is None:
            refuse(f"{what}: {address:#x}+{length:#x} lies in no segment")
        return address - self.headers.lowest

    def string(self, offset: int) -> str:
        """The name at ``offset`` of the string table, printable whatever the file holds."""
        start = self.strings + offset
        if start >= self.strings_end:
            refuse(f"name at {offset:#x} lies outside the string table")
        at = start - self.headers.lowest
        raw = bytes(self.image[at : at + min(MAX_NAME, self.strings_end - start)])
        return escape_bytes(raw.partition(b"\0")[0])

    def symbol(self, index: int) -> tuple[int, int, int, int, int, int]:
        """Elf64_Sym number ``index``: name, info, other, shndx, value, size."""
        at = self._at(self.symtab + index * elf.ELF64.sym.size, elf.ELF64.sym.size, f"symbol {index}")
        symbol: tuple[int, int, int, int, int, int] = elf.ELF64.sym.unpack_from(self.image, at)
        return symbol

    # Looking up our own definitions

    def lookup(self, name: str) -> int | None:
        """Object address of the defined, global symbol ``name`` through DT_GNU_HASH or DT_HASH."""
        if elf.DT_GNU_HASH in self.tags:
            return self._lookup_gnu(name)
        if elf.DT_HASH not in self.tags:
            refuse("it has no symbol hash table")
        return self._lookup_sysv(name)

    def _word(self, address: int) -> int:
        at = self._at(address, 4, "symbol hash table")
        word: int = struct.unpack_from("<I", self.image, at)[0]
        return word

    def _match(self, index: int, name: str) -> int | None:
        st_name, info, _other, shndx, value, _size = self.symbol(index)
        if shndx == elf.SHN_UNDEF or info >> 4 not in (elf.STB_GLOBAL, elf.STB_WEAK) or self.string(st_name) != name:
            return None
        self._check_definition(info, shndx, name)
        return value

    def _lookup_sysv(self, name: str) -> int | None:
        table = self.tags[elf.DT_HASH]
        nbucket, nchain = self._word(table), self._word(table + 4)
        if nbucket == 0:
            return None
        buckets = table + 8
        chains = buckets + 4 * nbucket
        index = self._word(buckets + 4 * (elf.elf_hash(name.encode("latin-1")) % nbucket))
        for _ in range(min(nchain, MAX_CHAIN)):
            if index == 0:
                break
            if index >= nchain:
                refuse(f"symbol hash table: symbol {index} of {nchain}")
            value = self._match(index, name)
            if value is not None:
                return value
            index = self._word(chains + 4 * index)
        return None

    def _lookup_gnu(self, name: str) -> int | None:
        table = self.tags[elf.DT_GNU_HASH]
        nbucket, first, bloom_words = self._word(table), self._word(table + 4), self._word(table + 8)
        if nbucket == 0:
            return None
        wanted = elf.gnu_hash(name.encode("latin-1"))
        buckets = table + 16 + 8 * bloom_words
        chains = buckets + 4 * nbucket
        index = self._word(buckets + 4 * (wanted % nbucket))
        if index == 0:
            return None
        if index < first:
            refuse(f"symbol hash table: symbol {index} below {first}")
        for number in range(index, index + MAX_CHAIN):
            entry = self._word(chains + 4 * (number - first))
            if (entry ^ wanted) >> 1 == 0:
                value = self._match(number, name)
                if value is not None:
                    return value
            if entry & 1:
                break
        return None

    def _check_definition(self, info: int, shndx: int, name: str) -> None:
        if info & 15 == elf.STT_GNU_IFUNC:
            refuse(f"symbol {name} is an indirect function")
        if info & 15 == elf.STT_TLS:
            refuse(f"symbol {name} is thread-local")
        if shndx == elf.SHN_COMMON:
            refuse(f"symbol {name} is a common block")

    # Relocations

    def relocate(self, supplied: Callable[[str], int | None], missing: Callable[[str], int] | None = None) -> int:
        """Apply every relocation; returns how many.  ``supplied`` gives the absolute address of a symbol that the
        object leaves undefined, or None; ``missing`` the address of a function to call in place of one that nobody has.

        Undefined functions are bound as FreeBSD's rtld binds them, when they are called (JUMP_SLOT, no BIND_NOW): old
        userboots leave functions undefined that they never call (stand/userboot/userboot/main.c, getsecs).
        Raises KernelError(ENOEXEC): an undefined symbol (named), an unknown type, a place outside writable segments.
        """
        tags = self.tags
        count = 0
        if elf.DT_RELR in tags:
            count += self._relocate_relr(tags[elf.DT_RELR], tags.get(elf.DT_RELRSZ, 0))
        resolved: dict[tuple[int, bool], int] = {}
        lazy = None if self._binds_now() else missing

        def resolve(index: int, called: bool = False) -> int:
            value = resolved.get((index, called))
            if value is None:
                value = resolved[index, called] = self._resolve(index, supplied, lazy if called else None)
            return value

        if elf.DT_RELA in tags:
            count += self._relocate_rela(tags[elf.DT_RELA], tags.get(elf.DT_RELASZ, 0), resolve)
        if elf.DT_REL in tags:
            count += self._relocate_rel(tags[elf.DT_REL], tags.get(elf.DT_RELSZ, 0), resolve)
        if elf.DT_JMPREL in tags:
            kind = tags.get(elf.DT_PLTREL, elf.DT_RELA)
            if kind not in (elf.DT_RELA, elf.DT_REL):
                refuse(f"procedure linkage relocations of kind {kind}")
            apply = self._relocate_rela if kind == elf.DT_RELA else self._relocate_rel
            count += apply(tags[elf.DT_JMPREL], tags.get(elf.DT_PLTRELSZ, 0), resolve)
        return count

    def _binds_now(self) -> bool:
        tags = self.tags
        return (
            elf.DT_BIND_NOW in tags
            or tags.get(elf.DT_FLAGS, 0) & elf.DF_BIND_NOW != 0
            or tags.get(elf.DT_FLAGS_1, 0) & elf.DF_1_NOW != 0
        )

    def _resolve(self, index: int, supplied: Callable[[str], int | None], missing: Callable[[str], int] | None) -> int:
        """Absolute address of symbol ``index``: our own definition first (-Bsymbolic), then the supplied ones."""
        if index == 0:
            return 0
        st_name, info, _other, shndx, value, _size = self.symbol(index)
        if shndx != elf.SHN_UNDEF:
            self._check_definition(info, shndx, self.string(st_name))
            return value if shndx == elf.SHN_ABS else self.base + value
        name = self.string(st_name)
        address = supplied(name)
        if address is None:
            if info >> 4 == elf.STB_WEAK:
                return 0
            if missing is not None:
                return missing(name)
            refuse(f"undefined symbol {name}", UNDEFINED_HINT)
        return address

    def _relocation_table(self, address: int, size: int, entry_size: int) -> bytes:
        """The whole entries of a table, copied: relocating must not change what is still to be read."""
        at = self._at(address, size, "relocations")
        if size > MAX_RELOCATIONS * entry_size:
            refuse(f"{size // entry_size} relocations")
        return bytes(self.image[at : at + size - size % entry_size])

    def _place(self, address: int) -> int:
        segment = self.headers.segment_at(address, 8)
        if segment is None or not segment.flags & elf.PF_W:
            refuse(f"a relocation at {address:#x} lies in no writable segment")
        return address - self.headers.lowest

    def _relocate_rela(self, table: int, size: int, resolve: Resolve) -> int:
        entries = self._relocation_table(table, size, elf.ELF64.rela.size)
        image, base, put = self.image, self.base, struct.Struct("<Q").pack_into
        lowest, low, high = self.headers.lowest, 0, -8
        for offset, info, addend in elf.ELF64.rela.iter_unpack(entries):
            if info == elf.R_X86_64_RELATIVE:
                value = base + addend
            elif info & 0xFFFFFFFF == elf.R_X86_64_NONE:
                continue
            else:
                value = self._value(info, addend, resolve)
            if not low <= offset <= high:  # most relocations follow each other within one segment
                self._place(offset)
                segment = self.headers.segment_at(offset, 8)
                assert segment is not None
                low, high = segment.start, segment.end - 8
            put(image, offset - lowest, value & _MASK)
        return len(entries) // elf.ELF64.rela.size

    def _relocate_rel(self, table: int, size: int, resolve: Resolve) -> int:
        entries = self._relocation_table(table, size, elf.ELF64.rel.size)
        for offset, info in elf.ELF64.rel.iter_unpack(entries):
            if info & 0xFFFFFFFF == elf.R_X86_64_NONE:
                continue
            place = self._place(offset)
            addend = struct.unpack_from("<q", self.image, place)[0]
            value = self.base + addend if info == elf.R_X86_64_RELATIVE else self._value(info, addend, resolve)
            struct.pack_into("<Q", self.image, place, value & _MASK)
        return len(entries) // elf.ELF64.rel.size

    def _value(self, info: int, addend: int, resolve: Resolve) -> int:
        kind, index = info & 0xFFFFFFFF, info >> 32
        if kind == elf.R_X86_64_64:
            return resolve(index) + addend
        if kind == elf.R_X86_64_GLOB_DAT:
            return resolve(index)
        if kind == elf.R_X86_64_JUMP_SLOT:
            return resolve(index, True)
        if kind != elf.R_X86_64_RELATIVE:
            refuse(f"relocation type {kind} is not one a userboot object has")
        return self.base + addend

    def _relocate_relr(self, table: int, size: int) -> int:
        where, count = 0, 0
        for (entry,) in struct.iter_unpack("<Q", self._relocation_table(table, size, 8)):
            if count > MAX_RELOCATIONS:
                refuse(f"more than {MAX_RELOCATIONS} relocations")
            if entry & 1 == 0:
                self._add_base(entry)
                where, count = entry + 8, count + 1
                continue
            for bit in range(63):
                if entry >> (bit + 1) & 1:
                    self._add_base(where + 8 * bit)
                    count += 1
            where += 8 * 63
        return count

    def _add_base(self, address: int) -> None:
        place = self._place(address)
        value = struct.unpack_from("<Q", self.image, place)[0]
        struct.pack_into("<Q", self.image, place, (value + self.base) & _MASK)

    # Initialisers

    def initialisers(self) -> list[int]:
        """Absolute addresses of DT_INIT and DT_INIT_ARRAY's functions in the order to call (after relocation).

        FreeBSD's userboot has none (no crt objects); an object of another make may."""
        functions = [self.base + self.tags[elf.DT_INIT]] if self.tags.get(elf.DT_INIT) else []
        size = self.tags.get(elf.DT_INIT_ARRAYSZ, 0)
        if size and elf.DT_INIT_ARRAY in self.tags:
            if size > 8 * MAX_DYNAMIC:
                refuse(f"{size // 8} initialisers")
            at = self._at(self.tags[elf.DT_INIT_ARRAY], size, "initialisers")
            functions += [one for (one,) in struct.iter_unpack("<Q", self.image[at : at + size - size % 8]) if one]
        for function in functions:
            if not self.headers.executable(function - self.base):
                refuse(f"initialiser at {function - self.base:#x} is no program text")
        return functions
