"""Partition tables against sgdisk, sfdisk and what FreeBSD's loader says about the same layouts."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EIO, ENOENT, ENXIO
from bhyveload.partition.entry import Entry
from bhyveload.partition.slices import (
    PARTISGPT,
    PARTNONE,
    PARTWILD,
    SLICENONE,
    SLICEWILD,
    OpenedPartition,
    Partition,
    display_size,
    lsdev_lines,
    open_slice,
    slice_name,
)
from bhyveload.partition.table import PartitionTable, best_partition, read_table
from support.ufs_images import MemoryDisk

SECTOR = 512


def tool(name: str) -> str:
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if program is None:
        pytest.skip(f"{name} is not installed")
    return program


def sgdisk(tmp_path: Path, sectors: int, *arguments: str) -> bytearray:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(sectors * SECTOR))
    subprocess.run([tool("sgdisk"), "-a", "8", *arguments, str(path)], check=True, capture_output=True)
    return bytearray(path.read_bytes())


def sfdisk(tmp_path: Path, size: int, script: str, *options: str) -> tuple[bytearray, dict[str, Any]]:
    """The disk that sfdisk makes from a script, and what it then says itself about it."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(size))
    program = tool("sfdisk")
    subprocess.run([program, *options, str(path)], input=script.encode(), check=True, capture_output=True)
    listed = subprocess.run([program, *options, "--json", str(path)], check=True, capture_output=True)
    table: dict[str, Any] = json.loads(listed.stdout)["partitiontable"]
    return bytearray(path.read_bytes()), table


def table_of(content: bytearray) -> PartitionTable:
    return read_table(MemoryDisk(content))


def place(opened: OpenedPartition) -> tuple[int, int, int, int]:
    """(byte offset, slice, partition, length in bytes)."""
    return opened.device.offset, opened.slice, opened.partition, opened.device.size


def places(table: PartitionTable) -> list[tuple[int, int, int, str]]:
    return [(entry.index, entry.start, entry.size, entry.type) for entry in table.entries]


def best(table: PartitionTable) -> int | None:
    entry = best_partition(table)
    return entry.index if entry else None


def bsd_label(partitions: dict[int, tuple[int, int, int]], count: int = 8, secsize: int = SECTOR) -> bytes:
    """A label sector: letter index -> (size, offset, fstype)."""
    label = bytearray(SECTOR)
    struct.pack_into("<I", label, 0, 0x82564557)
    struct.pack_into("<I", label, 40, secsize)
    struct.pack_into("<I", label, 132, 0x82564557)
    struct.pack_into("<H", label, 138, count)
    for index, (size, offset, fstype) in partitions.items():
        struct.pack_into("<IIIBBH", label, 148 + 16 * index, size, offset, 0, fstype, 0, 0)
    return bytes(label)


def mbr(*slots: tuple[int, int, int, int]) -> bytearray:
    """A boot sector from (flag, type, start, size)."""
    sector = bytearray(SECTOR)
    sector[510:512] = b"\x55\xaa"
    for number, (flag, typ, start, size) in enumerate(slots):
        struct.pack_into("<B3xB3xII", sector, 446 + 16 * number, flag, typ, start, size)
    return sector


def disk_with(sectors: int, **at: bytes | bytearray) -> bytearray:
    """``sectors`` of zeros with contents at sector numbers given as s<number>."""
    content = bytearray(sectors * SECTOR)
    for name, data in at.items():
        offset = int(name[1:]) * SECTOR
        content[offset : offset + len(data)] = data
    return content


# GPT


