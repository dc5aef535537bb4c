"""A hostile loader object with system calls of its own, run as FreeBSD's userboot.so is: mapped, confined, called."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from bhyveload.host.callbacks import LoaderExit
from bhyveload.sandbox import Sandbox
from bhyveload.userboot.run import prepare
from support.end_to_end import program
from support.userboot_testing import CFLAGS, ELFOSABI_FREEBSD, GUEST, Ended, TypedConsole, compiler, host_for, in_child

pytestmark = pytest.mark.skipif(bool(Sandbox().missing), reason=f"this host cannot confine: {Sandbox().missing}")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    target = tmp_path_factory.mktemp("hostile") / "userboot_hostile.so"
    subprocess.run([compiler(), *CFLAGS, "-o", target, GUEST / "hostile.c"], check=True)
    data = bytearray(target.read_bytes())
    data[7] = ELFOSABI_FREEBSD
    return bytes(data)


def attack(loader: bytes, do: str) -> Ended:
    """Run it confined; what it said reaches us through a pipe it writes to as a console."""
    reading, writing = os.pipe()
    sandbox = Sandbox()
    console = PipeConsole(writing)

    def work(leave: Callable[[BaseException], NoReturn]) -> None:
        host = host_for(do, console)
        prepared = prepare(loader, host)
        sandbox.enter([2, writing, *host.memory.descriptors(), *REPORTS])
        prepared.run(0, leave)

    ended = in_child(work, dict)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        ended.console = file.read()
    return ended


REPORTS = range(3, 4096)  # in_child's own pipe is among them


class PipeConsole(TypedConsole):
    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd = fd

    def write(self, data: bytes) -> None:
        os.write(self.fd, data)


def test_it_runs_as_any_loader_does(hostile: bytes) -> None:
    ended = attack(hostile, "nothing")
    assert (ended.kind, ended.value, ended.console) == ("exit", 0, b"hostile\n")


def test_a_harmless_call_is_made(hostile: bytes) -> None:
    """Its system calls work, so what fails below fails because of the sandbox."""
    assert attack(hostile, "call:39").console.startswith(b"hostile\nresult ")  # getpid


@pytest.mark.parametrize(
    ("do", "result"),
    [("call:2:P:0", -13), ("call:257:-100:P:0", -13), ("call:437:-100:P:@:24", -13), ("call:21:P:4", -13)],
)
def test_files_are_refused(hostile: bytes, do: str, result: int) -> None:
    ended = attack(hostile, do)
    assert ended.console == b"hostile\nresult %d\n" % result
    assert ended.kind == "exit"


@pytest.mark.parametrize(
    "do",
    [
        "call:59:P:0:0",  # execve
        "call:57",  # fork
        "call:41:2:1:0",  # socket
        "call:101:0",  # ptrace
        "call:10:@:4096:5",  # mprotect: what it has written becomes code
        "call:10:@:4096:7",
        "call:9:0:4096:5:34",  # mmap of executable memory
        "call:329:@:4096:5:-1",  # pkey_mprotect
        "call:425:8:@",  # io_uring_setup
        "call:62:-1:0",  # kill
        "call:1073741863",  # x32's getpid
        "int80:20",  # the 32-bit getpid
        "int80:11:0",  # the 32-bit execve
    ],
)
def test_it_is_killed(hostile: bytes, do: str) -> None:
    ended = attack(hostile, do)
    assert (ended.kind, ended.value) == ("signal", signal.SIGSYS)
    assert ended.console == b"hostile\n"


@pytest.mark.parametrize("do", ["jump-data", "poke"])
def test_it_crashes_alone(hostile: bytes, do: str) -> None:
    ended = attack(hostile, do)
    assert (ended.kind, ended.value) == ("signal", signal.SIGSEGV)


def test_without_the_sandbox_it_would_have_succeeded(hostile: bytes) -> None:
    """Else the tests above would prove nothing."""
    console = TypedConsole()

    def work(leave: Callable[[BaseException], NoReturn]) -> None:
        prepare(hostile, host_for("call:2:P:0", console)).run(0, leave)

    def report() -> dict[str, Any]:
        return {"console": console.output.decode("latin-1")}

    ended = in_child(work, report)
    assert (ended.kind, ended.value) == ("exit", LoaderExit(0).code)
    assert int(ended.console.split()[-1]) >= 3


@pytest.mark.parametrize(
    ("do", "status", "words"),
    [
        ("call:59:P:0:0", 70, "the loader died by SIGSYS: the loader tried something forbidden"),
        ("int80:11:0", 70, "the loader died by SIGSYS: the loader tried something forbidden"),
        ("jump-data", 70, "the loader died by SIGSEGV"),
        ("nothing", 0, ""),
    ],
)
def test_what_the_user_hears(hostile: bytes, tmp_path: Path, do: str, status: int, words: str) -> None:
    """The same through bhyveload -l: one line, the VM not loaded."""
    path = tmp_path / "userboot_hostile.so"
    path.write_bytes(hostile)
    done = program("bhyveload", "-l", path, "-e", f"do={do}", "--timeout", "60", "guest")
    if status:
        assert done.status == status, done.messages
        assert done.messages == f"bhyveload: {words} (nothing was loaded)\n"
    assert done.out.startswith(b"hostile\n")
    assert program("bhyvectl", "--list").out == b""
