"""ELF structures under FreeBSD's names (sys/sys/elf_common.h, elf32.h, elf64.h, sys/sys/module.h): of kernels and
modules, of loader objects, and of the images that QEMU starts."""

from __future__ import annotations

from struct import Struct

ELFMAG = b"\x7fELF"
EI_CLASS, EI_DATA, EI_VERSION = 4, 5, 6
ELFCLASS32, ELFCLASS64 = 1, 2
ELFDATA2LSB = 1
EV_CURRENT = 1
EM_386, EM_X86_64 = 3, 62
EM_NAMES = {
    2: "sparc",
    EM_386: "i386",
    8: "mips",
    20: "powerpc",
    21: "powerpc64",
    22: "s390",
    40: "arm",
    43: "sparc64",
    50: "ia64",
    EM_X86_64: "amd64",
    183: "aarch64",
    243: "riscv",
    258: "loongarch",
}
ET_REL, ET_EXEC, ET_DYN = 1, 2, 3
ET_NAMES = {0: "none", ET_REL: "relocatable", ET_EXEC: "executable", ET_DYN: "shared object", 4: "core"}

PT_LOAD, PT_DYNAMIC, PT_NOTE, PT_TLS = 1, 2, 4, 7
PT_GNU_RELRO = 0x6474E552
PF_X, PF_W, PF_R = 1, 2, 4

SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS, SHT_REL = 1, 2, 3, 4, 8, 9
SHT_INIT_ARRAY, SHT_FINI_ARRAY = 14, 15
SHT_X86_64_UNWIND = 0x70000001
SHF_ALLOC = 2
SHN_UNDEF = 0
SHN_ABS, SHN_COMMON = 0xFFF1, 0xFFF2

# A section header's fields in order: the same for both classes
SH_NAME, SH_TYPE, SH_FLAGS, SH_ADDR, SH_OFFSET, SH_SIZE, SH_LINK, SH_INFO, SH_ADDRALIGN, SH_ENTSIZE = range(10)

DT_NULL, DT_NEEDED, DT_PLTRELSZ, DT_HASH, DT_STRTAB, DT_SYMTAB = 0, 1, 2, 4, 5, 6
DT_RELA, DT_RELASZ, DT_RELAENT, DT_STRSZ, DT_SYMENT, DT_INIT = 7, 8, 9, 10, 11, 12
DT_REL, DT_RELSZ, DT_RELENT, DT_PLTREL, DT_TEXTREL, DT_JMPREL = 17, 18, 19, 20, 22, 23
DT_BIND_NOW, DT_INIT_ARRAY, DT_INIT_ARRAYSZ, DT_FLAGS = 24, 25, 27, 30
DT_RELRSZ, DT_RELR, DT_RELRENT = 35, 36, 37
DT_GNU_HASH, DT_FLAGS_1 = 0x6FFFFEF5, 0x6FFFFFFB
DF_TEXTREL, DF_BIND_NOW = 4, 8
DF_1_NOW = 1
STN_UNDEF = 0
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_TLS, STT_GNU_IFUNC = 0, 1, 2, 6, 10

R_X86_64_NONE, R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT, R_X86_64_RELATIVE = 0, 1, 6, 7, 8
R_X86_64_IRELATIVE = 37

MDT_DEPEND, MDT_MODULE, MDT_VERSION, MDT_PNP_INFO = 1, 2, 3, 4


class Segment:
    """A program header (Elf_Phdr)."""

    __slots__ = ("p_filesz", "p_flags", "p_memsz", "p_offset", "p_type", "p_vaddr")

    def __init__(self, p_type: int, p_flags: int, p_offset: int, p_vaddr: int, p_filesz: int, p_memsz: int) -> None:
        self.p_type = p_type
        self.p_flags = p_flags
        self.p_offset = p_offset
        self.p_vaddr = p_vaddr
        self.p_filesz = p_filesz
        self.p_memsz = p_memsz


