"""bhyvectl --dump, bhyverun --gdb: cores that readelf and gdb read, symbols found where objcopy says that they are."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bhyveload.cli.symbols import Symbols
from bhyveload.errors import BhyveloadError
from support.end_to_end import Finished, load, memory_file, needs_gcc, program, read_memory, records
from support.images import make_ufs, require, standard_disk

pytestmark = needs_gcc
REPORT, MODINFO = 0x42480001, 0x42480002


def dump(folder: Path, *words: str) -> tuple[Path, Finished]:
    core = folder / "core"
    return core, program("bhyvectl", "--vm=vm", f"--dump={core}", *words, check=0)


def readelf(option: str, core: Path) -> str:
    done = subprocess.run(["readelf", option, str(core)], capture_output=True, text=True, check=True)
    assert "Warning" not in done.stderr
    return done.stdout


def notes(core: Path) -> dict[tuple[str, int], bytes]:
    """(name, type) -> content, at the place that readelf names."""
    found = re.search(r"at file offset (0x\w+) with length (0x\w+)", readelf("-nW", core))
    assert found is not None
    with core.open("rb") as file:
        file.seek(int(found[1], 16))
        data = file.read(int(found[2], 16))
    result = {}
    while data:
        name, size, kind = struct.unpack_from("<III", data)
        begin = 12 + (name + 3) // 4 * 4
        result[data[12 : 12 + name - 1].decode(), kind] = data[begin : begin + size]
        data = data[begin + (size + 3) // 4 * 4 :]
    return result


def gdb(kernel: Path, core: Path, *commands: str) -> str:
    require("gdb")
    words = [word for command in commands for word in ("-ex", command)]
    done = subprocess.run(
        ["gdb", "-batch", "-nx", "-ix", "/dev/null", *words, str(kernel), str(core)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout


def test_a_core_has_the_loaders_metadata(probe_disk: Path, tmp_path: Path) -> None:
    lines = ("load /boot/kernel/kernel", "load -t raw /boot/data")
    report = load("-d", probe_disk, *(word for line in lines for word in ("--loader-command", line)))
    found = notes(dump(tmp_path)[0])
    assert set(found) == {("CORE", 1), ("bhyveload", REPORT), ("bhyveload", MODINFO)}
    told: dict[str, Any] = json.loads(found["bhyveload", REPORT])
    assert (told["files"], told["modulep"]) == (report["files"], report["modulep"])
    (address,) = struct.unpack_from("<Q", found["bhyveload", MODINFO])
    content = found["bhyveload", MODINFO][8:]
    assert (address, content) == (report["modulep"], read_memory(address, len(content)))
    size = sum(8 + (len(data) + 7) // 8 * 8 for _, data in records(address)) + 8
    assert len(content) == size
    assert "NT_PRSTATUS" in readelf("-nW", tmp_path / "core")


def test_gdb_reads_a_core(probe_disk: Path, probe_kernel: Path, tmp_path: Path) -> None:
    """Registers, and the kernel's variables by their names."""
    report = load("-d", probe_disk, "-m", "4G")
    core, _ = dump(tmp_path)
    answer = gdb(probe_kernel, core, "info registers rip rsp", "x/8xb &data_pattern", "x/8xb 0x200000")
    registers = report["vcpu"]["registers"]
    assert re.search(rf"^rip +{registers['rip']:#x}\b", answer, re.M)
    assert re.search(rf"^rsp +{registers['rsp']:#x}\b", answer, re.M)
    assert re.search(r"^0x200000.*:(\s0x7f)(\s0x45)(\s0x4c)(\s0x46)", answer, re.M)
    told = re.search(r"<data_pattern>:((?:\s0x\w\w){8})", answer)
    assert told is not None
    pattern = bytes(int(byte, 16) for byte in told[1].split())
    memory = memory_file().read_bytes()[: 1 << 22]
    assert pattern.strip(b"\0")
    assert pattern in memory


def split(kernel: Path, folder: Path, link: str = "kernel.debug") -> tuple[Path, Path]:
    """(kernel with a debug link, its debug information), as FreeBSD's build makes them, by objcopy."""
    require("objcopy")
    folder.mkdir(exist_ok=True)
    stripped, debug = folder / "kernel", folder / link
    shutil.copy(kernel, stripped)
    subprocess.run(["objcopy", "--only-keep-debug", str(kernel), str(debug)], check=True)
    subprocess.run(["objcopy", f"--add-gnu-debuglink={debug}", str(stripped)], check=True)
    return stripped, debug


def disk_with(folder: Path, files: dict[str, Path | bytes]) -> Path:
    for name, content in files.items():
        path = folder / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    return standard_disk(folder / "disk.img", make_ufs(folder / "tree", folder / "part.ufs"))


