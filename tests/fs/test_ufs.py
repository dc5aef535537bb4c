"""Reading UFS: images of FreeBSD's and of Debian's makefs, also with holes, long files and odd superblocks made in."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EFBIG, EILSEQ, EINVAL, EIO, ENOENT, ENOTDIR
from bhyveload.fs import ufs
from bhyveload.fs.stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG
from bhyveload.fs.ufs_file import MAX_READ
from bhyveload.fs.ufs_format import calculate_crc32c
from bhyveload.image.raw import open_raw
from support.ufs_images import (
    GENUINE,
    SMALL,
    MemoryDisk,
    check_against_manifest,
    decompress,
    image,
    makefs,
    manifest,
    mount,
    names,
    numbered_text,
    read_all,
    set_inode,
    silent,
    small_tree,
)


def errno_of(fs: ufs.UfsFileSystem, path: bytes) -> int:
    with pytest.raises(FileSystemError) as caught:
        fs.lookup(path)
    assert "\n" not in str(caught.value)
    return caught.value.errno


def probe_error(content: bytearray) -> FileSystemError:
    with pytest.raises(FileSystemError) as caught:
        mount(content)
    assert "\n" not in str(caught.value)
    return caught.value


# Whole images


@pytest.mark.parametrize("name", GENUINE)
def test_freebsd_images_file_by_file(name: str) -> None:
    fs = mount(image(name))
    assert (fs.notes, fs.messages) == ([], [])
    assert fs.superblock.version == int(name[3])
    check_against_manifest(fs, manifest()[name])


@pytest.mark.parametrize("name", SMALL)
def test_debian_images_file_by_file(name: str) -> None:
    fs = mount(image(name))
    tree = small_tree()
    for path, content in tree.items():
        assert read_all(fs, path) == content
        assert fs.stat(fs.lookup(path)).size == len(content)
    modules = [path.rpartition(b"/")[2] for path in tree if b"/kernel/" in path]
    assert sorted(names(fs, b"/boot/kernel")) == sorted([b".", b"..", *modules])
    assert sorted(names(fs, b"/")) == [b".", b"..", b"boot", b"empty"]
    for link, target in (
        (b"/boot/link", b"kernel/kernel"),
        (b"/boot/abs", b"/boot/deep"),
        (b"/boot/long", b"./" * 70 + b"mid"),
    ):
        assert fs.readlink(fs.lookup(link, follow=False)) == target
    assert fs.messages == []
    if name.startswith("ufs1"):
        assert fs.notes == []
    else:
        (note,) = fs.notes
        assert note.startswith("UFS2 superblock at 8192 (Debian's makefs does this)")


@pytest.mark.skipif("BHYVELOAD_FIXTURES" not in os.environ, reason="BHYVELOAD_FIXTURES names no folder of fixtures")
def test_all_fixtures(tmp_path: Path) -> None:
    import json

    folder = Path(os.environ["BHYVELOAD_FIXTURES"]) / "ufs"
    recorded = json.loads((folder / "manifest.json").read_text())
    for name in (path.name.removesuffix(".img.zst") for path in sorted(folder.glob("*.zst"))):
        path = tmp_path / "disk.img"
        path.write_bytes(decompress(folder / f"{name}.img.zst"))
        disk = open_raw(str(path))
        if "bigendian" in name:
            with pytest.raises(FileSystemError) as caught:
                ufs.probe(disk, silent)
            assert caught.value.errno == EILSEQ
            continue
        check_against_manifest(ufs.probe(disk, silent), recorded[name]["files"])


@pytest.mark.parametrize(
    ("version", "bsize", "fsize"),
    [
        (1, 4096, 4096),
        (1, 8192, 1024),
        (1, 16384, 2048),
        (1, 65536, 8192),
        (2, 8192, 4096),
        (2, 16384, 2048),
        (2, 65536, 8192),
    ],
)
def test_block_sizes(tmp_path: Path, version: int, bsize: int, fsize: int) -> None:
    tree = tmp_path / "tree"
    (tree / "boot").mkdir(parents=True)
    sizes = {
        f"f{size}": size for base in (0, fsize, bsize, 12 * bsize, 14 * bsize) for size in (base, base + 1, base + 17)
    }
    for name, size in sizes.items():
        (tree / "boot" / name).write_bytes(numbered_text(size, b"b"))
    (tree / "link").symlink_to("x" * (59 if version == 1 else 119))
    (tree / "longlink").symlink_to("x" * (60 if version == 1 else 120))
    path = makefs(tmp_path / "u.img", tree, "-o", f"version={version},bsize={bsize},fsize={fsize}", "-s", "24m")
    fs = ufs.probe(open_raw(str(path)), silent)
    assert (fs.superblock.version, fs.superblock.bsize, fs.superblock.fsize) == (version, bsize, fsize)
    for name, size in sizes.items():
        assert read_all(fs, b"/boot/" + name.encode()) == numbered_text(size, b"b"), name
    assert len(fs.readlink(fs.lookup(b"link", follow=False))) == (59 if version == 1 else 119)
    assert len(fs.readlink(fs.lookup(b"longlink", follow=False))) == (60 if version == 1 else 120)


@pytest.mark.parametrize("version", ["1", "2"])
def test_big_endian_is_refused_in_the_loaders_words(tmp_path: Path, version: str) -> None:
    (tmp_path / "tree").mkdir()
    path = makefs(tmp_path / "u.img", tmp_path / "tree", "-B", "be", "-o", f"version={version}", "-s", "1m")
    error = probe_error(bytearray(path.read_bytes()))
    assert error.errno == EILSEQ
    assert str(error) == "UFS superblock failed due to endian mismatch between machine and filesystem"


def test_file_system_made_for_large_sectors(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("here\n")
    path = makefs(
        tmp_path / "u.img", tmp_path / "tree", "-S", "4096", "-o", "version=1,fsize=4096,bsize=32768", "-s", "8m"
    )
    fs = mount(bytearray(path.read_bytes()))
    assert read_all(fs, b"/file") == b"here\n"
    assert fs.notes == [
        "FreeBSD 13.2's loader would not read this file system: bmask, fmask, fsbtodb in the superblock"
    ]


# Paths


@pytest.fixture(scope="module")
def small() -> ufs.UfsFileSystem:
    return mount(image("ufs2-4k-512-sb8192"))


@pytest.mark.parametrize(
    ("path", "same_as"),
    [
        (b"", b"/"),
        (b"///", b"/"),
        (b"..", b"/"),
        (b"/../../boot/./..", b"/"),
        (b"boot/mid", b"/boot/mid"),
        (b"//boot///mid///", b"/boot/mid"),
        (b"/boot/mid/", b"/boot/mid"),
        (b"/boot/mid\0/x", b"/boot/mid"),
        (b"/boot/link", b"/boot/kernel/kernel"),
        (b"/boot/link/", b"/boot/kernel/kernel"),
        (b"/boot/abs/er", b"/boot/deep/er"),
        (b"/boot/abs/../mid", b"/boot/mid"),
        (b"/boot/long", b"/boot/mid"),
    ],
)
def test_paths(small: ufs.UfsFileSystem, path: bytes, same_as: bytes) -> None:
    assert small.lookup(path).ino == small.lookup(same_as).ino


@pytest.mark.parametrize(
    ("path", "errno"),
    [
        (b"/nope", ENOENT),
        (b"/boot/mi", ENOENT),
        (b"/boot/midd", ENOENT),
        (b"/boot/mid/.", ENOTDIR),
        (b"/boot/mid/x", ENOTDIR),
        (b"/boot/link/x", ENOTDIR),
        (b"/boot/loop", ENOENT),
        (b"/" + b"n" * 255, ENOENT),
        (b"/" + b"n" * 256, ENOENT),
    ],
)
def test_paths_that_lead_nowhere(small: ufs.UfsFileSystem, path: bytes, errno: int) -> None:
    assert errno_of(small, path) == errno


def test_a_last_link_can_be_had_itself(small: ufs.UfsFileSystem) -> None:
    link = small.lookup(b"/boot/link", follow=False)
    assert small.stat(link).mode & S_IFMT == S_IFLNK
    assert small.lookup(b"/boot/link/", follow=False).ino == link.ino
    assert small.lookup(b"/boot/abs/er", follow=False).ino == small.lookup(b"/boot/deep/er").ino
    assert small.lookup(b"/boot/loop", follow=False).mode & S_IFMT == S_IFLNK


@pytest.mark.parametrize("version", [1, 2])
def test_link_and_name_limits(tmp_path: Path, version: int) -> None:
    """As on the real loader (docs/errata.md, "Paths of UFS")."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "l0").write_text("end")
    for number in range(1, 35):
        (tree / f"l{number}").symlink_to(f"l{number - 1}")
    (tree / ("n" * 255)).write_text("long name")
    (tree / "outside").symlink_to("../../../l0")
    (tree / "slashes").symlink_to("///l0//")
    (tree / "dangling").symlink_to("nothing")
    (tree / "wide").symlink_to("./" * 511 + "l0")  # 1024 bytes
    path = makefs(tmp_path / "u.img", tree, "-o", f"version={version}", "-s", "2m")
    fs = ufs.probe(open_raw(str(path)), silent)
    end = fs.lookup(b"/l0").ino
    assert fs.lookup(b"/l32").ino == end
    assert errno_of(fs, b"/l33") == ENOENT
    assert read_all(fs, b"n" * 255) == b"long name"
    for name in (b"outside", b"slashes", b"wide"):
        assert fs.lookup(name).ino == end, name
    assert errno_of(fs, b"/wide/") == ENOENT  # 1025 with what remains
    assert errno_of(fs, b"/dangling") == ENOENT