def test_gpt_of_sfdisk_with_all_types(tmp_path: Path) -> None:
    types = {
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B": "efi",
        "83BD6B9D-7F41-11DC-BE0B-001560B84F0F": "freebsd-boot",
        "516E7CB5-6ECF-11D6-8FF8-00022D09712B": "freebsd-swap",
        "516E7CB8-6ECF-11D6-8FF8-00022D09712B": "freebsd-vinum",
        "516E7CB4-6ECF-11D6-8FF8-00022D09712B": "freebsd",
        "7C3457EF-0000-11AA-AA11-00306543ECAC": "apple-apfs",
        "0FC63DAF-8483-4772-8E79-3D69D8477DE4": "unknown",
        "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7": "dos",
        "516E7CBA-6ECF-11D6-8FF8-00022D09712B": "freebsd-zfs",
        "516E7CB6-6ECF-11D6-8FF8-00022D09712B": "freebsd-ufs",
    }
    script = "label: gpt\n" + "".join(
        f'start={2048 + 512 * number}, size={256 + number}, type={guid}, name="part {number} é"\n'
        for number, guid in enumerate(types)
    )
    content, listed = sfdisk(tmp_path, 8 << 20, script)
    table = table_of(content)
    assert table.kind == "gpt"
    assert table.guid == listed["id"].lower()
    assert table.sectors == 16384
    assert len(table.entries) == len(listed["partitions"]) == len(types)
    for number, (entry, told) in enumerate(zip(table.entries, listed["partitions"], strict=True)):
        assert entry.index == number + 1
        assert (entry.start, entry.size) == (told["start"], told["size"])
        assert (entry.type_guid, entry.guid) == (told["type"].lower(), told["uuid"].lower())
        assert entry.label == f"part {number} é"
        assert entry.type == types[told["type"]]
    assert best(table) == 9  # ZFS and UFS are equal, the lower number wins


def test_gpt_numbers_keep_their_gaps(tmp_path: Path) -> None:
    content = sgdisk(tmp_path, 20480, "-n", "5:2048:10239", "-t", "5:A503", "-n", "2:10240:18431", "-t", "2:A503")
    table = table_of(content)
    assert places(table) == [(2, 10240, 8192, "freebsd-ufs"), (5, 2048, 8192, "freebsd-ufs")]
    assert best(table) == 2


@pytest.fixture
def gpt(tmp_path: Path) -> bytearray:
    return sgdisk(tmp_path, 8192, "-n", "1:40:1063", "-t", "1:A501", "-n", "2:2048:0", "-t", "2:A503")


GPT_PLACES = [(1, 40, 1024, "freebsd-boot"), (2, 2048, 6111, "freebsd-ufs")]


def rehash(content: bytearray, lba: int) -> None:
    """Make the checksums of a GPT header right again."""
    header = lba * SECTOR
    array, entries, entry_size = struct.unpack_from("<QII", content, header + 72)
    start = array * SECTOR
    struct.pack_into("<I", content, header + 88, zlib.crc32(content[start : start + entries * entry_size]))
    struct.pack_into("<I", content, header + 16, 0)
    size = struct.unpack_from("<I", content, header + 12)[0]
    struct.pack_into("<I", content, header + 16, zlib.crc32(content[header : header + size]))


def test_damaged_primary_header_or_array_backup_serves(gpt: bytearray) -> None:
    assert places(table_of(gpt)) == GPT_PLACES
    for offset in (SECTOR, SECTOR + 60, 2 * SECTOR + 200):
        damaged = bytearray(gpt)
        damaged[offset] ^= 0xFF
        table = table_of(damaged)
        assert (table.kind, places(table)) == ("gpt", GPT_PLACES)
        # FreeBSD's loader would now say that the disk has 2 sectors
        assert table.sectors == 8192


def test_damaged_backup_primary_serves(gpt: bytearray) -> None:
    for offset in (8191 * SECTOR, 8160 * SECTOR):
        damaged = bytearray(gpt)
        damaged[offset] ^= 0xFF
        assert places(table_of(damaged)) == GPT_PLACES


def test_both_headers_damaged_is_no_table_even_with_a_protective_record(gpt: bytearray) -> None:
    gpt[SECTOR : 2 * SECTOR] = bytes(SECTOR)
    gpt[-SECTOR:] = bytes(SECTOR)
    table = table_of(gpt)
    assert (table.kind, table.entries) == ("none", [])


