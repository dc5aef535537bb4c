"""The PVH stub: its bytes, the lists it is given, and what it refuses to hand over."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.errors import HandoffError
from bhyveload.handoff.pvh.entry_state import EntryState, entry_state
from bhyveload.handoff.pvh.memory_map import map_fields
from bhyveload.handoff.pvh.stub import STUB_BASE, STUB_PARAMETERS, build_stub
from bhyveload.handoff.pvh.stub_code import STUB
from bhyveload.vm.memory import GuestMemory
from bhyveload.vm.registers import Registers, setup_freebsd_registers, setup_freebsd_registers_i386
from guest.loader import LoadedVm, empty_vm
from support.places import ROOT

MB = 1 << 20
MODULEP = 0x300000


def write_page_tables(vm: LoadedVm) -> None:
    """bhyveload's: every GiB is the first GiB."""
    vm.memory.write(0x2000, struct.pack("<Q", 0x3003) * 512)
    vm.memory.write(0x3000, struct.pack("<Q", 0x4003) * 512)
    vm.memory.write(0x4000, b"".join(struct.pack("<Q", i * 0x200000 | 0x83) for i in range(512)))


def record(kind: int, payload: bytes, stride: int = 8) -> bytes:
    padded = payload.ljust((len(payload) + stride - 1) // stride * stride, b"\0")
    return struct.pack("<II", kind, len(payload)) + padded


def smap(*entries: tuple[int, int, int]) -> bytes:
    return b"".join(struct.pack("<QQI", *entry) for entry in entries)


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[LoadedVm]:
    """64 MiB, 64-bit state, page tables, metadata with a memory map."""
    machine = empty_vm(tmp_path / "vm", 64 * MB)
    write_page_tables(machine)
    machine.memory.write(0x1000, struct.pack("<III", 0, MODULEP, MODULEP + 0x1000))
    machine.memory.write(
        MODULEP,
        record(1, b"kernel\0") + record(0x9001, smap((0, 0xA0000, 1), (MB, 63 * MB, 1), (5, 5, 2))) + record(0, b""),
    )
    vcpu = Registers()
    setup_freebsd_registers(vcpu, 0xFFFFFFFF80200000, 0x2000, 0x5000, 0x1000)
    machine.state = {"vcpus": [vcpu.as_dict()]}
    yield machine
    machine.close()


def vcpu_of(vm: LoadedVm) -> dict[str, Any]:
    vcpus = vm.state["vcpus"]
    assert isinstance(vcpus, list)
    vcpu: dict[str, Any] = vcpus[0]
    return vcpu


# The bytes


needs_assembler = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("gcc", "ld", "objcopy", "objdump", "nm")),
    reason="gcc or binutils is not installed",
)


