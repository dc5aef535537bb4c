"""Loads that are killed: the program as people run it, in a session of its own, on a terminal or without one."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

from bhyveload.vm.store import VirtualMachine
from support.faulty import processes_of

PROGRAM = Path(sys.executable).parent / "bhyveload"
NAMES = {"lock", "memory", "memory.new", "state.json", "state.json.new"}
PATIENCE = 20.0
_SHELL = """
import fcntl, os, sys, termios
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
for number in range(3):
    os.dup2(fd, number)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Running:
    """A program in a session of its own.  ``terminal``: with a pseudo-terminal, whose master is ``master``."""

    def __init__(self, *words: str | Path, terminal: bool = False, program: Path = PROGRAM, **environment: str) -> None:
        command = [str(program), *map(str, words)]
        kept = {**os.environ, **environment}
        self.master = self.terminal = -1
        self.saved: list[object] = []
        if terminal:
            self.master, self.terminal = os.openpty()
            self.saved = termios.tcgetattr(self.terminal)
            name = os.ttyname(self.terminal)
            # the shell's part: a session whose controlling terminal this is
            code = (
                "import os,sys,fcntl,termios; fd=os.open(sys.argv[1],os.O_RDWR); fcntl.ioctl(fd,termios.TIOCSCTTY,0);"
            )
            code += "[os.dup2(fd,n) for n in (0,1,2)]; os.execv(sys.argv[2],sys.argv[2:])"
            command = [sys.executable, "-c", code, name, *command]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if terminal else subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=kept,
        )
        self.session = self.process.pid

    def said(self, text: bytes) -> bytes:
        """What it wrote on its terminal until ``text`` was among it."""
        os.set_blocking(self.master, False)
        shown = b""
        until = time.monotonic() + PATIENCE
        while text not in shown:
            assert time.monotonic() < until, shown
            try:
                shown += os.read(self.master, 65536)
            except BlockingIOError:
                time.sleep(0.01)
        return shown

    def child(self) -> int | None:
        """The confined process, once there is one; None when all is over already."""
        until = time.monotonic() + PATIENCE
        while True:
            others = [pid for pid in processes_of(self.session) if pid != self.session and self._of_the_job(pid)]
            if others:
                return others[0]
            assert time.monotonic() < until
            if self.process.poll() is not None:
                return None
            time.sleep(0.001)

    def _of_the_job(self, pid: int) -> bool:
        """Not the terminal's watcher, which has a process group of its own."""
        try:
            return os.getpgid(pid) == self.session
        except ProcessLookupError:
            return False

    def end(self) -> tuple[int, bytes]:
        """(exit status, standard error) when it has ended, and no process of its session is left."""
        if self.master >= 0:
            os.set_blocking(self.master, False)
        until = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < until, "it does not end"
            self._drain()
            time.sleep(0.005)
        while left := processes_of(self.session):
            assert time.monotonic() < until, f"processes are left: {left}"
            time.sleep(0.005)
        _, error = self.process.communicate()
        return self.process.returncode, error

    def _drain(self) -> None:
        if self.master >= 0:
            try:
                os.read(self.master, 65536)
            except OSError:
                pass

    def close(self) -> None:
        for fd in (self.master, self.terminal):
            if fd >= 0:
                os.close(fd)
        self.master = self.terminal = -1
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def kill_at_random(
    disk: Path, store: Path, generator: random.Random, whom: str, span: float, number: int = signal.SIGKILL
) -> str:
    """Load over a loaded VM "guest" and send ``whom`` ("parent", "child", "group") a signal within ``span`` seconds.

    Returns what the store holds: "old", "new" or "not loaded".  Raises AssertionError for anything else, for
    processes or files that are left, and for a next load that fails.
    """
    before = serial_of(store)
    run = Running("--batch", "-m", "64M", "-d", disk, "guest", BHYVE_VMM_DIR=str(store))
    if whom == "child":
        victim = run.child()
        time.sleep(generator.random() * span / 10)
    else:
        victim = run.process.pid
        time.sleep(generator.random() * span)
    try:
        if victim is not None:
            (os.killpg if whom == "group" else os.kill)(victim, number)
    except ProcessLookupError:
        pass
    status, error = run.end()
    run.close()
    after = serial_of(store)
    if b"Traceback" in error:  # Ctrl-C before the first statement of ours: Python's own words
        ours = re.search(rb'/bhyveload/[a-z_/0-9]+\.py"', error)
        assert number == signal.SIGINT and (ours is None or b"import bhyveload\n" in error), error
    else:
        assert status in (0, -number, 128 + number, 70), (status, error)
    if whom == "child":
        assert status in (0, 70), (status, error)
        assert status == 0 or error.count(b"\n") == 1
    if status == 0:
        assert after not in (None, before)
    outcome = "not loaded" if after is None else "old" if after == before else "new"
    names = {entry.name for entry in (store / "guest").iterdir()}
    assert names <= NAMES, names
    return outcome


def load(disk: Path, store: Path) -> None:
    """A load that nobody disturbs."""
    run = Running("--batch", "-m", "64M", "-d", disk, "guest", BHYVE_VMM_DIR=str(store))
    status, error = run.end()
    run.close()
    assert status == 0, error


def serial_of(store: Path) -> int | None:
    """What tells one loaded VM from the next, its memory file; None: none is loaded."""
    with VirtualMachine.open("guest", str(store)) as vm:
        if vm.state is None:
            return None
        assert vm.memory is not None
        assert vm.registers().registers["rip"]
        assert any(vm.memory.read(0x1000, 4096))
        return os.fstat(vm.memory.fd).st_ino