def test_without_protective_record_gpt_is_found_all_the_same(gpt: bytearray) -> None:
    gpt[:SECTOR] = bytes(SECTOR)
    assert places(table_of(gpt)) == GPT_PLACES


def test_backup_that_says_something_else_wins(gpt: bytearray) -> None:
    backup_array = struct.unpack_from("<Q", gpt, 8191 * SECTOR + 72)[0] * SECTOR
    struct.pack_into("<Q", gpt, backup_array + 128 + 32, 4096)  # p2 starts at 4096
    rehash(gpt, 8191)
    assert places(table_of(gpt)) == [GPT_PLACES[0], (2, 4096, 4063, "freebsd-ufs")]
    # but not when its array is damaged
    gpt[backup_array + 5] ^= 1
    assert places(table_of(gpt)) == GPT_PLACES


@pytest.mark.parametrize(
    ("offset", "code", "value"),
    [
        (8, "<I", 0xFFFF),  # revision
        (12, "<I", 91),  # header size
        (12, "<I", 513),
        (24, "<Q", 2),  # its own place
        (32, "<Q", 1),  # the other one is itself
        (80, "<I", 0),  # entries
        (84, "<I", 64),  # entry size
        (84, "<I", 192),
        (84, "<I", 1024),
    ],
)
def test_header_rules(gpt: bytearray, offset: int, code: str, value: int) -> None:
    gpt[-SECTOR:] = bytes(SECTOR)
    struct.pack_into(code, gpt, SECTOR + offset, value)
    size = min(512, struct.unpack_from("<I", gpt, SECTOR + 12)[0])
    struct.pack_into("<I", gpt, SECTOR + 16, 0)
    struct.pack_into("<I", gpt, SECTOR + 16, zlib.crc32(gpt[SECTOR : SECTOR + size]))
    assert table_of(gpt).kind == "none"


def test_entries_outside_the_usable_range_are_skipped(gpt: bytearray) -> None:
    base = 2 * SECTOR
    for number, (first, last) in enumerate([(33, 40), (40, 8159), (200, 100), (8158, 8158), (34, 34)], 2):
        gpt[base + 128 * number : base + 128 * number + 16] = gpt[base + 128 : base + 144]
        struct.pack_into("<QQ", gpt, base + 128 * number + 32, first, last)
    rehash(gpt, 1)
    gpt[-SECTOR:] = bytes(SECTOR)
    assert [entry.index for entry in table_of(gpt).entries] == [1, 2, 6, 7]


@pytest.mark.parametrize("entry_size", [256, 512])
def test_large_entries(gpt: bytearray, entry_size: int) -> None:
    array = bytearray(entry_size * 8)
    for number in range(2):
        array[number * entry_size : number * entry_size + 128] = gpt[1024 + 128 * number : 1152 + 128 * number]
    gpt[1024 : 34 * SECTOR] = array.ljust(32 * SECTOR, b"\0")
    struct.pack_into("<II", gpt, SECTOR + 80, 8, entry_size)
    rehash(gpt, 1)
    gpt[-SECTOR:] = bytes(SECTOR)
    assert places(table_of(gpt)) == GPT_PLACES


def test_only_64_sectors_of_the_array_are_read_and_then_without_checksum(tmp_path: Path) -> None:
    content = sgdisk(tmp_path, 16384, "-S", "512", "-n", "1:2048:4095", "-t", "1:A503", "-n", "300:8192:0")
    assert struct.unpack_from("<I", content, SECTOR + 80)[0] == 512
    assert [entry.index for entry in table_of(content).entries] == [1]
    # Both arrays differ from their checksums now: not noticed, as in part.c
    content[2 * SECTOR + 400 * 128] ^= 1
    content[-SECTOR:] = bytes(SECTOR)
    assert [entry.index for entry in table_of(content).entries] == [1]