def test_stat_is_what_went_into_the_image(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "folder").mkdir(parents=True)
    (tree / "file").write_bytes(b"12345")
    (tree / "file").chmod(0o4751)
    os.utime(tree / "file", (1_000_000_000, 1_700_000_000))
    for version in (1, 2):
        path = makefs(tmp_path / f"u{version}.img", tree, "-o", f"version={version}", "-s", "1m")
        fs = ufs.probe(open_raw(str(path)), silent)
        stat = fs.stat(fs.lookup(b"/file"))
        assert (stat.mode, stat.size, stat.mtime) == (S_IFREG | 0o4751, 5, 1_700_000_000)
        assert (stat.uid, stat.gid) == (os.getuid(), os.getgid())
        assert stat.ino == fs.lookup(b"file").ino
        assert fs.stat(fs.lookup(b"/folder")).mode & S_IFMT == S_IFDIR
        entries = sorted((name, kind) for _, kind, name in fs.readdir(fs.lookup(b"/")))
        assert entries == [(b".", 4), (b"..", 4), (b"file", 8), (b"folder", 4)]


def test_wrong_kind_of_node(small: ufs.UfsFileSystem) -> None:
    for call, errno in ((small.readdir, ENOTDIR), (small.readlink, EINVAL)):
        with pytest.raises(FileSystemError) as caught:
            call(small.lookup(b"/boot/mid"))
        assert caught.value.errno == errno


