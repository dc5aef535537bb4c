"""bhyve with a guest in it: ends, signals, titles, consoles, and the loops of those who call it.

The loops are those of FreeBSD's share/examples/bhyve/vmrun.sh and of vm-bhyve's lib/vm-run, in a few lines of sh.
"""

from __future__ import annotations

import contextlib
import os
import pty
import pwd
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from bhyveload.host import nmdm
from support.end_to_end import (
    PROGRAMS,
    load,
    needs_gcc,
    needs_qemu,
    plain_environment,
    program,
    require_locked_memory,
)
from support.places import ROOT

pytestmark = [needs_qemu, needs_gcc]
NAME = f"vm-{os.getpid()}.test"  # pgrep sees other tests too
LINE = f"-s 0,hostbridge -s 31,lpc -c 1 -AHPw -u --accel tcg -l com1,{{console}} {NAME}"
needs_pgrep = pytest.mark.skipif(shutil.which("pgrep") is None, reason="pgrep is not installed (procps)")


@pytest.fixture(autouse=True)
def null_modems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    place = tmp_path / "nmdm"
    monkeypatch.setenv("BHYVE_NMDM_DIR", str(place))
    yield place
    for lock in place.glob("*.lock"):
        os.kill(int(lock.read_text()), signal.SIGTERM)


def loaded(disk: Path, end: str) -> None:
    load("-d", disk, "-m", "64M", *plain_environment([f"probe.end={end}"]), name=NAME)


class Running:
    """A bhyve whose guest has come to the end of its report."""

    def __init__(self, console: str = "stdio", *words: str, until: bytes = b"probe=end") -> None:
        command = [str(PROGRAMS / "bhyve"), *words, *LINE.format(console=console).split()]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.out = b""
        self.read_until(until)

    def read_until(self, text: bytes) -> None:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        limit = time.monotonic() + 60
        while text not in self.out and time.monotonic() < limit and select.select((fd,), (), (), 60)[0]:
            data = os.read(fd, 65536)
            assert data, (self.out[-500:], self.process.stderr and self.process.stderr.read())
            self.out += data
        assert text in self.out

    @property
    def qemu(self) -> int:
        """The process id of its QEMU."""
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def end(self) -> tuple[int, bytes]:
        out, err = self.process.communicate(timeout=60)
        self.out += out
        return self.process.returncode, err


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come about")


@pytest.mark.parametrize(("end", "status"), [("reboot", 0), ("poweroff", 1), ("halt", 2), ("triple", 3)])
def test_ends(probe_disk: Path, end: str, status: int) -> None:
    loaded(probe_disk, end)
    done = program("bhyve", *LINE.format(console="stdio").split(), check=status)
    assert f"end={end}".encode() in done.out
    assert (Path(os.environ["BHYVE_VMM_DIR"]) / NAME).is_dir()  # stays for the caller's destroy
    program("bhyvectl", f"--vm={NAME}", "--destroy", check=0)


def test_it_can_be_destroyed_at_power_off(probe_disk: Path) -> None:
    """-D: at power-off, not at a reboot."""
    for end, status, there in (("reboot", 0, True), ("poweroff", 1, False)):
        loaded(probe_disk, end)
        program("bhyve", "-D", *LINE.format(console="stdio").split(), check=status)
        assert (Path(os.environ["BHYVE_VMM_DIR"]) / NAME).exists() is there


def test_locked_memory(probe_disk: Path) -> None:
    """bhyveload's -S: the guest runs, or the host's limit is named."""
    require_locked_memory(64 << 20)
    load("-S", "-d", probe_disk, "-m", "64M", *plain_environment(["probe.end=poweroff"]), name=NAME)
    done = program("bhyve", "-S", *LINE.format(console="stdio").split())
    assert done.status == 1 or (
        done.status == 4 and "locking memory failed (the guest was loaded with -S" in done.messages
    )


