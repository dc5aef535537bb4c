"""What a guest's bytes may cost: each of these kept a reader busy for seconds to hours once.

The limits are of processor time, two seconds at most (ten where the machine is slow is still far from what it was).
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from traceback import walk_tb
from types import SimpleNamespace
from typing import Any

import pytest

from bhyveload.device import Buffer
from bhyveload.errors import BhyveloadError, FileSystemError, HandoffError, ImageError
from bhyveload.freebsd_errno import EINVAL, EIO
from bhyveload.fs import compressed
from bhyveload.fs.zfs.checksum import seal_embedded
from bhyveload.fs.zfs.poolset import PoolSet
from bhyveload.handoff.pvh.entry_state import EntryState, entry_state
from bhyveload.handoff.pvh.memory_map import map_fields
from bhyveload.handoff.qemu.processors import halted_at
from bhyveload.image import xz
from bhyveload.image.raw import RawImage, open_raw
from bhyveload.image.unpack import unpack
from bhyveload.image.xz import NoIndex, XzImage
from bhyveload.loader.commands import basic, boot
from bhyveload.loader.files.open_file import F_READ, OpenFile
from bhyveload.need import load_all
from bhyveload.userboot.cross_check import LoadedState, compare
from bhyveload.vm.memory import GuestMemory
from bhyveload.vm.registers import Registers, setup_freebsd_registers
from fuzzing import check_in_time
from fuzzing.loading import a_loader, boot_disk
from support.zfs_writer import OFF, Top, Writer, write_labels

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIB = 1 << 20
SECONDS = 2.0


def in_time(work: Callable[[], object], seconds: float = SECONDS) -> list[BhyveloadError]:
    """Run it; the error of ours that it ended with, if it did."""
    errors: list[BhyveloadError] = []

    def run(_: bytes) -> None:
        try:
            work()
        except BhyveloadError as error:
            errors.append(error)

    check_in_time(run, b"", seconds)
    return errors


class Text:
    """A file of ``data`` again and again, ``size`` bytes."""

    def __init__(self, data: bytes, size: int | None = None) -> None:
        self.data = data
        self.size = len(data) if size is None else size

    def read(self, offset: int, length: int) -> Sequence[Buffer]:
        end = min(offset + length, self.size)
        if offset >= end:
            return []
        skip = offset % len(self.data)
        count = end - offset
        return [(self.data * (-(-(skip + count) // len(self.data))))[skip : skip + count]]

    def write(self, offset: int, data: Buffer) -> int:
        raise AssertionError


def opened(file: Text) -> OpenFile:
    surroundings: Any = None
    content: Any = SimpleNamespace(name="ufs", open=lambda node: file)
    return OpenFile(surroundings, "disk0p2:/x", F_READ, content, None)


# Lines


@pytest.mark.parametrize(
    "line", [b"\n", b"a\n", b"# " + b"x" * 124 + b"\n", b"/dev/ada0p2 /usr ufs rw 1 1\n", b" " * 300]
)
def test_fstab_of_very_many_lines(line: bytes) -> None:
    assert in_time(lambda: boot._fstab_root(opened(Text(line, 1 << 40)), "disk0p2:/etc/fstab")) == []


def test_help_of_very_many_lines() -> None:
    def last() -> None:
        file = opened(Text(b"# x" + b"y" * 200 + b"\n# T", 1 << 40))
        while basic._help_entry(file) is not None:
            pass

    assert in_time(last) == []


@pytest.mark.parametrize("limit", [1, 2, 79, 127, 128, 600, 5000])
def test_lines_are_those_of_single_bytes(limit: int) -> None:
    data = b"\n\r\nabc\r" + b"x" * 700 + b"\n" + b"y" * 511 + b"\n\n" + bytes(range(1, 256)) * 5 + b"end"

    def by_bytes(file: OpenFile) -> bytes | None:
        line = b""
        while len(line) < limit:
            char = file.read(1)
            if not char:
                return line or None
            if char in b"\r\n":
                break
            line += char
        return line

    one, other = opened(Text(data)), opened(Text(data))
    while True:
        lines = one.line(limit), by_bytes(other)
        assert lines[0] == lines[1]
        assert one.tell == other.tell
        if lines[0] is None:
            break


# Compressed files


def test_segments_at_both_ends_of_a_compressed_file() -> None:
    """As a kernel.gz has them whose program headers name its first and its last bytes by turns."""
    size = 90 * MIB
    file = compressed.open_gzip(Text(gzip.compress(bytes(size), 9)), lambda text: None, 100 * MIB)

    def read() -> None:
        for _ in range(36):
            file.read(size - 4096, 4096)
            file.read(0, 4096)

    (error,) = in_time(read)
    assert "again" in error.message
    with pytest.raises(FileSystemError):
        file.read(size - 4096, 4096)


def test_some_going_back_is_nothing_out_of_the_ordinary() -> None:
    content = os.urandom(1000) * (50 * MIB // 1000)
    file = compressed.open_gzip(Text(gzip.compress(content, 1)), lambda text: None)
    for at in (0, len(content) - 100, 100, len(content) - 5000):
        assert b"".join(file.read(at, 100)) == content[at : at + 100]


def test_much_out_of_little_bzip2_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "HELD", 4 * MIB)
    file = compressed.open_bzip2(Text(bz2.compress(b"\xff" * (20 * MIB))), lambda text: None)
    with pytest.raises(FileSystemError, match="come out of 2048"):
        file.read(15 * MIB, 10)
    assert sum(map(len, file._blocks.values())) <= 5 * MIB
    zeros = compressed.open_bzip2(Text(bz2.compress(bytes(20 * MIB))), lambda text: None)
    assert b"".join(zeros.read(15 * MIB, 10)) == bytes(10)
    assert len(set(map(id, zeros._blocks.values()))) == 1


EMPTY = {"xz": lzma.compress(b""), "zst": zstd.compress(b""), "gz": gzip.compress(b"")}
OPENERS = {"xz": compressed.open_xz, "zst": compressed.open_zstd}


@pytest.mark.parametrize("kind", ["xz", "zst"])
@pytest.mark.parametrize("filler", ["streams", "zeros"])
def test_very_many_empty_streams_in_a_file(kind: str, filler: str) -> None:
    """A file can be longer than the disk: all its blocks may be the same one."""
    data = EMPTY[kind] if filler == "streams" else bytes(1024)
    file = OPENERS[kind](Prefixed(EMPTY[kind], Text(data, 1 << 40)), lambda text: None)
    (error,) = in_time(lambda: file.read(0, 10))
    assert isinstance(error, FileSystemError)
    assert error.errno == EIO


def test_deflate_blocks_without_content() -> None:
    header = gzip.compress(b"")[:10]
    file = compressed.open_gzip(Prefixed(header, Text(b"\0\0\0\xff\xff", 1 << 40)), lambda text: None)
    (error,) = in_time(lambda: file.read(0, 10))
    assert "nothing comes out" in error.message


class Prefixed(Text):
    """``data`` in front of another file."""

    def __init__(self, data: bytes, rest: Text) -> None:
        super().__init__(data, len(data) + rest.size)
        self.rest = rest

    def read(self, offset: int, length: int) -> Sequence[Buffer]:
        if offset >= len(self.data):
            return self.rest.read(offset - len(self.data), length)
        head = self.data[offset : offset + length]
        return [head, *self.rest.read(0, length - len(head))]


# Images that are unpacked


def image_of(tmp_path: Path, name: str, pieces: Sequence[bytes | int]) -> RawImage:
    """A file of these bytes; a number: so many zero bytes, which are a hole."""
    path = tmp_path / name
    with path.open("wb") as file:
        for piece in pieces:
            if isinstance(piece, int):
                file.seek(piece, os.SEEK_CUR)
            else:
                file.write(piece)
        file.truncate(file.tell())
    return open_raw(str(path), read_only=True)


def unpacked(source: RawImage, kind: str) -> int:
    fd = os.memfd_create("unpacked")
    try:
        return unpack(source, (source.name, "/cache"), kind, fd, 1 << 40, 1 << 30, lambda done, total: None)
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", ["xz", "gz", "zst"])
def test_very_many_empty_streams_in_an_image(kind: str, tmp_path: Path) -> None:
    source = image_of(tmp_path, f"disk.{kind}", [EMPTY[kind] * (16 * MIB // len(EMPTY[kind]))])
    (error,) = in_time(lambda: unpacked(source, kind))
    assert isinstance(error, ImageError)
    assert "streams with next to nothing" in error.message


@pytest.mark.parametrize("kind", ["xz", "gz", "zst"])
def test_very_much_padding(kind: str, tmp_path: Path) -> None:
    packed = lzma.compress(b"x" * 512) if kind == "xz" else EMPTY[kind]
    source = image_of(tmp_path, f"disk.{kind}", [packed, 64 << 30])
    (error,) = in_time(lambda: unpacked(source, kind))
    assert isinstance(error, ImageError)
    assert "zero bytes" in error.message
    if kind == "xz":
        (error,) = in_time(lambda: XzImage(source, source.name))
        assert "padding" in error.message


@pytest.mark.parametrize("kind", ["xz", "gz", "zst"])
def test_streams_of_some_size_and_padding_are_sound(kind: str, tmp_path: Path) -> None:
    """As bgzip, pigz -i, pzstd and tapes make them."""
    packers: dict[str, Callable[[bytes], bytes]] = {
        "xz": lambda data: lzma.compress(data, preset=0),
        "gz": gzip.compress,
        "zst": zstd.compress,
    }
    pack = packers[kind]
    streams = [pack(os.urandom(4096)) for _ in range(1500)]
    source = image_of(tmp_path, f"disk.{kind}", [*streams, *[EMPTY[kind]] * 500, 8 * MIB if kind != "zst" else 0])
    assert unpacked(source, kind) == 1500 * 4096
    if kind == "xz":
        with pytest.raises(NoIndex):
            XzImage(source, source.name)  # more than 1,024 streams


def test_xz_blocks_that_claim_to_be_very_long(tmp_path: Path) -> None:
    """Gigabytes for one sector: they would be read into memory."""
    size = 1 << 33
    index = b"\0\1" + _vli(size) + _vli(512)
    index += bytes(-len(index) % 4)
    index += zlib.crc32(index).to_bytes(4, "little")
    flags = b"\0\1"
    header = b"\xfd7zXZ\0" + flags + zlib.crc32(flags).to_bytes(4, "little")
    tail = (len(index) // 4 - 1).to_bytes(4, "little") + flags
    footer = zlib.crc32(tail).to_bytes(4, "little") + tail + b"YZ"
    source = image_of(tmp_path, "disk.xz", [header, size, index, footer])
    with pytest.raises(ImageError, match=f"block of {size} bytes for 512"):
        XzImage(source, source.name)


def test_blocks_that_are_unpacked_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte of each by turns, of more blocks than are remembered."""
    monkeypatch.setattr(xz, "_CACHE_SIZE", 2 * MIB)
    monkeypatch.setattr(xz, "_AGAIN", 12 * MIB)
    packed = lzma.compress(bytes(MIB), preset=0)
    image = XzImage(image_of(tmp_path, "disk.xz", [packed * 3]), "disk.xz")
    done = 0
    with pytest.raises(ImageError, match="again and again"):
        for turn in range(100):
            image.read(turn % 3 * MIB, 1)
            done += 1
    assert 12 <= done <= 3 + 12 + 1
    image.close()


