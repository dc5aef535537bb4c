"""Modules: objects and shared objects from gcc and ld, their placement, their metadata, their dependencies."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from support.kernel_objects import (
    MDT_MODULE,
    Hints,
    Record,
    Section,
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
    DYNAMIC,
    ELFHDR,
    ESYM,
    MIB,
    NAME,
    SHDR,
    SIZE,
    SSYM,
    TYPE,
    Loaded,
    answers,
    loaded,
    said,
    typed,
)
from support.kernel_tree import build_boot_tree

require_toolchain("nm")
PLACED = ("PROGBITS", "NOBITS", "X86_64_UNWIND", "INIT_ARRAY", "FINI_ARRAY")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    build_kernel(folder / "boot/kernel/kernel")
    (folder / "boot/modules").mkdir()
    return folder


def modules(run: Loaded, number: int) -> list[tuple[str, int]]:
    return [(found["name"], found["version"]) for found in run.outcome.report["files"][number]["modules"]]


def placement(path: Path, base: int) -> tuple[list[int], int]:
    """Where load_elf_obj.c puts each section (0: nowhere), and the end; from readelf's table."""
    found = sections(path)
    symtab = next(section for section in found if section.kind == "SYMTAB")
    order: list[Section] = [
        section for section in found if section.size and "A" in section.flags and section.kind in PLACED
    ]
    order += [symtab, found[symtab.link], found[header_field(path, "Section header string table index")]]
    order += [section for section in found if section.kind in ("REL", "RELA") and "A" in found[section.info].flags]
    where = dict.fromkeys(map(id, found), 0)
    at = base
    for section in order:
        step = max(1, section.align)
        at = (at + step - 1) // step * step
        where[id(section)] = at
        at += section.size
    return [where[id(section)] for section in found], at


def test_objects_are_placed_as_load_elf_obj_does(tree: Path) -> None:
    """Text, data, .bss, init arrays, unwind tables, symbols, names, relocations; nothing of debugging sections."""
    extra = """
	.section .init_array, "aw", @init_array
	.balign 8
	.quad one_load
	.section .fini_array, "aw", @fini_array
	.quad one_load
	.section .eh_frame, "a", @unwind
	.balign 16
	.long 4, 5, 6
	.section .debug_info, "", @progbits
	.quad one_load
	.section .comment, "MS", @progbits, 1
	.asciz "no section for memory"
	.section .aligned, "aw", @progbits
	.balign 4096
	.quad one_load
	.section .note.x, "a", @note
	.long 0, 0, 0
	.section .empty, "a", @progbits
"""
    names = [("one", 3000, 3), ("two", 200_000, 4000), ("three", 1, 0)]
    for name, padding, count in names:
        build_module(
            tree / f"boot/kernel/{name}.ko",
            [version(name, 4), depend("kernel", 1, 1400097, 1499999), (MDT_MODULE, name, ())],
            padding=padding,
            relocations=count,
            extra=extra.replace("one_load", f"{name}_load"),
        )
    run = loaded(tree, ["load kernel", *(f"load {name}" for name, _, _ in names)])
    end = run.files[0].addr + run.files[0].size
    for number, (name, _, _) in enumerate(names, 1):
        path = tree / f"boot/kernel/{name}.ko"
        base = (end + 4095) // 4096 * 4096
        addresses, end = placement(path, base)
        file = run.files[number]
        assert (file.name, file.text(TYPE)) == (f"/boot/kernel/{name}.ko", "elf obj module")
        assert (file.addr, file.size) == (base, end - base)
        assert file.kinds == [NAME, TYPE, ADDR, SIZE, ELFHDR, SHDR]
        assert f"/boot/kernel/{name}.ko size {end - base:#x} at {base:#x}\n" in run.console
        assert file.find(ELFHDR) == path.read_bytes()[:64]
        table = sections(path)
        image = bytearray(end - base)
        for section, address in zip(table, addresses, strict=True):
            if address and section.kind != "NOBITS":
                image[address - base : address - base + section.size] = content(path, section)
        assert run.read(base, end - base) == bytes(image)
        shoff = header_field(path, "Start of section headers")
        headers = bytearray(path.read_bytes()[shoff : shoff + 64 * len(table)])
        for index, address in enumerate(addresses):
            struct.pack_into("<Q", headers, index * 64 + 16, address)
        assert file.find(SHDR) == bytes(headers)
        assert modules(run, number) == [(name, 4)]


