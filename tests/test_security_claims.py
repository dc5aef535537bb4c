"""SECURITY.md and docs/security.md: what they count is there, what they name as proof exists, and what can be seen from
outside of a load: who opens the disks and how, what of them the parent looks at, that nobody listens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bhyveload.seccomp import ERRNO, TABLE, WALK
from support import zfs_pools
from support.golden import Record
from support.places import ROOT

DOCUMENTS = ("SECURITY.md", "docs/security.md")
TEXTS = {name: (ROOT / name).read_text() for name in DOCUMENTS}


def test_the_system_calls_are_counted_right() -> None:
    refused = [row for row in TABLE if row[3] == WALK or (isinstance(row[3], int) and row[3] & 0xFFFF0000 == ERRNO)]
    allowed = len(TABLE) - len(refused)
    counted = {
        "SECURITY.md": (r"allows \[(\d+) system calls by name\]", r"refuses (\d+) that C libraries try"),
        "docs/security.md": (r"seccomp \| (\d+) calls allowed", r"(\d+) refused with an errno"),
    }
    for name, patterns in counted.items():
        for pattern, number in zip(patterns, (allowed, len(refused)), strict=True):
            found = re.findall(pattern, TEXTS[name])
            assert found == [str(number)], (name, pattern, found, number)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_named_as_proof_exists(name: str) -> None:
    paths = set(re.findall(r"`((?:tests|tools|src)/[\w./-]+)`", TEXTS[name]))
    for path in paths:
        assert (ROOT / path).exists(), path
    bare = set(re.findall(r"`(test_\w+\.py)`", TEXTS[name]))
    assert not bare, f"without their folder: {bare}"
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for function in re.findall(r"`(test_\w+)`", TEXTS[name]):
        assert f"def {function}(" in tests, function


def test_every_guarantee_has_its_proof() -> None:
    guarantees = set(re.findall(r"^(\d+)\. \*\*", TEXTS["SECURITY.md"], re.M))
    rows = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", TEXTS["docs/security.md"], re.M)
    assert {number for number, _ in rows} == guarantees
    assert all("`tests/" in proof for _, proof in rows)


# A load, watched from inside its processes: each line is "parent|child|qemu EVENT ARGUMENTS"
_WATCHED = """
import os, sys
parent, log = os.getpid(), os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.set_inheritable(log, True)
def note(*words):
    who = "parent" if os.getpid() == parent else "child"
    os.write(log, (" ".join(map(str, (who, *words))) + "\\n").encode())
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        note("open", arguments[2] & os.O_ACCMODE, arguments[0])
    elif event.startswith(("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.system")):
        note(event)
sys.addaudithook(hook)
read = os.pread
def pread(fd, length, offset):
    if os.getpid() == parent:
        note("pread", os.readlink(f"/proc/self/fd/{fd}"), offset, length)
    return read(fd, length, offset)
os.pread = pread
program = sys.argv[0] = sys.argv.pop(1)
module = __import__("bhyveload.cli." + program, fromlist=["main"])
sys.exit(module.main())
"""


def watched(folder: Path, *words: str | Path, status: int = 0) -> list[list[str]]:
    """What the processes of a program did, a list of words each."""
    log = folder / "log"
    log.unlink(missing_ok=True)
    command = [sys.executable, "-c", _WATCHED, str(log), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr
    return [line.split(" ") for line in log.read_text().splitlines()]


@pytest.fixture(params=["ufs", "zfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    found = Record("current", "modules").disks()[0] if request.param == "ufs" else zfs_pools.disk("bootenv.0")
    path.write_bytes(found.read(0, found.size))
    return path


def loads(disk: Path) -> int:
    """The exit status of a load: that pool has no kernel."""
    return 0 if disk.stat().st_size < 64 << 20 else 1


def test_the_parent_looks_at_a_disk_at_fixed_places_only(disk: Path, tmp_path: Path) -> None:
    """What kind of image it is: the first sector, a footer, the magic number of a table in 512 or 4096 bytes."""
    size = disk.stat().st_size
    events = watched(tmp_path, "bhyveload", "--batch", "-m", "64M", "-d", disk, "vm", status=loads(disk))
    looks = {(int(words[3]), int(words[4])) for words in events if words[:3] == ["parent", "pread", str(disk)]}
    assert looks
    assert looks <= {(0, 512), (size - 512, 24), (512, 8), (4096, 8)}


def test_a_load_listens_on_nothing_and_starts_nothing(disk: Path, tmp_path: Path) -> None:
    events = watched(tmp_path, "bhyveload", "--batch", "-m", "64M", "-d", disk, "vm", status=loads(disk))
    assert {words[1] for words in events} <= {"open", "pread"}
    assert [words for words in events if words[1:3] == ["open", "2"] and words[3] == str(disk)], "no load?"


@pytest.mark.parametrize(
    "words",
    [
        ["bhyveload", "--batch", "--dry-run", "-m", "64M", "-d", "DISK"],
        ["bhyveload", "--list-boot-envs", "-d", "DISK"],
        ["bhyvedisk", "info", "DISK"],
        ["bhyvedisk", "checksum", "DISK"],
    ],
)
def test_who_only_looks_opens_disks_for_reading(tmp_path: Path, words: list[str]) -> None:
    disk = tmp_path / "disk.img"
    found = zfs_pools.disk("bootenv.0") if "--list-boot-envs" in words else Record("current", "modules").disks()[0]
    disk.write_bytes(found.read(0, found.size))
    events = watched(tmp_path, *(str(disk) if word == "DISK" else word for word in words))
    opened = {words[2] for words in events if words[1] == "open" and words[3] == str(disk)}
    assert opened == {str(os.O_RDONLY)}
