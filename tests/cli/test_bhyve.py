"""The program bhyve without a guest that runs: help, probes, dumps, complaints and their exit statuses."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from bhyveload.cli import bhyve as bhyve_program
from bhyveload.handoff.outcome import STOPPED, RunResult
from bhyveload.running.bhyve_run import BhyveEnd
from guest.build import parse_report
from support.bhyve_lines import LINES
from support.end_to_end import PROGRAMS, Finished, load, needs_qemu, program


def bhyve(*words: str | Path, status: int) -> Finished:
    return program("bhyve", *words, check=status)


def complaint(*words: str | Path, status: int = 4) -> list[str]:
    """The lines on standard error of a bhyve that must fail; nothing on standard output."""
    done = bhyve(*words, status=status)
    assert done.out == b""
    return done.messages.splitlines()


def test_help_and_usage() -> None:
    shown = bhyve("-h", status=0)
    assert shown.out == b"" and shown.messages.startswith("Usage: bhyve [-aCDeHhPSuWwxY]\n")
    assert complaint(status=1) == shown.messages.splitlines()
    assert complaint("one", "two", status=1)[0].startswith("Usage: ")
    assert complaint("-z", "vm", status=1)[:2] == ["bhyve: illegal option -- z", "Usage: bhyve [-aCDeHhPSuWwxY]"]
    assert complaint("-m", status=1)[0] == "bhyve: option requires an argument -- m"
    assert complaint("-r", "/x", "vm", status=1)[0] == "bhyve: illegal option -- r"
    assert complaint("--compat", "13.2", "-n", "id=0", "vm", status=1)[0] == "bhyve: illegal option -- n"


def test_lists() -> None:
    assert bhyve("-s", "help", status=0).out.split()[:3] == [b"ahci", b"ahci-hd", b"ahci-cd"]
    assert bhyve("-l", "help", status=0).out.split()[-2:] == [b"tpm", b"pc-testdev"]
    assert bhyve("-l", "help", "--compat", "13.2", status=0).out.split()[-2:] == [b"com4", b"pc-testdev"]


# What libvirt's bhyve_capabilities.c runs, and what on standard error would mean "it has not got that"
PROBES = [
    (["-s", "0,ahci"], 'pci slot 0:0: unknown device "ahci"'),
    (["-s", "0,e1000"], 'pci slot 0:0: unknown device "e1000"'),
    (["-s", "0,fbuf"], 'pci slot 0:0: unknown device "fbuf"'),
    (["-s", "0,xhci"], 'pci slot 0:0: unknown device "xhci"'),
    (["-s", "0,hda"], 'pci slot 0:0: unknown device "hda"'),
    (["-s", "0,fbuf,password="], 'Invalid fbuf emulation "password"'),
    (["-s", "0,virtio-9p"], 'pci slot 0:0: unknown device "virtio-9p"'),
    (["-s", "0,virtio-rnd"], 'pci slot 0:0: unknown device "virtio-rnd"'),
]


@pytest.mark.parametrize(("words", "absent"), PROBES)
def test_libvirts_probes_find_what_is_there(words: list[str], absent: str) -> None:
    assert absent not in "\n".join(complaint(*words, status=1))


def test_libvirts_probes_do_not_find_what_is_not_there() -> None:
    assert complaint("-l", "bootrom", status=64)[0].startswith("bhyve: invalid lpc device configuration 'bootrom'")
    assert complaint("-s", "0,virtio-scsi", status=1)[0] == 'pci slot 0:0: unknown device "virtio-scsi"'
    assert complaint("-s", "0,nosuch") == [
        'pci slot 0:0:0: unknown device "nosuch"',
        'pci slot 0:0: unknown device "nosuch"',
    ]
    shown = "\n".join(complaint("-h", status=0))
    assert "-u:" in shown and "-c vcpus" not in shown


def test_a_dump_touches_no_vm() -> None:
    done = bhyve(*LINES["manual-dump"].words, status=1)
    assert done.messages == ""
    assert done.out.splitlines()[-1] == b"name=vm0"
    assert not Path(os.environ["BHYVE_VMM_DIR"]).exists()


def test_a_dump_is_bytes() -> None:
    """What is no text in the user's locale comes out as it went in; C's locales of Python's are lenient anyway."""
    words: list[str | bytes] = ["-o", b"x=\xff y ", "-o", "\u00e9=1", "-o", "config.dump=1", "vm"]
    done = subprocess.run(
        [PROGRAMS / "bhyve", *words],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, b"")
    assert done.stdout.splitlines()[-4:] == [b"x=\xff y ", b"\xc3\xa9=1", b"config.dump=1", b"name=vm"]