def test_a_module_compiled_from_c(tree: Path, tmp_path: Path) -> None:
    """The macros of sys/module.h as gcc compiles them: static and global records, both kinds of relocations."""
    source = tmp_path / "if_c.c"
    source.write_text(
        """
struct mod_metadata { int version; int type; const void *data; const char *cval; };
struct mod_depend { int minimum, preferred, maximum; };
struct mod_version { int version; };
#define SET(record) static const void *const __set_##record \\
    __attribute__((section("set_modmetadata_set"), used)) = &record
static struct mod_depend on_kernel = { 1300000, 1400097, 1499999 };
static struct mod_metadata kernel_md = { 1, 1, &on_kernel, "kernel" };
SET(kernel_md);
static struct mod_version own_version = { 77 };
struct mod_metadata own_md = { 1, 3, &own_version, "if_c" };
SET(own_md);
static struct mod_metadata module_md = { 1, 2, 0, "pci/if_c" };
SET(module_md);
static struct mod_metadata pnp_md = { 1, 4, 0, "pci" };
SET(pnp_md);
"""
    )
    path = tree / "boot/modules/if_c.ko"
    tool("gcc", "-m64", "-O2", "-ffreestanding", "-mcmodel=kernel", "-fno-pic", "-g", "-c", "-o", path, source)
    run = loaded(tree, ["load kernel", "load if_c"])
    assert run.names == ["kernel", "if_c.ko"]
    assert modules(run, 1) == [("if_c", 77)]
    assert run.files[1].addr + run.files[1].size == placement(path, run.files[1].addr)[1]
    assert "unknown type" not in run.console


@pytest.mark.parametrize("linking", [["-Bsymbolic"], []], ids=["relative", "by symbol"])
def test_shared_modules(tree: Path, linking: list[str]) -> None:
    """ET_DYN on amd64.  A record that is reached by a symbol ends the reading: the loader looks none up (ESRCH)."""
    records = [version("first", 2), version("second", 3), depend("kernel", 1, 2, 9999999)]
    path = build_module(tree / "boot/kernel/dyn.ko", records, shared=True, linking=linking, padding=5000, bss=5000)
    run = loaded(tree, ["load kernel", "load dyn -x y=z"])
    kernel, file = run.files
    base = (kernel.addr + kernel.size + 4095) // 4096 * 4096
    assert (file.addr, file.text(TYPE)) == (base, "elf module")
    for offset, vaddr, filesz, memsz in segments(path):
        assert run.read(base + vaddr, filesz) == path.read_bytes()[offset : offset + filesz]
        assert run.read(base + vaddr + filesz, memsz - filesz) == bytes(memsz - filesz)
    assert file.kinds == [NAME, TYPE, 6, ADDR, SIZE, ELFHDR, DYNAMIC, ESYM, SSYM, SHDR]
    (dynamic,) = segments(path, "DYNAMIC")
    assert file.number(DYNAMIC) == dynamic[1]
    assert file.number(ESYM) == file.addr + file.size
    symtab = next(section for section in sections(path) if section.kind == "SYMTAB")
    assert run.read(file.number(SSYM) + 8, symtab.size) == content(path, symtab)
    assert file.text(6) == "-x y=z"
    assert modules(run, 1) == ([("second", 3), ("first", 2)] if linking else [("first", 2)])


def test_a_shared_module_without_a_version_stands_for_its_name(tree: Path) -> None:
    build_module(tree / "boot/kernel/snd_x.y.ko", [(MDT_MODULE, "anything", ())], shared=True)
    run = loaded(tree, ["load kernel", "load snd_x.y"])
    assert modules(run, 1) == [("snd_x.y", 1)]


def test_shared_modules_on_i386(tree: Path) -> None:
    build_kernel(tree / "boot/kernel/kernel", arch="i386")
    path = build_module(tree / "boot/kernel/dyn.ko", [version("dyn", 9)], arch="i386", shared=True, bss=300)
    run = loaded(tree, ["load kernel", "load dyn"], wide=False)
    file = run.files[1]
    assert (file.addr % 4096, file.text(TYPE)) == (0, "elf module")
    assert len(file.find(ADDR)) == len(file.find(SSYM)) == len(file.find(DYNAMIC)) == 4
    assert modules(run, 1) == [("dyn", 9)]
    for offset, vaddr, filesz, _ in segments(path):
        assert run.read(file.addr + vaddr, filesz) == path.read_bytes()[offset : offset + filesz]