# Reading


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_sequence_of_reads(name: str, data: st.DataObject) -> None:
    content = KERNEL
    fs = _mounted(name)
    file = fs.open(fs.lookup(b"/boot/kernel/kernel"))
    for _ in range(data.draw(st.integers(1, 5))):
        offset = data.draw(st.integers(0, 3_010_000))
        length = data.draw(st.sampled_from([0, 1, 511, 4096, 4097, 65536, 700_000, 4_000_000]))
        assert b"".join(file.read(offset, length)) == content[offset : offset + length]


KERNEL = numbered_text(3_000_000, b"k")
_mounts: dict[str, ufs.UfsFileSystem] = {}


def _mounted(name: str) -> ufs.UfsFileSystem:
    if name not in _mounts:
        _mounts[name] = mount(image(name))
    return _mounts[name]


def test_adjacent_blocks_are_one_read() -> None:
    content = image("ufs1-4k-512")
    disk = MemoryDisk(content)
    fs = ufs.probe(disk, silent)
    file = fs.open(fs.lookup(b"/boot/kernel/kernel"))
    disk.reads.clear()
    pieces = file.read(0, file.size)
    assert len(pieces) <= 4
    assert sum(map(len, pieces)) == 3_000_000
    assert len(disk.reads) == len(pieces) + 1  # the indirect block


