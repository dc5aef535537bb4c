"""bhyvedisk: against the trees that makefs and xorriso were given, sha256sum, and recorded manifests."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bhyveload.cli import bhyvedisk
from bhyveload.cli.bhyvedisk import DiskRequest, parse
from bhyveload.confined.deadline import Deadline
from bhyveload.confined.reports import LOOKED
from bhyveload.errors import EX_DATAERR, EX_IOERR, EX_NOINPUT, EX_SOFTWARE, EX_USAGE, FileSystemError, UsageError
from bhyveload.inspect import tree
from bhyveload.inspect.listing import checksum_line, mode_text, shown, time_text
from bhyveload.inspect.sizes import human_size
from bhyveload.inspect.tree import Walk, find, members
from support import zfs_pools
from support.images import MIB, bsd_label, gpt_disk, make_ufs, mbr_disk, put, require, standard_disk, write_at
from support.places import ROOT
from support.ufs_images import DATA, decompress, image, manifest, mount

PROGRAM = (sys.executable, "-m", "bhyveload.cli.bhyvedisk")
FILES = {
    "boot/kernel/kernel": random.Random(1).randbytes(300_000),
    "boot/loader.conf": b'autoboot_delay="1"\n',
    "boot/empty": b"",
    "boot-old/x": b"sorts before boot/ as a path, after boot as a name\n",
    "etc/rc.conf": b'hostname="guest"\n',
}


def run(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*PROGRAM, *map(str, words)], capture_output=True, timeout=60, check=False, **options)


def output(*words: str | Path) -> bytes:
    """What the program prints when all goes well and it has nothing to add."""
    done = run(*words)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def failure(*words: str | Path) -> tuple[int, str]:
    """(exit status, the one line on standard error without the program's name) of a run that prints nothing else."""
    done = run(*words)
    assert done.stdout == b""
    text = done.stderr.decode("ascii")
    assert text.startswith("bhyvedisk.py: ")
    assert text.count("\n") == 1
    assert "internal error" not in text
    return done.returncode, text.removeprefix("bhyvedisk.py: ").rstrip("\n")


def plant(tree: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tree


@pytest.fixture(scope="module")
def ufs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("ufs")
    tree = plant(base / "tree")
    (tree / "boot/link").symlink_to("kernel/kernel")
    (tree / "boot/loop").symlink_to("loop")
    (tree / "boot/kernel/kernel").chmod(0o555)
    return make_ufs(tree, base / "ufs.img", 4 * MIB, 8192, 1024, version=1)


@pytest.fixture(scope="module")
def disk(ufs: Path) -> Path:
    return standard_disk(ufs.parent / "disk.img", ufs)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(tree, UFS of it) with names that steer terminals, break lines and are not text."""
    base = tmp_path_factory.mktemp("odd")
    tree = base / "tree"
    tree.mkdir()
    for name in (b"new\nline", b"car\rriage", b"back\\slash", b"\xff\xfe", b"\x1b[2J", b"plain", b"sp ace"):
        with open(os.fsencode(tree) + b"/" + name, "wb") as file:
            file.write(name)
    return tree, make_ufs(tree, base / "odd.img", 2 * MIB, 4096, 512, version=1)


# Checksums


@pytest.mark.parametrize("name", ["ufs1-32k", "ufs2-32k"])
def test_checksums_are_the_recorded_ones(tmp_path: Path, name: str) -> None:
    """Images by FreeBSD's own makefs; the manifest was made from the tree that went in."""
    image = tmp_path / "disk.img"
    image.write_bytes(decompress(DATA / f"{name}.img.zst"))
    recorded = manifest()[name]
    lines = sorted((path, what[0]) for path, (kind, *what) in recorded.items() if kind == "f")
    assert len(lines) > 20
    expected = "".join(f"{digest}  {path}\n" for path, digest in lines)
    assert output("checksum", image).decode() == expected
    below = "".join(f"{digest}  {path}\n" for path, digest in lines if path.startswith("/boot/sizes/"))
    assert output("checksum", image, "/boot/sizes").decode("ascii") == below


def sha256sum(tree: Path) -> bytes:
    """What coreutils says about a tree, with paths as the guest has them, in the order of their bytes."""
    require("sha256sum")
    names = sorted(
        b"/" + os.path.relpath(os.path.join(folder, name), os.fsencode(tree))
        for folder, _, names in os.walk(os.fsencode(tree))
        for name in names
        if not os.path.islink(os.path.join(folder, name))
    )
    lines = []
    for name in names:
        line = subprocess.run(["sha256sum", os.fsencode(tree) + name], check=True, capture_output=True).stdout
        lines.append(line.replace(os.fsencode(tree), b"", 1))
    return b"".join(lines)


def test_checksums_are_those_of_sha256sum(ufs: Path, odd: tuple[Path, Path]) -> None:
    tree, image = odd
    assert output("checksum", image) == sha256sum(tree)
    assert b"\\" in sha256sum(tree)
    assert output("checksum", ufs) == sha256sum(ufs.parent / "tree")
    assert output("checksum", ufs, "/etc/rc.conf") == sha256sum(ufs.parent / "tree").splitlines(True)[-1]


def test_checksums_of_an_iso_with_relocated_directories(tmp_path: Path) -> None:
    require("xorriso")
    tree = plant(tmp_path / "tree", {**FILES, "1/2/3/4/5/6/7/8/9/10/deep": b"deep\n", "n" * 255: b"long\n"})
    for options in (("-R",), ("-R", "-J")):
        image = tmp_path / "x.iso"
        subprocess.run(
            ["xorriso", "-as", "mkisofs", *options, "-o", image, tree], check=True, capture_output=True, timeout=60
        )
        assert output("checksum", image) == sha256sum(tree)
        assert output("cat", image, "/1/2/3/4/5/6/7/8/9/10/deep") == b"deep\n"
    require("makefs")
    subprocess.run(["makefs", "-t", "cd9660", "-o", "rockridge", image, tree / "1"], check=True, capture_output=True)
    assert output("checksum", image) == sha256sum(tree / "1")


def test_a_hybrid_image_is_an_iso(tmp_path: Path) -> None:
    """With a GPT and a FAT partition for UEFI beside the ISO 9660 file system, as install media have them."""
    require("xorriso", "mkfs.fat")
    tree = plant(tmp_path / "tree")
    fat = tmp_path / "efi.img"
    subprocess.run(["mkfs.fat", "-C", fat, "1440"], check=True, capture_output=True)
    image = tmp_path / "x.iso"
    hybrid = ("-append_partition", "2", "0xef", fat, "-appended_part_as_gpt", "-partition_offset", "16")
    words: list[str | Path] = ["xorriso", "-as", "mkisofs", "-R", "-V", "HYBRID", *hybrid, "-o", image, tree]
    subprocess.run(words, check=True, capture_output=True)
    assert image.read_bytes()[512:520] == b"EFI PART"
    assert output("checksum", image) == sha256sum(tree)
    text = output("info", image).decode("ascii")
    assert "image, " in text
    assert ", ISO 9660\n" in text
    assert 'ISO 9660 with Rock Ridge, label "HYBRID"' in text
    assert text.endswith("boots disk0s0: ISO 9660, /boot/kernel/kernel\n")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """400 MiB of holes, of which no more than a few are ever held."""
    tree = plant(tmp_path / "tree", {"a": b"a" * 5000})
    image = make_ufs(tree, tmp_path / "u", 2 * MIB, 4096, 512, version=1)
    content = bytearray(image.read_bytes())
    at = content.index((5000).to_bytes(8, "little"))
    size = 400 * MIB
    content[at : at + 8] = size.to_bytes(8, "little")
    content[at + 32 : at + 92] = bytes(60)  # di_db and di_ib
    image.write_bytes(content)
    script = (  # a small process between this large one and the program: a fork counts, too
        "import resource, subprocess, sys\n"
        "size = 0\n"
        "with subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE) as process:\n"
        "    while piece := process.stdout.read(1 << 20):\n"
        "        size += len(piece)\n"
        "        assert not piece.strip(b'\\0')\n"
        "print(process.returncode, size, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    words = [sys.executable, "-c", script, *PROGRAM, "cat", str(image), "/a"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    status, count, kibibytes = map(int, done.stdout.split())
    assert (status, count) == (0, size)
    assert kibibytes < 100 * 1024


def test_the_checksum_of_a_file_that_claims_more_than_the_disk_has(tmp_path: Path) -> None:
    tree = plant(tmp_path / "tree", {"a": b"a" * 5000})
    image = make_ufs(tree, tmp_path / "u", 2 * MIB, 4096, 512, version=2)
    content = bytearray(image.read_bytes())
    at = content.index((5000).to_bytes(8, "little"))
    content[at : at + 8] = (24 * MIB + 5).to_bytes(8, "little")
    image.write_bytes(content)
    done = run("checksum", image)
    sent = run("cat", image, "/a").stdout
    assert len(sent) == 24 * MIB + 5 and sent.startswith(b"a" * 5000)
    whole = hashlib.sha256(sent).hexdigest()
    assert done.stdout.decode() == f"{whole}  /a\n"
    assert done.stderr.decode().startswith("bhyvedisk.py: disk0:/a: 24.0 MiB, of which the disks hold 2.0 MiB at most")


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_that_claims_more_than_any_disk_has(tmp_path: Path, version: int) -> None:
    """Its holes stay holes, and how much is coming is said."""
    tree = plant(tmp_path / "tree", {"a": b"a" * 5000})
    image = make_ufs(tree, tmp_path / "u", 2 * MIB, 4096, 512, version=version)
    content = bytearray(image.read_bytes())
    at = content.index((5000).to_bytes(8, "little"))
    size = 1 << 38 if version == 2 else 1 << 36
    content[at : at + 8] = size.to_bytes(8, "little")
    image.write_bytes(content)
    copy = tmp_path / "copy"
    done = run("cp", image, "/a", copy)
    claimed = "256.0 GiB" if version == 2 else "64.0 GiB"
    assert done.stderr.decode().startswith(
        f"bhyvedisk.py: disk0:/a: {claimed}, of which the disks hold 2.0 MiB at most"
    )
    assert done.returncode == 0
    assert copy.stat().st_size == size
    assert copy.stat().st_blocks * 512 < 64 << 10
    with copy.open("rb") as file:
        head = file.read(8192)
        file.seek(size - 10)
        assert file.read() == bytes(10)
    assert head[:5000] == b"a" * 5000


def test_copies_with_holes_are_the_same(tmp_path: Path) -> None:
    """Where holes and data alternate: at the front, at the end, in the indirect blocks."""
    tree = tmp_path / "tree"
    tree.mkdir()
    generator = random.Random(3)
    files = {}
    for name, size in (("front", 300_000), ("end", 300_000), ("mixed", 5_000_000), ("empty", 0), ("all", 900_001)):
        with (tree / name).open("wb") as file:
            if name not in ("front", "all", "empty"):
                file.write(b"data" * 5000)
            if name == "mixed":
                for _ in range(30):
                    file.seek(generator.randrange(size) & -4096)
                    file.write(generator.randbytes(generator.choice((100, 4096, 70_000))))
            if name == "front":
                file.seek(size - 10)
                file.write(b"0123456789")
            file.truncate(size)
        files[name] = (tree / name).read_bytes()
    image = make_ufs(tree, tmp_path / "u", 16 * MIB, 4096, 512)
    for name, content in files.items():
        assert output("cp", image, "/" + name, tmp_path / "copy") == b""
        assert (tmp_path / "copy").read_bytes() == content
        assert output("cat", image, "/" + name) == content


def zfs_disks(folder: Path, pool: str) -> list[Path]:
    """A pool's disks as files; made by OpenZFS, contents recorded in the manifest."""
    paths = []
    for name in zfs_pools.disk_names(pool):
        path = folder / f"{name}.img"
        disk = zfs_pools.disk(name)
        with path.open("wb") as file:
            file.truncate(disk.size)
            for at in range(0, disk.size, MIB):
                piece = disk.read(at, min(MIB, disk.size - at))
                if bytes(piece).strip(b"\0"):
                    file.seek(at)
                    file.write(piece)
        paths.append(path)
    return paths


def recorded_checksums(pool: str, dataset: str) -> str:
    tree = zfs_pools.manifest()["trees"][zfs_pools.manifest()["pools"][pool]["datasets"][dataset]]
    lines = sorted((path, what[0]) for path, (kind, *what) in tree.items() if kind == "f")
    assert lines
    return "".join(f"{digest}  {path}\n" for path, digest in lines)


def test_zfs_on_several_disks(tmp_path: Path) -> None:
    disks = zfs_disks(tmp_path, "raidz2")
    with_d = [word for disk in disks for word in ("-d", disk)]
    expected = recorded_checksums("raidz2", "rz2/ROOT/default")
    assert output("checksum", *disks).decode() == expected
    assert output("checksum", *with_d, "--dataset", "rz2/ROOT/default").decode() == expected
    assert output("checksum", *disks[2:], "/").decode() == expected  # two may be missing
    assert output("checksum", *disks, "--dataset=rz2/ROOT/be-two").decode() == recorded_checksums(
        "raidz2", "rz2/ROOT/be-two"
    )
    assert output("ls", "--partition", "disk4p2", *disks) == output("ls", *disks)
    text = output("info", *disks).decode("ascii")
    assert "pool rz2 on disk0p2, disk1p2, disk2p2, disk3p2, disk4p2: ONLINE, bootfs rz2/ROOT/default\n" in text
    assert text.endswith("boots zfs:rz2/ROOT/default: ZFS, /boot/kernel/kernel, scripts: lua\n")
    status, message = failure("ls", *disks, "--dataset", "rz2/nope")
    assert (status, message) == (EX_DATAERR, "there is no dataset rz2/nope (pools on these disks: rz2)")
    cases: list[list[str | Path]] = [
        ["ls", *disks[:2]],
        ["ls", disks[0], "--partition=disk0p2"],
        ["cat", disks[0], "/x"],
    ]
    for words in cases:
        status, message = failure(*words)
        assert status == EX_DATAERR
        assert message.startswith("pool rz2: ZFS: can")


def test_info_says_why_a_pool_is_not_booted(tmp_path: Path) -> None:
    """One disk of five, and a feature that FreeBSD's loader refuses: the reason is the pool's, not disk0's."""
    why = "ZFS: can't read MOS of pool rz2: these devices are missing: vdb2, vdc2, vdd2, vde2"
    text = output("info", zfs_disks(tmp_path, "raidz2")[0]).decode("ascii")
    assert text.endswith(f"\nboots nothing: pool rz2: {why}\n")
    text = output("info", *zfs_disks(tmp_path, "edonr")).decode("ascii")
    assert text.endswith("\nboots nothing: pool edonr: ZFS: unsupported feature: org.illumos:edonr\n")


def test_zfs_as_the_loader_finds_it(tmp_path: Path) -> None:
    (bootenv,) = zfs_disks(tmp_path, "bootenv")
    before = hashlib.sha256(bootenv.read_bytes()).digest()
    facts = json.loads(output("info", "--json", bootenv))
    (pool,) = facts["pools"]
    assert pool["bootonce"] == "zfs:benv/ROOT/be-two:"
    assert [dataset["name"] for dataset in pool["datasets"]] == [
        "benv",
        *(f"benv/ROOT{name}" for name in ("", "/be-three", "/be-two", "/default")),
    ]
    assert facts["boot"]["device"] == "zfs:benv/ROOT/be-two:"
    assert output("checksum", bootenv).decode() == recorded_checksums("bootenv", "benv/ROOT/be-two")
    assert hashlib.sha256(bootenv.read_bytes()).digest() == before
    (crypt,) = zfs_disks(tmp_path, "crypt")
    assert output("checksum", crypt).decode() == recorded_checksums("crypt", "cr/plain")
    status, message = failure("ls", crypt, "--dataset", "cr/secret")
    assert status == EX_DATAERR
    assert message.startswith("ZFS: the dataset cr/secret is encrypted")
    (edonr,) = zfs_disks(tmp_path, "edonr")  # readable, but not by FreeBSD's loader
    text = output("info", edonr).decode("ascii")
    assert "  note: ZFS: unsupported feature: org.illumos:edonr\n" in text
    assert "boots nothing" in text
    assert output("checksum", edonr).decode() == recorded_checksums("edonr", "edonr")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (b"/a b", b"d  /a b"),
        (b"/a\nb", b"\\d  /a\\nb"),
        (b"/\r", b"\\d  /\\r"),
        (b"/\\", b"\\d  /\\\\"),
        (b"/\xff", b"d  /\xff"),
    ],
)
def test_checksum_line(path: bytes, line: bytes) -> None:
    assert checksum_line("d", path, terminal=False) == line


@given(st.binary(max_size=50))
def test_nothing_unprintable_reaches_a_terminal(name: bytes) -> None:
    line = checksum_line("d", name, terminal=True)
    assert all(0x20 <= byte < 0x7F for byte in line)
    text = shown(name)
    assert text.isascii()
    assert text.isprintable() or not text
    assert text.encode("ascii").decode("unicode_escape").encode("latin-1") == name  # and nothing is lost


# ls, cat, cp


def test_ls(ufs: Path, disk: Path) -> None:
    assert output("ls", disk) == b"boot-old\nboot\netc\n"
    assert output("ls", disk, "/boot") == b"empty\nkernel\nlink\nloader.conf\nloop\n"
    assert output("ls", disk, "/boot/kernel/") == b"kernel\n"
    assert output("ls", "-d", disk, "etc/rc.conf") == b"etc/rc.conf\n"
    assert output("ls", "-R", "--partition", "disk0p2", disk, "/boot") == (
        b"/boot:\nempty\nkernel\nlink\nloader.conf\nloop\n\n/boot/kernel:\nkernel\n"
    )


def test_long_ls_shows_what_the_tree_has(ufs: Path, disk: Path) -> None:
    tree = ufs.parent / "tree"
    lines = output("ls", "-l", disk, "/boot").decode("ascii").splitlines()
    for line, name in zip(lines, ("empty", "kernel", "link", "loader.conf", "loop"), strict=True):
        status = (tree / "boot" / name).lstat()
        mode, uid, gid, size, day, clock, *shown_name = line.split()
        assert (int(uid), int(gid)) == (status.st_uid, status.st_gid)
        assert mode == ls_mode(tree / "boot" / name)
        if name != "kernel":
            assert int(size) == status.st_size
        assert f"{day} {clock}" == time_text(int(status.st_mtime))
        target = {"link": ["->", "kernel/kernel"], "loop": ["->", "loop"]}.get(name, [])
        assert shown_name == [name, *target]
    (line,) = output("ls", "-l", disk, "/boot/link").decode("ascii").splitlines()
    assert line.endswith(" /boot/link -> kernel/kernel")


def ls_mode(path: Path) -> str:
    return subprocess.run(["stat", "-c", "%A", path], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (0o104755, "-rwsr-xr-x"),
        (0o102644, "-rw-r-Sr--"),
        (0o041777, "drwxrwxrwt"),
        (0o041776, "drwxrwxrwT"),
        (0, "?---------"),
    ],
)
def test_mode_text(mode: int, text: str) -> None:
    assert mode_text(mode) == text


