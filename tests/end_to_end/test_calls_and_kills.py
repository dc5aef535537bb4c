"""Every call that a load makes of the C library can fail, and everything can be killed: only our errors, nothing lost.

Here some of them; all: ``python tools/faults.py --calls``, ``--kills 1000``.
"""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from support.end_to_end import needs_gcc
from support.failing import ERRORS, Failing
from support.golden import Record
from support.kill_kinds import KINDS, VICTIMS, Kills
from support.qemu import missing_qemu


@needs_gcc
@pytest.mark.parametrize("name", ERRORS)
def test_some_calls_fail(tmp_path: Path, name: str) -> None:
    image = Record("current", "modules").disks()[0]
    disk = tmp_path / "the-disk.img"
    disk.write_bytes(image.read(0, image.size))
    failing = Failing(tmp_path, disk, tmp_path / "vmm")
    assert failing.calls > 30
    first = ERRORS.index(name)
    statuses = [failing.check(number, getattr(errno, name)) for number in range(first * 3, failing.calls, 18)]
    if name != "EINTR":  # after which Python calls again
        assert any(statuses)
    assert failing.load(-1, 0)[:2] == (0, "")


@pytest.mark.skipif(bool(missing_qemu()), reason=missing_qemu())
def test_some_kills(tmp_path: Path) -> None:
    """Of the program and of what works for it, in loads, copies, unpacking, runs; many: tools/faults.py --kills."""
    kills, generator = Kills(tmp_path), random.Random(3)
    for kind in KINDS:
        for victim in VICTIMS:
            kills.kill(kind, victim, generator)
    kills.finish()
