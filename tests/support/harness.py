"""Run the built-in loader in a confined child on given disks and keys, and bring back what it said and left behind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from bhyveload.confined import run as border
from bhyveload.confined.child import Leave
from bhyveload.confined.confinement import Subject
from bhyveload.confined.deadline import Deadline
from bhyveload.device import Device
from bhyveload.host.callbacks import (
    GuestReady,
    InputEnded,
    LoaderCallbacks,
    LoaderEnd,
    LoaderExit,
    SwapInterpreter,
    loader_environment,
)
from bhyveload.host.interface import HostDirectory
from bhyveload.loader.batch import lock_variables
from bhyveload.loader.main import loader_main
from bhyveload.loader.report import describe
from bhyveload.loader.state import Loader, Options
from bhyveload.need import load_all
from bhyveload.sandbox import Sandbox
from bhyveload.vm.memory import GuestMemory, split_memory
from support.confined import ANYTHING


class KeyConsole:
    """All keys are there from the start; everything written is kept."""

    def __init__(self, keys: bytes = b"") -> None:
        self.keys = keys
        self.output = bytearray()
        self.at_end = False

    def write(self, data: bytes) -> None:
        self.output += data

    def flush(self) -> None:
        pass

    def getc(self) -> int:
        if not self.keys:
            self.at_end = True
            return -1
        key, self.keys = self.keys[0], self.keys[1:]
        return key - 256 if key > 127 else key

    def poll(self) -> bool:
        return bool(self.keys)


class Outcome:
    """How a run ended ("exec", "exit", "swap", "input"), its console, variables, report and memory."""

    def __init__(self, report: dict[str, Any], memory: GuestMemory) -> None:
        self.end: str = report["end"]
        self.code: int = report.get("code", 0)
        self.console: bytes = report["console"].encode("latin-1")
        self.environment: dict[str, str] = report["environment"]
        self.report: dict[str, Any] = report
        self.memory = memory


class _Memory(GuestMemory):
    """Guest memory that is closed when nobody needs it: a run of all tests makes a thousand."""

    def __init__(self, fd: int, low: int, high: int) -> None:
        super().__init__(fd, low, high)
        self._owner = os.getpid()

    def __del__(self) -> None:
        if os.getpid() == self._owner:  # not in a child: one that confined itself has closed it
            os.close(self.fd)


def run(
    disks: Sequence[Device],
    keys: bytes = b"",
    *,
    environment: Sequence[bytes] = (),
    memory: int = 128 << 20,
    current: bool = True,
    interpreter: str = "lua",
    host_directory: HostDirectory | None = None,
    options: Options | None = None,
    timeout: float = 60,
) -> Outcome:
    """Load; errors of ours are raised as confined.run raises them."""
    load_all()
    low, high = split_memory(memory)
    fd = os.memfd_create("guest")
    os.ftruncate(fd, memory)
    guest = _Memory(fd, low, high)
    console = KeyConsole(keys)

    sandbox = Sandbox()

    def work(leave: Leave) -> dict[str, Any]:
        host = LoaderCallbacks(console, guest, disks, host_directory, loader_environment(environment))
        loader = Loader(host, "current" if current else "13.2", options)

        def outcome(end: BaseException) -> dict[str, Any]:
            if not isinstance(end, LoaderEnd):
                raise end
            report = describe(loader, interpreter)
            report["vcpu"] = host.vcpu.as_dict()
            report["console"] = console.output.decode("latin-1")
            if isinstance(end, GuestReady):
                report["end"] = "exec"
            elif isinstance(end, LoaderExit):
                report.update(end="exit", code=end.code)
            elif isinstance(end, SwapInterpreter):
                report.update(end="swap", interpreter=end.name.decode("latin-1"))
            else:
                assert isinstance(end, InputEnded)
                report["end"] = "input"
            return report

        loader.leave = lambda end: leave(outcome(end))
        lock_variables(loader, interpreter)
        try:
            loader_main(loader, interpreter)
        except LoaderEnd as end:
            return outcome(end)

    subject = Subject("the loader", sandbox, memory=guest, disks=disks, host_directory=host_directory)
    return Outcome(border.run(work, subject, Deadline(timeout), ANYTHING), guest)
