"""kill -9 while a guest is being loaded: the old VM, a VM that is not loaded, or the new VM; never a mixture."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from bhyveload.errors import VmBusy
from bhyveload.vm.directory import list_machines
from bhyveload.vm.memory import GuestMemory
from bhyveload.vm.registers import Registers
from bhyveload.vm.store import VirtualMachine, destroy_machine

MB = 1 << 20
NAMES = {"lock", "memory", "memory.new", "state.json", "state.json.new"}


def load(number: int) -> None:
    """Load guest ``number``: its memory and its state both say which one it is."""
    vm = VirtualMachine.create("guest", MB)
    memory = vm.memory
    assert memory is not None
    mark = number.to_bytes(4096, "little")
    for gpa in (0, MB // 2, MB - 4096):
        memory.write(gpa, mark)
    vm.commit([Registers()], {"number": number})
    vm.close()


def loaded_number(memory: GuestMemory, loaded: dict[str, int]) -> int:
    numbers = {int.from_bytes(memory.read(gpa, 4096), "little") for gpa in (0, MB // 2, MB - 4096)}
    assert numbers == {loaded["number"]}
    return loaded["number"]


def number_in_store(directory: Path) -> int | None:
    """Which guest is loaded, None: none.  Fails on a mixture."""
    assert {entry.name for entry in (directory / "guest").iterdir()} <= NAMES
    with VirtualMachine.open("guest") as vm:
        if vm.state is None:
            return None
        assert vm.memory is not None
        loaded = vm.state["loaded"]
        assert isinstance(loaded, dict)
        return loaded_number(vm.memory, loaded)


def in_child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return pid


FILE_OPERATIONS = ("open", "unlink", "rename", "link", "ftruncate", "write", "pwritev", "mkdir")


def die_before_operation(count: int) -> None:
    """Make the ``count``-th file operation of this process its last moment."""
    left = [count]

    def wrap(real: Callable[..., object]) -> Callable[..., object]:
        def operation(*args: object, **options: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return operation

    for name in FILE_OPERATIONS:
        setattr(os, name, wrap(getattr(os, name)))


@pytest.mark.parametrize("unnamed", [True, False])
def test_killed_before_each_file_operation(unnamed: bool, vmm_directory: Path) -> None:
    def work(count: int) -> None:
        if not unnamed:
            os.path.exists = lambda path: False
        die_before_operation(count)
        load(2)

    seen: list[int | None] = []
    for count in range(100):
        load(1)
        _, status = os.waitpid(in_child(partial(work, count)), 0)
        seen.append(number_in_store(vmm_directory))
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert seen[0] == 1 and seen[-1] == 2 and None in seen
    changes = sum(before != after for before, after in pairwise(seen))
    assert changes == 2, seen
    destroy_machine("guest")
    assert list_machines() == []


def test_first_load_killed_before_each_file_operation(vmm_directory: Path) -> None:
    def work(count: int) -> None:
        die_before_operation(count)
        load(2)

    for count in range(100):
        _, status = os.waitpid(in_child(partial(work, count)), 0)
        names = list_machines()
        assert names in ([], ["guest"])
        if names:
            assert number_in_store(vmm_directory) == (2 if status == 0 else None)
            destroy_machine("guest")
        if status == 0:
            break
    else:
        pytest.fail("the load never ended")


def test_killed_at_random_moments(vmm_directory: Path) -> None:
    def work() -> None:
        for number in range(1, 10000):
            load(number)

    generator = random.Random(1)
    for _ in range(50):
        pid = in_child(work)
        time.sleep(generator.uniform(0.0005, 0.02))
        os.kill(pid, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        if list_machines():
            number_in_store(vmm_directory)  # the whole of one load, or not loaded
    load(10000)  # and what was left stands in nobody's way
    assert list_machines() == ["guest"] and number_in_store(vmm_directory) == 10000


def test_two_processes_on_one_vm(vmm_directory: Path) -> None:
    """Loading and destroying without pause: each either has the VM for itself or hears that it is busy."""

    def work() -> None:
        for number in range(60):
            try:
                load(os.getpid() * 1000 + number)
                if number % 3 == 0:
                    destroy_machine("guest")
            except VmBusy:
                pass
            except Exception as error:
                if type(error).__name__ != "VmNotFound":
                    os.write(2, f"{error!r}\n".encode())
                    raise

    pids = [in_child(work) for _ in range(3)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    if list_machines():
        number_in_store(vmm_directory)
