"""What is appended to a core: only to one, and nothing of a damaged state."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from bhyveload.errors import HostError
from bhyveload.handoff.core import write_core
from bhyveload.handoff.core_notes import annotate
from bhyveload.vm.memory import GuestMemory

MIB = 1 << 20


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 4 * MIB)
    yield GuestMemory(fd, 4 * MIB, 0)
    os.close(fd)


@pytest.fixture
def core() -> Iterator[int]:
    fd = os.memfd_create("core")
    yield fd
    os.close(fd)


def changed(core: int, offset: int, code: str, value: int) -> None:
    os.pwrite(core, struct.pack(code, value), offset)


@pytest.mark.parametrize(
    ("offset", "code", "value"),
    [
        (0, "<I", 0),  # no ELF
        (4, "<B", 1),  # of 32 bits
        (16, "<H", 2),  # a program
        (32, "<Q", 1 << 63),  # headers behind the end
        (32, "<Q", 4 * MIB + 4090),
        (54, "<H", 32),  # headers of another size
        (56, "<H", 0xFFFF),  # too many
    ],
)
def test_what_is_no_core(memory: GuestMemory, core: int, offset: int, code: str, value: int) -> None:
    """QEMU writes cores, and may be in a guest's hands."""
    write_core(core, memory, "core")
    changed(core, offset, code, value)
    with pytest.raises(HostError, match="no core of 64 bits"):
        annotate(core, memory, {}, registers=True, path="core")


def test_an_empty_file(memory: GuestMemory, core: int) -> None:
    with pytest.raises(HostError, match="no core of 64 bits"):
        annotate(core, memory, {}, registers=True, path="core")


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"loaded": 7, "vcpus": 7},
        {"loaded": {"modulep": 1 << 40, "kernel": {"address": 1 << 60}}, "vcpus": [7]},
        {"loaded": {"modulep": -1, "kernel": {"address": -5}}, "vcpus": [{"registers": 7}]},
        {
            "loaded": {"modulep": 4 * MIB - 4, "kernel": 3},
            "vcpus": [{"registers": {"rip": "x"}, "descriptors": {"fs": 3}}],
        },
    ],
)
def test_a_state_that_lies(memory: GuestMemory, core: int, state: dict[str, Any]) -> None:
    """Two notes, registers and report, and one more program header."""
    write_core(core, memory, "core")
    annotate(core, memory, state, registers=True, path="core")
    header = struct.unpack("<16sHHIQQQIHHHHHH", os.pread(core, 64, 0))
    kind, _, offset, _, _, size, _, _ = struct.unpack("<IIQQQQQQ", os.pread(core, 56, header[5] + 56))
    assert (header[10], kind) == (2, 4)
    content = os.pread(core, size, offset)
    assert (content.count(b"CORE"), content.count(b"bhyveload\0")) == (1, 1)
