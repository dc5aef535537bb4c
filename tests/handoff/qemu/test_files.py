"""The descriptors that QEMU is given in place of names."""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from bhyveload.handoff.qemu.files import RunFiles


def test_a_disk_past_the_cache(tmp_path: Path) -> None:
    """QEMU from 9.1 on takes from a set only a descriptor whose O_DIRECT is as it wants it."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    try:
        os.close(os.open(disk, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system has no O_DIRECT")
    with ExitStack() as opened:
        files = RunFiles(opened)
        for number, direct in enumerate((False, True), 1):
            assert files.file(str(disk), read_only=True, direct=direct) == (f"/dev/fdset/{number}", False)
            assert bool(fcntl.fcntl(files.given[-1], fcntl.F_GETFL) & os.O_DIRECT) is direct