@pytest.mark.parametrize("place", ["boot/kernel/kernel.debug", "usr/lib/debug/boot/kernel/kernel.debug"])
def test_symbols_beside_and_below(probe_kernel: Path, tmp_path: Path, place: str) -> None:
    kernel, debug = split(probe_kernel, tmp_path / "split")
    disk = disk_with(tmp_path, {"boot/kernel/kernel": kernel, place: debug})
    load("-d", disk)
    _, done = dump(tmp_path)
    said = done.messages.splitlines()[-1]
    assert said.startswith(
        f"bhyvectl: symbols: disk0p2:/{place} (bhyvedisk cp -d {disk} --partition disk0p2 /{place} .;"
    )
    command = said.partition("(bhyvedisk ")[2].partition(";")[0].split()
    program("bhyvedisk", *command[:-1], tmp_path / "copy", check=0)
    assert (tmp_path / "copy").read_bytes() == debug.read_bytes()
    (tmp_path / "core").unlink()
    _, done = dump(tmp_path, f"--symbols={tmp_path}/made/here")
    assert f"gdb {tmp_path}/made/here/kernel {tmp_path}/core" in done.messages
    assert (tmp_path / "made/here/kernel").read_bytes() == kernel.read_bytes()
    assert (tmp_path / "made/here/kernel.debug").read_bytes() == debug.read_bytes()
    answer = gdb(tmp_path / "made/here/kernel", tmp_path / "core", "info symbol btext")
    assert "Reading symbols from" in answer or "btext in section .text" in answer


def test_debug_information_of_another_kernel(probe_kernel: Path, tmp_path: Path) -> None:
    kernel, debug = split(probe_kernel, tmp_path / "split")
    other = debug.read_bytes() + b"x"
    load("-d", disk_with(tmp_path, {"boot/kernel/kernel": kernel, "boot/kernel/kernel.debug": other}))
    _, done = dump(tmp_path, f"--symbols={tmp_path}/copies")
    assert "/boot/kernel/kernel.debug belongs to another kernel" in done.messages


def test_no_debug_information(probe_disk: Path, tmp_path: Path) -> None:
    load("-d", probe_disk)
    _, done = dump(tmp_path)
    assert "symbols: none on disk0p2: (looked for /boot/kernel/kernel.debug, " in done.messages
    (tmp_path / "core").unlink()
    _, done = dump(tmp_path, f"--symbols={tmp_path}/copies")
    assert "no debug information is on disk0p2:" in done.messages
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["kernel"]


def test_a_kernel_with_its_debug_information(probe_kernel: Path, tmp_path: Path) -> None:
    require("objcopy")
    kernel = tmp_path / "kernel"
    shutil.copy(probe_kernel, kernel)
    subprocess.run(["objcopy", f"--add-section=.debug_info={__file__}", str(kernel)], check=True)
    load("-d", disk_with(tmp_path, {"boot/kernel/kernel": kernel}))
    assert "the kernel has its debug information itself: bhyvedisk cp" in dump(tmp_path)[1].messages


@pytest.mark.parametrize("link", [b"../../etc/passwd", b"", b".", b"x" * 300, b"\x1b[2J", b"a\0"])
def test_a_hostile_link(probe_kernel: Path, tmp_path: Path, link: bytes) -> None:
    """A name with a path in it is none; any other is escaped."""
    require("objcopy")
    (tmp_path / "link").write_bytes(link.ljust(len(link) + 4 - len(link) % 4, b"\0") + b"\1\2\3\4")
    kernel = tmp_path / "kernel"
    shutil.copy(probe_kernel, kernel)
    subprocess.run(["objcopy", f"--add-section=.gnu_debuglink={tmp_path}/link", str(kernel)], check=True)
    load("-d", disk_with(tmp_path, {"boot/kernel/kernel": kernel}))
    said = dump(tmp_path)[1].messages.splitlines()[-1]
    assert said.isascii() and said.isprintable()
    usual = b"/" in link or not 0 < len(link) < 256 or link == b"."
    shown = "kernel.debug" if usual else link.partition(b"\0")[0].decode().replace("\x1b", "\\x1b")
    assert f"(looked for /boot/kernel/{shown}, /boot/kernel/.debug/{shown}, " in said


def test_disks_that_are_gone(probe_disk: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    shutil.copy(probe_disk, disk)
    load("-d", disk)
    disk.unlink()
    core, done = dump(tmp_path)
    assert f"symbols: {disk}: " in done.messages
    core.unlink()
    done = program("bhyvectl", "--vm=vm", f"--dump={core}", f"--symbols={tmp_path}/copies", check=66)
    assert f"{disk}: " in done.messages


@pytest.mark.parametrize(
    "state",
    [{}, {"loaded": 7}, {"loaded": {"kernel": {"name": 7}, "loaddev": "disk0p2:"}}],
)
def test_a_state_that_names_no_kernel(state: dict[str, Any]) -> None:
    with pytest.raises(BhyveloadError, match="names no kernel"):
        Symbols(state)


def test_a_kernel_of_the_hosts() -> None:
    state = {"loaded": {"kernel": {"name": "/boot/kernel/kernel"}, "loaddev": "host0:", "disks": []}}
    with pytest.raises(BhyveloadError, match="the kernel came from host0:"):
        Symbols(state)


def test_what_it_goes_with() -> None:
    assert "--symbols is for --dump" in program("bhyvectl", "--vm=vm", "--symbols=x", check=64).messages
    assert "--symbols is for --gdb" in program("bhyverun", "--symbols", "x", "vm", check=4).messages


def test_bhyverun_says_it_too(probe_kernel: Path, tmp_path: Path) -> None:
    kernel, debug = split(probe_kernel, tmp_path / "split")
    load("-d", disk_with(tmp_path, {"boot/kernel/kernel": kernel, "boot/kernel/kernel.debug": debug}))
    words = ("--gdb", "1", "--dry-run", "--symbols", tmp_path / "copies", "vm")
    done = program("bhyverun", *words)
    assert f"gdb {tmp_path}/copies/kernel -ex 'target remote 127.0.0.1:1'" in done.messages
    assert (tmp_path / "copies/kernel.debug").exists()
