"""What the userboot tests share: the compiled test loader, a host for it, a child to run it in."""

from __future__ import annotations

import faulthandler
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EINVAL, EIO, ENOTCAPABLE, EROFS, from_host
from bhyveload.host.callbacks import GuestReady, LoaderCallbacks, LoaderExit, SwapInterpreter, loader_environment
from bhyveload.userboot.run import prepare
from bhyveload.vm.memory import GuestMemory

GUEST = Path(__file__).parent / "guest"
CFLAGS = ["-shared", "-nostdlib", "-fPIC", "-ffreestanding", "-mno-red-zone", "-O1", "-Wall", "-Wextra", "-Werror"]
ELFOSABI_FREEBSD = 9
MB = 1 << 20


def compiler() -> str:
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        pytest.skip("no C compiler (install gcc)")
    if os.uname().machine not in ("x86_64", "amd64"):
        pytest.skip("a userboot object is amd64 code")
    return found


def build(directory: Path, *flags: str, name: str = "userboot_test.so") -> bytes:
    """The test loader compiled with ``flags``, marked as FreeBSD's."""
    target = directory / name
    subprocess.run([compiler(), *CFLAGS, *flags, "-o", target, GUEST / "testboot.c"], check=True)
    data = bytearray(target.read_bytes())
    data[7] = ELFOSABI_FREEBSD
    return bytes(data)


class MemoryDisk:
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


class OpenedFile:
    def __init__(self, path: Path) -> None:
        found = path.stat()
        self.is_directory = stat.S_ISDIR(found.st_mode)
        self.mode, self.uid, self.gid = found.st_mode, found.st_uid, found.st_gid
        self.size, self.mtime, self.dev, self.ino = found.st_size, int(found.st_mtime), found.st_dev, found.st_ino
        self._file = None if self.is_directory else path.open("rb")
        self._entries = [] if self._file else [(1, 4, b"."), (2, 4, b"..")]
        if self._file is None:
            self._entries += [(p.stat().st_ino, 8, os.fsencode(p.name)) for p in path.iterdir()]

    def read(self, size: int) -> bytes:
        assert self._file is not None
        return self._file.read(size)

    def seek(self, offset: int, whence: int) -> int:
        assert self._file is not None
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):
            raise FileSystemError(EINVAL, "seek") from None

    def readdir(self) -> tuple[int, int, bytes] | None:
        return self._entries.pop(0) if self._entries else None

    def close(self) -> None:
        if self._file:
            self._file.close()


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, name: bytes) -> OpenedFile:
        path = self.path / os.fsdecode(name).lstrip("/")
        if ".." in path.parts:
            raise FileSystemError(ENOTCAPABLE, f"{path} is outside")
        try:
            if path.exists() and not (path.is_dir() or path.is_file()):
                raise FileSystemError(EINVAL, f"{path} is neither file nor folder")
            return OpenedFile(path)
        except OSError as error:
            raise FileSystemError(from_host(error.errno), str(error)) from None


def patterned_disk() -> MemoryDisk:
    sectors = (bytes((sector * 7 + i) & 0xFF for i in range(512)) for sector in range(256))
    return MemoryDisk(b"".join(sectors) * 8)  # the pattern repeats every 256 sectors


class BrokenDisk(MemoryDisk):
    def read(self, offset: int, length: int) -> memoryview:
        raise FileSystemError(EIO, "the medium is broken")


def folder(directory: Path) -> Folder:
    """The host directory that testboot.c expects."""
    directory.mkdir()
    (directory / "file").write_bytes(b"hello, loader")
    os.chmod(directory / "file", 0o640)
    os.utime(directory / "file", (1234567890, 1234567890))
    os.mkfifo(directory / "fifo")
    (directory / "sub").mkdir()
    (directory / "sub" / ("n" * 255)).write_bytes(b"")
    return Folder(directory)


def memory(low: int = 64 * MB, high: int = 0) -> GuestMemory:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, low + high)
    return GuestMemory(fd, low, high)


def host_for(do: str, console: TypedConsole | None = None, **arguments: Any) -> LoaderCallbacks:
    arguments.setdefault("memory", memory())
    return LoaderCallbacks(
        console or TypedConsole(), environment=loader_environment([f"do={do}".encode(), b"last=one"]), **arguments
    )


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
    while True:
        if not select.select([reader], [], [], seconds)[0]:
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
