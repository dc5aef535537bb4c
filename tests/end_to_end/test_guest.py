"""From a disk that makefs and sgdisk made to what a guest says from inside: bhyveload, bhyverun, QEMU's TCG.

The guest's report is compared with what the loader said it did, with the VM's memory file and with the kernel's own
file (end_to_end.py).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from guest.build import build_probe, parse_report
from support import images, ufs_images
from support.end_to_end import (
    PROGRAMS,
    bhyveload,
    check_guest,
    check_machine,
    crc,
    load,
    make_disk,
    memory_file,
    needs_gcc,
    needs_qemu,
    pci_ids,
    plain_environment,
    program,
    read_memory,
    run_guest,
)
from support.ufs_surgery import punch_holes, scatter

pytestmark = [needs_qemu, needs_gcc]
MIB = 1 << 20
PADDING = 2 * MIB


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("end-to-end")


@pytest.fixture
def disk(probe_disk: Path) -> Path:
    return probe_disk


@pytest.fixture
def kernel(probe_kernel: Path) -> Path:
    return probe_kernel


@pytest.fixture(scope="session")
def padded_kernel(work: Path) -> Path:
    """One with 2 MiB of data, no two pages of it alike."""
    return build_probe(work, padding=PADDING, name="padded")


@pytest.mark.parametrize("memory", ["64M", "256M", "3G", "3G+4M", "3500M", "5G", "7G"])
def test_the_guest_sees_what_the_loader_did(disk: Path, kernel: Path, memory: str) -> None:
    size = str((3 << 30) + 4 * MIB) if memory == "3G+4M" else memory
    report = load("-d", disk, "-m", size, *plain_environment(["first=one", "second=a b%c"]))
    assert report["environment"]["second"] == "a b%c"
    assert report["kernel"]["name"] == "/boot/kernel/kernel"
    check_guest(run_guest(), report, kernel)


def test_keys_through_standard_input(disk: Path, kernel: Path) -> None:
    keys = b" set typed=yes\rload /boot/kernel/kernel\rload -t raw /boot/data\rboot -sv\r"
    report = load("-d", disk, keys=keys, batch=False)
    assert report["environment"]["typed"] == "yes"
    assert [file["type"] for file in report["files"]] == ["elf kernel", "raw"]
    content = ufs_images.numbered_text(100_001, b"d")
    assert read_memory(report["files"][1]["address"], len(content)) == content
    guest = run_guest()
    check_guest(guest, report, kernel)
    assert guest["file.1.crc"] == crc(content)
    assert int(guest["howto"], 16) & 0x802 == 0x802  # RB_SINGLE, RB_VERBOSE
    arguments = [value for key, value in guest.items() if key.endswith(".text")]
    assert "-sv" in arguments


def test_a_vm_runs_again_and_again(disk: Path, kernel: Path) -> None:
    report = load("-d", disk, "-m", "64M")
    before = hashlib.sha256(memory_file().read_bytes()).digest()
    first, second = run_guest(), run_guest()
    assert first == second
    check_guest(second, report, kernel)
    assert hashlib.sha256(memory_file().read_bytes()).digest() == before


def test_loading_again_replaces_the_guest(disk: Path, kernel: Path) -> None:
    load("-d", disk, "-m", "64M", "-e", "round=1")
    report = load("-d", disk, "-m", "128M", "-e", "round=2")
    guest = run_guest()
    check_guest(guest, report, kernel)
    assert "round=2" in guest.values()


def test_the_fixtures_of_freebsd_s_makefs(disk: Path, kernel: Path, tmp_path: Path) -> None:
    """Files of FreeBSD's own UFS1 and UFS2 images, preloaded and looked at from inside."""
    manifest = ufs_images.manifest()
    words: list[str | Path] = ["-d", disk]
    keys = b" load /boot/kernel/kernel\r"
    wanted = []
    for number, name in enumerate(ufs_images.GENUINE, 1):
        image = tmp_path / f"{name}.img"
        image.write_bytes(ufs_images.image(name))
        words += ["-d", image]
        regular = [path for path, (kind, *_) in manifest[name].items() if kind == "f"]
        files = [path for path in regular if path.isascii() and " " not in path and len(path) < 80]  # can be typed
        files = files[number - 1 :: 2][:6]  # not the same names twice: they would count as loaded already
        keys += f"set currdev=disk{number}:\r".encode()
        for path in files:
            keys += f"load -t raw {path}\r".encode()
            wanted.append(manifest[name][path][1])
    report = load(*words, keys=keys + b"set currdev=disk0p2:\rboot\r", batch=False)
    found = [hashlib.sha256(read_memory(f["address"], f["size"])).hexdigest() for f in report["files"][1:]]
    assert found == wanted
    check_guest(run_guest("--no-disk"), report, kernel)