def assemble(folder: Path) -> bytes:
    spec = importlib.util.spec_from_file_location("assemble_stub", ROOT / "tools" / "guest" / "assemble_stub.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    code: bytes = module.assemble(ROOT / "src" / "bhyveload" / "handoff" / "pvh" / "stub.S", folder)
    return code


def tool_says(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def meaning(code: bytes, folder: Path) -> list[str | bytes]:
    """Instructions as objdump reads them, whichever of their encodings an assembler has chosen; data as it is.

    ``folder``: where assemble() has left stub.elf, whose symbols tell code from data.
    """
    symbols = {
        name: int(at, 16)
        for at, _, name in (line.split() for line in tool_says("nm", f"{folder}/stub.elf").splitlines())
    }
    (folder / "code").write_bytes(code)
    parts: list[str | bytes] = [code[symbols["long_mode"] : symbols["begin"]], code[symbols["gdt64"] :]]
    for machine, first, end in (
        ("i386", "start", "long_mode"),
        ("i386", "begin", "enter64"),
        ("i386:x86-64", "enter64", "enter32"),
        ("i386", "enter32", "leave32"),
    ):
        bounds = f"--start-address={symbols[first]}", f"--stop-address={symbols[end]}"
        words = "objdump", "-D", "-b", "binary", "-m", machine, "--no-show-raw-insn", *bounds, f"{folder}/code"
        parts += [" ".join(line.split()) for line in tool_says(*words).splitlines() if re.match(r" +[0-9a-f]+:", line)]
    return parts


@needs_assembler
def test_the_committed_bytes_are_what_the_source_assembles_to(tmp_path: Path) -> None:
    assembled = assemble(tmp_path)
    assert len(assembled) == len(STUB)
    assert meaning(assembled, tmp_path) == meaning(STUB, tmp_path)


@needs_assembler
def test_what_the_bytes_mean(tmp_path: Path) -> None:
    """Another encoding means the same; another register, number or jump does not."""
    assemble(tmp_path)
    meant = meaning(STUB, tmp_path)
    assert "cli" in str(meant) and len(meant) > 150
    assert (clear := STUB.find(b"\x31\xc9")) > 0  # xorl %ecx, %ecx
    assert meaning(STUB[:clear] + b"\x33\xc9" + STUB[clear + 2 :], tmp_path) == meant
    assert meaning(STUB[:clear] + b"\x31\xc0" + STUB[clear + 2 :], tmp_path) != meant
    for at in (1, 6, STUB_PARAMETERS, len(STUB) - 80):  # the base, a jump, a parameter, a descriptor
        assert meaning(STUB[:at] + bytes([STUB[at] ^ 1]) + STUB[at + 1 :], tmp_path) != meant


def test_code_and_parameters_and_map_fit_one_page() -> None:
    assert len(STUB) + 64 * 24 <= 4096


def test_the_stub_starts_with_its_own_address(vm: LoadedVm) -> None:
    stub = build_stub(vm.memory, vm.state)
    assert stub.base == 0x100000
    assert stub.image[0] == 0xBD  # mov ebp, imm32
    assert struct.unpack_from("<I", stub.image, STUB_BASE) == (stub.base,)


# The lists


def copies(image: bytes, base: int) -> list[tuple[int, bytes, int]]:
    """(to, data or zeros, bytes) of the copy list."""
    (at,) = struct.unpack_from("<I", image, STUB_PARAMETERS + 4)
    found: list[tuple[int, bytes, int]] = []
    at -= base
    while True:
        to, source, words = struct.unpack_from("<III", image, at)
        if words == 0:
            return found
        found.append((to, image[source - base : source - base + words * 4] if source else bytes(words * 4), words * 4))
        at += 12


def fixes(image: bytes, base: int) -> list[tuple[int, int, int]]:
    (at,) = struct.unpack_from("<I", image, STUB_PARAMETERS + 8)
    found: list[tuple[int, int, int]] = []
    at -= base
    while struct.unpack_from("<I", image, at) != (0,):
        found.append(struct.unpack_from("<IIQ", image, at))
        at += 16
    return found


def test_base_memory_is_put_back_whole_but_for_page_zero_and_the_ebda(vm: LoadedVm) -> None:
    vm.memory.write(0x8F123, b"preload")
    stub = build_stub(vm.memory, vm.state)
    restored = copies(stub.image, stub.base)
    at = 0x1000
    for to, _, size in restored:
        assert to == at
        at += size
    assert at == 0x9F000
    assert b"".join(data for _, data, _ in restored) == vm.memory.read(0x1000, 0x9E000)


def test_the_firmware_s_scratch_memory_is_put_back(vm: LoadedVm) -> None:
    where = 64 * MB - 16 * MB - 0x31000
    vm.memory.write(where, b"the end of a large preload")
    stub = build_stub(vm.memory, vm.state)
    assert (where, vm.memory.read(where, 4096), 4096) in copies(stub.image, stub.base)


def test_each_length_of_ram_is_fixed(vm: LoadedVm) -> None:
    stub = build_stub(vm.memory, vm.state)
    first = MODULEP + 16 + 8
    assert fixes(stub.image, stub.base) == [(first + 8, 0, 0), (first + 20 + 8, 0, MB)]


def test_bootinfo_of_a_32_bit_guest_is_fixed_too(tmp_path: Path) -> None:
    vm = empty_vm(tmp_path / "vm", 64 * MB)
    vcpu = Registers()
    setup_freebsd_registers_i386(vcpu, vm.memory, 0x800000, 0x3000, 0x1FDC)
    vm.memory.write(0x1FDC, struct.pack("<9I", 0, 0, 0, 0, 0, 0, 0x2000, MODULEP, 0))
    vm.memory.write(0x2000, struct.pack("<I", 1))
    vm.memory.write(MODULEP, record(1, b"k\0", 4) + record(0x9001, smap((0, 0xA0000, 1)), 4) + record(0, b""))
    stub = build_stub(vm.memory, {"vcpus": [vcpu.as_dict()]})
    vm.close()
    assert fixes(stub.image, stub.base) == [(0x2038, 10, 0), (0x203C, 10, MB), (MODULEP + 12 + 8 + 8, 0, 0)]


def test_a_used_first_mebibyte_moves_the_stub(vm: LoadedVm) -> None:
    vm.memory.write(0x102000, b"x")
    stub = build_stub(vm.memory, vm.state)
    assert stub.base != 0x100000 and stub.base % 4096 == 0
    assert not any(vm.memory.read(stub.base, len(stub.image)))
    assert struct.unpack_from("<I", stub.image, STUB_BASE) == (stub.base,)


def test_a_guest_without_metadata_has_nothing_to_fix(vm: LoadedVm) -> None:
    vm.memory.write(0x1000, bytes(12))
    stub = build_stub(vm.memory, vm.state)
    assert fixes(stub.image, stub.base) == []


# What is refused


@pytest.mark.parametrize("where", [0x10, 0x9F800, 0xA0000, 0xF0000, 64 * MB - 0x1000, 63 * MB])
def test_guest_data_in_the_firmware_s_memory(vm: LoadedVm, where: int) -> None:
    vm.memory.write(where, b"x")
    with pytest.raises(HandoffError, match=rf"guest data at {where & -4096:#x}: QEMU's firmware"):
        build_stub(vm.memory, vm.state)


def test_memory_too_small_for_the_firmware(tmp_path: Path, vm: LoadedVm) -> None:
    small = empty_vm(tmp_path / "small", 2 * MB)
    with pytest.raises(HandoffError, match="too few for QEMU's firmware"):
        build_stub(small.memory, vm.state)
    small.close()


def test_room_above_the_firmware_s_scratch_memory(vm: LoadedVm) -> None:
    vm.memory.write(0x100000, b"\1" * (50 * MB))
    vm.memory.write(MODULEP, record(1, b"kernel\0") + record(0x9001, smap((0, 0xA0000, 1))) + record(0, b""))
    assert build_stub(vm.memory, vm.state).base == 51 * MB


def test_no_room_for_the_stub(vm: LoadedVm) -> None:
    vm.memory.write(0x100000, b"\1" * (62 * MB))
    vm.memory.write(MODULEP, record(1, b"kernel\0") + record(0x9001, smap((0, 0xA0000, 1))) + record(0, b""))
    with pytest.raises(HandoffError, match=r"no \d+ KiB of guest memory are free"):
        build_stub(vm.memory, vm.state)


@pytest.mark.parametrize("table", [0x2000, 0x3000, 0x4000])
def test_page_tables_that_do_not_map_the_stub(vm: LoadedVm, table: int) -> None:
    vm.memory.write(table, bytes(8))
    with pytest.raises(HandoffError, match="do not map 0x100000 to itself"):
        build_stub(vm.memory, vm.state)


def test_page_tables_outside_memory(vm: LoadedVm) -> None:
    vcpu_of(vm)["registers"]["cr3"] = 0xFFFFF000
    with pytest.raises(HandoffError, match="do not map"):
        build_stub(vm.memory, vm.state)


@pytest.mark.parametrize(
    ("group", "name", "value", "message"),
    [
        ("registers", "cr0", 0x20, "real mode"),
        ("registers", "cr4", 0, "not in 64-bit mode"),
        ("registers", "efer", 0, "not in 64-bit mode"),
        ("registers", "cr3", 1 << 32, "above 4 GiB"),
        ("registers", "dr7", 0x401, "dr7 = 0x401 cannot be set"),
        ("registers", "kgs_base", 1, "kgs_base"),
        ("registers", "rip", -1, "rip in the VM's state is not a 64-bit number"),
        ("registers", "rip", 1 << 64, "not a 64-bit number"),
        ("registers", "rsp", "x", "not a 64-bit number"),
        ("registers", "rsp", True, "not a 64-bit number"),
        ("selectors", "cs", 0x20, "segment cs"),
        ("selectors", "ss", 0, "segment ss"),
        ("descriptors", "ds", {"base": 16, "limit": 0, "access": 0x93}, "segment ds"),
        ("descriptors", "cs", {"base": 0, "limit": 0, "access": 0x93}, "segment cs"),
        ("descriptors", "gdtr", {"base": 0, "limit": 0x10000, "access": 0}, "GDTR limit"),
        ("descriptors", "gdtr", None, "no descriptor gdtr"),
    ],
)
def test_a_state_that_cannot_be_set(vm: LoadedVm, group: str, name: str, value: object, message: str) -> None:
    vcpu_of(vm)[group][name] = value
    with pytest.raises(HandoffError, match=message):
        entry_state(vm.state)


@pytest.mark.parametrize(
    ("group", "name", "value", "message"),
    [
        ("registers", "rip", 1 << 32, "rip does not fit a 32-bit guest"),
        ("registers", "efer", 0x100, "without paging"),
        ("selectors", "tr", 0x20, "TR is not"),
        ("descriptors", "tr", {"base": 0, "limit": 0x67, "access": 0x89}, "TR is not"),
        ("descriptors", "gdtr", {"base": 1 << 32, "limit": 31, "access": 0}, "gdtr does not fit"),
    ],
)
def test_a_32_bit_state_that_cannot_be_set(tmp_path: Path, group: str, name: str, value: object, message: str) -> None:
    vm = empty_vm(tmp_path / "vm", 64 * MB)
    vcpu = Registers()
    setup_freebsd_registers_i386(vcpu, vm.memory, 0x800000, 0x3000, 0x1FDC)
    vm.close()
    state = {"vcpus": [vcpu.as_dict()]}
    good = entry_state(state)
    assert (good.rip, good.rsp, good.tss, good.long_mode) == (0x800000, 0x1FDC, (0x4000, 0x67), False)
    state["vcpus"][0][group][name] = value
    with pytest.raises(HandoffError, match=message):
        entry_state(state)


@pytest.mark.parametrize("state", [{}, {"vcpus": []}, {"vcpus": [3]}, {"vcpus": [{}]}, {"vcpus": [{"registers": {}}]}])
def test_a_state_without_a_processor(state: dict[str, object]) -> None:
    with pytest.raises(HandoffError, match="VM's state"):
        entry_state(state)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (record(2, b"not a name\0"), "is damaged"),
        (record(1, b"k\0") + struct.pack("<II", 2, 0xFFFFFFF0), "outside guest memory|is damaged"),
        (record(1, b"k\0") + record(0x9001, bytes(21)), "21 bytes long"),
        (record(1, b"k\0") + record(0x9001, bytes(20 * 65)), "1300 bytes long"),
    ],
)
def test_damaged_metadata(vm: LoadedVm, metadata: bytes, message: str) -> None:
    vm.memory.write(MODULEP, metadata.ljust(4096, b"\0"))
    with pytest.raises(HandoffError, match=message):
        build_stub(vm.memory, vm.state)


def test_metadata_outside_memory(vm: LoadedVm) -> None:
    vm.memory.write(0x1004, struct.pack("<I", 0xFFFFFFFF))
    with pytest.raises(HandoffError, match="module metadata at 0xffffffff is damaged"):
        build_stub(vm.memory, vm.state)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=600), st.integers(0, 66 * MB), st.booleans())
def test_hostile_metadata_only_ever_refused(data: bytes, modulep: int, long_mode: bool) -> None:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 64 * MB)
    memory = GuestMemory(fd, 64 * MB, 0)
    at = min(modulep, 64 * MB - len(data))
    memory.write(at, data)
    memory.write(0x1000, struct.pack("<8I", 0, modulep, 0, 0, 0, at, modulep, 0))
    try:
        fields = map_fields(memory, EntryState({"cr0": 0x80000021 if long_mode else 0x21, "rsp": 0x1000}, (0, 0), None))
    except HandoffError:
        return
    finally:
        os.close(fd)
    for field in fields:
        assert 0 <= field.address <= 64 * MB - (4 if field.shift else 8)
