"""The library: what the programs are thin users of, without a terminal and without messages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bhyveload import api
from bhyveload.api import LoadReport, Options, VirtualMachine, load, run
from bhyveload.errors import BhyveloadError, HandoffError, LoaderError, VmError, VmNotFound, VmNotLoaded
from bhyveload.image.raw import open_raw
from bhyveload.vm.freebsd import FreebsdVirtualMachine
from bhyveload.vm.interface import Machine
from bhyveload.vm.scratch import ScratchMachine
from guest.build import parse_report
from support.end_to_end import check_guest, needs_qemu
from support.places import ROOT
from support.qemu import missing_qemu

MIB = 1 << 20
BATCH = Options(batch=True)


def test_what_there_is() -> None:
    assert {"LoadReport", "Options", "VirtualMachine", "load", "run"} <= set(api.__all__)
    assert all(hasattr(api, name) for name in api.__all__)


@needs_qemu
def test_load_and_run(probe_disk: Path, probe_kernel: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with VirtualMachine.create("guest", 64 * MIB) as vm:
        report = load(vm, disks=[open_raw(str(probe_disk))], environment=["a=b"], options=BATCH)
        assert isinstance(report, LoadReport)
        assert report.kernel is not None
        assert (report.kernel.name, report.environment["a"]) == ("/boot/kernel/kernel", "b")
        console = tmp_path / "console"
        with console.open("wb") as out, open(os.devnull, "rb") as null:
            result = run(vm, accel="tcg", timeout=60, console=(null.fileno(), out.fileno()))
    assert (result.outcome, result.exit_status) == ("powered off", 1)
    assert capfd.readouterr() == ("", "")  # a library says nothing

    os.environ["BHYVE_VMM_DIR"]
    Path(os.environ["BHYVE_VMM_DIR"], "vm").symlink_to("guest")
    check_guest(parse_report(console.read_bytes()), report.as_dict(), probe_kernel)


def test_open_what_was_loaded(probe_disk: Path) -> None:
    with VirtualMachine.create("guest", 64 * MIB) as vm:
        report = load(vm, disks=[open_raw(str(probe_disk))], options=BATCH)
    with VirtualMachine.open("guest", require_loaded=True) as again:
        assert again.registers().registers["rip"] == report.entry
        assert again.memory is not None
        assert report.kernel is not None
        assert again.memory.read(report.kernel.address, 4) == b"\x7fELF"
        assert again.state is not None and again.state["loaded"] == {
            name: value for name, value in report.as_dict().items() if name not in ("vcpu", "memory")
        }


def test_nothing_is_kept_of_a_scratch_machine(probe_disk: Path, vmm_directory: Path) -> None:
    vm = ScratchMachine("x", 64 * MIB)
    report = load(vm, disks=[open_raw(str(probe_disk))], options=BATCH)
    vm.close()
    assert report.kernel is not None and report.kernend > report.kernel.address
    assert not vmm_directory.exists()


def test_errors_are_ours(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    vm = VirtualMachine.create("guest", 64 * MIB)
    with pytest.raises(LoaderError, match=r"the disk is empty") as caught:
        load(vm, disks=[open_raw(str(empty))], options=BATCH)
    vm.abandon()
    assert isinstance(caught.value, BhyveloadError)
    assert caught.value.exit_status == 1 and caught.value.hint
    with pytest.raises(VmNotFound):
        VirtualMachine.open("guest")


def test_without_keys_the_prompt_is_an_error(probe_disk: Path) -> None:
    with VirtualMachine.create("guest", 64 * MIB) as vm, pytest.raises(LoaderError, match="end of input"):
        load(vm, disks=[open_raw(str(probe_disk))], environment=["autoboot_delay=NO"])


def test_an_image_with_a_kernel_of_the_host(probe_disk: Path, probe_kernel: Path, vmm_directory: Path) -> None:
    """Loaded for one run: nothing of it is left, no descriptor either; nor of a load that fails."""
    before = set(os.listdir("/proc/self/fd"))
    vm = api.load_image(str(probe_disk), 64 * MIB, kernel=str(probe_kernel))
    loaded = vm.state["loaded"] if vm.state is not None else {}
    assert isinstance(loaded, dict) and loaded["kernel"]["name"] == f"host0:/{probe_kernel.name}"
    vm.destroy()
    with pytest.raises(BhyveloadError):
        api.load_image(str(probe_disk), 64 * MIB, kernel=f"{probe_kernel}.absent")
    assert set(os.listdir("/proc/self/fd")) == before
    assert os.listdir(vmm_directory) == []


def test_a_vm_that_holds_no_guest_does_not_run() -> None:
    with VirtualMachine.create("guest", 64 * MIB) as vm:
        with pytest.raises(VmNotLoaded):
            run(vm, accel="tcg")
        vm.abandon()


def test_without_qemu(probe_disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with VirtualMachine.create("guest", 64 * MIB) as vm:
        load(vm, disks=[open_raw(str(probe_disk))], options=BATCH)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(HandoffError, match="qemu-system-x86_64") as caught:
            run(vm, accel="tcg")
        assert "install" in (caught.value.message + caught.value.hint)


def test_the_readme_s_example(probe_disk: Path, tmp_path: Path) -> None:
    """Word for word, but for the disk's name."""
    if missing_qemu():
        pytest.skip(missing_qemu())
    text = (ROOT / "README.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    shutil.copy(probe_disk, tmp_path / "FreeBSD.img")
    # a prompt would wait for keys
    example = example.replace("load(vm,", "load(vm, options=Options(batch=True),")
    example = "from bhyveload.api import Options\n" + re.sub(r'"FreeBSD\.[\w.]+"', '"FreeBSD.img"', example)
    command = [sys.executable, "-c", example]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False, env=buffered)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("/boot/kernel/kernel 0xffffffff80")  # before what the guest says
    assert done.stdout.rstrip().endswith("powered off")