def test_times_of_no_calendar() -> None:
    assert time_text(0) == "1970-01-01 00:00"
    assert time_text(-1).strip() == "-1"
    assert time_text(1 << 62).strip() == str(1 << 62)


def test_ls_escapes_names(odd: tuple[Path, Path]) -> None:
    lines = output("ls", odd[1]).decode("ascii").splitlines()
    assert lines == [r"\x1b[2J", r"back\x5cslash", r"car\x0driage", r"new\x0aline", "plain", "sp ace", r"\xff\xfe"]
    assert run("cat", odd[1], b"/\xff\xfe".decode("utf-8", "surrogateescape")).stdout == b"\xff\xfe"


def test_copies_to_open_files(disk: Path, tmp_path: Path) -> None:
    """/dev/stdout: a pipe has no other name; a file that the shell has opened is not replaced, and keeps its lines."""
    data = output("cat", disk, "/etc/rc.conf")
    assert output("cp", disk, "/etc/rc.conf", "/dev/stdout") == data
    log = tmp_path / "log"
    log.write_bytes(b"before\n")
    with log.open("ab") as file:
        subprocess.run([*PROGRAM, "cp", str(disk), "/etc/rc.conf", "/dev/fd/1"], stdout=file, timeout=60, check=True)
    assert log.read_bytes() == b"before\n" + data


