"""Damage: thousands of small disks with a structure flipped, replaced, moved or cut off are looked through whole.

Whatever a disk says, only our own error type may come out of it, in two seconds of processor time and 64 MiB.  What a
clean walk reads tells where the structures are.  Seeds are fixed; FUZZ_MUTANTS=100000 makes a longer hunt.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from bhyveload.errors import BhyveloadError, FileSystemError
from bhyveload.freebsd_errno import EIO
from bhyveload.fs.interface import DiskFileSystem
from bhyveload.fs.stat import S_IFLNK, S_IFREG
from bhyveload.inspect.survey import describe, survey
from bhyveload.inspect.tree import Walk, find
from bhyveload.inspect.volumes import DiskVolumes
from bhyveload.partition.slices import PARTWILD, SLICEWILD, lsdev_lines, open_slice
from bhyveload.partition.table import read_table
from support.devices import Hostless
from support.images import MIB, bsd_label, gpt_disk, make_ufs, mbr_disk, write_at
from support.ufs_images import DATA as UFS_DATA
from support.ufs_images import decompress

ISO_DATA = UFS_DATA.parent / "iso"
MUTANTS = int(os.environ.get("FUZZ_MUTANTS", "0"))
SECONDS = 2.0
MEMORY = 64 * MIB
LARGEST_STRUCTURE = 16384  # larger reads are files' contents
NUMBERS = (0, 1, 2, 3, 0x7F, 0xFF, 0x1FF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)


class Disk(Hostless):
    """A disk in memory that remembers what was read of it, and takes no writes."""

    read_only = True
    sector_size = 512

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        self.size = len(content)
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise FileSystemError(EIO, f"{length} bytes at {offset} lie outside the {self.size}-byte disk")
        self.reads.append((offset, length))
        return bytes(self.content[offset : offset + length])

    def write(self, offset: int, data: object) -> None:
        raise AssertionError("a write")


def look_through(disk: Disk) -> int:
    """Everything that bhyvedisk and the loader's look-up do with a disk; how many files were reached."""
    reached = 0
    for attempt in (
        lambda: open_slice(disk, SLICEWILD, PARTWILD),
        lambda: lsdev_lines(read_table(disk), "disk0", verbose=True),
    ):
        try:
            attempt()
        except BhyveloadError:
            pass
    disks = DiskVolumes([disk])
    assert list(describe(survey([disk], disks)))
    for volume in disks.volumes:
        try:
            fs = volume.mount()
        except FileSystemError:
            continue
        reached += _look_through_file_system(fs)
    return reached