def test_sectors_of_4096_bytes_are_recognised(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(8 << 20))
    fdisk = [tool("fdisk"), "--sector-size", "4096"]
    keys = b"g\nn\n1\n256\n319\nn\n2\n320\n831\nt\n2\n516E7CB6-6ECF-11D6-8FF8-00022D09712B\nw\n"
    subprocess.run([*fdisk, str(path)], input=keys, check=True, capture_output=True)
    listing = subprocess.run([*fdisk, "-l", "-o", "Start,Sectors", str(path)], check=True, capture_output=True)
    assert listing.stdout.split()[-4:] == [b"256", b"64", b"320", b"512"]
    content = bytearray(path.read_bytes())
    table = table_of(content)
    assert (table.kind, table.sector_size, table.sectors) == ("gpt", 4096, 2048)
    assert places(table) == [(1, 256, 64, "unknown"), (2, 320, 512, "freebsd-ufs")]
    root = table.entries[1]
    assert (table.byte_offset(root), table.byte_size(root)) == (320 * 4096, 512 * 4096)
    assert place(open_slice(MemoryDisk(content), SLICEWILD, PARTWILD)) == (320 * 4096, 2, PARTISGPT, 512 * 4096)
    # where 512 was asked for, there is no table
    assert read_table(MemoryDisk(content), sector_size=512).kind == "none"


# MBR


def test_mbr_and_logical_partitions_of_sfdisk(tmp_path: Path) -> None:
    script = (
        "label: dos\nstart=63, size=64, type=7\nstart=2048, size=30000, type=5\n"
        "start=4096, size=8192, type=a5\nstart=14336, size=8192, type=83\nstart=24576, size=100, type=82\n"
    )
    content, listed = sfdisk(tmp_path, 32 << 20, script)
    table = table_of(content)
    assert table.kind == "mbr"
    assert [(entry.start, entry.size) for entry in table.entries] == [
        (told["start"], told["size"]) for told in listed["partitions"]
    ]
    assert [(entry.index, entry.type) for entry in table.entries] == [
        (1, "dos"),
        (2, "unknown"),
        (5, "freebsd"),
        (6, "linux"),
        (7, "linux-swap"),
    ]
    assert best(table) == 5


def test_extended_chain_ends_after_eight_and_at_loops() -> None:
    ebr = mbr((0, 0x83, 1, 10), (0, 5, 0, 20))  # the next one is this one
    table = table_of(disk_with(4096, s0=mbr((0, 0x0F, 100, 1000)), s100=ebr))
    assert [entry.index for entry in table.entries] == [1, 5, 6, 7, 8, 9, 10, 11, 12]
    # only the first extended partition counts, and a container within it leads on
    disk = disk_with(
        4096,
        s0=mbr((0, 5, 100, 500), (0, 5, 1000, 500)),
        s100=mbr((0, 5, 50, 100)),
        s150=mbr((0x80, 0xA5, 2, 30)),
        s1000=mbr((0, 0x83, 1, 10)),
    )
    assert places(table_of(disk)) == [
        (1, 100, 500, "unknown"),
        (2, 1000, 500, "unknown"),
        (5, 152, 30, "freebsd"),
    ]


@pytest.mark.parametrize(
    ("slots", "chosen"),
    [
        ([(0, 0xA5, 1, 1), (0x80, 0xA5, 2, 1)], 2),
        ([(0x80, 0x83, 1, 1), (0, 0xA5, 2, 1)], 2),
        ([(0, 0x83, 1, 1), (0x80, 0x0C, 2, 1)], 1),
        ([(0, 0x0B, 1, 1), (0x80, 0x06, 2, 1)], 2),
        ([(0x80, 0x07, 1, 1), (0x80, 0x82, 2, 1)], None),
        ([(0, 0xA5, 0, 1), (0, 0xA5, 1, 0), (0, 0, 1, 1), (0, 0xA5, 5, 5)], 4),
        ([(0, 0xEE, 2, 100)], None),
    ],
)
def test_best_slice(slots: list[tuple[int, int, int, int]], chosen: int | None) -> None:
    table = table_of(disk_with(100, s0=mbr(*slots)))
    assert table.kind == "mbr"
    assert best(table) == chosen


