"""What the project takes for granted of FreeBSD, against FreeBSD's own headers and C library, as zig has them.

Everything is said as _Static_assert to a compiler for FreeBSD; nothing of it is run.  zig is no dependency: where it is
not installed (the package ziglang, or a program of that name) these tests are skipped.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from bhyveload import capsicum, freebsd_errno
from bhyveload.boot_formats import elf_format, modinfo_format
from bhyveload.fs import stat, ufs_format
from bhyveload.host import directory
from bhyveload.image import character
from bhyveload.partition import bsdlabel_format, gpt_format, mbr_format
from bhyveload.userboot.abi import FreeBSDStat
from bhyveload.vm import freebsd_calls, registers
from support.places import DATA

VERSIONS = ["14.0", "15.0"]
WORD = (1 << 64) - 1
# Linked with FreeBSD's libc.so alone: what is not in it is an error.  zig would build start-up code for a minute.
LIBRARY = ("-shared", "-fPIC", "-nostdlib", "-Wl,-z,defs", "-fno-sanitize=all")

Compile = Callable[..., None]


def zig() -> list[str]:
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang"]
    found = shutil.which("zig")
    return [found] if found else []


@pytest.fixture(scope="module", params=VERSIONS)
def compiles(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """``compiles(headers, lines)``: C for FreeBSD of that version; what the compiler has against it is the failure."""
    words = zig()
    if not words:
        pytest.skip("no zig (install the Python package ziglang): FreeBSD's headers are not to be had")
    folder = tmp_path_factory.mktemp("zig")
    caches = {name: str(folder) for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")}

    def run(headers: Sequence[str], lines: Sequence[str], *options: str | Path) -> None:
        source = folder / "asked.c"
        source.write_text("".join(f"{line}\n" for line in [*(f"#include <{header}>" for header in headers), *lines]))
        rest = options or ("-c", source, "-o", folder / "asked.o")
        command = [*words, "cc", "-target", f"x86_64-freebsd.{request.param}", "-Wall", "-Werror", *rest]
        done = subprocess.run(command, env={**os.environ, **caches}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return run


def equals(expression: str, value: int) -> str:
    return f'_Static_assert((unsigned long long)({expression}) == {value & WORD:#x}ULL, "{expression} is {value:#x}");'


def constants(module: ModuleType, ours: str) -> dict[str, int]:
    """The numbers of ``module`` that have names of FreeBSD's, all but ``ours``."""
    names = {name: value for name, value in vars(module).items() if re.fullmatch("[A-Z][A-Z0-9_]*", name)}
    numbers = {name: value for name, value in names.items() if type(value) is int}
    assert set(ours.split()) <= set(numbers), "a name to leave out is not there any more"
    return {name: value for name, value in numbers.items() if name not in ours.split()}


