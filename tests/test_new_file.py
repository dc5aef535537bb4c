"""Files that appear complete or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bhyveload import new_file
from bhyveload.new_file import NewFile


@pytest.fixture(params=["unnamed", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With O_TMPFILE, and as on a file system that has none."""
    if request.param == "named":
        monkeypatch.setattr(new_file, "unnamed_file", lambda folder: -1)
    return str(request.param)


def test_appears_when_it_is_placed(tmp_path: Path, way: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with NewFile(str(path)) as new:
        os.write(new.fd, b"new")
        assert path.read_bytes() == b"old"
        new.place()
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x"]


def test_is_dropped_otherwise(tmp_path: Path, way: str) -> None:
    with pytest.raises(KeyError), NewFile(str(tmp_path / "x")) as new:
        os.write(new.fd, b"new")
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_a_folder_without_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.chdir(tmp_path)
    with NewFile("x") as new:
        new.place()
    assert os.listdir(tmp_path) == ["x"]


def test_errors_name_the_file(tmp_path: Path, way: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        NewFile(str(tmp_path / "none" / "x"))
    assert caught.value.filename == str(tmp_path / "none" / "x")
    (tmp_path / "folder" / "in it").mkdir(parents=True)
    with NewFile(str(tmp_path / "folder")) as new, pytest.raises(OSError) as failed:
        new.place()
    assert failed.value.errno in (errno.EISDIR, errno.ENOTEMPTY)
    assert failed.value.filename == str(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


KILLED = """
import os, sys
from bhyveload import new_file
if sys.argv[2] == "named":
    new_file.unnamed_file = lambda folder: -1
new = new_file.NewFile(sys.argv[1])
os.write(new.fd, b"half of it")
if sys.argv[2] == "linked":
    new._give_name()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("at", ["unnamed", "named", "linked"])
def test_killed(tmp_path: Path, at: str) -> None:
    path = tmp_path / "x"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, path, at], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with NewFile(str(path)) as new:  # another one, meanwhile, leaves it alone
            new.place()
        assert len(os.listdir(tmp_path)) == 1 + (at != "unnamed")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    foreign = tmp_path / ".x.notes.1"
    foreign.write_bytes(b"somebody's own")
    with NewFile(str(path)) as new:
        os.write(new.fd, b"whole")
        new.place()
    assert sorted(os.listdir(tmp_path)) == [".x.notes.1", "x"]
    assert path.read_bytes() == b"whole"


def test_a_leftover_of_another_kind_is_left(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".x.1.0")
    (tmp_path / ".x.2.0").symlink_to("/etc/passwd")
    (tmp_path / ".x.3.0").mkdir()
    began = time.monotonic()
    with NewFile(str(tmp_path / "x")) as new:
        new.place()
    assert time.monotonic() - began < 10
    assert {".x.2.0", ".x.3.0", "x"} <= set(os.listdir(tmp_path))


def test_too_many_names_are_taken(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_file, "_TRIES", 2)
    for number in range(2):
        (tmp_path / f".x.{os.getpid()}.{number}").mkdir()
    with pytest.raises(FileExistsError) as caught, NewFile(str(tmp_path / "x")) as new:
        new.place()
    assert caught.value.filename == str(tmp_path / "x")
