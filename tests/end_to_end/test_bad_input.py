"""Disks that cannot be booted: one line says what is wrong, where, and what to do; the old VM of that name stays."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from support import images, ufs_images
from support.end_to_end import bhyveload, load

MIB = 1 << 20
KERNEL = "boot/kernel/kernel"
PART = MIB  # where images.standard_disk puts the UFS
ELF_MACHINE, EM_AARCH64 = 18, 183
PHDR = 64 + 56  # the second program header
P_OFFSET, P_VADDR, P_FILESZ, P_MEMSZ = 8, 16, 32, 40


def disk_with(folder: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    tree = folder / "tree"
    tree.mkdir()
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    for name, target in (links or {}).items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(target)
    return images.standard_disk(folder / "disk.img", images.make_ufs(tree, folder / "part.ufs"))


def patched(content: bytes, *changes: tuple[int, str, int]) -> bytes:
    data = bytearray(content)
    for offset, code, value in changes:
        struct.pack_into(code, data, offset, value)
    return bytes(data)


def fails(disk: Path, *words: str, why: str, todo: str, status: int = 1) -> None:
    """bhyveload --batch says ``why`` and ``todo`` in one line that names the disk, and leaves the old VM alone."""
    vm = Path(os.environ["BHYVE_VMM_DIR"]) / "vm"
    before = {path.name: path.stat() for path in vm.iterdir()} if vm.exists() else None
    done = bhyveload("--batch", *words, "-d", disk, "vm", timeout=30)
    lines = [line for line in done.messages.splitlines() if "makefs" not in line]
    assert (done.status, len(lines)) == (status, 1), (done.status, done.messages)
    assert lines[0].startswith("bhyveload: ") and str(disk) in lines[0], lines[0]
    assert why in lines[0] and todo in lines[0], lines[0]
    after = {path.name: path.stat() for path in vm.iterdir()} if vm.exists() else None
    if before is not None and after is not None:
        for name in ("memory", "state.json"):
            assert (before[name].st_ino, before[name].st_mtime_ns) == (after[name].st_ino, after[name].st_mtime_ns)
        assert set(after) == set(before)
    else:
        assert before == after


@pytest.fixture
def old_vm(probe_disk: Path) -> None:
    """A guest that was loaded before."""
    load("-d", probe_disk, "-m", "32M")


def test_missing(tmp_path: Path, old_vm: None) -> None:
    fails(tmp_path / "absent", why="Could not open", todo="No such file", status=64)


def test_empty(tmp_path: Path, old_vm: None) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"")
    fails(disk, why="(disk0): the disk is empty", todo="is the path right, and the download complete?")


def test_no_partition(tmp_path: Path) -> None:
    disk = images.blank(tmp_path / "disk.img", 4 * MIB)
    fails(disk, why="(disk0): neither a partition table nor a file system", todo="bhyvedisk info")


def test_no_bootable_partition(tmp_path: Path) -> None:
    disk = images.gpt_disk(tmp_path / "disk.img", [(1, 2048, 8192, "8300", None)])
    fails(disk, why="no partition to boot from in its gpt table", todo="bhyvedisk info")


def test_no_file_system(tmp_path: Path) -> None:
    disk = images.gpt_disk(tmp_path / "disk.img", [(1, 2048, 8192, "A503", None)])
    fails(disk, why="(disk0p1): no file system that can be read", todo="bhyvedisk info")


def test_truncated(tmp_path: Path, probe_disk: Path, old_vm: None) -> None:
    """Cut off within the kernel, and within the file system's first blocks."""
    content = ufs_images.mount(bytearray(probe_disk.read_bytes()[PART:]))
    node = content.lookup(b"/boot/kernel/kernel")
    place = PART + node.pointers[0] * content.superblock.fsize
    disk = tmp_path / "disk.img"
    disk.write_bytes(probe_disk.read_bytes()[: place + 4096])
    end = probe_disk.stat().st_size - MIB  # images.gpt_disk leaves as much behind it
    cut = f"(disk0p2): the disk image is cut short? its partition ends at byte {end}, the image at "
    fails(disk, why=f"{cut}{place + 4096}: ", todo="is the download complete?")
    fails(disk, why="/boot/kernel/kernel", todo="bhyvedisk info")
    disk.write_bytes(probe_disk.read_bytes()[: PART + 4096])
    fails(disk, why=f"{cut}{PART + 4096}: ", todo="is the download complete?")