def test_cat_and_cp(tmp_path: Path, disk: Path) -> None:
    kernel = FILES["boot/kernel/kernel"]
    assert output("cat", disk, "/boot/kernel/kernel") == kernel
    assert output("cat", disk, "boot/link") == kernel
    assert output("cat", disk, "/boot/empty") == b""
    os.umask(0o022)
    output("cp", disk, "/boot/kernel/kernel", tmp_path / "copy")
    output("cp", "-d", disk, "/etc/rc.conf", tmp_path)
    assert (tmp_path / "copy").read_bytes() == kernel
    assert (tmp_path / "copy").stat().st_mode & 0o7777 == 0o555
    assert (tmp_path / "rc.conf").read_bytes() == FILES["etc/rc.conf"]
    (tmp_path / "rc.conf").chmod(0o600)
    output("cp", disk, "/boot/loader.conf", tmp_path / "rc.conf")
    assert (tmp_path / "rc.conf").read_bytes() == FILES["boot/loader.conf"]
    assert (tmp_path / "rc.conf").stat().st_mode & 0o7777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["copy", "rc.conf"]
    output("cp", disk, "/etc/rc.conf", "/dev/null")


def test_a_disk_is_not_copied_onto(tmp_path: Path, disk: Path) -> None:
    before = disk.read_bytes()
    (tmp_path / "other").symlink_to(disk)
    for target in (disk, tmp_path / "other"):
        text = f"{target}: is the disk that is copied from (give the copy another name)"
        assert failure("cp", disk, "/etc/rc.conf", target) == (EX_USAGE, text)
    assert disk.read_bytes() == before


