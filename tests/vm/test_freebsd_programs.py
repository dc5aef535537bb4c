"""bhyveload on vmm(4), the whole program, against a stand-in libvmmapi (tests/data/fake_vmmapi.c) of both ABIs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from support import userboot_testing, vmmapi
from support.end_to_end import bhyveload
from support.golden import MIB, Record, differences, records
from support.ufs_images import decompress
from support.vmmapi import StandIn

# bhyveload.c, main: what comes before the loader and, but for vm_reinit, of a VM that it makes itself
OPENED = ["vm_create", "vm_open"]
MEMORY = ["vm_set_memflags", "vm_setup_memory", "vm_map_gpa"]
SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss")
NUMBERS = {"rsp": 19, "efer": 32, "cr0": 15, "cr3": 16, "cr4": 17, "rflags": 21, "rip": 20, "gdtr": 31}
# vm_setup_freebsd_registers and its i386 sibling (lib/libvmmapi/amd64/vmmapi_freebsd_machdep.c), enum vm_reg_name
SELECTORS = [23, 25, 22, 26, 27, 24, 29, 28]
WIDE_CALLS = [
    *[("register", NUMBERS[name]) for name in ("rsp", "efer", "cr4", "cr3", "cr0")],
    ("desc", NUMBERS["gdtr"]),
    *[("register", NUMBERS[name]) for name in ("cr0", "cr4", "efer", "rflags")],
    *[("desc", number) for number in SELECTORS],
    *[("register", number) for number in SELECTORS],
    ("register", NUMBERS["rip"]),
    ("register", NUMBERS["cr3"]),
    ("desc", NUMBERS["gdtr"]),
    ("register", NUMBERS["rsp"]),
]
I386_CALLS = [
    ("register", NUMBERS["rsp"]),
    ("desc", NUMBERS["gdtr"]),
    ("capability", 3),
    ("capability", 3),
    *[("register", NUMBERS[name]) for name in ("cr0", "cr4", "efer")],
    ("desc", NUMBERS["gdtr"]),
    ("register", NUMBERS["rflags"]),
    *[("desc", number) for number in SELECTORS],
    *[("register", number) for number in SELECTORS],
    ("register", NUMBERS["rip"]),
    ("register", NUMBERS["rsp"]),
]
REGISTER_FUNCTIONS = ("vm_set_register", "vm_set_desc", "vm_get_capability", "vm_set_capability")
ENTRY = 0xFFFFFFFF80200120  # tests/guest/testboot.c's


@pytest.fixture(scope="module", params=vmmapi.ABIS)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return vmmapi.build(tmp_path_factory.mktemp("vmmapi"), request.param), request.param


@pytest.fixture
def vmm(library: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    folder = tmp_path / "dev-vmm"
    folder.mkdir()
    monkeypatch.setenv("VMM_STANDIN", str(folder))
    return StandIn(*library, folder)


@pytest.fixture(scope="module")
def loaders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """userboot.so does what do= says, userboot_4th.so boots."""
    folder = tmp_path_factory.mktemp("loaders")
    (folder / "userboot.so").write_bytes(userboot_testing.build(folder, "-Wl,-Bsymbolic", name="a.o"))
    (folder / "userboot_4th.so").write_bytes(userboot_testing.build(folder, '-DDO="boot"', name="b.o"))
    return folder


def register_calls(vmm: StandIn) -> list[tuple[str, int]]:
    """(what, number) of everything that was said to a vCPU, in order."""
    words = [line.split() for line in vmm.calls()]
    return [(call[0].rpartition("_")[2], int(call[3])) for call in words if call[0] in REGISTER_FUNCTIONS]


def wide(entry: int) -> dict[str, object]:
    """vm_setup_freebsd_registers with what the loader's callbacks say."""
    return {
        **dict.fromkeys(SEGMENTS, 0x10),
        **{f"{name} descriptor": (0, 0, 0x93) for name in SEGMENTS},
        "cs": 0x08,
        "cs descriptor": (0, 0, 0x209B),
        "tr": 0,
        "tr descriptor": (0, 0, 0x8B),
        "ldtr": 0,
        "ldtr descriptor": (0, 0, 0x10000),
        "gdtr descriptor": (0x5000, 23, 0),
        "cr0": 0x80000021,
        "cr3": 0x2000,
        "cr4": 0x20,
        "efer": 0x500,
        "rflags": 2,
        "rsp": 0x1000,
        "rip": entry,
    }


