"""What the named VMs are doing: for bhyvectl's list, and for ending one that runs."""

from __future__ import annotations

import _signal
import fcntl
import os
import time

from bhyveload.errors import BhyveloadError, HostError, VmBusy, VmError, VmNotFound
from bhyveload.running.control import runner_of
from bhyveload.vm.directory import list_machines, prepare_directory
from bhyveload.vm.store import VirtualMachine, destroy_machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bhyveload.running.control import Runner

RUNNING, LOADED, NOT_LOADED, IN_USE = "running", "loaded", "not loaded", "in use"
_ANSWER_LIMIT = 2.0  # seconds
_START_LIMIT = 5.0
_END_LIMIT = 15.0
_LOADER = "bhyveload"
_STEP = 0.05
_SIGNATURE_MAX = 100


def folder_of(name: str) -> str:
    return os.path.join(prepare_directory(), name)


def survey() -> list[dict[str, Any]]:
    """Every VM (docs/bhyvectl-json.md), by name.  Raises VmStorageError."""
    return [describe(name) for name in list_machines()]


def describe(name: str) -> dict[str, Any]:
    """One VM as the survey has it."""
    entry: dict[str, Any] = {
        "name": name,
        "state": NOT_LOADED,
        "loaded": False,
        "pid": None,
        "since": None,
        "memory": None,
        "disks": [],
        "console": None,
    }
    try:
        with VirtualMachine.open(name, lock=False) as vm:
            if vm.state is not None:
                loaded = vm.state.get("loaded")
                disks = loaded.get("disks") if isinstance(loaded, dict) else None
                entry.update(state=LOADED, loaded=True, memory=vm.state["memory"], disks=_paths(disks))
    except VmError as error:
        entry["error"] = error.message
    runner = runner_of(folder_of(name))
    if runner is None:
        if _is_locked(name):
            entry["state"] = IN_USE  # being loaded
        return entry
    with runner:
        entry.update(state=RUNNING, pid=runner.pid)
        try:
            facts = runner.ask("info", _ANSWER_LIMIT)
        except HostError as error:
            entry["error"] = error.message
            return entry
        entry.update(since=facts.get("since"), disks=_paths(facts.get("disks")), console=facts.get("console"))
    return entry


def _paths(disks: object) -> list[dict[str, Any]]:
    found = [disk for disk in disks if isinstance(disk, dict)] if isinstance(disks, list) else []
    return [{"path": str(disk.get("path")), "read_only": bool(disk.get("read_only"))} for disk in found]


def _is_locked(name: str) -> bool:
    try:
        fd = os.open(os.path.join(folder_of(name), "lock"), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def running(name: str) -> Runner | None:
    """Who runs the VM ``name``; None when nobody does.  Raises VmNotFound and the others of VirtualMachine.open."""
    VirtualMachine.open(name, lock=False).close()
    return _awaited_runner(name)


def _awaited_runner(name: str) -> Runner | None:
    """Who runs the VM.  A runner that only starts has the VM's lock and no socket yet: it is waited for."""
    until = time.monotonic() + _START_LIMIT
    while (runner := runner_of(folder_of(name))) is None:
        if not _is_locked(name) or _is_being_loaded(name) or time.monotonic() > until:
            return None
        time.sleep(_STEP)
    return runner


def _is_being_loaded(name: str) -> bool:
    """Whether the lock's holder, as it has signed, is a loader."""
    try:
        with open(os.path.join(folder_of(name), "lock"), "rb") as file:
            return os.fsdecode(file.read(_SIGNATURE_MAX)).partition(" ")[2].strip() == _LOADER
    except OSError:
        return False


def destroy(name: str) -> None:
    """Remove a VM, and end its guest before.  Raises VmNotFound, VmBusy (it is being loaded), VmStorageError."""
    try:
        destroy_machine(name)
        return
    except VmBusy:
        until = time.monotonic() + _END_LIMIT
        runner = _awaited_runner(name)
        if runner is None and not _comes_free(name):
            raise
    if runner is not None:
        with runner:
            _end(runner)
    while True:
        try:
            destroy_machine(name)
            return
        except VmNotFound:  # a clone of a saved guest, which goes with its run
            return
        except VmBusy:
            if time.monotonic() > until:
                raise
            time.sleep(_STEP)


def _comes_free(name: str) -> bool:
    """Whether who has the lock is only about to leave: a runner closes its socket a little before."""
    for _ in range(10):
        if not _is_locked(name):
            return True
        time.sleep(_STEP)
    return False


def _end(runner: Runner) -> None:
    """As soon as possible; a runner that does not answer is killed, and takes its guest with it."""
    pid = runner.pid
    try:
        runner.ask("destroy")
        if runner.wait_for_the_end(_END_LIMIT):
            return
    except BhyveloadError:
        pass
    try:
        os.kill(pid, _signal.SIGKILL)
    except ProcessLookupError:
        return
    runner.wait_for_the_end(_END_LIMIT)