def test_refused_reads(small: ufs.UfsFileSystem) -> None:
    file = small.open(small.lookup(b"/boot/mid"))
    assert file.read(70_001, 1) == []
    assert file.read(1 << 80, 1) == []
    assert b"".join(file.read(70_000, 1 << 80)) == numbered_text(70_001, b"m")[-1:]
    for offset, length in ((-1, 1), (0, -1)):
        with pytest.raises(FileSystemError) as caught:
            file.read(offset, length)
        assert caught.value.errno == EINVAL


@pytest.mark.parametrize("name", SMALL)
def test_holes(name: str) -> None:
    content = image(name)
    fs = mount(content)
    expected = bytearray(numbered_text(3_000_000, b"k"))
    kernel = fs.lookup(b"/boot/kernel/kernel")
    code = "<i" if name.startswith("ufs1") else "<q"
    width = struct.calcsize(code)
    # direct blocks 0, 5, 6, and 3 to 7 of the first indirect block
    set_inode(content, fs, kernel, pointers={0: 0, 5: 0, 6: 0})
    indirect = kernel.pointers[12] * 512
    for slot in range(3, 8):
        struct.pack_into(code, content, indirect + slot * width, 0)
    for block in (0, 5, 6, *range(15, 20)):
        expected[block * 4096 : (block + 1) * 4096] = bytes(4096)
    assert read_all(fs, b"/boot/kernel/kernel") == expected
    file = fs.open(fs.lookup(b"/boot/kernel/kernel"))
    for offset in range(0, 90_000, 1000):
        assert b"".join(file.read(offset, 1000)) == expected[offset : offset + 1000]
    # the whole indirect block is a hole
    set_inode(content, fs, kernel, pointers={12: 0})
    nindir = 4096 // width
    expected[12 * 4096 : (12 + nindir) * 4096] = bytes(len(expected[12 * 4096 : (12 + nindir) * 4096]))
    assert read_all(fs, b"/boot/kernel/kernel") == expected


