"""What the userboot tests share: the compiled test loader, a host for it, a child to run it in."""

from __future__ import annotations

import faulthandler
import json
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EROFS
from bhyveload.host.callbacks import GuestReady, LoaderCallbacks, LoaderExit, SwapInterpreter, loader_environment
from bhyveload.host.directory import HostFolder, open_host_directory
from bhyveload.userboot.run import prepare
from bhyveload.vm.memory import GuestMemory
from bhyveload.vm.registers import Registers, setup_freebsd_registers
from support.devices import Hostless
from support.places import DATA, TESTS

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RECORDS = DATA / "userboot"
GUEST = TESTS / "guest"
CFLAGS = ["-shared", "-nostdlib", "-fPIC", "-ffreestanding", "-mno-red-zone", "-O1", "-Wall", "-Wextra", "-Werror"]
CFLAGS += ["-Wno-array-bounds", "-fno-stack-protector"]
ELFOSABI_FREEBSD = 9
MB = 1 << 20


def compiler() -> str:
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        pytest.skip("no C compiler (install gcc)")
    if os.uname().machine not in ("x86_64", "amd64"):
        pytest.skip("a userboot object is amd64 code")
    return found


def build(directory: Path, *flags: str, name: str = "userboot_test.so", source: str = "testboot.c") -> bytes:
    """The test loader compiled with ``flags``, marked as FreeBSD's."""
    target = directory / name
    subprocess.run([compiler(), *CFLAGS, *flags, "-o", target, GUEST / source], check=True)
    data = bytearray(target.read_bytes())
    data[7] = ELFOSABI_FREEBSD
    return bytes(data)


class MemoryDisk(Hostless):
    sector_size = 512

    def __init__(self, data: bytes, read_only: bool = False) -> None:
        self.data = bytearray(data)
        self.size = len(data)
        self.read_only = read_only

    def read(self, offset: int, length: int) -> memoryview:
        return memoryview(self.data).toreadonly()[offset : offset + length]

    def write(self, offset: int, data: bytes | memoryview) -> None:
        if self.read_only:
            raise FileSystemError(EROFS, "the disk is read-only")
        self.data[offset : offset + len(data)] = data


class TypedConsole:
    """Keys typed before the loader starts; -1 when they are used up (``ends``: and no more will come)."""

    def __init__(self, keys: bytes = b"", ends: bool = False) -> None:
        self.keys = keys
        self.ends = ends
        self.output = bytearray()

    def write(self, data: bytes) -> None:
        self.output += data

    def flush(self) -> None:
        pass

    def getc(self) -> int:
        if not self.keys:
            return -1
        key, self.keys = self.keys[0], self.keys[1:]
        return key - 256 if key >= 128 else key

    def poll(self) -> bool:
        return bool(self.keys)

    @property
    def at_end(self) -> bool:
        return self.ends and not self.keys


def patterned_disk() -> MemoryDisk:
    sectors = (bytes((sector * 7 + i) & 0xFF for i in range(512)) for sector in range(256))
    return MemoryDisk(b"".join(sectors) * 8)  # the pattern repeats every 256 sectors


def folder(directory: Path) -> HostFolder:
    """The host directory that testboot.c expects."""
    directory.mkdir()
    (directory / "file").write_bytes(b"hello, loader")
    os.chmod(directory / "file", 0o640)
    os.utime(directory / "file", (1234567890, 1234567890))
    os.mkfifo(directory / "fifo")
    (directory / "sub").mkdir()
    (directory / "sub" / ("n" * 255)).write_bytes(b"")
    return open_host_directory(str(directory))


def memory(low: int = 64 * MB, high: int = 0) -> GuestMemory:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, low + high)
    return GuestMemory(fd, low, high)


def host_for(do: str, console: TypedConsole | None = None, **arguments: Any) -> LoaderCallbacks:
    arguments.setdefault("memory", memory())
    return LoaderCallbacks(
        console or TypedConsole(), environment=loader_environment([f"do={do}".encode(), b"last=one"]), **arguments
    )


