"""What CI jobs of others use: .ci/fetch-image."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bhyveload.cli.bhyverun_options import parse
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


def test_the_action_hands_over_what_it_is_given(tmp_path: Path) -> None:
    """Its script, with programs around it that only write down how they were called."""
    _, _, script = (ROOT / "action.yml").read_text().partition("      run: |\n")
    lines = [line[8:] for line in script.splitlines() if line.startswith(" " * 8)]
    lines = lines[: next(n for n, line in enumerate(lines) if line.endswith('"$image"')) + 1]
    programs = tmp_path / "programs"
    for name in ("programs/sudo", "programs/python", "temp/bhyveload/bin/pip", "here/.ci/fetch-image"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "temp/bhyveload/bin/bhyverun").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "temp/bhyveload/bin/bhyverun").chmod(0o755)
    given = {"COMMAND": "a 'b'; c", "MEMORY": "1G", "TIMEOUT": "9", "IMAGE_URL": "https://x/y.raw", "CHECKSUMS_URL": ""}
    given |= {"COPY_IN": "my src:/root/x", "COPY_OUT": "/root/x/out:out", "PUT": "", "GET": "/a b:c"}
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path), "RUNNER_TEMP": f"{tmp_path}/temp"}
    done = subprocess.run(
        ["bash", "-e", "-c", "\n".join(lines)],
        env={**environment, "HERE": f"{tmp_path}/here", **given},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    log, image = f"{tmp_path}/temp/freebsd-console.log", f"{tmp_path}/.cache/bhyveload-images/y.raw"
    words = ["--exec", "a 'b'; c", "-m", "1G", "--timeout", "9", "--log", log, "--get", "/a b:c"]
    words += ["--copy-in", "my src:/root/x", "--copy-out", "/root/x/out:out", image]
    assert done.stdout.splitlines() == words
    parse(words)  # bhyverun knows them
