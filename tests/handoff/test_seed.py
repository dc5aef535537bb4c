"""The disk for a first boot, as mtools and fsck.fat read it; and a guest that has it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.errors import InputError, UsageError
from bhyveload.handoff.seed import seed_disk, seed_files, seed_image
from support.end_to_end import load, needs_gcc, needs_qemu, pci_ids, program, run_guest

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA me@host"
needs_mtools = pytest.mark.skipif(shutil.which("mtype") is None, reason="mtools is not installed")


def read(image: Path, name: str) -> bytes:
    return subprocess.run(["mtype", "-i", str(image), f"::{name}"], capture_output=True, check=True).stdout


@needs_mtools
@given(st.lists(st.binary(max_size=30000), min_size=1, max_size=3))
@settings(max_examples=10, deadline=None)
def test_others_read_it(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    files = dict(zip(("meta-data", "user-data", "thirteenchars"), contents, strict=False))
    path = tmp_path_factory.mktemp("seed") / "seed.img"
    path.write_bytes(seed_image(files))
    assert {name: read(path, name) for name in files} == files
    label = subprocess.run(["mlabel", "-s", "-i", str(path), "::"], capture_output=True, text=True, check=True).stdout
    assert label.strip() == "Volume label is CIDATA"
    if shutil.which("fsck.fat"):
        done = subprocess.run(["fsck.fat", "-n", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_short_forms() -> None:
    files = seed_files(None, None, "web-1.example.org", [KEY])
    assert files["meta-data"] == b"instance-id: bhyverun\nlocal-hostname: web-1.example.org\n"
    assert files["user-data"] == f"#cloud-config\nssh_authorized_keys:\n  - {KEY}\n".encode()
    assert seed_files(b"#!/bin/sh\n", b"x", "", []) == {"meta-data": b"x", "user-data": b"#!/bin/sh\n"}


def test_what_cannot_be(tmp_path: Path) -> None:
    for name in ("-web", "a b", "x\ny", "a..b", "ö", "a" * 64):
        with pytest.raises(UsageError, match="cannot be a host's name"):
            seed_files(None, None, name, [])
    (tmp_path / "private").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nx\n")
    with pytest.raises(UsageError, match="is no public key"):
        seed_disk("", "", [str(tmp_path / "private")])
    with pytest.raises(InputError, match="No such file"):
        seed_disk(str(tmp_path / "absent"), "", [])
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(UsageError, match="too large"):
        seed_disk(str(tmp_path / "large"), "", [])
    with pytest.raises(UsageError, match="exclude each other"):
        seed_files(b"", None, "", [KEY])


@needs_qemu
@needs_gcc
def test_a_guest_has_it(probe_disk: Path) -> None:
    load("-d", probe_disk, "-m", "64M")
    without = pci_ids(run_guest("--snapshot")).count("1af4:1001")
    assert pci_ids(run_guest("--snapshot", "--hostname", "me")).count("1af4:1001") == without + 1
    done = program("bhyverun", "--dry-run", "--hostname", "me", "vm", check=4)
    assert "a seed is made for a run" in done.messages
