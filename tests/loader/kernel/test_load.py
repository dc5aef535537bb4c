"""Kernels built with gcc and ld: what lies in guest memory is what readelf and objcopy say must lie there."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.kernel_objects import (
    KERNBASE,
    build_kernel,
    build_module,
    content,
    depend,
    header_field,
    require_toolchain,
    sections,
    segments,
    tool,
    version,
)
from support.kernel_runs import (
    ADDR,
    CTORS_ADDR,
    CTORS_SIZE,
    DYNAMIC,
    ELFHDR,
    ENVP,
    ESYM,
    HOWTO,
    KERNEND,
    KEYBUF,
    MIB,
    NAME,
    SHDR,
    SIZE,
    SMAP,
    SSYM,
    TYPE,
    answers,
    loaded,
    said,
    typed,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

require_toolchain("objcopy", "nm")
CORRUPT = "elf{}_lookup_symbol: corrupt symbol table\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "boot/kernel").mkdir(parents=True)
    return folder


def flat(kernel: Path, output: Path) -> bytes:
    """The segments' memory image up to .bss, by objcopy."""
    tool("objcopy", "-O", "binary", kernel, output)
    return output.read_bytes()


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("arch", ["amd64", "i386"])
def test_segments_symbols_and_records(tree: Path, arch: str, dynamic: bool) -> None:
    kernel = build_kernel(tree / "boot/kernel/kernel", arch=arch, dynamic=dynamic, ctors=3, padding=3 * MIB)
    wide = arch == "amd64"
    run = loaded(tree, ["load kernel"], wide=wide)
    base = 0x200000 if wide else 0x800000
    word = 8 if wide else 4
    (text, data) = segments(kernel)
    for offset, vaddr, filesz, memsz in (text, data):
        where = vaddr - text[1] + base
        assert run.read(where, filesz) == kernel.read_bytes()[offset : offset + filesz]
        assert run.read(where + filesz, memsz - filesz) == bytes(memsz - filesz)
    last = (data[1] - text[1] + base + data[3] + 7) // 8 * 8
    found = {section.name: section for section in sections(kernel)}
    expected = b""
    for name in (".symtab", ".strtab"):
        table = content(kernel, found[name])
        expected += len(table).to_bytes(word, "little") + table + bytes(-len(table) % word)
    assert run.read(last, len(expected)) == expected
    (file,) = run.files
    assert (file.name, file.text(TYPE)) == ("/boot/kernel/kernel", "elf kernel")
    assert (file.addr, file.size) == (base, last + len(expected) - base)
    assert (file.number(SSYM), file.number(ESYM)) == (last, last + len(expected))
    assert len(file.find(SSYM)) == len(file.find(ESYM)) == len(file.find(ADDR)) == word
    assert len(file.find(SIZE)) == 8
    raw = kernel.read_bytes()
    assert file.find(ELFHDR) == raw[: 64 if wide else 52]
    shoff = header_field(kernel, "Start of section headers")
    assert file.find(SHDR) == raw[shoff : shoff + len(found) * (64 if wide else 40)]
    nm = {fields[2]: int(fields[0], 16) for fields in map(str.split, tool("nm", kernel).splitlines())}
    assert len(file.find(CTORS_ADDR)) == word
    assert file.number(CTORS_SIZE) == 3 * word
    ctors = found[".ctors"].offset
    assert raw[ctors : ctors + 3 * word] == nm["btext"].to_bytes(word, "little") * 3
    assert file.number(CTORS_ADDR) == data[1] + ctors - data[0]
    order = [SMAP, KERNEND, ENVP, HOWTO, ELFHDR, DYNAMIC, ESYM, SSYM, CTORS_SIZE, CTORS_ADDR, SHDR]
    if not wide:
        order.insert(0, KEYBUF)
    if dynamic:
        (segment,) = segments(kernel, "DYNAMIC")
        assert file.number(DYNAMIC) == segment[1]
        assert len(file.find(DYNAMIC)) == word
    else:
        order.remove(DYNAMIC)
    assert file.kinds == [NAME, TYPE, ADDR, SIZE, *order]
    assert file.number(KERNEND) == run.kernend == (run.end + 4095) // 4096 * 4096
    assert file.number(ENVP) == (file.addr + file.size + 4095) // 4096 * 4096
    bss = f"+{data[3] - data[2]:#x}"
    sizes = [word, found[".symtab"].size, word, found[".strtab"].size]
    line = f"/boot/kernel/kernel text={text[2]:#x} data={data[2]:#x}{bss} {'+'.join(map(hex, sizes))}\n"
    assert line + ("" if dynamic else CORRUPT.format(64 if wide else 32)) in run.console
    modules = run.outcome.report["files"][0]["modules"]
    assert modules == ([{"name": "kernel", "version": 1400097}] if dynamic else [])


