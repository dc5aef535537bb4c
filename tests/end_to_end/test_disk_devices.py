"""Which disk is which, from bhyveload's command line: currdev and loaddev, several disks, disks by number, vdisks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bhyveload.fs.ufs_format import SUPERBLOCK_FIELDS
from support import golden, harness
from support.images import MIB, bsd_label, gpt_disk, make_ufs, mbr_disk, require, write_at
from support.ufs_images import image

BHYVELOAD = (sys.executable, "-m", "bhyveload.cli.bhyveload", "--dry-run")


def prompt(*words: str | Path, keys: list[str]) -> dict[str, str]:
    """What each line typed at the prompt answers: line -> text, twiddles taken out."""
    typed = "".join(f"{line}\n" for line in [*keys, ""]).encode()
    done = subprocess.run([*BHYVELOAD, *map(str, words)], input=typed, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr  # the end of input
    assert done.stdout == b""
    console = done.stderr.decode("latin-1")
    for character in "|/-\\":
        console = console.replace(character + "\b", "")
    answers = {}
    for part in console.split("\r\nOK ")[1:]:
        line, _, answer = part.partition("\r\n")
        answers[line] = re.sub(r"^\*\*\* FILE .* BEGIN \*\*\*\r\n|\r\n\*\*\* FILE .* END \*\*\*$", "", answer)
    return {line: answers[line] for line in keys}


def device(*words: str | Path, name: str = "currdev") -> str:
    return prompt(*words, keys=[f"show {name}"])[f"show {name}"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("devices")


@pytest.fixture(scope="module")
def first(base: Path) -> Path:
    return file_system(base, "first")


@pytest.fixture(scope="module")
def second(base: Path) -> Path:
    return file_system(base, "second")


def file_system(base: Path, name: str) -> Path:
    tree = base / f"{name}.tree"
    tree.mkdir()
    (tree / f"{name}.txt").write_text(f"this is the {name} disk\n")
    return make_ufs(tree, base / f"{name}.ufs", MIB, 4096, 512, version=1)


@pytest.fixture(scope="module")
def gpt(base: Path, first: Path) -> Path:
    return gpt_disk(base / "gpt.img", [(1, 40, 24, "A501", None), (2, 64, 2048, "A503", first)])


@pytest.fixture(scope="module")
def mbr(base: Path, second: Path) -> Path:
    disk = mbr_disk(base / "mbr.img", "start=63,size=2100,type=a5,bootable\n", [(63 + 16, second)], 2 * MIB)
    write_at(disk, 64 * 512, bsd_label(2100, {0: (16, 2048, 7)}))
    return disk


# extract_currdev in stand/userboot/userboot/main.c
def test_currdev_of_each_layout(base: Path, gpt: Path, mbr: Path, first: Path) -> None:
    assert device("-d", gpt) == "disk0p2:"
    assert device("-d", mbr) == "disk0s1a:"
    assert device("-d", first) == "disk0:"
    assert device("-d", gpt, name="loaddev") == "disk0p2:"
    empty = base / "empty.img"
    empty.write_bytes(bytes(MIB))
    assert device("-d", empty, "-d", gpt) == "disk0:"  # the other disks are never tried
    assert device("-h", base) == "host0:"
    assert device("-h", base, "-d", mbr) == "disk0s1a:"
    require("xorriso")
    iso = base / "x.iso"
    tree = base / "first.tree"
    subprocess.run(["xorriso", "-as", "mkisofs", "-R", "-o", iso, tree], check=True, capture_output=True)
    assert device("-d", iso) == "disk0s0:"
    assert prompt("-d", iso, keys=["ls"])["ls"] == "/\r\n    first.txt"
    assert prompt("-d", gpt, "-d", iso, keys=["more disk1:/first.txt"]) == {
        "more disk1:/first.txt": "this is the first disk",
    }


def test_disks_by_number(gpt: Path, mbr: Path) -> None:
    keys = [
        "more /first.txt",
        "more disk0p2:/first.txt",
        "more disk0:/first.txt",
        "more disk1s1a:/second.txt",
        "more disk1:/second.txt",
        "more disk1:/first.txt",
        "more disk2:/first.txt",
    ]
    answers = prompt("-d", gpt, "-d", mbr, keys=keys)
    ones, twos = "this is the first disk", "this is the second disk"
    assert [answers[key] for key in keys[:5]] == [ones, ones, ones, twos, twos]
    assert "no such file or directory" in answers[keys[5]]
    assert "input/output error" in answers[keys[6]]
    swapped = prompt("-d", mbr, "-d", gpt, keys=["more disk1:/first.txt", "more /second.txt"])
    assert list(swapped.values()) == [ones, twos]


def test_currdev_can_be_set_and_loaddev_cannot(gpt: Path, mbr: Path) -> None:
    keys = [
        "set currdev=disk1s1a:",
        "show currdev",
        "more /second.txt",
        "more disk0:/first.txt",
        "set loaddev=disk1s1a:",
        "show loaddev",
        "unset currdev",
        "set currdev=nosuch0:",
        "set currdev=disk0p2:",
        "more first.txt",
    ]
    answers = prompt("-d", gpt, "-d", mbr, keys=keys)
    assert answers["show currdev"] == "disk1s1a:"
    assert answers["more /second.txt"] == "this is the second disk"
    assert answers["more disk0:/first.txt"] == "this is the first disk"
    assert answers["set loaddev=disk1s1a:"] == "operation not permitted"
    assert answers["show loaddev"] == "disk0p2:"
    assert answers["unset currdev"] == "operation not permitted"
    assert answers["set currdev=nosuch0:"] == "no such file or directory"
    assert answers["more first.txt"] == "this is the first disk"


def test_forty_disks(gpt: Path, mbr: Path) -> None:
    """FreeBSD's bhyveload takes 32."""
    words: list[str | Path] = []
    for _ in range(39):
        words += ["-d", gpt]
    answers = prompt(*words, "-d", mbr, keys=["set LINES=1000", "lsdev", "more disk39:/second.txt"])
    assert answers["more disk39:/second.txt"] == "this is the second disk"
    lines = answers["lsdev"].split("\r\n")
    assert [line for line in lines if "Guest drive image" in line] == [
        f"    disk{unit}:   Guest drive image" for unit in range(40)
    ]
    assert lines[-2:] == ["      disk39s1: FreeBSD", "        disk39s1a: FreeBSD UFS"]


