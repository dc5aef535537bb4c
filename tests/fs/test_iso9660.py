"""ISO 9660: images by xorriso and makefs, twiddles as FreeBSD's loader printed them, and damage."""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.errors import BhyveloadError, FileSystemError
from bhyveload.freebsd_errno import EFBIG, EINVAL, EIO, ELOOP, ENOENT, ENOTDIR, EROFS
from bhyveload.fs import iso9660
from bhyveload.fs.iso9660_directory import IsoNode
from bhyveload.fs.stat import DT_DIR, DT_REG, S_IFLNK, S_IFMT
from support.devices import Hostless
from support.images import require, run_tool
from support.places import DATA

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from bhyveload.fs.interface import FileSystem, FileSystemModule

ISO_DATA = DATA / "iso"

KERNEL = bytes(i * 7 % 256 for i in range(20000))
LONG = b"n" * 255
FILES = {
    b"/boot/kernel/kernel": KERNEL,
    b"/boot/loader.conf": b'autoboot_delay="1"\n',
    b"/boot/empty": b"",
    b"/1/2/3/4/5/6/7/8/9/10/deep": b"deep\n",
    b"/" + LONG: b"long\n",
    b"/README": b"upper\n",
    b"/CaseD": b"mixed\n",
    **{b"/many/file-number-%04d.txt" % i: b"%d\n" % i for i in range(300)},
}
LINKS = {
    b"/k": b"boot/kernel",
    b"/abs": b"/boot/loader.conf",
    b"/1/2/up": b"../../boot/./kernel/kernel",
    b"/loop1": b"loop2",
    b"/loop2": b"loop1",
    b"/longlink": b"/".join([b"x" * 200] * 3),
    b"/slash": b"/",
    b"/dangling": b"nowhere",
    b"/trail": b"boot",
}

# FreeBSD 13.2's loader with twiddle_divisor=1 on twiddle.iso (golden probe twiddle-every-iso): characters printed by
# `more PATH`.  One is the UFS open that comes first; a missing file is three walks (path, path.gz, path.bz2).
TWIDDLES = [
    (b"/boot/f", 3, 1),
    (b"/boot/l", 3, 1),
    (b"/boot/ll", 3, 1),
    (b"/a/b/c/d/e", 6, 1),
    (b"/nope", 6, 3),
    (b"/boot/nope", 9, 3),
    (b"/boot/f/x", 12, 3),
]


class Disk(Hostless):
    """A disk in memory."""

    sector_size = 512
    read_only = True

    def __init__(self, data: bytes | bytearray) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, length: int) -> memoryview:
        if offset < 0 or offset + length > self.size:
            raise FileSystemError(EIO, f"disk: read of {length} bytes at {offset}")
        return memoryview(self.data)[offset : offset + length]

    def write(self, offset: int, data: bytes | memoryview) -> None:
        raise AssertionError("an ISO 9660 file system is never written")


def quiet(n: int) -> None:
    pass


def image(name: str) -> bytes:
    return zstd.decompress((ISO_DATA / f"{name}.iso.zst").read_bytes())


def mounted(name: str, strict: bool = False) -> iso9660.Iso9660FileSystem:
    return iso9660.probe(Disk(image(name)), quiet, strict)


def content(fs: iso9660.Iso9660FileSystem, path: bytes) -> bytes:
    file = fs.open(fs.lookup(path))
    return b"".join(file.read(0, file.size))


def walk(fs: FileSystem, path: bytes = b"") -> dict[bytes, int]:
    """{path: d_type} of everything below ``path``."""
    found = {}
    for _, kind, name in fs.readdir(fs.lookup(path or b"/")):
        if name not in (b".", b".."):
            found[path + b"/" + name] = kind
            if kind == DT_DIR:
                found.update(walk(fs, path + b"/" + name))
    return found


def test_module_is_a_file_system_module() -> None:
    module: FileSystemModule = iso9660
    assert module.probe(Disk(image("rockridge")), quiet).name == "cd9660"