def test_the_flat_image_of_objcopy(tree: Path, tmp_path: Path) -> None:
    """All of a 6 MiB kernel, alignment gaps included."""
    kernel = build_kernel(tree / "boot/kernel/kernel", padding=6 * MIB)
    image = flat(kernel, tmp_path / "flat")
    first = min(section.offset for section in sections(kernel) if "A" in section.flags)
    run = loaded(tree, ["load kernel"])
    assert len(image) > 6 * MIB
    assert run.read(0x200000 + first, len(image)) == image


@pytest.mark.parametrize("style", ["sysv", "gnu", "both"])
def test_the_hash_tables(tree: Path, style: str) -> None:
    """Only a System V hash table leads to the module versions (docs/errata.md, "What a load prints")."""
    build_kernel(tree / "boot/kernel/kernel", hash_style=style, records=[version("kernel", 7), version("extra", 5)])
    run = loaded(tree, ["load kernel"])
    modules = [(module["name"], module["version"]) for module in run.outcome.report["files"][0]["modules"]]
    assert modules == ([] if style == "gnu" else [("extra", 5), ("kernel", 7)])
    assert (CORRUPT.format(64) in run.console) == (style == "gnu")


def test_a_dynamic_kernel_without_its_set(tree: Path) -> None:
    kernel = build_kernel(tree / "boot/kernel/kernel")
    damaged = kernel.read_bytes().replace(b"__start_set_modmetadata_set", b"__stark_set_modmetadata_set")
    kernel.write_bytes(damaged)
    outcome = typed(tree, ["load kernel", "lsmod", "quit"])
    assert "can't load file '/boot/kernel/kernel': input/output error\n" in said(outcome)
    assert outcome.report["files"] == []


def test_high_memory_is_in_the_map(tree: Path) -> None:
    build_kernel(tree / "boot/kernel/kernel")
    run = loaded(tree, ["load kernel"], memory=5 << 30)
    entries = [(0, 0xA0000), (0x100000, (3 << 30) - 0x100000), (1 << 32, 2 << 30)]
    assert run.files[0].find(SMAP) == b"".join(struct.pack("<QQI", base, size, 1) for base, size in entries)


def test_the_i386_kernel_and_its_bootinfo(tree: Path) -> None:
    for current, size, path_at in ((True, 0x54, 0x2054), (False, 136, 0x2088)):
        build_kernel(tree / "boot/kernel/kernel", arch="i386", load_address=0x00C00000)
        run = loaded(tree, ["load kernel -v x=1", "load -t md_image /boot/kernel/kernel"], wide=False, current=current)
        kernel, preload = run.files
        assert kernel.addr == 0xC00000
        end = kernel.addr + kernel.size
        assert preload.addr == ((end + 4095) // 4096 * 4096 if current else end)
        words = struct.unpack("<9I", run.read(0x1FDC, 36))
        assert words == (0xBEEFFACE, 0x80000800 | 0x1000, 0, 0, 0, 0, 0x2000, run.modulep, run.kernend)
        info = run.read(0x2000, 84)
        assert struct.unpack_from("<4I", info) == (1, path_at, 0, 0)
        assert struct.unpack_from("<IB3xII", info, 48) == (size, 1, 640, 127 * 1024)
        ssym, esym, kernend, envp, modulep = struct.unpack_from("<5I", info, 64)
        assert (ssym, esym) == (kernel.number(SSYM), kernel.number(ESYM))
        assert (kernend, envp, modulep) == (run.kernend, kernel.number(ENVP), run.modulep)
        assert run.read(path_at, 20) == b"/boot/kernel/kernel\0"
        assert len(kernel.find(ENVP)) == len(kernel.find(KERNEND)) == 8
        assert len(kernel.find(KEYBUF)) == 33028
        registers = run.outcome.report["vcpu"]["registers"]
        assert (registers["rip"], registers["rsp"], registers["cr0"]) == (
            header_field(tree / "boot/kernel/kernel", "Entry point address") & 0xFFFFFF,
            0x1FDC,
            0x21,
        )
        gdt = [0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF, 0x0000890040000067]
        assert run.read(0x3000, 32) == struct.pack("<4Q", *gdt)


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstd.compress,
    ".xz": lzma.compress,
}


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_files_load_as_their_content(tree: Path, suffix: str) -> None:
    """The same memory byte for byte, symbols included, under the name without the suffix."""
    kernel = build_kernel(tree / "boot/kernel/kernel", padding=2 * MIB, symbols=500)
    module = build_module(
        tree / "boot/kernel/one.ko", [version("one", 1), depend("kernel", 1, 2, 9999999)], padding=70_000
    )
    raw = tree / "boot/image"
    raw.write_bytes(bytes(range(256)) * 400 + b"end")
    commands = ["load kernel", "load one", "load -t md_image /boot/image"]
    plain = loaded(tree, commands)
    for path in (kernel, module, raw):
        path.with_name(path.name + suffix).write_bytes(COMPRESSORS[suffix](path.read_bytes()))
        path.unlink()
    packed = loaded(tree, commands)
    assert packed.kernend == plain.kernend
    assert packed.read(0x2000, plain.kernend - 0x2000) == plain.read(0x2000, plain.kernend - 0x2000)
    assert packed.names == ["kernel", "one.ko", "image"]
    assert packed.console == plain.console