def test_a_boot_flag_that_is_none_is_no_table() -> None:
    assert table_of(disk_with(100, s0=mbr((0, 0xA5, 1, 50), (0x81, 0, 0, 0)))).kind == "none"


# BSD labels


def test_dedicated_label_absolute_and_relative_offsets() -> None:
    for base in (0, 63):
        label = bsd_label(
            {0: (4000, base + 16, 7), 1: (100, base + 4016, 1), 2: (8192, base, 0), 3: (50, base + 5000, 27)}
        )
        table = table_of(disk_with(8192, s1=label))
        assert table.kind == "bsd"
        assert places(table) == [
            (0, 16, 4000, "freebsd-ufs"),
            (1, 4016, 100, "freebsd-swap"),
            (3, 5000, 50, "freebsd-zfs"),
        ]
        assert best(table) is None


def test_label_rules() -> None:
    good = {0: (4000, 16, 7)}
    one_magic = bytearray(bsd_label(good))
    one_magic[0:4] = bytes(4)
    assert table_of(disk_with(8192, s1=one_magic)).kind == "bsd"
    one_magic[132:136] = bytes(4)
    assert table_of(disk_with(8192, s1=one_magic)).kind == "none"
    for bad in (bsd_label(good, count=7), bsd_label(good, count=21), bsd_label(good, secsize=4096)):
        assert table_of(disk_with(8192, s1=bad)).kind == "none"
    assert len(table_of(disk_with(8192, s1=bsd_label({19: (4, 4, 7)}, count=20))).entries) == 1


def test_iso_comes_before_everything() -> None:
    content = disk_with(8192, s0=mbr((0, 0xA5, 1, 50)), s1=bsd_label({0: (4000, 16, 7)}))
    content[32769:32774] = b"CD001"
    table = table_of(content)
    assert (table.kind, places(table)) == ("iso9660", [(0, 0, 8192, "iso9660")])
    assert place(open_slice(MemoryDisk(content), SLICEWILD, PARTWILD)) == (0, 0, -2, 8192 * SECTOR)
    assert slice_name(0, -2) == "s0"
    assert lsdev_lines(table, "disk0") == ["      disk0: ISO9660"]


# Opening by number, as the real loader did with these layouts


def opened(content: bytearray, slice: int, partition: int) -> tuple[int, str] | int:
    """(first sector, name), or the error number."""
    try:
        found = open_slice(MemoryDisk(content), slice, partition)
    except FileSystemError as error:
        return error.errno
    assert found.device.offset % SECTOR == 0
    return found.device.offset // SECTOR, found.suffix


# What a device name parses to, and with a path behind it (docs/errata.md, "Device names")
P1, P2, P3 = (1, PARTISGPT), (2, PARTISGPT), (3, PARTISGPT)
S1, S2 = (1, PARTNONE), (2, PARTNONE)
S1_PATH, S2_PATH = (1, PARTWILD), (2, PARTWILD)
S1A, A, A_PATH, DISK, DISK_PATH = (1, 0), (SLICENONE, 0), (SLICEWILD, 0), (SLICENONE, PARTNONE), (SLICEWILD, PARTWILD)

