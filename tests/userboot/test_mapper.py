"""The ELF mapper: what a loader object may and may not hold, one fault at a time, and mutated objects."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bhyveload.boot_formats import elf_format as elf
from bhyveload.errors import HostError, KernelError
from bhyveload.freebsd_errno import ENOEXEC
from bhyveload.host.callbacks import LoaderExit
from bhyveload.userboot.mapper import map_object
from bhyveload.userboot.support import supplied_address
from support.userboot_elf import (
    BSS,
    DATA,
    DATA_FLAGS,
    DYNAMIC_HEADER,
    GOOD_LOADS,
    LOADER_MAIN,
    TEXT,
    TEXT_FLAGS,
    WORDS,
    load,
    make,
    undefined,
)
from support.userboot_testing import build, in_child

RELATIVE, WORD64, GLOB_DAT, JUMP_SLOT = 8, 1, 6, 7


def word(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value


def protections() -> dict[tuple[int, int], str]:
    """(start, end) -> rwxp of this process's mappings."""
    result = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, flags, *_ = line.split()
        start, end = (int(part, 16) for part in addresses.split("-"))
        result[start, end] = flags
    return result


def flags_at(address: int) -> str:
    return next(flags for (start, end), flags in protections().items() if start <= address < end)


def test_the_hand_made_object_is_one(tmp_path: Path) -> None:
    """What this file patches has to be right to begin with: binutils agree."""
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed (binutils)")
    path = tmp_path / "object.so"
    path.write_bytes(make(style="both", symbols=(LOADER_MAIN, undefined("time")), rela=((WORDS, 2 << 32 | 6, 0),)))
    result = subprocess.run(["readelf", "-hldrsW", "-D", path], capture_output=True, text=True, check=True)
    assert "loader_main" in result.stdout
    assert "R_X86_64_GLOB_DAT" in result.stdout
    assert (
        "UNIX - FreeBSD" in subprocess.run(["readelf", "-h", path], capture_output=True, text=True, check=True).stdout
    )
    assert "UNIX - FreeBSD" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("style", ["gnu", "sysv", "both"])
def test_lookup(style: str) -> None:
    others = tuple((f"name{i}", elf.STB_GLOBAL << 4, 1, TEXT + i) for i in range(9))
    mapped = map_object(make(style=style, symbols=(*others, LOADER_MAIN, undefined("time"))))
    assert mapped.entry == mapped.base + TEXT
    assert mapped.lookup("name5") == mapped.base + TEXT + 5
    assert mapped.lookup("nothing") is None
    assert mapped.lookup("time") is None, "not ours"
    assert mapped.initialisers == []


def test_relocations() -> None:
    symbols = (
        LOADER_MAIN,
        ("here", elf.STB_GLOBAL << 4 | 1, 2, WORDS),
        ("fixed", elf.STB_GLOBAL << 4, elf.SHN_ABS, 0x1234),
        undefined("memmem"),
        undefined("nowhere", elf.STB_WEAK),
    )
    mapped = map_object(
        make(
            symbols=symbols,
            words=(0, 0, 0, 0, 0, 0, 0, 0x40, 0x50, 0x60, 0x70, 0x80),
            rela=(
                (WORDS, RELATIVE, TEXT + 4),
                (WORDS + 8, 2 << 32 | WORD64, -8),
                (WORDS + 16, 3 << 32 | GLOB_DAT, 0),
                (WORDS + 24, 4 << 32 | JUMP_SLOT, 0),
                (WORDS + 32, 5 << 32 | GLOB_DAT, 0),
                (WORDS + 40, 0, 0),
                (WORDS + 41, RELATIVE, 1),
            ),
            rel=((WORDS + 56, RELATIVE), (WORDS + 64, 2 << 32 | WORD64)),
            relr=(WORDS + 72, 0b101),  # that word, and of the 63 behind it the second
        )
    )
    words = [word(mapped.base + WORDS + 8 * i) for i in range(12)]
    assert words[0] == mapped.base + TEXT + 4
    assert words[1] == mapped.base + WORDS - 8
    assert words[2] == 0x1234
    assert words[3] == supplied_address("memmem")
    assert words[4] == 0
    assert word(mapped.base + WORDS + 41) == mapped.base + 1, "an unaligned place"
    assert words[7] == mapped.base + 0x40
    assert words[8] == mapped.base + WORDS + 0x50
    assert words[9] == mapped.base + 0x60
    assert words[10] == 0x70
    assert words[11] == mapped.base + 0x80
    assert mapped.relocations == 11


