"""A file into guest memory: the same bytes whatever lies below, and never much of it in our own memory."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from bhyveload.loader.files.open_file import F_READ, OpenFile

MIB = 1 << 20
SIZE = 23 * MIB + 4321


@pytest.fixture(scope="module")
def content() -> Iterator[mmap.mmap]:
    with tempfile.TemporaryFile() as file:
        for number in range(-(-SIZE // 4096)):
            file.write(number.to_bytes(4, "little") * 1024)
        file.truncate(SIZE)
        file.flush()
        yield mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_READ)


class Below:
    """A file whose bytes are mapped, or put together in memory; and the guest memory that they go to."""

    def __init__(self, content: mmap.mmap, mapped: bool) -> None:
        self.size = SIZE
        self.asked: list[int] = []
        self.expected: list[tuple[int, int]] = []
        self.guest = os.memfd_create("guest")
        self._view = memoryview(content)
        self._mapped = mapped

    def read(self, offset: int, length: int) -> list[Any]:
        piece = self._view[offset : offset + length]
        if piece:
            self.asked.append(length)
        return [piece if self._mapped else bytes(piece)]

    def expect(self, gpa: int, size: int) -> None:
        self.expected.append((gpa, size))

    def copyin(self, data: bytes, gpa: int) -> None:
        self.copyin_pieces([data], len(data), gpa)

    def copyin_pieces(self, pieces: list[Any], size: int, gpa: int) -> None:
        assert os.pwritev(self.guest, pieces, gpa) == size


@pytest.mark.parametrize(("mapped", "kind", "most"), [(True, "ufs", 8 * MIB), (True, "zfs", MIB), (False, "ufs", MIB)])
def test_steps(content: mmap.mmap, mapped: bool, kind: str, most: int) -> None:
    below = Below(content, mapped)
    surroundings: Any = SimpleNamespace(host=below)
    filesystem: Any = SimpleNamespace(name=kind, open=lambda node: below)
    file = OpenFile(surroundings, "/boot/kernel/kernel", F_READ, filesystem, None)
    assert file.readin(MIB, SIZE) == SIZE
    assert os.pread(below.guest, SIZE + 1, MIB) == content[:]
    assert max(below.asked) <= most
    assert len(below.asked) <= 10 or most < 8 * MIB
    assert below.expected == [(MIB, SIZE - SIZE % 4096)]  # so few bytes at the end come out of the read-ahead
    os.close(below.guest)


def test_memory_is_not_expected_for_a_size_that_is_not_known(content: mmap.mmap) -> None:
    """A small compressed file may be read for a segment as large as guest memory."""
    below = Below(content, False)
    below.size = -1
    console = SimpleNamespace(silent=False)
    surroundings: Any = SimpleNamespace(host=below, console=console)
    filesystem: Any = SimpleNamespace(name="zip", open=lambda node: below)
    file = OpenFile(surroundings, "/boot/kernel/kernel.gz", F_READ, filesystem, None)
    assert file.readin(MIB, 2048 * MIB) == SIZE
    assert os.pread(below.guest, SIZE + 1, MIB) == content[:]
    assert below.expected == [(MIB, 16 * MIB), (17 * MIB, 16 * MIB)]
    os.close(below.guest)
