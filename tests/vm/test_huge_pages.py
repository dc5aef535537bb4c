"""Huge pages for a memory file: what is in it stays, and what the kernel counts."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bhyveload.errors import MemoryAccessError
from bhyveload.seccomp import TABLE
from bhyveload.vm import huge_pages
from bhyveload.vm.huge_pages import HUGE_PAGE, gather, ready
from bhyveload.vm.memory import GuestMemory
from support.confined import try_confined

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's MADV_COLLAPSE")

SIZE = 16 * HUGE_PAGE
# The example of proc_buddyinfo(5) with a second zone and node
BUDDYINFO = """\
Node 0, zone      DMA      1      1      1      0      2      1      1      0      1      1      3
Node 0, zone   Normal     65      4      4      1      1      7      1      0      3      2      5
Node 1, zone  HighMem      2      0      0      1      1      0      1      0      0      1      0
"""


@pytest.fixture
def fd() -> Iterator[int]:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, SIZE)
    yield fd
    os.close(fd)


def held(fd: int) -> int:
    """Bytes of memory that the file takes, as the kernel counts them."""
    return os.fstat(fd).st_blocks * 512


def gathers() -> bool:
    """Whether this host's kernel makes a huge page when asked."""
    fd = os.memfd_create("guest")
    os.ftruncate(fd, HUGE_PAGE)
    try:
        return gather(fd, 0, HUGE_PAGE, 1) == 1
    finally:
        os.close(fd)


gathering = pytest.mark.skipif(
    sys.platform != "linux" or not gathers(), reason="no huge page from this kernel (Linux 6.1) or memory"
)


def test_numbers_are_those_of_the_filter_and_of_the_header() -> None:
    names = ("mmap", "munmap", "madvise")
    rules = {rule[0]: rule for rule in TABLE}
    assert huge_pages._CALLS["x86_64"] == tuple(rules[name][1] for name in names)
    assert huge_pages._CALLS["aarch64"] == tuple(rules[name][2] for name in names)
    header = Path("/usr/include/asm-generic/mman-common.h")
    found = re.search(r"define MADV_COLLAPSE\s+(\d+)", header.read_text()) if header.exists() else None
    if found is None:
        pytest.skip("the kernel's headers are not installed, or older than Linux 6.1 (linux-libc-dev)")
    assert int(found[1]) == huge_pages.MADV_COLLAPSE


@gathering
def test_what_is_wholly_within_is_gathered_and_stays_as_it_was(fd: int) -> None:
    content = os.urandom(3 * HUGE_PAGE)
    start = HUGE_PAGE // 2
    os.pwrite(fd, content, start)
    made = gather(fd, start, start + 6 * HUGE_PAGE, 16)
    assert 1 <= made <= 5
    assert held(fd) >= made * HUGE_PAGE  # the fourth and fifth were holes
    assert os.pread(fd, SIZE, 0) == (bytes(start) + content).ljust(SIZE, b"\0")


@gathering
def test_no_more_than_wanted_and_none_beside(fd: int) -> None:
    assert gather(fd, 5, 5 + 4 * HUGE_PAGE, 2) <= 2
    assert held(fd) <= 2 * HUGE_PAGE
    assert os.pread(fd, SIZE, 0) == bytes(SIZE)


@pytest.mark.parametrize(
    ("start", "end", "most"),
    [
        (1, 2 * HUGE_PAGE - 1, 9),
        (0, HUGE_PAGE - 1, 9),
        (HUGE_PAGE, HUGE_PAGE, 9),
        (0, 4 * HUGE_PAGE, 0),
        (0, 4 * HUGE_PAGE, -3),
    ],
)
def test_nothing_to_gather(fd: int, start: int, end: int, most: int) -> None:
    assert gather(fd, start, end, most) == 0
    assert held(fd) == 0


def test_a_kernel_without_it(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    os.pwrite(fd, b"content", HUGE_PAGE)
    monkeypatch.setattr(huge_pages, "MADV_COLLAPSE", 999)  # EINVAL, as from Linux before 6.1
    assert gather(fd, 0, 4 * HUGE_PAGE, 9) == 0
    assert os.pread(fd, SIZE, 0) == (bytes(HUGE_PAGE) + b"content").ljust(SIZE, b"\0")


def test_an_unknown_machine(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "_calls", None)
    assert gather(fd, 0, 4 * HUGE_PAGE, 9) == 0 and ready() == 0


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(b"content".ljust(4 * HUGE_PAGE, b"\0"))
    with path.open("rb") as file:
        assert gather(file.fileno(), 0, 4 * HUGE_PAGE, 9) == 0
    assert path.read_bytes().rstrip(b"\0") == b"content"


@gathering
def test_the_first_that_takes_long_is_the_last(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(0, 1 << 40, 2_000_000))
    monkeypatch.setattr(huge_pages, "thread_time_ns", lambda: next(times))
    assert gather(fd, 0, 4 * HUGE_PAGE, 4) == 1


def test_no_mapping_is_left(fd: int) -> None:
    before = Path("/proc/self/maps").read_text().count("memfd:guest")
    gather(fd, 0, 4 * HUGE_PAGE, 4)
    assert Path("/proc/self/maps").read_text().count("memfd:guest") == before


def test_how_many_lie_ready(tmp_path: Path) -> None:
    path = tmp_path / "buddyinfo"
    path.write_text(BUDDYINFO)
    assert ready(str(path)) == 2 + 2 * 5 + 1
    path.write_text(BUDDYINFO.replace("      5\n", " five\n"))
    assert ready(str(path)) == 0
    path.write_text("")
    assert ready(str(path)) == 0
    assert ready(str(tmp_path / "none")) == 0


@pytest.mark.skipif(not os.access("/proc/buddyinfo", os.R_OK), reason="no /proc/buddyinfo here")
def test_as_many_as_free_memory_could_hold() -> None:
    free = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert free is not None
    assert 0 <= ready() <= int(free[1]) * 1024 // HUGE_PAGE


@gathering
def test_memory_that_is_expected_takes_as_many_as_it_may(fd: int) -> None:
    memory = GuestMemory(fd, SIZE, 0, huge=3)
    memory.expect(HUGE_PAGE, HUGE_PAGE)  # not worth it
    assert held(fd) == 0
    memory.expect(0, 8 * HUGE_PAGE)
    memory.expect(8 * HUGE_PAGE, 8 * HUGE_PAGE)
    assert HUGE_PAGE <= held(fd) <= 3 * HUGE_PAGE
    memory.write(5, b"content")
    assert memory.read(0, SIZE) == b"\0\0\0\0\0content".ljust(SIZE, b"\0")


def test_memory_that_is_none_is_not_expected(fd: int) -> None:
    memory = GuestMemory(fd, SIZE, 0, huge=3)
    with pytest.raises(MemoryAccessError, match="outside guest memory"):
        memory.expect(HUGE_PAGE, SIZE)


@gathering
def test_a_confined_child_may(fd: int) -> None:
    memory = GuestMemory(fd, SIZE, 0, huge=2)
    assert try_confined(lambda: memory.expect(0, 4 * HUGE_PAGE), memory=memory) == "done: None"
    assert HUGE_PAGE <= held(fd) <= 2 * HUGE_PAGE
