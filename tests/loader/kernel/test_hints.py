"""linker.hints, encoded as kldxref(8) does, and raw preloads: what is found, where it comes to lie."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from support.kernel_objects import (
    MDT_PNP_INFO,
    Hints,
    build_kernel,
    build_module,
    require_toolchain,
    version,
)
from support.kernel_runs import (
    ADDR,
    MIB,
    NAME,
    SIZE,
    TYPE,
    answers,
    loaded,
    said,
    typed,
)

require_toolchain()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    build_kernel(folder / "boot/kernel/kernel")
    (folder / "boot/modules").mkdir()
    return folder


def test_hints_of_a_whole_release(tree: Path) -> None:
    """Thousands of records of every type; the hints name a file that no name would find; an absent file is the end."""
    hints = Hints().module("kernel", "kernel").version("kernel", 1400097, "kernel")
    for number in range(3000):
        hints.module(f"pci/drv{number}", f"if_drv{number}.ko").version(f"if_drv{number}", 1, f"if_drv{number}.ko")
        entries = [(0x8086, 0x1000 + number, f"Card {number}"), (0x10EC, number, "Other")]
        hints.pnp("pci", "I:vendor;I:device;D:#;", entries)
    hints.module("odd", "elsewhere.ko").version("odd", 5, "elsewhere.ko").version("lost", 1, "lost-file.ko")
    build_module(tree / "boot/kernel/elsewhere.ko", [version("odd", 5)])
    build_module(tree / "boot/kernel/lost.ko", [version("lost", 1)])
    build_module(tree / "boot/kernel/if_drv2999.ko", [version("if_drv2999", 1)])
    data = hints.encode()
    assert len(data) > 400_000
    (tree / "boot/kernel/linker.hints").write_bytes(data)
    match = "vendor=0x10ec device=2999"
    said_by = answers(
        tree,
        [
            "load kernel",
            "load odd",
            "load lost",
            f'pnpmatch pci "{match}"',
            'pnpmatch pci "vendor=1 device=2"',
            f'pnpload pci "{match}"',
            "lsmod",
        ],
    )
    assert "/boot/kernel/elsewhere.ko size" in said_by["load odd"]
    assert said_by["load lost"] == "can't find 'lost'\n"
    assert said_by[f'pnpmatch pci "{match}"'] == "Matched module: if_drv2999.ko\n"
    assert said_by['pnpmatch pci "vendor=1 device=2"'] == "No module matches vendor=1 device=2 on bus pci\n"
    assert "if_drv2999.ko (elf obj module" in said_by["lsmod"]


@pytest.mark.parametrize(
    ("descriptor", "entry", "device", "matches"),
    [
        ("I:vendor;I:device;", (0x8086, 1), "vendor=0x8086 device=0x1", True),
        ("I:vendor;I:device;", (0x8086, 1), "device=1 vendor=32902", True),
        ("I:vendor;I:device;", (0x8086, 1), "vendor=0x8086 device=2", False),
        ("I:vendor;J:sub;", (1, -1), "vendor=1 sub=77", True),
        ("I:vendor;J:sub;", (1, 5), "vendor=1 sub=77", False),
        ("I:vendor;", (-1,), "device=5", True),
        ("G:rev;", (3,), "rev=5", True),
        ("G:rev;", (3,), "rev=2", False),
        ("L:rev;", (3,), "rev=2", True),
        ("L:rev;", (3,), "rev=5", False),
        ("M:mask;I:a;I:b;", (1, 7, 9), "a=7 b=1", True),
        ("M:mask;I:a;I:b;", (2, 7, 9), "a=7 b=1", False),
        ("Z:compat;", ("acme,chip",), "compat=acme,chip", True),
        ("Z:compat;", ("acme,chip",), "compat='acme,chip' x=1", True),
        ("Z:compat;", ("acme,chip",), "compat=acme,chip2", False),
        ("Z:compat;D:text;", ("a", "anything"), "compat=a", True),
        ("I:vendor;T:class=2;", (5,), "vendor=5 class=2", True),
        ("I:vendor;T:class=2;", (5,), "vendor=5 subclass=2", False),
    ],
)
def test_pnp_fields(tree: Path, descriptor: str, entry: tuple[int | str, ...], device: str, matches: bool) -> None:
    hints = Hints().module("drv", "drv.ko").pnp("isa", descriptor, [entry])
    (tree / "boot/kernel/linker.hints").write_bytes(hints.encode())
    command = f'pnpmatch isa "{device}"'
    wanted = "Matched module: drv.ko\n" if matches else f"No module matches {device} on bus isa\n"
    assert answers(tree, [command])[command] == wanted


def test_pnp_tables_of_usb_and_of_the_kernel(tree: Path) -> None:
    """A usb table is uhub's; what the kernel itself has is passed over."""
    hints = Hints().module("builtin", "kernel").pnp("uhub", "I:vendor;", [(5,)])
    hints.module("umass", "umass.ko").pnp("usb", "I:vendor;", [(5,)])
    (tree / "boot/kernel/linker.hints").write_bytes(hints.encode())
    assert answers(tree, ["pnpmatch uhub vendor=5"])["pnpmatch uhub vendor=5"] == "Matched module: umass.ko\n"
    shown = answers(tree, ["pnpmatch -d uhub vendor=5", "pnpmatch -v uhub vendor=5"])
    assert "PNP info for bus uhub format I:vendor; 1 entries (kernel)\n   0x5:\n" in shown["pnpmatch -d uhub vendor=5"]
    assert (
        "Matching vendor; (I) table=0x5 tomatch=0x5\nMatches --- umass.ko ---\n" in shown["pnpmatch -v uhub vendor=5"]
    )


