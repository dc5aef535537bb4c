"""Damaged and random kernels, modules and hints: only our own errors, in bounded time, and never a write out of place.

Every mutant is made from a file that gcc and ld built; the seeds are fixed.
"""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import ENOENT
from bhyveload.host.callbacks import GuestReady, LoaderCallbacks
from bhyveload.loader.commands.boot import boot
from bhyveload.loader.commands.modules import load, lsmod, pnpmatch
from bhyveload.loader.environment import no_set, no_unset
from bhyveload.loader.interpreter.simple import SimpleInterpreter
from bhyveload.loader.kernel import hints as hints_module
from bhyveload.loader.state import Loader
from bhyveload.vm.memory import GuestMemory
from support import harness
from support.kernel_objects import Hints, build_kernel, build_module, depend, require_toolchain, version

require_toolchain()
MIB = 1 << 20
MEMORY = 24 * MIB
FIRST_PAGE = 4096
SECONDS = 2.0  # of processor time, for what takes a thousandth of it: a bound on loops, not a measurement
INTERESTING = [0, 1, 2, 3, 7, 8, 0x7F, 0xFF, 0x1000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, 1 << 40]
INTERESTING += [(1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 0x1000, 0xFFFFFFFF80000000, MEMORY, MEMORY - 8]


class MemoryFile:
    """A HostFile over bytes."""

    is_directory = False
    mode, uid, gid, mtime, dev, ino = 0o100644, 0, 0, 0, 1, 1

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.at = 0

    def read(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        self.at += len(piece)
        return piece

    def seek(self, offset: int, whence: int) -> int:
        assert whence == 0
        self.at = offset
        return offset

    def readdir(self) -> None:
        return None

    def close(self) -> None:
        pass


class MemoryFolder:
    """A HostDirectory with these files."""

    fd = -1
    walks = False

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def open(self, name: bytes) -> MemoryFile:
        data = self.files.get("/" + name.decode("latin-1").lstrip("/"))
        if data is None:
            raise FileSystemError(ENOENT, "no such file")
        return MemoryFile(data)


class WatchedMemory(GuestMemory):
    """Guest memory that remembers what was written: [start, end) of each write."""

    def __init__(self, fd: int, low: int, high: int) -> None:
        super().__init__(fd, low, high)
        self.writes: list[tuple[int, int]] = []

    def write_pieces(self, gpa: int, pieces: Sequence[bytes | bytearray | memoryview], length: int) -> None:
        super().write_pieces(gpa, pieces, length)
        self.writes.append((gpa, gpa + length))

    def zero(self, gpa: int, length: int) -> None:
        super().zero(gpa, length)
        self.writes.append((gpa, gpa + length))


class Machine:
    """A loader over 24 MiB of memory, without a child: what it raises is seen here."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.fd = os.memfd_create("guest")
        os.ftruncate(self.fd, MEMORY)
        self.memory = WatchedMemory(self.fd, MEMORY, 0)
        self.console = harness.KeyConsole()
        host = LoaderCallbacks(self.console, self.memory, [], MemoryFolder(files))
        self.loader = Loader(host)
        self.loader.interpreter = SimpleInterpreter(self.loader)
        self.loader.environment.define("currdev", "host0:", no_set, no_unset)
        self.loader.environment.set("module_path", "/k")

    def do(self, command: Callable[[Loader, list[str]], int], *words: str) -> bool:
        """Whether the command succeeded.  Any exception but the guest's start fails the test."""
        started = time.process_time()
        result = command(self.loader, [command.__name__, *words])
        assert time.process_time() - started < SECONDS
        return result == 0

    def try_to_boot(self) -> None:
        try:
            boot(self.loader, ["boot"])
        except GuestReady:
            modulep, kernend = struct.unpack("<II", self.memory.read(0x1004, 8))
            assert 0 < modulep < kernend <= MEMORY

    def read(self, start: int, end: int) -> bytes:
        return self.memory.read(start, end - start)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


class Originals:
    def __init__(self, folder: Path) -> None:
        records = [version("mod", 3), depend("kernel", 1, 2, 9999999)]
        self.kernel = build_kernel(folder / "kernel", ctors=2, symbols=20).read_bytes()
        self.kernel32 = build_kernel(folder / "kernel32", arch="i386").read_bytes()
        self.object = build_module(folder / "mod.ko", records, relocations=4).read_bytes()
        self.shared = build_module(folder / "shared.ko", records, shared=True).read_bytes()
        self.shared32 = build_module(folder / "shared32.ko", records, shared=True, arch="i386").read_bytes()
        hints = Hints().module("mod", "mod.ko").version("mod", 3, "mod.ko").version("mod", 4, "other.ko")
        hints.pnp("pci", "I:vendor;J:device;Z:name;D:#;", [(1, 2, "a", "text"), (3, -1, "b", "")])
        hints.pnp("isa", "M:mask;G:a;L:b;T:x=1;", [(3, 1, 2)])
        self.hints = hints.encode()


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    return Originals(tmp_path_factory.mktemp("originals"))


def interesting_places(data: bytes) -> list[tuple[int, int]]:
    """(offset, bytes) of what a loader looks at: ELF header, program and section headers, dynamic table, symbols."""
    wide = data[4] == 2
    layout, at = ("<QQ", 32) if wide else ("<II", 28)
    phoff, shoff = struct.unpack_from(layout, data, at)
    phentsize, phnum, shentsize, shnum = struct.unpack_from("<4H", data, 54 if wide else 42)
    places = [(offset, size) for offset, size in ((16, 2), (18, 2), (20, 4), (24, 8), (32, 8), (40, 8))]
    places += [(offset, 2) for offset in range(52, 64, 2)]
    for start, entry, count in ((phoff, phentsize, phnum), (shoff, shentsize, shnum)):
        for offset in range(start, start + entry * count, 4):
            places += [(offset, 4), (offset, 8)]
    for number in range(shnum):  # contents of small sections: .dynamic, .hash, .dynsym, the set, its relocations
        header = shoff + number * shentsize
        start, size = struct.unpack_from("<QQ" if wide else "<II", data, header + (24 if wide else 16))
        if size <= 512:
            places += [(offset, 8) for offset in range(start, min(start + size, len(data)), 4)]
    return places


def mutants(data: bytes, count: int, seed: int) -> list[bytes]:
    """Header fields set to interesting numbers, bytes flipped, files cut: one to four changes each."""
    generator = random.Random(seed)
    places = interesting_places(data)
    found = []
    for _ in range(count):
        copy = bytearray(data)
        for _ in range(generator.choice((1, 1, 1, 2, 4))):
            offset, size = generator.choice(places)
            if offset + size > len(copy):
                continue
            value = generator.choice(INTERESTING) + generator.choice((0, 0, -1, 1, generator.randrange(64)))
            change = generator.randrange(4)
            if change == 0:
                copy[offset + generator.randrange(size)] ^= 1 << generator.randrange(8)
            elif change == 1:
                value += int.from_bytes(copy[offset : offset + size], "little")
            if change:
                copy[offset : offset + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        if generator.randrange(12) == 0:
            del copy[generator.randrange(len(copy)) :]
        found.append(bytes(copy))
    return found


@pytest.mark.parametrize("name", ["kernel", "kernel32"])
def test_mutated_kernels(originals: Originals, name: str) -> None:
    """What is written lies where the kernel is said to lie; the first page of the file is copied whole."""
    loaded = 0
    for mutant in mutants(getattr(originals, name), 700, 11):
        with Machine({"/k/kernel": mutant}) as machine:
            if machine.do(load, "kernel"):
                loaded += 1
                file = machine.loader.preloaded[0]
                if file.addr + file.size <= MEMORY:  # else it is linked to where no memory is: refused by boot
                    end = file.addr + file.size + FIRST_PAGE
                    assert all(file.addr <= start and stop <= end for start, stop in machine.memory.writes)
                assert machine.do(lsmod, "-v")
                if name == "kernel":
                    machine.try_to_boot()
            else:
                assert machine.loader.preloaded == [] and machine.loader.loadaddr == 0
    assert 100 < loaded < 690


@pytest.mark.parametrize("name", ["object", "shared", "shared32"])
def test_mutated_modules(originals: Originals, name: str) -> None:
    """Whatever a module says of itself, nothing below it changes; refused ones leave the loader as it was."""
    kernel = originals.kernel32 if name == "shared32" else originals.kernel
    loaded = 0
    for mutant in mutants(getattr(originals, name), 700, 12):
        with Machine({"/k/kernel": kernel, "/k/mod.ko": mutant}) as machine:
            assert machine.do(load, "kernel")
            end = machine.loader.loadaddr
            below = machine.read(0, end)
            if machine.do(load, "mod"):
                loaded += 1
                file = machine.loader.preloaded[-1]
                assert file.addr >= end and file.addr + file.size <= MEMORY
                assert machine.do(lsmod)
            else:
                assert len(machine.loader.preloaded) == 1 and machine.loader.loadaddr == end
            assert machine.read(0, end) == below
    assert 60 < loaded < 690


def test_mutated_hints(originals: Originals) -> None:
    generator = random.Random(13)
    files = {"/k/kernel": originals.kernel, "/k/mod.ko": originals.object, "/k/other.ko": originals.object}
    for _ in range(700):
        data = bytearray(originals.hints)
        for _ in range(generator.randrange(1, 5)):
            at = generator.randrange(4, len(data) - 4)
            if generator.randrange(2):
                data[at] = generator.randrange(256)
            else:
                at = at // 4 * 4
                data[at : at + 4] = (generator.choice(INTERESTING) & 0xFFFFFFFF).to_bytes(4, "little")
        if generator.randrange(8) == 0:
            del data[generator.randrange(len(data)) :]
        with Machine({**files, "/k/linker.hints": bytes(data)}) as machine:
            assert machine.do(load, "kernel")
            machine.do(load, "mod")
            machine.do(pnpmatch, "pci", "vendor=3 device=9 name=b")
            machine.do(pnpmatch, "-dv", "isa", "x=1 a=1 b=2")


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=400), st.text("abc", max_size=3), st.tuples(*[st.integers(-3, 3)] * 3))
def test_random_hints(data: bytes, name: str, wanted: tuple[int, int, int]) -> None:
    found = hints_module.find_version(hints_module.versions(data), name, wanted)
    assert found is None or found.encode("latin-1") in data


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(-5, 5), st.sampled_from(["x.ko", "y.ko", "z.ko"]))),
    st.tuples(*[st.integers(-5, 5)] * 3),
)
def test_versions_by_their_rule(records: Sequence[tuple[str, int, str]], wanted: tuple[int, int, int]) -> None:
    """The first preferred one, else the first of the highest in range that is above 0 (mod_search_hints)."""
    hints = Hints()
    for name, number, file in records:
        hints.module(name, file).version(name, number, file)
    of_a = [(number, file) for name, number, file in records if name == "a"]
    preferred = [file for number, file in of_a if number == wanted[1]]
    in_range = [(number, file) for number, file in of_a if wanted[0] <= number <= wanted[2] and number > 0]
    expected = None
    if preferred:
        expected = preferred[0]
    elif in_range:
        best = max(number for number, _ in in_range)
        expected = next(file for number, file in in_range if number == best)
    known = hints_module.versions(hints.encode()[4:])
    assert hints_module.find_version(known, "a", wanted) == expected


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([b"\x7fELF\2\1\1\0", b"\x7fELF\1\1\1\0", b""]), st.binary(max_size=300), st.integers(0, 3))
def test_random_files(start: bytes, rest: bytes, kind: int) -> None:
    head = start + bytes(8) + struct.pack("<HHI", kind, 62 if start[4:5] == b"\2" else 3, 1) if start else b""
    with Machine({"/k/kernel": head + rest}) as machine:
        machine.do(load, "kernel")
        machine.do(load, "-t", "raw", "kernel")