def _look_through_file_system(fs: DiskFileSystem) -> int:
    reached = 0
    try:
        top = find(fs, b"/")
    except BhyveloadError:
        return 0
    for member in Walk(fs, top, lambda error, path: None).in_order():
        reached += 1
        try:
            fs.stat(fs.lookup(member.path))
            if member.kind == S_IFLNK:
                fs.readlink(member.node)
            elif member.kind == S_IFREG:
                file = fs.open(member.node)
                for piece in file.read(0, min(file.size, MIB)):
                    assert len(piece) <= MIB
                file.read(max(0, file.size - 5000), 5000)
                file.read(file.size // 2, 100)
        except BhyveloadError:
            continue
    return reached


def structures(disk: Disk) -> list[tuple[int, int]]:
    """(offset, length) of what a clean look reads, the contents of files left out as far as they are large."""
    disk.reads.clear()
    look_through(disk)
    return sorted({(offset, length) for offset, length in disk.reads if length <= LARGEST_STRUCTURE})


Mutation = Callable[[random.Random, Disk, list[tuple[int, int]]], None]


def _place(rng: random.Random, places: list[tuple[int, int]], width: int = 1) -> int:
    offset, length = rng.choice(places)
    return offset + rng.randrange(max(1, length - width + 1))


def flip(rng: random.Random, disk: Disk, places: list[tuple[int, int]]) -> None:
    for _ in range(rng.randint(1, 4)):
        at = _place(rng, places)
        disk.content[at] ^= 1 << rng.randrange(8)


def replace(rng: random.Random, disk: Disk, places: list[tuple[int, int]]) -> None:
    """A number becomes another one: extreme, or near to what it was."""
    width = rng.choice((1, 2, 4, 8))
    at = _place(rng, places, width) // width * width
    old = int.from_bytes(disk.content[at : at + width], "little")
    new = rng.choice((*NUMBERS, old + 1, old - 1, old * 2, old << 8, rng.getrandbits(16)))
    disk.content[at : at + width] = (new % (1 << 8 * width)).to_bytes(width, rng.choice(("little", "big")))


def cycle(rng: random.Random, disk: Disk, places: list[tuple[int, int]]) -> None:
    """A number is replaced by one that stands elsewhere: pointers that meet or lead back."""
    width = rng.choice((4, 4, 8))
    source, target = (_place(rng, places, width) // 4 * 4 for _ in range(2))
    disk.content[target : target + width] = disk.content[source : source + width]


def move(rng: random.Random, disk: Disk, places: list[tuple[int, int]]) -> None:
    """A whole structure lies where another one was."""
    (source, length), (target, room) = rng.choice(places), rng.choice(places)
    length = min(length, room, disk.size - target)
    disk.content[target : target + length] = disk.content[source : source + length]


def wipe(rng: random.Random, disk: Disk, places: list[tuple[int, int]]) -> None:
    at = _place(rng, places) // 512 * 512
    disk.content[at : at + 512] = bytes((rng.choice((0, 0xFF)),)) * 512


def truncate(rng: random.Random, disk: Disk, places: list[tuple[int, int]]) -> None:
    disk.size = rng.choice((_place(rng, places), rng.randrange(disk.size), rng.randrange(70000)))


MUTATIONS: tuple[Mutation, ...] = (flip, flip, replace, replace, replace, cycle, cycle, move, wipe, truncate)


class TooLong(BaseException):
    """A mutant used up its time."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise TooLong


def hunt(content: bytes, seed: int, mutants: int) -> Iterator[int]:
    """Look through ``mutants`` damaged copies; how many files were reached in each."""
    disk = Disk(content)
    places = structures(disk)
    old_handler = signal.signal(signal.SIGVTALRM, _stop)
    old_limit = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, old_limit[1]))
    try:
        for number in range(mutants):
            rng = random.Random(f"{seed} {number}")
            before = bytes(disk.content)
            mutation = rng.choice(MUTATIONS)
            mutation(rng, disk, places)
            del disk.content[len(content) :]
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            try:
                yield look_through(disk)
            except BhyveloadError:
                raise AssertionError(f"mutant {number} ({mutation.__name__}): an error that nobody caught") from None
            except BaseException as error:
                raise AssertionError(f"mutant {number} ({mutation.__name__}): {type(error).__name__}") from error
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            disk.content[:] = before
            disk.size = len(content)
            disk.reads.clear()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old_limit)
        signal.signal(signal.SIGVTALRM, old_handler)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Disks of a megabyte or two that have every kind of structure."""
    base = tmp_path_factory.mktemp("small")
    tree = base / "tree"
    (tree / "boot/kernel").mkdir(parents=True)
    (tree / "boot/kernel/kernel").write_bytes(bytes(range(256)) * 300)  # single indirect
    (tree / "boot/loader.conf").write_bytes(b'autoboot_delay="1"\n')
    (tree / "boot/link").symlink_to("kernel/kernel")
    (tree / "boot/long").symlink_to("./" * 70 + "loader.conf")
    for number in range(20):
        (tree / f"boot/kernel/module{number}.ko").write_bytes(b"%d" % number)
    made: dict[str, bytes] = {}
    ufs1 = make_ufs(tree, base / "ufs1", MIB, 4096, 512, version=1)
    ufs2 = make_ufs(tree, base / "ufs2", MIB, 8192, 1024, version=2)
    made["ufs1"] = ufs1.read_bytes()
    made["ufs2"] = ufs2.read_bytes()
    made["gpt"] = gpt_disk(
        base / "gpt", [(1, 40, 8, "A501", None), (2, 64, 2048, "A503", ufs1), (3, 2112, 8, "0700", None)], 2200 * 512
    ).read_bytes()
    script = (
        "start=63,size=2200,type=a5,bootable\nstart=2300,size=800,type=5\n"
        "start=2310,size=100,type=83\nstart=2420,size=100,type=a5\nstart=2530,size=100,type=82\n"
    )
    mbr = mbr_disk(base / "mbr", script, [(63 + 16, ufs1)], 3200 * 512)
    write_at(mbr, 64 * 512, bsd_label(2200, {0: (16, 2048, 7), 1: (2064, 100, 1), 3: (0, 2200, 27)}))
    made["mbr"] = mbr.read_bytes()
    for name in ("rockridge", "relocated", "plain"):
        made[name] = decompress(ISO_DATA / f"{name}.iso.zst")
    return made


@pytest.mark.parametrize(
    ("name", "mutants"),
    [("ufs1", 500), ("ufs2", 500), ("gpt", 400), ("mbr", 400), ("rockridge", 300), ("relocated", 400), ("plain", 400)],
)
def test_damaged_disks(small: dict[str, bytes], name: str, mutants: int) -> None:
    content = small[name]
    whole = look_through(Disk(content))
    assert whole >= 3
    reached = list(hunt(content, 1, MUTANTS or mutants))
    # the damage is neither harmless nor always fatal: otherwise this test would not look at much
    assert min(reached) < whole
    assert max(reached) >= whole // 2
    assert sum(count > 0 for count in reached) > len(reached) // 4


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-x", "-q"]))