def test_the_disk_is_not_written(disk: Path) -> None:
    before = hashlib.sha256(disk.read_bytes()).digest(), disk.stat().st_mtime_ns
    for words in (("info",), ("ls", "-lR"), ("checksum",)):
        output(*words, disk)
    output("cat", disk, "/etc/rc.conf")
    assert (hashlib.sha256(disk.read_bytes()).digest(), disk.stat().st_mtime_ns) == before


# Which file system


def test_partitions_by_name(tmp_path: Path, ufs: Path) -> None:
    second = make_ufs(plant(tmp_path / "tree", {"second": b"2\n"}), tmp_path / "u2", 2 * MIB, 4096, 512, version=1)
    sectors = ufs.stat().st_size // 512
    both = gpt_disk(tmp_path / "both.img", [(1, 2048, sectors, "A503", ufs), (7, 2048 + sectors, 4096, "A503", second)])
    assert output("ls", both, "--partition", "disk0p7") == b"second\n"
    assert output("ls", both, "--partition", "disk0p7:") == b"second\n"
    assert output("ls", both) == output("ls", both, "--partition", "disk0p1")
    assert output("ls", ufs, both, "--partition", "disk1p7") == b"second\n"
    assert output("cat", "-d", ufs, "-d", both, "--partition=disk1p7", "second") == b"2\n"
    assert failure("ls", both, "--partition", "disk0p2") == (
        EX_DATAERR,
        "disk0p2: there is no partition 2 (there are: disk0, disk0p1, disk0p7)",
    )
    assert failure("ls", both, "--partition", "disk1") == (EX_DATAERR, "there is no disk1 (1 disks were given)")
    for name in ("p2", "disk", "disk0p", "host0", "zfs:x:", "disk0p2:/boot", "vdisk0"):
        status, text = failure("ls", both, "--partition", name)
        assert (status, text.partition(" (")[0]) == (EX_USAGE, f"'{name}' does not name a partition")


