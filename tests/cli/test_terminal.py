"""The loader on a real terminal: a pseudo-terminal of our own, tmux, and a terminal given with -c."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.end_to_end import PROGRAMS
from support.killing import Running
from support.stock_disk import make_disk

LFLAG, OFLAG = 3, 1
ENDLESS = "if loader.getenv('spin') then while true do pcall(function() while true do end end) end end\n"
PATIENCE = 20.0


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_disk(
        tmp_path_factory.mktemp("terminal"), conf='autoboot_delay="60"\n', files={"boot/lua/local.lua": ENDLESS}
    )


@pytest.fixture
def at_menu(disk: Path) -> Iterator[Running]:
    running = Running("-d", disk, "vm", terminal=True)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()
        running.close()


def menu_of(running: Running) -> bytes:
    return running.said(b"seconds. [Space] to pause ")


def type_in(running: Running, keys: bytes) -> None:
    os.write(running.master, keys)


def mode(running: Running) -> list[object]:
    return termios.tcgetattr(running.terminal)


def test_the_menu_and_a_key(at_menu: Running) -> None:
    shown = menu_of(at_menu)
    assert b"\x1b[11;5H1. Boot Multi user [Enter]" in shown
    assert b"\r\n" in shown and b"\r\r\n" not in shown  # the terminal adds nothing
    lflag, oflag = mode(at_menu)[LFLAG], mode(at_menu)[OFLAG]
    assert isinstance(lflag, int) and isinstance(oflag, int)
    assert not lflag & (termios.ECHO | termios.ICANON) and lflag & termios.ISIG
    assert not oflag & termios.OPOST
    type_in(at_menu, b"s")
    assert at_menu.said(b"Loading configured modules...")
    assert at_menu.end()[0] == 0
    assert mode(at_menu) == at_menu.saved


def test_space_stops_the_countdown(at_menu: Running) -> None:
    menu_of(at_menu)
    type_in(at_menu, b" ")
    at_menu.said(b" " * 80)
    time.sleep(1.2)
    os.set_blocking(at_menu.master, False)
    with pytest.raises(BlockingIOError):
        while os.read(at_menu.master, 4096):
            pass  # the rest of the first screen; no further second is counted
    type_in(at_menu, b"\r")
    assert at_menu.end()[0] == 0


def test_an_arrow_key_is_an_escape(at_menu: Running) -> None:
    """As on FreeBSD: the menu knows Esc; what follows it is typed at the prompt."""
    menu_of(at_menu)
    type_in(at_menu, b"\x1b[A")
    assert at_menu.said(b"OK [A").endswith(b"OK [A")
    type_in(at_menu, b"\x15echo \xc3\xa9\xb3 \x08\x08|\r")
    assert b"\xc3\xa9|\r\n" in at_menu.said(b"|\r\nOK ")
    type_in(at_menu, b"quit\r")
    assert at_menu.end()[0] == 1
    assert mode(at_menu) == at_menu.saved


def test_submenus_and_backspace(at_menu: Running) -> None:
    menu_of(at_menu)
    type_in(at_menu, b"o")
    at_menu.said(b"Single user:off")
    type_in(at_menu, b"s")
    at_menu.said(b"Single user:On")
    type_in(at_menu, b"\x08")
    at_menu.said(b"1. Boot Single user [Enter]")
    type_in(at_menu, b"\r")
    assert at_menu.end()[0] == 0


def test_bytes_of_any_encoding_pass(disk: Path) -> None:
    for frame, corner in (("unicode", "┌".encode()), ("double", "╔".encode("cp437"))):
        running = Running("-e", f"loader_menu_frame={frame}", "-d", disk, "vm", terminal=True)
        assert b"\x1b[9;2H" + corner in menu_of(running)
        type_in(running, b"\r")
        assert running.end()[0] == 0
        running.close()


def test_a_resized_window(at_menu: Running) -> None:
    menu_of(at_menu)
    for rows, columns in ((10, 20), (60, 200)):
        fcntl.ioctl(at_menu.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        time.sleep(0.1)
    type_in(at_menu, b"\x1b")
    at_menu.said(b"OK ")
    type_in(at_menu, b"echo fine\r")
    at_menu.said(b"fine\r\nOK ")
    type_in(at_menu, b"boot\r")
    assert at_menu.end()[0] == 0


@pytest.mark.parametrize("where", ["menu", "prompt", "countdown", "spin", "read"])
def test_ctrl_c_anywhere(disk: Path, where: str) -> None:
    variables = ["-e", "spin=1"] if where == "spin" else []
    if where == "countdown":
        variables = ["-e", "beastie_disable=YES"]
    running = Running(*variables, "-d", disk, "vm", terminal=True)
    if where == "spin":
        running.said(b"Loading /boot/loader.conf.local")
        time.sleep(0.3)
    elif where == "countdown":
        running.said(b"] in ")
    else:
        menu_of(running)
        if where != "menu":
            type_in(running, b"\x1b")
            running.said(b"OK ")
        if where == "read":
            type_in(running, b"read -p question x\r")
            running.said(b"question")
    type_in(running, b"\x03")
    status, _ = running.end()
    assert status in (130, -signal.SIGINT)
    assert mode(running) == running.saved
    running.close()


def test_a_loader_that_crashes(at_menu: Running) -> None:
    menu_of(at_menu)
    child = at_menu.child()
    assert child is not None
    os.kill(child, signal.SIGSEGV)
    at_menu.said(b"bhyveload: the loader died by SIGSEGV (nothing was loaded)")
    assert at_menu.end()[0] == 70
    assert mode(at_menu) == at_menu.saved


def test_time_is_up(disk: Path) -> None:
    running = Running("--timeout", "2", "-d", disk, "vm", terminal=True)
    running.said(b"did not finish in 2 seconds")
    assert running.end()[0] == 70
    assert mode(running) == running.saved
    running.close()


def test_the_menu_on_another_terminal(disk: Path) -> None:
    """-c: the device is polled, and set raw like the one of stdio."""
    other = Running("-d", disk, "unused", terminal=True)  # only for its terminal
    other.process.kill()
    other.process.wait()
    termios.tcsetattr(other.terminal, termios.TCSANOW, other.saved)  # type: ignore[arg-type]
    os.set_blocking(other.master, False)
    name = os.ttyname(other.terminal)
    words = [str(PROGRAMS / "bhyveload"), "-c", name, "-d", str(disk), "vm"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            other.said(b"seconds. [Space] to pause ")
            type_in(other, b"o")
            other.said(b"Single user:off")
            type_in(other, b"v\x7f\r")
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
        assert process.stdout is not None and process.stdout.read() == b""
    assert mode(other) == other.saved
    other.close()


class Tmux:
    """A window of 80 x 30 on a server of its own."""

    def __init__(self, folder: Path, *words: str | Path) -> None:
        self.socket = str(folder / "tmux")
        environment = f"BHYVE_VMM_DIR={os.environ['BHYVE_VMM_DIR']}"
        program = " ".join(["env", environment, *(f"'{word}'" for word in words)])
        command = f"trap : INT; {program}; echo status $?; sleep 60"  # Ctrl-C is for the program, whatever shell it is
        self.run("-f", "/dev/null", "-u", "new-session", "-d", "-x", "80", "-y", "30", command)

    def run(self, *words: str) -> str:
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm"}
        return subprocess.run(
            ["tmux", "-S", self.socket, *words], check=True, capture_output=True, text=True, env=environment
        ).stdout

    def keys(self, *names: str) -> None:
        self.run("send-keys", *names)

    def shows(self, *texts: str) -> str:
        until = time.monotonic() + PATIENCE
        while True:
            screen = self.run("capture-pane", "-p")
            if all(text in screen for text in texts):
                return screen
            assert time.monotonic() < until, screen
            time.sleep(0.05)

    def close(self) -> None:
        self.run("kill-server")


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed (make setup installs it)")
def test_in_tmux(disk: Path, tmp_path: Path) -> None:
    window = Tmux(tmp_path, PROGRAMS / "bhyveload", "-e", "loader_menu_frame=unicode", "-d", disk, "vm")
    try:
        screen = window.shows("1. Boot Multi user [Enter]", "7. Boot Options", "[Space] to pause")
        assert " ┌─────────────────Welcome─────────────────┐\n" in screen
        assert " │  1. Boot Multi user [Enter]             │\n" in screen
        assert "( () )" in screen
        window.keys("Space")
        window.keys("o")
        window.shows("Safe Mode  :off")
        window.keys("m", "v")
        window.shows("Safe Mode  :On", "Verbose    :On")
        window.keys("BSpace")
        window.shows("Options:", "Kernel: default/kernel")
        window.run("resize-window", "-x", "100", "-y", "40")
        window.keys("k")
        window.shows("1 of 1")
        window.keys("Escape")
        window.shows("OK")
        window.keys("show boot_verbose", "Enter")
        window.shows("show boot_verbose\nYES\nOK")
        window.keys("Up")
        window.keys("C-c")
        window.shows("status 130")
    finally:
        window.close()


def test_kill_9_leaves_the_terminal_as_it_was(at_menu: Running) -> None:
    """Nobody is left then but the watcher."""
    menu_of(at_menu)
    assert mode(at_menu) != at_menu.saved
    at_menu.process.kill()
    at_menu.process.wait()
    end = time.monotonic() + PATIENCE
    while mode(at_menu) != at_menu.saved and time.monotonic() < end:
        time.sleep(0.01)
    assert mode(at_menu) == at_menu.saved


def test_kill_9_of_the_whole_job_leaves_the_terminal_as_it_was(at_menu: Running) -> None:
    menu_of(at_menu)
    os.killpg(at_menu.process.pid, signal.SIGKILL)
    at_menu.process.wait()
    end = time.monotonic() + PATIENCE
    while mode(at_menu) != at_menu.saved and time.monotonic() < end:
        time.sleep(0.01)
    assert mode(at_menu) == at_menu.saved