def test_an_i386_object_cannot_be_relocated_by_the_64_bit_loader(tree: Path) -> None:
    build_module(tree / "boot/kernel/obj.ko", [version("obj", 9)], arch="i386")
    outcome = typed(tree, ["load kernel", "load obj", "quit"])
    assert "can't load file '/boot/kernel/obj.ko': input/output error\n" in said(outcome)
    assert len(outcome.report["files"]) == 1


def test_relocations_the_loader_does_not_know(tree: Path) -> None:
    """A metadata pointer that needs, say, a 32-bit relocation: EIO, and the type is named."""
    extra = '\t.section set_modmetadata_set, "aw", @progbits\n\t.balign 8\n\t.long record0\n\t.long 0\n'
    build_module(tree / "boot/kernel/odd.ko", [version("odd", 1)], extra=extra)
    outcome = typed(tree, ["load kernel", "load odd", "quit"])
    text = said(outcome)
    assert "\nunhandled relocation type 10\n" in text
    assert "can't load file '/boot/kernel/odd.ko': input/output error\n" in text


def test_a_metadata_pointer_to_another_file(tree: Path) -> None:
    extra = '\t.section set_modmetadata_set, "aw", @progbits\n\t.quad somewhere_else\n'
    build_module(tree / "boot/kernel/odd.ko", [version("odd", 1)], extra=extra)
    assert answers(tree, ["load kernel", "load odd"])["load odd"].endswith(
        "can't load file '/boot/kernel/odd.ko': input/output error\n"
    )


# Dependencies and versions


def kit(tree: Path, name: str, number: int, *records: Record, file: str = "") -> Path:
    return build_module(tree / "boot/kernel" / (file or f"{name}.ko"), [version(name, number), *records], padding=64)


def test_dependencies_are_loaded_newest_record_first(tree: Path) -> None:
    """docs/errata.md, "Order of dependencies", recursively; what is there already is not loaded again."""
    for name in ("p", "q", "r", "deep"):
        kit(tree, name, 1, *([depend("deep", 1, 1, 1)] if name in "qr" else []))
    kit(
        tree,
        "top",
        1,
        depend("p", 1, 1, 1),
        depend("q", 1, 1, 1),
        depend("r", 1, 1, 1),
        depend("kernel", 1, 2, 1400100),
    )
    run = loaded(tree, ["load kernel", "load top with args"])
    assert run.names == ["kernel", "top.ko", "r.ko", "deep.ko", "q.ko", "p.ko"]
    assert [file.addr for file in run.files] == sorted(file.addr for file in run.files)
    text = run.console[run.console.index("load top") :]
    assert [line.partition(" size")[0] for line in text.split("\n")[1:10]] == [
        "/boot/kernel/top.ko",
        "loading required module 'r'",
        "/boot/kernel/r.ko",
        "loading required module 'deep'",
        "/boot/kernel/deep.ko",
        "loading required module 'q'",
        "/boot/kernel/q.ko",
        "loading required module 'p'",
        "/boot/kernel/p.ko",
    ]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [((1, 3, 5), "v3.ko"), ((1, 9, 5), "v4.ko"), ((2, 9, 3), "v3.ko"), ((1, 1, 1), "v1.ko"), ((0, 9, 0), None)],
)
def test_the_preferred_version_else_the_highest_in_range(
    tree: Path, wanted: tuple[int, int, int], expected: str | None
) -> None:
    hints = Hints()
    for number in (1, 4, 3):
        kit(tree, "lib", number, file=f"v{number}.ko")
        hints.module("lib", f"v{number}.ko").version("lib", number, f"v{number}.ko")
    (tree / "boot/kernel/linker.hints").write_bytes(hints.encode())
    kit(tree, "user", 1, depend("lib", *wanted))
    outcome = typed(tree, ["load kernel", "load user", "quit"])
    names = [file["name"].rpartition("/")[2] for file in outcome.report["files"]]
    assert names == (["kernel", "user.ko", expected] if expected else ["kernel"])
    if expected is None:
        assert "can't find 'lib'\n" in said(outcome)