def machine(name: str) -> tuple[GuestMemory, Registers]:
    """A recorded load (tests/data/userboot) as the machine it left."""
    run = (RECORDS / name / "run.txt").read_text()
    found = re.search(r"getmem -> (\S+) (\S+)", run)
    assert found is not None
    low, high = (int(number, 0) for number in found.groups())
    fd = os.memfd_create(name)
    os.ftruncate(fd, low + high)
    os.pwrite(fd, zstd.decompress((RECORDS / name / "memory.zst").read_bytes()), 0)
    memory = GuestMemory(fd, low, high, fresh=False)

    def argument(call: str) -> int:
        value = re.search(call + r"\s*=?\s*(0x[0-9a-f]+)", run)
        return int(value[1], 16) if value else 0

    vcpu = Registers()
    if argument("setcr 3"):
        setup_freebsd_registers(vcpu, argument("exec rip="), argument("setcr 3"), 0x5000, argument("setreg 4"))
    else:
        vcpu.registers.update(rip=argument("exec rip="), rsp=argument("setreg 4"), efer=0)
    return memory, vcpu


class Ended:
    """How the child ended: ``kind`` (ready, exit, swap, error, signal, timeout), ``value``, what the host saw."""

    def __init__(self, kind: str, value: Any, report: dict[str, Any]) -> None:
        self.kind = kind
        self.value = value
        self.console = report.get("console", "").encode("latin-1")
        self.calls: list[str] = report.get("calls", [])
        self.vcpu: dict[str, Any] = report.get("vcpu", {})
        self.cpu: float = report.get("cpu", 0.0)


def outcome_of(error: BaseException) -> tuple[str, Any]:
    if isinstance(error, GuestReady):
        return "ready", None
    if isinstance(error, LoaderExit):
        return "exit", error.code
    if isinstance(error, SwapInterpreter):
        return "swap", error.name.decode("latin-1")
    return "error", f"{type(error).__name__}: {error}"


def in_child(
    work: Callable[[Callable[[BaseException], NoReturn]], object],
    report: Callable[[], dict[str, Any]],
    seconds: float = 20,
) -> Ended:
    """Fork, run ``work(leave)`` in the child, kill it after ``seconds``."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:

        def leave(error: BaseException) -> NoReturn:
            kind, value = outcome_of(error)
            text = json.dumps({"kind": kind, "value": value, "cpu": time.process_time(), **report()})
            os.write(writer, text.encode())  # fits the pipe: the tests' reports are small
            os._exit(0)

        try:
            faulthandler.disable()  # a crash is what some tests want; pytest would print every stack
            os.close(reader)
            work(leave)
        except BaseException as error:
            leave(error)
        finally:
            os._exit(99)
    os.close(writer)
    text = b""
    timed_out = False
    said = select.poll()  # select(2) knows no descriptor above 1023
    said.register(reader)
    while True:
        if not said.poll(seconds * 1000):
            os.kill(pid, signal.SIGKILL)
            timed_out = True
        piece = os.read(reader, 1 << 16)
        if not piece:
            break
        text += piece
    os.close(reader)
    status = os.waitpid(pid, 0)[1]
    if timed_out:
        return Ended("timeout", None, {})
    if os.WIFSIGNALED(status):
        return Ended("signal", os.WTERMSIG(status), {})
    assert os.WEXITSTATUS(status) == 0, f"the child ended with {status:#x}"
    result = json.loads(text)
    return Ended(result["kind"], result["value"], result)


def run_loader(loader: bytes, host: LoaderCallbacks, version: int = 5, seconds: float = 20) -> Ended:
    """Run ``loader`` in a child on ``host``."""

    def report() -> dict[str, Any]:
        console = host.console
        output = bytes(console.output) if isinstance(console, TypedConsole) else b""
        return {"console": output.decode("latin-1"), "calls": host.calls, "vcpu": host.vcpu.as_dict()}

    return in_child(lambda leave: prepare(loader, host, version).run(len(host.disks), leave), report, seconds)


_REPLAYED = {"setreg": 0, "setmsr": 1, "setcr": 2, "setgdt": 3, "exec": 4}


def encoded_calls(calls: Sequence[str]) -> bytes:
    """Register callbacks, as golden records and reports write them, for replay.c."""
    out = b""
    for call in calls:
        name, rest = call.split(" ", 1)
        numbers = [int(number, 0) for number in re.findall(r"0x[0-9a-f]+|\d+", rest)]
        if name in ("exec", "setgdt"):  # these have no register number
            numbers.insert(0, 0)
        first, second, third = (*numbers, 0)[:3]
        out += struct.pack("<4Q", _REPLAYED[name], first, second, third)
    return out
