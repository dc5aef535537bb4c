"""kill -9 at random moments of everything that takes time: load, reload, unpack, cp, run, run on an overlay.

Afterwards nothing that was there before may be lost or half a thing, no process may be left, and what is left of files
must be what the next run removes.
"""

from __future__ import annotations

import gzip
import os
import random
import signal
import time
from pathlib import Path

import stock_like
from support.faulty import processes_of
from support.images import make_ufs, standard_disk
from support.killing import NAMES, PROGRAM, Running, load, serial_of

KINDS = ("load", "reload", "unpack", "cp", "run", "overlay")
VICTIMS = ("parent", "other")  # the program itself; its child, QEMU, or whatever else works for it
_RUNNING = 0.6  # seconds of a run of QEMU in which it is killed
_CONTENT = random.Random(7).randbytes(3 << 20)


class Kills:
    """Things to kill, in ``folder``.  ``kill`` does it once and raises AssertionError for what must not be."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = folder / "vmm"
        self._cache = folder / "cache"
        tree = stock_like.write_tree(folder / "tree", kernel=_endless_kernel(), files={"big": _CONTENT}, size=0)
        for script in (tree / "boot" / "lua").iterdir():
            script.unlink()
        self._disk = standard_disk(folder / "disk.img", make_ufs(tree, folder / "fs", 8 << 20))
        self._content = self._disk.read_bytes()
        self._packed = folder / "packed.gz"
        self._packed.write_bytes(gzip.compress(self._content + os.urandom(24 << 20), 1))
        load(self._disk, self._store)
        self._time("to run")
        self._spans = {kind: self._time(kind) for kind in ("load", "unpack", "cp")}
        self._spans |= {"reload": self._spans["load"], "run": _RUNNING, "overlay": _RUNNING}

    def _start(self, kind: str) -> Running:
        cache = self._folder / "other cache" if kind in ("overlay", "to run") else self._cache

        def start(program: str, *words: str | Path) -> Running:
            return Running(
                *words,
                program=PROGRAM.parent / program,
                BHYVE_VMM_DIR=str(self._store),
                XDG_CACHE_HOME=str(cache),
                TMPDIR=str(self._folder),
            )

        name = {"load": "fresh", "reload": "guest", "run": "guest", "unpack": "packed"}.get(kind, "snapshot")
        if kind in ("load", "reload", "unpack", "to run"):
            disk = self._disk if kind in ("load", "reload") else self._packed
            return start("bhyveload", "--batch", "-m", "64M", "-d", disk, name)
        if kind == "cp":
            return start("bhyvedisk", "cp", self._disk, "/big", self._folder / "copy")
        return start("bhyverun", "--accel", "tcg", "--timeout", "20", name)

    def _prepare(self, kind: str) -> None:
        if kind == "load":
            _remove(self._store / "fresh")
        elif kind == "unpack":
            for folder in (self._store / "packed", self._cache / "bhyveload"):
                _remove(folder, keep=".part")
        elif kind == "cp":
            (self._folder / "copy").write_bytes(b"what was there before")

    def _time(self, kind: str) -> float:
        self._prepare(kind)
        began = time.monotonic()
        run = self._start(kind)
        status, error = run.end()
        run.close()
        assert status == 0, error
        return (time.monotonic() - began) * 1.1

    def kill(self, kind: str, victim: str, generator: random.Random) -> str:
        """Kill ``victim`` of a ``kind`` within the time that takes.  What became of it, in a word."""
        self._prepare(kind)
        before = serial_of(self._store)
        run = self._start(kind)
        span = self._spans[kind]
        if victim == "other" and kind not in ("run", "overlay") and run.child() is not None:
            span /= 4  # most of the time goes by before there is one; QEMU has a process group of its own
        time.sleep(generator.random() * span)
        pids = [pid for pid in processes_of(run.session) if (pid == run.session) == (victim == "parent")]
        try:
            if pids:
                os.kill(generator.choice(pids), signal.SIGKILL)
        except ProcessLookupError:
            pass
        if kind in ("run", "overlay") and not pids:
            os.kill(run.process.pid, signal.SIGKILL)
        status, error = run.end()
        run.close()
        assert b"Traceback" not in error and b"internal error" not in error, error
        assert self._disk.read_bytes() == self._content, "the disk was changed"
        after = serial_of(self._store)
        if kind == "reload":
            outcome = "not loaded" if after is None else "old" if after == before else "new"
            if outcome == "not loaded":
                load(self._disk, self._store)
            return outcome
        assert after == before, "the VM was changed"
        return self._outcome(kind, status)

    def _outcome(self, kind: str, status: int) -> str:
        for vm in self._store.iterdir():
            assert {entry.name for entry in vm.iterdir()} <= NAMES | {"memory.run", "qemu.log", "control"}, list(
                vm.iterdir()
            )
        strays = {path.name for path in self._folder.iterdir()} - _OURS
        if kind == "cp":
            copy = (self._folder / "copy").read_bytes()
            assert copy in (b"what was there before", _CONTENT), "half a copy"
            assert len(strays) <= 1 and all(name.startswith(".copy.") for name in strays), strays
            return "whole" if copy == _CONTENT else "old"
        assert not strays, strays
        if kind == "unpack":
            for entry in (self._cache / "bhyveload").iterdir() if self._cache.exists() else ():
                if not entry.name.endswith(".part"):
                    assert entry.read_bytes()[: len(self._content)] == self._content
        return "done" if status == 0 else "ended"

    def finish(self) -> None:
        """What killed ones left goes with the next run."""
        for kind in ("load", "reload", "unpack", "cp"):
            self._time(kind)
        assert {path.name for path in self._folder.iterdir()} <= _OURS
        assert not list((self._cache / "bhyveload").glob("*.part"))


_OURS = {"vmm", "cache", "other cache", "tree", "fs", "disk.img", "packed.gz", "copy"}


def _endless_kernel() -> bytes:
    kernel = bytearray(stock_like.tiny_kernel())
    kernel[0x100:0x102] = b"\xeb\xfe"
    return bytes(kernel)


def _remove(folder: Path, keep: str = "") -> None:
    for entry in folder.iterdir() if folder.exists() else ():
        if not (keep and entry.name.endswith(keep)):
            entry.unlink()
