"""A guest reports from inside what the loader put into its memory: modules, preloads, compressed kernels, i386."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guest.build import build_probe
from support.end_to_end import (
    check_guest,
    check_machine,
    crc,
    escaped,
    load,
    needs_gcc,
    needs_qemu,
    read_memory,
    run_guest,
)
from support.kernel_objects import build_module, depend, header_field, version

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = [needs_qemu, needs_gcc]
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstd.compress,
    ".xz": lzma.compress,
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "root/boot/kernel").mkdir(parents=True)
    return tmp_path / "root"


def batch(tree: Path, *commands: str, memory: str = "96M") -> dict[str, Any]:
    """Load from the folder, with no disk at all."""
    words = [word for command in commands for word in ("--loader-command", command)]
    return load("-h", tree, "-m", memory, *words)


def test_modules_and_preloads(tree: Path, tmp_path: Path) -> None:
    """Six files behind the kernel, one of them the root file system: nothing else is there at run time."""
    build_probe(tmp_path)
    kernel = tree / "boot/kernel/kernel"
    kernel.write_bytes((tmp_path / "kernel").read_bytes())
    for name, needs in (("virtio", ()), ("virtio_pci", ("virtio",)), ("if_vtnet", ("virtio_pci", "virtio"))):
        records = [version(name, 1), *(depend(other, 1, 1, 1) for other in needs)]
        build_module(tree / f"boot/kernel/{name}.ko", records, padding=40_000, relocations=300)
    contents = {
        "mdroot": ("mfs_root", random.Random(5).randbytes(3_000_001)),
        "ucode": ("cpu_microcode", bytes(range(256)) * 20),
        "entropy": ("boot_entropy_cache", b"e" * 4096),
        "hostid": ("hostuuid", b"01234567-89ab-cdef-0123-456789abcdef\n"),
    }
    for name, (_, data) in contents.items():
        (tree / f"boot/{name}").write_bytes(data)
    report = batch(
        tree,
        "load kernel -v",
        *(f"load -t {kind} /boot/{name}" for name, (kind, _) in contents.items()),
        "load if_vtnet hw.vtnet.x=1",
    )
    guest = run_guest()
    check_guest(guest, report, kernel)
    names = [file["name"].rpartition("/")[2] for file in report["files"]]
    assert names == ["kernel", *contents, "if_vtnet.ko", "virtio.ko", "virtio_pci.ko"]
    assert int(guest["files"], 16) == len(names)
    for number, (kind, data) in enumerate(contents.values(), 1):
        assert (guest[f"file.{number:x}.size"], guest[f"file.{number:x}.crc"]) == (f"{len(data):x}", crc(data))
        assert kind in guest.values()
        assert int(guest[f"file.{number:x}.addr"], 16) % 4096 == 0
    assert "hw.vtnet.x=1" in guest.values()
    assert report["disks"] == []


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_kernels_run(tree: Path, tmp_path: Path, suffix: str) -> None:
    """4 MiB of data that no page repeats, read by the guest itself; the symbols as well."""
    probe = build_probe(tmp_path, padding=4 << 20)
    (tree / f"boot/kernel/kernel{suffix}").write_bytes(COMPRESSORS[suffix](probe.read_bytes()))
    report = batch(tree)
    guest = run_guest()
    check_guest(guest, report, probe)
    assert report["kernel"]["name"] == "/boot/kernel/kernel"
    at = probe.read_bytes().index(struct.pack("<II", 0, 0x5AA5C33C))
    assert guest["padding.crc"] == crc(probe.read_bytes()[at : at + (4 << 20)])
    assert int(guest["ssym"], 16) > 0x200000 + (4 << 20)


def test_an_i386_kernel_with_a_module_and_a_preload(tree: Path, tmp_path: Path) -> None:
    probe = build_probe(tmp_path, "i386", ctors=2)
    (tree / "boot/kernel/kernel").write_bytes(probe.read_bytes())
    build_module(tree / "boot/kernel/mod.ko", [version("mod", 2)], arch="i386", shared=True, padding=9000)
    (tree / "boot/image").write_bytes(b"preloaded" * 1000)
    report = batch(tree, "load kernel -s", "load mod args", "load -t md_image /boot/image")
    guest = run_guest()
    assert (guest["probe"], guest["bss.dirty"]) == ("end", "0")
    vcpu = report["vcpu"]
    assert int(guest["rip"], 16) == vcpu["registers"]["rip"] == header_field(probe, "Entry point address") & 0xFFFFFF
    assert (guest["rsp"], guest["cr3"], guest["cr4"], guest["efer"]) == ("1fdc", "0", "0", "0")
    assert int(guest["cr0"], 16) & ~0x10 == 0x21
    selectors = {name: int(guest[name], 16) for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldtr")}
    assert selectors == {"cs": 8, "ds": 16, "es": 16, "fs": 16, "gs": 16, "ss": 16, "tr": 24, "ldtr": 0}
    assert (guest["gdtr.base"], guest["gdtr.limit"]) == ("3000", "1f")
    frame = ["beefface", f"{0x80000002 | report['howto']:x}", "0", "0", "0", "0", "2000"]
    names = ["frame.return", "frame.howto", "frame.bootdev", "frame.3", "frame.4", "frame.5", "bootinfo"]
    assert [guest[name] for name in names] == frame
    assert guest["bi.kernel"] == "/boot/kernel/kernel"
    assert (guest["bi.version"], guest["bi.size"], guest["bi.memsizes_valid"]) == ("1", "54", "1")
    assert int(guest["bi.basemem"], 16) <= 640
    assert 95 * 1024 - 2048 < int(guest["bi.extmem"], 16) <= 95 * 1024  # without the firmware's share
    records = []
    at = report["modulep"]
    while True:
        kind, size = struct.unpack("<II", read_memory(at, 8))
        if kind == 0:
            break
        records.append((kind, read_memory(at + 8, size)))
        at += 8 + (size + 3) // 4 * 4
    assert int(guest["metadata.records"], 16) == len(records)
    for number, (kind, data) in enumerate(records):
        assert (guest[f"md.{number:x}.type"], guest[f"md.{number:x}.size"]) == (f"{kind:x}", f"{len(data):x}")
        if kind != 0x9001:  # the memory map is cut to what the firmware leaves
            assert guest[f"md.{number:x}.crc"] == crc(data)
    of_kernel = records[: [kind for kind, _ in records].index(1, 1)]
    numbers = {kind: int.from_bytes(data, "little") for kind, data in of_kernel if len(data) <= 8}
    assert int(guest["bi.symtab"], 16) == numbers[0x8003] and int(guest["bi.envp"], 16) == numbers[0x8006]
    assert int(guest["kernend"], 16) == int(guest["bi.kernend"], 16) == report["kernend"] == numbers[0x8008]
    for number, file in enumerate(report["files"][1:], 1):
        assert guest[f"file.{number:x}.crc"] == crc(read_memory(file["address"], file["size"]))
    assert read_memory(report["files"][2]["address"], 9000) == b"preloaded" * 1000
    lines = [f"{name}={value}".encode("latin-1") for name, value in report["environment"].items()]
    assert [guest[f"env.{number:x}"] for number in range(len(lines))] == list(map(escaped, lines))
    check_machine(guest)
