"""What loader(8) writes to a guest's disk, nextboot's one line, and that nothing else ever changes a disk."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bhyveload.api import load
from bhyveload.image.raw import RawImage, open_raw
from bhyveload.vm.scratch import ScratchMachine
from support import harness
from support.images import MIB, make_ufs, require, standard_disk

BEFORE = b'nextboot_enable="YES"\nkernel="other"\n'
AFTER = b'nextboot_enable="NO" \nkernel="other"\n'
# What the stock config.lua does with nextboot.conf (stand/lua/config.lua, checkNextboot), in our words.
SCRIPT = b"""
local name = "/boot/nextboot.conf"
local file = io.open(name, "r")
local text = io.read(file, 1000)
io.close(file)
loader.setenv("next", text:match('kernel="(%w+)"'))
file = io.open(name, "w")
local done, why = io.write(file, 'nextboot_enable="NO" ')
io.close(file)
loader.setenv("wrote", tostring(done) .. " " .. tostring(why))
file = io.open(name, "r")
loader.setenv("enabled", io.read(file, 1000):match('nextboot_enable="(%w+)"'))
io.close(file)
"""
FILES = {
    "boot/lua/loader.lua": SCRIPT,
    "boot/nextboot.conf": BEFORE,
    "boot/loader.conf": b'autoboot_delay="1"\n',
    "boot/large": bytes(range(256)) * 300,
    "boot/zipped.gz": b"\x1f\x8b\x08\0\0\0\0\0\0\3\3\0\0\0\0\0\0\0\0\0",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("writes")
    for name, content in FILES.items():
        path = base / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return standard_disk(base / "disk.img", make_ufs(base / "tree", base / "ufs.img", 4 * MIB, 8192, 1024, version=1))


@pytest.fixture
def disk(made: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "disk.img"
    copy.write_bytes(made.read_bytes())
    return copy


def digest(disk: Path) -> str:
    return hashlib.sha256(disk.read_bytes()).hexdigest()


def run(disk: Path | RawImage, keys: bytes = b"", **options: Any) -> harness.Outcome:
    image = disk if isinstance(disk, RawImage) else open_raw(str(disk))
    try:
        return harness.run([image], keys + b"quit\n", **options)
    finally:
        image.close()


@pytest.mark.parametrize("current", [True, False])
def test_nextboot_is_reset_in_place(disk: Path, made: Path, current: bool) -> None:
    outcome = run(disk, current=current)
    assert outcome.environment["next"] == "other"
    assert outcome.environment["wrote"] == "21 nil"
    assert outcome.environment["enabled"] == "NO"
    before, after = made.read_bytes(), disk.read_bytes()
    place = before.index(BEFORE)
    assert after == before[:place] + AFTER + before[place + len(AFTER) :]


def test_the_second_load_sees_what_the_first_wrote(disk: Path) -> None:
    run(disk)
    changed = digest(disk)
    assert run(disk).environment["enabled"] == "NO"
    assert digest(disk) == changed


def test_a_read_only_image_honours_nextboot_and_says_that_it_stays(disk: Path) -> None:
    before = digest(disk)
    outcome = run(open_raw(str(disk), read_only=True))
    assert outcome.environment["next"] == "other"
    assert outcome.environment["wrote"] == "nil read-only filesystem"
    assert outcome.environment["enabled"] == "YES"
    assert outcome.report["notes"] == [
        "/boot/nextboot.conf is not changed as the guest's scripts want: ufs: the disk was opened read-only"
    ]
    assert digest(disk) == before


def test_a_dry_run_does_as_if(disk: Path) -> None:
    """Its loader sees its own writes; the disk does not."""
    before = digest(disk)
    done = subprocess.run(
        [sys.executable, "-m", "bhyveload.cli.bhyveload", "--dry-run", "-d", disk],
        input=b"show enabled\n",
        capture_output=True,
        check=False,
    )
    assert b"\nNO\r\n" in done.stderr
    assert digest(disk) == before
    image = open_raw(str(disk))
    with pytest.raises(Exception, match="end of input"):
        load(ScratchMachine("scratch", 64 * MIB), [image])
    image.close()
    assert digest(disk) == before


@pytest.mark.parametrize(
    ("lua", "said"),
    [
        # each on a file that could be hurt by it
        ("local f = io.open('/boot/loader.conf', 'w') print(io.write(f, string.rep('x', 400)))", b"nil\tno error\t0"),
        ("print(io.open('/boot/new', 'w'))", b"nil"),
        ("print(io.open('/boot/zipped', 'w'))", b"nil"),
        ("local f = io.open('/boot/loader.conf', 'r') print(io.write(f, 'x'))", b"nil\tbad file descriptor\t9"),
        ("print(io.open('/boot/loader.conf', 'a'))", b"nil"),
        ("print(io.open('host0:/boot/loader.conf', 'w'))", b"nil"),
        ("print(io.open('disk0:', 'w'))", b"nil"),
    ],
)
def test_writes_that_are_none(disk: Path, lua: str, said: bytes) -> None:
    first = run(disk)  # nextboot's own write
    assert first.environment["enabled"] == "NO"
    before = disk.read_bytes()
    console = run(disk, lua.encode() + b"\n").console
    assert said in console
    after = disk.read_bytes()
    if b"no error" in said:  # what fits before the end of the file is written
        place = before.index(FILES["boot/loader.conf"])
        assert after == before[:place] + b"x" * 19 + before[place + 19 :]
    else:
        assert after == before


def test_no_command_changes_a_disk(disk: Path) -> None:
    run(disk)
    before = digest(disk)
    commands = (
        "ls -l /boot, ls disk0p1:, more /boot/loader.conf, lsdev -v, load -t x /boot/large, lsmod -v, unload, show, "
        "set currdev=disk0:, ls /, set currdev=disk0p2:, readtest /boot/large, map-vdisk /boot/large, lsdev, "
        "unmap-vdisk vdisk0:, load /boot/large, load -t md_image /boot/large, boot -a, autoboot 0, "
        "include /boot/large, echo x, help, ?, bcachestat, nvstore, lszfs x, reloadbe, smbios"
    )
    outcome = run(disk, commands.replace(", ", "\n").encode() + b"\n")
    assert b"disk0p2" in outcome.console
    assert digest(disk) == before


def test_the_other_programs_change_nothing(disk: Path, tmp_path: Path) -> None:
    before = digest(disk)
    for words in (("info",), ("ls", "-lR"), ("checksum",)):
        subprocess.run([sys.executable, "-m", "bhyveload.cli.bhyvedisk", *words, disk], check=True, capture_output=True)
    assert digest(disk) == before


def test_an_iso_is_never_written(tmp_path: Path, made: Path) -> None:
    require("xorriso")
    iso = tmp_path / "x.iso"
    subprocess.run(
        ["xorriso", "-as", "mkisofs", "-R", "-o", iso, made.parent / "tree"], check=True, capture_output=True
    )
    before = digest(iso)
    outcome = run(iso)
    assert outcome.environment["wrote"] == "nil input/output error"
    assert outcome.environment["enabled"] == "YES"
    assert digest(iso) == before


def test_an_image_that_may_not_be_written(disk: Path) -> None:
    """From the command line, as a user to whom the file does not belong."""
    if os.geteuid() == 0:
        pytest.skip("root may write everything")
    disk.chmod(0o444)
    done = subprocess.run(
        [sys.executable, "-m", "bhyveload.cli.bhyveload", "-d", disk, "vm"],
        input=b"show enabled\n",
        capture_output=True,
        check=False,
    )
    assert b"opened read-only: the loader cannot save anything there" in done.stderr
    assert b"\nYES\r\n" in done.stdout