@pytest.mark.parametrize("change", [scatter, punch_holes])
def test_a_kernel_in_pieces(work: Path, tmp_path: Path, padded_kernel: Path, change: Callable[..., int]) -> None:
    """Its blocks in reverse order on the disk; its zero blocks as holes."""
    kernel = padded_kernel
    if change is punch_holes:
        kernel = build_probe(tmp_path, name="sparse", zeros=MIB)
    disk = make_disk(tmp_path, kernel, block=4096, fragment=512)
    pieces = change(disk, MIB, b"/boot/kernel/kernel")
    assert pieces > 100
    report = load("-d", disk)
    assert read_memory(0x200000, 4096) == kernel.read_bytes()[:4096]
    guest = run_guest()
    check_guest(guest, report, kernel)
    if change is scatter:
        assert guest["padding.crc"] == crc(bytes_of_padding(kernel, PADDING))


def bytes_of_padding(kernel: Path, size: int) -> bytes:
    from support.end_to_end import bytes_at, symbol

    return bytes_at(kernel, symbol(kernel, "padding"), size)


def test_a_kernel_of_64_mib(tmp_path: Path) -> None:
    size = 64 * MIB
    kernel = build_probe(tmp_path, padding=size, name="large")
    disk = make_disk(tmp_path, kernel, size=80 * MIB)
    report = load("-d", disk)
    assert report["kernel"]["size"] > size
    guest = run_guest()
    check_guest(guest, report, kernel)
    assert guest["padding.crc"] == crc(bytes_of_padding(kernel, size))


def test_memory_that_the_kernel_fills_to_the_firmware_s(tmp_path: Path) -> None:
    """A large preload ends where SeaBIOS keeps its scratch memory: put back, or refused with what to do."""
    kernel = build_probe(tmp_path)
    tree = tmp_path / "files"
    (tree / "boot" / "kernel").mkdir(parents=True)
    shutil.copy(kernel, tree / "boot" / "kernel" / "kernel")
    (tree / "boot" / "data").write_bytes(ufs_images.numbered_text(46 * MIB, b"x"))
    disk = images.standard_disk(tmp_path / "disk.img", images.make_ufs(tree, tmp_path / "part", 64 * MIB))
    keys = b" load /boot/kernel/kernel\rload -t raw /boot/data\rboot\r"
    report = load("-d", disk, "-m", "64M", keys=keys, batch=False)
    assert 64 * MIB - 18 * MIB < report["kernend"] < 64 * MIB - MIB
    check_guest(run_guest(), report, kernel)


def test_a_32_bit_guest(tmp_path: Path) -> None:
    """bootinfo and memory map agree with each other and with the firmware; the task register is loaded."""
    disk = make_disk(tmp_path, build_probe(tmp_path, "i386"))
    report = load("-d", disk, "-m", "64M", "-e", "a=b")
    guest = run_guest()
    check_machine(guest)
    registers = report["vcpu"]["registers"]
    wanted = {name: f"{registers[name]:x}" for name in ("rsp", "rip", "cr4", "efer")}
    wanted |= {"cr0": f"{registers['cr0'] | 0x10:x}", "tr": "18", "cs": "8", "ss": "10", "gdtr.limit": "1f"}
    wanted |= {"bi.version": "1", "bi.kernel": "/boot/kernel/kernel", "bi.modulep": f"{report['modulep']:x}"}
    wanted |= {
        "bi.kernend": f"{report['kernend']:x}",
        "bss.dirty": "0",
        "gdt.3": "890040000067",
        "acpi.inside_ram": "0",
    }
    assert {name: guest[name] for name in wanted} == wanted
    (_, base, _), (start, length, _) = (guest[f"smap.{number}"].split(",") for number in (0, 1))
    assert (start, int(guest["bi.extmem"], 16), int(guest["bi.basemem"], 16)) == (
        "100000",
        int(length, 16) >> 10,
        int(base, 16) >> 10,
    )
    assert 60 * MIB < int(length, 16) < 63 * MIB
    assert "a=b" in guest.values()


