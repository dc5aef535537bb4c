"""Guest memory: the one gateway, and pieces written in batches."""

from __future__ import annotations

import mmap
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.errors import MemoryAccessError
from bhyveload.vm import memory as module
from bhyveload.vm.memory import GB, MB, GuestMemory

LOW, HIGH = 1 << 16, 1 << 16


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, LOW + HIGH)
    yield GuestMemory(fd, LOW, HIGH)
    os.close(fd)


@pytest.mark.parametrize(
    ("gpa", "length", "offset"),
    [(0, 0, 0), (0, LOW, 0), (LOW, 0, LOW), (5, 7, 5), (4 * GB, HIGH, LOW), (4 * GB + HIGH, 0, LOW + HIGH)],
)
def test_addresses_inside(memory: GuestMemory, gpa: int, length: int, offset: int) -> None:
    assert memory.offset(gpa, length) == offset


@pytest.mark.parametrize(
    ("gpa", "length"),
    [
        *((-1, 1), (0, -1), (0, LOW + 1), (LOW, 1), (LOW - 1, 2), (3 * GB, 1), (4 * GB - 1, 2), (4 * GB, HIGH + 1)),
        *((4 * GB + HIGH, 1), (1 << 63, 1), (1 << 64, 1), (0, 1 << 64)),
    ],
)
def test_addresses_outside(memory: GuestMemory, gpa: int, length: int) -> None:
    with pytest.raises(MemoryAccessError, match="outside guest memory"):
        memory.offset(gpa, length)
    if 0 <= length < 1 << 20:
        with pytest.raises(MemoryAccessError):
            memory.write(gpa, bytes(length))
        with pytest.raises(MemoryAccessError):
            memory.read(gpa, length)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=90), max_size=30), st.integers(1, 40), st.integers(1, 5), st.integers(0, 100))
def test_pieces_arrive_in_order_whatever_the_batches(pieces: list[bytes], batch: int, most: int, gpa: int) -> None:
    content = b"".join(pieces)
    fd = os.memfd_create("guest")
    os.ftruncate(fd, LOW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BATCH", batch)
        patch.setattr(module, "_IOV_MAX", most)
        guest = GuestMemory(fd, LOW, 0)
        guest.write_pieces(gpa, [memoryview(piece) for piece in pieces], len(content))
        for sent, size in module._batches(pieces):
            assert sum(map(len, sent)) == size <= batch and len(sent) <= most
    assert guest.read(0, LOW) == (bytes(gpa) + content).ljust(LOW, b"\0")
    os.close(fd)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_a_mapped_image_is_not_kept_resident(tmp_path: Path) -> None:
    """The pages of a large file are given back while it is copied."""
    size = 64 * MB
    image = tmp_path / "image"
    image.write_bytes(os.urandom(MB) * 64)
    fd = os.memfd_create("guest")
    os.ftruncate(fd, size)
    pid = os.fork()
    if pid == 0:
        try:
            with image.open("rb") as file:
                view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            GuestMemory(fd, size, 0).write_pieces(0, [view], size)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            os._exit(0 if grown < 24 << 10 and os.pread(fd, MB, size - MB) == bytes(view[-MB:]) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(fd)