def test_all_of_an_xz_image_as_often_as_one_likes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xz, "_CACHE_SIZE", 2 * MIB)
    monkeypatch.setattr(xz, "_AGAIN", 2 * MIB)
    packed = lzma.compress(bytes(MIB), preset=0)
    image = XzImage(image_of(tmp_path, "disk.xz", [packed * 3]), "disk.xz")
    for _ in range(6):
        for at in range(0, 3 * MIB, MIB // 16):
            assert bytes(image.read(at, MIB // 16)) == bytes(MIB // 16)
    image.close()


def _vli(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


# ZFS


def test_a_gang_header_that_names_itself() -> None:
    """In three copies each: three times the reads with each level, and again for every block that is so."""
    writer = Writer([Top(0)])
    writer.bootfs = b"ROOT/default"
    tree: dict[bytes, bytes | None] = {b"/boot": None, b"/boot/data": b"x" * 5000}

    def endless(objects: dict[int, bytes]) -> None:
        dnode = objects[4]
        words = list(struct.unpack("<16Q", dnode[64:192]))
        top = writer.tops[0]
        offset = top.used
        for index in (1, 3, 5):
            words[index - 1] = 1
            words[index] = offset >> 9 | 1 << 63
        words[6] = words[6] & ~(0x7F << 32) | OFF << 32
        pointer = struct.pack("<16Q", *words)
        top.put(seal_embedded(pointer * 3 + bytes(128), (0, offset, writer.txg, 0)))
        objects[4] = dnode[:64] + pointer + dnode[192:]

    for name in (b"", b"ROOT", b"ROOT/default"):
        writer.dataset(name, writer.file_system(tree, endless) if name == writer.bootfs else writer.file_system({}))
    pools = PoolSet()
    for image in writer.finish():
        pools.probe(image, "disk0")
    (pool,) = pools.finish()
    fs = pool.dataset("made/ROOT/default")
    file = fs.open(fs.lookup(b"/boot/data"))

    def read() -> None:
        for _ in range(20):
            with pytest.raises(FileSystemError) as caught:
                file.read(0, 5000)
            assert caught.value.errno == EIO

    assert in_time(read) == []


@pytest.mark.parametrize("txg", [39, 40, 41])
def test_two_pools_that_claim_the_same_top_level_device(txg: int) -> None:
    writers = []
    for number in range(2):
        writer = Writer([Top(0, "mirror", 2)], name=b"made%d" % number, txg=txg if number else 40)
        writer.guid += number
        for leaf in writer.tops[0].leaves:
            leaf.guid += 64 * number
        writer.dataset(b"", writer.file_system({}))
        writers.append(writer)
    pools = PoolSet()
    pools.probe(writers[0].finish()[0], "disk0")
    with pytest.raises(FileSystemError, match="occurs twice") as caught:
        pools.probe(writers[1].finish()[0], "disk1")
    assert caught.value.errno == EINVAL
    assert [pool.name for pool in pools.finish()] == ["made0"]


@pytest.mark.parametrize("txg", [39, 41])
def test_a_label_whose_top_level_device_is_a_leaf(txg: int) -> None:
    writer = Writer([Top(0, "mirror", 2)])
    writer.dataset(b"", writer.file_system({}))
    first, _ = writer.finish()
    top = writer.tops[0]
    write_labels(
        top.leaves[1], writer.label(top, top.leaves[1], top_guid=top.leaves[1].guid, txg=txg), writer.uberblock(), 12
    )
    pools = PoolSet()
    pools.probe(first, "disk0")
    with pytest.raises(FileSystemError):
        pools.probe(top.leaves[1].image(), "disk1")
    assert [pool.name for pool in pools.finish()] == ["made"]


@pytest.mark.parametrize("said", [17, 24])
def test_indirect_blocks_larger_than_zfs_makes_them(said: int) -> None:
    """Of 16 MiB each, in up to eight levels, for every block of 512 bytes."""
    writer = Writer([Top(0)])
    writer.bootfs = b"ROOT/default"

    def large(objects: dict[int, bytes]) -> None:
        made = writer.object(b"x" * 5000, 19, objects[4][192:], 44, bsize=512, indblkshift=24)
        objects[4] = made[:1] + bytes([said]) + made[2:]

    for name in (b"", b"ROOT", b"ROOT/default"):
        tree: dict[bytes, bytes | None] = {b"/boot": None, b"/boot/data": b"x" * 5000}
        writer.dataset(name, writer.file_system(tree, large) if name == writer.bootfs else writer.file_system({}))
    pools = PoolSet()
    for image in writer.finish():
        pools.probe(image, "disk0")
    (pool,) = pools.finish()
    fs = pool.dataset("made/ROOT/default")

    def read() -> None:
        for number in range(1000):
            with pytest.raises(FileSystemError, match="indirect block"):
                fs.open(fs.lookup(b"/boot/data")).read(number % 10 * 512, 512)

    assert in_time(read) == []


# Files on the screen


class Shown:
    """As much of a Loader as these commands need: every file is ``file``."""

    def __init__(self, file: Text) -> None:
        self.files = self.console = self
        self.pieces: list[str] = []
        self.failure = ""
        self.open = lambda name: opened(file)
        self.pager_open = self.pager_close = lambda: None

    def print(self, text: str) -> None:
        self.pieces.append(text)

    def pager_output(self, text: str) -> bool:
        self.pieces.append(text)
        return False

    def fail_with(self, text: str) -> int:
        self.failure = text
        return 1


@pytest.mark.parametrize("content", [bytes(4096), b"a line\n", b"x" * 100])
def test_more_of_a_file_without_end(content: bytes) -> None:
    shown: Any = Shown(Text(content, 1 << 40))
    assert in_time(lambda: basic.more(shown, ["more", "/x"])) == []
    assert shown.failure == "error showing /x: more than 8 MiB"


def test_readtest_of_a_file_without_end() -> None:
    shown: Any = Shown(Text(bytes(1 << 16), 1 << 40))
    assert in_time(lambda: basic.readtest(shown, ["readtest", "/x"])) == []
    assert shown.failure == "'/x' is longer than 256 MiB: no further"
    shown = Shown(Text(bytes(1 << 16), 1000000))
    basic.readtest(shown, ["readtest", "/x"])
    assert shown.pieces[-1].startswith("Received 1000000 bytes")


# The hand-off


def test_module_records_without_end() -> None:
    memory, entry = _loaded()
    memory.write(0x200000, struct.pack("<II", 1, 0))
    memory.write(0x200008, struct.pack("<II", 2, 0) * (4 * MIB))
    (error,) = in_time(lambda: map_fields(memory, entry))
    assert isinstance(error, HandoffError)
    assert "damaged" in error.message


@pytest.mark.parametrize("kind", ["files", "kinds", "one name"])
def test_guests_that_take_long_to_compare(kind: str) -> None:
    """Files that lie over each other, each as large as memory; records that are all of different kinds."""
    states = []
    for turn in range(2):
        memory, _ = _loaded()
        if kind == "kinds":
            data = struct.pack("<II4s4x", 1, 2, b"a\0") + b"".join(
                struct.pack("<III4x", 0x10000 + number, 4, number + turn) for number in range(60000)
            )
        else:
            names = [b"x" if kind == "one name" else b"f%d" % number for number in range(18000)]
            data = b"".join(struct.pack("<II8sIIQIIQ", 1, 8, name, 3, 8, 0x400000, 4, 8, 48 * MIB) for name in names)
        memory.write(0x200000, data + struct.pack("<II", 0, 0))
        memory.write(0x1000000, (b"%d" % turn).ljust(4096, b"\1") * 1024)
        vcpu = Registers()
        setup_freebsd_registers(vcpu, 0xFFFFFFFF80200000, 0x3000, 0x5000, 0x1000)
        states.append(LoadedState(f"loader {turn}", memory, vcpu))
    lines: list[str] = []
    assert in_time(lambda: lines.extend(compare(*states))) == []
    assert lines
    if kind != "kinds":
        assert any("lie over each other" in line for line in lines)


def _loaded() -> tuple[GuestMemory, EntryState]:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 64 * MIB)
    memory = GuestMemory(fd, 64 * MIB, 0)
    vcpu = Registers()
    setup_freebsd_registers(vcpu, 0xFFFFFFFF80200000, 0x3000, 0x5000, 0x1000)
    memory.write(0x1000, struct.pack("<III", 0, 0x200000, 0x400000))
    return memory, entry_state({"vcpus": [vcpu.as_dict()], "memory": {"low": 64 * MIB, "high": 0}, "loaded": {}})


def test_files_that_are_not_there_leave_nothing() -> None:
    """Why a file system is not on a device is remembered, and raised for every file: that once grew each time."""
    loader = a_loader(boot_disk())
    load_all()
    lengths = set()
    for _ in range(5):
        with pytest.raises(FileSystemError):
            loader.files.open("disk0p2:/no/such/file")
        errors = [known.error for known in loader.files._probes.values() if known.error is not None]
        lengths.add(sum(1 for error in errors for _ in walk_tb(error.__traceback__)))
    assert len(lengths) == 1 and lengths != {0}


# QEMU, when the guest has taken it over


@pytest.mark.parametrize(
    "line", ["RIP=0 RFL=0 ", "RIP=0 RFL=0 HLT=1", "RIP=0 RFL=0 HLT=1 CS ", "RIP=" + "0" * 500 + " "]
)
def test_registers_that_lead_nowhere(line: str) -> None:
    found: list[object] = []
    in_time(lambda: found.append(halted_at(line * (MIB // len(line)))))
    assert found == [None]