def test_procedure_linkage_relocations_of_both_kinds() -> None:
    for kind in (elf.DT_RELA, elf.DT_REL):
        tables: dict[str, tuple[tuple[int, ...], ...]] = (
            {"rela": ((WORDS, 2 << 32 | JUMP_SLOT, 0),)}
            if kind == elf.DT_RELA
            else {"rel": ((WORDS, 2 << 32 | JUMP_SLOT),)}
        )
        plain = make(symbols=(LOADER_MAIN, undefined("time")), **tables)  # type: ignore[arg-type]
        tags = dict(elf.ELF64.dyn.iter_unpack(plain[DATA : DATA + 0x200]))
        size_tag = elf.DT_RELASZ if kind == elf.DT_RELA else elf.DT_RELSZ
        data = make(
            symbols=(LOADER_MAIN, undefined("time")),
            tags=((elf.DT_JMPREL, tags[kind]), (elf.DT_PLTRELSZ, tags[size_tag]), (elf.DT_PLTREL, kind)),
            without=(kind, size_tag),
            **tables,  # type: ignore[arg-type]
        )
        mapped = map_object(data)
        assert word(mapped.base + WORDS) == supplied_address("time")


def test_protections_and_gaps() -> None:
    loads = (*GOOD_LOADS[:2], load(DATA, 0x800, 0x800 + BSS, DATA_FLAGS))
    far = (elf.PT_LOAD, elf.PF_R, 0x100, 0x80100, 0x80100, 0x10, 0x10, 0x1000)
    relro = (elf.PT_GNU_RELRO, elf.PF_R, DATA, DATA, DATA, 0x1000, 0x1000, 1)
    mapped = map_object(make(loads=(*loads, far), headers=(DYNAMIC_HEADER, relro)))
    assert [flags_at(mapped.base + at)[:3] for at in (0, TEXT, DATA, DATA + 0x1000, DATA + BSS, 0x30000, 0x80000)] == [
        "r--",
        "r-x",
        "r--",
        "rw-",
        "rw-",
        "---",
        "r--",
    ]
    assert not any("w" in flags and "x" in flags for flags in map(flags_at, (mapped.base, mapped.base + TEXT)))


def test_relro_may_be_rounded_up_to_the_page() -> None:
    """lld makes the RELRO header end at a page boundary and its segment not (FreeBSD's linker, LLVM before 17)."""
    loads = (*GOOD_LOADS[:2], load(DATA, 0x800, 0x800, DATA_FLAGS), (elf.PT_LOAD, 6, 0x800, 0x3800, 0, 0, 0x10, 0x1000))
    relro = (elf.PT_GNU_RELRO, elf.PF_R, DATA, DATA, DATA, 0x800, 0x1000, 1)
    mapped = map_object(make(loads=loads, headers=(DYNAMIC_HEADER, relro)))
    assert [flags_at(mapped.base + at)[:3] for at in (DATA, DATA + 0x1000)] == ["r--", "rw-"]


@pytest.mark.parametrize("flags", [6, 7])
def test_the_stack_is_never_executable(flags: int) -> None:
    """FreeBSD's linker of old asks for it because of one assembler file; nobody gets it."""
    mapped = map_object(make(headers=(DYNAMIC_HEADER, (0x6474E551, flags, 0, 0, 0, 0, 0, 16))))
    assert mapped.entry == mapped.base + TEXT
    assert next(line for line in Path("/proc/self/maps").read_text().splitlines() if "[stack]" in line).split()[1][
        :3
    ] == ("rw-")


def test_the_c_library_needs_not_be_there() -> None:
    mapped = map_object(make(symbols=(LOADER_MAIN, undefined("libc.so.7")), tags=((elf.DT_NEEDED, 13),)))
    assert mapped.entry == mapped.base + TEXT


