"""What CI jobs of others use: .ci/fetch-image."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from support.places import ROOT

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
NAME = "FreeBSD-14.3.raw"


def fetch(folder: Path, url: str = "", *more: str) -> subprocess.CompletedProcess[str]:
    url = url or f"file://{folder}/there/{NAME}"
    command = ["sh", str(ROOT / ".ci" / "fetch-image"), url, str(folder / "image"), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / NAME).write_bytes(b"an image")
    digest = hashlib.sha512(b"an image").hexdigest()
    other = hashlib.sha512(b"another").hexdigest()
    lines = f"SHA512 (FreeBSD-14x3.raw) = {other}\nSHA512 ({NAME}) = {digest}\n"
    (tmp_path / "there" / "CHECKSUM.SHA512").write_text(lines)
    return tmp_path


def test_an_image_that_is_what_it_should_be(folder: Path) -> None:
    done = fetch(folder)
    assert (done.returncode, (folder / "image").read_bytes()) == (0, b"an image"), done.stderr
    (folder / "there" / NAME).unlink()
    assert fetch(folder).returncode == 0  # it is there already


def test_a_cached_image_that_was_changed_is_fetched_anew(folder: Path) -> None:
    (folder / "image").write_bytes(b"not that")
    assert fetch(folder).returncode == 0
    assert (folder / "image").read_bytes() == b"an image"


def test_another_image_is_refused(folder: Path) -> None:
    (folder / "there" / NAME).write_bytes(b"another")
    done = fetch(folder)
    assert done.returncode == 1 and "is not what" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["there"]


@pytest.mark.parametrize("name", ["", "..", ".hidden", "-o", "a image", "x\ne id", "x,backing", "a?b", "$(id)"])
def test_a_name_that_could_be_something_else(folder: Path, name: str) -> None:
    """The address may come from a workflow's input."""
    done = fetch(folder, f"file://{folder}/there/{name}")
    assert (done.returncode, done.stdout) == (2, "") and "cannot be an image's name" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["there"]


def test_an_address_is_no_option(folder: Path) -> None:
    (folder / "there" / "rc").write_text(f'output = "{folder}/written"\nurl = "file://{folder}/there/{NAME}"\n')
    for url, more in ((f"-K{folder}/there/rc", ()), ("", (f"-K{folder}/there/rc",))):
        done = fetch(folder, url, *more)
        assert done.returncode == 2 and "is no address" in done.stderr
    assert not (folder / "written").exists()


def test_without_a_checksum_there_is_no_image(folder: Path) -> None:
    (folder / "there" / "CHECKSUM.SHA512").write_text("")
    done = fetch(folder)
    assert done.returncode == 1 and "names no SHA512" in done.stderr
