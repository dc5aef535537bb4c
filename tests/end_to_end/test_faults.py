"""Faults of the host at every stage of a load: one clear error, the old VM untouched, nothing left behind."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bhyveload import api
from bhyveload.errors import BhyveloadError, LoaderCrashed
from bhyveload.image.raw import RawImage, open_raw
from bhyveload.loader.state import Options
from bhyveload.vm.memory import GuestMemory
from bhyveload.vm.store import VirtualMachine
from support.faulty import FaultyDisk, FullMemory
from support.golden import Record

MIB = 1 << 20
MEMORY = 128 * MIB


@pytest.fixture(scope="module")
def disk() -> RawImage:
    """A UFS disk with scripts, kernel and modules."""
    return Record("current", "modules").disks()[0]


def attempt(disk: Any, wrap: Callable[[GuestMemory], GuestMemory] | None = None) -> str:
    """One load over the VM "guest": "loaded", or the error's class and text.  The VM is given up after an error."""
    vm = VirtualMachine.create("guest", MEMORY)
    loaded = False
    try:
        if wrap is not None:
            assert vm.memory is not None
            vm.memory = wrap(vm.memory)
        api.load(vm, [disk], options=Options(batch=True), timeout=60)
        loaded = True
        return "loaded"
    except BhyveloadError as error:
        assert "\n" not in error.message
        assert "internal error" not in error.message
        return f"{type(error).__name__}: {error.message}"
    finally:
        if loaded:
            vm.close()
        else:
            vm.abandon()


def the_vm() -> tuple[int, bytes]:
    """What makes the VM: its entry point and the first MiB of memory behind it."""
    with VirtualMachine.open("guest", require_loaded=True) as vm:
        assert vm.memory is not None
        rip = vm.registers().registers["rip"]
        return rip, vm.memory.read(0, 4 * MIB)


def reads_of_a_load(disk: RawImage) -> int:
    """How many reads a good load makes; counted by looking for the first fault that is never met."""
    low, high = 1, 2
    while attempt(FaultyDisk(disk, "eio", high)) != "loaded":
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if attempt(FaultyDisk(disk, "eio", middle)) == "loaded":
            high = middle
        else:
            low = middle
    return high


@pytest.fixture(scope="module")
def reads(disk: RawImage, tmp_path_factory: pytest.TempPathFactory) -> int:
    before = os.environ.get("BHYVE_VMM_DIR")
    os.environ["BHYVE_VMM_DIR"] = str(tmp_path_factory.mktemp("vmm"))
    try:
        return reads_of_a_load(disk)
    finally:
        if before is None:
            del os.environ["BHYVE_VMM_DIR"]
        else:
            os.environ["BHYVE_VMM_DIR"] = before


