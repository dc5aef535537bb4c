"""/dev/vmm through libvmmapi, against a stand-in library in C with the signatures of 13.2 and of today."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from bhyveload.errors import HostError, MemoryAccessError, VmBusy, VmError, VmMemoryError, VmNameError, VmNotFound
from bhyveload.vm import freebsd
from bhyveload.vm.freebsd import VM_MEM_F_INCORE, VM_MEM_F_WIRED, FreebsdVirtualMachine, Vmmapi
from bhyveload.vm.memory import VM_HIGHMEM_BASE, GuestMemory
from bhyveload.vm.registers import Registers, setup_freebsd_registers, setup_freebsd_registers_i386
from support import vmmapi

MB = 1 << 20

# What the loader's callbacks set, then vm_setup_freebsd_registers, numbers from enum vm_reg_name
REGISTER_CALLS = """\
vm_set_register guest 0 19 0x1000
vm_set_register guest 0 32 0x500
vm_set_register guest 0 17 0x20
vm_set_register guest 0 16 0x2000
vm_set_register guest 0 15 0x80000021
vm_set_desc guest 0 31 0x5000 0x17 0
vm_set_register guest 0 15 0x80000021
vm_set_register guest 0 17 0x20
vm_set_register guest 0 32 0x500
vm_set_register guest 0 21 0x2
vm_set_desc guest 0 23 0 0 0x209b
vm_set_desc guest 0 25 0 0 0x93
vm_set_desc guest 0 22 0 0 0x93
vm_set_desc guest 0 26 0 0 0x93
vm_set_desc guest 0 27 0 0 0x93
vm_set_desc guest 0 24 0 0 0x93
vm_set_desc guest 0 29 0 0 0x8b
vm_set_desc guest 0 28 0 0 0x10000
vm_set_register guest 0 23 0x8
vm_set_register guest 0 25 0x10
vm_set_register guest 0 22 0x10
vm_set_register guest 0 26 0x10
vm_set_register guest 0 27 0x10
vm_set_register guest 0 24 0x10
vm_set_register guest 0 29 0
vm_set_register guest 0 28 0
vm_set_register guest 0 20 0xffffffff80200120
vm_set_register guest 0 16 0x2000
vm_set_desc guest 0 31 0x5000 0x17 0
vm_set_register guest 0 19 0x1000
"""


class Fake:
    """The stand-in library: what it was asked, and how it is to answer."""

    def __init__(self, path: Path, old: bool) -> None:
        self.old = old
        self.api = Vmmapi(str(path))
        self._library = ctypes.CDLL(str(path))
        self._library.trace.restype = ctypes.c_char_p
        self._library.forget()

    def trace(self) -> str:
        text: bytes = self._library.trace()
        return text.decode()

    def forget(self) -> None:
        self._library.forget()

    def exists(self, name: str) -> None:
        self._library.exists(name.encode())

    def fail_on(self, function: str, number: int) -> None:
        self._library.fail_on(function.encode(), number)


@pytest.fixture(scope="module", params=vmmapi.ABIS)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool]:
    return vmmapi.build(tmp_path_factory.mktemp("vmmapi"), request.param), request.param == "13.2"


@pytest.fixture
def fake(library: tuple[Path, bool]) -> Fake:
    return Fake(*library)


def loaded_vcpu() -> Registers:
    vcpu = Registers()
    vcpu.registers["rsp"] = 0x1000  # the loader's callbacks come first
    setup_freebsd_registers(vcpu, rip=0xFFFFFFFF80200120, cr3=0x2000, gdtbase=0x5000, rsp=0x1000)
    return vcpu


def test_new_vm(fake: Fake) -> None:
    vm = FreebsdVirtualMachine.create("guest", MB, fake.api, VM_MEM_F_INCORE | VM_MEM_F_WIRED)
    opened = "" if fake.old else "vm_vcpu_open 0\n"
    assert fake.trace() == (
        f"vm_create guest\nvm_open guest\n{opened}vm_set_memflags 3\nvm_setup_memory 1048576 1\nvm_map_gpa 0 1048576\n"
    )
    fake.forget()
    vm.commit([loaded_vcpu()], {"kernel": "x"}, {"disks": []})
    assert fake.trace() == REGISTER_CALLS
    assert vm.state == {"disks": [], "loaded": {"kernel": "x"}}
    fake.forget()
    vm.close()
    vm.close()
    assert fake.trace() == f"{'' if fake.old else 'vm_vcpu_close 0'}\nvm_close guest\n".lstrip()


def test_existing_vm_is_reinitialised(fake: Fake) -> None:
    fake.exists("guest")
    vm = FreebsdVirtualMachine.create("guest", MB, fake.api)
    assert [line.split()[0] for line in fake.trace().splitlines() if "vcpu" not in line] == [
        "vm_create",
        "vm_open",
        "vm_reinit",
        "vm_set_memflags",
        "vm_setup_memory",
        "vm_map_gpa",
    ]
    assert vm.restart() is vm.memory
    fake.forget()
    vm.abandon()
    assert "vm_destroy" not in fake.trace()


def test_abandoned_new_vm_is_destroyed(fake: Fake) -> None:
    FreebsdVirtualMachine.create("guest", MB, fake.api).abandon()
    assert fake.trace().endswith("vm_destroy guest\n")
    with pytest.raises(VmNotFound, match=r"^vm_open: No such file or directory$"):
        FreebsdVirtualMachine.open("guest", fake.api)


def test_open_and_destroy(fake: Fake) -> None:
    fake.exists("guest")
    FreebsdVirtualMachine.open("guest", fake.api).destroy()
    assert fake.trace().endswith("vm_destroy guest\n")


def test_memory_is_the_same_as_in_the_store(fake: Fake, tmp_path: Path) -> None:
    vm = FreebsdVirtualMachine.create("guest", 3 * MB, fake.api)
    assert vm.memory is not None and (vm.memory.low, vm.memory.high) == (MB, 2 * MB)
    with (tmp_path / "memory").open("w+b") as file:
        file.truncate(3 * MB)
        ours = GuestMemory(file.fileno(), MB, 2 * MB)
        actions: list[Callable[[GuestMemory], bytes | None]] = [
            lambda memory: memory.write(0x1000, b"low"),
            lambda memory: memory.write(VM_HIGHMEM_BASE + 2 * MB - 4, b"high"),
            lambda memory: memory.write_pieces(5, [b"ab", memoryview(b"cd"), bytearray(b"e")], 5),
            lambda memory: memory.read(0, 0x2000),
            lambda memory: memory.zero(6, 2),
            lambda memory: memory.read(0, 16),
            lambda memory: memory.read(VM_HIGHMEM_BASE, 2 * MB),
            lambda memory: memory.read(MB - 1, 1),
            lambda memory: memory.read(MB, 0),
            lambda memory: memory.read(MB - 1, 2),
            lambda memory: memory.read(-1, 1),
            lambda memory: memory.read(0, -1),
            lambda memory: memory.write(VM_HIGHMEM_BASE - 1, b"xx"),
            lambda memory: memory.zero(VM_HIGHMEM_BASE + 2 * MB, 1),
        ]
        results: list[list[bytes | str | None]] = []
        for memory in (ours, vm.memory):
            results.append([])
            for action in actions:
                try:
                    results[-1].append(action(memory))  # type: ignore[arg-type]
                except MemoryAccessError as error:
                    results[-1].append(error.message)
        assert results[0] == results[1]
        assert sum(isinstance(result, str) for result in results[0]) == 5
    vm.memory.write(0, b"\xff" * MB)
    vm.memory.zero(0, MB)
    assert vm.memory.read(0, MB) == bytes(MB)


def test_32_bit_guest_needs_unrestricted_guest(fake: Fake) -> None:
    vm = FreebsdVirtualMachine.create("guest", MB, fake.api)
    assert vm.memory is not None
    vcpu = Registers()
    setup_freebsd_registers_i386(vcpu, vm.memory, 0x400000, 0x3000, 0x1FDC)
    fake.forget()
    vm.commit([vcpu], {})
    lines = fake.trace().splitlines()
    assert lines[:5] == [
        "vm_set_register guest 0 19 0x1fdc",
        "vm_set_desc guest 0 31 0x3000 0x1f 0",
        "vm_get_capability guest 0 3",
        "vm_set_capability guest 0 3 1",
        "vm_set_register guest 0 15 0x21",
    ]
    assert "vm_set_desc guest 0 23 0 0xffffffff 0xc09b" in lines
    assert "vm_set_register guest 0 20 0x400000" in lines


@pytest.mark.parametrize(
    ("function", "number", "error", "message"),
    [
        ("vm_create", errno.EPERM, VmError, "vm_create: Operation not permitted"),
        ("vm_create", errno.ENOENT, VmNotFound, "vm_create: No such file or directory"),
        ("vm_open", errno.EACCES, VmError, "vm_open: Permission denied"),
        ("vm_reinit", errno.EBUSY, VmBusy, "vm_reinit: Device or resource busy"),
        ("vm_setup_memory", errno.EINVAL, VmMemoryError, "vm_setup_memory: Invalid argument"),
        ("vm_map_gpa", errno.EFAULT, VmMemoryError, "vm_map_gpa: 0x0+0x100000 is not mapped"),
    ],
)
def test_failures(fake: Fake, function: str, number: int, error: type[VmError], message: str) -> None:
    if function == "vm_reinit":
        fake.exists("guest")
    fake.fail_on(function, number)
    with pytest.raises(VmError) as caught:
        FreebsdVirtualMachine.create("guest", MB, fake.api)
    assert type(caught.value) is error and caught.value.message == message


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOENT, "kldload vmm"),
        (errno.ENXIO, "VT-x or AMD-V"),
        (errno.EPERM, "the group vmm"),
        (errno.EACCES, "the group vmm"),
    ],
)
def test_what_to_do_where_no_vm_can_be_made(fake: Fake, number: int, hint: str) -> None:
    fake.fail_on("vm_create", number)
    with pytest.raises(VmError) as caught:
        FreebsdVirtualMachine.create("guest", MB, fake.api)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("function", "message"), [("vm_set_register", "vm_set_register"), ("vm_set_desc", r"vm_set_desc\(gdt\)")]
)
def test_refused_registers(fake: Fake, function: str, message: str) -> None:
    vm = FreebsdVirtualMachine.create("guest", MB, fake.api)
    fake.fail_on(function, errno.EINVAL)
    with pytest.raises(VmError, match=rf"^{message}: Invalid argument$"):
        vm.commit([loaded_vcpu()], {})


def test_registers_that_a_loader_adds(fake: Fake) -> None:
    """userboot.so may call vm_set_register and vm_set_desc itself."""
    vm = FreebsdVirtualMachine.create("guest", MB, fake.api)
    vcpu = loaded_vcpu()
    vcpu.registers["r8"] = 8
    vcpu.descriptors["idtr"] = (0x7000, 0xFFF, 0)
    fake.forget()
    vm.commit([vcpu], {})
    lines = fake.trace().splitlines()
    assert sorted(set(lines) - set(REGISTER_CALLS.splitlines())) == [
        "vm_set_desc guest 0 30 0x7000 0xfff 0",
        "vm_set_register guest 0 7 0x8",
    ]


def test_names(fake: Fake) -> None:
    with pytest.raises(VmNameError):
        FreebsdVirtualMachine.create("a/b", MB, fake.api)
    assert fake.trace() == ""


@pytest.mark.parametrize("name", ["libvmmapi.so", "libvmmapi.so.7", "libvmmapi.so.6", "libvmmapi.so.5"])
def test_the_library_s_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without development packages there is only the one with the release's major number (SHLIB_MAJOR)."""

    def dlopen(asked: str, **_: object) -> ctypes.CDLL:
        if asked != name:
            raise OSError(f"{asked}: not found")
        return there

    there = ctypes.CDLL(None)
    monkeypatch.setattr(ctypes, "CDLL", dlopen)
    assert freebsd._system_library() is there


def test_a_library_of_before_vm_close(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones of 13: the VM's descriptor goes with the process."""
    vm = FreebsdVirtualMachine.create("guest", MB, fake.api)
    vm.commit([loaded_vcpu()], {})
    monkeypatch.setattr(fake.api, "has_close", False)
    fake.forget()
    vm.close()
    assert fake.trace() == ("" if fake.old else "vm_vcpu_close 0\n")


def test_no_library(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"absent\.so"):
        Vmmapi(str(tmp_path / "absent.so"))
    with pytest.raises(HostError, match="vm_create"):
        Vmmapi("libc.so.6")
