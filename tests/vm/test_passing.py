"""VMs of one run, and what is left of them when it was killed."""

from __future__ import annotations

import os
import signal

from bhyveload.vm.directory import list_machines
from bhyveload.vm.passing import is_passing, passing_name, remove_abandoned
from bhyveload.vm.registers import Registers, setup_freebsd_registers
from bhyveload.vm.store import VirtualMachine

MB = 1 << 20


def loaded(name: str) -> VirtualMachine:
    vm = VirtualMachine.create(name, MB)
    vcpu = Registers()
    setup_freebsd_registers(vcpu, rip=0xFFFFFFFF80200120, cr3=0x2000, gdtbase=0x5000, rsp=0x1000)
    vm.commit([vcpu], {})
    return vm


def test_names() -> None:
    assert is_passing(passing_name()) and str(os.getpid()) in passing_name()
    for name in (
        "guest",
        "guest-1",
        "guest-1-",
        "guest-x-01234567",
        "guest-1-0123456",
        "guest-1-0123456g",
        "my-1-01234567",
    ):
        assert not is_passing(name)


def test_what_a_killed_run_left_goes_and_nothing_else() -> None:
    """Of a process that was killed: a loaded VM, and one that was being loaded."""
    mine, own = loaded(passing_name()), loaded("guest-of-mine")
    own.close()
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            kept = loaded(passing_name()), VirtualMachine.create(passing_name(), MB)
            os.write(writing, " ".join(vm.name for vm in kept).encode())
            signal.pause()
        finally:
            os._exit(1)
    left = os.read(reading, 200).decode().split()
    try:
        remove_abandoned()
        assert set(list_machines()) == {mine.name, "guest-of-mine", *left}
        os.kill(pid, signal.SIGKILL)
    finally:
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)
    remove_abandoned()
    assert set(list_machines()) == {mine.name, "guest-of-mine"}
    mine.destroy()


def test_a_file_of_somebody_elses_stays() -> None:
    vm = loaded(passing_name())
    vm.close()
    path = os.path.join(vm.path, "notes")
    with open(path, "w", encoding="ascii") as file:
        file.write("mine")
    remove_abandoned()
    assert os.listdir(vm.path) == ["notes"]
