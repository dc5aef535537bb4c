"""Loads in which one call of the C library fails (failing_calls.c): the program as people run it, a fault at call N."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

from bhyveload.vm.store import VirtualMachine

SOURCE = Path(__file__).with_name("failing_calls.c")
OUR_STATUSES = (0, 1, 64, 65, 66, 69, 70, 71, 73, 74, 77)
ERRORS = ("EIO", "ENOSPC", "EDQUOT", "ENOMEM", "EMFILE", "EINTR")


def build(folder: Path) -> Path:
    """The shared object for LD_PRELOAD."""
    target = folder / "failing_calls.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", target, SOURCE, "-ldl"], check=True, capture_output=True)
    return target


class Failing:
    """Loads ``disk`` into the VM "guest" of ``store`` again and again."""

    def __init__(self, folder: Path, disk: Path, store: Path) -> None:
        self._library = build(folder)
        self._log = folder / "failing.log"
        self._disk = disk
        self._store = store
        self.load(-1, 0)
        self.calls = self._highest + 1

    def load(self, number: int, error: int) -> tuple[int, str, int]:
        """(exit status, standard error, how many failed) when call ``number`` of each process fails with ``error``."""
        self._log.write_bytes(bytes(4096))
        faults = {
            "LD_PRELOAD": str(self._library),
            "FAIL_AT": str(number),
            "FAIL_ERRNO": str(error),
            "FAIL_FROM": self._disk.name,
            "FAIL_LOG": str(self._log),
            "BHYVE_VMM_DIR": str(self._store),
        }
        words: list[str | Path] = [
            sys.executable,
            "-m",
            "bhyveload.cli.bhyveload",
            "--batch",
            "-m",
            "64M",
            "-d",
            self._disk,
            "guest",
        ]
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | faults,
            timeout=60,
            check=False,
        )
        failed, self._highest = struct.unpack("ll", self._log.read_bytes()[:16])
        return done.returncode, done.stderr.decode(), failed

    def check(self, number: int, error: int) -> int:
        """The same; raises AssertionError unless it ended with one of our errors and the VM is whole or not loaded."""
        status, text, failed = self.load(number, error)
        context = f"call {number} of {self.calls}, {os.strerror(error)}: status {status}, {text}"
        assert status in OUR_STATUSES, context
        assert "Traceback" not in text and "internal error" not in text, context
        assert text.count("\n") <= 2 and (not text or status), context
        assert text or not status or failed > 1, context  # the second one was the message itself
        if text:
            assert text.partition(": ")[2].rstrip("\n") != os.strerror(error), f"it does not say what failed: {context}"
        if self._store.joinpath("guest").exists():
            with VirtualMachine.open("guest", str(self._store)) as vm:
                if vm.state is not None:
                    assert vm.registers().registers["rip"]
                    assert vm.memory is not None and any(vm.memory.read(0x1000, 4096))
        return status