def test_slices_and_labels(tmp_path: Path, ufs: Path) -> None:
    sectors = ufs.stat().st_size // 512
    disk = mbr_disk(
        tmp_path / "mbr.img", f"start=63,size={sectors + 16},type=a5,bootable\n", [(79, ufs)], 63 * 512 + 5 * MIB
    )
    write_at(disk, 64 * 512, bsd_label(sectors + 16, {0: (16, sectors, 7)}))
    assert output("ls", disk) == output("ls", ufs)
    assert output("ls", disk, "--partition", "disk0s1a") == output("ls", ufs)
    assert "boots disk0s1a:" in output("info", disk).decode("ascii")
    status, text = failure("ls", disk, "--partition", "disk0s1")
    assert (status, text) == (EX_DATAERR, "disk0s1: no file system that can be read here (UFS, ISO 9660, ZFS)")


def test_the_only_file_system_when_none_would_boot(tmp_path: Path, ufs: Path) -> None:
    """A label without a partition table, whose `a` does not begin at sector 0: the loader finds nothing there."""
    disk = tmp_path / "dedicated.img"
    disk.write_bytes(bytes(16 * 512 + ufs.stat().st_size))
    put(disk, ufs, 16 * 512)
    write_at(disk, 512, bsd_label(8192 + 16, {0: (16, 8192, 7)}))
    assert "boots nothing" in output("info", disk).decode("ascii")
    assert output("ls", disk) == output("ls", ufs)


def test_info(disk: Path, ufs: Path) -> None:
    facts = json.loads(output("info", "--json", disk, ufs))
    assert facts["schema"] == 1
    first, second = facts["disks"]
    assert (first["name"], first["path"], first["format"]) == ("disk0", str(disk), "raw")
    assert first["size"] == disk.stat().st_size
    assert first["table"]["type"] == "gpt"
    boot, root = first["partitions"]
    assert (boot["name"], boot["type"], boot["start"], boot["size"]) == ("disk0p1", "freebsd-boot", 20480, 1024 * 512)
    assert boot["file_system"] is None
    assert (root["name"], root["type"], root["start"], root["size"]) == ("disk0p2", "freebsd-ufs", MIB, 4 * MIB)
    assert root["file_system"]["type"] == "ufs"
    assert (root["file_system"]["block_size"], root["file_system"]["fragment_size"]) == (8192, 1024)
    assert second["table"]["type"] == "none"
    assert second["file_system"] == root["file_system"]
    assert facts["boot"] == {
        "device": "disk0p2:",
        "file_system": "ufs",
        "kernel": "/boot/kernel/kernel",
        "interpreter": None,
        "version": None,
    }
    assert output("info", disk, ufs).decode("ascii").splitlines() == [
        f"disk0: {disk}",
        f"  raw image, {human_size(disk.stat().st_size)}, GPT",
        "  disk0p1: freebsd-boot, 512.0 KiB at 20480",
        "  disk0p2: freebsd-ufs, 4.0 MiB at 1048576",
        "    UFS1, blocks of 8192, fragments of 1024, 4.0 MiB, clean",
        f"disk1: {ufs}",
        "  raw image, 4.0 MiB, no partition table",
        "  UFS1, blocks of 8192, fragments of 1024, 4.0 MiB, clean",
        "boots disk0p2: UFS, /boot/kernel/kernel",
    ]