@pytest.mark.parametrize("name", ["rockridge", "relocated"])
def test_every_file_and_name(name: str) -> None:
    fs = mounted(name)
    found = walk(fs)
    hidden = {path for path in found if path.startswith(b"/.rr_moved")}
    regular = {path for path, kind in found.items() if kind == DT_REG} - hidden
    if name == "relocated":  # makefs cuts names
        regular = {path.ljust(256, b"n") if path.startswith(b"/nnn") else path for path in regular}
    assert regular == FILES.keys() | LINKS.keys()
    for path, expected in FILES.items():
        if not path.startswith(b"/nnn") or name == "rockridge":
            assert content(fs, path) == expected, path


@pytest.mark.parametrize("name", ["rockridge", "relocated"])
def test_links(name: str) -> None:
    fs = mounted(name)
    for path, text in LINKS.items():
        node = fs.lookup(path, follow=False)
        assert fs.readlink(node) == text, path
        assert fs.stat(node).mode & S_IFMT == S_IFLNK
    assert content(fs, b"/k/kernel") == KERNEL
    assert content(fs, b"/1/2/up") == KERNEL
    assert content(fs, b"/abs") == FILES[b"/boot/loader.conf"]
    assert content(fs, b"/slash/slash/trail/loader.conf") == FILES[b"/boot/loader.conf"]
    assert fs.lookup(b"/slash") is fs.lookup(b"/")
    assert fs.lookup(b"/trail/").is_directory
    assert content(fs, b"/trail//kernel/../../../../1/2/./up") == KERNEL
    for path, number in [(b"/loop1", ELOOP), (b"/dangling", ENOENT), (b"/abs/", ENOTDIR)]:
        with pytest.raises(FileSystemError) as caught:
            fs.lookup(path)
        assert caught.value.errno == number, path
    with pytest.raises(FileSystemError):
        fs.readlink(fs.lookup(b"/boot/loader.conf"))


def test_strict_is_cd9660() -> None:
    """Links are empty files, continued names their ISO names, a relocated directory an empty file."""
    fs = mounted("rockridge", strict=True)
    assert content(fs, b"/boot/kernel/kernel") == KERNEL
    assert content(fs, b"/abs") == b""
    assert fs.stat(fs.lookup(b"/abs", follow=False)).mode == 0o100444
    assert b"/" + LONG not in walk(fs)
    for path in (b"/" + LONG, b"/boot/kernel/..x", b"//boot", b"/k/kernel"):
        with pytest.raises(FileSystemError) as caught:
            fs.lookup(path)
        assert caught.value.errno == ENOENT
    moved = walk(mounted("relocated", strict=True))
    assert b"/1/2/3/4/5/6/7/8/9/10/deep" not in moved
    assert b"/.rr_moved/8/9/10/deep" in moved


def test_parent_of_a_relocated_directory() -> None:
    fs = mounted("relocated")
    assert content(fs, b"/1/2/3/4/5/6/7/8/../../../../../../up") == KERNEL


def test_case_of_names() -> None:
    """cd9660.c: a lower-case letter finds an upper-case Rock Ridge name, never the other way; ISO names exactly."""
    fs = mounted("rockridge")
    assert content(fs, b"/readme") == content(fs, b"/ReadMe") == b"upper\n"
    assert content(fs, b"/cased") == b"mixed\n"
    plain = mounted("plain")
    assert content(plain, b"/LOADER.CON;1") == FILES[b"/boot/loader.conf"]
    assert content(plain, b"/KERNEL/KERNEL.;1") == KERNEL
    for system, path in [(fs, b"/CASED"), (fs, b"/BOOT"), (plain, b"/LOADER.CON"), (plain, b"/loader.con;1")]:
        with pytest.raises(FileSystemError) as caught:
            system.lookup(path)
        assert caught.value.errno == ENOENT, path


def test_twiddles_of_the_real_loader() -> None:
    calls: list[int] = []
    fs = iso9660.probe(Disk(image("twiddle")), calls.append, strict=True)
    assert calls == [1]
    for path, printed, walks in TWIDDLES:
        calls.clear()
        for suffix in (b"", b".gz", b".bz2")[:walks]:
            calls.append(1)  # the UFS attempt
            try:
                fs.lookup(path + suffix)
            except FileSystemError as error:
                assert error.errno == ENOENT
                assert walks == 3
            else:
                assert walks == 1
        assert calls == [1] * printed, path
    calls.clear()
    fs.lookup(b"/")
    assert calls == [1]


