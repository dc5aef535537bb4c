"""What the user sees of something that takes its time: on a terminal, on a dumb one, elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from bhyveload.cli.progress import progress_text

SCRIPT = """
from bhyveload.cli.progress import CopyProgress, UnpackProgress
copy = CopyProgress("me", "\\x1b[31mdir: copying")
copy.step(1 << 28, 1 << 29)
copy.step(1 << 29, 1 << 29)
copy.end()
small = CopyProgress("me", "small")
small.step(1, 1)
small.end()
unpack = UnpackProgress("me")
unpack.begin("disk", "/cache")
unpack.step(1, 4)
unpack.end()
"""
PLAIN = b"me: \\x1b[31mdir: copying: 512 MiB\nme: disk: unpacking it into /cache, once\n"


def said_on_a_terminal(**environment: str) -> bytes:
    ours, theirs = pty.openpty()
    try:
        everything = {**os.environ, **environment}
        subprocess.run([sys.executable, "-c", SCRIPT], stderr=theirs, env=everything, check=True, timeout=30)
        os.close(theirs)
        said = b""
        while True:
            try:
                said += os.read(ours, 4096)
            except OSError:  # all of it
                return said
    finally:
        os.close(ours)


@pytest.mark.parametrize("environment", [{"TERM": "xterm"}, {"TERM": "xterm", "NO_COLOR": "1"}], ids=str)
def test_on_a_terminal(environment: dict[str, str]) -> None:
    """A line that is drawn again and goes when all is done; what is unpacked leaves a line.  No colours."""
    expected = b"\rme: \\x1b[31mdir: copying:  50 %\x1b[K\r\x1b[K\rme: small: 100 %\x1b[K\r\x1b[K"
    expected += (
        b"\rme: disk: unpacking it into /cache, once:  25 %\x1b[K\rme: disk: unpacking it into /cache, once\x1b[K\r\n"
    )
    assert said_on_a_terminal(**environment) == expected


def test_on_a_dumb_terminal() -> None:
    assert said_on_a_terminal(TERM="dumb") == PLAIN.replace(b"\n", b"\r\n")


def test_in_a_file() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True, timeout=30)
    assert done.stderr == PLAIN


@pytest.mark.parametrize(
    ("done", "total", "seconds", "text"),
    [
        (0, 100, 9.0, "  0 %"),
        (50, 100, 0.5, " 50 %"),
        (0, 0, 0.5, "100 %"),
        (300 << 20, 900 << 20, 3.0, " 33 %, 100.0 MiB/s, 0:06 left"),
        (1 << 20, 1 << 30, 10.0, "  0 %, 0.1 MiB/s, 170:30 left"),
        (9, 3, 2.0, "300 %, 0.0 MiB/s, 0:00 left"),
    ],
)
def test_how_far(done: int, total: int, seconds: float, text: str) -> None:
    assert progress_text(done, total, seconds) == text
