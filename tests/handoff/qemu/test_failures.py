"""Why QEMU could not run, in words for the user."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from bhyveload.handoff.disks import Disk
from bhyveload.handoff.qemu.drives import block_node
from bhyveload.handoff.qemu.failures import cannot_start, failure, files_of_nodes
from bhyveload.handoff.qemu.files import RunFiles

NAMES = {"/dev/fdset/3": "a.img"}


@pytest.mark.parametrize(
    ("status", "messages", "message"),
    [
        (1, "", "qemu-system-x86_64: ended with status 1"),
        (-9, " \n", "qemu-system-x86_64: died by signal 9"),
        (1, "warning: x\nqemu-system-x86_64: -m: bad\x1b[2J\n", "qemu-system-x86_64: -m: bad?[2J"),
        (1, "Is another process using the image [/dev/fdset/3]?\n", "a.img: is in use by another program"),
        (1, "Is another process using the image [x]?\n", "x: is in use by another program"),
    ],
)
def test_the_last_line_is_the_reason(status: int, messages: str, message: str) -> None:
    assert failure(status, messages, NAMES, confined=True).message == message


def test_the_files_behind_block_nodes(tmp_path: Path) -> None:
    """As QEMU gets them: options for a raw file, JSON for an image on top of another."""
    for name in ("raw", "below", "top"):
        (tmp_path / name).write_bytes(bytes(4096))
    raw, below, top = (str(tmp_path / name) for name in ("raw", "below", "top"))
    with ExitStack() as opened:
        files = RunFiles(opened)
        command = ["qemu", *block_node("pci0.3.0.disk", Disk(raw), files), "-device", "node-name=x,/dev/fdset/1"]
        command += block_node("disk1", Disk(below, overlay=top), files)
        assert files_of_nodes(command, files.names) == {"pci0.3.0.disk": raw, "disk1": top}


@pytest.mark.parametrize("confined", [True, False])
def test_the_box_is_named_where_it_may_be_the_reason(confined: bool) -> None:
    error = failure(1, "-drive file=x: Could not open 'x': Permission denied", NAMES, confined)
    assert ("--no-sandbox" in error.hint) == confined


def test_topologies_with_too_many_ids() -> None:
    """What QEMU 7.2 says of -smp sockets=3,cores=5,threads=17."""
    said = "qemu-system-x86_64: current -smp configuration requires kernel irqchip and X2APIC API support."
    assert "powers of 2" in failure(1, said, NAMES, confined=True).hint


def test_memory_that_cannot_be_locked() -> None:
    said = "mlockall: Cannot allocate memory\nqemu-system-x86_64: locking memory failed\n"
    assert "-S" in failure(1, said, NAMES, confined=True).hint


def test_what_the_host_said() -> None:
    for number, hint in ((errno.EAGAIN, "too many processes"), (errno.EACCES, "--no-sandbox"), (errno.ENOENT, "")):
        error = cannot_start(OSError(number, os.strerror(number)))
        assert error.message == f"qemu-system-x86_64: {os.strerror(number)}"
        assert error.hint.startswith(hint) and bool(error.hint) == bool(hint)