def test_what_is_absent_on_a_truncated_disk_is_absent(tmp_path: Path, probe_disk: Path, old_vm: None) -> None:
    """The end of the file system is cut off, and nothing of that was wanted."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(probe_disk.read_bytes()[: -MIB - (40 << 10)])
    fails(disk, "--kernel", "other", why="(disk0p2): there is no ", todo="--kernel")


def test_no_kernel(tmp_path: Path, old_vm: None) -> None:
    fails(disk_with(tmp_path, {"etc/rc": b""}), why="(disk0p2): there is no /boot ", todo="--kernel")


def test_no_kernel_of_that_name(probe_disk: Path, old_vm: None) -> None:
    fails(probe_disk, "--kernel", "other", why="there is no ", todo="(")


def kernel_text(kernel: bytes) -> bytes:
    return b"#!/bin/sh\necho not a kernel\n" * 100


def kernel_empty(kernel: bytes) -> bytes:
    return b""


def kernel_foreign(kernel: bytes) -> bytes:
    return patched(kernel, (ELF_MACHINE, "<H", EM_AARCH64))


def kernel_cut(kernel: bytes) -> bytes:
    return kernel[:6000]


def kernel_overlapping(kernel: bytes) -> bytes:
    return patched(kernel, (PHDR + P_VADDR, "<Q", 0xFFFFFFFF80200000))


def kernel_wrapping(kernel: bytes) -> bytes:
    return patched(kernel, (PHDR + P_VADDR, "<Q", 0xFFFFFFFFFFFFF000), (PHDR + P_MEMSZ, "<Q", 1 << 40))


def kernel_huge(kernel: bytes) -> bytes:
    return patched(kernel, (PHDR + P_MEMSZ, "<Q", 1 << 40))


def kernel_beyond_its_file(kernel: bytes) -> bytes:
    return patched(kernel, (PHDR + P_OFFSET, "<Q", 1 << 62))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (kernel_text, "/boot/kernel/kernel is not an ELF file"),
        (kernel_empty, "/boot/kernel/kernel is empty"),
        (kernel_foreign, "/boot/kernel/kernel is for machine aarch64, not amd64 or i386"),
        (kernel_cut, "/boot/kernel/kernel: the file ends within a segment"),
        (kernel_overlapping, "/boot/kernel/kernel: two segments overlap at 0x200000"),
        (kernel_wrapping, "/boot/kernel/kernel"),
        (kernel_huge, "wraps around the address space"),
        (kernel_beyond_its_file, "/boot/kernel/kernel"),
    ],
)
def test_kernels_that_are_none(
    tmp_path: Path, probe_kernel: Path, old_vm: None, change: Callable[[bytes], bytes], why: str
) -> None:
    fails(disk_with(tmp_path, {KERNEL: change(probe_kernel.read_bytes())}), why=why, todo="(")


def test_kernel_larger_than_memory(probe_disk: Path) -> None:
    fails(probe_disk, "-m", "2M", why="needs 4 MiB, the VM has 2 MiB", todo="use -m ")


def test_symbolic_links_in_a_circle(tmp_path: Path, old_vm: None) -> None:
    disk = disk_with(tmp_path, {"etc/rc": b""}, {KERNEL: "../kernel/kernel"})
    fails(disk, why="/boot/kernel/kernel: ", todo="where the links lead")


class Damaged:
    """A copy of a good disk whose file system can be changed."""

    def __init__(self, good: Path, folder: Path) -> None:
        self.path = folder / "damaged.img"
        shutil.copy(good, self.path)
        self.content = bytearray(good.read_bytes()[PART:])
        self.fs = ufs_images.mount(self.content)

    def save(self) -> Path:
        images.write_at(self.path, PART, bytes(self.content))
        return self.path


def test_corrupt_superblock(tmp_path: Path, probe_disk: Path, old_vm: None) -> None:
    damaged = Damaged(probe_disk, tmp_path)
    for offset in (8192, 65536, 0, 262144):
        damaged.content[offset : offset + 1376] = bytes(1376)
    fails(damaged.save(), why="(disk0p2): no file system that can be read", todo="bhyvedisk info")


@pytest.mark.parametrize("field", [(48, 0), (48, 1 << 20), (52, 12345), (184, 0)])
def test_superblocks_that_cannot_be(tmp_path: Path, probe_disk: Path, field: tuple[int, int]) -> None:
    """Block size, fragment size, inodes in a group: wrong numbers are refused, not computed with."""
    damaged = Damaged(probe_disk, tmp_path)
    offset, value = field
    struct.pack_into("<I", damaged.content, 8192 + offset, value)
    fails(damaged.save(), why="(disk0p2): ", todo="(")


def test_corrupt_inode(tmp_path: Path, probe_disk: Path, old_vm: None) -> None:
    damaged = Damaged(probe_disk, tmp_path)
    node = damaged.fs.lookup(b"/boot/kernel/kernel")
    ufs_images.set_inode(damaged.content, damaged.fs, node, pointers={0: 1 << 40})
    fails(damaged.save(), why="block address 1099511627776 lies outside the file system", todo="(")


@pytest.mark.parametrize("value", [0, 3, 0xFFFF])
def test_corrupt_directory(tmp_path: Path, probe_disk: Path, old_vm: None, value: int) -> None:
    damaged = Damaged(probe_disk, tmp_path)
    node = damaged.fs.lookup(b"/boot/kernel")
    place = node.pointers[0] * damaged.fs.superblock.fsize
    struct.pack_into("<H", damaged.content, place + 4, value)
    fails(damaged.save(), why="/boot/kernel/kernel: ufs: directory inode", todo="fsck")


def test_a_full_file_system(tmp_path: Path, probe_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for the guest's memory: said, and nothing is left behind."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can mount a small file system")
    import subprocess

    from support.end_to_end import PROGRAMS

    script = f"""
        mount -t tmpfs -o size=24k tmpfs "{tmp_path}" || exit 99
        BHYVE_VMM_DIR="{tmp_path}/vmm" "{PROGRAMS}/bhyveload" --batch -d "{probe_disk}" vm
        echo status $?; ls "{tmp_path}/vmm"
    """
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("mounting is not allowed here")
    assert done.stdout.endswith("status 74\n")
    assert "guest memory: No space left on device" in done.stderr