def test_a_file_as_a_disk(base: Path, second: Path) -> None:
    tree = base / "outer.tree"
    tree.mkdir()
    (tree / "inner.img").write_bytes(second.read_bytes())
    # In smaller blocks the inner superblock would lie where the outer one is looked for first: at 65536.
    outer = make_ufs(tree, base / "outer.ufs", 4 * MIB, 32768, 4096, version=1)
    keys = [
        "map-vdisk /inner.img",
        "set currdev=vdisk0:",
        "more /second.txt",
        "set currdev=disk0:",
        "unmap-vdisk vdisk0",
        "lsdev",
    ]
    answers = prompt("-d", outer, keys=keys)
    assert answers["map-vdisk /inner.img"] == "map-vdisk: file /inner.img is mapped as vdisk0"
    assert answers["more /second.txt"] == "this is the second disk"
    assert "vdisk" not in answers["lsdev"]
    old = prompt("--compat", "13.2", "-d", outer, keys=["map-vdisk /inner.img", "ls vdisk0:/"])
    assert old["ls vdisk0:/"] == "bad path 'vdisk0:/'"


def test_another_file_as_the_same_disk(base: Path, first: Path, second: Path) -> None:
    """Nothing of the first one is taken for what the second one holds."""
    tree = base / "both.tree"
    tree.mkdir()
    (tree / "1.img").write_bytes(first.read_bytes())
    (tree / "2.img").write_bytes(second.read_bytes())
    outer = make_ufs(tree, base / "both.ufs", 8 * MIB, 32768, 4096, version=1)
    keys = ["map-vdisk /2.img", "set currdev=vdisk0:", "more /second.txt", "set currdev=disk0:", "unmap-vdisk vdisk0"]
    keys += ["map-vdisk /1.img", "set currdev=vdisk0: ", "more /first.txt"]
    answers = prompt("-d", outer, keys=keys)
    assert answers["more /second.txt"] == "this is the second disk"
    assert answers["more /first.txt"] == "this is the first disk"


def test_a_kernel_from_the_second_disk(first: Path) -> None:
    """FreeBSD's own loader left the same in memory when it had the record's disk as its first."""
    version, name = next(record for record in golden.records("plain") if record[0] == "current")
    record = golden.Record(version, name)
    other = golden.memory_disk(first.read_bytes())
    outcome = harness.run(
        [other, *record.disks()],
        b"set currdev=disk1p2:\n" + record.keys,
        environment=record.environment,
        memory=record.memory_size,
    )
    assert outcome.end == "exec"
    assert outcome.report["currdev"] == "disk1p2:"
    assert outcome.report["loaddev"] == "disk0:"
    assert outcome.report["kernel"]["name"] == "/boot/kernel/kernel"
    assert outcome.environment["currdev"] == "disk1p2:"
    segment = outcome.memory.read(0x200000, 0x1000)
    assert segment == record.memory()[0x200000:0x201000]
    assert any(segment)


