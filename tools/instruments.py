"""What tools/bench.py measures with: the clock, processor time, resident memory of whole programs."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

MIB = 1 << 20


class Missing(Exception):
    """A section cannot be measured here, and why."""


# Small, and so quick to fork.
_STARTER = """
import os, sys, time
null = os.open(os.devnull, os.O_RDWR)
redirections = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
for line in sys.stdin:
    words = line.rstrip("\\n").split("\\0")
    started = time.perf_counter()
    pid = os.posix_spawn(words[0], words, os.environ, file_actions=redirections)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - started
    print(status, wall, usage.ru_utime + usage.ru_stime, flush=True)
"""


class Starter:
    """A small process that starts programs and measures them."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-I", "-S", "-c", _STARTER]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def run(self, words: list[str], expected: int = 0) -> tuple[float, float]:
        """Seconds by the clock, seconds of processors.  Raises Missing: its exit status is not as ``expected``."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\0".join(words) + "\n")
        self._process.stdin.flush()
        status, wall, cpu = self._process.stdout.readline().split()
        if os.waitstatus_to_exitcode(int(status)) != expected:
            raise Missing(f"{' '.join(words)} failed")
        return float(wall), float(cpu)


def beside_guest(command: list[str]) -> int:
    """Bytes that the largest process of a program has resident besides the guest's memory, at the most.

    Sampled as often as can be.  Guest memory is a file of /dev/shm, and nothing else there is mapped.
    """
    null = os.open(os.devnull, os.O_RDWR)
    pid = os.posix_spawn(
        command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
    )
    os.close(null)
    most = 0
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        for process in (pid, *_children(pid)):
            most = max(most, _own_pages(process))
    if status:
        raise Missing(f"{' '.join(command)} failed")
    return most


def _children(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


def _own_pages(pid: int) -> int:
    """Anonymous memory and that of files, the page cache's too; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssFile:")))


def copy_into_memory(source: Path) -> Callable[[], float]:
    """write(2) of the same bytes, from the page cache into a fresh memory file."""
    with source.open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def work() -> float:
        started = time.perf_counter()
        fd = os.open(os.environ["BHYVE_VMM_DIR"], os.O_TMPFILE | os.O_RDWR, 0o600)
        os.ftruncate(fd, 256 * MIB)
        done = 0
        while done < len(view):
            done += os.pwrite(fd, view[done:], done)
        os.close(fd)
        return time.perf_counter() - started

    return work


def copy_cpu(source: Path) -> Callable[[], float]:
    """The processor time of copy_into_memory."""
    copy = copy_into_memory(source)

    def work() -> float:
        started = time.process_time()
        copy()
        return time.process_time() - started

    return work


def first_output(words: list[str], text: bytes) -> float:
    """Seconds until a program has written ``text``; it is killed then."""
    started = time.perf_counter()
    null = subprocess.DEVNULL
    with subprocess.Popen(words, stdin=null, stdout=subprocess.PIPE, stderr=null) as process:
        assert process.stdout is not None
        seen = b""
        while text not in seen:
            piece = os.read(process.stdout.fileno(), 4096)
            if not piece:
                raise Missing(f"{words[0]} ended without output")
            seen += piece
        elapsed = time.perf_counter() - started
        process.terminate()
        process.stdout.read()
    return elapsed
