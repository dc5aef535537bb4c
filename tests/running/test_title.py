"""What ps(1) shows of a process that has given itself a title."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bhyveload.running.title import __file__ as title_module

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


LONG = """
import os, subprocess, sys
from bhyveload.running.title import set_title
title = "bhyve: " + "x" * int(sys.stdin.readline())
set_title("bhyve", title)
shown = open("/proc/self/cmdline", "rb").read().rstrip(b"\\0")
command = [sys.executable, "-c", "import os; print(os.environ['KEPT'])"]
child = subprocess.run(command, stdout=subprocess.PIPE, text=True)
print(shown == title.encode(), os.environ["KEPT"], child.stdout.strip())
"""


@pytest.mark.parametrize(("size", "room", "shown"), [(1200, 4000, True), (229, 4000, True), (3000, 10, False)])
def test_a_title_longer_than_the_arguments(size: int, room: int, shown: bool) -> None:
    """It goes on where the environment stands, which is moved: what this process and its children see of it stays."""
    environment = {"PADDING": "p" * room, "KEPT": "here", "PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [sys.executable, "-c", LONG]
    if not shown:
        environment["PYTHONPATH"] = str(Path(title_module).parents[2])
    done = subprocess.run(command, input=f"{size}\n", env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(shown), "here", "here"], done.stderr