def test_the_report_names_disks_and_device(gpt: Path, mbr: Path) -> None:
    done = subprocess.run([*BHYVELOAD, "--json", "--batch", "-d", gpt, "-d", mbr], capture_output=True, check=False)
    assert done.returncode == 1  # there is no kernel on them
    record = golden.Record("current", "plain")
    disk = gpt.with_name("plain.img")
    disk.write_bytes(bytes(record.disks()[0].read(0, record.disks()[0].size)))
    done = subprocess.run(
        [*BHYVELOAD, "--json", "-d", disk, "-d", mbr], input=b"load kernel\nboot\n", capture_output=True, check=True
    )
    report = json.loads(done.stdout)
    assert report["currdev"] == report["loaddev"] == "disk0p2:"
    assert [entry["path"] for entry in report["disks"]] == [str(disk), str(mbr)]


def test_words_about_superblocks(base: Path) -> None:
    """libsa says it each time it reads the superblock: at each opening, until `set currdev` keeps it mounted."""
    content = image("ufs2-32k")
    fields = {name: 65536 + offset for name, (offset, _) in SUPERBLOCK_FIELDS.items()}
    content[fields["flags"] + 1] |= 0x02  # FS_METACKHASH
    content[fields["metackhash"]] = 1
    content[fields["ckhash"] : fields["ckhash"] + 4] = b"\x78\x56\x34\x12"
    disk = golden.memory_disk(bytes(content))
    said = rb"\r\nSuperblock check-hash failed: recorded check-hash 0x12345678 != "
    said += rb"computed check-hash 0x\w{7,8} \(Ignored\)\r\n"

    def count(keys: bytes, current: bool) -> int:
        return len(re.findall(said, harness.run([disk], keys + b"quit\n", current=current).console))

    for current in (True, False):
        before = count(b"", current)
        assert count(b"more /boot/loader.conf\nmore /boot/loader.conf\n", current) == before + 2
        assert count(b"set currdev=disk0:\nmore /boot/loader.conf\n", current) == before + 1
    swapped = bytearray(content)
    swapped[65536 + 1372 : 65536 + 1376] = swapped[65536 + 1372 : 65536 + 1376][::-1]
    big = golden.memory_disk(bytes(swapped))
    words = b"UFS superblock failed due to endian mismatch between machine and filesystem\r\n"
    # a file that is not there is looked for three times: as it is, as .gz, as .bz2
    before = harness.run([big], b"quit\n").console.count(words)
    assert harness.run([big], b"more /x\nquit\n").console.count(words) == before + 3
    assert words not in harness.run([big], b"more /x\nquit\n", current=False).console


def test_a_note_about_what_freebsd_would_not_read(base: Path) -> None:
    disk = golden.memory_disk(bytes(image("ufs2-4k-512-sb8192")))
    assert harness.run([disk], b"quit\n").report["notes"] == [
        "disk0: UFS2 superblock at 8192 (Debian's makefs does this): FreeBSD's own loader looks for it at 65536 and "
        "would not read this file system"
    ]


@pytest.mark.parametrize("compat", ["13.2", "current"])
def test_a_host_folder_cannot_be_left(tmp_path: Path, compat: str) -> None:
    """FreeBSD-SA-24:01.bhyveload (CVE-2024-25940), from the command line, as the guest's scripts would try."""
    secret = tmp_path / "secret"
    secret.write_text("not for guests\n")
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    (folder / "inside/file").write_text("for guests\n")
    (folder / "good").symlink_to("inside/file")
    (folder / "up").symlink_to("../secret")
    (folder / "absolute").symlink_to(secret)
    (folder / "parent").symlink_to("..")
    (folder / "root").symlink_to("/")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    (folder / "null").symlink_to("/dev/null")
    bad = [
        "more host0:/../secret",
        "more host0:../secret",
        "more host0:/inside/../../secret",
        "more host0:/up",
        "more host0:/absolute",
        "more host0:/parent/secret",
        f"more host0:/root{secret}",
        f"more host0:{secret}",
        "more host0:/loop",
        "more host0:/fifo",
        "more host0:/null",
        "ls host0:/parent",
        "ls host0:..",
        "load -t x host0:/up",
        "include host0:/up",
        "print(io.open('host0:/up', 'r'))",
        "print(lfs.attributes('host0:/../secret', 'size'))",
    ]
    good = ["more host0:/inside/file", "more host0:/good", "more host0:/inside/../good"]
    answers = prompt("-h", folder, "--compat", compat, keys=bad + good)
    assert not [line for line in bad if "not for guests" in answers[line] or "secret\r" in answers[line]]
    assert all(
        "no such file" in answers[line] or "nil" in answers[line] for line in bad if line.startswith(("more", "print"))
    )
    assert [answers[line] for line in good] == ["for guests"] * 3
    write = "print(io.write(io.open('host0:/good', 'w'), 'x'))"
    assert prompt("-h", folder, keys=[write])[write] == "nil\tinput/output error\t5"
    assert (folder / "inside/file").read_text() == "for guests\n"
