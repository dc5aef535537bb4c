"""Parsers of what stands on disks, with arbitrary bytes and with arbitrary sound structures."""

from __future__ import annotations

import struct
import uuid
import zlib

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bhyveload.errors import FileSystemError, PartitionError, UsageError
from bhyveload.fs import ufs
from bhyveload.fs.ufs_format import FS_UFS1_MAGIC, FS_UFS2_MAGIC, SUPERBLOCK_FIELDS
from bhyveload.fs.ufs_super import find_superblock
from bhyveload.inspect.volumes import DiskVolumes
from bhyveload.partition.slices import PARTWILD, SLICEWILD, lsdev_lines, open_slice
from bhyveload.partition.table import best_partition, read_table
from support.ufs_images import MemoryDisk, image, mount, silent

SECTORS = 400
UFS_GUID = uuid.UUID("516e7cb6-6ecf-11d6-8ff8-00022d09712b")
ZFS_GUID = uuid.UUID("516e7cba-6ecf-11d6-8ff8-00022d09712b")
DATA_GUID = uuid.UUID("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7")
LINUX_GUID = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
lba = st.integers(0, SECTORS + 10) | st.integers(0, (1 << 64) - 1)
entries = st.lists(st.tuples(st.sampled_from([UFS_GUID, ZFS_GUID, DATA_GUID, LINUX_GUID, uuid.UUID(int=0)]), lba, lba))


def gpt(parts: list[tuple[uuid.UUID, int, int]], size: int, first: int, last: int) -> bytearray:
    """A disk with a GPT of ``parts``, entries of ``size`` bytes, and no backup."""
    disk = bytearray(SECTORS * 512)
    array = b"".join(
        struct.pack("<16s16sQQQ72s", kind.bytes_le, bytes(16), start, end, 0, b"").ljust(size, b"\0")
        for kind, start, end in parts
    )
    disk[1024 : 1024 + len(array)] = array
    crc = zlib.crc32(array)
    fields = [b"EFI PART", 0x10000, 92, 0, 0, 1, SECTORS - 1, first, last, bytes(16), 2, len(parts), size, crc]
    fields[3] = zlib.crc32(struct.pack("<8sIIIIQQQQ16sQIII", *fields))
    struct.pack_into("<8sIIIIQQQQ16sQIII", disk, 512, *fields)
    return disk


@few
@given(entries, st.sampled_from([128, 256, 512]), st.integers(0, 50), st.integers(300, 1 << 40))
def test_a_sound_gpt(parts: list[tuple[uuid.UUID, int, int]], size: int, first: int, last: int) -> None:
    assume(parts)
    disk = MemoryDisk(gpt(parts, size, first, last))
    table = read_table(disk)
    assert table.kind == "gpt"
    expected = [
        (number, start, end - start + 1)
        for number, (kind, start, end) in enumerate(parts, 1)
        if kind.int and first <= start <= end <= last
    ]
    assert [(entry.index, entry.start, entry.size) for entry in table.entries] == expected
    bootable = [(kind in (UFS_GUID, ZFS_GUID), kind == DATA_GUID) for kind, _, _ in parts]
    numbers = [number for number, _, _ in expected]
    wanted = [n for n in numbers if bootable[n - 1][0]] or [n for n in numbers if bootable[n - 1][1]]
    best = best_partition(table)
    assert (best.index if best else None) == (wanted[0] if wanted else None)
    assert len(lsdev_lines(table, "disk0", verbose=True)) == len(expected)


def look(content: bytearray) -> None:
    """All that is done with a partition table; only FileSystemError may come out of it."""
    disk = MemoryDisk(content, read_only=True)
    try:
        table = read_table(disk)
        assert len(table.entries) <= 256
        lsdev_lines(table, "disk0", verbose=True)
        open_slice(disk, SLICEWILD, PARTWILD, table)
    except FileSystemError:
        pass


@few
@given(st.binary(min_size=92, max_size=92), st.binary(max_size=2048), st.booleans())
def test_any_gpt_header(header: bytes, array: bytes, sealed: bool) -> None:
    disk = bytearray(SECTORS * 512)
    disk[1024 : 1024 + len(array)] = array
    raw = bytearray(header)
    raw[0:8] = b"EFI PART"
    raw[8:16] = struct.pack("<II", 0x10000, 92)
    raw[24:32] = (1).to_bytes(8, "little")
    if sealed:
        count, size = struct.unpack_from("<II", raw, 80)
        if count * size <= len(array):
            struct.pack_into("<I", raw, 88, zlib.crc32(array[: count * size]))
    raw[16:20] = bytes(4)
    struct.pack_into("<I", raw, 16, zlib.crc32(raw))
    disk[512 : 512 + 92] = raw
    look(disk)