def test_twiddles_of_data() -> None:
    """One tw(16) a block, none for a block that is still the remembered one; `readtest` read 547 blocks."""
    calls: list[int] = []
    fs = iso9660.probe(Disk(image("twiddle")), calls.append)
    file = fs.open(fs.lookup(b"/boot/big"))
    calls.clear()
    for offset in range(0, file.size, 512):
        file.read(offset, 512)
    assert calls == [16] * 547
    calls.clear()
    file.read(0, file.size)
    assert calls == [16] * 547
    file.read(file.size - 10, 10)
    assert calls == [16] * 547
    node = fs.lookup(b"/boot")
    calls.clear()
    list(fs.readdir(node))
    assert calls == [16]


def test_not_an_iso() -> None:
    calls: list[int] = []
    for data, number in [(bytes(1 << 20), EINVAL), (bytes(700), EIO), (image("plain")[: 17 * 2048], EIO)]:
        calls.clear()
        if len(data) == 17 * 2048:
            data = data[: 16 * 2048] + b"\0" + data[16 * 2048 + 1 :]
        with pytest.raises(FileSystemError) as caught:
            iso9660.probe(Disk(data), calls.append)
        assert caught.value.errno == number
        assert calls == [1] * (2 if len(data) == 17 * 2048 else 1)
    small_blocks = bytearray(image("plain"))
    small_blocks[16 * 2048 + 128] = 1
    with pytest.raises(FileSystemError) as caught:
        iso9660.probe(Disk(small_blocks), quiet)
    assert caught.value.errno == EINVAL
    endless = bytearray(b"\0CD001" + bytes(2042)) * 1000
    calls.clear()
    with pytest.raises(FileSystemError) as caught:
        iso9660.probe(Disk(endless), calls.append)
    assert len(calls) <= 256


def record_of(data: bytearray, name: bytes) -> int:
    """Offset of the directory record with the ISO name ``name``."""
    return data.index(bytes((len(name),)) + name) - 32


def test_multi_extent_file() -> None:
    """A file in two records is one file; cd9660.c reads the first extent."""
    data = bytearray(image("plain"))
    first = record_of(data, b"LOADER.CON;1")
    length = data[first]
    kernel = data.index(KERNEL) // 2048
    second = bytearray(data[first : first + length])
    data[first + 10 : first + 14] = (4096).to_bytes(4, "little")
    data[first + 2 : first + 6] = kernel.to_bytes(4, "little")
    data[first + 25] |= 0x80
    second[2:6] = (kernel + 2).to_bytes(4, "little")
    second[10:14] = (len(KERNEL) - 4096).to_bytes(4, "little")
    data[first + length : first + 2 * length] = second
    fs = iso9660.probe(Disk(data), quiet)
    assert content(fs, b"/LOADER.CON;1") == KERNEL
    file = fs.open(fs.lookup(b"/LOADER.CON;1"))
    assert b"".join(file.read(4000, 200)) == KERNEL[4000:4200]
    assert [name for *_, name in fs.readdir(fs.lookup(b"/"))].count(b"LOADER.CON;1") == 1
    assert content(iso9660.probe(Disk(data), quiet, True), b"/LOADER.CON;1") == KERNEL[:4096]
    data[first + length + 25] |= 0x80
    with pytest.raises(FileSystemError) as caught:
        content(iso9660.probe(Disk(data), quiet), b"/LOADER.CON;1")
    assert caught.value.errno == EIO


def test_refusals() -> None:
    fs = mounted("rockridge")
    file = fs.open(fs.lookup(b"/boot/loader.conf"))
    with pytest.raises(FileSystemError) as caught:
        file.write(0, b"x")
    assert caught.value.errno == EROFS
    with pytest.raises(FileSystemError) as caught:
        file.read(-1, 1)
    assert caught.value.errno == EINVAL
    assert b"".join(file.read(19, 5)) == b""
    with pytest.raises(FileSystemError) as caught:
        list(fs.readdir(fs.lookup(b"/boot/loader.conf")))
    assert caught.value.errno == ENOTDIR
    data = bytearray(image("rockridge"))
    data[16 * 2048 + 156 + 10 : 16 * 2048 + 156 + 14] = b"\xff" * 4
    with pytest.raises(FileSystemError) as caught:
        iso9660.probe(Disk(data), quiet).lookup(b"/nope")
    assert caught.value.errno == EFBIG