# module, FreeBSD's headers, names that are not in them
MODULES: list[tuple[ModuleType, str, str]] = [
    (freebsd_errno, "errno.h", "EADAPT ECTLR EUNIT ESLICE EPART ERDLAB EUNLAB EOFFSET"),  # libsa's own
    (stat, "sys/types.h sys/stat.h dirent.h", ""),
    (character, "sys/types.h sys/disk.h", ""),
    (
        modinfo_format,
        "sys/types.h sys/linker.h machine/metadata.h machine/pc/bios.h sys/reboot.h",
        """MODINFOMD_SHTDWNSPLASH BASE_MEMORY EXTENDED_MEMORY HIGH_MEMORY BOOTINFO_VERSION BI_BASEMEM BI_EXTMEM
        BOOTINFO_SIZE_13 KEYBUF_ENTRY KEYBUF_SIZE""",
    ),
    (
        elf_format,
        "sys/param.h sys/elf32.h sys/elf64.h sys/module.h",
        """SH_NAME SH_TYPE SH_FLAGS SH_ADDR SH_OFFSET SH_SIZE SH_LINK SH_INFO SH_ADDRALIGN SH_ENTSIZE DF_1_NOW
        R_X86_64_JUMP_SLOT""",
    ),
    (gpt_format, "sys/types.h sys/disk/gpt.h", "GPT_MIN_HDR_SIZE GPT_HDR_CRC_OFFSET"),
    (mbr_format, "sys/types.h sys/disk/mbr.h", "DOS_PARTITIONS_SIZE DP_ACTIVE"),
    (
        bsdlabel_format,
        "sys/types.h sys/disk/bsd.h sys/disklabel.h",
        "DISKLABEL_SIZE D_MAGIC_OFFSET D_SECSIZE_OFFSET D_MAGIC2_OFFSET D_NPARTITIONS_OFFSET D_PARTITIONS_OFFSET",
    ),
    (
        ufs_format,
        "sys/param.h ufs/ufs/dinode.h ufs/ffs/fs.h ufs/ufs/dir.h",
        """FS_MAGIC_OFFSET SUPERBLOCK_SIZE CSUM_SIZE FS_FLAGS_MASK FS_CKHASH_OFFSET FS_METACKHASH_OFFSET FS_FLAGS_OFFSET
        VOLNAME_OFFSET VOLNAME_SIZE UFS1_DINODE_SIZE UFS1_MAXSYMLINKLEN UFS2_DINODE_SIZE UFS2_MAXSYMLINKLEN""",
    ),
    (
        registers,
        "sys/types.h machine/specialreg.h",
        "MAX_SELECTOR MAX_LIMIT MAX_ACCESS I386_TSS_OFFSET I386_TSS_LIMIT",
    ),
]


@pytest.mark.parametrize(("module", "headers", "ours"), MODULES, ids=[row[0].__name__ for row in MODULES])
def test_constants(module: ModuleType, headers: str, ours: str, compiles: Compile) -> None:
    found = constants(module, ours)
    assert found
    compiles(headers.split(), [equals(name, value) for name, value in found.items()])


def test_processor(compiles: Compile) -> None:
    """enum vm_reg_name, enum vm_cap_type, the longest name."""
    lines = [equals(f"VM_REG_GUEST_{name.upper()}", number) for number, name in enumerate(registers.VM_REG_NAMES)]
    lines += [equals("VM_CAP_UNRESTRICTED_GUEST", freebsd_calls.VM_CAP_UNRESTRICTED_GUEST)]
    lines += [equals("sizeof(((struct vm_seg_desc *)0)->desc)", 16)]
    compiles(["sys/types.h", "machine/vmm.h", "machine/vmm_dev.h"], lines)


def test_capsicum(compiles: Compile) -> None:
    """Rights as capsicum.py packs them: a word for each of two indices, the version in the first one's highest bits."""
    first, second = capsicum._INDEX
    of_second = ("CAP_EVENT", "CAP_IOCTL")
    whole = [
        "DIOCGSECTORSIZE",
        "DIOCGMEDIASIZE",
        "FIONREAD",
        "NL_CAT_LOCALE",
        "PROC_PDEATHSIG_CTL",
        "P_PID",
        "CTL_KERN",
        "KERN_PROC",
        "KERN_PROC_PID",
        "KINFO_PROC_SIZE",
    ]
    lines = [equals(name, getattr(capsicum, name)) for name in whole]
    for name, value in constants(
        capsicum, " ".join((*whole, *of_second, "FOLDER", "FILE", "KI_PID", "KI_SIZE"))
    ).items():
        lines.append(equals(name, value | first))
    lines += [equals(name, getattr(capsicum, name) | second) for name in of_second]
    lines += [
        equals("CAP_RIGHTS_VERSION", 0),
        equals("sizeof(cap_rights_t)", capsicum.CAP_RIGHTS.size),
        equals("sizeof(cap_ioctl_t)", 8),
        equals("sizeof(id_t)", 8),
        equals("sizeof(struct kinfo_proc)", capsicum.KINFO_PROC_SIZE),
        equals("offsetof(struct kinfo_proc, ki_structsize)", 0),
        equals("offsetof(struct kinfo_proc, ki_pid)", capsicum.KI_PID),
        equals("offsetof(struct kinfo_proc, ki_size)", capsicum.KI_SIZE),
        equals("CAP_FSTATAT | CAP_LOOKUP | CAP_PREAD", capsicum.FOLDER | first),
        # what the others are asked to do: read where they read, write where they write, be mapped so
        equals("CAP_FSTAT | CAP_MMAP_RW", capsicum.FILE | capsicum.CAP_READ | capsicum.CAP_WRITE | first),
        equals("CAP_PWRITE & ~(CAP_FSTAT | CAP_MMAP_RW)", 0),
    ]
    headers = """sys/param.h sys/capsicum.h sys/filio.h sys/disk.h sys/wait.h sys/procctl.h nl_types.h stddef.h
        sys/sysctl.h sys/user.h"""
    compiles(headers.split(), lines)


