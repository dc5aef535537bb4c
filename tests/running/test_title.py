"""What ps(1) shows of a process that has given itself a title."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = "import sys; from bhyveload.running.title import set_title; set_title(sys.argv[1], sys.argv[2]); input()"


@pytest.mark.parametrize(
    ("program", "title", "comm", "shown"),
    [
        ("bhyve", "bhyve: vm1", b"bhyve\n", b"bhyve: vm1"),
        ("a-name-of-more-than-15", "bhyve: \udcff", b"a-name-of-more-\n", b"bhyve: \xff"),
        ("bhyve", "bhyve: " + "x" * 229, b"bhyve\n", b"bhyve: " + b"x" * 229),
    ],
)
def test_title(program: str, title: str, comm: bytes, shown: bytes) -> None:
    command = [sys.executable, "-c", PROGRAM, program, title]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        proc = Path(f"/proc/{process.pid}")
        found = b"", b""
        limit = time.monotonic() + 30
        while found != (comm, shown) and time.monotonic() < limit:
            time.sleep(0.02)
            found = (proc / "comm").read_bytes(), (proc / "cmdline").read_bytes().rstrip(b"\0")
        assert found == (comm, shown)
        process.communicate(b"\n")
    assert process.returncode == 0
