"""The program killed, interrupted, without its terminal or its standard descriptors: nothing is left behind."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from support.faulty import processes_of
from support.golden import Record
from support.killing import PROGRAM, Running, kill_at_random, load


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with Lua scripts that boots by itself."""
    path = tmp_path_factory.mktemp("disk") / "disk.img"
    image = Record("current", "modules").disks()[0]
    path.write_bytes(image.read(0, image.size))
    return path


@pytest.mark.parametrize(
    ("whom", "number"),
    [
        ("parent", signal.SIGKILL),
        ("child", signal.SIGKILL),
        ("parent", signal.SIGTERM),
        ("group", signal.SIGINT),
        ("group", signal.SIGHUP),
    ],
)
def test_signals_at_random_moments(disk: Path, vmm_directory: Path, whom: str, number: signal.Signals) -> None:
    """tools/faults.py does the same hundreds of times."""
    generator = random.Random(number)
    load(disk, vmm_directory)
    outcomes = {kill_at_random(disk, vmm_directory, generator, whom, 0.2, number) for _ in range(8)}
    assert outcomes <= {"old", "new", "not loaded"}
    load(disk, vmm_directory)


def at_the_prompt(disk: Path) -> Running:
    run = Running("-e", "autoboot_delay=NO", "-d", disk, "guest", terminal=True)
    run.said(b"OK ")
    return run


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, 131), (signal.SIGKILL, -9)],
)
@pytest.mark.parametrize("group", [True, False])
def test_signals_at_the_prompt(
    disk: Path, vmm_directory: Path, number: signal.Signals, status: int, group: bool
) -> None:
    """To the program alone, or as a terminal sends them: to it and its child."""
    run = at_the_prompt(disk)
    assert termios.tcgetattr(run.terminal) != run.saved
    assert len(processes_of(run.session)) == 3  # the terminal's watcher, too
    (os.killpg if group else os.kill)(run.process.pid, number)
    ended, error = run.end()
    # A child that died of the group's signal may be seen first; the user sees one line then
    assert ended == status or (group and ended == 70 and error.count(b"\n") == 1)
    assert termios.tcgetattr(run.terminal) == run.saved
    if number != signal.SIGKILL:
        assert not (vmm_directory / "guest").exists()
    run.close()


def test_control_c_is_a_key_that_always_works(disk: Path) -> None:
    run = at_the_prompt(disk)
    os.write(run.master, b"\x03")
    status, error = run.end()
    assert status in (130, 70)
    assert error.count(b"\n") <= 1
    assert termios.tcgetattr(run.terminal) == run.saved
    run.close()


def test_the_terminal_goes_away(disk: Path, vmm_directory: Path) -> None:
    run = at_the_prompt(disk)
    for fd in (run.master, run.terminal):
        os.close(fd)
    run.master = run.terminal = -1
    status, error = run.end()
    assert status in (129, 70, 1, -1)
    assert b"Traceback" not in error
    assert not (vmm_directory / "guest").exists()
    run.close()


def test_stopped_and_continued(disk: Path) -> None:
    run = at_the_prompt(disk)
    os.killpg(run.process.pid, signal.SIGSTOP)
    os.killpg(run.process.pid, signal.SIGCONT)
    os.write(run.master, b"echo still here\r")
    run.said(b"still here\r\nOK ")
    os.write(run.master, b"quit\r")
    status, _ = run.end()
    assert status == 1
    assert termios.tcgetattr(run.terminal) == run.saved
    run.close()


def test_the_child_is_killed_at_the_prompt(disk: Path) -> None:
    run = at_the_prompt(disk)
    child = run.child()
    assert child is not None
    os.kill(child, signal.SIGKILL)
    status, _ = run.end()
    assert status == 70
    assert termios.tcgetattr(run.terminal) == run.saved
    run.close()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("option", ["", "--json", "--dry-run"])
def test_closed_standard_descriptors(disk: Path, closed: str, option: str) -> None:
    """The disk must not become descriptor 0 or 1, which keys are read from and the console is written to."""
    before = hashlib.sha256(disk.read_bytes()).digest()
    script = f'exec "$0" --batch {option} -d "$1" guest {closed}'
    words = ["sh", "-c", script, str(PROGRAM), str(disk)]
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    wanted = 74 if option and ">&-" in closed.split() else 0  # EX_IOERR: the report could not be written
    assert done.returncode == wanted, done.stderr
    assert b"Traceback" not in done.stderr
    assert hashlib.sha256(disk.read_bytes()).digest() == before


@pytest.mark.parametrize("program", ["bhyve", "bhyvectl", "bhyvedisk", "bhyverun"])
def test_the_other_programs_with_closed_descriptors(program: str) -> None:
    for closed in ("<&-", ">&-", "<&- >&- 2>&-"):
        words = ["sh", "-c", f'exec "$0" --version {closed}', str(PROGRAM.with_name(program))]
        status = subprocess.run(words, capture_output=True, timeout=60, check=False).returncode
        assert status == (74 if ">&-" in closed.split() else 0)


@pytest.mark.parametrize("program", ["bhyve", "bhyvectl", "bhyvedisk", "bhyveload", "bhyverun"])
def test_a_module_that_keeps_a_file_open(program: str) -> None:
    """It does not become standard output, as that of libffi 3.5 did."""
    code = (
        "import os, sys\n"
        "from bhyveload.cli import start\n"
        "class Keeper:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith('bhyveload.'):\n"
        "            os.open('/dev/null', os.O_RDONLY)\n"
        "sys.meta_path.insert(0, Keeper())\n"
        "sys.argv = [sys.argv[1], '--version']\n"
        "sys.exit(getattr(start, sys.argv[0])())\n"
    )
    words = ["sh", "-c", 'exec "$0" -c "$1" "$2" >&-', sys.executable, code, program]
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (74, f"{program}: standard output: Bad file descriptor\n".encode())


def test_nobody_reads_the_output(disk: Path) -> None:
    """A full device, a closed pipe: an exit status that says so, no traceback, the load itself done."""
    for target in ("/dev/full", "|true"):
        redirect = "| true" if target == "|true" else f"> {target}"
        script = f'{{ "$0" --batch --json -d "$1" guest; echo $? >&3; }} 3>&2 2>/dev/null {redirect}'
        done = subprocess.run(
            ["sh", "-c", script, str(PROGRAM), str(disk)], capture_output=True, timeout=60, check=False
        )
        assert done.stderr.strip() in (b"0", b"74", b"141")


def test_two_programs_on_one_vm(disk: Path) -> None:
    first = at_the_prompt(disk)
    second = Running("--batch", "-d", disk, "guest")
    status, error = second.end()
    assert status == 1
    assert b"VM 'guest' is in use" in error
    os.write(first.master, b"boot\r")
    assert first.end()[0] == 0
    first.close()
    second.close()