@pytest.mark.parametrize(
    ("tags", "lazy"),
    [
        ((), True),
        (((elf.DT_BIND_NOW, 0),), False),
        (((elf.DT_FLAGS, 8),), False),
        (((elf.DT_FLAGS_1, 1),), False),
        (((elf.DT_FLAGS_1, 0x20),), True),
    ],
)
def test_undefined_functions_are_bound_when_they_are_called(tags: tuple[tuple[int, int], ...], lazy: bool) -> None:
    """As FreeBSD's rtld does: JUMP_SLOT only, and not under BIND_NOW."""
    symbols = (LOADER_MAIN, undefined("getsecs"))
    asked: list[str] = []

    def missing(name: str) -> int:
        asked.append(name)
        return 0x1234

    data = make(symbols=symbols, rela=((WORDS, 2 << 32 | JUMP_SLOT, 0),), tags=tags)
    if lazy:
        assert word(map_object(data, missing=missing).base + WORDS) == 0x1234
        assert asked == ["getsecs"]
    else:
        with pytest.raises(KernelError, match="undefined symbol getsecs"):
            map_object(data, missing=missing)
    with pytest.raises(KernelError, match="undefined symbol getsecs"):
        map_object(make(symbols=symbols, rela=((WORDS, 2 << 32 | GLOB_DAT, 0),), tags=tags), missing=missing)


def test_bss_of_64_mib_costs_nothing() -> None:
    loads = (*GOOD_LOADS[:2], load(DATA, 0x800, 64 << 20, DATA_FLAGS))
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
    mapped = map_object(make(loads=loads))
    assert mapped.span >= 64 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 200
    assert time.process_time() - started < 0.1


def test_alignment_above_a_page() -> None:
    loads = tuple((*segment[:-1], 1 << 21) for segment in GOOD_LOADS)
    for _ in range(3):
        assert map_object(make(loads=loads)).base % (1 << 21) == 0


def test_initialisers_in_order() -> None:
    array = ((elf.DT_INIT_ARRAY, WORDS), (elf.DT_INIT_ARRAYSZ, 24), (elf.DT_INIT, TEXT + 1))
    rela = ((WORDS, RELATIVE, TEXT + 2), (WORDS + 16, RELATIVE, TEXT + 3))
    mapped = map_object(make(tags=array, rela=rela))
    assert mapped.initialisers == [mapped.base + TEXT + i for i in (1, 2, 3)]