def test_the_suffix_itself_is_not_decompressed(tree: Path) -> None:
    for suffix, pack in COMPRESSORS.items():
        (tree / f"boot/x{suffix}").write_bytes(pack(b"content"))
    build_kernel(tree / "boot/kernel/kernel")
    run = loaded(tree, ["load kernel", *(f"load -t raw{suffix} /boot/x{suffix}" for suffix in COMPRESSORS)])
    for file in run.files[1:]:
        assert run.read(file.addr, file.size) == (tree / file.name[1:]).read_bytes()


def test_gzip_comes_before_zstd(tree: Path) -> None:
    build_kernel(tree / "boot/kernel/kernel")
    for suffix, pack in COMPRESSORS.items():
        (tree / f"boot/x{suffix}").write_bytes(pack(b"content of " + suffix.encode()))
    order = []
    for suffix in COMPRESSORS:
        run = loaded(tree, ["load kernel", "load -t raw /boot/x"])
        order.append(run.read(run.files[1].addr, run.files[1].size).decode())
        (tree / f"boot/x{suffix}").unlink()
    assert order == [f"content of {suffix}" for suffix in COMPRESSORS]


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_damaged_compressed_files(tree: Path, suffix: str) -> None:
    kernel = build_kernel(tree / "boot/kernel/kernel", padding=MIB)
    whole = COMPRESSORS[suffix](kernel.read_bytes())
    kernel.unlink()
    packed = kernel.with_name("kernel" + suffix)
    for data in (whole[: len(whole) // 2], whole[:20], b"not compressed"):
        packed.write_bytes(data)
        outcome = typed(tree, ["load kernel", "quit"])
        assert outcome.report["files"] == []
        assert "can't " in said(outcome) or "don't know how to load" in said(outcome)


def test_a_preload_that_is_cut_short_is_not_loaded(tree: Path) -> None:
    build_kernel(tree / "boot/kernel/kernel")
    whole = gzip.compress(bytes(range(256)) * 4000)
    (tree / "boot/image.gz").write_bytes(whole[: len(whole) // 2])
    outcome = typed(tree, ["load kernel", "load -t md_image /boot/image", "quit"])
    assert "error reading '/boot/image': input/output error\n" in said(outcome)
    assert len(outcome.report["files"]) == 1


def test_a_bomb_is_bounded_by_memory(tree: Path) -> None:
    build_kernel(tree / "boot/kernel/kernel")
    (tree / "boot/image.gz").write_bytes(gzip.compress(bytes(60 * MIB)))
    said_first = answers(tree, ["load kernel", "load -t md_image /boot/image"], memory=32 * MIB)
    assert "error reading '/boot/image': cannot allocate memory\n" in said_first["load -t md_image /boot/image"]


def test_kernel_arguments(tree: Path) -> None:
    build_kernel(tree / "boot/kernel/kernel")
    run = loaded(tree, ["load kernel -s a=b c"])
    assert run.files[0].text(6) == "-s"
    run = loaded(tree, ["load kernel"])
    assert 6 not in run.files[0].kinds
    assert run.outcome.environment["kernelname"] == "/boot/kernel/kernel"


def test_unload_and_reload_leave_the_same(tree: Path) -> None:
    build_kernel(tree / "boot/kernel/kernel")
    build_module(tree / "boot/kernel/one.ko", [version("one", 1)])
    once = loaded(tree, ["load kernel", "load one"])
    twice = loaded(
        tree, ["load kernel", "load one", "load -t x /boot/kernel/one.ko", "unload", "load kernel", "load one"]
    )
    assert [file.records for file in twice.files] == [file.records for file in once.files]
    for file in once.files:
        assert twice.read(file.addr, file.size) == once.read(file.addr, file.size)


def test_kernel_in_the_last_supported_place(tree: Path) -> None:
    """The entry may lie anywhere within 16 MiB above KERNBASE; beyond, the loader's mask moves the kernel down."""
    kernel = build_kernel(tree / "boot/kernel/kernel", load_address=KERNBASE + 0xE00000)
    run = loaded(tree, ["load kernel"])
    assert run.files[0].addr == 0xE00000
    assert run.read(0xE00000, 16) == kernel.read_bytes()[:16]


def test_the_gdb_flavoured_copy_objcopy_makes(tree: Path) -> None:
    """FreeBSD's installed kernels are stripped of debugging sections by objcopy: nothing but SHDR changes."""
    kernel = build_kernel(tree / "boot/kernel/kernel", symbols=50)
    before = loaded(tree, ["load kernel"]).files[0].kinds
    subprocess.run(["objcopy", "--strip-debug", "--add-section", f".SUNW_ctf={kernel}", str(kernel)], check=True)
    run = loaded(tree, ["load kernel"])
    assert run.files[0].kinds == before
    assert run.outcome.report["files"][0]["modules"] == [{"name": "kernel", "version": 1400097}]


def test_what_is_said_at_each_verbosity(tree: Path) -> None:
    """docs/errata.md, "What a load prints": nothing, the usual line, or every segment and table with its place."""
    kernel = build_kernel(tree / "boot/kernel/kernel", dynamic=False)
    build_module(tree / "boot/kernel/obj.ko", [version("obj", 1), depend("dyn", 1, 1, 1)])
    build_module(tree / "boot/kernel/dyn.ko", [version("dyn", 1)], shared=True)
    (tree / "boot/raw").write_bytes(b"12345")
    commands = ["load kernel", "load obj", "load -t raw /boot/raw"]
    silent = answers(tree, ["set module_verbose=0", *commands])
    assert [silent[command] for command in commands] == [CORRUPT.format(64), "", ""]
    usual = [answers(tree, [f"set module_verbose={level}", *commands]) for level in (1, 2)]
    assert [usual[0][command] for command in commands] == [usual[1][command] for command in commands]
    assert usual[0]["load -t raw /boot/raw"] == "/boot/raw size=0x5\n"
    full = answers(tree, ["set module_verbose=3", *commands])
    lines = [f"/boot/kernel/kernel entry at {header_field(kernel, 'Entry point address'):#x}"]
    for offset, vaddr, filesz, memsz in segments(kernel):
        at = vaddr - KERNBASE
        bss = f" (bss: {at + filesz:#x}-{at + memsz - 1:#x})" if memsz > filesz else ""
        lines.append(f"Segment: {filesz:#x}@{offset:#x} -> {at:#x}-{at + memsz - 1:#x}{bss}")
    lines.append("syms=[")
    found = {section.name: section for section in sections(kernel)}
    at = (at + memsz + 7) // 8 * 8
    for name in ("symtab", "strtab"):
        table = found["." + name]
        at += 8
        lines.append(f"{name}: {table.size:#x}@{table.offset:#x} -> {at:#x}-{at + table.size:#x}")
        at = (at + table.size + 7) // 8 * 8
    assert full["load kernel"] == "\n".join(lines) + "]\n" + CORRUPT.format(64)
    assert re.fullmatch(
        r"/boot/kernel/obj\.ko size 0x\w+ at 0x\w+\nloading required module 'dyn'\n"
        r"(Segment: 0x\w+@0x\w+ -> 0x\w+-0x\w+( \(bss: 0x\w+-0x\w+\))?\n)+"
        r"syms=\[\nsymtab: 0x\w+@0x\w+ -> 0x\w+-0x\w+\nstrtab: 0x\w+@0x\w+ -> 0x\w+-0x\w+\]\n",
        full["load obj"],
    )
    assert full["load -t raw /boot/raw"] == "/boot/raw size=0x5\n"
