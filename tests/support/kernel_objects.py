"""Kernels and modules built with gcc and ld, linker.hints encoded as kldxref(8) does, and readelf's view of both.

The module macros are written from sys/sys/module.h's structures: struct mod_metadata {version, type, data, cval}.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from guest.build import quiet_about_rwx

MDT_DEPEND, MDT_MODULE, MDT_VERSION, MDT_PNP_INFO = 1, 2, 3, 4
KERNBASE = 0xFFFFFFFF80000000
_EMULATION = {"amd64": "elf_x86_64", "i386": "elf_i386"}
_WORD = {"amd64": ".quad", "i386": ".long"}

# (type, name, numbers): (MDT_VERSION, "alpha", (3,)), (MDT_DEPEND, "kernel", (1, 2, 3)), (MDT_MODULE, "alpha", ())
Record = tuple[int, str, tuple[int, ...]]


def require_toolchain(*more: str) -> None:
    missing = [tool for tool in ("gcc", "ld", "readelf", *more) if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (make setup installs it)", allow_module_level=True)


def tool(*words: str | Path) -> str:
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout


def version(name: str, number: int) -> Record:
    return MDT_VERSION, name, (number,)


def depend(name: str, minimum: int, preferred: int, maximum: int) -> Record:
    return MDT_DEPEND, name, (minimum, preferred, maximum)


def assemble(source: Path, text: str, arch: str = "amd64", *flags: str) -> Path:
    """``text`` as assembler source -> an object file."""
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(text)
    target = source.with_suffix(".o")
    tool("gcc", "-m64" if arch == "amd64" else "-m32", *flags, "-c", "-o", target, source)
    return target


def metadata_source(records: Sequence[Record], arch: str = "amd64") -> str:
    """The set_modmetadata_set of these records, in this order; every second record is a global symbol."""
    word = _WORD[arch]
    lines = ['\t.section .rodata.str1.1, "aMS", @progbits, 1']
    lines += [f'.Lname{index}:\t.asciz "{name}"' for index, (_, name, _) in enumerate(records)]
    lines += ["\t.data", "\t.balign 8", "\t.quad 0x1122334455667788"]
    for index, (kind, _, numbers) in enumerate(records):
        lines += [f".Ldata{index}:", *(f"\t.long {number}" for number in numbers or (0,)), "\t.balign 8"]
        if index % 2:
            lines.append(f"\t.globl record{index}")
        lines += [
            f"record{index}:",
            "\t.long 1",
            f"\t.long {kind}",
            f"\t{word} .Ldata{index}",
            f"\t{word} .Lname{index}",
        ]
    lines += ['\t.section set_modmetadata_set, "aw", @progbits']
    lines += [f"\t{word} record{index}" for index in range(len(records))]
    return "\n".join(lines) + "\n"


_SCRIPT = """\
ENTRY(btext)
PHDRS
{
	headers PT_PHDR PHDRS;
	interpreter PT_INTERP;
	text PT_LOAD FILEHDR PHDRS FLAGS(5);
	data PT_LOAD FLAGS(6);
	dynamic PT_DYNAMIC FLAGS(6);
	stack PT_GNU_STACK FLAGS(6);
}
SECTIONS
{
	. = LOAD_ADDRESS + SIZEOF_HEADERS;
	.interp : { *(.interp) } :text :interpreter
	.hash : { *(.hash) } :text
	.gnu.hash : { *(.gnu.hash) } :text
	.dynsym : { *(.dynsym) } :text
	.dynstr : { *(.dynstr) } :text
	.text : { *(.text .text.*) } :text
	.rodata : { *(.rodata .rodata.*) } :text
	. = ALIGN(0x200000);
	.dynamic : { *(.dynamic) } :data :dynamic
	set_modmetadata_set : {
		__start_set_modmetadata_set = .;
		KEEP(*(set_modmetadata_set))
		__stop_set_modmetadata_set = .;
	} :data
	.ctors : { KEEP(*(.ctors)) } :data
	.data : { *(.data .data.*) } :data
	.bss : { *(.bss .bss.* COMMON) } :data
	/DISCARD/ : { *(.comment) *(.note*) *(.eh_frame*) *(.gnu.version*) }
}
"""
_PLAIN = re.compile(
    r"\t(headers|interpreter|dynamic|stack) PT.*\n|\t\.(interp|hash|gnu.hash|dynsym|dynstr|dynamic) :.*\n"
)


def build_kernel(
    path: Path,
    records: Sequence[Record] = ((MDT_VERSION, "kernel", (1400097,)),),
    *,
    arch: str = "amd64",
    dynamic: bool = True,
    hash_style: str = "sysv",
    padding: int = 0,
    bss: int = 0x1234,
    ctors: int = 0,
    symbols: int = 5,
    load_address: int = 0,
) -> Path:
    """An ET_EXEC as FreeBSD's kernel is linked: PT_PHDR, PT_INTERP, two PT_LOAD, PT_DYNAMIC, PT_GNU_STACK.

    ``dynamic`` False: PT_LOAD only.  ``padding``: bytes of initialised data, no two pages of them alike; ``symbols``:
    further entries of the symbol table.
    """
    address = load_address or (KERNBASE + 0x200000 if arch == "amd64" else 0xC0800000)
    work = path.with_name(path.name + ".build")
    text = "\t.text\n\t.globl btext\nbtext:\tcli\n1:\thlt\n\tjmp 1b\n"
    text += "".join(f"\t.globl function{index}\nfunction{index}:\tnop\n" for index in range(symbols))
    text += metadata_source(records, arch)
    if padding:
        text += f"\t.data\n\t.balign 4096\n\t.set i, 0\n\t.rept {padding // 4096}\n\t.long i, i ^ 0x5aa5c33c\n"
        text += "\t.fill 511, 8, 0xa5a5a5a5\n\t.set i, i + 1\n\t.endr\n"
    if ctors:
        text += '\t.section .ctors, "aw", @progbits\n' + f"\t{_WORD[arch]} btext\n" * ctors
    text += f"\t.bss\n\t.globl space\nspace:\t.skip {bss}\n"
    main = assemble(work / "kernel.S", text, arch)
    hack = assemble(work / "hack.S", "\t.data\n\t.long 0\n", arch)
    script = work / "kernel.ld"
    layout = _SCRIPT.replace("LOAD_ADDRESS", hex(address))
    script.write_text(layout if dynamic else _PLAIN.sub("", layout).replace(" :text :interpreter", " :text"))
    link: list[str | Path] = ["ld", "-m", _EMULATION[arch], "-z", "max-page-size=0x200000", "--build-id=none"]
    link += ["-z", "noexecstack", *quiet_about_rwx(), "-z", "norelro", "-T", script, "-o", path, main]
    if dynamic:
        shared = work / "hack.pico"
        tool("ld", "-m", _EMULATION[arch], "-shared", "-o", shared, hack)
        link += ["-Bdynamic", "-export-dynamic", f"--hash-style={hash_style}"]
        link += ["--dynamic-linker", "/red/herring", shared]
    path.parent.mkdir(parents=True, exist_ok=True)
    tool(*link)
    shutil.rmtree(work)
    return path


def build_module(
    path: Path,
    records: Sequence[Record] = (),
    *,
    arch: str = "amd64",
    shared: bool = False,
    padding: int = 0,
    relocations: int = 3,
    bss: int = 100,
    extra: str = "",
    linking: Sequence[str] = ("-Bsymbolic",),
) -> Path:
    """A .ko: ET_REL, or ET_DYN where ``shared``.  ``padding``: bytes of .text; ``relocations``: so many in .data."""
    work = path.with_name(path.name + ".build")
    word = _WORD[arch]
    name = re.sub(r"\W", "_", path.stem)
    text = f"\t.text\n\t.globl {name}_load\n{name}_load:\tret\n\t.fill {padding}, 1, 0x90\n"
    text += "\t.data\n\t.balign 8\n" + f"\t{word} {name}_load\n" * relocations
    text += f'\t.section .rodata, "a", @progbits\n\t.balign 64\n\t.long 1,2,3\n\t.bss\n\t.balign 32\n\t.skip {bss}\n'
    if records:
        text += metadata_source(records, arch)
        if shared:  # what makes ld define the two symbols
            text += f"\t.data\n\t{word} __start_set_modmetadata_set, __stop_set_modmetadata_set\n"
    target = assemble(work / "module.S", text + extra, arch)
    path.parent.mkdir(parents=True, exist_ok=True)
    if shared:
        tool(
            "ld",
            "-m",
            _EMULATION[arch],
            "-shared",
            *linking,
            "--hash-style=sysv",
            "--build-id=none",
            "-o",
            path,
            target,
        )
    else:
        tool("ld", "-m", _EMULATION[arch], "-r", "-d", "-o", path, target)
    shutil.rmtree(work)
    return path


# linker.hints, as usr.sbin/kldxref/kldxref.c writes it


class Hints:
    """An encoder: strings as length and bytes, integers at multiples of 4 of the record's buffer."""

    def __init__(self) -> None:
        self.records: list[bytes] = []

    def _record(self, kind: int, *fields: str | int) -> None:
        buffer = bytearray(struct.pack("<i", kind))
        for field in fields:
            if isinstance(field, str):
                buffer += bytes((len(field),)) + field.encode("latin-1")
            else:
                buffer += bytes(-len(buffer) % 4) + struct.pack("<i", field)
        buffer += bytes(-len(buffer) % 4)
        self.records.append(struct.pack("<i", len(buffer)) + buffer)

    def module(self, name: str, file: str) -> Hints:
        self._record(MDT_MODULE, name, file)
        return self

    def version(self, name: str, number: int, file: str) -> Hints:
        self._record(MDT_VERSION, name, number, file)
        return self

    def pnp(self, bus: str, descriptor: str, entries: Sequence[Sequence[str | int]]) -> Hints:
        self._record(MDT_PNP_INFO, bus, descriptor, len(entries), *(field for entry in entries for field in entry))
        return self

    def encode(self) -> bytes:
        return struct.pack("<i", 1) + b"".join(self.records)


