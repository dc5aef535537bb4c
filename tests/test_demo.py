"""tools/demo.py: README's first command, with and without the programs that it uses."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

import demo
from support.images import require
from support.qemu import missing_qemu

ENTRY = "rip[0]\t\t0xffffffff80"
LAST_WORDS = "That is all.  Powering off."


def shown(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *without: str
) -> tuple[int, str, str]:
    """Exit status and output on a machine that has everything but some programs."""
    require(*{"gcc", "ld", "makefs", "sgdisk"} - set(without))
    if "qemu-system-x86_64" not in without and (why := missing_qemu()):
        pytest.skip(why)
    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name in without else found(name))
    monkeypatch.setenv("PATH", os.environ["PATH"])  # which main() changes
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    status = demo.main()
    assert not list(tmp_path.glob("bhyveload-demo-*"))
    return (status, *capfd.readouterr())


def test_to_the_first_words(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status, output, _ = shown(capfd, monkeypatch, tmp_path)
    assert status == 0
    assert ENTRY in output and LAST_WORDS in output
    assert "demo.disk=disk0p1:" in output


def test_from_a_folder(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status, output, errors = shown(capfd, monkeypatch, tmp_path, "makefs", "sgdisk")
    assert status == 0
    assert "demo.disk=host0:" in output and LAST_WORDS in output
    assert errors.splitlines()[:2] == [
        "demo: makefs is not installed (apt install makefs): the guest boots from a folder instead of a disk",
        "demo: sgdisk is not installed (apt install gdisk): the guest boots from a folder instead of a disk",
    ]


def test_without_qemu(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The guest's first words were not heard: that is no success."""
    status, output, errors = shown(capfd, monkeypatch, tmp_path, "qemu-system-x86_64")
    assert status == 1
    assert ENTRY in output and LAST_WORDS not in output
    assert errors.splitlines()[-1] == (
        "demo: qemu-system-x86_64 is not installed (apt install qemu-system-x86): the guest is loaded, but not run"
    )


def test_without_a_compiler(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert shown(capfd, monkeypatch, tmp_path, "gcc", "ld") == (
        1,
        "",
        "demo: gcc is not installed (apt install gcc): the guest's kernel is not built\n"
        "demo: ld is not installed (apt install binutils): the guest's kernel is not built\n",
    )
