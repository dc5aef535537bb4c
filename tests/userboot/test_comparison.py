"""The comparison of two loads, on memory that FreeBSD's real loader left (tests/data/userboot)."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.userboot import cross_check
from bhyveload.userboot.cross_check import LoadedState, compare
from bhyveload.userboot.handover import RECORD_NAMES, describe, read_handover
from bhyveload.vm.memory import VM_HIGHMEM_BASE
from support.userboot_testing import RECORDS, machine


def state(name: str, label: str = "") -> LoadedState:
    """A recorded load as the VM it left."""
    memory, vcpu = machine(name)
    return LoadedState(label or name, memory, vcpu)


def test_the_records_of_a_real_load() -> None:
    handover = state("13.2-modules").handover
    assert handover.faults == []
    assert (handover.modulep, handover.kernend) == (0x40A000, 0x40C000)
    assert [file.name for file in handover.files] == [
        "/boot/kernel/kernel",
        "/boot/kernel/gamma.ko",
        "/boot/kernel/beta.ko",
        "/boot/kernel/alpha.ko",
        "/boot/modules/lonely.ko",
        "/boot/blob.bin",
    ]
    kernel = [name for name, _ in handover.files[0].records]
    assert kernel == [
        "NAME",
        "TYPE",
        "ARGS",
        "ADDR",
        "SIZE",
        "SMAP",
        "KERNEND",
        "ENVP",
        "HOWTO",
        "ELFHDR",
        "ESYM",
        "SSYM",
        "SHDR",
    ]
    assert describe("TYPE", handover.files[0].payload("TYPE") or b"") == '"elf kernel"'
    smap = describe("SMAP", state("13.2-highmem").handover.files[0].payload("SMAP") or b"")
    assert smap == "0x0+0xa0000:1 0x100000+0xbff00000:1 0x100000000+0x80000000:1"
    assert ("kern.hz", "100") in handover.environment
    assert handover.environment == sorted(handover.environment)


def test_records_have_freebsds_names() -> None:
    """sys/sys/linker.h's and sys/x86/include/metadata.h's numbers."""
    common = ("NAME", "TYPE", "ADDR", "SIZE", "EMPTY", "ARGS")
    kernels = ("AOUTEXEC", "ELFHDR", "SSYM", "ESYM", "DYNAMIC", "ENVP", "HOWTO", "KERNEND", "SHDR", "CTORS_ADDR")
    later = ("CTORS_SIZE", "FW_HANDLE", "KEYBUF", "FONT", "SPLASH", "SHTDWNSPLASH")
    expected = dict(enumerate(common, 1)) | dict(enumerate(kernels + later, 0x8001)) | {0x9001: "SMAP"}
    assert expected == RECORD_NAMES


def test_the_records_of_a_real_i386_load() -> None:
    handover = state("13.2-i386").handover
    assert handover.faults == []
    assert [file.name for file in handover.files] == ["/boot/kernel/kernel", "/boot/blob.bin"]
    assert handover.files[1].extent() == (0x8011BC, 0x22BD)


@pytest.mark.parametrize("name", sorted(path.name for path in RECORDS.iterdir() if path.is_dir()))
def test_a_load_is_the_same_as_itself(name: str) -> None:
    assert compare(state(name, "one"), state(name, "other")) == []


def test_two_versions_that_agree() -> None:
    """The real 13.2 and the real current leave the same memory for a plain kernel."""
    assert compare(state("13.2-plain"), state("current-plain")) == []


def test_two_versions_that_place_raw_files_differently() -> None:
    lines = compare(state("13.2-modules", "old"), state("current-modules", "new"))
    assert lines[:5] == [
        "modulep: 0x40a000 with old, 0x40b000 with new",
        "kernend: 0x40c000 with old, 0x40d000 with new",
        "/boot/kernel/kernel: record KERNEND: 0x40c000 (8 bytes) with old, 0x40d000 (8 bytes) with new",
        "/boot/kernel/kernel: record ENVP: 0x409000 (8 bytes) with old, 0x40a000 (8 bytes) with new",
        "/boot/blob.bin: record ADDR: 0x406970 (8 bytes) with old, 0x407000 (8 bytes) with new",
    ]
    assert lines[5] == "guest page 0x1000 (stack): 2 bytes differ, first at 0x1005"
    assert lines[6].startswith("guest pages 0x406000-0x408fff (/boot/blob.bin): ")
    assert lines[7].startswith("guest page 0x409000 (environment): ")
    assert not any("image differ" in line for line in lines), "the file itself is the same, only elsewhere"


def test_two_versions_of_an_i386_load() -> None:
    lines = compare(state("13.2-i386", "old"), state("current-i386", "new"))
    assert "/boot/blob.bin: record ADDR: 0x8011bc (4 bytes) with old, 0x802000 (4 bytes) with new" in lines
    assert any(line.startswith("guest page 0x2000 (bootinfo): ") for line in lines)
    assert not any("KEYBUF" in line for line in lines), "its unused entries are the loader's heap"


def changed(name: str, at: int, data: bytes) -> list[str]:
    one, (memory, vcpu) = state(name, "one"), machine(name)
    memory.write(at, data)
    return compare(one, LoadedState("other", memory, vcpu))


def find(name: str, text: bytes, start: int = 0) -> int:
    memory, _ = machine(name)
    return memory.read(0, 16 << 20).index(text, start)


def test_a_variable_of_another_value() -> None:
    at = find("13.2-plain", b"module_verbose=2")
    assert changed("13.2-plain", at, b"module_verbose=0")[0] == 'variable module_verbose: "2" with one, "0" with other'


def test_a_variable_that_only_one_has() -> None:
    at = find("13.2-plain", b"module_verbose=2")
    lines = changed("13.2-plain", at, b"nodule")
    assert lines[:2] == [
        'variable module_verbose: "2" with one, not set with other',
        'variable nodule_verbose: not set with one, "2" with other',
    ]


def test_variables_in_another_order() -> None:
    at = find("13.2-plain", b"first=one\0interpret=OK\0")
    lines = changed("13.2-plain", at, b"interpret=OK\0first=one\0")
    assert lines[0] == "environment: order, variable 5: first with one, interpret with other"
    assert lines[1].startswith("guest page 0x403000 (environment): ")
    assert len(lines) == 2


def test_a_byte_of_a_module() -> None:
    lines = changed("13.2-modules", 0x404123, b"\xee")
    assert lines == [
        "/boot/kernel/beta.ko: 1 of 2648 bytes of its image differ, first at +0x123 (guest address 0x404123)",
        "guest page 0x404000 (/boot/kernel/beta.ko): 1 bytes differ, first at 0x404123",
    ]


def test_a_record_of_other_bytes() -> None:
    at = find("13.2-plain", b"\x7fELF\x02\x01\x01\x00", 0x404000)
    lines = changed("13.2-plain", at + 7, b"\x03")
    assert lines[0].startswith("/boot/kernel/kernel: record ELFHDR: 64 bytes (0000000000000000 at +0x7)")
    assert "with one, 64 bytes (03" in lines[0]
    assert lines[1] == f"guest page 0x404000 (module metadata): 1 bytes differ, first at {at + 7:#x}"


@pytest.mark.parametrize(
    ("at", "line"),
    [
        (0x1008, None),
        (0x2FF8, "guest page 0x2000 (PML4): 1 bytes differ, first at 0x2ff8"),
        (0x3000, "guest page 0x3000 (PDPT): 1 bytes differ, first at 0x3000"),
        (0x4001, "guest page 0x4000 (page directory): 1 bytes differ, first at 0x4001"),
        (0x5008, "guest page 0x5000 (GDT): 1 bytes differ, first at 0x5008"),
        (0x6000, "guest page 0x6000 (between preloaded files): 1 bytes differ, first at 0x6000"),
        (0x8000000, "guest page 0x8000000 (behind kernend): 1 bytes differ, first at 0x8000000"),
    ],
)
def test_a_byte_anywhere(at: int, line: str | None) -> None:
    lines = changed("13.2-plain", at, b"\xee")
    if line is None:
        assert lines[0].startswith("kernend: "), "the stack's third word"
    else:
        assert lines == [line]


def test_the_rest_of_the_stack_page_is_not_compared() -> None:
    assert changed("13.2-plain", 0x100C, b"\xee" * 0xFF4) == []
    assert changed("13.2-i386", 0x1000, b"\xee" * 0xFDC) == []
    assert changed("13.2-i386", 0x1FDC, b"\xee") != []


def test_a_byte_of_high_memory() -> None:
    lines = changed("13.2-highmem", VM_HIGHMEM_BASE + 0x12345, b"\xee")
    assert lines == ["guest page 0x100012000 (behind kernend): 1 bytes differ, first at 0x100012345"]


def test_registers() -> None:
    one, (memory, vcpu) = state("13.2-plain", "one"), machine("13.2-plain")
    vcpu.registers["rip"] = 0x1234
    vcpu.registers["rax"] = 7
    del vcpu.selectors["cs"]
    vcpu.descriptors["gdtr"] = (0x5000, 31, 0)
    assert compare(one, LoadedState("other", memory, vcpu)) == [
        "register rip: 0xffffffff80200120 with one, 0x1234 with other",
        "register rax: not set with one, 0x7 with other",
        "selector cs: 0x8 with one, not set with other",
        "descriptor gdtr: base 0x5000 limit 0x17 access 0x0 with one, base 0x5000 limit 0x1f access 0x0 with other",
    ]


def test_other_memory_sizes() -> None:
    lines = compare(state("13.2-plain", "one"), state("13.2-highmem", "other"))
    assert '/boot/kernel/kernel: record ARGS: absent with one, "-s" with other' in lines
    assert 'variable odd: "a b" with one, not set with other' in lines
    assert lines[-1] == (
        "memory: 0x10000000 + 0x0 bytes with one, 0xc0000000 + 0x80000000 with other; pages not compared"
    )


def test_other_files() -> None:
    lines = compare(state("13.2-plain", "one"), state("13.2-modules", "other"))
    assert any(
        line.startswith("preloaded files: /boot/kernel/kernel with one, /boot/kernel/kernel, /boot/") for line in lines
    )


def test_many_differences_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_check, "MAX_LINES", 4)
    lines = compare(state("13.2-modules"), state("current-modules"))
    assert len(lines) == 4
    assert lines[-1] == "... and 7 more differences"


def test_a_stack_outside_memory() -> None:
    memory, vcpu = machine("13.2-plain")
    vcpu.registers["rsp"] = 1 << 40
    handover = read_handover(memory, vcpu)
    assert handover.faults == ["the stack at 0x10000000000 lies outside guest memory"]
    assert (
        compare(LoadedState("same", memory, vcpu), LoadedState("same", memory, vcpu))
        == [f"{handover.faults[0]} (same)"] * 2
    )


@pytest.mark.parametrize(
    ("at", "data", "fault"),
    [
        (0x1004, struct.pack("<I", 0xFFFFF000), "the metadata at 0xfffff000 has no end (record at +0x0)"),
        (0x1004, struct.pack("<I", 0x200000), "the metadata at 0x200000 "),
        (0x404000, struct.pack("<II", 2, 4), "the metadata at 0x404000 does not begin with a name"),
        (0x404004, struct.pack("<I", 0xFFFFFFFF), "the metadata at 0x404000 has no end (record at +0x0)"),
        (0x404004, struct.pack("<I", 0x10000000), "the metadata at 0x404000 has no end (record at +0x0)"),
    ],
)
def test_damaged_metadata_is_said(at: int, data: bytes, fault: str) -> None:
    memory, vcpu = machine("13.2-plain")
    memory.write(at, data)
    faults = read_handover(memory, vcpu).faults
    assert len(faults) == 1
    assert faults[0].startswith(fault)


def test_an_environment_without_end() -> None:
    memory, vcpu = machine("13.2-plain")
    memory.write(
        0x404000, memory.read(0x404000, 0x1000).replace(struct.pack("<Q", 0x403000), struct.pack("<Q", 1 << 40))
    )
    assert read_handover(memory, vcpu).faults == ["the environment at 0x10000000000 has no end"]


@settings(max_examples=60, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 0x2000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=8))
def test_whatever_a_guest_holds_is_compared(changes: list[tuple[int, bytes]]) -> None:
    """Metadata, environment and stack overwritten at random: lines that print, never an exception."""
    one, (memory, vcpu) = state("13.2-plain", "one"), machine("13.2-plain")
    try:
        for at, data in changes:
            memory.write((0x1000 if at < 16 else 0x403000) + at % 0x2000, data)
        lines = compare(one, LoadedState("other", memory, vcpu))
    finally:
        os.close(one.memory.fd)
        os.close(memory.fd)
    assert all(line.isprintable() for line in lines)
