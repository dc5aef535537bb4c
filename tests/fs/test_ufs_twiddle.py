"""Where the twiddle turns, and writing: against a model that does what libsa's reader does, one block at a time.

The model follows stand/libsa/ufs.c and docs/errata.md, "Twiddles" (which was compared with the real loader's
console call by call); it shares no code with bhyveload/fs/ufs*.py and knows nothing of runs.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EFBIG, EINVAL, EROFS
from bhyveload.fs import ufs
from bhyveload.fs.ufs_file import UfsFile
from support.ufs_images import (
    GENUINE,
    SMALL,
    MemoryDisk,
    image,
    manifest,
    numbered_text,
    read_all,
    set_inode,
    silent,
    small_tree,
)


class Model:
    """libsa's struct file: one inode, one data block, one indirect block a level; ``turns`` are its twiddle calls."""

    def __init__(self, content: bytearray, base: int) -> None:
        self.content = content
        self.turns: list[int] = [1]
        number = {name: struct.unpack_from("<i", content, base + offset)[0] for name, offset in FIELDS.items()}
        self.ufs1 = number["magic"] == 0x11954
        self.number = number
        self.read_inode(2)

    def read_inode(self, ino: int) -> None:
        number = self.number
        self.turns.append(1)
        group = ino // number["ipg"]
        start = number["fpg"] * group + number["iblkno"]
        if self.ufs1:
            start += number["cgoffset"] * (group & ~number["cgmask"])
        start += ino % number["ipg"] // number["inopb"] * number["frag"]
        place = start * number["fsize"] + ino % number["inopb"] * (128 if self.ufs1 else 256)
        self.ino = ino
        self.mode = struct.unpack_from("<H", self.content, place)[0]
        self.size = struct.unpack_from("<Q", self.content, place + (8 if self.ufs1 else 16))[0]
        self.pointers = struct.unpack_from(
            "<15i" if self.ufs1 else "<15q", self.content, place + (40 if self.ufs1 else 112)
        )
        self.text = self.content[place + (40 if self.ufs1 else 112) :]
        self.block = -1
        self.indirect = [-1, -1, -1]

    def map(self, block: int) -> int:
        if block < 12:
            return int(self.pointers[block])
        n = self.number["nindir"]
        block -= 12
        level = 0
        while block >= n ** (level + 1):
            block -= n ** (level + 1)
            level += 1
        pointer = int(self.pointers[12 + level])
        while level >= 0 and pointer:
            if self.indirect[level] != pointer:
                self.turns.append(1)
                self.indirect[level] = pointer
            index, block = divmod(block, n**level)
            code, width = ("<i", 4) if self.ufs1 else ("<q", 8)
            pointer = struct.unpack_from(code, self.content, pointer * self.number["fsize"] + index * width)[0]
            level -= 1
        return pointer

    def read(self, offset: int, length: int) -> None:
        bsize = self.number["bsize"]
        while length > 0 and offset < self.size:
            block = offset // bsize
            if block != self.block:
                if self.map(block):
                    self.turns.append(4)
                self.block = block
            step = min(length, bsize - offset % bsize)
            offset += step
            length -= step

    def write(self, offset: int, length: int) -> None:
        bsize, fsize = self.number["bsize"], self.number["fsize"]
        while length > 0 and offset < self.size:
            block, within = divmod(offset, bsize)
            self.map(block)
            block_size = bsize
            if block < 12 and self.size < (block + 1) * bsize:
                block_size = (self.size % bsize + fsize - 1) // fsize * fsize
            step = min(512, length, self.size - offset, block_size - within)
            if (within > 0 or step + within < block_size) and block != self.block:
                self.turns.append(4)
                self.block = block
            self.turns.append(4)
            offset += step
            length -= step

    def search(self, name: bytes) -> int | None:
        bsize = self.number["bsize"]
        offset = 0
        while offset < self.size:
            self.read(offset, 1)
            base = self.map(offset // bsize) * self.number["fsize"]
            length = min(bsize, self.size - offset)
            position = 0
            while position < length:
                ino, reclen, _, namlen = struct.unpack_from("<IHBB", self.content, base + position)
                if ino and self.content[base + position + 8 : base + position + 8 + namlen] == name:
                    return int(ino)
                position += reclen
            offset += length
        return None

    def open(self, path: bytes) -> bool:
        """ufs_open after the superblock: whether the path is there."""
        self.read_inode(2)
        links = 0
        while path:
            path = path.lstrip(b"/")
            if not path:
                break
            if self.mode & 0o170000 != 0o040000:
                return False
            end = path.find(b"/")
            name, path = (path, b"") if end < 0 else (path[:end], path[end:])
            parent = self.ino
            found = self.search(name)
            if found is None:
                return False
            self.read_inode(found)
            if self.mode & 0o170000 == 0o120000:
                links += 1
                if self.size + len(path) > 1024 or links > 32:
                    return False
                if self.size < (60 if self.ufs1 else 120):
                    text = bytes(self.text[: self.size])
                else:
                    self.turns.append(1)
                    base = self.pointers[0] * self.number["fsize"]
                    text = bytes(self.content[base : base + self.size])
                path = text + path
                self.read_inode(2 if path.startswith(b"/") else parent)
        return True


FIELDS = {
    "magic": 1372, "bsize": 48, "fsize": 52, "frag": 56, "nindir": 116, "inopb": 120, "ipg": 184, "fpg": 188,
    "iblkno": 16, "cgoffset": 24, "cgmask": 28,
}  # fmt: skip


class Pair:
    """The reader under test and the model on the same bytes."""

    def __init__(self, name: str) -> None:
        self.content = image(name)
        self.turns: list[int] = []
        self.disk = MemoryDisk(self.content)
        self.fs = ufs.probe(self.disk, self.turns.append)
        self.fs.lookup(b"/")  # what mounting does
        self.model = Model(self.content, self.fs.superblock.location)
        self.check()

    def check(self) -> None:
        assert self.turns == self.model.turns
        self.turns.clear()
        self.model.turns.clear()

    def open(self, path: bytes) -> UfsFile | None:
        try:
            file = self.fs.open(self.fs.lookup(path))
        except FileSystemError:
            file = None
        assert self.model.open(path) == (file is not None), path
        self.check()
        return file


_pairs: dict[str, Pair] = {}


def pair(name: str) -> Pair:
    if name not in _pairs:
        _pairs[name] = Pair(name)
    return _pairs[name]


@pytest.mark.parametrize("name", SMALL)
def test_opening_every_path(name: str) -> None:
    both = pair(name)
    odd = "/ /boot/kernel /boot/link /boot/long /boot/abs/er/still/leaf /boot/loop /nope /boot/kernel/nope /boot/mid/x"
    odd += " /boot/abs/../link /boot/long/"
    for path in (*small_tree(), b"", *odd.encode().split()):
        both.open(path)


@pytest.mark.parametrize("name", GENUINE)
def test_opening_and_reading_paths_of_freebsds_images(name: str) -> None:
    """Every eighth path: the model goes through large directories entry by entry."""
    both = pair(name)
    for path in list(manifest()[name])[::8]:
        file = both.open(path.encode())
        if file is not None:
            file.read(0, file.size)
            both.model.read(0, file.size)
            both.check()


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_sequence_of_reads_and_writes(name: str, data: st.DataObject) -> None:
    both = pair(name)
    path = data.draw(st.sampled_from([b"/boot/kernel/kernel", b"/boot/mid", b"/boot/loader.conf", b"/boot/kernel"]))
    file = both.open(path)
    assert file is not None
    for _ in range(data.draw(st.integers(1, 12))):
        offset = data.draw(st.one_of(st.integers(0, 3_010_000), st.integers(0, 70_100), st.integers(0, 40)))
        length = data.draw(st.sampled_from([0, 1, 20, 512, 4096, 8192, 70_000, 3_000_000]))
        if data.draw(st.booleans()) or path == b"/boot/kernel":
            file.read(offset, length)
            both.model.read(offset, length)
        else:
            # what is there already, so that the images stay as they are
            there = b"".join(file.read(offset, min(length, 3000)))
            both.model.read(offset, min(length, 3000))
            both.check()
            assert file.write(offset, there) == len(there)
            both.model.write(offset, len(there))
        both.check()


@pytest.mark.parametrize("name", SMALL)
def test_small_reads_turn_as_often_as_one_large_read(name: str) -> None:
    both = pair(name)
    file = both.open(b"/boot/kernel/kernel")
    assert file is not None
    for step in (1000, 4096, 5000, 3_000_000):
        both.fs.lookup(b"/boot/kernel/kernel")
        file = both.fs.open(both.fs.lookup(b"/boot/kernel/kernel"))
        both.turns.clear()
        for offset in range(0, file.size, step):
            file.read(offset, step)
        assert both.turns.count(4) == -(-3_000_000 // 4096)
        assert both.turns.count(1) == (1 if name.startswith("ufs1") else 3)
    both.turns.clear()


@pytest.mark.parametrize("name", SMALL)
def test_holes_do_not_turn(name: str) -> None:
    both = Pair(name)
    kernel = both.fs.lookup(b"/boot/kernel/kernel")
    set_inode(both.content, both.fs, kernel, pointers={2: 0, 12: 0})
    both.turns.clear()
    file = both.open(b"/boot/kernel/kernel")
    assert file is not None
    for offset, length in ((8192, 4096), (8200, 1), (0, 3_000_000), (40_000, 20_000), (2_900_000, 1)):
        file.read(offset, length)
        both.model.read(offset, length)
        both.check()


def test_readdir_reads_as_it_is_asked() -> None:
    both = pair("ufs1-4k-512")
    folder = both.fs.lookup(b"/boot/kernel")
    both.turns.clear()
    entries = both.fs.readdir(folder)
    assert both.turns == []
    assert next(entries)[2] == b"."
    assert both.turns == [4]
    rest = [name for _, _, name in entries]
    assert (rest[0], len(rest)) == (b"..", 62)
    assert both.turns == [4] * -(-folder.size // 4096)
    both.turns.clear()


def test_a_device_without_ufs_costs_one_turn() -> None:
    turns: list[int] = []
    with pytest.raises(FileSystemError):
        ufs.probe(MemoryDisk(bytearray(1 << 20)), turns.append)
    assert turns == [1]


# Writing (nextboot)


@pytest.mark.parametrize("name", SMALL)
def test_write_changes_these_bytes_and_no_other(name: str) -> None:
    content = image(name)
    before = bytes(content)
    disk = MemoryDisk(content)
    fs = ufs.probe(disk, silent)
    file = fs.open(fs.lookup(b"/boot/mid"))
    expected = bytearray(numbered_text(70_001, b"m"))
    for offset, data in (
        (0, b'nextboot_enable="NO" '),
        (4090, b"over the edge"),
        (49_000, b"z" * 3333),
        (70_000, b"!"),
    ):
        assert file.write(offset, data) == len(data)
        expected[offset : offset + len(data)] = data
        assert b"".join(file.read(0, file.size)) == expected
    assert all(length <= 512 for _, length in disk.writes)
    changed = [place for place, (old, new) in enumerate(zip(before, content, strict=True)) if old != new]
    assert 0 < len(changed) <= 21 + 13 + 3333 + 1
    assert all(read_all(fs, path) == text for path, text in small_tree().items() if path != b"/boot/mid")


def test_write_stops_at_the_end_of_the_file() -> None:
    content = image("ufs2-4k-512-sb8192")
    fs = ufs.probe(MemoryDisk(content), silent)
    file = fs.open(fs.lookup(b"/boot/loader.conf"))
    assert file.write(15, b"0123456789") == 4
    assert file.write(19, b"x") == 0
    assert file.write(1 << 40, b"x") == 0
    assert b"".join(file.read(0, 100)) == b"autoboot_delay=0123"
    assert file.size == 19
    assert fs.open(fs.lookup(b"/boot/empty")).write(0, b"x") == 0


def test_refused_writes() -> None:
    content = image("ufs2-4k-512-sb8192")
    disk = MemoryDisk(content)
    fs = ufs.probe(disk, silent)
    kernel = fs.lookup(b"/boot/kernel/kernel")
    set_inode(content, fs, kernel, pointers={1: 0, 13: 0})
    file = fs.open(fs.lookup(b"/boot/kernel/kernel"))
    for offset, errno in ((4096, EFBIG), (2_900_000, EFBIG), (-1, EINVAL)):
        with pytest.raises(FileSystemError) as caught:
            file.write(offset, b"x")
        assert caught.value.errno == errno
    assert disk.writes == []
    fs = ufs.probe(MemoryDisk(content, read_only=True), silent)
    with pytest.raises(FileSystemError) as caught:
        fs.open(fs.lookup(b"/boot/mid")).write(0, b"x")
    assert caught.value.errno == EROFS


def test_names_are_read_anew_after_a_write() -> None:
    content = image("ufs1-4k-512")
    fs = ufs.probe(MemoryDisk(content), silent)
    folder = fs.lookup(b"/boot")
    entries = b"".join(fs.open(folder).read(0, folder.size))
    where = entries.index(b"loader.conf\0")
    assert fs.open(folder).write(where, b"loader.kaum") == 11
    assert fs.lookup(b"/boot/loader.kaum").size == 19
    with pytest.raises(FileSystemError):
        fs.lookup(b"/boot/loader.conf")


@pytest.mark.parametrize("name", SMALL)
def test_what_is_remembered_turns_it_as_what_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no more is remembered than the last inode."""
    both = Pair(name)
    paths = (b"/boot/kernel/kernel", b"/boot/kernel/none", b"/boot/lua/loader.lua", b"/boot/kernel/kernel", b"/boot")
    for most in (ufs.MAX_CACHED_NODES, 1):
        monkeypatch.setattr(ufs, "MAX_CACHED_NODES", most)
        both.fs._forget()
        for path in paths:
            both.open(path)
            both.check()
    assert len(both.fs._nodes) == 1
