"""The programs as people run them, and what a guest's own report must be for what the loader said it did."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from guest.build import missing_tools, parse_report
from guest.loader import Elf
from support import images, ufs_images
from support.qemu import missing_qemu

MIB = 1 << 20
PROGRAMS = Path(sys.executable).parent
CR0_ET = 0x10  # always set in a real processor
MODINFO_END, MODINFO_METADATA_SMAP = 0, 0x9001
BASEMEM_END = 0x9F000

needs_qemu = pytest.mark.skipif(bool(missing_qemu()), reason=missing_qemu())
needs_gcc = pytest.mark.skipif(bool(missing_tools()), reason=f"{missing_tools()} not installed")


def require_locked_memory(size: int) -> None:
    """Skip the test when this user may not lock so many bytes: Debian's ordinary ones have 8 MiB."""
    most = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    if os.geteuid() and 0 <= most < size:
        pytest.skip(f"{most >> 10} KiB may be locked here (ulimit -l), {size >> 10} are needed")


class Finished:
    """A program's end: exit status and everything it wrote."""

    def __init__(self, status: int, out: bytes, err: bytes) -> None:
        self.status = status
        self.out = out
        self.err = err

    @property
    def messages(self) -> str:
        return self.err.decode("utf-8", "surrogateescape")

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def program(
    name: str, *words: str | Path, keys: bytes = b"", timeout: float = 60, check: int | None = None
) -> Finished:
    """Run ``name`` of .venv/bin, ``keys`` on its standard input.  ``check``: the exit status that it must have."""
    command = [str(PROGRAMS / name), *map(str, words)]
    done = subprocess.run(command, input=keys, capture_output=True, timeout=timeout, check=False)
    result = Finished(done.returncode, done.stdout, done.stderr)
    if check is not None:
        assert result.status == check, (result.status, result.messages, result.out[-2000:])
    return result


def bhyveload(*words: str | Path, keys: bytes = b"", timeout: float = 60, check: int | None = None) -> Finished:
    return program("bhyveload", *words, keys=keys, timeout=timeout, check=check)


def load(*words: str | Path, keys: bytes = b"", name: str = "vm", batch: bool = True) -> dict[str, Any]:
    """Load a guest; the report."""
    options = ["--batch"] if batch else []
    report: dict[str, Any] = bhyveload(*options, "--json", *words, name, keys=keys, check=0).json
    return report


def run_guest(
    *words: str | Path, name: str = "vm", status: int = 1, limit: int = 60, more: Sequence[str] = ()
) -> dict[str, str]:
    """Run a loaded probe guest under TCG to its end; its report."""
    options = ("--accel", "tcg", "--timeout", str(limit))
    done = program("bhyverun", *options, *words, name, *more, timeout=limit + 30, check=status)
    return parse_report(done.out)


def memory_file(name: str = "vm") -> Path:
    return Path(os.environ["BHYVE_VMM_DIR"]) / name / "memory"


def read_memory(start: int, size: int, name: str = "vm") -> bytes:
    """Guest physical memory below 3 GiB as the loader left it."""
    with memory_file(name).open("rb") as file:
        file.seek(start)
        return file.read(size)


def crc(data: bytes) -> str:
    return f"{zlib.crc32(data):x}"


def escaped(text: bytes) -> str:
    return "".join(chr(byte) if 0x20 < byte < 0x7F and byte != 0x25 else f"%{byte:02x}" for byte in text)


def records(modulep: int) -> list[tuple[int, bytes]]:
    """The module metadata in guest memory, walked by a few lines of our own."""
    found: list[tuple[int, bytes]] = []
    while True:
        kind, size = struct.unpack("<II", read_memory(modulep, 8))
        if kind == MODINFO_END:
            return found
        found.append((kind, read_memory(modulep + 8, size)))
        modulep += 8 + (size + 7) // 8 * 8


def symbol(kernel: Path, name: str) -> int:
    """A symbol's address, as nm(1) has it."""
    lines = subprocess.run(["nm", str(kernel)], capture_output=True, text=True, check=True).stdout.splitlines()
    return next(int(line.split()[0], 16) for line in lines if line.split()[-1] == name)


def bytes_at(kernel: Path, address: int, size: int) -> bytes:
    """What the kernel's file has for a virtual address."""
    elf = Elf(kernel.read_bytes())
    for offset, vaddr, filesz, _ in elf.segments():
        if vaddr <= address < vaddr + filesz:
            return elf.data[offset + address - vaddr : offset + address - vaddr + size]
    raise AssertionError(f"{address:#x} is in no segment")