def test_an_interrupt_ends_it_as_any_program(tmp_path: Path) -> None:
    """By the signal, without a word: a shell's loop around it ends, too.  It waits for its file, before any guest."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = subprocess.Popen(
        [PROGRAMS / "bhyve", "-k", fifo, "vm"],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - one call
    )
    with fifo.open("wb"):  # as soon as it reads
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (-signal.SIGINT, b"")


def test_a_dump_is_a_file_for_k(tmp_path: Path) -> None:
    first = bhyve("-c", "2", "-s", "3,virtio-rnd", "-o", "config.dump=1", "vm", status=1).out
    (tmp_path / "config").write_bytes(first)
    assert sorted(bhyve("-k", tmp_path / "config", status=1).out.splitlines()) == sorted(first.splitlines())


@pytest.mark.parametrize(
    ("words", "status", "lines"),
    [
        (["-c", "2,cores=2"], 4, ["bhyve: Topology (2 sockets, 2 cores, 1 threads) does not match 2 vCPUs"]),
        (["-m", "1X"], 64, ["bhyve: invalid memsize '1X'"]),
        (["-p", "0"], 64, ["invalid format: 0", "bhyve: invalid vcpu pinning configuration '0'"]),
        (["-s", "40,lpc"], 4, ['Invalid PCI slot info field "40,lpc"']),
        (["-s", "3,lpc", "-s", "3,lpc"], 4, ["pci slot 0:3:0 already occupied!"]),
        (["-o", "nothing"], 64, ["bhyve: invalid configuration option 'nothing'"]),
        (["-k", "/no/file"], 4, ["bhyve: Failed to open configuration file /no/file: No such file or directory"]),
        (["-o", "config.dump=maybe"], 4, ["bhyve: Invalid value maybe for boolean variable config.dump"]),
        (["--compat", "12.0"], 64, ["bhyve: --compat knows 13.2 and current, not '12.0'"]),
        (["--accel", "xen"], 64, ["bhyve: --accel xen: must be one of auto, kvm, tcg"]),
    ],
)
def test_complaints_come_before_the_vm_is_looked_for(words: list[str], status: int, lines: list[str]) -> None:
    assert complaint(*words, "no-such-vm", status=status) == lines


def test_a_vm_that_is_not_loaded() -> None:
    (line,) = complaint("vm1")
    assert line.startswith("bhyve: no bootrom was configured (there is no VM 'vm1': load one: bhyveload")
    assert complaint("--compat", "13.2", "vm1")[0].startswith("bhyve: virtual machine cannot be booted (")
    assert complaint("..")[0].startswith("bhyve: vm_openf: Invalid argument")
    assert not (Path(os.environ["BHYVE_VMM_DIR"]) / "vm1").exists()


def test_a_vm_directory_that_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BHYVE_VMM_DIR", "/proc/nowhere")
    assert complaint("vm1")[0].startswith("bhyve: vm_openf: /proc/nowhere: ")


def test_strings_of_others_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "config").write_bytes(b"pci.0.2.0.device=\x1b[31mred\nname=vm\n\x1b]0;x\n")
    assert complaint("-k", tmp_path / "config") == [
        f"bhyve: {tmp_path}/config line 3: invalid config option '\\x1b]0;x'"
    ]


@pytest.fixture
def loaded(probe_disk: Path) -> Path:
    load("-d", probe_disk, "-m", "64M", name="vm")
    return probe_disk


def test_memory_other_than_loaded(loaded: Path) -> None:
    done = bhyve("--dry-run", "-m", "1G", "vm", status=0)
    assert done.messages.splitlines()[0] == "bhyve: -m 1G: ignored, the VM was loaded with -m 64M"
    assert "-m 65536K" in done.out.decode()
    assert complaint("--dry-run", "--compat", "13.2", "-m", "1G", "vm")[0].startswith("Unable to setup memory (22)")
    assert bhyve("--dry-run", "vm", status=0).messages == ""  # the default is no wish
    assert bhyve("--dry-run", "-m", "64", "vm", status=0).messages == ""


def test_a_dry_run_prints_the_command(loaded: Path) -> None:
    out = bhyve("--dry-run", "--accel", "tcg", "-s", f"0:4:0,virtio-blk,{loaded}", "-c", "2", "vm", status=0).out
    command = shlex.split(out.decode())
    assert command[0] == "qemu-system-x86_64"
    assert command[command.index("-smp") + 1] == "cpus=2,sockets=2,cores=1,threads=1"
    assert any(word.startswith("virtio-blk-pci,id=pci0.4.0,addr=0x4.0x0") for word in command)
    assert command[command.index("-cpu") + 1] == "max"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["-s", "3,virtio-blk,/no/disk"], "bhyve: Could not open backing file: /no/disk: No such file or directory"),
        (["-s", "3,virtio-net,tap4093"], "open of tap device /dev/tap4093 failed"),
        (["-s", "1,lpc", "-l", "com1,/no/tty"], "Unable to initialize backend '/no/tty' for LPC device com1"),
        (["-U", "x"], "Invalid UUID (-U x)"),
        (["-c", "256"], "256 vCPUs requested but only 255 available"),
        (["-s", "7,passthru,3/0/0"], "passthru requires guest memory to be wired"),
        (["-S", "-s", "7,passthru,3/0/0"], "bhyve: -S: no effect, the VM was loaded without it"),
        (["-l", "bootrom,/f.fd"], "bhyve: a boot ROM is not possible here (QEMU on Linux)"),
        (["-n", "id=0"], "bhyve: -n is not possible for a VM that bhyveload has loaded"),
        (["-l", "tpm,swtpm,/s"], "bhyve: -l tpm is not possible here (QEMU on Linux)"),
        (["-s", "3,virtio-net,vale0:x"], "bhyve: pci slot 0:3:0: virtio-net on vale is not possible here"),
    ],
)
def test_starts_that_fail(loaded: Path, words: list[str], line: str) -> None:
    assert complaint("--accel", "tcg", *words, "vm")[0].startswith(line)


def test_a_vm_that_somebody_uses(loaded: Path) -> None:
    from bhyveload.vm.store import VirtualMachine

    with VirtualMachine.open("vm"):
        (line,) = complaint("vm", status=71)
    assert line.startswith("bhyve: could not activate CPU 0: Device busy (VM 'vm' is in use")


@needs_qemu
def test_which_accelerator_is_said_once(loaded: Path) -> None:
    done = bhyve("-s", "31,lpc", "-l", "com1,stdio", "vm", status=1)
    first, *more = done.messages.splitlines()
    assert first.startswith("bhyve: the guest runs on ")
    assert [line for line in more if "runs on" in line] == []
    assert parse_report(done.out)["howto"]


@needs_qemu
def test_the_machine_that_the_guest_finds(loaded: Path) -> None:
    """Slots, functions and identities of a real command line, as the guest sees them from inside."""
    words = (
        f"-s 0,hostbridge -s 31,lpc -s 1:0,virtio-rnd -s 0:4:0,virtio-blk,{loaded} -s 5:0,virtio-net -s 5:3,virtio-rnd"
    )
    words += f" -s 1:9:0,ahci,hd:{loaded} -s 16,e1000,slirp -u -l com1,stdio -c 2 -AHPw --accel tcg vm"
    done = program("bhyve", *words.split(), check=1)
    places = [
        value.split(",") for key, value in parse_report(done.out).items() if key.startswith("pci.") and "," in value
    ]
    found = {place: f"{vendor}:{kind}" for place, vendor, kind, *_ in places}
    assert found["1.4"] == "1af4:1005"
    assert found["4.0"] == "1af4:1001"
    assert (found["5.0"], found["5.3"]) == ("1af4:1000", "1af4:1005")
    assert found["10.0"] == "8086:100f"
    assert "1b36:1" in found.values()  # the bridge to bus 1


def test_no_start_that_fails_looks_like_an_end(loaded: Path) -> None:
    """QEMU is not there, or dies: 4, as for every other error."""
    environment = {**os.environ, "PATH": "/nonexistent"}
    done = subprocess.run(
        [PROGRAMS / "bhyve", "--accel", "tcg", "vm"], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 4
    assert b"qemu-system-x86_64 is not installed" in done.stderr


def test_a_qemu_that_just_ends_is_an_error(loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does when somebody ends it before it can say why; 1 would be a guest that has powered off."""
    end = BhyveEnd(RunResult(STOPPED, 0.1, ""), 0)
    monkeypatch.setattr("bhyveload.running.bhyve_run.run_bhyve_guest", lambda *_, **__: end)
    monkeypatch.setattr("sys.argv", ["bhyve", "--accel", "tcg", "vm"])
    assert bhyve_program.main() == 4


