"""A shared object assembled by hand, so that a test can have exactly one thing wrong with it.

Three pages: headers, symbols and relocations (R), program (R+X), dynamic section and data (RW, 64 KiB of bss).
"""

from __future__ import annotations

import struct

from bhyveload.boot_formats import elf_format as elf

TABLES, TEXT, DATA = 0x200, 0x1000, 0x2000
WORDS = DATA + 0x400  # 64 words of data for relocations to change
BSS = 0x10000
HEADER_FLAGS, TEXT_FLAGS, DATA_FLAGS = elf.PF_R, elf.PF_R | elf.PF_X, elf.PF_R | elf.PF_W
RET = b"\xc3"

Symbol = tuple[str, int, int, int]  # name, info, shndx, value
LOADER_MAIN: Symbol = ("loader_main", elf.STB_GLOBAL << 4 | elf.STT_FUNC, 1, TEXT)


def undefined(name: str, binding: int = elf.STB_GLOBAL) -> Symbol:
    return name, binding << 4, elf.SHN_UNDEF, 0


def load(offset: int, filesz: int, memsz: int, flags: int, align: int = 0x1000) -> tuple[int, ...]:
    return elf.PT_LOAD, flags, offset, offset, offset, filesz, memsz, align


GOOD_LOADS = (
    load(0, 0x1000, 0x1000, HEADER_FLAGS),
    load(TEXT, 0x10, 0x10, TEXT_FLAGS),
    load(DATA, 0x800, 0x800 + BSS, DATA_FLAGS),
)
DYNAMIC_HEADER = (elf.PT_DYNAMIC, DATA_FLAGS, DATA, DATA, DATA, 0x200, 0x200, 8)


def sysv_hash(names: list[str]) -> bytes:
    """One bucket, every symbol in its chain."""
    chains = [index + 1 for index in range(len(names))]
    chains[-1] = 0
    return struct.pack(f"<III{len(names)}I", 1, len(names), chains[0], 0, *chains[1:])


def gnu_hash(names: list[str]) -> bytes:
    """One bucket, a Bloom filter that lets everything pass; all but symbol 0 are in the chain."""
    values = [elf.gnu_hash(name.encode()) & ~1 for name in names[1:]]
    values[-1] |= 1
    return struct.pack("<IIIIQI", 1, 1, 1, 0, (1 << 64) - 1, 1) + struct.pack(f"<{len(values)}I", *values)


def make(
    symbols: tuple[Symbol, ...] = (LOADER_MAIN,),
    rela: tuple[tuple[int, int, int], ...] = (),
    rel: tuple[tuple[int, int], ...] = (),
    relr: tuple[int, ...] = (),
    tags: tuple[tuple[int, int], ...] = (),
    without: tuple[int, ...] = (),
    loads: tuple[tuple[int, ...], ...] = GOOD_LOADS,
    headers: tuple[tuple[int, ...], ...] = (DYNAMIC_HEADER,),
    words: tuple[int, ...] = (),
    style: str = "gnu",
    text: bytes = RET,
    ehdr: dict[str, int] | None = None,
) -> bytes:
    """The object's file.  ``tags`` replace or extend the dynamic section, ``without`` removes from it, ``headers`` are
    the program headers besides ``loads``, ``ehdr`` replaces fields of the ELF header."""
    image = bytearray(DATA + 0x800)
    names = ["", *(name for name, *_ in symbols)]
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in names[1:])
    offsets = [0]
    for name in names[1:]:
        offsets.append(strings.index(b"\0" + name.encode() + b"\0") + 1)
    table = b"\0" * 24 + b"".join(
        elf.ELF64.sym.pack(offset, info, 0, shndx, value, 0)
        for offset, (_name, info, shndx, value) in zip(offsets[1:], symbols, strict=True)
    )
    dynamic: dict[int, int] = {}

    at = TABLES

    def put(data: bytes, tag: int, size_tag: int | None = None) -> None:
        nonlocal at
        image[at : at + len(data)] = data
        dynamic[tag] = at
        if size_tag is not None:
            dynamic[size_tag] = len(data)
        at += (len(data) + 7) & -8

    put(table, elf.DT_SYMTAB)
    dynamic[elf.DT_SYMENT] = elf.ELF64.sym.size
    put(strings, elf.DT_STRTAB, elf.DT_STRSZ)
    if style in ("sysv", "both"):
        put(sysv_hash(names), elf.DT_HASH)
    if style in ("gnu", "both"):
        put(gnu_hash(names), elf.DT_GNU_HASH)
    if rela:
        put(b"".join(elf.ELF64.rela.pack(*entry) for entry in rela), elf.DT_RELA, elf.DT_RELASZ)
        dynamic[elf.DT_RELAENT] = elf.ELF64.rela.size
    if rel:
        put(b"".join(elf.ELF64.rel.pack(*entry) for entry in rel), elf.DT_REL, elf.DT_RELSZ)
        dynamic[elf.DT_RELENT] = elf.ELF64.rel.size
    if relr:
        put(struct.pack(f"<{len(relr)}Q", *relr), elf.DT_RELR, elf.DT_RELRSZ)
        dynamic[elf.DT_RELRENT] = 8
    assert at < TEXT
    dynamic.update(tags)
    for tag in without:
        del dynamic[tag]
    entries = b"".join(elf.ELF64.dyn.pack(tag, value) for tag, value in (*dynamic.items(), (elf.DT_NULL, 0)))
    image[DATA : DATA + len(entries)] = entries
    image[TEXT : TEXT + len(text)] = text
    struct.pack_into(f"<{len(words)}Q", image, WORDS, *words)

    program = (*loads, *headers)
    fields = {"type": elf.ET_DYN, "machine": elf.EM_X86_64}
    fields |= {"phoff": elf.ELF64.ehdr.size, "phentsize": elf.ELF64.phdr.size}
    fields |= {"class": elf.ELFCLASS64, "data": elf.ELFDATA2LSB, "version": 1, "phnum": len(program)} | (ehdr or {})
    ident = elf.ELFMAG + bytes((fields["class"], fields["data"], fields["version"], 9)) + bytes(8)
    elf.ELF64.ehdr.pack_into(
        image,
        0,
        *(ident, fields["type"], fields["machine"], 1, 0, fields["phoff"], 0, 0),
        *(elf.ELF64.ehdr.size, fields["phentsize"], fields["phnum"], 0, 0, 0),
    )
    for index, header in enumerate(program):
        elf.ELF64.phdr.pack_into(image, elf.ELF64.ehdr.size + index * elf.ELF64.phdr.size, *header)
    return bytes(image)
