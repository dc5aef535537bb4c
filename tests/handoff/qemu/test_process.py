"""Starting a program and waiting for it: against what the kernel and the programs themselves say."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bhyveload.handoff.qemu.process import Process
from support.places import SOURCE


def nothing() -> None:
    """What the new process has to do before it becomes the program."""


class Started:
    """A process whose output can be read; it is killed at the end."""

    def __init__(self, command: list[str], enter: Callable[[], None] = nothing, program: str = sys.executable) -> None:
        self._read, write = os.pipe()
        try:
            self.process = Process(program, command, write, enter)
        finally:
            os.close(write)

    def output(self) -> bytes:
        with open(self._read, "rb", closefd=False) as file:
            return file.read()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._read)


@pytest.fixture
def start() -> Iterator[Callable[..., Started]]:
    started: list[Started] = []

    def begin(code: str, enter: Callable[[], None] = nothing) -> Started:
        started.append(Started(["a name", "-I", "-c", code], enter))
        return started[-1]

    yield begin
    for one in started:
        one.end()


def test_what_it_is_given(start: Callable[..., Started]) -> None:
    """Its words, no input, both outputs in one, a process group of its own, us as its parent."""
    one = start(
        "import os, sys; sys.stderr.write('error,'); sys.stderr.flush();"
        "print(sys.orig_argv[0], sys.stdin.read() == '', os.getpgrp() == os.getpid(), os.getppid(), sep=',')"
    )
    assert one.process.wait() == 0
    assert one.output().decode() == f"error,a name,True,True,{os.getpid()}\n"


def test_python_s_ignored_signals_are_not_the_program_s() -> None:
    one = Started(["grep", "-E", "^SigIgn", "/proc/self/status"], program="/bin/grep")
    try:
        assert one.process.wait() == 0
        assert int(one.output().split()[1], 16) & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)) == 0
    finally:
        one.end()


def test_its_end(start: Callable[..., Started]) -> None:
    assert start("raise SystemExit(7)").process.wait() == 7
    killed = start("import os; os.kill(os.getpid(), 9)").process
    assert killed.wait() == -9
    assert killed.poll() == -9 and killed.wait(0) == -9
    killed.terminate()  # it is gone: nobody else's process is told


def test_waiting_is_bounded(start: Callable[..., Started]) -> None:
    one = start("import time; print(flush=True); time.sleep(600)")
    assert one.process.poll() is None
    assert one.process.wait(0.01) is None
    os.read(one._read, 1)  # it has come so far
    one.process.terminate()
    assert one.process.wait(60) == -signal.SIGTERM


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())


def test_a_program_that_cannot_be(tmp_path: Path) -> None:
    before = children()
    with pytest.raises(FileNotFoundError, match="No such file"):
        Started(["x"], program=f"{tmp_path}/none")
    with pytest.raises(PermissionError):
        Started(["x"], program=str(tmp_path))
    assert children() == before


def test_what_fails_on_the_way(start: Callable[..., Started]) -> None:
    def refuse() -> None:
        raise PermissionError(errno.EPERM, "no")

    def break_down() -> None:
        raise ValueError

    def leave() -> None:
        os._exit(126)

    for enter, number in ((refuse, errno.EPERM), (break_down, errno.EINVAL)):
        with pytest.raises(OSError) as caught:
            start("", enter)
        assert caught.value.errno == number
    assert start("", leave).process.wait() == 126


def test_somebody_else_has_waited(start: Callable[..., Started]) -> None:
    one = start("")
    os.waitpid(one.process.pid, 0)
    assert one.process.poll() == 0 and one.process.wait() == 0


def test_standard_descriptors_that_were_closed() -> None:
    """The pipes then have their numbers."""
    code = """
import os, sys
sys.path[:0] = [sys.argv[1]]
from bhyveload.handoff.qemu.process import Process
kept = os.dup(1)
for fd in 0, 1, 2:
    os.close(fd)
read, write = os.pipe()
Process("/bin/echo", ["echo", "heard"], write, lambda: None).wait()
os.write(kept, os.read(read, 100))
"""
    command = [sys.executable, "-I", "-c", code, str(SOURCE.parent)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert done.stdout == b"heard\n"