BARE: dict[tuple[int, int], tuple[int, str] | int] = dict.fromkeys((P1, P2, S1_PATH, S1A, A_PATH, DISK_PATH), ENOENT)
DEDICATED = disk_with(8192, s1=bsd_label({0: (8176, 16, 7), 2: (8192, 0, 0)}))
MBR_BSD = disk_with(
    16384, s0=mbr((0x80, 0xA5, 63, 8208)), s64=bsd_label({0: (8192, 79, 7), 1: (10, 70, 1), 2: (8208, 63, 0)})
)
MBR_LINUX_FAT = disk_with(20480, s0=mbr((0, 0x83, 2048, 8192), (0x80, 0x0C, 10240, 8192)))
MBR_A5_BARE = disk_with(20480, s0=mbr((0x80, 0xA5, 2048, 8192)))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (bytearray(16 << 20), {**BARE, DISK: (0, ""), A: (0, "a")}),
        (bytearray(0), {**BARE, DISK: (0, "")}),
        (bytearray(700), {**BARE, DISK: (0, "")}),
        (
            DEDICATED,
            {P1: ENOENT, S1_PATH: ENOENT, S1A: (16, "s1a"), A: (16, "a"), A_PATH: (16, "s0a"), DISK_PATH: ENOENT},
        ),
        (
            MBR_BSD,
            {
                P1: (79, "s1a"),
                P2: ENOENT,
                S1: (63, "s1"),
                S1_PATH: (79, "s1a"),
                S1A: (79, "s1a"),
                (1, 1): (70, "s1b"),
                (1, 2): ENOENT,
                A: (0, "a"),
                A_PATH: (79, "s1a"),
                DISK: (0, ""),
                DISK_PATH: (79, "s1a"),
                S2_PATH: ENOENT,
            },
        ),
        (
            MBR_LINUX_FAT,
            {
                P1: (2048, "s1"),
                P2: (10240, "s2"),
                S1_PATH: (2048, "s1"),
                S1A: ENOENT,
                A_PATH: ENOENT,
                S2_PATH: (10240, "s2"),
                P3: ENOENT,
                DISK_PATH: (2048, "s1"),
            },
        ),
        (
            MBR_A5_BARE,
            {P1: (2048, "s1"), S1_PATH: (2048, "s1"), S1A: ENOENT, A_PATH: ENOENT, DISK_PATH: (2048, "s1")},
        ),
    ],
)
def test_open_slice(content: bytearray, expected: dict[tuple[int, int], tuple[int, str] | int]) -> None:
    for (slice, partition), result in expected.items():
        assert opened(content, slice, partition) == result, (slice, partition)


def test_open_slice_on_gpt(gpt: bytearray) -> None:
    assert opened(gpt, *DISK_PATH) == (2048, "p2")
    assert opened(gpt, *DISK) == (0, "")
    for spec in (P1, S1, S1_PATH, S1A):
        assert opened(gpt, *spec) == (40, "p1")
    assert opened(gpt, *A_PATH) == (2048, "p2")
    assert opened(gpt, *P3) == ENOENT
    disk = MemoryDisk(gpt)
    assert place(open_slice(disk, 2, PARTISGPT)) == (2048 * SECTOR, 2, PARTISGPT, 6111 * SECTOR)
    assert place(open_slice(disk, SLICENONE, PARTNONE)) == (0, SLICENONE, PARTNONE, 8192 * SECTOR)


def test_a_table_at_hand_is_not_read_again(gpt: bytearray) -> None:
    disk = MemoryDisk(gpt)
    table = read_table(disk)
    disk.reads.clear()
    assert open_slice(disk, SLICEWILD, PARTWILD, table).device.offset == 2048 * SECTOR
    assert disk.reads == []


# lsdev: the lines that FreeBSD 13.2's userboot printed for these layouts


def test_lsdev_mbr_with_label() -> None:
    assert lsdev_lines(table_of(MBR_BSD), "disk0", True) == [
        "      disk0s1: FreeBSD\t\t4104KB",
        "        disk0s1a: FreeBSD UFS\t4096KB",
        "        disk0s1b: FreeBSD swap\t   5KB",
    ]
    assert lsdev_lines(table_of(DEDICATED), "disk1") == ["      disk1a: FreeBSD UFS"]