def test_a_file_that_looks_like_something_else(loaded: Path, tmp_path: Path) -> None:
    """It is raw for bhyve; who meant something else is told."""
    (tmp_path / "disk").write_bytes(b"QFI\xfb" + bytes(508))
    done = bhyve("--dry-run", "-s", f"2,virtio-blk,{tmp_path}/disk", "-s", f"3,virtio-blk,{loaded}", "vm", status=0)
    assert done.messages.splitlines() == [
        f"bhyve: {tmp_path}/disk: looks like qcow2, is taken as raw: only what bhyveload was given is not"
    ]
    assert b"-blockdev driver=raw" in done.out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("-x --accel tcg", "-x: no effect under QEMU's translator, which decides itself about x2APIC"),
        ("-a --accel tcg", None),
        ("-x --accel kvm", None),
        ("-K zz", "-K zz: no effect, QEMU has no such layout"),
        ("-K de_noacc", None),
        ("-e", "-e: no effect here, QEMU ignores I/O ports that are not there"),
        ("-f opt/x,string=y", "-f: no effect, only boot ROMs look there"),
        ("-s 2,ahci-cd,ODD,nocache", "ODD: nocache: no effect for a file of that size, or there"),
        ("-o lpc.bootvars=/x", "lpc.bootvars is deprecated, use '-o bootvars' instead"),
        ("-w -W -Y -A -I -H -P", None),
    ],
)
def test_what_has_no_effect_is_said(loaded: Path, tmp_path: Path, words: str, line: str | None) -> None:
    (tmp_path / "odd").write_bytes(bytes(8704))
    done = bhyve("--dry-run", *words.replace("ODD", f"{tmp_path}/odd").split(), "vm", status=0)
    told = [text.replace(f"{tmp_path}/odd", "ODD") for text in done.messages.splitlines()]
    assert told == ([] if line is None else [f"bhyve: {line}"])


def test_a_name_that_begins_with_a_dash(probe_disk: Path) -> None:
    load("-d", probe_disk, "-m", "64M", "--", name="-dash")
    assert b"guest=-dash" in bhyve("--dry-run", "--accel", "tcg", "--", "-dash", status=0).out
