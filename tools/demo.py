"""make demo: a guest from a disk image to its first words.

Builds a small kernel in FreeBSD's boot format and a disk with it and a Lua boot script, loads the disk with bhyveload,
runs the guest with bhyverun.  Nothing of FreeBSD's is needed, and no root.  What is missing on this machine is gone
around where that is possible, and named where not.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAMS = Path(sys.executable).parent
GREETING = "Good morning from a file on the guest's disk.\n"
MIB = 1 << 20
DISK_SIZE, PART_START, PART_SIZE = 12 * MIB, MIB, 8 * MIB
PATH = f"{PROGRAMS}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
RUN_LIMIT = "120"
# Debian's names
PACKAGES = {
    "gcc": "gcc",
    "ld": "binutils",
    "makefs": "makefs",
    "sgdisk": "gdisk",
    "qemu-system-x86_64": "qemu-system-x86",
}


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="bhyveload-demo-") as name:
        folder = Path(name)
        os.environ.update(PATH=PATH, BHYVE_VMM_DIR=str(folder / "vmm"))
        return demo(folder)


def demo(folder: Path) -> int:
    if lacks := missing("gcc", "ld"):
        return without(lacks, "the guest's kernel is not built")
    tree = make_tree(folder)
    if lacks := missing("makefs", "sgdisk"):
        without(lacks, "the guest boots from a folder instead of a disk")
        source = ["-h", str(tree)]
    else:
        source = ["-d", str(make_disk(folder, tree))]
        say("what is on the disk, and what would be loaded")
        show("bhyveload", "--dry-run", "--batch", *source, quiet=True)
    say("load the guest: its script runs, its kernel goes into the memory of the VM 'demo'")
    status = show("bhyveload", "--batch", "-m", "128M", "-e", "demo.user=you", *source, "demo")
    if status:
        return status
    say("what the processor will start with")
    show("bhyvectl", "--vm=demo", "--get-rip", "--get-cr3", "--get-rsp", "--get-lowmem")
    if lacks := missing("qemu-system-x86_64"):
        return without(lacks, "the guest is loaded, but not run")
    say("run the guest")
    status = show("bhyverun", "--accel", "tcg", "--timeout", RUN_LIMIT, "demo")
    if status != 1:  # bhyve(8)'s status of a guest that has powered off
        print(f"demo: the guest did not power off: bhyverun ended with status {status}", file=sys.stderr)
        return 1
    say("the guest has powered off (bhyve's exit status 1); that was all")
    return 0


def make_tree(folder: Path) -> Path:
    """The guest's files: kernel, script, and something to read."""
    tree = folder / "tree"
    (tree / "boot" / "kernel").mkdir(parents=True)
    (tree / "boot" / "lua").mkdir()
    (tree / "boot" / "greeting").write_text(GREETING)
    shutil.copy(HERE / "guest" / "loader.lua", tree / "boot" / "lua" / "loader.lua")
    flags = (
        "-std=gnu11 -O2 -m64 -ffreestanding -fno-pic -fno-pie -no-pie -mno-red-zone -mcmodel=kernel -mgeneral-regs-only"
    )
    flags += " -fno-stack-protector -fno-asynchronous-unwind-tables -fcf-protection=none -nostdlib"
    flags += " -Wl,-Ttext-segment=0xffffffff80200000,-e,btext,--build-id=none,-z,max-page-size=0x1000,-z,noexecstack"
    # As FreeBSD links its kernel (sys/conf/kern.pre.mk): against an empty library, for the sake of a dynamic section
    # with the hash table in which the loader looks up symbols.
    flags += " -Wl,--export-dynamic,--hash-style=sysv,--dynamic-linker=/red/herring,--no-as-needed,-z,norelro"
    empty, kernel = folder / "hack.so", tree / "boot" / "kernel" / "kernel"
    run("gcc", "-shared", "-nostdlib", "-o", str(empty), "-x", "c", os.devnull)
    run("gcc", *flags.split(), "-o", str(kernel), str(HERE / "guest" / "hello.c"), str(empty))
    return tree


def make_disk(folder: Path, tree: Path) -> Path:
    """A GPT disk with the tree in a UFS1: Debian's makefs puts the superblock of UFS2 where no FreeBSD looks for it."""
    disk, part = folder / "disk.img", folder / "part.ufs"
    run("makefs", "-t", "ffs", "-o", "version=1,bsize=8192,fsize=1024", "-s", str(PART_SIZE), str(part), str(tree))
    with disk.open("wb") as file:
        file.seek(PART_START)
        file.write(part.read_bytes())
        file.truncate(DISK_SIZE)
    first = PART_START // 512
    run("sgdisk", "-n", f"1:{first}:{first + PART_SIZE // 512 - 1}", "-t", "1:A503", str(disk))
    return disk


def missing(*tools: str) -> list[str]:
    return [tool for tool in tools if shutil.which(tool) is None]


def without(tools: list[str], consequence: str) -> int:
    """Say what is missing, what brings it and what comes of that; the exit status where nothing goes on."""
    for tool in tools:
        print(f"demo: {tool} is not installed (apt install {PACKAGES[tool]}): {consequence}", file=sys.stderr)
    return 1


def say(text: str) -> None:
    print(f"\n\033[1m# {text}\033[0m" if sys.stdout.isatty() else f"\n# {text}", flush=True)


def show(*words: str, quiet: bool = False) -> int:
    """Run a program as the user would see it; its exit status.  ``quiet``: without the loader's console."""
    print(f"$ {shlex.join(words)}", flush=True)
    errors = subprocess.DEVNULL if quiet else None
    return subprocess.run(words, stdin=subprocess.DEVNULL, stderr=errors, check=False).returncode


def run(*words: str) -> None:
    try:
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"demo: {words[0]} failed: {error.stderr.strip()}") from None


if __name__ == "__main__":
    sys.exit(main())