def test_structures(compiles: Compile) -> None:
    lines = [equals("sizeof(struct stat)", 224)]
    for name, *_ in FreeBSDStat._fields_:
        if name not in ("st_padding1", "st_spare"):
            lines.append(equals(f"offsetof(struct stat, {name})", getattr(FreeBSDStat, name).offset))
    offsets = {"d_fileno": 0, "d_off": 8, "d_reclen": 16, "d_type": 18, "d_name": 24}
    lines += [equals(f"offsetof(struct dirent, {name})", offset) for name, offset in offsets.items()]
    assert (directory.DIRENT.format, directory.DIRENT.size) == ("=QqHB", 19), "d_ino, d_off, d_reclen, d_type"
    lines += [equals("O_RESOLVE_BENEATH", directory.O_RESOLVE_BENEATH), equals("ENOTCAPABLE", 93)]
    compiles(["sys/types.h", "sys/stat.h", "stddef.h", "dirent.h", "fcntl.h", "errno.h"], lines)


# What ctypes calls: result, parameters as the code has them, the function
CALLED = """
int (int, const cap_rights_t *) cap_rights_limit
int (int, const cap_ioctl_t *, size_t) cap_ioctls_limit
int (void) cap_enter
int (unsigned int *) cap_getmode
int (idtype_t, id_t, int, void *) procctl
nl_catd (const char *, int) catopen
ssize_t (int, char *, size_t, off_t *) getdirentries
void * (void *, size_t, int, int, int, off_t) mmap
int (void *, size_t) munmap
int (void *, size_t, int) mprotect
int (const void *, size_t) mlock
int (const int *, u_int, void *, size_t *, const void *, size_t) sysctl
int (const char *, unsigned int) memfd_create
int (unsigned int, unsigned int, int) close_range
"""


def test_functions(compiles: Compile, tmp_path: Path) -> None:
    """They are in FreeBSD's C library, with the parameters that are given to them."""
    headers = "sys/types.h sys/capsicum.h sys/mman.h sys/wait.h sys/procctl.h sys/sysctl.h dirent.h nl_types.h unistd.h"
    source = tmp_path / "called.c"
    lines = [f"#include <{header}>" for header in headers.split()]
    for line in CALLED.split("\n")[1:-1]:
        result, _, rest = line.partition(" (")
        parameters, _, name = rest.rpartition(") ")
        lines.append(f"{result} (*call_{name})({parameters}) = {name};")
    lines.append("void *call_syscall = (void *)syscall;")
    source.write_text("\n".join(lines) + "\n")
    compiles((), (), *LIBRARY, source, "-o", tmp_path / "called.so")


@pytest.mark.parametrize("options", [(), ("-DOLD",)])
def test_the_stand_in_is_c_for_freebsd(options: tuple[str, ...], compiles: Compile, tmp_path: Path) -> None:
    """tests/data/fake_vmmapi.c can stand in there, too."""
    compiles((), (), *LIBRARY, *options, DATA / "fake_vmmapi.c", "-o", tmp_path / "libvmmapi.so")