def exercise(data: bytes | bytearray) -> None:
    """What a loader does with a volume; nothing but our own errors may come out."""
    fs = iso9660.probe(Disk(data), quiet)
    for path in (b"/boot/kernel/kernel", b"/1/2/up", b"/many/file-number-0299.txt", b"/k/kernel", b"/" + LONG):
        try:
            file = fs.open(fs.lookup(path))
            file.read(0, 1 << 20)
        except FileSystemError:
            pass
    for path in (b"/", b"/many", b"/1"):
        try:
            for *_, name in fs.readdir(fs.lookup(path)):
                assert isinstance(name, bytes)
        except FileSystemError:
            pass


@pytest.mark.parametrize("name", ["rockridge", "relocated"])
def test_mutants(name: str) -> None:
    """Bytes flipped in descriptors and directories, images cut: only FileSystemError, and soon."""
    original = image(name)
    generator = random.Random(9660)
    directories = [
        16,
        *(n for n in range(18, len(original) // 2048) if original[n * 2048 + 33 : n * 2048 + 34] == b"\0"),
    ]
    for _ in range(400):
        data = bytearray(original)
        for _ in range(generator.randrange(1, 9)):
            position = generator.choice(directories) * 2048 + int(generator.random() ** 2 * 2048)
            data[position % len(data)] = generator.choice((0, 1, 0x7F, 0xFF, generator.randrange(256)))
        if generator.random() < 0.2:
            del data[generator.randrange(17 * 2048, len(data)) :]
        started = time.monotonic()
        try:
            exercise(data)
        except BhyveloadError:
            pass
        assert time.monotonic() - started < 2


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2048), st.binary(max_size=300))
def test_any_directory(block: bytes, area: bytes) -> None:
    """A root directory of arbitrary bytes behind a true `.` record."""
    data = bytearray(image("twiddle")[: 25 * 2048])
    root = int.from_bytes(data[16 * 2048 + 158 : 16 * 2048 + 162], "little") * 2048
    here = data[root]
    data[root + here : root + 2048] = (bytes((len(area) % 256,)) + area + block).ljust(2048, b"\0")[: 2048 - here]
    fs = iso9660.probe(Disk(data), quiet)
    try:
        for *_, name in fs.readdir(fs.lookup(b"/")):
            fs.lookup(b"/" + name)
    except FileSystemError:
        pass


def test_permissions_owners_and_times_are_the_medium_s(tmp_path: Path) -> None:
    """What xorriso wrote, of what the tree has; the loader's own stat(2) goes on giving what cd9660_stat gives."""
    require("xorriso")
    tree = tmp_path / "tree"
    (tree / "folder").mkdir(parents=True)
    modes = {"folder/secret": 0o600, "folder/program": 0o4755, "plain": 0o644, "folder": 0o750}
    for number, (name, mode) in enumerate(modes.items()):
        path = tree / name
        if not path.exists():
            path.write_text(name)
        path.chmod(mode)
        os.utime(path, (1_000_000_000, 1_000_000_000 + 86_400 * 100 * number))
    (tree / "link").symlink_to("folder/secret")
    iso = tmp_path / "iso"
    run_tool("xorriso", "-as", "mkisofs", "-R", "-o", iso, tree)
    fs = iso9660.probe(Disk(iso.read_bytes()), quiet)
    for name in ("", *modes, "link"):
        theirs, ours = (tree / name).lstat(), fs.stat(fs.lookup(b"/" + name.encode(), follow=False))
        assert (ours.mode, ours.uid, ours.gid) == (theirs.st_mode, theirs.st_uid, theirs.st_gid), name
        assert ours.mtime == int(theirs.st_mtime), name
    strict = iso9660.probe(Disk(iso.read_bytes()), quiet, strict=True)
    stat = strict.stat(strict.lookup(b"/folder/secret"))
    assert (stat.mode, stat.uid, stat.mtime) == (0o100444, 0, 0)


def test_without_rock_ridge_the_record_s_own_date_counts() -> None:
    fs = mounted("plain")
    stat = fs.stat(next(node for _, node in fs.children(fs.root) if isinstance(node, IsoNode)))
    assert stat.mode & 0o777 == 0o555
    assert 1_500_000_000 < stat.mtime < 2_000_000_000