def test_every_machine_is_a_machine() -> None:
    """api.load asks no machine what it is: mypy takes these for Machines (or fails), and they have all of one."""
    kinds: tuple[type[Machine], ...] = (VirtualMachine, ScratchMachine, FreebsdVirtualMachine)
    wanted = {name for name in vars(Machine) if not name.startswith("_")} | {"__enter__", "__exit__"}
    for kind in kinds:
        assert sorted(name for name in wanted if not hasattr(kind, name)) == [], kind


def test_a_loaded_vm_is_not_loaded_over(probe_disk: Path) -> None:
    with VirtualMachine.create("guest", 64 * MIB) as vm:
        load(vm, disks=[open_raw(str(probe_disk))], options=BATCH)
        with pytest.raises(VmError, match="is not being loaded"):
            load(vm, disks=[open_raw(str(probe_disk))], options=BATCH)
    memory = Path(vm.memory_path).read_bytes()
    with VirtualMachine.open("guest") as again, pytest.raises(VmError, match="is not being loaded") as caught:
        load(again, disks=[open_raw(str(probe_disk))], options=BATCH)
    assert "VirtualMachine.create" in caught.value.hint
    assert Path(vm.memory_path).read_bytes() == memory
    with VirtualMachine.open("guest", require_loaded=True):
        pass


def test_leaving_a_vm_unloaded_leaves_nothing(vmm_directory: Path) -> None:
    with pytest.raises(ZeroDivisionError), VirtualMachine.create("guest", 64 * MIB):
        raise ZeroDivisionError
    assert list(vmm_directory.iterdir()) == []
    with VirtualMachine.create("guest", 64 * MIB):
        pass
    assert list(vmm_directory.iterdir()) == []


def test_an_exception_after_the_load_keeps_the_guest(probe_disk: Path) -> None:
    with pytest.raises(ZeroDivisionError), VirtualMachine.create("guest", 64 * MIB) as vm:
        load(vm, disks=[open_raw(str(probe_disk))], options=BATCH)
        raise ZeroDivisionError
    with VirtualMachine.open("guest", require_loaded=True):
        pass


def test_a_load_forks_from_one_thread(probe_disk: Path) -> None:
    """Python 3.12 and later warn where a process with threads forks; so do they of anything left open."""
    code = (
        "import sys\n"
        "from bhyveload.api import Options, load\n"
        "from bhyveload.image.open import open_disk\n"
        "from bhyveload.vm.scratch import ScratchMachine\n"
        "vm = ScratchMachine('x', 64 << 20)\n"
        "load(vm, disks=[open_disk(sys.argv[1])], options=Options(batch=True))\n"
        "vm.close()\n"
        "print(len(__import__('os').listdir('/proc/self/task')))\n"
    )
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code, str(probe_disk)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert not done.stderr, done.stderr
    assert (done.returncode, done.stdout) == (0, "1\n")


@needs_qemu
def test_the_disks_of_a_run(probe_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their paths, or as open_disk returns them; what they are is said where they are something else."""
    shutil.copy(probe_disk, tmp_path / "disk.img")
    monkeypatch.chdir(tmp_path)
    with VirtualMachine.create("guest", 64 * MIB) as vm:
        load(vm, disks=[open_raw("disk.img")], options=BATCH)
        opened = api.open_disk("disk.img")
        with open(os.devnull, "r+b") as null:
            console = null.fileno(), null.fileno()
            for disk in ("disk.img,ro", tmp_path / "disk.img", opened):
                result = run(vm, accel="tcg", timeout=60, disks=[disk], console=console)
                assert result.exit_status == 1
        opened.close()
        for arguments, words in (
            ({"disks": "disk.img"}, "disks: must be a list of them, not 'disk.img'"),
            ({"disks": opened}, "disks: must be a list of them"),
            ({"disks": [5]}, "disks: must be paths, or what open_disk() returns, not 5"),
            ({"cpus": "2"}, "cpus: must be a whole number, not '2'"),
            ({"timeout": "5"}, "timeout: must be a number of seconds, or None, not '5'"),
            ({"net": None}, "net: must be a text"),
            ({"extra": "-S"}, "extra: must be a list of QEMU's arguments"),
        ):
            with pytest.raises(TypeError, match=re.escape(words)):
                run(vm, accel="tcg", **arguments)
        with pytest.raises(HandoffError, match="absent: no such disk image"):
            run(vm, accel="tcg", disks=["absent"])
