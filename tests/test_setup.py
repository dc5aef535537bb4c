"""What `make setup` says where it may install nothing; what is needed, said alike wherever it is said."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from support.places import ROOT
from support.qemu import OLDEST

TOOLS = ROOT / "tools"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Of the system's programs the scripts themselves have these and no others
OURS = ("sh", "dirname", "basename", "grep", "env", "mktemp", "rm", "tail")
NEEDED = re.findall(r"^need (\S+) (\S+) ", (TOOLS / "apt-packages.sh").read_text(), re.MULTILINE)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder to be all of PATH: the machine of a user who is not root and has no sudo."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in OURS:
        where = next(path for path in (f"/usr/bin/{name}", f"/bin/{name}") if os.path.exists(path))
        (folder / name).symlink_to(where)
    program(folder, "id", "echo 1000")
    program(folder, "apt-get", "echo called >>apt-get.log")
    return folder


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def script(name: str, bare: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(TOOLS / name)],
        env={"PATH": str(bare), **variables},
        cwd=bare.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def absent(name: str) -> bool:
    """apt-packages.sh looks there too, where PATH of ordinary users does not lead."""
    return not any(os.path.exists(f"{folder}/{name}") for folder in ("/usr/sbin", "/sbin"))


def test_an_ordinary_user_is_told_each_thing_that_is_missing(bare: Path) -> None:
    done = script("apt-packages.sh", bare)
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    assert lines[0] == "setup: neither root nor sudo. Missing, and what brings it, as root:"
    said = [(words[-1], what) for words, what in map(_taken_apart, lines[1:-2])]
    assert {f"{name}:" for name, _ in NEEDED if absent(name)} <= {what.split()[0] for _, what in said}
    assert {package for name, package in NEEDED if absent(name)} | {"python3", "python3-venv"} <= dict(said).keys()
    assert "skipped" in lines[-2]
    assert lines[-1].split()[3:] == [package for package, _ in said]
    assert not (bare.parent / "apt-get.log").exists()


def _taken_apart(line: str) -> tuple[list[str], str]:
    """One line for one thing: the command, and behind # what it brings."""
    assert line.startswith("setup:   apt-get install ")
    command, _, what = line.removeprefix("setup:").partition("#")
    return shlex.split(command), what


def test_what_setup_finds_outside_path_tests_find_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import os, conftest; print(os.environ['PATH'])"],
        env={"PATH": "/bin", "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    (more,) = re.findall(r'^PATH="\$PATH(:.*)"$', (TOOLS / "apt-packages.sh").read_text(), re.MULTILINE)
    assert done.stdout == f"/bin{more}\n"


def test_only_what_is_missing_is_named(bare: Path) -> None:
    for name, _ in NEEDED:
        program(bare, name, "")
    program(bare, "python3", "case $2 in *ensurepip*) exit 1;; esac")
    lines = script("apt-packages.sh", bare).stderr.splitlines()
    headers = [] if os.path.exists("/usr/include/stdint.h") else ["libc6-dev"]
    assert lines[-1].split()[3:] == [*headers, "python3-venv"]
    program(bare, "python3", "")
    if not headers:
        assert script("apt-packages.sh", bare).stderr == ""


def test_a_system_without_apt(bare: Path) -> None:
    (bare / "apt-get").unlink()
    first = script("apt-packages.sh", bare).stderr.splitlines()[0]
    assert first.startswith("setup: this system has no apt (the names are Debian's). Missing")


def test_a_sudo_that_would_ask(bare: Path) -> None:
    """Nobody can answer where there is no terminal (CI, cron)."""
    program(bare, "sudo", "exit 1")
    assert "sudo asks for a password and there is no terminal" in script("apt-packages.sh", bare).stderr
    assert not (bare.parent / "apt-get.log").exists()


def test_root_gets_everything(bare: Path) -> None:
    """At once, and one by one where that fails: what cannot be had is named."""
    program(bare, "id", "echo 0")
    program(
        bare, "apt-get", 'echo "$@" >>apt-get.log; case "$*" in *qemu-utils*) echo "E: no such package"; exit 1;; esac'
    )
    done = script("apt-packages.sh", bare)
    assert done.returncode == 0
    assert done.stderr == "setup: qemu-utils cannot be installed: E: no such package\n"
    calls = (bare.parent / "apt-get.log").read_text().splitlines()
    assert calls[0].startswith("update")
    assert {line.split()[-1] for line in calls[2:]} >= {"qemu-utils", "qemu-system-x86", "python3-venv"}


@pytest.mark.parametrize(("version", "found"), [("", "there is no python3"), ("Python 3.10.12", "Python 3.10.12")])
def test_without_a_python_that_is_new_enough(bare: Path, tmp_path: Path, version: str, found: str) -> None:
    if version:
        program(bare, "python3", f"case $1 in --version) echo {version};; *) exit 1;; esac")
    (tmp_path / "tools").mkdir()
    for name in ("setup.sh", "find-python.sh"):
        (tmp_path / "tools" / name).write_text((TOOLS / name).read_text())
    command = ["/bin/sh", str(tmp_path / "tools" / "setup.sh")]
    done = subprocess.run(command, env={"PATH": str(bare)}, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("setup: Python 3.11 or later is needed (") and found in first
    assert second.split()[1:5] == ["apt-get", "install", "python3", "python3-venv"]


def test_the_oldest_python_is_the_same_everywhere() -> None:
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert PROJECT["tool"]["mypy"]["python_version"] == oldest
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")
    said = rf"Python {re.escape(oldest)} or later"
    for name in ("README.md", "tools/setup.sh"):
        assert re.search(said, (ROOT / name).read_text()), name
    assert f"sys.version_info < ({oldest.replace('.', ', ')})" in (TOOLS / "find-python.sh").read_text()
    assert f"python:{oldest}+" in (ROOT / "packaging" / "freebsd" / "Makefile").read_text()


def test_every_python_that_is_named_is_tried() -> None:
    """The classifiers are promises; the workflow has each, and find-python.sh finds each."""
    prefix = "Programming Language :: Python :: 3."
    promised = [name.split(" :: ")[-1] for name in PROJECT["project"]["classifiers"] if name.startswith(prefix)]
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    (matrix,) = re.findall(r"^ +python: \[(.*)\]$", workflow, re.MULTILINE)
    assert [name.strip('" ') for name in matrix.split(",")] == promised
    assert promised[0] == PROJECT["project"]["requires-python"].removeprefix(">=")
    finder = (TOOLS / "find-python.sh").read_text()
    assert sorted(re.findall(r"python(3\.\d+)", finder)) == promised


def test_the_oldest_qemu_is_the_same_everywhere() -> None:
    (readme,) = set(re.findall(r"QEMU (\d+\.\d+) or later", (ROOT / "README.md").read_text()))
    assert readme == ".".join(map(str, OLDEST))
    assert f"`qemu-system-x86_64` ({readme} or later" in (ROOT / "docs" / "dependencies.md").read_text()