def test_a_file_of_the_right_name_and_the_wrong_version(tree: Path) -> None:
    """Without hints the name decides, the version is looked at afterwards; everything since `load` is taken back."""
    kit(tree, "lib", 7)
    kit(tree, "user", 1, depend("lib", 1, 2, 3))
    outcome = typed(tree, ["load kernel", "load user", "lsmod", "load lib", "quit"])
    assert "module 'lib' exists but with wrong version\n" in said(outcome)
    files = outcome.report["files"]
    assert [file["name"] for file in files] == ["/boot/kernel/kernel", "/boot/kernel/lib.ko"]
    assert files[1]["address"] == (files[0]["address"] + files[0]["size"] + 4095) // 4096 * 4096


def test_a_missing_dependency_takes_the_module_back(tree: Path) -> None:
    kit(tree, "user", 1, depend("gone", 1, 1, 1), depend("there", 1, 1, 1))
    kit(tree, "there", 1)
    before = typed(tree, ["load kernel", "load there", "quit"]).report["files"][1]["address"]
    outcome = typed(tree, ["load kernel", "load user", "load there", "quit"])
    assert "can't find 'gone'\n" in said(outcome)
    assert [file["name"] for file in outcome.report["files"]] == ["/boot/kernel/kernel", "/boot/kernel/there.ko"]
    assert outcome.report["files"][1]["address"] == before


def test_modules_that_need_each_other(tree: Path) -> None:
    kit(tree, "egg", 1, depend("hen", 1, 1, 1))
    kit(tree, "hen", 1, depend("egg", 1, 1, 1))
    assert loaded(tree, ["load kernel", "load egg"]).names == ["kernel", "egg.ko", "hen.ko"]


def test_a_chain_of_dependencies_has_an_end(tree: Path) -> None:
    for number in range(4):
        kit(tree, f"c{number}", 1, depend(f"c{number + 1}", 1, 1, 1))
    text = said(typed(tree, ["load kernel", "load c0", "quit"]))
    assert "can't find 'c4'\n" in text


def test_already_loaded(tree: Path) -> None:
    """By path, by module name, by a name another file provides; nothing is said and the arguments stay."""
    kit(tree, "lib", 3, version("other", 1))
    said_by = answers(
        tree,
        [
            "load kernel",
            "load lib first",
            "load /boot/kernel/lib.ko",
            "load lib second",
            "load other",
            "load -k lib",
            "lsmod",
        ],
    )
    for command in ("load /boot/kernel/lib.ko", "load lib second", "load other", "load -k lib"):
        assert said_by[command] == ""
    assert said_by["lsmod"].count("lib.ko") == 1
    assert "    args: first\n" in said_by["lsmod"]


def test_the_same_module_under_two_names(tree: Path) -> None:
    """docs/errata.md, "Relocatable objects": the file's name counts when it is given, not what is in it."""
    path = kit(tree, "lib", 3)
    path.with_name("copy.ko").write_bytes(path.read_bytes())
    assert loaded(tree, ["load kernel", "load lib", "load copy", "load /boot/kernel/copy.ko"]).names == [
        "kernel",
        "lib.ko",
        "copy.ko",
    ]


def test_lsmod(tree: Path) -> None:
    path = kit(tree, "lib", 3, version("other", 1), depend("kernel", 1, 2, 9999999))
    run = typed(
        tree, ["load kernel -v", "load lib a b", "load -t raw /boot/kernel/lib.ko", "lsmod -v", "lsmod", "quit"]
    )
    kernel, lib, raw = run.report["files"]
    text = said(run)
    listing = text[text.index("OK lsmod -v\n") + 12 : text.index("OK lsmod\n")]
    assert listing == (
        f" 0x200000: /boot/kernel/kernel (elf kernel, {kernel['size']:#x})\n    args: -v\n  modules: kernel.1400097 \n"
        + "".join(f"      0x{kind:04x}, {size:#x}\n" for kind, size in ((2, 64), (5, 8), (4, 8), (3, 8), (9, 14 * 64)))
        + f" {lib['address']:#x}: /boot/kernel/lib.ko (elf obj module, {lib['size']:#x})\n    args: a b\n"
        f"  modules: other.1 lib.3 \n      0x0002, 0x40\n      0xc001, 0x13\n"
        f"      0x0009, {len(sections(path)) * 64:#x}\n"
        f" {raw['address']:#x}: /boot/kernel/lib.ko (raw, {path.stat().st_size:#x})\n"
    )
    short = text[text.index("OK lsmod\n") + 9 : text.index("OK quit")]
    assert short == "".join(line + "\n" for line in listing.splitlines() if not line.startswith("      0x"))


# Where modules are found