# bhyverun


@pytest.mark.parametrize(("end", "status"), [("reboot", 0), ("poweroff", 1), ("halt", 2), ("triple", 3)])
def test_exit_statuses_are_bhyve_s(disk: Path, end: str, status: int) -> None:
    load("-d", disk, "-m", "64M", "-e", f"probe.end={end}")
    assert run_guest(status=status)["end"] == end


def test_time_limit(disk: Path) -> None:
    load("-d", disk, "-m", "64M", "-e", "probe.end=spin")
    begin = time.monotonic()
    done = program("bhyverun", "--accel", "tcg", "--timeout", "1.5", "vm", check=124)
    assert "vm: stopped after 1.5 seconds" in done.messages
    assert 1.4 < time.monotonic() - begin < 20
    assert parse_report(done.out)["end"] == "spin"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 1), (signal.SIGINT, 130), (signal.SIGHUP, 1), (signal.SIGQUIT, 1)]
)
def test_signals_end_the_run(disk: Path, number: int, status: int) -> None:
    """SIGTERM is the power button first; this guest does not know it, the second one pulls the plug."""
    load("-d", disk, "-m", "64M", "-e", "probe.end=spin")
    command = [str(PROGRAMS / "bhyverun"), "--accel", "tcg", "--timeout", "30", "vm"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        while b"probe=end" not in process.stdout.readline():
            pass
        process.send_signal(number)
        if number == signal.SIGTERM:
            time.sleep(0.3)
            assert process.poll() is None
            process.send_signal(number)
        assert process.wait(20) == status


def test_processors(disk: Path, kernel: Path) -> None:
    """Each is started from inside, by a trampoline in base memory as FreeBSD's."""
    report = load("-d", disk)
    guest = run_guest("--cpus", "3")
    check_guest(guest, report, kernel)
    assert (guest["madt.processors"], guest["ap.started"]) == ("3", "2")


def test_devices(disk: Path, tmp_path: Path) -> None:
    load("-d", disk, "-m", "64M")
    network, disks, entropy, balloon = "1af4:1000", "1af4:1001", "1af4:1005", "1af4:1002"
    plain = run_guest()
    assert (pci_ids(plain).count(disks), pci_ids(plain).count(network), pci_ids(plain).count(entropy)) == (1, 0, 1)
    second = tmp_path / "second.img"
    shutil.copy(disk, second)
    full = run_guest("--net", "user", "-d", disk, "--disk", second, more=("--", "-device", "virtio-balloon-pci"))
    check_machine(full)
    assert [pci_ids(full).count(name) for name in (network, disks, balloon)] == [1, 2, 1]
    assert disks not in pci_ids(run_guest("--no-disk"))


def test_many_disks(disk: Path, kernel: Path, tmp_path: Path) -> None:
    """As many as QEMU's machine gets: still set up by the firmware, and guest memory is whole."""
    words: list[str | Path] = ["-d", disk]
    for number in range(59):
        other = tmp_path / f"{number}.img"
        other.write_bytes(bytes(1 << 16))
        words += ["-d", other]
    report = load("-m", "64M", *words)
    guest = run_guest()
    check_guest(guest, report, kernel)
    assert pci_ids(guest).count("1af4:1001") == 60
    (last := tmp_path / "last.img").write_bytes(bytes(1 << 16))
    load("-m", "64M", *words, "-d", last)
    assert "61 disks: QEMU's machine has room for 60" in program("bhyverun", "--accel", "tcg", "vm", check=4).messages


def test_the_printed_command_runs_the_guest(disk: Path, kernel: Path, tmp_path: Path) -> None:
    report = load("-d", disk)
    for option, name in (("--stub", "stub"), ("--export", "image")):
        words: list[str | Path] = ["--accel", "tcg", "--dry-run", option, tmp_path / name, "vm"]
        command = program("bhyverun", *words, check=0).out.decode()
        assert command.startswith("qemu-system-x86_64 ")
        done = subprocess.run(command, shell=True, capture_output=True, timeout=60, check=True, input=b"")
        check_guest(parse_report(done.stdout), report, kernel)


def test_a_disk_of_the_vm_is_not_written_over(disk: Path) -> None:
    load("-d", disk)
    before = disk.read_bytes()
    for option in ("--stub", "--export"):
        done = program("bhyverun", "--dry-run", option, disk, "vm", check=4)
        assert f"{disk}: is a disk of the VM" in done.messages
    assert disk.read_bytes() == before


def test_the_accelerator_is_one_that_works(disk: Path, kernel: Path) -> None:
    from bhyveload.handoff.kvm_probe import kvm_runs_kernels

    load("-d", disk)
    command = program("bhyverun", "--dry-run", "vm", check=0).out.decode()
    assert f"-accel {'kvm' if kvm_runs_kernels() else 'tcg'} " in command


def test_the_guest_s_console_is_bytes(disk: Path) -> None:
    """Nothing is added to what the guest says, nothing left away; the firmware is silent."""
    load("-d", disk, "-m", "64M")
    done = program("bhyverun", "--accel", "tcg", "vm", check=1)
    text = done.out.replace(b"\0", b"")
    assert text.startswith(b"probe=amd64\n") and text.endswith(b"probe=end\n")
    assert done.err == b""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "there is no VM 'nope'"),
        ([], "name the VM"),
        (["a", "b"], "one VM, not 2"),
        (["--cpus", "0", "vm"], "--cpus 0: must be a number from 1 to 255"),
        (["--accel", "hvf", "vm"], "must be one of auto, kvm, tcg"),
        (["--net", "tap", "vm"], "names no interface"),
        (["--timeout", "0", "vm"], "--timeout wants a number of seconds, not '0'"),
        (["--disk", "/nonexistent", "vm"], "/nonexistent: no such disk image"),
        (["--no-disk", "--disk", "/dev/null", "vm"], "exclude each other"),
        (["--bogus", "vm"], "illegal option -- bogus"),
    ],
)
def test_errors_of_bhyverun(words: list[str], message: str) -> None:
    done = program("bhyverun", *words, check=4)
    assert message in done.messages
    assert done.messages.startswith("bhyverun: ") and done.messages.count("\n") == 1