def narrow(entry: int) -> dict[str, object]:
    """vm_setup_freebsd_registers_i386."""
    return {
        **dict.fromkeys(SEGMENTS, 0x10),
        **{f"{name} descriptor": (0, 0xFFFFFFFF, 0xC093) for name in SEGMENTS},
        "cs": 0x08,
        "cs descriptor": (0, 0xFFFFFFFF, 0xC09B),
        "tr": 0x18,
        "tr descriptor": (0x4000, 103, 0x8B),
        "ldtr": 0,
        "ldtr descriptor": (0, 0, 0x10000),
        "gdtr descriptor": (0x3000, 31, 0),
        "cr0": 0x21,
        "cr4": 0,
        "efer": 0,
        "rflags": 2,
        "rsp": 0x1FDC,
        "rip": entry,
    }


@pytest.mark.parametrize(("version", "name"), records(interpreter="lua"))
def test_same_as_freebsd(version: str, name: str, vmm: StandIn, tmp_path: Path) -> None:
    """Console, memory, registers, descriptors, and the order of all calls."""
    record = Record(version, name)
    words: list[str | Path] = [vmm.option, "--compat", version, "-m", f"{record.memory_size >> 20}M"]
    for text in record.environment:
        words += ["-e", text.decode("latin-1")]
    for disk in record.names:
        (tmp_path / disk).write_bytes(decompress(record.folder / f"{disk}.zst"))
        words += ["-d", tmp_path / disk]
    done = bhyveload(*words, "vm", keys=record.keys, check=0)
    assert done.out == record.console
    calls = register_calls(vmm)
    assert calls == (I386_CALLS if name == "i386" else WIDE_CALLS)
    before = [*OPENED, *MEMORY, *(["vm_map_gpa"] if record.memory_size > 3072 * MIB else [])]
    functions = vmm.functions()
    assert (functions[: len(before)], len(functions)) == (before, len(before) + len(calls))
    recorded = record.memory()
    assert differences(vmm.memory("vm", len(recorded)), recorded, record.ignored) == []
    entry = int(next(line for line in record.calls if line.startswith("exec ")).split("rip=")[1].split()[0], 0)
    assert vmm.processor("vm") == (narrow(entry) if name == "i386" else wide(entry))


@pytest.mark.parametrize(("options", "flags"), [((), 0), (("-C",), 1), (("-S",), 2), (("--wired", "--incore"), 3)])
def test_memory_flags(vmm: StandIn, loaders: Path, options: tuple[str, ...], flags: int) -> None:
    """VM_MEM_F_INCORE, VM_MEM_F_WIRED: told before the memory is made."""
    bhyveload(vmm.option, *options, "-l", loaders / "userboot.so", "-e", "do=boot", "-m", "64M", "vm", check=0)
    assert f"vm_set_memflags {flags}" in vmm.calls()
    assert vmm.functions()[:5] == [*OPENED, *MEMORY]
    assert f"vm_setup_memory {64 * MIB} 1" in vmm.calls(), "VM_MMAP_ALL"


def test_userboot_object(vmm: StandIn, loaders: Path) -> None:
    bhyveload(vmm.option, "-l", loaders / "userboot.so", "-e", "do=boot", "-m", "64M", "vm", check=0)
    assert vmm.processor("vm") == wide(ENTRY)
    assert register_calls(vmm) == WIDE_CALLS


