"""kill -9 at random moments of everything that takes time: load, reload, unpack, cp, run, run on an overlay, commands
in an image's guest (--exec), a guest that is saved (--save), a clone of it (--restore).

Afterwards nothing that was there before may be lost or half a thing, no process may be left, and what is left of files
must be what the next run removes.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import shutil
import signal
import time
from pathlib import Path

import stock_like
from bhyveload.saved.format import HEADER, parse_header
from bhyveload.vm.passing import is_passing
from support.faulty import processes_of
from support.images import make_ufs, standard_disk
from support.killing import NAMES, PROGRAM, Running, load, serial_of

KINDS = ("load", "reload", "unpack", "cp", "run", "overlay", "exec", "save", "restore")
_WITH_QEMU = ("run", "overlay", "exec", "save", "restore")
VICTIMS = ("parent", "other")  # the program itself; its child, QEMU, or whatever else works for it
_RUNNING = 0.6  # seconds of a run of QEMU in which it is killed
_SOON = 3.0  # seconds in which a run ends of which something was killed
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
        self._spans["save"] = self._time("save")
        (folder / "saving").rename(folder / "saved")
        self._saved = _contents(folder / "saved")
        self._spans |= {"reload": self._spans["load"], "run": _RUNNING, "overlay": _RUNNING, "restore": _RUNNING}
        self._spans["exec"] = self._spans["load"] + _RUNNING

    def _start(self, kind: str, seconds: str = "20") -> Running:
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
        if kind == "exec":
            return start("bhyverun", "--accel", "tcg", "--timeout", seconds, self._disk, "--exec", "true", "-m", "64M")
        if kind == "save":
            words = ("--accel", "tcg", "--console", "none", "--save", self._folder / "saving", "--save-at", "o")
            return start("bhyverun", *words, "guest")
        if kind == "restore":
            return start("bhyverun", "--console", "none", "--restore", self._folder / "saved", "clone")
        return start("bhyverun", "--accel", "tcg", "--timeout", "20", name)

    def _prepare(self, kind: str) -> None:
        if kind == "load":
            _remove(self._store / "fresh")
        elif kind == "unpack":
            for folder in (self._store / "packed", self._cache / "bhyveload"):
                _remove(folder, keep=".part")
        elif kind == "cp":
            (self._folder / "copy").write_bytes(b"what was there before")
        elif kind == "save" and (self._folder / "saving").exists():
            shutil.rmtree(self._folder / "saving")

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
        if victim == "other" and kind not in _WITH_QEMU and run.child() is not None:
            span /= 4  # most of the time goes by before there is one; QEMU has a process group of its own
        time.sleep(generator.random() * span)
        pids = [pid for pid in processes_of(run.session) if (pid == run.session) == (victim == "parent")]
        try:
            if pids:
                os.kill(generator.choice(pids), signal.SIGKILL)
        except ProcessLookupError:
            pass
        if kind in _WITH_QEMU:
            self._end_by_force(run)
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

    def _end_by_force(self, run: Running) -> None:
        """A run of QEMU that the kill did not end: it came before there was one, or hit a child that was done."""
        until = time.monotonic() + _SOON
        while run.process.poll() is None:
            if time.monotonic() > until:
                run.process.kill()
                return
            time.sleep(0.005)

    def _outcome(self, kind: str, status: int) -> str:
        for vm in self._store.iterdir():
            names = {entry.name for entry in vm.iterdir()}
            assert names <= NAMES | {"memory.run", "qemu.log", "control"}, names
        strays = {path.name for path in self._folder.iterdir()} - _OURS
        if kind == "cp":
            copy = (self._folder / "copy").read_bytes()
            assert copy in (b"what was there before", _CONTENT), "half a copy"
            assert len(strays) <= 1 and all(name.startswith(".copy.") for name in strays), strays
            return "whole" if copy == _CONTENT else "old"
        assert not strays, strays
        assert _contents(self._folder / "saved") == self._saved, "the saved guest was changed"
        if kind == "save":
            return self._whole_or_nothing(self._folder / "saving")
        if kind == "unpack":
            for entry in (self._cache / "bhyveload").iterdir() if self._cache.exists() else ():
                if not entry.name.endswith(".part"):
                    assert entry.read_bytes()[: len(self._content)] == self._content
        return "done" if status == 0 else "ended"

    def _whole_or_nothing(self, folder: Path) -> str:
        header = folder / HEADER
        if not header.exists():
            return "not saved"
        for name, size in parse_header(header.read_bytes(), str(header)).sizes.items():
            assert (folder / name).stat().st_size == size, name
        return "saved"

    def finish(self) -> None:
        """What killed ones left goes with the next run."""
        for kind in ("load", "reload", "unpack", "cp", "save"):
            self._time(kind)
        run = self._start("exec", "2")
        assert run.end()[0] == 124
        run.close()
        assert not any(is_passing(vm.name) for vm in self._store.iterdir())
        assert {path.name for path in self._folder.iterdir()} <= _OURS
        assert not list((self._cache / "bhyveload").glob("*.part"))


_OURS = {"vmm", "cache", "other cache", "tree", "fs", "disk.img", "packed.gz", "copy", "saved", "saving"}

# mov ecx, 8; mov bl, "o"; 1: mov dx, 0x3fd; 2: in al, dx; test al, 0x20; jz 2b;
# mov dx, 0x3f8; mov al, bl; out dx, al; xor bl, "o" ^ "\n"; loop 1b; jmp .
_SAYS_SOMETHING = bytes.fromhex("b908000000 b36f 66bafd03 ec a820 74fb 66baf803 88d8 ee 80f365 e2eb ebfe")


def _endless_kernel() -> bytes:
    """Says four lines on COM1, and then nothing for ever."""
    kernel = bytearray(stock_like.tiny_kernel())
    kernel[0x100 : 0x100 + len(_SAYS_SOMETHING)] = _SAYS_SOMETHING
    return bytes(kernel)


def _contents(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and checksum of each file."""
    return {
        path.name: (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()) for path in folder.iterdir()
    }


def _remove(folder: Path, keep: str = "") -> None:
    for entry in folder.iterdir() if folder.exists() else ():
        if not (keep and entry.name.endswith(keep)):
            entry.unlink()