NOTHING = (elf.PT_LOAD, elf.PF_R, 0, 0, 0, 0, 0, 0x1000)
BAD = {
    "empty": (b"", "not an ELF file"),
    "text": (b"#!/bin/sh\n" * 20, "not an ELF file"),
    "only a header": (make()[:64], "program headers at 0x40 do not lie in the file"),
    "32 bits": (make(ehdr={"class": 1}), "not built for amd64"),
    "big-endian": (make(ehdr={"data": 2}), "not built for amd64"),
    "arm64": (make(ehdr={"machine": 183}), "not built for amd64"),
    "executable": (make(ehdr={"type": 2}), "not a shared object"),
    "relocatable": (make(ehdr={"type": 1}), "not a shared object"),
    "version": (make(ehdr={"version": 2}), "not a shared object"),
    "no headers": (make(ehdr={"phnum": 0}), "0 program headers"),
    "many headers": (make(ehdr={"phnum": 65535}), "65535 program headers"),
    "odd header size": (make(ehdr={"phentsize": 55}), "program headers"),
    "headers far off": (make(ehdr={"phoff": (1 << 64) - 8}), "do not lie in the file"),
    "nothing to load": (make(loads=(NOTHING,)), "nothing to load"),
    "no dynamic section": (make(headers=()), "no dynamic section"),
    "dynamic section outside": (
        make(headers=((elf.PT_DYNAMIC, 6, 0, 0x900000, 0x900000, 64, 64, 8),)),
        "dynamic section at 0x900000 lies in no segment",
    ),
    "file part outside": (
        make(loads=(*GOOD_LOADS[:2], load(DATA, 0x900, 0x900, DATA_FLAGS))),
        "segment 2: 0x900 bytes",
    ),
    "file part larger": (make(loads=(*GOOD_LOADS[:2], load(DATA, 0x800, 0x700, DATA_FLAGS))), "segment 2"),
    "offset wraps": (
        make(loads=(*GOOD_LOADS[:2], (1, 6, (1 << 64) - 0x1000, DATA, DATA, 0x1000, 0x1000, 1))),
        "segment 2",
    ),
    "address wraps": (
        make(loads=(*GOOD_LOADS[:2], (1, 6, DATA, (1 << 64) - 0x1000, 0, 0x800, 0x2000, 1))),
        "segment 2: address 0xfffffffffffff000",
    ),
    "bss of a terabyte": (make(loads=(*GOOD_LOADS[:2], load(DATA, 0x800, 1 << 40, DATA_FLAGS))), "out of bounds"),
    "alignment": (make(loads=(*GOOD_LOADS[:2], load(DATA, 0x800, 0x800, DATA_FLAGS, 0x1001))), "alignment 0x1001"),
    "alignment too large": (make(loads=(*GOOD_LOADS[:2], load(DATA, 0x800, 0x800, 6, 1 << 30))), "alignment"),
    "offset and address disagree": (
        make(loads=(*GOOD_LOADS[:2], (1, 6, DATA, DATA + 8, 0, 0x700, 0x700, 0x1000))),
        "alignment",
    ),
    "overlap": (make(loads=(GOOD_LOADS[0], load(TEXT, 0x10, 0x1010, TEXT_FLAGS), GOOD_LOADS[2])), "overlaps another"),
    "out of order": (make(loads=(GOOD_LOADS[1], GOOD_LOADS[0], GOOD_LOADS[2])), "out of order"),
    "writable program": (make(loads=(*GOOD_LOADS[:2], load(DATA, 0x800, 0x800, 7))), "both writable and executable"),
    "thread-local storage": (make(headers=(DYNAMIC_HEADER, (7, 4, DATA, DATA, DATA, 8, 8, 8))), "thread-local storage"),
    "RELRO outside": (
        make(headers=(DYNAMIC_HEADER, (elf.PT_GNU_RELRO, 4, TEXT, TEXT, TEXT, 16, 16, 1))),
        "RELRO range at 0x1000",
    ),
    "needs a library": (make(symbols=(LOADER_MAIN, undefined("libz.so.6")), tags=((elf.DT_NEEDED, 13),)), "libz.so.6"),
    "RELRO beyond the page": (
        make(headers=(DYNAMIC_HEADER, (elf.PT_GNU_RELRO, 4, DATA, DATA, DATA, 16, 0x800 + BSS + 0x801, 1))),
        "RELRO range at 0x2000",
    ),
    "text relocations": (make(tags=((elf.DT_TEXTREL, 0),)), "relocations in its program text"),
    "text relocations by flag": (make(tags=((elf.DT_FLAGS, 4),)), "relocations in its program text"),
    "no symbols": (make(without=(elf.DT_SYMTAB,)), "no dynamic symbols"),
    "no strings": (make(without=(elf.DT_STRTAB,)), "no dynamic symbols"),
    "no hash table": (make(style="none"), "no symbol hash table"),
    "symbol size": (make(tags=((elf.DT_SYMENT, 16),)), "entries of 16 bytes"),
    "relocation size": (make(rela=((WORDS, 8, 0),), tags=((elf.DT_RELAENT, 12),)), "entries of 12 bytes"),
    "strings outside": (make(tags=((elf.DT_STRSZ, 1 << 63),)), "string table"),
    "symbols outside": (make(tags=((elf.DT_SYMTAB, 0x700000),)), "symbol 1: 0x700018"),
    "name outside": (make(tags=((elf.DT_STRSZ, 1),)), "name at 0x1 lies outside"),
    "hash table outside": (make(tags=((elf.DT_GNU_HASH, (1 << 64) - 4),)), "symbol hash table"),
    "sysv hash table outside": (make(style="sysv", tags=((elf.DT_HASH, 0x700000),)), "symbol hash table"),
    "no loader_main": (make(symbols=(("main", 0x12, 1, TEXT),)), "does not define loader_main"),
    "undefined loader_main": (make(symbols=(undefined("loader_main"),)), "does not define loader_main"),
    "local loader_main": (make(symbols=(("loader_main", 0x02, 1, TEXT),)), "does not define loader_main"),
    "loader_main in data": (
        make(symbols=(("loader_main", 0x12, 1, DATA),)),
        "at 0x2000 is no program text",
    ),
    "loader_main outside": (make(symbols=(("loader_main", 0x12, 1, 1 << 63),)), "is no program text"),
    "indirect loader_main": (make(symbols=(("loader_main", 0x1A, 1, TEXT),)), "loader_main is an indirect function"),
    "thread-local loader_main": (make(symbols=(("loader_main", 0x16, 1, TEXT),)), "loader_main is thread-local"),
    "common loader_main": (make(symbols=(("loader_main", 0x12, 0xFFF2, 8),)), "loader_main is a common block"),
    "relocations outside": (make(rela=((WORDS, 8, 0),), tags=((elf.DT_RELASZ, 1 << 32),)), "relocations: "),
    "a million relocations": (
        make(
            loads=(*GOOD_LOADS[:2], load(DATA, 0x800, 64 << 20, DATA_FLAGS)),
            rela=((WORDS, 8, 0),),
            tags=((elf.DT_RELA, DATA), (elf.DT_RELASZ, 48 << 20)),
        ),
        "2097152 relocations",
    ),
    "relocation of text": (make(rela=((TEXT, RELATIVE, 0),)), "relocation at 0x1000 lies in no writable segment"),
    "relocation of the page's end": (make(rela=((DATA + 0x800 + BSS - 7, RELATIVE, 0),)), "no writable segment"),
    "relocation far away": (make(rela=(((1 << 64) - 8, RELATIVE, 0),)), "no writable segment"),
    "second relocation far away": (make(rela=((WORDS, RELATIVE, 0), (0x700000, RELATIVE, 0))), "0x700000"),
    "relocation of text without addend": (make(rel=((TEXT, RELATIVE),)), "no writable segment"),
    "packed relocation of text": (make(relr=(TEXT,)), "no writable segment"),
    "packed relocation past the end": (make(relr=(DATA + 0x800 + BSS - 8, 1 << 63 | 1)), "no writable segment"),
    "packed relocation without a start": (make(relr=(0b11,)), "relocation at 0x0 lies"),
    "indirect function": (make(rela=((WORDS, 37, TEXT),)), "relocation type 37"),
    "thread-local relocation": (make(rela=((WORDS, 18, TEXT),)), "relocation type 18"),
    "copy relocation": (make(rela=((WORDS, 5, TEXT),)), "relocation type 5"),
    "relocation to symbol 1000000": (make(rela=((WORDS, 1000000 << 32 | 6, 0),)), "symbol 1000000"),
    "undefined": (
        make(symbols=(LOADER_MAIN, undefined("pthread_create")), rela=((WORDS, 2 << 32 | 7, 0),)),
        "undefined symbol pthread_create",
    ),
    "undefined and unprintable": (
        make(symbols=(LOADER_MAIN, undefined("\x1b[2J")), rela=((WORDS, 2 << 32 | 7, 0),)),
        r"undefined symbol \x1b[2J",
    ),
    "linkage relocations of an odd kind": (
        make(tags=((elf.DT_JMPREL, WORDS), (elf.DT_PLTREL, 99), (elf.DT_PLTRELSZ, 24))),
        "of kind 99",
    ),
    "initialiser in data": (make(tags=((elf.DT_INIT, DATA),)), "initialiser at 0x2000 is no program text"),
    "initialisers outside": (make(tags=((elf.DT_INIT_ARRAY, 0x700000), (elf.DT_INIT_ARRAYSZ, 8))), "initialisers"),
    "a million initialisers": (make(tags=((elf.DT_INIT_ARRAY, WORDS), (elf.DT_INIT_ARRAYSZ, 1 << 23))), "initialisers"),
}