def test_existing_vm_is_reinitialised(vmm: StandIn, loaders: Path) -> None:
    """EEXIST is no error: vm_open, vm_reinit, and what lay in memory stays."""
    words = (vmm.option, "-l", loaders / "userboot.so", "-e", "do=boot")
    bhyveload(*words, "-m", "64M", "vm", check=0)
    vmm.forget()
    bhyveload(*words, "-m", "64M", "vm", check=0)
    assert vmm.functions()[:6] == [*OPENED, "vm_reinit", *MEMORY]
    assert vmm.processor("vm") == wide(ENTRY)
    vmm.forget()
    done = bhyveload(*words, "-m", "128M", "vm")
    if vmm.abi == "13.2":  # cmpseg in vmmapi.c
        assert (done.status, done.messages.startswith("bhyveload: vm_setup_memory: Invalid argument")) == (1, True)
    else:
        assert done.status == 0 and vmm.sizes("vm") == (64 * MIB, 0)
    assert vmm.machines() == ["vm"]


def test_swap_and_reboot_reinitialise(vmm: StandIn, loaders: Path, tmp_path: Path) -> None:
    """main's setjmp: vm_reinit, memflags, memory; a reboot since 2024."""
    (tmp_path / "disk.img").write_bytes(bytes(MIB))
    bhyveload(vmm.option, "-m", "64M", "--loader-dir", loaders, "-e", "do=swap:4th", "swaps", check=0)
    again = [*OPENED, *MEMORY, "vm_reinit", *MEMORY]
    assert vmm.functions()[: len(again)] == again
    assert vmm.processor("swaps") == wide(ENTRY)
    vmm.forget()
    words = ("-m", "64M", "-l", loaders / "userboot.so", "-e", "do=reboot-once", "-d", tmp_path / "disk.img", "vm")
    assert bhyveload(vmm.option, *words, check=0).out == b"again\nnow\n"
    assert vmm.functions()[: len(again)] == again
    assert register_calls(vmm) == WIDE_CALLS


def test_built_in_loader_reboots(vmm: StandIn) -> None:
    done = bhyveload(vmm.option, "-m", "64M", "vm", keys=b"reboot\n", check=1)
    assert "end of input at the loader's prompt" in done.messages
    assert vmm.functions() == [*OPENED, *MEMORY, "vm_reinit", *MEMORY, "vm_destroy"]
    assert vmm.machines() == []


