"""Kernels and modules that cannot be loaded: what the loader says, and the reason that --batch ends with."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from bhyveload.errors import LoaderError
from bhyveload.loader.state import Options
from support.kernel_objects import build_kernel, build_module, depend, require_toolchain, version
from support.kernel_runs import MIB, answers, said, typed

require_toolchain()
PATH = "/boot/kernel/kernel"
E_TYPE, E_MACHINE, E_ENTRY, E_PHOFF, E_SHOFF, E_PHNUM, E_SHNUM = 16, 18, 24, 32, 40, 56, 60
DATA = 64 + 56  # the second program header
P_OFFSET, P_VADDR, P_FILESZ, P_MEMSZ = DATA + 8, DATA + 16, DATA + 32, DATA + 40


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    build_kernel(tmp_path / "root/boot/kernel/kernel", dynamic=False, padding=MIB)
    return tmp_path / "root"


def patched(tree: Path, at: int, layout: str, *values: int) -> None:
    kernel = tree / PATH[1:]
    data = bytearray(kernel.read_bytes())
    struct.pack_into(layout, data, at, *values)
    kernel.write_bytes(data)


def batch(tree: Path, memory: int = 128 * MIB) -> str:
    """The reason with which a run without a prompt ends."""
    with pytest.raises(LoaderError) as caught:
        typed(tree, [], memory=memory, options=Options(batch=True))
    assert "\n" not in caught.value.message
    assert caught.value.exit_status == 1
    return caught.value.message.removeprefix("host0: ")


NOT_PERMITTED = f"can't load file '{PATH}': operation not permitted\n"
IO_ERROR = f"can't load file '{PATH}': input/output error\n"
BAD_FORMAT = f"can't load file '{PATH}': exec format error\n"
READ_FAILED = "elf64_loadimage: read failed\n" + IO_ERROR
UNKNOWN = f"don't know how to load module '{PATH}'\n"
CASES = {
    "another machine": (E_MACHINE, "<H", 183, UNKNOWN, "is for machine aarch64, not amd64 or i386"),
    "powerpc": (E_MACHINE, "<H", 21, UNKNOWN, "is for machine powerpc64, not amd64 or i386"),
    "unknown machine": (E_MACHINE, "<H", 9999, UNKNOWN, "is for machine 9999, not amd64 or i386"),
    "big-endian": (5, "<B", 2, UNKNOWN, "is for a big-endian machine"),
    "a core dump": (E_TYPE, "<H", 4, UNKNOWN, "is an ELF file of type core: neither kernel nor module"),
    "no ELF": (0, "<I", 0x464C457E, UNKNOWN, "is not an ELF file"),
    "a program": (
        E_ENTRY,
        "<Q",
        0x10,
        "elf64_loadfile: not a kernel (maybe static binary?)\n" + NOT_PERMITTED,
        "is not a kernel: it starts at address 0x10",
    ),
    "a shared object": (
        E_TYPE,
        "<H",
        3,
        "elf64_loadfile: can't load module before kernel\n" + NOT_PERMITTED,
        "is a module: load a kernel first",
    ),
    "an object": (
        E_TYPE,
        "<H",
        1,
        "elf64_obj_loadfile: can't load module before kernel\n" + NOT_PERMITTED,
        "is a module: load a kernel first",
    ),
    "program headers far away": (
        E_PHOFF,
        "<Q",
        5000,
        f"{PATH} elf64_loadimage: program header not within first page\n" + IO_ERROR,
        ": its program headers are not within the first page",
    ),
    "too many program headers": (
        E_PHNUM,
        "<H",
        100,
        f"{PATH} elf64_loadimage: program header not within first page\n" + IO_ERROR,
        ": its program headers are not within the first page",
    ),
    "overlap": (P_VADDR, "<Q", 0xFFFFFFFF80200000, f"{PATH} \n" + BAD_FORMAT, ": two segments overlap at 0x200000"),
    "wrap": (
        P_VADDR,
        "<Q",
        0xFFFFFFFFFFFFF000,
        f"{PATH} \n" + BAD_FORMAT,
        ": a segment at 0xfffffffffffff000 wraps around the address space",
    ),
    "too large for any machine": (
        P_MEMSZ,
        "<Q",
        1 << 63,
        f"{PATH} \n" + BAD_FORMAT,
        ": a segment at 0xffffffff80400000 wraps around the address space",
    ),
    "the file ends": (P_OFFSET, "<Q", 1 << 62, READ_FAILED, ": the file ends within"),
    "more than the file": (
        P_FILESZ,
        "<Q",
        1 << 30,
        READ_FAILED,
        ": the file ends within",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(tree: Path, case: str) -> None:
    at, layout, value, words, reason = CASES[case]
    patched(tree, at, layout, value)
    outcome = typed(tree, [f"load {PATH}", "lsmod", "quit"])
    assert f"{words}OK lsmod\nOK quit\n" in said(outcome)
    assert outcome.report["files"] == []
    assert reason in batch(tree)
    assert batch(tree).startswith(PATH)


def test_refused_by_size(tree: Path) -> None:
    """The number that is needed, and the option that gives it."""
    assert batch(tree, memory=2 * MIB) == f"kernel {PATH} needs 9 MiB, the VM has 2 MiB: use -m 32M"
    patched(tree, P_MEMSZ, "<Q", 130 * MIB)
    assert batch(tree) == f"kernel {PATH} needs 138 MiB, the VM has 128 MiB: use -m 160M"
    assert answers(tree, [f"load {PATH}"])[f"load {PATH}"] == (
        f"{PATH} \ncan't load file '{PATH}': cannot allocate memory\n"
    )
    assert typed(tree, ["load kernel", "boot"], memory=160 * MIB).end == "exec"


def test_refused_by_the_size_of_its_symbols(tree: Path) -> None:
    build_kernel(tree / PATH[1:], dynamic=False, symbols=60_000)
    assert re.fullmatch(rf"kernel {PATH} needs [789] MiB, the VM has 5 MiB: use -m 32M", batch(tree, memory=5 * MIB))
    words = answers(tree, [f"load {PATH}"], memory=5 * MIB)[f"load {PATH}"]
    assert words.endswith(f"\ncan't load file '{PATH}': cannot allocate memory\n")
    assert re.search(r" 0x8\+0x[0-9a-f]+(\+0x8\+0x[0-9a-f]+)?\n", words)


def test_refused_for_want_of_room_for_the_variables(tree: Path) -> None:
    """The kernel fits to the last page; what it is told does not."""
    (file,) = typed(tree, ["load kernel", "quit"]).report["files"]
    memory = (file["address"] + file["size"] + 4095) // 4096 * 4096
    outcome = typed(tree, ["load kernel", "boot", "quit"], memory=memory)
    words = f"kernel {PATH} with its modules and variables needs 6 MiB, the VM has 5 MiB: use -m 32M\n"
    assert outcome.end == "exit" and words in said(outcome)
    assert batch(tree, memory=memory) == words.rstrip()
    assert typed(tree, ["load kernel", "boot"], memory=memory + 3 * 4096).end == "exec"


def test_refused_above_the_first_gigabyte(tree: Path) -> None:
    patched(tree, P_MEMSZ, "<Q", 1100 * MIB)
    reason = "but a kernel starts with the first 1024 MiB mapped"
    for memory in (128 * MIB, 2048 * MIB, 5120 * MIB):
        assert batch(tree, memory=memory).startswith(f"kernel {PATH} ") or reason in batch(tree, memory=memory)
        assert reason in batch(tree, memory=memory)


def test_refused_high_in_memory(tree: Path) -> None:
    """A kernel linked away from KERNBASE loads, as with FreeBSD's loader, but is not started into nothing."""
    patched(tree, E_ENTRY, "<Q", 0xFFFFFFFF00200000)
    end = "a loader reaches the first 2 GiB only"
    assert batch(tree, memory=4096 * MIB).endswith(end)
    outcome = typed(tree, ["load kernel", "boot", "unload", "quit"], memory=4096 * MIB)
    assert f"{PATH} lies at 0x80200000 to 0x8050" in said(outcome)
    assert outcome.end == "exit"