def test_the_json_document_is_described(tmp_path: Path, disk: Path, ufs: Path) -> None:
    """Each member that there is stands in docs/bhyvedisk-json.md."""
    text = (ROOT / "docs" / "bhyvedisk-json.md").read_text()
    damaged = tmp_path / "damaged.img"
    content = bytearray(ufs.read_bytes())
    content[8192 + 48] ^= 0x40  # fs_bsize
    damaged.write_bytes(content)
    mbr = mbr_disk(tmp_path / "mbr.img", "start=63,size=2000,type=a5,bootable\n", [], 2 * MIB)
    iso = tmp_path / "x.iso"
    iso.write_bytes(decompress(DATA.parent / "iso" / "plain.iso.zst"))
    zfs = zfs_disks(tmp_path, "bootenv")
    facts = json.loads(output("info", "--json", disk, damaged, mbr, iso, *zfs))

    def members(value: object) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(members, value))
        if isinstance(value, dict):
            free = {"vdevs", "features", "boot_environments"}  # described with ZFS
            return set(value).union(*(members(inner) for name, inner in value.items() if name not in free))
        return set()

    found = members(facts)
    assert {"type_number", "active", "type_guid", "rock_ridge", "error", "pool", "clean", "datasets"} <= found
    assert sorted(name for name in found if f"`{name}`" not in text) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [(["info"], []), (["info", "--json"], []), (["ls"], ["/boot"]), (["cat"], ["/etc/rc.conf"]), (["checksum"], ["/"])],
)
def test_a_disk_named_from_where_the_user_is(disk: Path, before: list[str], after: list[str]) -> None:
    """The confined child cannot ask where that was."""
    here = run(*before, disk.name, *after, cwd=disk.parent)
    assert (here.returncode, here.stderr) == (0, b"")
    assert here.stdout == output(*before, disk, *after).replace(os.fsencode(disk), os.fsencode(disk.name))


def test_info_finds_interpreter_and_version(tmp_path: Path) -> None:
    tree = plant(
        tmp_path / "tree",
        {
            "boot/loader": b"\x7fELF...$Interpreter:lua\0...",
            "bin/freebsd-version": b'#!/bin/sh\nUSERLAND_VERSION="14.3-RELEASE-p2"\n',
        },
    )
    image = make_ufs(tree, tmp_path / "u", 2 * MIB, 4096, 512, version=1)
    assert output("info", image).decode("ascii").splitlines()[-1] == (
        "boots disk0: UFS, FreeBSD 14.3-RELEASE-p2, no /boot/kernel/kernel, scripts: lua"
    )


@pytest.mark.parametrize(
    ("files", "kernel", "interpreter"),
    [
        ({"boot/kernel/kernel.zst": b""}, "/boot/kernel/kernel.zst", None),
        ({"boot/kernel/kernel.xz": b"", "boot/loader": b"no mark"}, "/boot/kernel/kernel.xz", "4th"),
        ({"boot/loader": b"no mark", "boot/lua/loader.lua": b""}, None, "lua"),
        ({"boot/lua/loader.lua": b""}, None, "lua"),
        ({"boot/loader": b"$Interpreter:simp\0", "boot/lua/loader.lua": b""}, None, "simp"),
        ({"boot/loader": b"$Interpreter:" + b"x" * 70}, None, "x" * 64),
    ],
)
def test_info_says_what_the_loader_would_do(
    tmp_path: Path, files: dict[str, bytes], kernel: str | None, interpreter: str | None
) -> None:
    """The names of kernels, the marker and its limits are those of the loader (bootable.py)."""
    image = make_ufs(plant(tmp_path / "tree", files), tmp_path / "u", 2 * MIB, 4096, 512, version=1)
    boot = json.loads(output("info", "--json", image))["boot"]
    assert (boot["kernel"], boot["interpreter"]) == (kernel, interpreter)