@pytest.mark.parametrize("name", BAD)
def test_refusals(name: str) -> None:
    data, reason = BAD[name]
    with pytest.raises(KernelError) as caught:
        map_object(data)
    assert reason in caught.value.message
    assert caught.value.errno == ENOEXEC
    assert caught.value.message.startswith("loader object: ")
    assert "\n" not in caught.value.message
    assert caught.value.message.isprintable()


def test_a_refused_object_leaves_nothing_mapped() -> None:
    before = len(protections())
    for _ in range(20):
        with pytest.raises(KernelError):
            map_object(BAD["undefined"][0])
    assert len(protections()) <= before + 2


def test_hash_chain_that_never_ends() -> None:
    data = bytearray(make(style="sysv", symbols=(("other", 0x12, 1, TEXT), ("third", 0x12, 1, TEXT))))
    tags = dict(elf.ELF64.dyn.iter_unpack(data[DATA : DATA + 0x200]))
    struct.pack_into("<I", data, tags[elf.DT_HASH] + 12 + 8, 1)  # chain[2] leads back to 1
    with pytest.raises(KernelError, match="does not define loader_main"):
        map_object(bytes(data))


def test_hash_chain_out_of_the_table() -> None:
    data = bytearray(make(style="sysv", symbols=(("other", 0x12, 1, TEXT),)))
    tags = dict(elf.ELF64.dyn.iter_unpack(data[DATA : DATA + 0x200]))
    struct.pack_into("<I", data, tags[elf.DT_HASH] + 12 + 4, 77)
    with pytest.raises(KernelError, match="symbol 77 of 2"):
        map_object(bytes(data))