# What readelf says


class Section:
    """A section header: ``fields`` as readelf's columns after the address."""

    def __init__(self, name: str, kind: str, fields: tuple[str, ...]) -> None:
        offset, size, flags, link, info, align = fields
        self.name = name
        self.kind = kind
        self.offset = int(offset, 16)
        self.size = int(size, 16)
        self.flags = flags
        self.link = int(link)
        self.info = int(info)
        self.align = int(align)


_SECTION = re.compile(
    r"^ +\[ *\d+\] (\S*) +([A-Z][\w+]*) +[0-9a-f]+ ([0-9a-f]+) ([0-9a-f]+) [0-9a-f]+"
    r" +([A-Za-z]*) +(\d+) +(\d+) +(\d+)$",
    re.M,
)
_SEGMENT = re.compile(r"^ +([A-Z]\w+) +0x(\w+) 0x(\w+) 0x\w+ 0x(\w+) 0x(\w+) ([R W E]{3})", re.M)


def sections(path: Path) -> list[Section]:
    found = [match.groups() for match in _SECTION.finditer(tool("readelf", "-SW", path))]
    return [Section(name, kind, tuple(fields)) for name, kind, *fields in found]


def segments(path: Path, kind: str = "LOAD") -> list[tuple[int, int, int, int]]:
    """(offset, vaddr, filesz, memsz)"""
    found = []
    for match in _SEGMENT.finditer(tool("readelf", "-lW", path)):
        if match[1] == kind:
            offset, vaddr, filesz, memsz = (int(text, 16) for text in match.groups()[1:5])
            found.append((offset, vaddr, filesz, memsz))
    return found


def content(path: Path, section: Section) -> bytes:
    return path.read_bytes()[section.offset : section.offset + section.size]


def header_field(path: Path, label: str) -> int:
    """A number of readelf -h."""
    match = re.search(rf"{re.escape(label)}: +(0x[0-9a-f]+|\d+)", tool("readelf", "-hW", path))
    assert match, label
    return int(match[1], 0)