def test_hostile_tables_take_bounded_time(originals: Originals) -> None:
    """Thousands of relocation sections, tables that claim 2147483647 entries: nothing is walked for ever."""
    data = bytearray(originals.object)
    shoff = int.from_bytes(data[40:48], "little")
    count = int.from_bytes(data[60:62], "little")
    headers = data[shoff : shoff + count * 64]
    relocation = next(headers[i : i + 64] for i in range(0, len(headers), 64) if headers[i + 4] == 4)
    many = 20000
    data[40:48] = len(data).to_bytes(8, "little")
    data[60:62] = (count + many).to_bytes(2, "little")
    data += headers + relocation * many
    hints = Hints().module("drv", "drv.ko")
    for _ in range(20000):
        hints.pnp("pci", "I:a;", [(1,)])
    huge = bytearray(hints.encode())
    at = 4
    while at < len(huge):
        length, kind = struct.unpack_from("<ii", huge, at)
        if kind == 4:
            struct.pack_into("<i", huge, at + 20, 0x7FFFFFFF)  # the count behind "pci" and "I:a;"
        at += 4 + length
    files = {"/k/kernel": originals.kernel, "/k/mod.ko": bytes(data), "/k/linker.hints": bytes(huge)}
    with Machine(files) as machine:
        assert machine.do(load, "kernel")
        assert not machine.do(load, "mod")
        machine.do(pnpmatch, "pci", "a=5")


def test_a_shared_module_without_segments(originals: Originals) -> None:
    """Found by mutation: its symbols came to lie at address 0."""
    data = bytearray(originals.shared)
    data[56:58] = bytes(2)  # e_phnum
    with Machine({"/k/kernel": originals.kernel, "/k/mod.ko": bytes(data)}) as machine:
        assert machine.do(load, "kernel")
        below = machine.read(0, machine.loader.loadaddr)
        assert not machine.do(load, "mod")
        assert machine.read(0, len(below)) == below
