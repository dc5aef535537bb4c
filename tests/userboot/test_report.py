"""A userboot object in the child process that every loader runs in: its report, its console, its errors."""

from __future__ import annotations

import faulthandler
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bhyveload.confined.child import Leave
from bhyveload.confined.confinement import Subject
from bhyveload.confined.deadline import Deadline
from bhyveload.confined.run import run
from bhyveload.errors import KernelError, LoaderCrashed, LoaderError, VmStorageError
from bhyveload.host.callbacks import LoaderCallbacks, loader_environment
from bhyveload.host.console import FdConsole
from bhyveload.userboot.cross_check import LoadedState, compare
from bhyveload.userboot.report import run_userboot
from bhyveload.userboot.run import prepare
from bhyveload.vm.memory import GuestMemory
from support.confined import ANYTHING
from support.userboot_testing import MB, build, machine, memory


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return build(tmp_path_factory.mktemp("loader"), "-Wl,-Bsymbolic")


class Session:
    """A console over two pipes; ``said`` is what came out."""

    def __init__(self, keys: bytes = b"") -> None:
        reading, writing = os.pipe()
        os.write(writing, keys)
        os.close(writing)
        self._out, out = os.pipe()
        self.console = FdConsole(reading, out)

    def said(self) -> bytes:
        os.set_blocking(self._out, False)
        try:
            return os.read(self._out, 1 << 16)
        except BlockingIOError:
            return b""


def load(
    loader: bytes,
    do: str,
    guest: GuestMemory | None = None,
    session: Session | None = None,
    confine: Callable[[], None] = lambda: None,
    timeout: float = 20,
) -> dict[str, Any]:
    """The report of one run, through confined/run.py."""
    session = session or Session()
    guest = guest or memory()

    def work(leave: Leave) -> dict[str, Any]:
        faulthandler.disable()  # a crash is what some tests want; pytest would print every stack
        environment = loader_environment([f"do={do}".encode()])
        host = LoaderCallbacks(session.console, guest, environment=environment)
        prepared = prepare(loader, host)
        confine()
        run_userboot(prepared, host, leave, leave.failure)

    subject = Subject("the loader", None, console=session.console)
    report: dict[str, Any] = run(work, subject, Deadline(timeout), ANYTHING)
    return report


def test_a_guest_is_described_by_what_it_was_handed(loader: bytes) -> None:
    recorded, vcpu = machine("13.2-modules")
    report = load(loader, "boot", recorded)
    assert report["end"] == "exec"
    assert report["vcpu"]["registers"]["rip"] == report["entry"] == 0xFFFFFFFF80200120
    assert (report["modulep"], report["kernend"], report["howto"]) == (0x40A000, 0x40C000, 0x1800)
    assert report["kernel"]["name"] == "/boot/kernel/kernel"
    assert (report["kernel"]["type"], report["kernel"]["args"]) == ("elf kernel", "-v")
    assert [file["address"] for file in report["files"]] == [0x200000, 0x403000, 0x404000, 0x405000, 0x406000, 0x406970]
    assert report["environment"]["kern.hz"] == "100"
    assert (report["interpreter"], report["currdev"]) == ("lua", "disk0p2:")
    assert report["calls"][-1] == "exec rip=0xffffffff80200120"
    assert report["timings"]["loader"] > 0
    assert report["notes"] == []
    assert compare(LoadedState("one", recorded, vcpu), LoadedState("other", recorded, vcpu)) == []


def test_a_guest_that_was_handed_nonsense(loader: bytes) -> None:
    guest = memory()
    guest.write(0x1000, b"\xa5" * 4096)
    report = load(loader, "boot", guest)
    assert report["end"] == "exec"
    assert report["files"] == []
    assert report["kernel"] is None
    assert report["notes"] == ["the metadata at 0xa5a5a5a5 has no end (record at +0x0)"]


@pytest.mark.parametrize(
    ("do", "report"),
    [
        ("return", {"end": "exit", "code": 0}),
        ("quit", {"end": "exit", "code": 1}),
        ("reboot", {"end": "exit", "code": 2}),
        ("swap:4th", {"end": "swap", "interpreter": "4th"}),
        ("swapnull", {"end": "swap", "interpreter": ""}),
    ],
)
def test_other_ends(loader: bytes, do: str, report: dict[str, Any]) -> None:
    assert load(loader, do) == report


def test_what_was_said_before_a_crash_is_not_lost(loader: bytes) -> None:
    session = Session(b"k\x80z")
    with pytest.raises(LoaderCrashed, match="died by SIGSEGV"):
        load(loader, "say-and-crash", session=session)
    assert session.said() == b"about to crash\n"


@pytest.mark.parametrize(("do", "signal"), [("segv", "SIGSEGV"), ("illegal", "SIGILL"), ("relro", "SIGSEGV")])
def test_crashes(loader: bytes, do: str, signal: str) -> None:
    with pytest.raises(LoaderCrashed, match=f"the loader died by {signal}"):
        load(loader, do)


@pytest.mark.parametrize("do", ["loop", "spin"])
def test_endless_loops(loader: bytes, do: str) -> None:
    with pytest.raises(LoaderCrashed, match=r"did not finish in 0\.3 seconds"):
        load(loader, do, timeout=0.3)


def test_polling_without_pause_leaves_the_processor_alone(loader: bytes) -> None:
    before = os.times().children_user + os.times().children_system
    with pytest.raises(LoaderCrashed):
        load(loader, "spin", timeout=1)
    assert os.times().children_user + os.times().children_system - before < 0.5


def test_end_of_input(loader: bytes) -> None:
    with pytest.raises(LoaderError, match=r"^end of input at the loader's prompt: nothing was booted$"):
        load(loader, "getc")


def test_no_room_for_guest_memory(loader: bytes, tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    fd = os.open("/dev/full", os.O_RDWR)
    with pytest.raises(VmStorageError, match="No space left on device"):
        load(loader, "bench:c:1:512", GuestMemory(fd, 64 * MB, 0))


def test_an_object_that_is_none() -> None:
    with pytest.raises(KernelError, match="loader object: not an ELF file"):
        load(b"#!/bin/sh\n", "boot")


def test_nothing_executable_is_mapped_while_the_object_runs(loader: bytes) -> None:
    """The sandbox forbids PROT_EXEC mappings, so everything executable has to exist when confine() is called: the
    child's executable mappings are the same at confinement and at the end."""
    reading, writing = os.pipe()

    def executable() -> bytes:
        maps = Path("/proc/self/maps").read_text()
        return "\n".join(re.findall(r"^(\S+) ..x", maps, re.M)).encode() + b"\0"

    def work(leave: Leave) -> dict[str, Any]:
        host = LoaderCallbacks(Session().console, memory(), environment=loader_environment([b"do=all"]))
        prepared = prepare(loader, host)
        os.write(writing, executable())

        def leaving(report: dict[str, Any]) -> None:
            os.write(writing, executable())
            leave(report)

        run_userboot(prepared, host, leaving, leave.failure)

    assert run(work, Subject("the loader", None), Deadline(20), ANYTHING)["end"] == "exec"
    before, after, _ = os.read(reading, 1 << 16).split(b"\0")
    assert before == after
    assert len(before.splitlines()) > 3