def test_module_path(tree: Path) -> None:
    """Several folders in order, trailing slashes, empty items, relative and device-qualified ones."""
    for folder, name in (("a", "one"), ("b", "one"), ("b", "two"), ("c", "three"), ("d", "four")):
        build_module(tree / f"boot/{folder}/{name}.ko", [version(name, 1)])
    run = loaded(
        tree,
        [
            "load kernel",
            "set module_path=/boot/a//;;/boot/none;/boot/b;boot/c/;host0:/boot/d",
            "load one",
            "load two",
            "load three",
            "load four",
        ],
    )
    assert [file.name for file in run.files[1:]] == [
        "/boot/a/one.ko",
        "/boot/b/two.ko",
        "boot/c/three.ko",
        "host0:/boot/d/four.ko",
    ]
    assert answers(tree, ["set module_path=", "load kernel"])["load kernel"] == "can't find 'kernel'\n"


def test_suffixes(tree: Path) -> None:
    """.ko, nothing, .debug - for names; a path is taken as it is."""
    module = build_module(tree / "boot/modules/x.ko", [version("x", 1)]).read_bytes()
    (tree / "boot/modules/x.ko").unlink()
    for suffix in (".debug", "", ".ko"):
        (tree / f"boot/modules/x{suffix}").write_bytes(module)
        assert loaded(tree, ["load kernel", "load x"]).files[1].name == f"/boot/modules/x{suffix}"
    (tree / "boot/modules/x").unlink()
    assert answers(tree, ["load kernel", "load /boot/modules/x"])["load /boot/modules/x"] == (
        "can't find '/boot/modules/x'\n"
    )


def test_a_boot_folder_of_the_usual_size(tmp_path: Path) -> None:
    """A kernel with 700 drivers' records and 50,000 symbols, forty modules found through a release's hints."""
    names = build_boot_tree(tmp_path, padding=MIB)
    run = loaded(tmp_path, ["load kernel", *(f"load {name}" for name in names)])
    assert run.names == ["kernel", *(f"{name}.ko" for name in names)]
    assert len(modules(run, 0)) == 701
    assert modules(run, 0)[0] == ("kernel", 1400097)
    end = run.files[0].addr + run.files[0].size
    for number, name in enumerate(names, 1):
        file = run.files[number]
        assert file.addr == (end + 4095) // 4096 * 4096
        assert modules(run, number) == [(name, 1)]
        end = file.addr + file.size
    path = tmp_path / "boot/kernel/m039.ko"
    assert end == placement(path, run.files[-1].addr)[1]
    assert 190_000 < path.stat().st_size < 230_000


def test_relocations_in_any_order(tree: Path) -> None:
    """Nothing says that a relocation table is sorted."""
    path = build_module(tree / "boot/kernel/mod.ko", [version("one", 3), version("two", 4)], relocations=50)
    table = next(section for section in sections(path) if section.name == ".rela.data")
    data = bytearray(path.read_bytes())
    entries = [data[at : at + 24] for at in range(table.offset, table.offset + table.size, 24)]
    assert len(entries) == 54
    data[table.offset : table.offset + table.size] = b"".join(entries[::-1])
    path.write_bytes(data)
    assert modules(loaded(tree, ["load kernel", "load mod"]), 1) == [("two", 4), ("one", 3)]


def test_a_chain_of_a_hundred_and_twenty_modules(tree: Path) -> None:
    """Deeper than any real one: refused in words, not by Python's own limit; ninety are loaded."""
    pattern = build_module(tree / "boot/kernel/cAAA.ko", [version("cAAA", 1), depend("cBBB", 1, 1, 1)]).read_bytes()
    for number in range(120):
        this, other = f"c{number:03}".encode(), f"c{number + 1:03}".encode()
        module = pattern.replace(b"cAAA", this).replace(b"cBBB", other if number < 119 else b"kern\0"[:4])
        (tree / f"boot/kernel/c{number:03}.ko").write_bytes(module)
    build_module(tree / "boot/kernel/kern.ko", [version("kern", 1)])
    outcome = typed(tree, ["load kernel", "load c000", "lsmod", "load c030", "quit"])
    assert "too many modules need each other\n" in said(outcome)
    assert [file["name"].rpartition("/")[2] for file in outcome.report["files"]] == [
        "kernel",
        *(f"c{number:03}.ko" for number in range(30, 120)),
        "kern.ko",
    ]