def test_triple_indirect_blocks_and_a_file_of_a_terabyte() -> None:
    content = image("ufs2-4k-512-sb8192")
    fs = mount(content)
    kernel = fs.lookup(b"/boot/kernel/kernel")
    # three of the kernel's own blocks become indirect ones; its fourth is the data
    level = [kernel.pointers[slot] for slot in range(3)]
    data = kernel.pointers[3]
    for pointer in level:
        content[pointer * 512 : pointer * 512 + 4096] = bytes(4096)
    struct.pack_into("<q", content, level[0] * 512 + 8 * 3, level[1])
    struct.pack_into("<q", content, level[1] * 512 + 8 * 7, level[2])
    struct.pack_into("<q", content, level[2] * 512 + 8 * 511, data)
    size = 1 << 40
    victim = fs.lookup(b"/boot/mid")
    set_inode(content, fs, victim, size=size, pointers={**dict.fromkeys(range(15), 0), 14: level[0]})
    file = fs.open(fs.lookup(b"/boot/mid"))
    assert file.size == size
    block = 12 + 512 + 512**2 + 3 * 512**2 + 7 * 512 + 511
    there = numbered_text(16384, b"k")[12288:]
    assert b"".join(file.read(block * 4096 - 5, 4106)) == bytes(5) + there + bytes(5)
    assert not any(b"".join(file.read(0, 100_000)))
    with pytest.raises(FileSystemError) as caught:
        file.read(0, size)
    assert caught.value.errno == EFBIG
    # four GiB of holes are a few thousand views of the same zeros
    pieces = file.read(1 << 38, MAX_READ)
    assert sum(map(len, pieces)) == MAX_READ
    # behind the last triple indirect block there is nothing
    set_inode(content, fs, victim, size=1 << 50)
    file = fs.open(fs.lookup(b"/boot/mid"))
    assert b"".join(file.read((12 + 512 + 512**2 + 512**3) * 4096 - 3, 3)) == bytes(3)
    with pytest.raises(FileSystemError) as caught:
        file.read((12 + 512 + 512**2 + 512**3) * 4096, 1)
    assert caught.value.errno == EFBIG
    set_inode(content, fs, victim, size=1 << 63)
    with pytest.raises(FileSystemError) as caught:
        fs.open(fs.lookup(b"/boot/mid"))
    assert caught.value.errno == EIO


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("pointer", [-1, 1 << 30, 8191])
def test_addresses_outside_the_file_system(name: str, pointer: int) -> None:
    content = image(name)
    fs = mount(content)
    kernel = fs.lookup(b"/boot/kernel/kernel")
    for slot in (1, 12):
        set_inode(content, fs, kernel, pointers={slot: pointer})
        with pytest.raises(FileSystemError, match=f"inode {kernel.ino}: block address .* outside") as caught:
            read_all(fs, b"/boot/kernel/kernel")
        assert caught.value.errno == EIO


def test_truncated_image() -> None:
    content = image("ufs2-32k")
    fs = mount(content)
    path = max(
        (path for path, what in manifest()["ufs2-32k"].items() if what[0] == "f"), key=lambda path: path.count("k")
    )
    node = fs.lookup(path.encode())
    del content[node.pointers[0] << fs.superblock.fshift :]
    with pytest.raises(FileSystemError) as caught:
        read_all(mount(content), path.encode())
    assert caught.value.errno == EIO


# Superblocks


def test_nothing_there() -> None:
    for size in (0, 512, 8191, 16384, 1 << 20):
        assert probe_error(bytearray(size)).errno == ENOENT
    assert probe_error(bytearray(random.Random(1).randbytes(300_000))).errno == ENOENT


def test_unfinished_newfs() -> None:
    content = image("ufs1-4k-512")
    struct.pack_into("<I", content, 8192 + 1372, 0x19960408)
    error = probe_error(content)
    assert (error.errno, "newfs" in str(error)) == (EINVAL, True)


def test_search_goes_on_to_sector_0_and_262144() -> None:
    small = image("ufs1-4k-512")
    superblock = small[8192:16384]
    for place in (0, 262144):
        content = bytearray(small)
        content[8192:16384] = bytes(8192)
        content[place : place + 8192] = superblock
        if place == 0:
            assert mount(content).superblock.location == 0
        else:
            assert mount(content).superblock.location == 262144
    # a copy of a UFS2 superblock that says that it belongs elsewhere is not used
    small = image("ufs2-4k-512-sb8192")
    superblock = small[8192:16384]
    small[8192:16384] = bytes(8192)
    small[262144 : 262144 + 8192] = superblock
    error = probe_error(small)
    assert error.errno == ENOENT
    assert "it says that its place is 8192, not 262144" in str(error)


def test_first_backup_of_ufs1_with_64k_blocks_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    path = makefs(tmp_path / "u.img", tmp_path / "tree", "-o", "version=1,bsize=65536,fsize=8192", "-s", "16m")
    content = bytearray(path.read_bytes())
    assert content[65536 + 1372 : 65536 + 1376] == struct.pack("<I", 0x11954)  # makefs wrote that copy
    assert mount(content).superblock.location == 8192


