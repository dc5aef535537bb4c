"""Compressed images: .xz in blocks read as they are, everything else unpacked into the cache, once."""

from __future__ import annotations

import bz2
import fcntl
import gzip
import lzma
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.confined.deadline import Deadline
from bhyveload.errors import HostError, ImageError, LoaderCrashed
from bhyveload.handoff.disks import Disk, unpacked
from bhyveload.image import cache, xz
from bhyveload.image.open import open_disk
from bhyveload.image.raw import open_raw
from bhyveload.image.xz import NoIndex, XzImage
from support.image_testing import MIB, BytesDevice, compare_reads, convert, require, run_tool, sample_disk

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SAMPLE = sample_disk(3 * MIB, seed=11)


def pack_zstd(data: bytes) -> bytes:
    """As the zstd program does it, with a checksum."""
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "xz": lambda data: lzma.compress(data, preset=0),
    "gz": gzip.compress,
    "zst": pack_zstd,
    "bz2": bz2.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE, preset=0),
}


class Told:
    """A Progress that remembers, in the parent."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def begin(self, name: str, folder: str) -> None:
        self.begun.append(name)

    def step(self, done: int, total: int) -> None:
        assert 0 <= done <= total

    def end(self) -> None:
        pass


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the cache is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(cache, "_FALLBACK", str(tmp_path / "fallback"))
    return tmp_path / "caches" / "bhyveload"


def read_packed(path: Path, sandbox: bool = False) -> bytes:
    disk = open_disk(str(path), sandbox=sandbox)
    try:
        return bytes(disk.read(0, disk.size))
    finally:
        disk.close()


# xz, block by block


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3)), min_size=1, max_size=6),
    st.sampled_from([lzma.CHECK_NONE, lzma.CHECK_CRC32, lzma.CHECK_CRC64, lzma.CHECK_SHA256]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=100, deadline=None)
def test_any_place_in_any_streams(parts: list[tuple[int, int]], check: int, chance: random.Random) -> None:
    """Streams one behind the other, with padding between them (liblzma's own writer makes one block of each)."""
    plain = packed = b""
    for size, padding in parts:
        data = chance.randbytes(size // 2) + bytes(size - size // 2)
        plain += data
        packed += lzma.compress(data, check=check, preset=0) + bytes(4 * padding)
    image = XzImage(BytesDevice(packed), "xz")
    assert image.size == len(plain)
    for _ in range(10):
        offset = chance.randrange(len(plain) + 1)
        length = chance.randrange(len(plain) - offset + 1)
        assert image.read(offset, length) == plain[offset : offset + length]


@pytest.mark.parametrize("options", ["-0", "-0T2", "-0 --block-size=64KiB", "--x86 --lzma2=preset=0", "-0 -C none"])
def test_files_of_the_xz_program(tmp_path: Path, options: str) -> None:
    require("xz")
    path = tmp_path / "disk"
    path.write_bytes(SAMPLE)
    run_tool("xz", "-k", *options.split(), path)
    compare_reads(XzImage(open_raw(f"{path}.xz"), "xz"), SAMPLE, reads=40)


def test_one_large_block_has_to_be_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = lzma.compress(SAMPLE, preset=0)
    assert XzImage(BytesDevice(packed), "xz").size == len(SAMPLE)
    monkeypatch.setattr(xz, "MAX_BLOCK", MIB)
    with pytest.raises(NoIndex):
        XzImage(BytesDevice(packed), "xz")


def test_damage_in_a_block_is_found_when_it_is_read(tmp_path: Path) -> None:
    require("xz")
    path = tmp_path / "disk"
    path.write_bytes(random.Random(1).randbytes(MIB))
    run_tool("xz", "-k", "-0", "--block-size=256KiB", path)
    packed = bytearray(Path(f"{path}.xz").read_bytes())
    packed[700_000] ^= 1  # in the third block
    image = XzImage(BytesDevice(bytes(packed)), "xz")
    assert bytes(image.read(0, 512 << 10)) == path.read_bytes()[: 512 << 10]
    with pytest.raises(ImageError, match="compressed data"):
        image.read(600 << 10, 512)
    last = len(packed) - 12 - 4 - 8  # the checksum of a block is verified, too, not only its data
    for at in range(last - 60, last):
        broken = bytes(packed[:at]) + bytes((packed[at] ^ 1,)) + bytes(packed[at + 1 :])
        try:
            XzImage(BytesDevice(broken), "xz").read(768 << 10, 256 << 10)
        except (ImageError, NoIndex):
            continue
        pytest.fail(f"a flipped bit at {at} went unnoticed")


@pytest.mark.parametrize(("size", "message"), [(100_000, "no xz stream footer"), (10, "the xz stream footer")])
def test_cut_short_xz(size: int, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        XzImage(BytesDevice(lzma.compress(SAMPLE, preset=0)[:size]), "xz")
    assert caught.value.hint == "download or copy the file again"  # qemu-img knows no xz


def test_blocks_are_read_without_a_cache(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "disk.raw.xz"
    path.write_bytes(lzma.compress(SAMPLE, preset=0))
    assert read_packed(path) == SAMPLE
    assert not folder.exists()


# The cache


@pytest.mark.parametrize("packer", ["gz", "zst", "bz2", "lzma"])
@pytest.mark.parametrize("sandbox", [True, False])
def test_unpacked_once(tmp_path: Path, folder: Path, packer: str, sandbox: bool) -> None:
    path = tmp_path / f"Disk 1.raw.{packer}"
    path.write_bytes(PACKERS[packer](SAMPLE))
    told = Told()
    for _ in range(2):
        disk = open_disk(str(path), progress=told, sandbox=sandbox)
        assert (disk.name, disk.size, disk.read_only) == (str(path), len(SAMPLE), True)
        assert bytes(disk.read(0, disk.size)) == SAMPLE
        assert disk.describe() == {
            "path": str(path),
            "format": "raw",
            "size": len(SAMPLE),
            "read_only": True,
            "sector_size": 512,
            "compression": packer,
            "snapshot": True,
        }
        disk.close()
    assert told.begun == [str(path)]
    (entry,) = os.listdir(folder)
    assert entry.endswith("-Disk_1.raw")
    assert (folder / entry).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_another_content_is_another_entry(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "disk.gz"
    path.write_bytes(gzip.compress(SAMPLE))
    assert read_packed(path) == SAMPLE
    path.write_bytes(gzip.compress(SAMPLE[::-1]))
    os.utime(path, (1, 1))
    assert read_packed(path) == SAMPLE[::-1]
    os.utime(path, (2, 2))
    assert read_packed(path) == SAMPLE[::-1]
    assert len(os.listdir(folder)) == 3
    os.symlink(path, tmp_path / "link")
    assert read_packed(tmp_path / "link") == SAMPLE[::-1]
    assert len(os.listdir(folder)) == 3


def test_holes_stay_holes(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "disk.zst"
    path.write_bytes(pack_zstd(bytes(64 * MIB) + SAMPLE + bytes(64 * MIB)))
    disk = open_disk(str(path), sandbox=False)
    assert disk.size == 128 * MIB + len(SAMPLE)
    assert bytes(disk.read(64 * MIB, len(SAMPLE))) == SAMPLE
    (entry,) = os.listdir(folder)
    assert (folder / entry).stat().st_blocks * 512 <= len(SAMPLE)


@pytest.mark.parametrize("packer", PACKERS)
def test_several_streams_and_padding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packer: str, folder: Path
) -> None:
    monkeypatch.setattr(xz, "MAX_BLOCK", 10)  # so that xz is unpacked, too
    pack = PACKERS[packer]
    path = tmp_path / "disk"
    path.write_bytes(pack(SAMPLE[:MIB]) + pack(b"") + pack(SAMPLE[MIB:]) + bytes(512))
    assert read_packed(path) == SAMPLE
    path.write_bytes(b"".join(pack(SAMPLE[at : at + 100]) for at in range(0, 100_000, 100)))
    os.utime(path, (1, 1))
    assert read_packed(path) == SAMPLE[:100_000]
    assert len(os.listdir(folder)) == 2


@pytest.mark.parametrize("packer", PACKERS)
def test_damaged_streams_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packer: str, folder: Path
) -> None:
    monkeypatch.setattr(xz, "MAX_BLOCK", 10)
    packed = PACKERS[packer](SAMPLE)
    path = tmp_path / "disk"
    for content, message in (
        (packed[: len(packed) // 2], "cut short"),
        (packed[:-3], "cut short"),
        (packed[:100_000] + b"damaged" * 100 + packed[100_700:], "near byte"),
        (packed + b"more", "near byte|more was added"),
        (packed[:12], "cut short"),
    ):
        if packer == "lzma" and (len(content) < 14 or b"damaged" in content):
            continue  # shorter than a header, and there is no checksum
        path.write_bytes(content)
        with pytest.raises(ImageError, match=message):
            read_packed(path)
    assert not folder.exists() or os.listdir(folder) == []


@pytest.mark.parametrize(("program", "suffix"), [("bzip2", "bz2"), ("lzma", "lzma"), ("xz --format=lzma -9", "lzma")])
def test_files_of_other_programs(tmp_path: Path, folder: Path, program: str, suffix: str) -> None:
    require(program.split(maxsplit=1)[0])
    raw = tmp_path / "disk"
    raw.write_bytes(SAMPLE)
    run_tool(*program.split(), "-k", raw)
    assert read_packed(raw.with_suffix("." + suffix)) == SAMPLE


def unpack_xz(path: Path) -> Path:
    """In the cache, whether or not it could be read in blocks: what bhyverun does."""
    source = open_raw(str(path), read_only=True)
    try:
        return Path(cache.unpacked(source, "xz"))
    finally:
        source.close()


@pytest.mark.parametrize("processors", [1, 2, 3, 64])
def test_blocks_are_unpacked_by_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path, processors: int
) -> None:
    require("xz")
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    path = tmp_path / "disk"
    path.write_bytes(SAMPLE + bytes(MIB) + b"end")
    run_tool("xz", "-k", "-0", "--block-size=200KiB", path)
    unpacked = unpack_xz(tmp_path / "disk.xz")
    assert unpacked.read_bytes() == path.read_bytes()
    assert unpacked.stat().st_blocks * 512 <= len(SAMPLE) + MIB // 2
    assert os.listdir(folder) == [unpacked.name]


def children() -> set[str]:
    """The process numbers of this process's children: another test's may be among them."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def test_one_of_several_processes_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    require("xz")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    before = children()
    path = tmp_path / "disk"
    path.write_bytes(random.Random(1).randbytes(2 * MIB))
    run_tool("xz", "-k", "-0", "--block-size=100KiB", path)
    packed = bytearray((tmp_path / "disk.xz").read_bytes())
    for place in (150_000, 1_900_000):
        broken = packed[:]
        broken[place] ^= 0x10
        (tmp_path / "broken.xz").write_bytes(broken)
        with pytest.raises(ImageError, match="compressed data"):
            unpack_xz(tmp_path / "broken.xz")
        assert os.listdir(folder) == []
    monkeypatch.setattr(cache, "RESERVE", 1 << 62)
    with pytest.raises(HostError, match="No space left on device"):
        unpack_xz(tmp_path / "disk.xz")
    assert os.listdir(folder) == []
    assert children() <= before  # nobody is left behind


def test_what_is_compressed_twice(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(gzip.compress(lzma.compress(b"x" * 10_000)))
    with pytest.raises(ImageError, match="another compressed file in it"):
        read_packed(path)
    path.write_bytes(lzma.compress(gzip.compress(b"x" * 10_000)))
    with pytest.raises(ImageError, match="another compressed file in it"):
        read_packed(path)


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(gzip.compress(SAMPLE))
    monkeypatch.setattr(cache, "RESERVE", 1 << 62)
    with pytest.raises(HostError, match="No space left on device") as caught:
        read_packed(path)
    assert str(folder) in caught.value.message and "XDG_CACHE_HOME" in caught.value.hint
    assert os.listdir(folder) == []


def test_a_full_file_system(tmp_path: Path) -> None:
    """A real one, in a mount namespace of its own where that is allowed."""
    path = tmp_path / "disk"
    path.write_bytes(gzip.compress(random.Random(1).randbytes(4 * MIB)))
    (tmp_path / "small").mkdir()
    code = (
        "import os, sys; from bhyveload.image import cache; cache.RESERVE = -(1 << 40)\n"
        "from bhyveload.image.open import open_disk; from bhyveload.errors import HostError\n"
        "try: open_disk(sys.argv[1], sandbox=False)\n"
        "except HostError as error: print(error, os.listdir(os.environ['XDG_CACHE_HOME'] + '/bhyveload'))"
    )
    script = 'mount -t tmpfs -o size=1M none "$1" && XDG_CACHE_HOME="$1" exec "$2" -c "$3" "$4"'
    words = ["unshare", "-rm", "sh", "-c", script, "sh", str(tmp_path / "small"), sys.executable, code, str(path)]
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this user may not make a mount namespace")
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    if "mount:" in answer.stderr:
        pytest.skip(f"this user may not mount a tmpfs: {answer.stderr.strip()}")
    assert "No space left on device []" in answer.stdout, answer.stderr


def test_a_disk_larger_than_any_file_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(gzip.compress(bytes(8 * MIB)))
    monkeypatch.setattr(cache, "MAX_SIZE", 4 * MIB)
    with pytest.raises(ImageError, match="more than 4194304 bytes come out of it"):
        read_packed(path)
    assert os.listdir(folder) == []


def test_the_least_recently_used_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(cache, "LIMIT", 5 * MIB)
    noise = random.Random(2)
    for name in "abc":
        (tmp_path / name).write_bytes(gzip.compress(noise.randbytes(2 * MIB), 1))
    read_packed(tmp_path / "a")
    read_packed(tmp_path / "b")
    for number, name in enumerate(sorted(os.listdir(folder), key=lambda name: name[-1])):
        os.utime(folder / name, (100 - number, 100 - number))  # b was used before a
    read_packed(tmp_path / "c")
    assert sorted(name[-1] for name in os.listdir(folder)) == ["a", "c"]


def test_what_a_killed_process_left(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(gzip.compress(SAMPLE))
    read_packed(path)
    (entry,) = os.listdir(folder)
    (folder / entry).rename(folder / f"{entry}.part")
    with open(folder / f"{entry}.part", "r+b") as file:
        file.write(b"half of another disk" * 100_000)
    assert read_packed(path) == SAMPLE
    assert os.listdir(folder) == [entry]


def test_two_at_once(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(gzip.compress(SAMPLE))
    code = (
        "import sys; from bhyveload.image.open import open_disk; d = open_disk(sys.argv[1], sandbox=False);"
        "import zlib; print(zlib.crc32(d.read(0, d.size)))"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [run.communicate()[0] for run in runs] == [f"{zlib.crc32(SAMPLE)}\n"] * 4
    assert len(os.listdir(folder)) == 1


def test_places_for_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "disk"
    path.write_bytes(gzip.compress(SAMPLE))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    read_packed(path)
    assert len(os.listdir(tmp_path / "home" / ".cache" / "bhyveload")) == 1
    assert not Path("relative").exists()


def test_a_cache_that_others_could_write_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(gzip.compress(SAMPLE))
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    read_packed(path)
    assert os.listdir(folder) == []
    assert len(os.listdir(tmp_path / f"fallback-{os.getuid()}")) == 1
    monkeypatch.setattr(cache, "_FALLBACK", str(tmp_path / "disk" / "below"))
    with pytest.raises(HostError, match="must be a directory that only you can write"):
        read_packed(path)


def test_an_entry_of_somebody_else_is_not_used(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(gzip.compress(SAMPLE))
    read_packed(path)
    (entry,) = os.listdir(folder)
    (folder / entry).unlink()
    (tmp_path / "other").write_bytes(b"x" * 4096)
    os.symlink(tmp_path / "other", folder / entry)
    assert read_packed(path) == SAMPLE
    assert (tmp_path / "other").read_bytes() == b"x" * 4096


def test_a_great_many_tiny_streams(tmp_path: Path) -> None:
    """What is handed back to the next stream is little: otherwise this would copy gigabytes."""
    path = tmp_path / "disk"
    path.write_bytes(gzip.compress(bytes(4096)) * 20_000 + gzip.compress(b"end"))
    assert read_packed(path) == bytes(4096 * 20_000) + b"end"


# What FreeBSD's project offers for download: FreeBSD-14.3-RELEASE-amd64.{raw,qcow2,vmdk,vhd}.xz


@pytest.mark.parametrize(("name", "form"), [("raw", "raw"), ("qcow2", "qcow2"), ("vmdk", "vmdk"), ("vhd", "vpc")])
@pytest.mark.parametrize("blocks", [True, False])
def test_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: str, blocks: bool) -> None:
    require("xz")
    raw = tmp_path / "disk"
    raw.write_bytes(SAMPLE)
    image = convert(raw, tmp_path / f"FreeBSD.{name}", form)
    run_tool("xz", "-0", "--block-size=256KiB", image)
    if not blocks:
        monkeypatch.setattr(xz, "MAX_BLOCK", 100)
    disk = open_disk(f"{image}.xz")
    compare_reads(disk, SAMPLE, reads=20)
    assert disk.describe()["format"] == ("vhd" if name == "vhd" else name)
    disk.close()


@pytest.mark.parametrize(
    ("packer", "module", "hint"),
    [
        ("xz", "lzma", "use another one"),
        ("gz", "zlib", "use another one"),
        ("zst", "bhyveload.image.zstd", "backports"),
        ("bz2", "bz2", "use another one"),
        ("lzma", "lzma", "use another one"),
    ],
)
def test_a_python_that_lacks_the_library(tmp_path: Path, packer: str, module: str, hint: str) -> None:
    path = tmp_path / "disk"
    path.write_bytes(PACKERS[packer](SAMPLE))
    code = (
        "import sys; sys.modules[sys.argv[2]] = None\n"
        "from bhyveload.errors import ImageError; from bhyveload.image.open import open_disk\n"
        "try: open_disk(sys.argv[1], sandbox=False)\n"
        "except ImageError as error: print(error.message, error.hint)"
    )
    answer = subprocess.run([sys.executable, "-c", code, path, module], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("this Python cannot") and hint in answer.stdout


def test_what_a_killed_run_left_growing(tmp_path: Path, folder: Path) -> None:
    """Of whatever image: the next one to unpack anything removes it; one that is at work is left alone."""
    folder.mkdir(parents=True, mode=0o700)
    dead, alive, other = (folder / name for name in ("1-dead.part", "2-alive.part", "3-other"))
    for path in (dead, alive, other):
        path.write_bytes(bytes(4096))
    path = tmp_path / "disk.gz"
    path.write_bytes(gzip.compress(SAMPLE))
    with alive.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert read_packed(path) == SAMPLE
        assert not dead.exists()
        assert alive.exists()
        assert other.exists()


def test_what_grows_counts_against_the_limit(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True, mode=0o700)
    alive, old = folder / "2-alive.part", folder / "3-old"
    alive.write_bytes(os.urandom(8 * MIB))
    old.write_bytes(os.urandom(1 * MIB))
    os.utime(old, (1, 1))
    monkeypatch.setattr(cache, "LIMIT", 8 * MIB)
    path = tmp_path / "disk.gz"
    path.write_bytes(gzip.compress(SAMPLE))
    with alive.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert read_packed(path) == SAMPLE
    assert alive.exists()
    assert not old.exists()


# The user's view


def endless(path: Path) -> Path:
    """32 GiB of zero bytes in a few megabytes: unpacking takes longer than any test waits."""
    path.write_bytes(gzip.compress(bytes(16 * MIB)) * 2000)
    return path


def wait_for(folder: Path) -> Path:
    """The growing entry."""
    for _ in range(500):
        parts = list(folder.glob("*.part")) if folder.exists() else []
        if parts and parts[0].stat().st_size:
            return parts[0]
        time.sleep(0.02)
    raise AssertionError("nothing is unpacked")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, None), (signal.SIGKILL, -9)])
def test_interrupted(tmp_path: Path, folder: Path, number: int, status: int | None) -> None:
    words = [sys.executable, "-m", "bhyveload.cli.bhyveload", "--batch", "-d", str(endless(tmp_path / "disk")), "vm"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
        assert run.stdout is not None
        part = wait_for(folder)
        said = os.read(run.stdout.fileno(), 4096)
        run.send_signal(number)
        said += run.stdout.read()  # ends when the child, which has it too, is gone
        run.wait()
    assert b"unpacking it into" in said and b"Traceback" not in said
    if status is not None:
        assert run.returncode == status
    if number == signal.SIGINT:
        assert os.listdir(folder) == []
    else:  # what is left is nobody's: the next one takes it over
        fd = os.open(part, os.O_RDWR) if part.exists() else -1
        if fd >= 0:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(fd)


@pytest.mark.parametrize("program", ["bhyveload", "bhyvedisk"])
def test_the_time_that_is_given_is_for_unpacking_too(tmp_path: Path, folder: Path, program: str) -> None:
    disk = endless(tmp_path / "disk")
    words: list[str | Path] = ["info", disk] if program == "bhyvedisk" else ["--batch", "-d", disk, "vm"]
    command: list[str | Path] = [sys.executable, "-m", f"bhyveload.cli.{program}", "--timeout", "1", *words]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 70
    assert b"did not finish in 1 seconds (give it longer: --timeout)" in done.stderr
    assert os.listdir(folder) == []


@pytest.mark.parametrize("form", ["compressed", "vmdk"])
@pytest.mark.parametrize("seconds", [0.5, None])
def test_what_a_run_unpacks_has_its_time_as_well(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, form: str, seconds: float | None
) -> None:
    """Also without a word of the user's: then it is long, but not for ever."""

    def never(*_: object) -> int:
        while True:
            pass

    if seconds is None:
        monkeypatch.setattr(cache, "UNPACK_SECONDS", 0.5)
    if form == "compressed":
        disk = Disk(os.fspath(endless(tmp_path / "disk")), compression="gz")
    else:
        raw, path = tmp_path / "raw", tmp_path / "disk.vmdk"
        raw.write_bytes(SAMPLE)
        convert(raw, path, "vmdk")
        monkeypatch.setattr(cache, "flatten", never)
        disk = Disk(os.fspath(path), format="vmdk")
    with pytest.raises(LoaderCrashed, match=r"unpacking process did not finish in 0\.5 seconds") as caught:
        unpacked(disk, None, Deadline(seconds))
    assert "--timeout" in caught.value.hint
    assert os.listdir(folder) == []


def test_a_terminal_sees_it_count(tmp_path: Path, folder: Path) -> None:
    path = endless(tmp_path / "disk")
    words = [sys.executable, "-m", "bhyveload.cli.bhyveload", "--batch", "-d", str(path), "vm"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs) as run:
        os.close(theirs)
        said = b""
        deadline = time.monotonic() + 30
        while said.count(b" %") < 3 and time.monotonic() < deadline:
            said += os.read(ours, 4096)
        run.send_signal(signal.SIGINT)
        run.wait()
    assert re.search(rb"\rbhyveload.*/disk: unpacking it into .*/bhyveload, once:   0 %\x1b\[K\r", said)
    assert re.search(rb"once:   [1-9] %|once:   0 %.*once:   0 %", said)
    os.close(ours)