class ElfClass:
    """One of the two word sizes: ``name`` as in the loader's messages, ``word`` in bytes, the structures' layouts."""

    __slots__ = ("dyn", "ehdr", "ei_class", "machine", "metadata", "name", "phdr", "rel", "rela", "shdr", "sym", "word")

    def __init__(self, bits: int, ei_class: int, machine: int, layouts: dict[str, str]) -> None:
        self.name = f"elf{bits}"
        self.word = bits // 8
        self.ei_class = ei_class
        self.machine = machine
        self.ehdr = Struct(layouts["ehdr"])
        self.phdr = Struct(layouts["phdr"])
        self.shdr = Struct(layouts["shdr"])
        self.sym = Struct(layouts["sym"])
        self.dyn = Struct(layouts["dyn"])
        self.rel = Struct(layouts["rel"])
        self.rela = Struct(layouts["rela"])
        self.metadata = Struct(layouts["metadata"])  # struct mod_metadata: version, type, data, cval

    def segment(self, data: bytes, offset: int) -> Segment:
        """The program header at ``offset`` of ``data``, which holds it whole."""
        fields = self.phdr.unpack_from(data, offset)
        if self.word == 8:
            p_type, flags, file_offset, vaddr, _, filesz, memsz, _ = fields
        else:
            p_type, file_offset, vaddr, _, filesz, memsz, flags, _ = fields
        return Segment(p_type, flags, file_offset, vaddr, filesz, memsz)

    def symbol(self, data: bytes) -> tuple[int, int, int, int]:
        """(st_name, type, st_shndx, st_value) of an Elf_Sym."""
        if self.word == 8:
            name, info, _, shndx, value, _ = self.sym.unpack(data)
        else:
            name, value, _, info, _, shndx = self.sym.unpack(data)
        return name, info & 0xF, shndx, value

    def relocation(self, info: int) -> tuple[int, int]:
        """(type, symbol index) of an r_info."""
        return (info & 0xFFFFFFFF, info >> 32) if self.word == 8 else (info & 0xFF, info >> 8)


ELF64 = ElfClass(
    64,
    ELFCLASS64,
    EM_X86_64,
    {
        "ehdr": "<16sHHIQQQIHHHHHH",
        "phdr": "<IIQQQQQQ",
        "shdr": "<IIQQQQIIQQ",
        "sym": "<IBBHQQ",
        "dyn": "<QQ",
        "rel": "<QQ",
        "rela": "<QQq",
        "metadata": "<iiQQ",
    },
)
ELF32 = ElfClass(
    32,
    ELFCLASS32,
    EM_386,
    {
        "ehdr": "<16sHHIIIIIHHHHHH",
        "phdr": "<8I",
        "shdr": "<10I",
        "sym": "<IIIBBH",
        "dyn": "<II",
        "rel": "<II",
        "rela": "<IIi",
        "metadata": "<iiII",
    },
)


class ElfHeader:
    """The ELF header (Elf_Ehdr): ``raw`` as in the file."""

    __slots__ = (
        "e_entry",
        "e_machine",
        "e_phnum",
        "e_phoff",
        "e_shentsize",
        "e_shnum",
        "e_shoff",
        "e_shstrndx",
        "e_type",
        "e_version",
        "raw",
    )

    def __init__(self, elf: ElfClass, data: bytes) -> None:
        self.raw = data[: elf.ehdr.size]
        (
            _,
            self.e_type,
            self.e_machine,
            self.e_version,
            self.e_entry,
            self.e_phoff,
            self.e_shoff,
            _,
            _,
            _,
            self.e_phnum,
            self.e_shentsize,
            self.e_shnum,
            self.e_shstrndx,
        ) = elf.ehdr.unpack(self.raw)


def elf_hash(name: bytes) -> int:
    """DT_HASH's function (System V ABI, "Hash Table")."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high
    return value


def gnu_hash(name: bytes) -> int:
    """DT_GNU_HASH's function."""
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value