@pytest.mark.parametrize(
    ("offset", "code", "value"),
    [
        (48, "<i", 2048),
        (48, "<i", 131072),
        (48, "<i", 5000),
        (48, "<i", -4096),
        (52, "<i", 256),
        (52, "<i", 0),
        (56, "<i", 0),
        (56, "<i", 16),
        (80, "<i", 13),
        (84, "<i", 99),
        (96, "<i", -1),
        (104, "<i", 1000),
        (104, "<i", 8704),
        (116, "<i", 7),
        (120, "<I", 0),
        (44, "<I", 0),
        (44, "<I", 0xFFFFFFFF),
        (184, "<I", 0),
        (184, "<I", 0xFFFFFFF0),
        (188, "<i", 0),
        (188, "<i", -1),
        (16, "<i", 0),
        (16, "<i", 1 << 30),
        (156, "<i", -1),
        (1080, "<q", 0),
        (1080, "<q", 1 << 62),
        (1080, "<q", -1),
        (1320, "<i", 500),
    ],
)
@pytest.mark.parametrize("name", SMALL)
def test_numbers_that_cannot_be(name: str, offset: int, code: str, value: int) -> None:
    content = image(name)
    struct.pack_into(code, content, 8192 + offset, value)
    error = probe_error(content)
    assert error.errno == ENOENT
    assert "the superblock is damaged" in str(error)


def test_summary_outside_the_disk() -> None:
    for csaddr in (-1, 1 << 40):
        content = image("ufs2-4k-512-sb8192")
        struct.pack_into("<q", content, 8192 + 1096, csaddr)
        assert probe_error(content).errno == EIO


def test_ufs1_from_before_ufs2_has_its_sizes_in_32_bits() -> None:
    content = image("ufs1-4k-512")
    size, csaddr = struct.unpack_from("<q", content, 8192 + 1080)[0], struct.unpack_from("<q", content, 8192 + 1096)[0]
    struct.pack_into("<i", content, 8192 + 36, size)
    struct.pack_into("<i", content, 8192 + 152, csaddr)
    struct.pack_into("<i", content, 8192 + 860, 0)  # maxbsize
    struct.pack_into("<q", content, 8192 + 1080, 0)
    struct.pack_into("<q", content, 8192 + 1096, -1)
    fs = mount(content)
    assert (fs.superblock.size, fs.superblock.csaddr) == (size, csaddr)
    assert read_all(fs, b"/boot/loader.conf") == b'autoboot_delay="1"\n'


def test_crc32c_is_the_known_one() -> None:
    # RFC 3720 B.4 gives the inverted values
    assert calculate_crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283
    assert calculate_crc32c(bytes(32)) ^ 0xFFFFFFFF == 0x8A9136AA
    assert calculate_crc32c(b"\xff" * 32) ^ 0xFFFFFFFF == 0x62A8AB43


def test_check_hash() -> None:
    """A superblock as FreeBSD 12 and later leave it: hashed, with bits in fs_flags that a reader drops."""
    content = image("ufs2-32k")
    base = 65536
    size = struct.unpack_from("<i", content, base + 104)[0]
    struct.pack_into("<II", content, base + 1308, 0x7, 0x200)
    struct.pack_into("<I", content, base + 1304, 0)
    good = calculate_crc32c(bytes(content[base : base + size]))
    struct.pack_into("<I", content, base + 1304, good)
    assert mount(content).messages == []
    struct.pack_into("<II", content, base + 1308, 0xF7, 0x44000200)  # bits that nobody knows do not count
    assert mount(content).messages == []
    struct.pack_into("<I", content, base + 1304, good ^ 0x10)
    fs = mount(content)
    expected = (
        f"Superblock check-hash failed: recorded check-hash {good ^ 0x10:#x} != computed check-hash {good:#x} (Ignored)"
    )
    assert (fs.messages, fs.notes) == ([expected], [expected])
    assert names(fs, b"/")[:2] == [b".", b".."]
    # without the flag the field means nothing
    struct.pack_into("<I", content, base + 1312, 0)
    assert mount(content).messages == []


# Directories