def test_pnp_numbers_as_printf_shows_them(tree: Path) -> None:
    hints = Hints().module("d", "d.ko").pnp("pci", "I:a;J:b;", [(0, -1)])
    (tree / "boot/kernel/linker.hints").write_bytes(hints.encode())
    shown = answers(tree, ["pnpmatch -d pci a=0", "pnpmatch -v pci a=0"])
    assert "   0:0xffffffff:\n" in shown["pnpmatch -d pci a=0"]
    assert "Matching a;J:b; (I) table=0 tomatch=0\n" in shown["pnpmatch -v pci a=0"]


@pytest.mark.parametrize("damage", ["version", "cut", "short", "negative", "huge"])
def test_hints_that_are_none(tree: Path, damage: str) -> None:
    """Ignored without a word (docs/errata.md, "linker.hints"): the name finds the file."""
    build_module(tree / "boot/kernel/mod.ko", [version("mod", 1)])
    data = bytearray(Hints().version("mod", 1, "none.ko").encode())
    if damage == "version":
        data[0] = 2
    elif damage == "cut":
        del data[12:]
    elif damage == "short":
        del data[7:]
    elif damage == "negative":
        data[4:8] = struct.pack("<i", -8)
        data[8:12] = struct.pack("<i", MDT_PNP_INFO)
    else:
        data += bytes(MIB)
    (tree / "boot/kernel/linker.hints").write_bytes(data)
    assert loaded(tree, ["load kernel", "load mod"]).names == ["kernel", "mod.ko"]


# Raw preloads

TYPES = [
    "md_image",
    "mfs_root",
    "/boot/entropy",
    "hostuuid",
    "cpu_microcode",
    "splash_image_data",
    "ram_blacklist",
    "firmware",
]


@pytest.mark.parametrize("current", [True, False])
def test_raw_files(tree: Path, current: bool) -> None:
    """Any type, as it is; page-aligned in today's loader only; an empty file takes no room."""
    sizes = [1, 4096, 5000, 0, 36, 100_001, 4095, 3]
    for index, size in enumerate(sizes):
        (tree / f"boot/file{index}").write_bytes(bytes(range(1, 256)) * (size // 255) + bytes(range(size % 255)))
    commands = [f"load -t {kind} /boot/file{index}" for index, kind in enumerate(TYPES)]
    run = loaded(tree, ["load kernel", *commands], current=current)
    at = run.files[0].addr + run.files[0].size
    for index, file in enumerate(run.files[1:]):
        if current:
            at = (at + 4095) // 4096 * 4096
        data = (tree / f"boot/file{index}").read_bytes()
        assert (file.text(TYPE), file.addr, file.size) == (TYPES[index], at, len(data))
        assert run.read(at, len(data)) == data
        assert file.kinds == [NAME, TYPE, ADDR, SIZE]
        shown = f"{len(data):#x}" if data else "0"
        assert f"/boot/file{index} size={shown}\n" in run.console
        at += len(data)


def test_modules_after_a_raw_file_are_page_aligned(tree: Path) -> None:
    build_module(tree / "boot/kernel/mod.ko", [version("mod", 1)])
    (tree / "boot/kernel/raw").write_bytes(b"x" * 5)
    for current in (True, False):
        run = loaded(tree, ["load kernel", "load -t raw raw", "load mod"], current=current)
        raw, mod = run.files[1:]
        assert raw.name == "/boot/kernel/raw"
        assert mod.addr == (raw.addr + 5 + 4095) // 4096 * 4096


def test_geli_keys(tree: Path) -> None:
    (tree / "boot/key").write_bytes(b"secret")
    run = loaded(tree, ["load kernel", "load_geli ada0p3 /boot/key", "load_geli -n 2 ada0p3 /boot/key"])
    assert [file.text(TYPE) for file in run.files[1:]] == ["ada0p3:geli_keyfile0", "ada0p3:geli_keyfile2"]


def test_a_geli_key_without_a_file(tree: Path) -> None:
    """command_load_geli counts the words before it takes the options from them: argv[2] is the null pointer then,
    which is no file, and which printf shows as (null)."""
    run = loaded(tree, ["load kernel", "load_geli -n 2 ada0p3"])
    assert "can't find '(null)'\n" in run.console and len(run.files) == 1


def test_raw_refusals(tree: Path) -> None:
    """docs/errata.md, "Same name and type": the test for a second load compares the name as typed."""
    (tree / "boot/modules/raw").write_bytes(b"raw")
    commands = {
        "load -t raw /boot/modules/raw": "can't load file before kernel\n",
        "load -t raw": "invalid load type\n",
        "load -t raw a b": "invalid load type\n",
        'load -t "" a': "invalid load type\n",
        "load -t": "option requires an argument -- t\n",
        "load -t mfs_root /none": "can't load file before kernel\n",
    }
    said_by = answers(tree, list(commands))
    assert said_by == commands
    outcome = typed(
        tree,
        [
            "load kernel",
            "load -t raw raw",
            "load -t raw raw",
            "load -t raw /boot/modules/raw",
            "load -t raw no",
            "quit",
        ],
    )
    assert [file["type"] for file in outcome.report["files"]] == ["elf kernel", "raw", "raw"]
    assert "warning: file '/boot/modules/raw' already loaded\n" in said(outcome)
    assert "can't find 'no'\n" in said(outcome)
