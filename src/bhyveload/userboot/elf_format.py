"""ELF64 structures and numbers of an amd64 shared object, under the names of sys/elf64.h and sys/elf_common.h.

Only what a loader object can hold; the kernel's ELF files are read in loader/kernel/.
"""

from __future__ import annotations

import struct

ELFMAG = b"\x7fELF"
EI_CLASS, EI_DATA, EI_VERSION = 4, 5, 6
ELFCLASS64 = 2
ELFDATA2LSB = 1
EV_CURRENT = 1
ET_DYN = 3
EM_X86_64 = 62

EHDR = struct.Struct("<16sHHIQQQIHHHHHH")  # Elf64_Ehdr
PHDR = struct.Struct("<IIQQQQQQ")  # Elf64_Phdr: type flags offset vaddr paddr filesz memsz align
DYN = struct.Struct("<qQ")  # Elf64_Dyn
SYM = struct.Struct("<IBBHQQ")  # Elf64_Sym: name info other shndx value size
RELA = struct.Struct("<QQq")  # Elf64_Rela: offset info addend
REL = struct.Struct("<QQ")  # Elf64_Rel

PT_LOAD, PT_DYNAMIC, PT_TLS = 1, 2, 7
PT_GNU_RELRO = 0x6474E552
PF_X, PF_W, PF_R = 1, 2, 4

DT_NULL, DT_NEEDED, DT_PLTRELSZ, DT_HASH, DT_STRTAB, DT_SYMTAB = 0, 1, 2, 4, 5, 6
DT_RELA, DT_RELASZ, DT_RELAENT, DT_STRSZ, DT_SYMENT, DT_INIT = 7, 8, 9, 10, 11, 12
DT_REL, DT_RELSZ, DT_RELENT, DT_PLTREL, DT_TEXTREL, DT_JMPREL = 17, 18, 19, 20, 22, 23
DT_BIND_NOW, DT_INIT_ARRAY, DT_INIT_ARRAYSZ, DT_FLAGS = 24, 25, 27, 30
DT_RELRSZ, DT_RELR, DT_RELRENT = 35, 36, 37
DT_GNU_HASH = 0x6FFFFEF5
DT_FLAGS_1 = 0x6FFFFFFB
DF_TEXTREL, DF_BIND_NOW = 4, 8
DF_1_NOW = 1

R_X86_64_NONE, R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT, R_X86_64_RELATIVE = 0, 1, 6, 7, 8

SHN_UNDEF = 0
SHN_ABS = 0xFFF1
SHN_COMMON = 0xFFF2
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
STT_NOTYPE, STT_FUNC, STT_TLS, STT_GNU_IFUNC = 0, 2, 6, 10


def elf_hash(name: bytes) -> int:
    """DT_HASH's function (System V ABI, "Hash Table")."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high
    return value & 0xFFFFFFFF


def gnu_hash(name: bytes) -> int:
    """DT_GNU_HASH's function."""
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value
