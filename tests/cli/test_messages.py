"""What the programs say, and to whom when nobody listens."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bhyveload.cli.messages import report_error, run, warn
from bhyveload.errors import FileSystemError, LoaderError, UsageError, VmBusy
from support.end_to_end import PROGRAMS


def test_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    warn("bhyveload", "disk\n0")
    assert report_error("bhyveload", FileSystemError(5, "disk0: bad\x1b[0m", "try\nanother")) == 65
    assert report_error("bhyveload", UsageError("illegal option -- x")) == 64
    assert report_error("bhyvectl", VmBusy("VM 'a' is in use")) == 75
    assert report_error("bhyveload", LoaderError("no kernel", exit_status=3)) == 3
    assert capsys.readouterr().err.splitlines() == [
        "bhyveload: disk\\x0a0",
        "bhyveload: disk0: bad\\x1b[0m (try\\x0aanother)",
        "bhyveload: illegal option -- x",
        "bhyvectl: VM 'a' is in use",
        "bhyveload: no kernel",
    ]


def test_no_words_for_an_interrupt_or_a_broken_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_error("bhyveload", KeyboardInterrupt()) == 130
    assert report_error("bhyveload", BrokenPipeError()) == 141
    assert capsys.readouterr().err == ""


def test_defects(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BHYVELOAD_DEBUG", raising=False)
    assert report_error("bhyveload", ZeroDivisionError("a\nb")) == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bhyveload: internal error: ZeroDivisionError: a\\x0ab")
    monkeypatch.setenv("BHYVELOAD_DEBUG", "1")
    assert run("bhyveload", lambda: 1 // 0) == 70
    assert "Traceback" in capsys.readouterr().err


def test_no_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_error("bhyveload", MemoryError()) == 71
    assert "no more memory" in capsys.readouterr().err


def test_other_errors_of_the_host(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_error("bhyveload", FileNotFoundError(2, "No such file or directory", "a\tb")) == 74
    assert capsys.readouterr().err == "bhyveload: a\\x09b: No such file or directory\n"


@pytest.mark.parametrize(
    "words",
    [
        ("bhyvedisk", "cp", "{}", "/boot/kernel/kernel", "copy"),
        ("bhyveload", "--batch", "--dry-run", "-d", "../disk.img"),
    ],
)
def test_a_current_folder_that_is_gone(words: tuple[str, ...], probe_disk: Path, tmp_path: Path) -> None:
    shutil.copy(probe_disk, tmp_path / "disk.img")
    (tmp_path / "gone").mkdir()
    command = ["sh", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', str(tmp_path / "gone"), str(PROGRAMS / words[0])]
    command += [word.format(probe_disk) for word in words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 74
    assert done.stderr.endswith(f"{words[0]}: the current folder: No such file or directory\n")


SCRIPT = textwrap.dedent("""
    import sys
    from bhyveload.cli.messages import run, warn
    def body():
        warn("test", "a warning")
        for _ in range(int(sys.argv[1])):
            print("line " * 20)
        return int(sys.argv[2])
    sys.exit(run("test", body))
""")


def program(lines: int, status: int) -> list[str]:
    return ["env", "-u", "PYTHONUNBUFFERED", sys.executable, "-c", SCRIPT, str(lines), str(status)]


@pytest.mark.parametrize(("lines", "status", "expected"), [(1, 0, 141), (10000, 0, 141), (1, 5, 5)])
def test_reader_that_goes_away(lines: int, status: int, expected: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(program(lines, status), stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (expected, "test: a warning\n")


def test_full_output() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(program(1, 0), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (74, "test: a warning\ntest: standard output: No space left on device\n")


@pytest.mark.parametrize("name", ["bhyveload", "bhyve", "bhyvectl"])
@pytest.mark.parametrize("nobody", ["2>/dev/full", "2>&-", "1>&- 2>&-"])
def test_usage_that_nobody_can_read(name: str, nobody: str) -> None:
    """The status stays that of FreeBSD's usage()."""
    command = ["sh", "-c", f'exec "$0" {nobody}', str(PROGRAMS / name)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-", "2>/dev/full"])
def test_closed_descriptors(closed: str) -> None:
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *program(1, 3)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 3
