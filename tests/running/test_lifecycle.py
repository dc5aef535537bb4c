"""A guest that runs, managed by its name: bhyvectl beside bhyverun, consoles, overlays, the background."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bhyveload.cli.bhyverun import bhyverun
from bhyveload.errors import HandoffError
from bhyveload.vm.store import VirtualMachine
from guest.build import parse_report
from support.end_to_end import MIB, PROGRAMS, load, needs_gcc, needs_qemu, program, run_guest

pytestmark = [needs_qemu, needs_gcc]
LIMIT = 30.0


@pytest.fixture
def disk(tmp_path: Path, probe_disk: Path) -> Path:
    """A copy that may be written to."""
    path = tmp_path / "disk.img"
    shutil.copy(probe_disk, path)
    return path


@pytest.fixture
def spinning(disk: Path) -> Path:
    """The VM "vm", whose guest does not end by itself."""
    load("-d", disk, "-m", "64M", "-e", "probe.end=spin")
    return disk


def vm_folder(name: str = "vm") -> Path:
    return Path(os.environ["BHYVE_VMM_DIR"]) / name


def until(found: Callable[[], object], what: str = "") -> None:
    end = time.monotonic() + LIMIT
    while not found():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@contextlib.contextmanager
def running(*words: str | Path, name: str = "vm") -> Iterator[subprocess.Popen[bytes]]:
    """bhyverun at work, its guest having said all that it says."""
    command = [str(PROGRAMS / "bhyverun"), "--accel", "tcg", "--timeout", "60", *map(str, words), name]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            while b"probe=end" not in (line := process.stdout.readline()):
                assert line, process.stderr.read() if process.stderr else b""
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGQUIT)
            process.wait(20)


def machines() -> dict[str, dict[str, object]]:
    return {entry["name"]: entry for entry in program("bhyvectl", "--list", "--json", check=0).json["machines"]}


def is_running(name: str = "vm") -> bool:
    return machines()[name]["state"] == "running"


@pytest.mark.parametrize(("action", "status"), [("--destroy", 4), ("--force-poweroff", 1), ("--force-reset", 0)])
def test_a_running_guest_is_ended_by_its_name(spinning: Path, action: str, status: int) -> None:
    with running() as process:
        assert (vm_folder() / "control").stat().st_mode & 0o777 == 0o600
        program("bhyvectl", "--vm=vm", action, check=0)
        assert process.wait(10) == status
    if action == "--destroy":
        assert not vm_folder().exists()
    else:
        assert machines()["vm"]["state"] == "loaded"
        assert not (vm_folder() / "control").exists()
        load("-d", spinning, "-m", "64M")  # the next round finds disk and VM free
        assert run_guest()["probe"] == "end"


@pytest.mark.parametrize(
    ("holder", "action", "status"),
    [
        ("bhyve", "--destroy", 0),
        ("bhyve", "--force-poweroff", 0),
        ("bhyveload", "--destroy", 75),
        ("bhyveload", "--force-poweroff", 0),
    ],
)
def test_who_only_starts_is_waited_for(
    disk: Path, monkeypatch: pytest.MonkeyPatch, holder: str, action: str, status: int
) -> None:
    """A runner has the VM for a while before it can be spoken to; a loader is not waited for."""
    load("-d", disk, "-m", "64M")
    monkeypatch.setattr(sys, "argv", [f"/x/{holder}"])
    with VirtualMachine.open("vm"):
        asker = subprocess.Popen(
            [PROGRAMS / "bhyvectl", "--vm=vm", action], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if holder == "bhyveload":
            out, said = asker.communicate(timeout=60)
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                asker.wait(1.5)
            assert asker.poll() is None, asker.communicate()
    if holder == "bhyve":
        out, said = asker.communicate(timeout=60)
    assert (asker.returncode, out) == (status, "")
    assert ("in use by process" in said) is (status != 0)


def test_an_interrupt_that_nobody_masks(spinning: Path) -> None:
    """The probe guest has no table of interrupts: that is a triple fault."""
    with running() as process:
        program("bhyvectl", "--vm=vm", "--inject-nmi", check=0)
        assert process.wait(20) == 3
    program("bhyvectl", "--vm=vm", "--inject-nmi", check=0)  # nobody runs: nothing happens


def test_the_list_says_what_runs(spinning: Path) -> None:
    before = int(time.time())
    assert machines()["vm"]["state"] == "loaded"
    with running("--cpus", "2", "--console", "stdio") as process:
        entry = machines()["vm"]
        assert (entry["state"], entry["pid"], entry["console"]) == ("running", process.pid, "stdio")
        assert before <= int(str(entry["since"])) <= time.time()
        assert entry["disks"] == [{"path": str(spinning), "read_only": False}]
        assert entry["memory"] == {"low": 64 * MIB, "high": 0}
        stats = program("bhyvectl", "--vm=vm", "--get-stats", check=0).out.decode().splitlines()
        assert stats[0] == "vcpu0 stats:"
        assert int(next(line for line in stats if line.startswith("Resident memory")).split()[-1]) > MIB
        assert stats[1][40] == "\t"
        assert program("bhyvectl", "--vm=vm", "--get-active-cpus", check=0).out == b"active cpus:\t 0, 1\n"
        words = ("--get-debug-cpus", "--get-suspended-cpus")
        done = program("bhyvectl", "--vm=vm", *words, check=0)
        assert done.out == b"debug cpus:\t (none)\nsuspended cpus:\t (none)\n"
        assert b"rip[0]" in program("bhyvectl", "--vm=vm", "--get-all", check=0).out
        done = program("bhyverun", "vm", check=4)
        assert f"in use by process {process.pid}" in done.messages


def test_a_disk_that_another_guest_writes_to(spinning: Path) -> None:
    load("-d", spinning, "-m", "64M", name="other")
    with running() as process:
        for words in ([], ["--snapshot"]):
            done = program("bhyverun", "--accel", "tcg", *words, "other", check=4)
            assert done.messages == f"bhyverun: {spinning}: is in use by another program (is it a running guest's?)\n"
        # what is meant for the group of the runner (timeout(1), a shell) does not end QEMU beside it
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert all(os.getpgid(int(child)) != os.getpgid(process.pid) for child in children)


def test_a_log_without_room(spinning: Path) -> None:
    done = program("bhyverun", "--accel", "tcg", "--timeout", "4", "--log", "/dev/full", "vm", check=124)
    assert "bhyverun: --log /dev/full: No space left on device: nothing more is written there\n" in done.messages
    assert done.messages.count("--log") == 1


def test_a_stale_socket_is_nobody(spinning: Path) -> None:
    """The runner was killed: QEMU goes with it, and what it left behind is in nobody's way."""
    with running() as process:
        (qemu,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
        process.wait()
        until(lambda: not Path(f"/proc/{qemu}").exists(), "QEMU lives on")
    assert (vm_folder() / "control").exists()
    assert machines()["vm"]["state"] == "loaded"
    with running() as process:
        assert is_running()
        program("bhyvectl", "--vm=vm", "--destroy", check=0)
        assert process.wait(10) == 4
    with running_again(spinning):
        pass


@contextlib.contextmanager
def running_again(disk: Path) -> Iterator[None]:
    load("-d", disk, "-m", "64M")
    assert run_guest()["probe"] == "end"
    yield


def test_a_runner_that_hangs_is_no_obstacle(spinning: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as process:
        process.send_signal(signal.SIGSTOP)
        program("bhyvectl", "--vm=vm", "--destroy", check=0, timeout=60)
        assert process.wait(10) == -signal.SIGKILL
    assert not vm_folder().exists()


def test_what_is_no_command_is_refused(spinning: Path) -> None:
    with running():
        for line in (b"nonsense\n", b'{"command": "no"}\n', b"[]\n", b"[" * 3000 + b"\n"):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(str(vm_folder() / "control"))
                client.sendall(line)
                assert json.loads(client.recv(1000)) == {"ok": False, "error": "not a command"}
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(vm_folder() / "control"))
            with contextlib.suppress(ConnectionError):
                client.sendall(b"x" * 100000)
                assert client.recv(10) == b""
        assert is_running()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_other_users_are_sent_away(spinning: Path) -> None:
    with running():
        folder = vm_folder()
        paths = [folder, *folder.parents]
        modes = [(path, path.stat().st_mode) for path in paths]
        control = folder / "control"
        for path, mode in modes:
            path.chmod(mode & 0o7777 | 0o011)
        control.chmod(0o666)
        code = (
            "import os, socket, sys; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
            's.connect(sys.argv[1]); s.sendall(b\'{"command": "destroy"}\\n\'); print(s.recv(100))'
        )
        done = subprocess.run(
            [shutil.which("python3") or "python3", "-c", code, str(control)],
            capture_output=True,
            text=True,
            check=False,
        )
        for path, mode in modes:
            path.chmod(mode & 0o7777)
        assert done.stdout in ("", "b''\n")
        assert is_running()


# Disks


def test_what_the_guest_writes_is_thrown_away(spinning: Path) -> None:
    with running("--snapshot", "--console", "stdio") as process:
        (qemu,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        modes: dict[str, set[int]] = {}
        for entry in os.scandir(f"/proc/{qemu}/fd"):
            flags = Path(f"/proc/{qemu}/fdinfo/{entry.name}").read_text()
            modes.setdefault(os.readlink(entry.path), set()).add(int(flags.split("flags:")[1].split()[0], 8) & 3)
        assert modes[str(spinning)] == {os.O_RDONLY}


def test_qemu_s_own_snapshot_is_refused(spinning: Path) -> None:
    done = program("bhyverun", "vm", "--", "-snapshot", check=4)
    assert "no effect on these disks" in done.messages and "--snapshot" in done.messages


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_an_overlay_is_made_and_used_again(disk: Path, tmp_path: Path) -> None:
    before = disk.read_bytes()
    load("-d", disk, "-m", "64M")
    overlay = tmp_path / "over,lay.qcow2"
    assert run_guest("--overlay", overlay)["probe"] == "end"
    subprocess.run(["qemu-img", "check", str(overlay)], check=True, capture_output=True)
    text = subprocess.run(["qemu-img", "info", str(overlay)], check=True, capture_output=True, text=True).stdout
    assert f"backing file: {disk}" in text
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 512", str(overlay)], check=True, capture_output=True)
    assert run_guest("--overlay", overlay)["probe"] == "end"
    assert disk.read_bytes() == before
    other = tmp_path / "other.img"
    shutil.copy(disk, other)
    done = program("bhyverun", "--accel", "tcg", "-d", other, "--overlay", overlay, "vm", check=4)
    assert f"stands on {disk}, not on {other}" in done.messages
    done = program("bhyverun", "--accel", "tcg", "--overlay", tmp_path / "no" / "x", "vm", check=4)
    assert "No such file" in done.messages
    twice = tmp_path / "twice.qcow2"
    program("bhyverun", "--accel", "tcg", "--overlay", twice, "--dry-run", "vm", check=0)
    assert not twice.exists()
    program("bhyverun", "--accel", "tcg", "--overlay", twice, "--dry-run", "--stub", tmp_path / "stub", "vm", check=0)
    assert twice.exists()
    assert "2 overlays for 1 disks" in program("bhyverun", "--overlay", "a", "--overlay", "b", "vm", check=4).messages


def test_a_disk_that_was_written_to_below_an_overlay(disk: Path, tmp_path: Path) -> None:
    load("-d", disk, "-m", "64M")
    overlay = tmp_path / "overlay"
    words = ("--accel", "tcg", "--timeout", "60", "--overlay", overlay, "vm")
    assert not program("bhyverun", *words, check=1).messages  # made
    assert not program("bhyverun", *words, check=1).messages  # used again
    later = overlay.stat().st_mtime_ns + 1
    os.utime(disk, ns=(later, later))
    warning = f"bhyverun: {disk}: was written to after {overlay}: what is in that may not fit it any more\n"
    assert program("bhyverun", *words, check=1).messages == warning


def test_a_disk_beside_the_loaded_ones(spinning: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(bytes(MIB))
    with running("--add-disk", other):
        assert [disk["path"] for disk in machines()["vm"]["disks"]] == [str(spinning), str(other)]  # type: ignore[attr-defined]


def test_a_disk_that_is_there_already(spinning: Path) -> None:
    done = program("bhyverun", "--accel", "tcg", "--add-disk", spinning, "vm", check=4)
    assert f"{spinning}: is the same disk as {spinning}" in done.messages


def test_nobody_takes_what_the_guest_says(disk: Path) -> None:
    """Its end waits for a slow reader, and not for ever: Ctrl-C counts."""
    load("-d", disk, "-m", "64M")
    command = [str(PROGRAMS / "bhyverun"), "--accel", "tcg", "vm"]
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 65536)
    os.set_blocking(write, True)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.DEVNULL) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(5)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    os.close(read)
    os.close(write)


def test_a_shared_folder(spinning: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    with running("--share", f"{folder},tag=here,ro"):
        assert is_running()
    assert "no such folder" in program("bhyverun", "--share", tmp_path / "gone", "vm", check=4).messages


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(HandoffError, match=re.escape(f"--share {tmp_path}: Permission denied")):
        bhyverun("bhyverun", ["--share", str(tmp_path), "vm"])


def test_names_that_begin_with_a_dash(disk: Path) -> None:
    load("-d", disk, "-m", "64M", "--", name="-dash")
    done = program("bhyverun", "--accel", "tcg", "--", "-dash", check=1)
    assert parse_report(done.out)["probe"] == "end"
    done = program("bhyverun", "--accel", "tcg", "--vm", "-dash", "--", "-name", "x", check=1)
    assert parse_report(done.out)["probe"] == "end"
    program("bhyvectl", "--vm=-dash", "--destroy", check=0)


# Consoles


def read_until(fd: int, words: bytes) -> bytes:
    found = b""
    end = time.monotonic() + LIMIT
    readable = select.poll()  # select(2) knows no descriptors above 1023
    readable.register(fd, select.POLLIN)
    while words not in found:
        assert time.monotonic() < end, found
        if readable.poll(200):
            found += os.read(fd, 4096)
    return found


def start(*words: str | Path) -> subprocess.Popen[bytes]:
    command = [str(PROGRAMS / "bhyverun"), "--accel", "tcg", "--timeout", "60", *map(str, words), "vm"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_the_console_is_logged_and_on_standard_output(disk: Path, tmp_path: Path) -> None:
    load("-d", disk, "-m", "64M")
    log = tmp_path / "log"
    done = program("bhyverun", "--accel", "tcg", "--log", log, "vm", check=1)
    assert log.read_bytes() == done.out
    program("bhyverun", "--accel", "tcg", "--console", "none", "--log", log, "vm", check=1)
    assert log.read_bytes() == 2 * done.out  # appended
    assert log.stat().st_mode & 0o777 == 0o600
    file = tmp_path / "file"
    assert program("bhyverun", "--accel", "tcg", "--console", file, "vm", check=1).out == b""
    assert file.read_bytes() == done.out


def test_the_console_is_a_pseudo_terminal(spinning: Path) -> None:
    with start("--console", "pty") as process:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        assert "the console is /dev/pts/" in line
        path = line.split()[-1]
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        read_until(fd, b"probe=end")
        os.close(fd)
        assert machines()["vm"]["console"] == path
        program("bhyvectl", "--vm=vm", "--destroy", check=0)


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_the_console_is_a_socket(spinning: Path, tmp_path: Path, kind: str) -> None:
    where = f"unix:{tmp_path}/c" if kind == "unix" else "tcp:0"
    with start("--console", where) as process:
        until(lambda: (vm_folder() / "control").exists() and is_running())
        place = str(machines()["vm"]["console"])
        if kind == "unix":
            client = socket.socket(socket.AF_UNIX)
            client.connect(f"{tmp_path}/c")
            assert Path(f"{tmp_path}/c").stat().st_mode & 0o777 == 0o600
        else:
            client = socket.create_connection(("127.0.0.1", int(place.rpartition(":")[2])))
        with client:
            read_until(client.fileno(), b"probe=end")
        program("bhyvectl", "--vm=vm", "--force-poweroff", check=0)
        assert process.wait(10) == 1
    assert not Path(f"{tmp_path}/c").exists()


def test_a_socket_that_somebody_serves_is_not_taken(spinning: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{tmp_path}/c")
        other.listen()
        done = program("bhyverun", "--accel", "tcg", "--console", f"unix:{tmp_path}/c", "vm", check=4)
        assert f"--console unix:{tmp_path}/c: another program listens there" in done.messages
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/c")


def test_attaching_to_the_console(spinning: Path) -> None:
    """bhyvectl --console on a terminal of its own: hears the guest, leaves by its key; the guest goes on."""
    with start("--console", "none") as process:
        until(lambda: (vm_folder() / "control").exists() and is_running())
        pid, fd = pty.fork()
        if pid == 0:
            os.execv(PROGRAMS / "bhyvectl", ["bhyvectl", "--vm=vm", "--console"])
        read_until(fd, b"probe=end")
        os.write(fd, b"\1x")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        os.close(fd)
        assert process.poll() is None and is_running()
        program("bhyvectl", "--vm=vm", "--destroy", check=0)
        assert process.wait(10) == 4


@contextlib.contextmanager
def bhyve(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A bhyve at work in the VM "vm"."""
    command = [str(PROGRAMS / "bhyve"), "-s", "0,hostbridge", *words, "--accel", "tcg", "--timeout", "60", "vm"]
    nothing = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing) as process:
        try:
            until(is_running)
            yield process
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(20)


def test_the_console_of_a_bhyve_that_has_none(spinning: Path) -> None:
    """Its first serial port leads nowhere, as FreeBSD's; bhyvectl may be there."""
    with bhyve("-s", "1,lpc"):
        command = [str(PROGRAMS / "bhyvectl"), "--vm=vm", "--console"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as console:
            assert console.stdout is not None
            while b"probe=end" not in (line := console.stdout.readline()):
                assert line
            console.kill()


def test_a_console_that_is_elsewhere_is_named(spinning: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BHYVE_NMDM_DIR", str(tmp_path / "nmdm"))
    port = free_port()
    for words, where in (
        (("-s", "1,lpc", "-l", f"com1,tcp=127.0.0.1:{port}"), f"tcp:127.0.0.1:{port}"),
        (("-s", "1,lpc", "-l", "com1,/dev/nmdm7A"), f"/dev/nmdm7A, its other end {tmp_path}/nmdm/nmdm7B"),
    ):
        with bhyve(*words):
            done = program("bhyvectl", "--vm=vm", "--console", check=71)
            assert done.messages == f"{REFUSES}the guest's console is {where}\n"
            assert machines()["vm"]["console"] == where.partition(",")[0]
    for lock in (tmp_path / "nmdm").glob("*.lock"):
        os.kill(int(lock.read_text()), signal.SIGTERM)
    with bhyve():
        done = program("bhyvectl", "--vm=vm", "--console", check=71)
        assert done.messages == f"{REFUSES}the guest has no serial port: bhyve -s 31,lpc gives it some\n"


def test_the_escape_key_is_the_user_s(spinning: Path) -> None:
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(PROGRAMS / "bhyverun", ["bhyverun", "--accel", "tcg", "--escape", "^]", "vm"])
    read_until(fd, b"probe=end")
    os.write(fd, b"\1x\x1dh")
    assert b"Ctrl-] x  end the run" in read_until(fd, b"the key")
    os.write(fd, b"\x1dx")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    os.close(fd)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT])
def test_the_terminal_is_as_before(spinning: Path, number: int) -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    command = [str(PROGRAMS / "bhyverun"), "--accel", "tcg", "vm"]
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as process:
        read_until(master, b"probe=end")
        assert not termios.tcgetattr(slave)[3] & termios.ICANON
        process.send_signal(number)
        if number == signal.SIGTERM:
            time.sleep(0.2)
            process.send_signal(number)
        process.wait(20)
    until(lambda: termios.tcgetattr(slave) == before, "still raw")
    os.close(master)
    os.close(slave)


def test_started_in_the_background_of_a_shell(spinning: Path, tmp_path: Path) -> None:
    """Job control: a background job is not stopped for the terminal; in the foreground it has it."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve("/bin/bash", ["bash", "--norc", "--noediting", "-i"], {**os.environ, "PS1": "READY> "})
    read_until(fd, b"READY> ")
    os.write(fd, f"{PROGRAMS}/bhyverun --accel tcg vm &\n".encode())
    found = read_until(fd, b"probe=end")
    os.write(fd, b"jobs; echo DO''NE\n")
    found += read_until(fd, b"DONE\r\nREADY> ")  # a prompt left over would be taken for the one after the job
    assert b"Running" in found and b"Stopped" not in found
    os.write(fd, b"fg\n")
    until(lambda: not termios.tcgetattr(fd)[3] & termios.ICANON, "fg does not make it raw")
    os.kill(int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]), signal.SIGTSTP)
    read_until(fd, b"READY> ")
    os.write(fd, b"bg\n")
    read_until(fd, b"READY> ")
    os.write(fd, b"echo typed; jobs; echo DO''NE\n")
    assert b"Running" in read_until(fd, b"DONE\r\nREADY> ")
    os.write(fd, b"fg\n")
    until(lambda: not termios.tcgetattr(fd)[3] & termios.ICANON, "fg does not make it raw")
    os.write(fd, b"\1x")
    read_until(fd, b"READY> ")
    os.write(fd, b"stty -a; exit\n")
    assert b"-icanon" not in read_until(fd, b"icanon")
    os.waitpid(pid, 0)
    os.close(fd)


# The background, again and again, the network


def test_in_the_background(spinning: Path, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    words = ("--accel", "tcg", "--daemon", "--pid-file", pid_file, "--log", tmp_path / "log", "--timeout", "60")
    program("bhyverun", *words, "vm", check=0)
    pid = int(pid_file.read_text())
    assert machines()["vm"]["pid"] == pid
    until(lambda: b"probe=end" in (tmp_path / "log").read_bytes())
    program("bhyvectl", "--vm=vm", "--force-poweroff", check=0)
    until(lambda: not Path(f"/proc/{pid}").exists())
    assert not pid_file.exists()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


REFUSES = "bhyvectl: the program that runs the guest refuses: "


def not_saved(folder: Path, name: str = "vm") -> str:
    """Why a guest is not saved: one line, and it runs on."""
    done = program("bhyvectl", f"--vm={name}", f"--save={folder}", check=71)
    assert done.messages.startswith(REFUSES) and done.messages.count("\n") == 1
    assert is_running(name) and not folder.exists()
    return done.messages[len(REFUSES) : -1]


def test_a_guest_that_waits_for_its_debugger_is_in_the_background(spinning: Path, tmp_path: Path) -> None:
    """Who starts it is to start the debugger next."""
    words = ("--accel", "tcg", "--timeout", "60", "--daemon", "--gdb", str(free_port()))
    program("bhyverun", *words, "vm", timeout=30, check=0)
    reason = "a guest under a debugger cannot be saved: run it without --gdb"
    assert not_saved(tmp_path / "saved") == reason
    program("bhyvectl", "--vm=vm", "--destroy", check=0)


def test_who_cannot_be_saved_is_told_why(spinning: Path, tmp_path: Path) -> None:
    saved, refused = tmp_path / "saved", tmp_path / "refused"
    user_data = tmp_path / "user-data"
    user_data.write_text("#cloud-config\n")
    daemon = ("--accel", "tcg", "--timeout", "60", "--daemon")
    program("bhyverun", *daemon, "--seed", user_data, "vm", check=0)
    assert not_saved(refused).startswith("a disk that was made for the run (--seed, --copy-in) cannot be saved")
    program("bhyvectl", "--vm=vm", "--force-poweroff", check=0)
    until(lambda: not is_running())
    line = ["-s", "0,hostbridge", "-s", "1,lpc", "-l", "com1,stdio", "--accel", "tcg", "vm"]
    with subprocess.Popen(
        [str(PROGRAMS / "bhyve"), *line], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        until(is_running)
        assert not_saved(refused) == "a guest that bhyve runs cannot be saved: run it with bhyverun"
        program("bhyvectl", "--vm=vm", "--destroy", check=0)
        assert process.wait(20) == 4
    load("-d", spinning, "-m", "64M", "-e", "probe.end=spin")
    program("bhyverun", *daemon, "--save", saved, "vm", check=0)
    program("bhyvectl", "--vm=vm", "--save", check=0)
    program("bhyverun", "--timeout", "60", "--daemon", "--restore", saved, "clone", check=0)
    assert not_saved(refused, "clone").startswith("a clone cannot be saved: ")
    program("bhyvectl", "--vm=clone", "--destroy", check=0)


def test_into_the_background_without_a_standard_error(spinning: Path) -> None:
    command = [str(PROGRAMS / "bhyverun"), "--accel", "tcg", "--timeout", "60", "--daemon", "vm"]
    subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], check=True, timeout=60)
    program("bhyvectl", "--vm=vm", "--destroy", check=0)


def test_an_interrupt_on_the_way_to_the_background(disk: Path, tmp_path: Path) -> None:
    """A clone of a saved guest whose --on-restore never ends is not in the background yet."""
    load("-d", disk, "-m", "64M", "-e", "probe.end=spin")
    daemon = ("--accel", "tcg", "--timeout", "60", "--daemon")
    program("bhyverun", *daemon, "--save", tmp_path / "saved", "vm", check=0)
    program("bhyvectl", "--vm=vm", "--save", check=0)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    words = [
        "--daemon",
        "--password-file",
        str(fifo),
        "--on-restore",
        "true",
        "--restore",
        str(tmp_path / "saved"),
        "vm2",
    ]
    with subprocess.Popen([str(PROGRAMS / "bhyverun"), *words], stderr=subprocess.PIPE) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until(lambda: children.read_text().split())
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_a_console_without_room(disk: Path) -> None:
    load("-d", disk, "-m", "64M")
    for words in (
        ["bhyverun", "--accel", "tcg", "--timeout", "60", "vm"],
        ["bhyve", "-s", "0,hostbridge", "-s", "1,lpc", "-l", "com1,stdio", "--accel", "tcg", "vm"],
    ):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [PROGRAMS / words[0], *words[1:]],
                stdin=subprocess.DEVNULL,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
            )
        reason = f"{words[0]}: standard output: No space left on device: no more of the console is written there\n"
        assert (done.returncode, done.stderr.splitlines(keepends=True)[-1]) == (1, reason)


def test_errors_on_the_way_to_the_background(spinning: Path) -> None:
    done = program("bhyverun", "--accel", "tcg", "--daemon", "vm", "--", "-device", "nonsense", check=4)
    assert "nonsense" in done.messages
    done = program("bhyverun", "--daemon", "--console", "stdio", "vm", check=4)
    assert "bhyvectl --vm=NAME --console" in done.messages


@pytest.mark.parametrize("option", ["--console", "--log"])
def test_a_fifo_that_nobody_reads(disk: Path, tmp_path: Path, option: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    load("-d", disk, "-m", "64M")
    done = program("bhyverun", "--accel", "tcg", option, tmp_path / "fifo", "vm", check=4, timeout=30)
    assert f"{option} {tmp_path / 'fifo'}: No such device or address" in done.messages


def test_text_in_front_of_the_guest_s_end(disk: Path) -> None:
    """It counts, also where the guest has powered off before QEMU can be ended for it."""
    load("-d", disk, "-m", "64M")
    program("bhyverun", "--accel", "tcg", "--expect", "^end=poweroff$", "vm", check=0, timeout=60)
    done = program("bhyverun", "--accel", "tcg", "--fail-on", "^end=power", "vm", check=3, timeout=60)
    assert "shows what --fail-on names: ^end=power" in done.messages


def test_a_service_manager_is_told(spinning: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with running("--console", "stdio"):
            assert manager.recv(100) == b"READY=1"


def test_a_guest_that_reboots_is_loaded_again(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was first, from the disk as it is now; not for ever."""
    monkeypatch.chdir(tmp_path)
    load("-d", disk.name, "-m", "64M", "-e", "probe.end=reboot")
    done = program("bhyverun", "--accel", "tcg", "--restart", "vm", check=4, timeout=180)
    assert done.out.count(b"\nend=reboot\n") == 11
    assert "rebooted 11 times within a minute" in done.messages
    load("-d", disk.name, "-m", "64M")
    program("bhyverun", "--accel", "tcg", "--restart", "vm", check=1)


def test_ports_of_the_host(spinning: Path) -> None:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        port = any_port.getsockname()[1]
    with (
        running("--net", "user,mac=02:00:00:00:00:01", "--ssh", str(port)),
        socket.create_connection(("127.0.0.1", port), timeout=5),
    ):
        pass
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        done = program("bhyverun", "--accel", "tcg", "--ssh", str(port), "vm", check=4)
        assert str(port) in done.messages and done.messages.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--net", "vmnet"], "must be one of none, user, tap"),
        (["--net", "tap,nosuchtap0"], "nosuchtap0: no such interface"),
        (["--net", "tap,lo"], "lo: not a tap interface"),
        (["--net", "tap"], "names no interface"),
        (["--net", "tap,a/b"], "cannot be an interface's name"),
        (["--net", "user,mac=01:00:00:00:00:00"], "no address for a network card"),
        (["--net", "user,model=ne2k"], "is not understood"),
        (["--net", "user,hostfwd=tcp::99999-:22"], "'99999' is no port number"),
        (["--net", "user,hostfwd=tcp:localhost:1-:22"], "'localhost' is no IPv4 address"),
        (["--net", "user,hostfwd=sctp:1-:22"], "is not understood"),
        (["--net", "tap,tap0", "--ssh", "2222"], "--ssh needs the user network"),
        (["--ssh", "0"], "'0' is no port number"),
        (["--console", "tcp:x"], "'x' is no port number"),
        (["--console", ""], "must be stdio, pty"),
        (["--escape", "Ctrl-1"], "must be a key"),
        (["--share", "/tmp,tag="], "a tag has 1 to 31 characters"),
        (["--snapshot", "--overlay", "x"], "exclude each other"),
        (["--add-disk", "/nonexistent"], "no such disk image"),
    ],
)
def test_one_line_for_what_cannot_be(spinning: Path, words: list[str], message: str) -> None:
    done = program("bhyverun", "--accel", "tcg", *words, "vm", check=4)
    assert message in done.messages and done.messages.count("\n") == 1


def test_a_port_that_is_taken(spinning: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["-s", "0,hostbridge", "-s", f"3,virtio-net,slirp,hostfwd=tcp:127.0.0.1:{port}-:22", "vm"]
        for command in (["bhyverun", "--accel", "tcg", "--ssh", str(port), "vm"], ["bhyve", "--accel", "tcg", *words]):
            done = program(*command, check=4)
            complaint = f"hostfwd=tcp:127.0.0.1:{port}-:22: Address already in use (another program has the port"
            assert complaint in done.messages.splitlines()[-1]


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("ip") is None, reason="only root makes tap interfaces, with ip(8)")
def test_a_tap_interface(spinning: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    shutil.copy(spinning, other)
    load("-d", other, "-m", "64M", name="vm2")
    made = subprocess.run(["ip", "tuntap", "add", "dev", "bhyvetst0", "mode", "tap"], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"ip tuntap add: {made.stderr.decode().strip()}")
    try:
        with running("--net", "tap,bhyvetst0"):
            flags = int(Path("/sys/class/net/bhyvetst0/flags").read_text(), 16)
            assert flags & 1  # up
            done = program("bhyverun", "--accel", "tcg", "--disk", other, "--net", "tap,bhyvetst0", "vm2", check=4)
            assert "bhyvetst0: Device or resource busy (another program has it" in done.messages
    finally:
        subprocess.run(["ip", "link", "del", "bhyvetst0"], check=False, capture_output=True)


def test_bhyve_is_managed_the_same_way(spinning: Path) -> None:
    line = ["-c", "2", "-s", "0,hostbridge", "-s", "1,lpc", "-s", f"2,virtio-blk,{spinning}", "-l", "com1,stdio", "vm"]
    command = [sys.executable, "-m", "bhyveload.cli.bhyve", "--accel", "tcg", *line]
    for action, status in (("--force-reset", 0), ("--force-poweroff", 1), ("--destroy", 4)):
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            while b"probe=end" not in (words := process.stdout.readline()):
                assert words, process.stderr.read() if process.stderr else b""
            entry = machines()["vm"]
            assert (entry["state"], entry["pid"], entry["console"]) == ("running", process.pid, "stdio")
            assert entry["disks"] == [{"path": str(spinning), "read_only": False}]
            program("bhyvectl", "--vm=vm", action, check=0)
            assert process.wait(10) == status
    assert not vm_folder().exists()


def core_segments(path: Path) -> list[tuple[int, int, int]]:
    """(file offset, physical address, size) of a core's PT_LOADs of memory, as readelf has them: those at physical
    addresses, without the kernel's virtual ones."""
    done = subprocess.run(["readelf", "-hlW", str(path)], capture_output=True, text=True, check=True)
    assert "CORE (Core file)" in done.stdout
    loads = [line.split() for line in done.stdout.splitlines() if line.split()[:1] == ["LOAD"]]
    return [(int(load[1], 16), int(load[3], 16), int(load[4], 16)) for load in loads if load[2] == load[3]]


def low_memory(path: Path, start: int, size: int) -> bytes:
    offset = next(offset - base for offset, base, length in core_segments(path) if base <= start < base + length)
    with path.open("rb") as file:
        file.seek(offset + start)
        return file.read(size)


def test_a_core_of_a_loaded_guest(probe_disk: Path, tmp_path: Path) -> None:
    kernel = load("-d", probe_disk, "-m", "4G")["kernel"]
    core = tmp_path / "core"
    program("bhyvectl", "--vm=vm", f"--dump={core}", check=0)
    assert core_segments(core) == [(4096, 0, 3 << 30), (4096 + (3 << 30), 4 << 30, 1 << 30)]
    with (vm_folder() / "memory").open("rb") as memory:
        memory.seek(kernel["address"])
        assert low_memory(core, kernel["address"], kernel["size"]) == memory.read(kernel["size"])
    assert core.stat().st_blocks * 512 < 64 * MIB and core.stat().st_mode & 0o777 == 0o600
    assert "File exists" in program("bhyvectl", "--vm=vm", f"--dump={core}", check=71).messages


def test_a_core_of_a_running_guest(spinning: Path, tmp_path: Path) -> None:
    """Its kernel is there, and what it has written since it was loaded."""
    core = tmp_path / "core"
    with running():
        program("bhyvectl", "--vm=vm", f"--dump={core}", check=0)
        assert "File exists" in program("bhyvectl", "--vm=vm", f"--dump={core}", check=71).messages
        assert is_running()
    with (vm_folder() / "memory").open("rb") as memory:
        memory.seek(0x200000)
        loaded = memory.read(64 << 10)
    told = subprocess.run(["readelf", "-nW", str(core)], capture_output=True, text=True, check=True).stdout
    assert "NT_PRSTATUS" in told and told.count("\n  bhyveload ") == 2  # QEMU's registers, our metadata
    found = low_memory(core, 0x200000, 64 << 10)
    assert found[:4096] == loaded[:4096] and found != loaded


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("bhyvectl", "--vm=vm", "--dump={}"), "bhyvectl: --dump {}: File too large"),
        (("bhyverun", "--stub", "{}", "--dry-run", "vm"), "bhyverun: {}: File too large"),
        (("bhyverun", "--export", "{}", "vm"), "bhyverun: {}: File too large"),
    ],
)
def test_a_file_that_has_no_room_is_named(
    probe_disk: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    load("-d", probe_disk, "-m", "64M")
    target = tmp_path / "target"
    command = [str(PROGRAMS / words[0]), *(word.format(target) for word in words[1:])]
    limited = ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", *command]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (4, 71) and done.stderr.splitlines()[-1].startswith(message.format(target)), done.stderr
    assert not target.exists()