def test_lsdev_gpt(tmp_path: Path) -> None:
    content = sgdisk(
        tmp_path, 20480, "-n", "1:40:1063", "-t", "1:A501", "-n", "2:2048:10239", "-t", "2:A502",
        "-n", "3:10240:18431", "-t", "3:A503",
    )  # fmt: skip
    assert lsdev_lines(table_of(content), "disk0", True) == [
        "      disk0p1: FreeBSD boot\t 512KB",
        "      disk0p2: FreeBSD swap\t4096KB",
        "      disk0p3: FreeBSD UFS\t4096KB",
    ]
    assert lsdev_lines(table_of(content), "disk12") == [
        "      disk12p1: FreeBSD boot",
        "      disk12p2: FreeBSD swap",
        "      disk12p3: FreeBSD UFS",
    ]


def test_lsdev_extended() -> None:
    disk = disk_with(
        60000,
        s0=mbr((0, 7, 63, 64), (0, 5, 2048, 39000)),
        s2048=mbr((0, 0xA5, 4096, 8192), (0, 5, 12000, 9000)),
        s14048=mbr((0, 0x83, 2336, 8192)),
    )
    assert lsdev_lines(table_of(disk), "disk0", True) == [
        "      disk0s1: DOS/Windows\t  32KB",
        "      disk0s2: Unknown\t\t  19MB",
        "      disk0s5: FreeBSD\t\t4096KB",
        "      disk0s6: Linux\t\t4096KB",
    ]


def test_display_size_units() -> None:
    sizes = {
        0: "   0KB",
        9999 << 10: "9999KB",
        10000 << 10: "   9MB",
        10239999 << 10: "9999MB",
        10240000 << 10: "   9GB",
        10485759999 << 10: "9999GB",
        10485760000 << 10: "   9TB",
    }
    assert {size: display_size(size) for size in sizes} == sizes


def test_a_slice_that_contains_itself_is_listed_to_a_bounded_depth() -> None:
    # slice 1 begins at sector 8, where the table says that slice 1 begins at its sector 8 ...
    content = bytearray(4096 * SECTOR)
    for sector in range(0, 400, 8):
        content[sector * SECTOR : (sector + 1) * SECTOR] = mbr((0, 0xA5, 8, 4000))
    assert len(lsdev_lines(table_of(content), "disk0")) == 4


# Devices


def test_partition_is_bounded_by_the_disk_not_by_its_end() -> None:
    content = bytearray(range(256)) * 16
    part = Partition(MemoryDisk(content), 512, 1024)
    assert (part.size, part.sector_size, part.read_only) == (1024, 512, False)
    assert bytes(part.read(0, 4)) == content[512:516]
    assert bytes(part.read(1020, 8)) == content[1532:1540]
    part.write(1, b"abc")
    assert content[513:516] == b"abc"
    for offset, length in ((-1, 1), (-512, 512), (3584, 1)):
        with pytest.raises(FileSystemError) as caught:
            part.read(offset, length)
        assert caught.value.errno == EIO
    with pytest.raises(FileSystemError):
        part.write(-1, b"x")


class BrokenDisk(MemoryDisk):
    """Sectors from ``bad`` on cannot be read."""

    def __init__(self, content: bytearray, bad: int) -> None:
        super().__init__(content)
        self.bad = bad * SECTOR

    def read(self, offset: int, length: int) -> bytes:
        if offset + length > self.bad:
            raise FileSystemError(EIO, "medium error")
        return super().read(offset, length)


def test_unreadable_disk_cannot_be_opened(gpt: bytearray) -> None:
    for bad in (0, 1, 64):
        with pytest.raises(FileSystemError) as caught:
            read_table(BrokenDisk(gpt, bad))
        assert caught.value.errno == ENXIO
    # an unreadable backup does not matter
    assert places(read_table(BrokenDisk(gpt, 8000))) == GPT_PLACES


def test_entry_shows_what_it_is() -> None:
    assert repr(Entry(3, 40, 8, "efi")) == "Entry(3, start=40, size=8, type='efi')"