def test_empty_and_short_files(tree: Path) -> None:
    kernel = tree / PATH[1:]
    whole = kernel.read_bytes()
    for data, reason in (
        (b"", "is empty"),
        (whole[:40], "is too short for a kernel"),
        (b"\x1f\x8b\x08", "with gzip"),
        (b"BZh9", "bzip2"),
    ):
        kernel.write_bytes(data)
        assert reason in batch(tree)
    kernel.write_bytes(whole[: len(whole) // 2])
    assert ": the file ends within a segment" in batch(tree)
    kernel.unlink()
    assert batch(tree).startswith("there is no ")


def test_what_is_no_reason_to_refuse(tree: Path) -> None:
    """Section headers out of the file: no symbols, and the loader goes on."""
    whole = (tree / PATH[1:]).read_bytes()
    for at, layout, value in ((E_SHOFF, "<Q", 1 << 62), (E_SHNUM, "<H", 65535), (E_SHNUM, "<H", 0)):
        (tree / PATH[1:]).write_bytes(whole)
        patched(tree, at, layout, value)
        outcome = typed(tree, ["load kernel", "boot"])
        assert outcome.end == "exec"
        assert ("failed to read section headers" in said(outcome)) == (value != 0)


def test_a_second_kernel(tree: Path) -> None:
    (tree / "boot/other").mkdir()
    (tree / "boot/other/kernel").write_bytes((tree / PATH[1:]).read_bytes())
    said_by = answers(tree, ["load kernel", "load /boot/other/kernel", "lsmod", "boot /boot/other/kernel"])
    words = "elf64_loadfile: kernel already loaded\n"
    assert said_by["load /boot/other/kernel"] == (
        f"{words}{words}can't load file '/boot/other/kernel': operation not permitted\n"  # twice
    )
    assert said_by["lsmod"].count("elf kernel") == 1
    assert said_by["boot /boot/other/kernel"] == "can't boot '/boot/other/kernel', kernel module already loaded\n"


def test_the_kernels_name_after_failures(tree: Path) -> None:
    """docs/errata.md, "kernelname": set before the image is read; not when the file is refused earlier."""
    patched(tree, P_OFFSET, "<Q", 1 << 62)
    assert typed(tree, ["load kernel", "quit"]).environment["kernelname"] == PATH
    patched(tree, E_TYPE, "<H", 4)
    assert "kernelname" not in typed(tree, ["load kernel", "quit"]).environment
    assert "kernelname" not in typed(tree, ["load kernel", "unload", "quit"]).environment


@pytest.mark.parametrize("shared", [False, True])
def test_modules_larger_than_memory(tree: Path, shared: bool) -> None:
    build_module(tree / "boot/kernel/big.ko", [version("big", 1)], bss=200 * MIB, shared=shared)
    said_by = answers(tree, ["load kernel", "load big", "lsmod"])
    assert said_by["load big"].endswith("can't load file '/boot/kernel/big.ko': cannot allocate memory\n")
    assert "big.ko" not in said_by["lsmod"]


def test_damaged_objects(tree: Path) -> None:
    path = build_module(tree / "boot/kernel/mod.ko", [version("mod", 1)])
    whole = path.read_bytes()
    shoff = int.from_bytes(whole[40:48], "little")
    io_error = "can't load file '/boot/kernel/mod.ko': input/output error\n"
    count = int.from_bytes(whole[60:62], "little")
    kinds = [int.from_bytes(whole[shoff + index * 64 + 4 :][:4], "little") for index in range(count)]
    symtab = shoff + kinds.index(2) * 64
    for at, layout, value, words in (
        (40, "<Q", 1 << 62, "read section headers failed"),
        (symtab + 4, "<I", 1, "file has no valid symbol table"),
        (symtab + 40, "<I", 999, "file has invalid symbol strings"),
        (62, "<H", 0, "file has no section names"),
        (symtab + 24, "<Q", 1 << 40, "read failed"),
        (symtab + 32, "<Q", (1 << 64) - 1, "sections do not fit into the address space"),
    ):
        data = bytearray(whole)
        struct.pack_into(layout, data, at, value)
        path.write_bytes(data)
        assert answers(tree, ["load kernel", "load mod"])["load mod"] == (
            f"/boot/kernel/mod.ko \nelf64_obj_loadimage: {words}\n\n{io_error}"
        )


def test_a_shared_module_that_reaches_out_of_its_place(tree: Path) -> None:
    """A segment that would come to lie over the kernel is not written."""
    path = build_module(tree / "boot/kernel/mod.ko", [version("mod", 1)], shared=True)
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, DATA + 16, 0x10000000000000000 - 0x100000)
    path.write_bytes(data)
    said_by = answers(tree, ["load kernel", "load mod"])
    assert said_by["load mod"] == (
        "/boot/kernel/mod.ko \n" * 2 + "can't load file '/boot/kernel/mod.ko': exec format error\n"  # twice
    )


def test_the_program_itself(tree: Path, tmp_path: Path) -> None:
    """bhyveload --batch: one line, exit status 1, and no VM that claims to be loaded."""
    patched(tree, P_MEMSZ, "<Q", 130 * MIB)
    environment = {**os.environ, "BHYVE_VMM_DIR": str(tmp_path / "vmm")}
    (tmp_path / "vmm").mkdir(mode=0o700)
    command = [sys.executable, "-m", "bhyveload.cli.bhyveload", "--batch", "-m", "128M", "-h", str(tree), "vm"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1
    assert f"kernel {PATH} needs 138 MiB, the VM has 128 MiB: use -m 160M" in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert not (tmp_path / "vmm/vm/state.json").exists()


def test_a_missing_dependency_in_words(tree: Path) -> None:
    build_module(tree / "boot/kernel/user.ko", [version("user", 1), depend("lib", 2, 3, 4)])
    build_module(tree / "boot/kernel/lib.ko", [version("lib", 9)])
    with pytest.raises(LoaderError, match=r"user\.ko needs lib version 2 to 4, which is not there|wrong version"):
        typed(tree, [], options=Options(batch=True, commands=("load kernel", "load user")))