def test_info_escapes_what_the_guest_wrote(tmp_path: Path, ufs: Path) -> None:
    disk = gpt_disk(tmp_path / "d.img", [(1, 2048, ufs.stat().st_size // 512, "A503", ufs)])
    require("sgdisk")
    subprocess.run(["sgdisk", "-c", "1:\x1b[31mred\nforged: line", disk], check=True, capture_output=True)
    text = output("info", disk)
    assert b"\x1b" not in text
    assert not any(line.startswith(b"forged") for line in text.splitlines())
    assert json.loads(output("info", "--json", disk))["disks"][0]["partitions"][0]["label"].startswith("\x1b[31mred")


def test_info_of_nothing_and_of_a_damaged_file_system(tmp_path: Path) -> None:
    empty = tmp_path / "empty.img"
    empty.write_bytes(b"")
    assert output("info", empty).decode("ascii").splitlines() == [
        f"disk0: {empty}",
        "  raw image, 0 B, no partition table",
        "boots nothing: disk0: no file system that can be read here (UFS, ISO 9660, ZFS)",
    ]
    content = bytearray(decompress(DATA / "ufs2-32k.img.zst"))
    content[65536 + 48 : 65536 + 52] = b"\xff\xff\xff\x7f"  # fs_bsize
    damaged = tmp_path / "damaged.img"
    damaged.write_bytes(content)
    assert b"\n  ufs: the superblock is damaged: block size 2147483647\n" in output("info", damaged)
    status, text = failure("ls", damaged)
    assert (status, text) == (
        EX_DATAERR,
        "disk0: ufs: the superblock is damaged: block size 2147483647 (fsck_ffs(8) can use a backup)",
    )


# What goes wrong


def test_missing_files(disk: Path, tmp_path: Path) -> None:
    assert failure("cat", disk, "/boot/nope") == (EX_NOINPUT, "disk0p2:/boot/nope: no such file or directory")
    assert failure("ls", disk, "/etc/rc.conf/x") == (EX_NOINPUT, "disk0p2:/etc/rc.conf/x: not a directory")
    assert failure("cat", disk, "/boot") == (EX_NOINPUT, "disk0p2:/boot: is a directory (bhyvedisk ls -R lists it)")
    status, text = failure("cat", disk, "/boot/loop")
    assert status == EX_NOINPUT
    assert "too many or too long symbolic links" in text
    assert failure("cp", disk, "/boot/nope", tmp_path / "x")[0] == EX_NOINPUT
    assert os.listdir(tmp_path) == []
    assert failure("ls", tmp_path / "nope") == (
        EX_NOINPUT,
        f"{tmp_path / 'nope'}: cannot be opened: No such file or directory",
    )
    other = tmp_path / "other.img"
    shutil.copy(disk, other)
    assert failure("ls", disk, Path(__file__)) == (EX_NOINPUT, f"disk0p2:{__file__}: no such file or directory")
    assert failure("ls", disk, tmp_path / "nope") == (EX_NOINPUT, f"disk0p2:{tmp_path}/nope: no such file or directory")
    assert output("ls", disk, other) == output("ls", disk)
    assert failure("ls", disk, "boot")[1].endswith("(a path on the guest begins with '/')")


def test_a_damaged_file_does_not_hide_the_others(tmp_path: Path) -> None:
    tree = plant(tmp_path / "tree", {"a": b"a" * 6000, "b": b"b" * 6000, "d/x": b"x", "e": b"e"})
    image = make_ufs(tree, tmp_path / "u", 2 * MIB, 4096, 512, version=1)
    content = bytearray(image.read_bytes())
    pointer = (content.index(b"a" * 4096) // 512).to_bytes(4, "little")
    inode = content.index(
        (6000).to_bytes(8, "little") + content[content.index((6000).to_bytes(8, "little")) + 8 :][:24] + pointer
    )
    content[inode + 32 : inode + 36] = b"\xff\xff\xff\x7f"
    image.write_bytes(content)
    done = run("checksum", image)
    assert done.returncode == EX_DATAERR
    assert [line.split()[-1] for line in done.stdout.splitlines()] == [b"/b", b"/d/x", b"/e"]
    assert done.stderr.count(b"\n") == 1
    assert b"disk0:/a: ufs: inode" in done.stderr
    assert failure("cp", image, "/a", tmp_path / "copy")[0] == EX_DATAERR
    assert not (tmp_path / "copy").exists()


def test_a_directory_that_contains_itself(tmp_path: Path) -> None:
    """/d/sub's inode number is changed to that of /d."""
    tree = plant(tmp_path / "tree", {"d/sub/x": b"x", "file": b"f"})
    image = make_ufs(tree, tmp_path / "u", 2 * MIB, 4096, 512, version=1)
    content = bytearray(image.read_bytes())
    inside = content.index(b"\x04\x03sub\0")
    outside = content.index(b"\x04\x01d\0")
    content[inside - 6 : inside - 2] = content[outside - 6 : outside - 2]
    image.write_bytes(content)
    for command in (("ls", "-R"), ("checksum",)):
        done = run(*command, image)
        assert done.returncode == EX_DATAERR
        assert done.stderr.decode().endswith("disk0:/d/sub: a directory that is elsewhere, too: damaged file system\n")
        assert b"file" in done.stdout


def test_directories_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = mount(image("ufs1-4k-512"))
    complaints: list[bytes] = []
    walk = Walk(fs, find(fs, b"/"), lambda error, path: complaints.append(path))
    everything = [member.path for member in walk.in_order()]
    assert len(everything) > 60
    assert complaints == []
    monkeypatch.setattr(tree, "MAX_NAMES", 60)  # /boot/kernel has 61
    with pytest.raises(FileSystemError, match="more than 60 names in a directory"):
        members(fs, find(fs, b"/boot/kernel"), lambda error, path: None)
    monkeypatch.setattr(tree, "MAX_DEPTH", 2)
    walk = Walk(fs, find(fs, b"/"), lambda error, path: complaints.append(path))
    assert b"/boot/loader.conf" in [member.path for member in walk.in_order()]
    assert sorted(complaints) == [b"/boot/deep/er", b"/boot/kernel"]


def test_a_reader_that_goes_away(disk: Path, ufs: Path) -> None:
    for words in (("cat", disk, "/boot/kernel/kernel"), ("ls", "-lR", disk), ("info", "--json", disk)):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run([*PROGRAM, *map(str, words)], stdout=writing, stderr=subprocess.PIPE, check=False)
        os.close(writing)
        assert (done.returncode, done.stderr) == (141, b"")


def test_standard_output_that_takes_nothing(disk: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*PROGRAM, "ls", disk], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (EX_IOERR, b"bhyvedisk.py: standard output: No space left on device\n")
    before = disk.read_bytes()
    script = 'exec "$@" >&- <&-'
    done = subprocess.run(["sh", "-c", script, "sh", *PROGRAM, "ls", disk], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (EX_IOERR, b"bhyvedisk.py: standard output: Bad file descriptor\n")
    assert disk.read_bytes() == before


def test_a_full_disk_leaves_the_old_file(disk: Path, tmp_path: Path) -> None:
    """The limit on a file's size stands for a full file system: both make write(2) fail half way."""
    target = tmp_path / "kernel"
    target.write_bytes(b"old")
    done = subprocess.run(
        [
            "sh",
            "-c",
            'trap "" XFSZ; ulimit -f 100; exec "$@"',
            "sh",
            *PROGRAM,
            "cp",
            disk,
            "/boot/kernel/kernel",
            target,
        ],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (EX_IOERR, f"bhyvedisk.py: {target}: File too large\n".encode())
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["kernel"]
    assert failure("cp", disk, "/boot/kernel/kernel", "/dev/full")[0] == EX_IOERR
    assert failure("cp", disk, "/etc/rc.conf", tmp_path / "no" / "where") == (
        EX_IOERR,
        f"{tmp_path}/no/where: No such file or directory",
    )


def test_time_limit(tmp_path: Path) -> None:
    """A file of 2^50 bytes of nothing takes longer than anybody waits."""
    tree = plant(tmp_path / "tree", {"a": b"a" * 5000})
    image = make_ufs(tree, tmp_path / "u", 2 * MIB, 4096, 512, version=1)
    content = bytearray(image.read_bytes())
    at = content.index((5000).to_bytes(8, "little"))
    content[at : at + 8] = (1 << 30).to_bytes(8, "little")
    content[at + 32 : at + 92] = bytes(60)
    image.write_bytes(content)
    done = run("checksum", image, "--timeout", "0.05")
    assert (done.returncode, done.stdout) == (EX_SOFTWARE, b"")
    assert done.stderr.splitlines()[-1] == (  # before it, if there was time, that the file is larger than the disk
        b"bhyvedisk.py: bhyvedisk's reader did not finish in 0.05 seconds (give it longer: --timeout)"
    )


# The command line


def parsed(*words: str) -> tuple[list[str], str, str]:
    request: DiskRequest = parse(list(words))
    return request.disks, request.path, request.host_path


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("info", 60),
        ("ls -R", 4 * 3600),
        ("cat /a", 4 * 3600),
        ("cp /a {folder}/copy", 4 * 3600),
        ("checksum", 4 * 3600),
        ("info --timeout 7", 7),
        ("checksum --timeout 7", 7),
    ],
)
def test_no_disk_holds_anybody_up_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, seconds: float
) -> None:
    (tmp_path / "disk").write_bytes(bytes(MIB))
    report = LOOKED.check({"mode": 0o644})
    given: list[float | None] = []

    def confined(child: object, subject: Any, deadline: Deadline, shape: object) -> dict[str, Any]:
        given.append(deadline.seconds)
        for disk in subject._disks:
            disk.close()
        return report

    monkeypatch.setattr(bhyvedisk, "run_confined", confined)
    command, *more = words.format(folder=tmp_path).split()
    assert bhyvedisk._main("bhyvedisk", [command, "-d", str(tmp_path / "disk"), *more]) == 0
    assert given == [seconds]


@pytest.mark.parametrize(
    ("words", "disks", "path", "host_path"),
    [
        ("ls a", ["a"], "", ""),
        ("ls /a", ["/a"], "", ""),
        ("ls /a /b", ["/a"], "/b", ""),
        ("ls /a b", ["/a", "b"], "", ""),
        ("ls a b /c", ["a", "b"], "/c", ""),
        ("ls -d a", ["a"], "", ""),
        ("ls -d a b", ["a"], "b", ""),
        ("ls b --disk=a -d /c", ["a", "/c"], "b", ""),
        ("-d a ls /", ["a"], "/", ""),
        ("cat a b", ["a"], "b", ""),
        ("cat a /b c", ["a", "/b"], "c", ""),
        ("cat -d a b", ["a"], "b", ""),
        ("cp a b c", ["a"], "b", "c"),
        ("cp a b c d", ["a", "b"], "c", "d"),
        ("cp -d a b c", ["a"], "b", "c"),
        ("checksum a /b", ["a"], "/b", ""),
        ("info a b /c", ["a", "b", "/c"], "", ""),
        ("ls -- -l", ["-l"], "", ""),
        ("cat -d a -- -l", ["a"], "-l", ""),
    ],
)
def test_disks_and_paths(words: str, disks: list[str], path: str, host_path: str) -> None:
    assert parsed(*words.split()) == (disks, path, host_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "no command"),
        ("mount a", "unknown command 'mount'"),
        ("ls", "ls: no disk is named"),
        ("info", "info: no disk is named"),
        ("cat a", "cat: the path of a file on the guest is missing"),
        ("cp a b", "cp: the host's path to copy to is missing"),
        ("cat -d a", "cat: the path of a file on the guest is missing"),
        ("cat -d a b c", "cat: 'c' is too much"),
        ("ls -d a b c", "ls: 'c' is too much"),
        ("info -d a b", "info: 'b' is too much"),
        ("info -l a", "-l goes with ls only"),
        ("ls --json a", "--json goes with info only"),
        ("info a --partition disk0p1", "--partition does not go with info"),
        ("info a --dataset zroot", "--dataset does not go with info"),
        ("ls -x a", "illegal option -- x"),
        ("ls a --partition", "option requires an argument -- partition"),
        ("ls a --partition=", "--partition wants a name"),
        ("ls a --partition x --dataset y", "--partition and --dataset exclude each other"),
        ("ls a --timeout 0", "--timeout wants a number of seconds, not '0'"),
    ],
)
def test_usage_errors(words: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(words.split())
    assert caught.value.message == message


def test_help_and_version() -> None:
    assert output("--help").startswith(b"usage: bhyvedisk ")
    assert output("ls", "--help") == output("--help")
    assert output("--version").startswith(b"bhyvedisk (bhyveload) ")
    assert failure("frobnicate")[0] == EX_USAGE


def test_a_reader_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In words about a reader: nothing was to be loaded."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    monkeypatch.setattr("bhyveload.inspect.work.work", lambda *_: os.kill(os.getpid(), 9))
    monkeypatch.setattr(sys, "argv", ["bhyvedisk", "info", "--no-sandbox", str(disk)])
    assert bhyvedisk.main() == 70
    assert capfd.readouterr().err.splitlines()[-1] == "bhyvedisk: bhyvedisk's reader died by SIGKILL"


@pytest.mark.parametrize(("platform", "is_disk"), [("linux", False), ("freebsd14", True)])
def test_a_character_device_is_a_disk_on_freebsd(platform: str, is_disk: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A last word that could be a path or a disk: /dev/ada1 is one there."""
    monkeypatch.setattr(sys, "platform", platform)
    assert bhyvedisk._is_file("/dev/null") == is_disk
