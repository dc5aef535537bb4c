"""VHDX images that were not closed: their log, replayed in memory, against QEMU, which replays it into the file."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from bhyveload.errors import BhyveloadError, ImageError
from bhyveload.image.raw import open_raw
from bhyveload.image.vhdx import VhdxImage
from bhyveload.image.vhdx_format import crc32c
from support.image_testing import (
    MIB,
    BytesDevice,
    as_raw,
    convert,
    fix_vhdx,
    mapped,
    mutants,
    outcome,
    read_all,
    run_tool,
    sample_disk,
)

GUID = b"0123456789abcdef"
LOG = MIB  # where qemu-img puts it
SECTOR = 4096
SAMPLE = sample_disk(4 * MIB, seed=9)


def test_the_checksum_is_castagnoli_s() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def with_crc(block: bytes) -> bytes:
    return block[:4] + struct.pack("<I", crc32c(block[:4] + bytes(4) + block[8:])) + block[8:]


def entry(number: int, tail: int, changes: list[tuple[int, bytes | int]], last: int, guid: bytes = GUID) -> bytes:
    """A log entry: (offset in the file, 4096 bytes, or how many bytes to zero)."""
    descriptors = sectors = b""
    for target, change in changes:
        if isinstance(change, int):
            descriptors += struct.pack("<4sIQQQ", b"zero", 0, change, target, number)
        else:
            assert len(change) == SECTOR
            descriptors += struct.pack("<4s4s8sQQ", b"desc", change[-4:], change[:8], target, number)
            halves = struct.pack("<I", number >> 32), struct.pack("<I", number & 0xFFFFFFFF)
            sectors += b"data" + halves[0] + change[8:-4] + halves[1]
    front = -(-(64 + len(descriptors)) // SECTOR) * SECTOR
    length = front + len(sectors)
    header = struct.pack("<4sIIIQII16sQQ", b"loge", 0, length, tail, number, len(changes), 0, guid, last, last)
    return with_crc((header + descriptors).ljust(front, b"\0") + sectors)


class Unclosed:
    """A VHDX file with a log, to be filled."""

    def __init__(self, raw: Path, folder: Path) -> None:
        raw.write_bytes(SAMPLE)
        self.path = convert(raw, folder / "disk.vhdx", "vhdx", "block_size=1M")
        self.content = bytearray(self.path.read_bytes())
        for header in (64 << 10, 128 << 10):
            self.content[header + 48 : header + 64] = GUID
        (self.log_size,) = struct.unpack_from("<I", self.content, (64 << 10) + 68)
        region = self.content.index(bytes.fromhex("6677c22d23f600429d64115e9bfd4a08"))
        (self.table,) = struct.unpack_from("<Q", self.content, region + 16)

    def put(self, at: int, data: bytes) -> None:
        """Into the ring."""
        for offset, byte in enumerate(data):
            self.content[LOG + (at + offset) % self.log_size] = byte

    def entries(self, *states: tuple[int, int]) -> bytes:
        """The first page of the block table with (block, entry) changed."""
        page = bytearray(self.content[self.table : self.table + SECTOR])
        for block, value in states:
            struct.pack_into("<Q", page, 8 * block, value)
        return bytes(page)

    def save(self) -> Path:
        self.path.write_bytes(fix_vhdx(bytes(self.content)))
        return self.path

    def replayed_by_qemu(self, folder: Path) -> bytes:
        copy = folder / "copy.vhdx"
        copy.write_bytes(self.path.read_bytes())
        run_tool("qemu-img", "check", "-q", "-r", "all", copy)
        return as_raw(copy, "vhdx", folder / "raw")


@pytest.fixture
def image(tmp_path: Path) -> Unclosed:
    return Unclosed(tmp_path / "raw", tmp_path)


def test_an_empty_log(image: Unclosed, tmp_path: Path) -> None:
    image.save()
    assert image.replayed_by_qemu(tmp_path) == SAMPLE
    assert read_all(image.path) == SAMPLE


def test_one_entry(image: Unclosed, tmp_path: Path) -> None:
    size = len(image.content)
    image.put(0, entry(7, 0, [(image.table, image.entries((1, 0), (2, 2)))], size))
    before = image.save().read_bytes()
    expected = image.replayed_by_qemu(tmp_path)
    assert expected == SAMPLE[:MIB] + bytes(2 * MIB) + SAMPLE[3 * MIB :]
    assert read_all(image.path) == expected
    assert image.path.read_bytes() == before


def test_a_new_block_that_only_the_log_knows(image: Unclosed, tmp_path: Path) -> None:
    """What a guest's first write to a block leaves when QEMU is killed: the block at the end, the table in the log."""
    block = bytes(range(256)) * (MIB // 256)
    place = len(image.content)
    image.content += block
    image.put(3 * SECTOR, entry(1 << 33, 3 * SECTOR, [(image.table, image.entries((0, place | 6)))], place + MIB))
    image.save()
    expected = image.replayed_by_qemu(tmp_path)
    assert expected == block + SAMPLE[MIB:]
    assert read_all(image.path) == expected


def test_the_last_sequence_counts(image: Unclosed, tmp_path: Path) -> None:
    """An older sequence, entries of another log, one with a wrong checksum."""
    size = len(image.content)
    image.put(0x40000, entry(3, 0x40000, [(image.table, image.entries((0, 0)))], size))
    image.put(0x60000, entry(901, 0x60000, [(image.table, image.entries((0, 0)))], size, b"another log's id"))
    image.put(0x70000, entry(902, 0x70000, [(image.table, image.entries((0, 0)))], size)[:-1] + b"x")
    image.put(0, entry(51, 0, [(image.table + 8192, 4096)], size))
    image.put(SECTOR, entry(52, 0, [(image.table, image.entries((3, 0)))], size))
    image.save()
    expected = image.replayed_by_qemu(tmp_path)
    assert read_all(image.path) == expected
    assert expected == SAMPLE[: 3 * MIB] + bytes(MIB)


def test_a_sequence_begins_at_its_tail(image: Unclosed) -> None:
    """By the specification: what lies before the tail has been written already; without its tail nothing counts."""
    size = len(image.content)
    tail = 0x20000 + 2 * SECTOR
    image.put(0x20000, entry(50, 0x20000, [(image.table, image.entries((0, 0)))], size))
    image.put(tail, entry(51, tail, [(image.table, image.entries((1, 0)))], size))
    image.put(tail + 2 * SECTOR, entry(52, tail, [(image.table + 8192, SECTOR)], size))
    image.put(0x50000, entry(900, 0, [(image.table, image.entries((2, 0)))], size))
    assert read_all(image.save()) == SAMPLE[:MIB] + bytes(MIB) + SAMPLE[2 * MIB :]


def test_a_sequence_round_the_end_of_the_ring(image: Unclosed, tmp_path: Path) -> None:
    size = len(image.content)
    tail = image.log_size - 3 * SECTOR
    image.put(tail, entry(5, tail, [(image.table, image.entries((0, 0)))], size))
    image.put(tail + 2 * SECTOR, entry(6, tail, [(image.table, image.entries((1, 0)))], size))  # ends at 4096
    image.put(SECTOR, entry(7, tail, [(image.table, image.entries((2, 0)))], size))
    image.save()
    expected = image.replayed_by_qemu(tmp_path)
    assert read_all(image.path) == expected
    assert expected == SAMPLE[: 2 * MIB] + bytes(MIB) + SAMPLE[3 * MIB :]


@pytest.mark.parametrize("count", [100, 180])
def test_many_descriptors(image: Unclosed, tmp_path: Path, count: int) -> None:
    """As many as fit into an entry's first sector (126), and more, which QEMU 7.2 refuses to replay."""
    place = len(image.content)
    image.content += bytes(2 * MIB)
    changes: list[tuple[int, bytes | int]] = [
        (place + number * SECTOR, struct.pack("<I", number) * 1024) for number in range(count)
    ]
    changes += [(place + 20 * SECTOR, 5 * SECTOR), (image.table, image.entries((1, place | 6)))]
    image.put(0, entry(9, 0, changes, len(image.content)))
    image.save()
    block = bytearray(MIB)
    for number in range(count):
        if not 20 <= number < 25:
            block[number * SECTOR : (number + 1) * SECTOR] = struct.pack("<I", number) * 1024
    expected = SAMPLE[:MIB] + bytes(block) + SAMPLE[2 * MIB :]
    assert read_all(image.path) == expected
    if count < 126:
        assert image.replayed_by_qemu(tmp_path) == expected


@pytest.mark.parametrize(
    ("changes", "last", "message"),
    [
        ([(4097, bytes(SECTOR))], 0, "does not belong there"),
        ([(1 << 62, bytes(SECTOR))], 0, "does not belong there"),
        ([(0, 4097)], 0, "zeroes 4097 bytes"),
        ([(0, 1 << 40)], 0, "zeroes 1099511627776 bytes"),
        ([(number << 25, 24 * MIB) for number in range(4)], 0, "changes too much"),
        ([(0, bytes(SECTOR))], 1 << 40, "the file had 1099511627776 bytes once: it is cut short"),
    ],
)
def test_entries_that_make_no_sense(
    image: Unclosed, changes: list[tuple[int, bytes | int]], last: int, message: str
) -> None:
    image.put(0, entry(7, 0, changes, last))
    image.save()
    with pytest.raises(ImageError, match=message):
        read_all(image.path)


def test_damaged_descriptors_and_sectors(image: Unclosed) -> None:
    for at, data, message in ((64, b"what", "a descriptor of the VHDX log is damaged"), (4096, b"atad", "data sector")):
        broken = bytearray(entry(7, 0, [(image.table, image.entries((1, 0)))], len(image.content)))
        broken[at : at + 4] = data
        image.put(0, with_crc(bytes(broken)))
        image.save()
        with pytest.raises(ImageError, match=message):
            read_all(image.path)


@pytest.mark.parametrize("size", [4095, 5000, 128 * MIB])
def test_logs_of_odd_sizes(image: Unclosed, size: int) -> None:
    for header in (64 << 10, 128 << 10):
        struct.pack_into("<I", image.content, header + 68, size)
    image.save()
    with pytest.raises(ImageError, match=f"a VHDX log of {size} bytes"):
        read_all(image.path)


def test_entries_within_entries_end(image: Unclosed) -> None:
    """Every page of the log begins an entry as long as the log: checking them all would take minutes."""
    header = struct.pack("<4sIIIQII16sQQ", b"loge", 0, image.log_size, 0, 7, 0, 0, GUID, 0, 0)
    for at in range(0, image.log_size, SECTOR):
        image.put(at, header)
    image.save()
    with pytest.raises(ImageError, match="entries within entries"):
        read_all(image.path)


def test_mutants_of_a_log(image: Unclosed) -> None:
    size = len(image.content)
    good = entry(7, 0, [(image.table, image.entries((1, 0))), (image.table + 4096, 4096)], size)
    image.put(0, good)
    content = fix_vhdx(bytes(image.content))
    outcomes = set()
    for number, mutant in enumerate(mutants(content[LOG : LOG + len(good)], [(0, 128), (4096, 12)], 60, seed=4)):
        broken = with_crc(mutant.ljust(len(good), b"\0")) if number % 2 else mutant
        whole = content[:LOG] + broken + content[LOG + len(broken) :]
        outcomes.add(outcome(lambda device: VhdxImage(device, "mutant"), whole, number))
    assert outcomes == {"read", "ImageError"}


def test_reads_beside_the_log_s_pages_are_not_copied(image: Unclosed) -> None:
    image.put(0, entry(7, 0, [(image.table, image.entries((1, 0)))], len(image.content)))
    disk = VhdxImage(mapped(open_raw(str(image.save()), read_only=True)), "disk")
    piece = disk.read(2 * MIB + 5, 1000)
    assert isinstance(piece, memoryview) and type(piece.obj).__name__ == "mmap"
    with pytest.raises(BhyveloadError):
        VhdxImage(BytesDevice(bytes(image.content[: 2 * MIB])), "cut")