def test_no_address_space() -> None:
    def work(leave: object) -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + (16 << 20),) * 2)
        map_object(make(loads=(*GOOD_LOADS[:2], load(DATA, 0x800, 64 << 20, DATA_FLAGS))))

    end = in_child(work, dict)
    assert (end.kind, end.value) == ("error", f"{HostError.__name__}: loader object: no memory for 64 MiB")


def supplied(name: str, result: Any, *parameters: Any) -> Any:
    address = supplied_address(name)
    assert address is not None
    return ctypes.CFUNCTYPE(result, *parameters)(address)


def test_supplied_functions_are_those_of_c() -> None:
    """Against the host's C library."""
    libc = ctypes.CDLL(None)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    text = ctypes.create_string_buffer(b"abcabd")
    at = ctypes.addressof(text)
    memmem = supplied("memmem", pointer, pointer, size, pointer, size)
    libc.memmem.restype = pointer
    libc.memmem.argtypes = (pointer, size, pointer, size)
    for needle in (b"abd", b"abcabd", b"abcabdx", b"", b"x", b"d"):
        little = ctypes.create_string_buffer(needle)
        arguments = at, 6, ctypes.addressof(little), len(needle)
        assert memmem(*arguments) == libc.memmem(*arguments), needle
    assert memmem(None, 0, at, 3) is None
    assert memmem(at, 2, at, 3) is None
    memcmp = supplied("memcmp", number, pointer, pointer, size)
    for one, other in ((b"abc", b"abc"), (b"abc", b"abd"), (b"\x80", b"\x7f"), (b"", b"")):
        left, right = ctypes.create_string_buffer(one), ctypes.create_string_buffer(other)
        ours = memcmp(ctypes.addressof(left), ctypes.addressof(right), len(one))
        assert (ours > 0) - (ours < 0) == (one > other) - (one < other)
    assert supplied("strlen", size, pointer)(at) == 6
    assert supplied("memset", pointer, pointer, number, size)(at, 0x141, 2) == at
    assert text.raw == b"AAcabd\0"
    assert supplied("memmove", pointer, pointer, pointer, size)(at + 1, at, 4) == at + 1
    assert text.raw == b"AAAcad\0"
    assert supplied("memcpy", pointer, pointer, pointer, size)(at, at + 4, 2) == at
    assert text.raw == b"adAcad\0"
    now = ctypes.c_int64()
    clock = supplied("time", ctypes.c_int64, pointer)
    assert clock(ctypes.addressof(now)) == now.value
    assert 0 <= clock(None) - int(time.time()) + 1 <= 2
    assert supplied_address("malloc") is None


SEEDS = [
    make(style="both", symbols=(LOADER_MAIN, undefined("time")), rela=((WORDS, 2 << 32 | 6, 0), (WORDS + 8, 8, 4)))
]
INTERESTING = (0, 1, 7, 8, 0x7F, 0x80, 0xFF, 0xFFFF, 0xFFFFFFFF, 1 << 31, 1 << 63, (1 << 64) - 1, TEXT, DATA)


@pytest.fixture(scope="module", autouse=True)
def compiled_seed(tmp_path_factory: pytest.TempPathFactory) -> None:
    if shutil.which("cc") and os.uname().machine == "x86_64" and len(SEEDS) == 1:
        SEEDS.append(build(tmp_path_factory.mktemp("seed")))


def mutations() -> st.SearchStrategy[list[tuple[int, int, int]]]:
    """(place, width, value): most in the first bytes (headers, symbols, relocations) and the dynamic section."""
    place = st.one_of(st.integers(0, 0x400), st.integers(DATA, DATA + 0x200), st.integers(0, 0x6000))
    value = st.one_of(st.sampled_from(INTERESTING), st.integers(0, (1 << 64) - 1))
    return st.lists(st.tuples(place, st.sampled_from((1, 2, 4, 8)), value), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=mutations(), cut=st.one_of(st.none(), st.integers(0, 0x3000)))
def test_mutated_objects(changes: list[tuple[int, int, int]], cut: int | None) -> None:
    """Whatever the file says, mapping it ends in an object or in KernelError; nothing of it is run."""

    def work(leave: object) -> None:
        for seed in SEEDS:
            data = bytearray(seed)
            for place, width, value in changes:
                place = min(place, len(data) - width)
                data[place : place + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
            try:
                map_object(bytes(data[:cut]))
            except (KernelError, HostError):
                pass
        raise LoaderExit(0)

    end = in_child(work, dict)
    assert (end.kind, end.value) == ("exit", 0)
