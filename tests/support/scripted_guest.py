"""A double of a guest's console for bhyveload.guest: a process on a pseudo-terminal, with a real line discipline and,
behind a getty of a few lines, the host's own sh; run as a program it is that process."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bhyveload.handoff.outcome import POWERED_OFF, STOPPED, RunResult


class Line:
    """The guest's end of a console: what backend.py's Session has of it."""

    def __init__(self, master: int) -> None:
        self.master = master
        self.calls: list[Callable[[bytes], None]] = []
        self.typed = b""

    def hear(self, call: Callable[[bytes], None]) -> None:
        self.calls.append(call)

    def type(self, data: bytes) -> None:
        self.typed += data


class ScriptedSession:
    """A Session whose guest is this file, run with ``words``."""

    def __init__(self, *words: str) -> None:
        self.pid, master = pty.fork()
        if self.pid == 0:
            os.execv(sys.executable, [sys.executable, str(Path(__file__)), *words])
        self.console = Line(master)
        self.over = False
        self.said = b""

    def turn(self, seconds: float) -> None:
        console = self.console
        writers = [console.master] if console.typed else []
        readable, writable, _ = select.select([console.master], writers, [], max(0.0, seconds))
        if writable:
            console.typed = console.typed[os.write(console.master, console.typed[:64]) :]
        if readable:
            try:
                data = os.read(console.master, 1 << 16)
            except OSError:
                data = b""
            self.over = not data
            for call in console.calls if data else ():
                call(data)

    def wait(self, timeout: float | None = None) -> RunResult:
        return RunResult(POWERED_OFF if self.over else STOPPED, 0.0, "")

    def power_button(self, unheard: Callable[[], None] | None = None) -> None:
        self.stop()

    def stop(self, outcome: str = STOPPED) -> None:
        if not self.over:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.over = True

    def close(self) -> None:
        self.stop()
        if self.console.master >= 0:
            os.close(self.console.master)
            self.console.master = -1


def say(text: str) -> None:
    os.write(1, text.encode("latin-1"))


def read_line() -> str:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit(0)
        line += byte
    return line.decode("latin-1").strip()


def getty(words: Sequence[str]) -> None:
    """A boot, then whatever ``words`` ask for."""
    import termios

    say("Booting...\nsome question [#$%>] \nusb0: noise\n")
    time.sleep(0.1)
    if "single" in words:
        say("Enter full pathname of shell or RETURN for /bin/sh: ")
        read_line()
        shell(words, "# ")
    if "mountroot" in words:
        say("\nLoader variables:\n\nmountroot> ")
        time.sleep(60)
    while True:
        say("\nFreeBSD/amd64 (freebsd) (ttyu0)\n\nlogin: ")
        if "pushed" in words:
            say("\nusb1: <hub> pushes the prompt away\n")
        name = read_line()
        if not name:
            words = [word for word in words if word != "pushed"]
            continue
        if "password" in words:
            say("Password:")
            mode = termios.tcgetattr(0)
            quiet = [*mode]
            quiet[3] &= ~termios.ECHO
            termios.tcsetattr(0, termios.TCSANOW, quiet)
            word = read_line()
            termios.tcsetattr(0, termios.TCSANOW, mode)
            if word != "secret":
                say("\nLogin incorrect\n")
                continue
        say("\nWelcome to FreeBSD!\n\x1b[1mReleases:\x1b[0m https://x/ # not a prompt\n")
        shell(words, f"\x1b[1m{name}@freebsd\x1b[0m:~ # ")


def shell(words: Sequence[str], prompt: str) -> None:
    if "csh" in words:
        csh(prompt)
    if "opost" in words:  # no stty that anybody knows
        os.environ["PATH"] = str(Path(sys.argv[2]))
    os.environ["PS1"] = prompt
    os.execl("/bin/sh", "-sh", "-i")


def csh(prompt: str) -> None:
    """An editor of lines that echoes by itself, wraps at 80 columns, and knows one command."""
    import termios
    import tty

    mode = termios.tcgetattr(0)
    tty.setraw(0)
    say("\r" + prompt)
    line, column = "", 0
    while True:
        key = os.read(0, 1).decode("latin-1")
        if key in "\r\n":
            say("\r\n")
            if line.startswith("exec /bin/sh "):
                termios.tcsetattr(0, termios.TCSADRAIN, mode)
                os.execv("/bin/sh", line.split()[1:])
            say(f"{line}: Command not found.\r\n\r{prompt}" if line else "\r" + prompt)
            line, column = "", 0
        else:
            line += key
            column += 1
            say(key if column % 80 else key + " \r")


if __name__ == "__main__":
    getty(sys.argv[1:])
