"""The hand-off to KVM alone: what the guest sees is exactly what the loader left."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bhyveload.errors import HandoffError
from bhyveload.handoff import kvm_probe
from bhyveload.handoff.kvm import probe_guest_finishes
from guest.build import build_probe, missing_tools, parse_report
from guest.loader import empty_vm, load_probe
from support.kvm_guest import run_kvm

MB = 1 << 20
CR0_ET = 0x10  # a fixed bit of the processor's
needs_kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="/dev/kvm is missing or not ours")
needs_gcc = pytest.mark.skipif(bool(missing_tools()), reason=f"{missing_tools()} not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kvm")


@pytest.fixture(scope="module", params=["amd64", "i386"])
def kernel(request: pytest.FixtureRequest, folder: Path) -> Path:
    """Without what needs firmware: emulated KVM takes a microsecond and more for each instruction."""
    return build_probe(folder, request.param, ["-DPROBE_SHORT"], name=request.param)


@needs_kvm
@needs_gcc
def test_the_state_is_the_loader_s_to_the_bit(kernel: Path, tmp_path: Path) -> None:
    vm = load_probe(tmp_path / "vm", kernel, 5 << 30 if kernel.name == "amd64" else 64 * MB, {"a": "b"})
    result = run_kvm(vm, 20)
    vm.close()
    report = parse_report(result.console)
    assert result.outcome == "powered off"
    expected = {"rflags": "2", "env.0": "a=b", "bss.dirty": "0", "ldtr": "0"}
    if kernel.name == "amd64":
        expected |= {"cr0": "80000021", "cr3": "2000", "cr4": "20", "efer": "500", "rsp": "1000", "gdtr.base": "5000"}
        expected |= {"gdtr.limit": "17", "smap.0": "0,a0000,1", "smap.2": "100000000,80000000,1", "ram.2.good": "1"}
    else:
        expected |= {"cr0": "21", "cr3": "0", "cr4": "0", "efer": "0", "rsp": "1fdc", "gdtr.base": "3000", "tr": "18"}
        expected |= {"gdtr.limit": "1f", "smap.1": "100000,3f00000,1", "bi.extmem": "fc00", "bi.basemem": "280"}
        expected |= {"gdt.3": "890040000067"}
    report["cr0"] = f"{int(report['cr0'], 16) & ~CR0_ET:x}"
    assert {key: report.get(key) for key in expected} == expected
    assert all(report[name] == "0" for name in ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r15"])


@needs_kvm
@needs_gcc
@pytest.mark.parametrize(
    ("end", "outcome"), [("reboot", "rebooted"), ("halt", "halted"), ("triple", "triple fault"), ("spin", "timed out")]
)
def test_the_ways_to_end(folder: Path, tmp_path: Path, end: str, outcome: str) -> None:
    kernel = build_probe(folder, "i386", ["-DPROBE_SHORT"], name=f"end-{end}")
    vm = load_probe(tmp_path / "vm", kernel, 64 * MB, {"probe.end": end})
    result = run_kvm(vm, 1.5 if end == "spin" else 20)
    vm.close()
    assert result.outcome == outcome
    assert parse_report(result.console)["end"] == end


@needs_kvm
def test_the_vm_s_memory_is_not_written(tmp_path: Path) -> None:
    from bhyveload.vm.registers import Registers, setup_freebsd_registers_i386

    vm = empty_vm(tmp_path / "vm", 4 * MB)
    vcpu = Registers()
    setup_freebsd_registers_i386(vcpu, vm.memory, 0x100000, 0x3000, 0x1FDC)
    vm.memory.write(0x100000, bytes.fromhex("c7 05 00 00 20 00 01 00 00 00 f4"))  # mov dword [0x200000], 1; hlt
    vm.state = {"vcpus": [vcpu.as_dict()]}
    assert run_kvm(vm, 10).outcome == "halted"
    assert vm.memory.read(0x200000, 4) == bytes(4)
    vm.close()


@needs_kvm
def test_the_probe_answers_in_time_whatever_kvm_is() -> None:
    assert probe_guest_finishes(loops=100, sse=False)
    begin = time.monotonic()
    kvm_probe.kvm_runs_kernels()
    assert time.monotonic() - begin < 1.0


@needs_kvm
def test_a_guest_that_does_not_end_is_no_kvm_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bhyveload.handoff.kvm._PROBE_LOOP", b"\xeb\xfe")  # jmp self
    begin = time.monotonic()
    assert not kvm_probe.kvm_runs_kernels()
    assert 0.09 < time.monotonic() - begin < 1.0


def test_without_kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kvm(path: str, *_: object) -> int:
        raise FileNotFoundError(2, os.strerror(2), path)

    def no_access(*_: object) -> bool:
        return False

    vm = empty_vm(tmp_path / "vm", 4 * MB)
    from bhyveload.vm.registers import Registers, setup_freebsd_registers

    vcpu = Registers()
    setup_freebsd_registers(vcpu, 0x200000, 0x2000, 0x5000, 0x1000)
    vm.state = {"vcpus": [vcpu.as_dict()]}
    with monkeypatch.context() as patch:
        patch.setattr("os.open", no_kvm)
        patch.setattr("os.access", no_access)
        with pytest.raises(HandoffError, match="/dev/kvm: No such file or directory"):
            run_kvm(vm, 1)
        assert not probe_guest_finishes()
        assert not kvm_probe.kvm_runs_kernels()
    vm.close()


def test_no_process_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """No KVM then, and no descriptor left."""

    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(os, "access", lambda *_: True)
    before = os.listdir("/proc/self/fd")
    assert not kvm_probe.kvm_runs_kernels()
    assert os.listdir("/proc/self/fd") == before