def test_a_vm_that_is_not_loaded(disk: Path) -> None:
    load("-d", disk, "-m", "64M")
    os.unlink(memory_file().with_name("state.json"))
    assert "holds no loaded guest" in program("bhyverun", "vm", check=4).messages


def test_qemu_s_refusal_is_told(disk: Path) -> None:
    load("-d", disk, "-m", "64M")
    done = program("bhyverun", "--accel", "tcg", "vm", "--", "-device", "nonsense", check=4)
    assert "nonsense" in done.messages and done.messages.count("\n") == 1


def test_a_disk_that_went_away(disk: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.img"
    shutil.copy(disk, copy)
    load("-d", copy, "-m", "64M")
    copy.unlink()
    assert "No such file or directory" in program("bhyverun", "--accel", "tcg", "vm", check=4).messages


def test_options_stand_on_both_sides_of_the_name(disk: Path) -> None:
    load("-d", disk)
    first = program("bhyverun", "--accel", "tcg", "-c", "3", "--dry-run", "vm", "--", "-name", "x", check=0)
    second = program("bhyverun", "--accel", "tcg", "vm", "-c3", "--dry-run", "--", "-name", "x", check=0)
    assert first.out == second.out and b"-smp 3 " in first.out and first.out.endswith(b" -name x\n")


def test_help_and_version() -> None:
    assert program("bhyverun", "--help", check=0).out.startswith(b"usage: bhyverun ")
    assert program("bhyverun", "--version", check=0).out.startswith(b"bhyverun (bhyveload) ")
    assert bhyveload("--version", check=0).out.startswith(b"bhyveload ")