@pytest.mark.parametrize(
    ("reclen", "why"),
    [(0, "leads nowhere"), (4, "shorter than a record"), (13, "unaligned"), (60000, "leaves the block")],
)
def test_damaged_directory(reclen: int, why: str) -> None:
    content = image("ufs2-4k-512-sb8192")
    fs = mount(content)
    boot = fs.lookup(b"/boot")
    base = boot.pointers[0] * 512
    order = names(fs, b"/boot")
    offset = 0
    for _ in range(4):
        offset += struct.unpack_from("<IH", content, base + offset)[1]
    struct.pack_into("<H", content, base + offset + 4, reclen)
    fs = mount(content)
    assert fs.lookup(b"/boot/" + order[3], follow=False).ino, why  # names before the damage are found
    for call in (lambda: fs.lookup(b"/boot/" + order[5]), lambda: names(fs, b"/boot")):
        with pytest.raises(
            FileSystemError, match=f"directory inode {boot.ino}: the entry at {offset} is damaged"
        ) as caught:
            call()
        assert caught.value.errno == EIO


def test_directory_with_a_hole_or_an_impossible_size() -> None:
    content = image("ufs2-4k-512-sb8192")
    fs = mount(content)
    boot = fs.lookup(b"/boot")
    set_inode(content, fs, boot, pointers={0: 0})
    fs = mount(content)
    assert errno_of(fs, b"/boot/mid") == EIO
    set_inode(content, fs, boot, size=1 << 60, pointers={0: boot.pointers[0]})
    assert errno_of(fs, b"/boot/mid") == EIO
    with pytest.raises(FileSystemError):
        names(fs, b"/boot")


def test_entry_with_an_impossible_inode() -> None:
    for ino in (0xFFFFFFFF, 1 << 20):
        content = image("ufs1-4k-512")
        fs = mount(content)
        base = fs.lookup(b"/boot").pointers[0] * 512
        where = content.index(b"loader.conf\0", base) - 8
        struct.pack_into("<I", content, where, ino)
        assert errno_of(mount(content), b"/boot/loader.conf") == EIO


def test_deleted_entries_are_not_found() -> None:
    content = image("ufs1-4k-512")
    fs = mount(content)
    base = fs.lookup(b"/boot").pointers[0] * 512
    where = content.index(b"loader.conf\0", base) - 8
    struct.pack_into("<I", content, where, 0)
    fs = mount(content)
    assert errno_of(fs, b"/boot/loader.conf") == ENOENT
    assert b"loader.conf" not in names(fs, b"/boot")


def test_link_whose_text_is_missing() -> None:
    content = image("ufs1-4k-512")
    fs = mount(content)
    link = fs.lookup(b"/boot/long", follow=False)
    set_inode(content, fs, link, pointers={0: 0})
    assert errno_of(fs, b"/boot/long") == EIO
    set_inode(content, fs, link, size=1 << 40)
    assert errno_of(fs, b"/boot/long") == ENOENT
    with pytest.raises(FileSystemError):
        fs.readlink(fs.lookup(b"/boot/long", follow=False))


def test_old_directory_format() -> None:
    """4.2BSD's: no type, a 16-bit name length."""
    content = image("ufs1-4k-512")
    fs = mount(content)
    expected = names(fs, b"/boot")
    for directory in (fs.lookup(b"/"), fs.lookup(b"/boot")):
        base, offset = directory.pointers[0] * 512, 0
        while offset < directory.size:
            _, reclen, _, namlen = struct.unpack_from("<IHBB", content, base + offset)
            struct.pack_into("<BB", content, base + offset + 6, namlen, 0)
            offset += reclen
    struct.pack_into("<i", content, 8192 + 1320, 0)
    fs = mount(content)
    assert names(fs, b"/boot") == expected
    assert {kind for _, kind, _ in fs.readdir(fs.lookup(b"/boot"))} == {0}
    assert read_all(fs, b"/boot/loader.conf") == b'autoboot_delay="1"\n'
