"""Everything a loader can do, in the real sandbox with every layer demanded: no late import, no refused system call.

The golden records, the probes and the pools' records run confined as well (tests/support/harness.py); here the programs
decide by themselves what to import before.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bhyveload.image.raw import RawImage
from bhyveload.sandbox import Sandbox
from support import zfs_pools
from support.devices import Hostless
from support.end_to_end import program
from support.golden import Record, kernel_of_a_record, records

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lambda data: lzma.compress(data, preset=1),
    ".zst": zstd.compress,
}
pytestmark = pytest.mark.skipif(bool(Sandbox().missing), reason=f"this host cannot confine: {Sandbox().missing}")


def path_of(disk: RawImage) -> str:
    """A disk in this process's memory as a file for others."""
    return f"/proc/{os.getpid()}/fd/{disk.descriptor}"


# ZFS pools are large: those that use a feature first
RECORDS = [
    found
    for found in records(interpreter="lua")
    if not found[1].startswith(("zfs-mirror", "zfs-single", "zfs-compat13"))
]


@pytest.mark.parametrize(("version", "name"), RECORDS)
def test_records_through_the_program(version: str, name: str) -> None:
    """Lua, modules, gzip, ISO 9660, i386, MBR and BSD labels, many disks."""
    record = Record(version, name)
    words = ["--require-sandbox", "--batch", "--dry-run", "--compat", version, "-m", "256M"]
    for variable in record.environment:
        words += ["-e", variable.decode("latin-1")]
    disks = record.disks()
    for disk in disks:
        words += ["-d", path_of(disk)]
    program("bhyveload", *words, check=0)


@pytest.mark.parametrize("pool", ["comp", "gang", "csum", "edonr", "legacy"])
def test_pools(pool: str) -> None:
    """Every checksum and compression; a pool without a kernel ends with the loader's word for it, nothing else."""
    path = path_of(zfs_pools.disk(f"{pool}.0"))
    done = program("bhyveload", "--require-sandbox", "--batch", "--dry-run", "-d", path)
    assert done.status in (0, 1), done.messages
    assert "internal error" not in done.messages
    assert b"zfs" in (done.err + done.out).lower()
    done = program("bhyvedisk", "checksum", "--require-sandbox", path, "/")
    assert done.status in (0, 65), done.messages
    assert "internal error" not in done.messages
    assert len(done.out.splitlines()) > 3


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_a_host_folder_with_a_guest_in_it(suffix: str, tmp_path: Path) -> None:
    """-h alone: folders, files, each compression; the prompt's commands, which need everything at once."""
    pack = PACKERS[suffix]
    kernel = kernel_of_a_record()
    folder = tmp_path / "boot" / "kernel"
    folder.mkdir(parents=True)
    (folder / f"kernel{suffix}").write_bytes(pack(kernel))
    program("bhyveload", "--require-sandbox", "--batch", "--dry-run", "-h", tmp_path, check=0)
    keys = b"ls -l host0:/boot\nmore /boot/kernel/nothing\nlsdev -v\nload /boot/kernel/kernel\nlsmod -v\nboot\n"
    done = program("bhyveload", "--require-sandbox", "--dry-run", "-e", "autoboot_delay=NO", "-h", tmp_path, keys=keys)
    assert done.status == 0, done.messages
    assert b"elf kernel" in done.err


@pytest.mark.parametrize("form", ["qcow2", "vmdk", "vpc", "vhdx"])
def test_image_formats(form: str, tmp_path: Path) -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed (make setup installs it)")
    from support.images import run_tool

    (disk,) = Record("current", "modules").disks()
    raw, path = tmp_path / "raw", tmp_path / f"disk.{form}"
    raw.write_bytes(disk.read(0, disk.size))
    run_tool("qemu-img", "convert", "-O", form, raw, path)
    program("bhyveload", "--require-sandbox", "--batch", "--dry-run", "-d", path, check=0)


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_compressed_images(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pack = PACKERS[suffix]
    (disk,) = Record("current", "modules").disks()
    path = tmp_path / f"disk.img{suffix}"
    path.write_bytes(pack(bytes(disk.read(0, disk.size))))
    program("bhyveload", "--require-sandbox", "--batch", "--dry-run", "-d", path, check=0)


def test_the_library_is_confined_without_being_asked(tmp_path: Path) -> None:
    """api.load's default: what a child opens fails."""
    from bhyveload import api
    from bhyveload.errors import LoaderCrashed
    from bhyveload.loader.state import Options
    from bhyveload.vm.scratch import ScratchMachine

    class Spy(Hostless):
        size, name = 1 << 20, "spy"

        def read(self, offset: int, length: int) -> bytes:
            os.open("/etc/passwd", os.O_RDONLY)
            return bytes(length)

        def write(self, offset: int, data: bytes | memoryview) -> None:
            raise AssertionError("nobody writes to a disk that boots nothing")

    for sandbox, words in ((True, "PermissionError"), (False, None)):
        machine = ScratchMachine("spy", 64 << 20)
        try:
            api.load(machine, [Spy()], options=Options(batch=True), sandbox=sandbox)
        except LoaderCrashed as error:
            assert words is not None and words in error.message
        except Exception:
            assert words is None
        machine.close()


def test_options_that_contradict() -> None:
    for words in (["--no-sandbox", "--require-sandbox"], ["--no-sandbox", "--user", "nobody"]):
        done = program("bhyveload", *words, "--dry-run", "--batch")
        assert done.status == 64
        assert "--no-sandbox contradicts" in done.messages


def test_no_sandbox_is_said_once() -> None:
    disks = Record("current", "plain").disks()
    disk = path_of(disks[0])
    done = program("bhyveload", "--no-sandbox", "--batch", "--dry-run", "-d", disk, check=0)
    assert done.messages.count("--no-sandbox: ") == 1
    done = program("bhyveload", "--batch", "--dry-run", "-d", disk, check=0)
    assert "sandbox" not in done.messages