@pytest.mark.parametrize("kind", ["eio", "short", "zeros"])
def test_a_disk_that_fails_from_some_read_on(disk: RawImage, reads: int, kind: str, vmm_directory: Path) -> None:
    assert attempt(disk) == "loaded"
    good = the_vm()
    assert reads > 20
    outcomes = set()
    for first in range(0, reads, max(1, reads // 12)):
        outcome = attempt(FaultyDisk(disk, kind, first))
        outcomes.add(outcome.partition(":")[0])
        if outcome != "loaded":  # a module that nothing needs may be missing
            assert the_vm() == good
        else:
            assert attempt(disk) == "loaded"
    assert "LoaderError" in outcomes
    assert sorted(os.listdir(vmm_directory / "guest")) == ["lock", "memory", "state.json"]


def test_a_single_read_that_fails(disk: RawImage, reads: int) -> None:
    """The medium is good again afterwards: what was asked for once is not there, all else is."""
    for first in range(0, reads, max(1, reads // 10)):
        outcome = attempt(FaultyDisk(disk, "eio", first, 1))
        assert outcome == "loaded" or outcome.startswith(("LoaderError: ", "FileSystemError: disk.img: read at "))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EIO])
def test_guest_memory_that_runs_full(disk: RawImage, number: int, vmm_directory: Path) -> None:
    assert attempt(disk) == "loaded"
    good = the_vm()
    first = 0
    while True:
        outcome = attempt(disk, lambda memory, first=first: FullMemory(memory, first, number))  # type: ignore[misc]
        if outcome == "loaded":
            break
        assert outcome == f"VmStorageError: guest memory: {os.strerror(number)}"
        assert the_vm() == good
        first += 1 if number == errno.ENOSPC else 7
    assert first > 5
    assert sorted(os.listdir(vmm_directory / "guest")) == ["lock", "memory", "state.json"]


def test_a_disk_that_shrinks(disk: RawImage, tmp_path: Path) -> None:
    """Reading a mapped file behind its new end is SIGBUS."""
    path = tmp_path / "disk.img"
    path.write_bytes(disk.read(0, disk.size))
    assert attempt(disk) == "loaded"
    good = the_vm()
    for size in (0, 4096, disk.size // 8, disk.size // 2):
        path.write_bytes(disk.read(0, disk.size))
        image = open_raw(str(path))
        os.truncate(path, size)
        outcome = attempt(image)
        image.close()
        if outcome != "loaded":  # everything lay in front of the cut
            reason = "a disk image became shorter while it was read, or lies on a tmpfs that is full"
            assert outcome == f"LoaderCrashed: the loader died by SIGBUS: {reason}"
            assert the_vm() == good
        else:
            assert size == disk.size // 2


def test_a_real_file_system_that_is_full(disk: RawImage, tmp_path: Path) -> None:
    """A tmpfs of 1 MiB in a mount namespace of its own, the program as it is run."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed (util-linux)")
    path = tmp_path / "disk.img"
    path.write_bytes(disk.read(0, disk.size))
    store = tmp_path / "full"
    store.mkdir()
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no mount namespaces here: {probe.stderr.decode().strip()}")
    outcomes = set()
    for size in (8, 16, 24, 32, 48, 256):
        script = (
            f"mount -t tmpfs -o size={size}k,mode=700 none {store} || exit 99\n"
            f'BHYVE_VMM_DIR={store} "$0" -m bhyveload.cli.bhyveload --batch -m 64M -d {path} guest\n'
            f"status=$?\nls {store}/guest 2>/dev/null\nexit $status\n"
        )
        words = ["unshare", "-rm", "sh", "-c", script, os.environ.get("PYTHON", _python())]
        done = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
        outcomes.add(done.returncode)
        if done.returncode == 74:
            assert b"No space left on device" in done.stderr
            assert b"memory" not in done.stdout.splitlines()
            assert done.stderr.count(b"\n") <= 2
        else:
            assert done.returncode == 0, done.stderr
    assert 74 in outcomes


def _python() -> str:
    import sys

    return sys.executable


def test_a_child_out_of_memory(disk: RawImage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Address space for nothing more than what is there: an error of ours, at whatever stage."""
    from bhyveload import sandbox

    outcomes = set()
    for size in (0, 1, 2, 4, 8, 16, 64, 256):
        monkeypatch.setattr(sandbox, "MEMORY", size * MIB)
        outcomes.add(attempt(disk))
    assert "loaded" in outcomes
    assert outcomes - {"loaded"} <= {
        "LoaderCrashed: the loader ran out of memory",
        "LoaderCrashed: the loader died by SIGABRT",
        "LoaderError: disk0p2: not enough memory",
    }


def test_two_loaders_on_one_vm(disk: RawImage) -> None:
    from bhyveload.errors import VmBusy

    with VirtualMachine.create("guest", MEMORY) as vm:
        with pytest.raises(VmBusy, match="VM 'guest' is in use"):
            VirtualMachine.create("guest", MEMORY)
        api.load(vm, [disk], options=Options(batch=True))
    assert the_vm()[0]


def test_time_is_limited(disk: RawImage) -> None:
    """A loader at a prompt that nobody answers; a console that never ends."""
    reading, writing = os.pipe()
    from bhyveload.host.console import FdConsole

    with open(os.devnull, "wb") as nowhere:
        console = FdConsole(reading, nowhere.fileno())
        late = pytest.raises(LoaderCrashed, match=r"the loader did not finish in 0\.3 seconds")
        with VirtualMachine.create("guest", MEMORY) as vm, late:
            api.load(vm, [disk], ["autoboot_delay=NO"], console=console, timeout=0.3)
    os.close(reading)
    os.close(writing)