# What fails, and what bhyveload.c says of it: err(1, ...) in main, perror in the callbacks.
SAYS = {
    "vm_create": "vm_create",
    "vm_open": "vm_open",
    "vm_vcpu_open": "vm_vcpu_open",
    "vm_reinit": "vm_reinit",
    "vm_setup_memory": "vm_setup_memory",
    "vm_set_register": "vm_set_register",
    "vm_set_desc": "vm_set_desc(gdt)",
}
NUMBERS_OF_ERRORS = [errno.EPERM, errno.ENOENT, errno.EBUSY, errno.EINVAL, errno.ENOMEM, errno.ENXIO]


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("function", SAYS)
def test_failing_calls(
    function: str, existing: bool, vmm: StandIn, loaders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bhyveload.c's words and status 1 whatever the error; a VM made by this run goes, any other stays."""
    if (function == "vm_reinit" and not existing) or (function == "vm_vcpu_open" and vmm.abi == "13.2"):
        pytest.skip("not called")
    for number in NUMBERS_OF_ERRORS:
        if existing:
            vmm.make("vm")
        monkeypatch.setenv("VMM_STANDIN_FAIL", f"{function}:{number}")
        done = bhyveload(vmm.option, "-l", loaders / "userboot.so", "-e", "do=boot", "-m", "64M", "vm", check=1)
        lines = done.messages.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith(f"bhyveload: {SAYS[function]}: {os.strerror(number)}")
        stays = existing or function == "vm_open"  # there is no handle to destroy it by: the message says what to do
        assert vmm.machines() == (["vm"] if stays else [])
        if stays and not existing:
            assert lines[0].endswith("(it was made just now: bhyvectl --destroy --vm=vm)")
        assert ("vm_destroy" in vmm.functions()) == (not existing and function not in ("vm_create", "vm_open"))
        monkeypatch.setenv("VMM_STANDIN_FAIL", "")
        if not existing and stays:
            (vmm.folder / "vm.vm").unlink()
        vmm.forget()


def test_memory_that_is_not_mapped(vmm: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMM_STANDIN_FAIL", f"vm_map_gpa:{errno.EFAULT}")
    done = bhyveload(vmm.option, "-m", "64M", "vm", check=1)
    assert done.messages.startswith("bhyveload: vm_map_gpa: 0x0+0x4000000 is not mapped")
    assert vmm.machines() == []


@pytest.mark.parametrize("function", ["vm_get_capability", "vm_set_capability"])
def test_no_32_bit_guests_here(function: str, vmm: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record("current", "i386")
    (tmp_path / "disk.img").write_bytes(decompress(record.folder / "disk.img.zst"))
    monkeypatch.setenv("VMM_STANDIN_FAIL", f"{function}:{errno.ENOENT}")
    done = bhyveload(vmm.option, "-m", "128M", "-d", tmp_path / "disk.img", "vm", keys=record.keys, check=1)
    reason = os.strerror(errno.ENOENT)
    assert (
        f"bhyveload: vm_setup_freebsd_registers: {reason} (this processor, or vmm(4), runs no 32-bit" in done.messages
    )
    assert vmm.machines() == []


@pytest.mark.parametrize("words", [("--require-sandbox", "-e", "do=segv"), ("-e", "do=quit")])
def test_a_loader_that_fails_leaves_what_it_did_not_make(vmm: StandIn, loaders: Path, words: tuple[str, ...]) -> None:
    command: tuple[str | Path, ...] = (vmm.option, "-l", loaders / "userboot.so", *words, "-m", "64M", "vm")
    assert bhyveload(*command).status in (1, 70, 77)
    assert vmm.machines() == []
    vmm.make("vm")
    assert bhyveload(*command).status in (1, 70, 77)
    assert vmm.machines() == ["vm"]


@pytest.mark.parametrize("size", ["0", "1b"])
def test_sizes_that_vmm_refuses(vmm: StandIn, size: str) -> None:
    done = bhyveload(vmm.option, "-m", size, "vm", check=1)
    assert done.messages.startswith("bhyveload: vm_setup_memory: Invalid argument")
    assert vmm.machines() == []


def test_a_dry_run_leaves_vmm_alone(vmm: StandIn, loaders: Path) -> None:
    bhyveload(vmm.option, "--dry-run", "-l", loaders / "userboot.so", "-e", "do=boot", "-m", "64M", check=0)
    assert vmm.calls() == []


@pytest.mark.parametrize("kind", ["", "kvm", "libvmmapi:", "store:x"])
def test_kinds_that_are_none(kind: str) -> None:
    done = bhyveload(f"--vmm={kind}", "vm", check=64)
    assert done.messages.startswith("bhyveload: --vmm knows auto, store, libvmmapi and libvmmapi:PATH, not ")


def test_no_such_library(tmp_path: Path) -> None:
    done = bhyveload(f"--vmm=libvmmapi:{tmp_path / 'none.so'}", "vm", check=71)
    assert "none.so" in done.messages and "--vmm=store" in done.messages


@pytest.mark.parametrize("version", ["13.2", "current"])
def test_forth_guests(version: str, vmm: StandIn, tmp_path: Path) -> None:
    """Memory and registers of a guest whose scripts are Forth; the record's console is of a loader started directly."""
    record = Record(version, "forth-rc")
    (tmp_path / "disk.img").write_bytes(decompress(record.folder / "disk.img.zst"))
    size = f"{record.memory_size >> 20}M"
    words = (vmm.option, "--compat", version, "-m", size, "-d", tmp_path / "disk.img", "vm")
    bhyveload(*words, keys=record.keys, check=0)
    recorded = record.memory()
    assert differences(vmm.memory("vm", len(recorded)), recorded, record.ignored) == []
    entry = int(next(line for line in record.calls if line.startswith("exec ")).split("rip=")[1].split()[0], 0)
    assert vmm.processor("vm") == wide(entry)
    assert register_calls(vmm) == WIDE_CALLS