def expected_report(report: dict[str, Any], kernel: Path) -> dict[str, str]:
    """What the probe guest must say of itself, by the loader's report, its memory file and the kernel's own file."""
    vcpu = report["vcpu"]
    registers = dict(vcpu["registers"])
    registers["cr0"] |= CR0_ET
    expected = {name: f"{value:x}" for name, value in registers.items()}
    expected |= {name: f"{vcpu['selectors'][name]:x}" for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldtr")}
    gdtr = vcpu["descriptors"]["gdtr"]
    expected |= {"gdtr.base": f"{gdtr['base']:x}", "gdtr.limit": f"{gdtr['limit']:x}"}
    expected |= dict.fromkeys(("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r12", "r15"), "0")
    expected |= {"frame.return": "0", "kernend": f"{report['kernend']:x}", "modulep": f"{report['modulep']:x}"}
    expected |= {"howto": f"{report['howto']:x}", "bss.dirty": "0", "files": f"{len(report['files']):x}"}
    expected["text.crc"] = crc(bytes_at(kernel, symbol(kernel, "btext"), 64))
    expected["data.crc"] = crc(bytes_at(kernel, symbol(kernel, "data_pattern"), 64))
    expected["low.crc"] = crc(read_memory(0x1000, 0x5000))
    expected["low.rest.crc"] = crc(read_memory(0x6000, BASEMEM_END - 0x6000))
    for number, (kind, data) in enumerate(records(report["modulep"])):
        expected |= {f"md.{number:x}.type": f"{kind:x}", f"md.{number:x}.size": f"{len(data):x}"}
        if kind != MODINFO_METADATA_SMAP:  # that one is cut to what the firmware leaves: check_map
            expected[f"md.{number:x}.crc"] = crc(data)
    expected["metadata.records"] = f"{len(records(report['modulep'])):x}"
    for number, file in enumerate(report["files"]):
        expected |= {f"file.{number:x}.addr": f"{file['address']:x}", f"file.{number:x}.size": f"{file['size']:x}"}
        if file["type"] != "elf kernel":
            expected[f"file.{number:x}.crc"] = crc(read_memory(file["address"], file["size"]))
    lines = [f"{name}={value}".encode("latin-1") for name, value in report["environment"].items()]
    expected |= {f"env.{number:x}": escaped(line) for number, line in enumerate(lines)}
    expected["env.count"] = f"{len(lines):x}"
    return expected


def check_guest(guest: dict[str, str], report: dict[str, Any], kernel: Path) -> None:
    """The guest saw what the loader said, and a machine that a kernel can use."""
    expected = expected_report(report, kernel)
    assert {key: guest.get(key) for key in expected} == expected
    assert guest["probe"] == "end"
    check_map(guest, report)
    check_machine(guest)


def check_map(guest: dict[str, str], report: dict[str, Any]) -> None:
    """The memory map: the loader's regions, none longer than the loader made it, nearly all of memory, really RAM."""
    smap = next(data for kind, data in records(report["modulep"]) if kind == MODINFO_METADATA_SMAP)
    total = 0
    for number, (base, length, kind) in enumerate(struct.iter_unpack("<QQI", smap)):
        seen_base, seen_length, seen_kind = (int(text, 16) for text in guest[f"smap.{number:x}"].split(","))
        assert (seen_base, seen_kind) == (base, kind)
        assert seen_length <= length
        assert guest.get(f"ram.{number:x}.good", "1") == "1"
        total += seen_length
    memory = report["memory"]
    assert memory["low"] + memory["high"] - total < 2 << 20  # the firmware's share, and the hole below 1 MiB
    if memory["high"]:
        assert guest["smap.2"] == f"100000000,{memory['high']:x},1"


def check_machine(guest: dict[str, str]) -> None:
    """Firmware has set up ACPI and PCI; what FreeBSD drives first is there."""
    assert 0xE0000 <= int(guest["acpi.rsdp"], 16) < 0x100000
    tables = [guest[f"acpi.{number:x}"].split(",") for number in range(int(guest["acpi.tables"], 16))]
    assert {"FACP", "APIC"} <= {name for name, _, _, _ in tables}
    assert all(verdict == "good" for _, _, _, verdict in tables)
    assert guest["acpi.inside_ram"] == "0"
    devices = [guest[f"pci.{number:x}"].split(",") for number in range(int(guest["pci.count"], 16))]
    for number, (_, vendor, _, _, *bars) in enumerate(devices):
        if vendor == "1af4":  # virtio: an I/O and a memory BAR, both placed, and an interrupt line
            assert any(int(bar, 16) & 1 and int(bar, 16) > 1 for bar in bars)
            assert int(guest[f"pci.{number:x}.irq"], 16) in (5, 9, 10, 11)
    expected = {"acpi.dsdt.good": "1", "acpi.facs.good": "1", "acpi.sci": "9", "acpi.pm_timer": "608"}
    expected |= {"pit.counts": "1", "pic.masks": "fbff", "hpet.vendor": "8086", "madt.lapic": "fee00000"}
    assert {key: guest[key] for key in expected} == expected


def pci_ids(guest: dict[str, str]) -> list[str]:
    """vendor:device of everything on bus 0."""
    devices = [guest[f"pci.{number:x}"].split(",") for number in range(int(guest["pci.count"], 16))]
    return [f"{vendor}:{device}" for _, vendor, device, *_ in devices]


def plain_environment(words: Sequence[str]) -> list[str]:
    """-e for each of ``words``."""
    return [part for word in words for part in ("-e", word)]


def make_disk(folder: Path, kernel: Path, *, size: int = 8 * MIB, block: int = 32768, fragment: int = 4096) -> Path:
    tree = folder / "tree"
    (tree / "boot" / "kernel").mkdir(parents=True)
    shutil.copy(kernel, tree / "boot" / "kernel" / "kernel")
    (tree / "boot" / "data").write_bytes(ufs_images.numbered_text(100_001, b"d"))
    ufs = images.make_ufs(tree, folder / "part.ufs", size, block, fragment)
    shutil.rmtree(tree)
    return images.standard_disk(folder / "disk.img", ufs)