@needs_pgrep
def test_its_title(probe_disk: Path) -> None:
    """What vm-bhyve, iohyve and CBSD look for, and libvirt compares; it is the process that takes the signals."""
    loaded(probe_disk, "spin")
    guest = Running()
    pid = str(guest.process.pid)
    for words in (["-fx", f"bhyve: {NAME}"], ["-f", f"bhyve[: ].* ?{NAME}"], ["-x", "bhyve"]):
        found = subprocess.run(["pgrep", *words], capture_output=True, text=True, check=False).stdout.split()
        assert pid in found
    assert Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0") == f"bhyve: {NAME}".encode()
    shown = subprocess.run(["ps", "-o", "ucomm=,args=", "-p", pid], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["bhyve", "bhyve:", NAME]
    guest.process.kill()
    guest.end()


def test_sigterm_is_the_power_button(probe_disk: Path) -> None:
    """As often as it comes."""
    loaded(probe_disk, "button")
    guest = Running(until=b"listening")
    for _ in range(3):
        guest.process.send_signal(signal.SIGTERM)
    status, _ = guest.end()
    assert (status, guest.out.count(b"pressed")) == (1, 1)


def test_sigterm_before_the_guest_listens_ends_bhyve(probe_disk: Path) -> None:
    loaded(probe_disk, "spin")
    guest = Running()
    qemu = guest.qemu
    guest.process.send_signal(signal.SIGTERM)
    assert guest.end()[0] == -signal.SIGTERM
    assert gone(qemu)
    assert (Path(os.environ["BHYVE_VMM_DIR"]) / NAME / "state.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_other_signals_end_it_as_they_end_anything(probe_disk: Path, number: signal.Signals) -> None:
    loaded(probe_disk, "button")
    guest = Running(until=b"listening")
    qemu = guest.qemu
    guest.process.send_signal(number)
    assert guest.end()[0] == -number  # never 0, 1 or 2
    assert gone(qemu)


def test_a_killed_qemu_is_an_error(probe_disk: Path) -> None:
    loaded(probe_disk, "spin")
    guest = Running()
    os.kill(guest.qemu, signal.SIGKILL)
    status, err = guest.end()
    assert status == 4
    assert b"bhyve: qemu-system-x86_64: died by signal 9" in err


def test_a_killed_bhyve_takes_qemu_with_it(probe_disk: Path) -> None:
    loaded(probe_disk, "spin")
    guest = Running()
    qemu = guest.qemu
    guest.process.kill()
    guest.end()
    wait_for(lambda: gone(qemu))
    program("bhyvectl", f"--vm={NAME}", "--destroy", check=0)


def test_only_one_at_a_time(probe_disk: Path) -> None:
    loaded(probe_disk, "spin")
    guest = Running()
    done = program("bhyve", *LINE.format(console="stdio").split(), check=71)
    assert done.messages.startswith("bhyve: could not activate CPU 0: Device busy")
    guest.process.kill()
    guest.end()


def free_port(least: int = 0) -> int:
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        if port >= least:
            return port


def started(*options: str) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """bhyve with these options and its console, which is its output."""
    words = [*options, *LINE.format(console="stdio").split()]
    process = subprocess.Popen([PROGRAMS / "bhyve", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, process.stdout


def test_the_debugger_lets_it_go(probe_disk: Path) -> None:
    """-G w: nothing runs until a debugger says so; what the debugger speaks is the remote protocol of gdb."""
    port = free_port()
    loaded(probe_disk, "poweroff")
    process, stdout = started("-G", f"w127.0.0.1:{port}")

    def connected() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as debugger:
                assert not select.select((stdout,), (), (), 0.5)[0]  # the guest waits
                debugger.sendall(b"$c#63")
                assert process.wait(60) == 1
                return True
        except ConnectionRefusedError:
            return False

    wait_for(connected)
    assert b"probe=end" in stdout.read()
    stdout.close()


def test_a_processor_stays_where_it_was_put(probe_disk: Path) -> None:
    loaded(probe_disk, "spin")
    cpu = min(os.sched_getaffinity(0))
    guest = Running("stdio", "-p", f"0:{cpu}")
    threads = Path(f"/proc/{guest.qemu}/task")
    masks = [os.sched_getaffinity(int(path.name)) for path in threads.iterdir()]
    assert {cpu} in masks
    guest.process.kill()
    guest.end()
    done = program("bhyve", "-p", "0:1000", *LINE.format(console="stdio").split(), check=4)
    assert "vcpu 0 cannot run on hostcpu 1000" in done.messages


VMRUN = """
bhyvectl --vm=$NAME --destroy > /dev/null 2>&1
round=0
for end in reboot reboot poweroff; do
    bhyveload -c stdio -m 64M -d "$DISK" -e probe.end=$end --batch $NAME || exit 99
    bhyve -c 1 -m 64M -H -A -P -s 0:0,hostbridge -s 1:0,lpc -s 2:0,virtio-blk,"$DISK" -l com1,stdio --accel tcg $NAME
    code=$?
    echo "round $round ended with $code"
    round=$((round + 1))
    [ $code -eq 0 ] || break
done
case $code in
0 | 1 | 2) bhyvectl --vm=$NAME --destroy > /dev/null 2>&1 ;;
esac
echo "destroyed with $?"
[ ! -e "$BHYVE_VMM_DIR/$NAME" ] && echo "gone"
"""


def shell(script: str, **variables: object) -> subprocess.CompletedProcess[str]:
    path = f"{PROGRAMS}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "NAME": NAME, **{key: str(value) for key, value in variables.items()}}
    return subprocess.run(
        ["/bin/sh"], input=script, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_loop_of_vmrun(probe_disk: Path) -> None:
    """Loaded again over the VM of before, run while the status is 0, destroyed at the end."""
    done = shell(VMRUN, DISK=probe_disk)
    told = [line for line in done.stdout.splitlines() if line.startswith(("round", "destroyed", "gone", "probe=end"))]
    ended = [f"round {number} ended with {code}" for number, code in enumerate((0, 0, 1))]
    assert told == [*(line for end in ended for line in ("probe=end", end)), "destroyed with 0", "gone"], done.stderr


VM_BHYVE = """
cd /
end=reboot
while :; do
    bhyvectl --destroy --vm=$NAME > /dev/null 2>&1
    bhyveload -c $CONSOLE -m 64M -e autoboot_delay=3 -e probe.end=$end --batch -d "$DISK" $NAME || exit 99
    bhyve -s 0,hostbridge -s 31,lpc -s 0:4:0,virtio-blk,"$DISK" -c 1 -m 64M -AHPw \
        -U 5d8ab6ee-1111-4222-8333-0123456789ab -u -l com1,$CONSOLE --accel tcg $NAME > "$LOG" 2>&1 &
    pid=$!
    if [ $end = button ]; then
        while ! grep -q ready "$MARK" 2> /dev/null; do sleep 0.1; done
        [ -e "$BHYVE_VMM_DIR/$NAME" ] || echo "not in the VM directory"
        found=$(pgrep -fx "bhyve: $NAME")
        [ "$found" = $pid ] || echo "pgrep finds '$found', not $pid"
        kill $found
        sleep 1
        kill $found 2> /dev/null
    fi
    wait $pid
    code=$?
    echo "ended with $code"
    [ $code -eq 0 ] || break
    end=button
done
bhyvectl --destroy --vm=$NAME
echo "destroyed with $?"
"""


@needs_pgrep
def test_the_loop_of_vm_bhyve(probe_disk: Path, tmp_path: Path) -> None:
    """The console is a null modem whose reader stays, loader to guest to loader; the end is by title and SIGTERM."""
    console, mark, log = f"/dev/nmdm-{NAME}.1A", tmp_path / "mark", tmp_path / "log"
    reader = os.open(nmdm.terminal_of(f"/dev/nmdm-{NAME}.1B"), os.O_RDWR | os.O_NOCTTY)
    seen = bytearray()
    script = subprocess.Popen(
        ["/bin/sh", "-c", VM_BHYVE],
        env={
            **os.environ,
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "NAME": NAME,
            "DISK": str(probe_disk),
            "CONSOLE": console,
            "MARK": str(mark),
            "LOG": str(log),
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    limit = time.monotonic() + 90
    while script.poll() is None and time.monotonic() < limit:
        if select.select((reader,), (), (), 0.1)[0]:
            seen += os.read(reader, 65536)
        if b"listening" in seen:
            mark.write_text("ready")
    while select.select((reader,), (), (), 0.5)[0]:
        seen += os.read(reader, 65536)
    os.close(reader)
    out, _ = script.communicate(timeout=10)
    assert out.splitlines() == ["ended with 0", "ended with 1", "destroyed with 0"], log.read_text()
    assert bytes(seen).count(b"probe=end") == 2  # both rounds of the guest
    assert bytes(seen).count(b"Booting [/boot/kernel/kernel]") == 2  # and of the loader
    assert b"pressed" in seen


ASKING = r"""
set -e
cd /
bhyveload -c "$CONSOLE" -m 64M -e smbios.system.uuid=$UUID -e autoboot_delay=3 -e bhyve_vm_name=$NAME \
    -e probe.end=spin --batch -d "$DISK" $NAME > /dev/null
bhyve -s 0,hostbridge -s 31,lpc -s 0:4:0,virtio-blk,"$DISK" -s 0:5:0,virtio-net,slirp,mac=58:9c:fc:00:00:01 \
    -c 1 -m 64M -AHPw -U $UUID -u -l com1,"$CONSOLE" --accel tcg $NAME 2> /dev/null &
pid=$!
while ! pgrep -fx "bhyve: $NAME" > /dev/null; do sleep 0.1; done
set -- $(pgrep -fl "bhyve:" | awk '{print $1,$NF}' | grep " $NAME\$")
[ "$1" = $pid ] && echo "vm list finds it"
pgrep -lf "bhyve:" | cut -d" " -f3 | grep -qx "$NAME" && echo "vm stopall finds it"
[ "$(pgrep -f "bhyve: $NAME\$")" = $pid ] && echo "and its process alone"
[ "$(pgrep -fx "bhyve[: ].* $NAME")" = $pid ] && echo "rctl finds it"
ps -o"%cpu"= -o"rss"= -o"etime"= -p $pid | grep -q . && echo "ps shows it"
resident=$(bhyvectl --get-stats --vm=$NAME | grep 'Resident memory' | awk '{print $3}')
[ "$resident" -gt 1000000 ] && echo "vm info knows its memory"
bhyvectl 2>&1 | grep -q -- "--suspend=" || echo "vm suspend is not offered"
bhyvectl --force-poweroff --vm=$NAME && echo "vm poweroff"
code=0
wait $pid || code=$?
echo "ended with $code"
[ -e "$BHYVE_VMM_DIR/$NAME" ] && bhyvectl --destroy --vm=$NAME > /dev/null 2>&1 && echo "destroyed"
"""


@needs_pgrep
def test_what_vm_bhyve_asks(probe_disk: Path, tmp_path: Path) -> None:
    """lib/vm-info, vm-core, vm-run and vm-rctl, with the pgrep of docs/callers.md."""
    page = (ROOT / "docs" / "callers.md").read_text()
    wrapper = tmp_path / "bin" / "pgrep"
    wrapper.parent.mkdir()
    wrapper.write_text(page.partition("```sh\n")[2].partition("```")[0])
    wrapper.chmod(0o755)
    uuid = "5d8ab6ee-1111-4222-8333-0123456789ab"
    path = f"{wrapper.parent}:{PROGRAMS}:{os.environ['PATH']}"
    done = shell(ASKING, DISK=probe_disk, CONSOLE=f"/dev/nmdm-{NAME}.1A", UUID=uuid, PATH=path)
    assert done.stdout.splitlines() == [
        "vm list finds it",
        "vm stopall finds it",
        "and its process alone",
        "rctl finds it",
        "ps shows it",
        "vm info knows its memory",
        "vm suspend is not offered",
        "vm poweroff",
        "ended with 1",
        "destroyed",
    ], done.stderr


SYZKALLER = r"""
for round in 1 2; do
    bhyvectl --destroy --vm=$NAME > /dev/null 2>&1
    bhyveload -c stdio -m 64M -d "$DISK" -e autoboot_delay=0 -e probe.end=spin --batch $NAME > /dev/null 2>&1 || exit 99
    bhyve -H -A -P -c 1 -m 64M -s 0:0,hostbridge -s 1:0,lpc \
        -s 2:0,virtio-net,slirp,hostfwd=tcp:127.0.0.1:$PORT-:22 \
        -s 3:0,virtio-blk,"$DISK" -l com1,stdio --accel tcg $NAME < /dev/null > "$LOG" 2>&1 &
    while ! grep -q "probe=end" "$LOG" 2> /dev/null; do sleep 0.1; done
    kill -9 $(pgrep -fx "bhyve: $NAME")
    bhyvectl --vm=$NAME --destroy
    echo "destroyed with $?"
    rm "$LOG"
done
"""


@needs_pgrep
def test_the_rounds_of_syzkaller(probe_disk: Path, tmp_path: Path) -> None:
    """vm/bhyve/bhyve.go: it kills bhyve and starts the next one, with the same port and the same disk, at once."""
    done = shell(SYZKALLER, DISK=probe_disk, LOG=tmp_path / "log", PORT=free_port())
    assert done.stdout.splitlines() == ["destroyed with 0"] * 2, done.stderr


def test_a_time_limit_of_the_caller_s(probe_disk: Path) -> None:
    """FreeBSD's CI runs bhyve behind timeout(1), which is in another process group than the terminal's."""
    loaded(probe_disk, "spin")
    line = LINE.format(console="stdio")
    pid, fd = pty.fork()
    if pid == 0:
        os.execv("/bin/sh", ["sh", "-c", f"timeout -k 20 600 {PROGRAMS}/bhyve {line}; echo status $?"])
    said = b""
    with contextlib.suppress(OSError):  # EIO: its end
        while data := os.read(fd, 65536):
            if b"probe=end" not in said and b"probe=end" in said + data:  # the time is over now
                os.kill(int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]), signal.SIGTERM)
            said += data
    os.close(fd)
    os.waitpid(pid, 0)
    assert said.rstrip().endswith(b"status 143"), said[-200:]


def test_a_port_is_forwarded(probe_disk: Path) -> None:
    """slirp's hostfwd: the host's port listens while the guest runs, and is free afterwards."""

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    loaded(probe_disk, "spin")
    guest = Running("stdio", "-s", f"5,virtio-net,slirp,open,hostfwd=tcp:127.0.0.1:{port}-:22")
    socket.create_connection(("127.0.0.1", port), 10).close()
    guest.process.send_signal(signal.SIGTERM)
    guest.end()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_two_consoles(probe_disk: Path) -> None:
    """COM1 is the terminal, COM2 a port that one client may have."""
    loaded(probe_disk, "poweroff")
    done = program("bhyve", "-l", "com2,tcp=127.0.0.1:0", *LINE.format(console="stdio").split(), check=1)
    assert b"probe=end" in done.out


def test_it_waits_for_a_viewer(probe_disk: Path) -> None:
    """fbuf's wait: the guest starts when somebody connects to its screen."""
    port = free_port(least=5900)
    loaded(probe_disk, "poweroff")
    process, stdout = started("-s", f"29,fbuf,tcp=127.0.0.1:{port},w=800,h=600,wait")

    def seen() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as viewer:
                assert viewer.recv(12) == b"RFB 003.008\n"
                assert process.wait(60) == 1
                return True
        except ConnectionRefusedError:
            assert not select.select((stdout,), (), (), 0)[0]
            return False

    wait_for(seen)
    assert b"probe=end" in stdout.read()
    stdout.close()


def test_another_format_is_what_was_loaded(probe_disk: Path, tmp_path: Path) -> None:
    """A qcow2 image given to bhyveload is one for bhyve; named to bhyve alone it is raw bytes."""
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed (qemu-utils)")
    image = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(probe_disk), str(image)], check=True)
    loaded(image, "poweroff")
    line = LINE.format(console="stdio").split()
    for disk, driver in ((image, "qcow2"), (probe_disk, "raw")):
        out = program("bhyve", "--dry-run", "-s", f"3,virtio-blk,{disk}", *line, check=0).out.decode()
        assert (f'"driver": "{driver}"' in out.replace('":"', '": "')) or f"-blockdev driver={driver}," in out
    program("bhyve", "-s", f"3,virtio-blk,{image}", *line, check=1)


def test_where_the_other_end_is(probe_disk: Path, null_modems: Path) -> None:
    loaded(probe_disk, "poweroff")
    done = program("bhyve", *LINE.format(console="/dev/nmdm7A").split(), check=1)
    assert f"bhyve: com1: the other end of /dev/nmdm7A is {null_modems}/nmdm7B" in done.messages
    assert done.out == b""


def test_the_terminal_is_the_guests_and_then_as_before(probe_disk: Path) -> None:
    """Raw, without an escape key: Ctrl-C and Ctrl-A are the guest's.  A signal's death leaves it as it was, too."""
    loaded(probe_disk, "spin")
    ours, theirs = os.openpty()
    before = termios.tcgetattr(theirs)
    command = [str(PROGRAMS / "bhyve"), *LINE.format(console="stdio").split()]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL, start_new_session=True)
    said = b""
    while b"probe=end" not in said:
        assert select.select((ours,), (), (), 60)[0]
        said += os.read(ours, 65536)
    assert not termios.tcgetattr(theirs)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    os.write(ours, b"\x03\x01x\x1c\x1a")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose QEMU becomes another user")
def test_a_shared_folder_is_its_owners(probe_disk: Path) -> None:
    """Root's QEMU, which has no capabilities, reaches it as its owner."""
    loaded(probe_disk, "poweroff")
    line = LINE.format(console="stdio").split()
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, pwd.getpwnam("daemon").pw_uid, -1)
        program("bhyve", "-s", f"4,virtio-9p,tag={folder}", *line, check=1)
        done = program("bhyve", "--user", "nobody", "-s", f"4,virtio-9p,tag={folder}", *line, check=4)
        assert "Permission denied" in done.messages


@pytest.mark.parametrize(("action", "status"), [("destroy", 4), ("force-poweroff", 1), ("force-reset", 0)])
def test_it_is_ended_by_its_name(probe_disk: Path, action: str, status: int) -> None:
    """bhyvectl(8) on a running guest: what its bhyve ends with, and what is left."""
    loaded(probe_disk, "spin")
    guest = Running()
    qemu = guest.qemu
    program("bhyvectl", f"--vm={NAME}", f"--{action}", check=0)
    assert guest.end()[0] == status
    assert gone(qemu)
    assert (Path(os.environ["BHYVE_VMM_DIR"]) / NAME).exists() is (action != "destroy")
    program("bhyvectl", f"--vm={NAME}", "--destroy", check=66 if action == "destroy" else 0)


def test_what_bhyvectl_tells_of_it(probe_disk: Path) -> None:
    loaded(probe_disk, "spin")
    guest = Running("stdio", "-s", f"4,virtio-blk,{probe_disk}", "-o", "sockets=1")
    told = program("bhyvectl", f"--vm={NAME}", "--get-cpu-topology", "--get-active-cpus", check=0).out.decode()
    assert told.splitlines() == ["cpu_topology:\tsockets=1, cores=1, threads=1, maxcpus=1", "active cpus:\t 0"]
    assert b"Resident memory" in program("bhyvectl", f"--vm={NAME}", "--get-stats", check=0).out
    (listed,) = (
        one for one in program("bhyvectl", "--list", "--json", check=0).json["machines"] if one["name"] == NAME
    )
    assert (listed["state"], listed["pid"], listed["console"]) == ("running", guest.process.pid, "stdio")
    assert [disk["path"] for disk in listed["disks"]] == [str(probe_disk)]
    guest.process.kill()
    guest.end()
    program("bhyvectl", f"--vm={NAME}", "--force-reset", check=0)  # nobody runs it: no error, as on FreeBSD