@few
@given(st.lists(st.tuples(st.integers(0, SECTORS), st.binary(min_size=64, max_size=64)), max_size=6), st.data())
def test_any_boot_records(records: list[tuple[int, bytes]], data: st.DataObject) -> None:
    """Extended partitions that lead anywhere, also to themselves."""
    disk = bytearray((SECTORS + 1) * 512)
    for sector, slots in [(0, data.draw(st.binary(min_size=64, max_size=64))), *records]:
        table = bytearray(slots)
        for slot in range(4):
            table[16 * slot] &= 0x80
            kind = data.draw(st.sampled_from([0, 5, 0x0F, 0xA5, 0x83, 0xEE]))
            table[16 * slot + 4] = kind
            struct.pack_into("<I", table, 16 * slot + 8, data.draw(st.integers(0, SECTORS)))
        disk[sector * 512 + 446 : sector * 512 + 512] = bytes(table) + b"\x55\xaa"
    look(disk)


@few
@given(st.binary(min_size=512, max_size=512))
def test_any_label(sector: bytes) -> None:
    label = bytearray(sector)
    struct.pack_into("<I", label, 0, 0x82564557)
    struct.pack_into("<I", label, 40, 512)
    label[138:140] = bytes((8 + label[138] % 13, 0))
    disk = bytearray(SECTORS * 512)
    disk[512:1024] = label
    table = read_table(MemoryDisk(disk))
    assert table.kind == "bsd"
    assert all(entry.index != 2 and entry.size for entry in table.entries)
    look(disk)


@few
@given(st.binary(min_size=1376, max_size=1376), st.sampled_from([FS_UFS1_MAGIC, FS_UFS2_MAGIC]))
def test_any_superblock(raw: bytes, magic: int) -> None:
    disk = bytearray(1 << 18)
    disk[8192 : 8192 + len(raw)] = raw
    struct.pack_into("<I", disk, 8192 + 1372, magic)
    with pytest.raises(FileSystemError):
        ufs.probe(MemoryDisk(disk), silent)


@pytest.mark.parametrize("name", ["ufs1-4k-512", "ufs2-4k-512-sb8192"])
@few
@given(data=st.data())
def test_a_superblock_with_one_other_number(name: str, data: st.DataObject) -> None:
    """Refused, or every number that is used lies where it can."""
    content = image(name)
    field, (offset, code) = data.draw(st.sampled_from(sorted(SUPERBLOCK_FIELDS.items())))
    width = struct.calcsize(code)
    value = data.draw(st.integers(0, (1 << 8 * width) - 1) | st.integers(0, 100000))
    assume(width == 8 or value < 1 << 8 * width)
    content[8192 + offset : 8192 + offset + width] = value.to_bytes(width, "little")
    disk = MemoryDisk(content, read_only=True)
    try:
        superblock = find_superblock(disk)
    except FileSystemError:
        return
    assert superblock.bsize == superblock.fsize * superblock.frag == 1 << superblock.bshift, field
    assert superblock.ncg * superblock.fpg >= superblock.size > 0
    try:
        fs = ufs.probe(disk, silent)
        for _, _, found in fs.readdir(fs.lookup(b"/boot")):
            file = fs.open(fs.lookup(b"/boot/" + found))
            file.read(0, min(file.size, 1 << 20))
    except FileSystemError:
        pass


@few
@given(st.binary(min_size=1, max_size=512))
def test_any_directory_block(block: bytes) -> None:
    content = image("ufs1-4k-512")
    fs = mount(content)
    folder = fs.lookup(b"/boot")
    place = folder.pointers[0] << fs.superblock.fshift
    content[place : place + len(block)] = block
    fs = mount(content)
    names = []
    try:
        for _, _, name in fs.readdir(fs.lookup(b"/boot")):
            names.append(name)
    except FileSystemError:
        pass
    assert all(len(name) <= 255 for name in names)
    for name in names[:50]:
        try:
            fs.lookup(b"/boot/" + name)
        except FileSystemError:
            pass


@few
@given(
    st.text(max_size=12) | st.from_regex(r"(disk|vdisk|zfs|host)[0-9]{0,3}([ps][0-9]{0,4})?[a-z]?:?/?", fullmatch=True)
)
def test_any_partition_name(name: str) -> None:
    disks = DiskVolumes([MemoryDisk(gpt([(UFS_GUID, 40, 50), (DATA_GUID, 60, 70)], 128, 34, 300))])
    try:
        volume = disks.volume(name)
    except (UsageError, PartitionError):
        return
    assert volume.unit == 0
    assert volume.name in ("disk0", "disk0p1", "disk0p2", "disk0a") or volume.start == 0
