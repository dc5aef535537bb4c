"""What QEMU may open: asked of a program in its place, and looked up in /proc of the real one while a guest runs."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bhyveload.errors import HandoffError
from bhyveload.handoff.disks import Disk
from bhyveload.handoff.network import Network
from bhyveload.handoff.qemu import box as box_module
from bhyveload.handoff.qemu.box import Box, raise_memory_lock
from bhyveload.handoff.qemu.calls import REFUSED, REFUSED_WITHOUT_NETWORK
from bhyveload.handoff.qemu.command import QemuOptions
from bhyveload.handoff.qemu.failures import failure
from bhyveload.handoff.qemu.session import QemuSession
from bhyveload.sandbox import SYS_CLOSE_RANGE, Sandbox
from guest.build import SOURCE
from guest.loader import LoadedVm, load_probe
from support.end_to_end import MIB, PROGRAMS, load, needs_gcc, needs_qemu, program

pytestmark = needs_gcc
needs_landlock = pytest.mark.skipif(not Sandbox().landlock, reason="this kernel has no Landlock")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user can reach, so that it is not file modes that keep QEMU out."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def stand_in(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """tests/guest/stand_in.c as the first qemu-system-x86_64 in $PATH.  What it must not reach: ``place``/secret."""
    programs = place / "bin"
    programs.mkdir()
    target = programs / "qemu-system-x86_64"
    subprocess.run(["gcc", "-O1", "-Wall", "-o", str(target), str(SOURCE / "stand_in.c")], check=True)
    secret = place / "secret"
    secret.write_text("a secret")
    secret.chmod(0o666)
    writable = place / "folder"
    writable.mkdir()
    writable.chmod(0o777)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_SECRET", str(secret))
    monkeypatch.setenv("STAND_IN_FOLDER", str(writable))
    return target


def answers(options: list[str | Path], disk: Path) -> dict[str, str]:
    """What the stand-in says of itself when bhyverun starts it."""
    load("-d", disk, "-m", "64M")
    command = [str(PROGRAMS / "bhyverun"), "--accel", "tcg", *map(str, options), "vm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, (done.stdout, done.stderr)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@needs_landlock
def test_qemu_reaches_nothing_but_what_it_was_given(stand_in: Path, probe_disk: Path) -> None:
    said = answers([], probe_disk)
    denied = ("secret", "secret.write", "passwd", "root", "create", "exec")
    assert {name: said[name] for name in denied} == dict.fromkeys(denied, "Permission denied")
    assert said["socket"] == "Operation not permitted"
    assert (said["core"], said["privileges"]) == ("0", "1")
    assert said["disk"].startswith("/dev/fdset/")
    if os.getuid() == 0:
        assert "0" not in said["user"].split(",")
    files = [
        value for name, value in said.items() if name.startswith("fd.") and value.startswith("/") and name != "fd.0"
    ]
    kept = {str(probe_disk), str(Path(os.environ["BHYVE_VMM_DIR"]) / "vm" / "memory"), "/memfd:bhyverun stub (deleted)"}
    assert {path for path in files if not path.startswith("/proc/")} == kept


def test_the_questions_can_be_answered_otherwise(stand_in: Path, probe_disk: Path) -> None:
    """Without the box the same program reaches everything: the test above is not true by itself."""
    said = answers(["--no-sandbox"], probe_disk)
    assert {name: said[name] for name in ("secret", "secret.write", "passwd", "root", "create", "socket")} == {
        **dict.fromkeys(("secret", "secret.write", "passwd", "root", "create", "socket"), "open")
    }
    assert (said["exec"], said["privileges"]) == ("ran", "0")


@needs_landlock
def test_a_network_opens_sockets_and_nothing_else(stand_in: Path, probe_disk: Path) -> None:
    said = answers(["--net", "user"], probe_disk)
    assert (said["socket"], said["secret"], said["exec"]) == ("open", "Permission denied", "Permission denied")


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes another user")
def test_root_s_qemu_is_the_user_that_was_asked_for(stand_in: Path, probe_disk: Path) -> None:
    assert answers(["--user", "daemon"], probe_disk)["user"] == "1,1"


@needs_landlock
@pytest.mark.parametrize("words", [(), ("--user", "daemon"), ("--share", "FOLDER"), ("--share", "FOLDER,tag=t,ro")])
def test_no_capability_is_left(stand_in: Path, place: Path, probe_disk: Path, words: tuple[str, ...]) -> None:
    """Root's QEMU stays root for a shared folder, which may be root's alone: root without any capability, to whom
    Landlock leaves that folder."""
    if "daemon" in words and os.getuid():
        pytest.skip("only root becomes another user")
    folder = place / "folder"
    said = answers([word.replace("FOLDER", str(folder)) for word in words], probe_disk)
    assert said["capabilities"] == "0,0"
    assert (said["secret"], said["passwd"], said["exec"]) == ("Permission denied",) * 3
    shared = "--share" in words
    assert said["create"] == ("open" if shared and not words[-1].endswith("ro") else "Permission denied")
    if not os.getuid():
        assert (said["user"].split(",")[0] == "0") == shared


def test_the_calls_that_are_refused_have_the_host_s_numbers() -> None:
    """Compared with the C library's headers."""
    names = [row[0] for row in REFUSED + REFUSED_WITHOUT_NETWORK]
    source = "#include <sys/syscall.h>\n" + "".join(f"{name} SYS_{name}\n" for name in names)
    done = subprocess.run(["gcc", "-E", "-P", "-"], input=source, capture_output=True, text=True, check=True)
    found = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
    column = {"x86_64": 1, "aarch64": 2}[os.uname().machine]
    for row in REFUSED + REFUSED_WITHOUT_NETWORK:
        if found[row[0]].isdigit():  # else the headers are older
            assert int(found[row[0]]) == row[column], row


@pytest.mark.parametrize("confined", [True, False])
def test_who_starts_qemu_may_be_killed_at_any_moment(stand_in: Path, confined: bool) -> None:
    """The signal that comes then ends QEMU also between fork and exec, where bhyverun's own handler once took it."""
    box = Box("qemu-system-x86_64", confined=confined)
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        enter, prepared = box.entry([])
        pid = os.fork()
        if not pid:
            try:
                enter()
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os._exit(1)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
    for fd in prepared:
        os.close(fd)


_OPEN = """
import os
import resource
names = os.listdir("/proc/self/fd")  # its own is closed then
print(*sorted(int(name) for name in names if os.path.lexists(f"/proc/self/fd/{name}")))
"""


@pytest.mark.parametrize("number", [SYS_CLOSE_RANGE, -1], ids=["close_range", "none"])
def test_what_it_inherits(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard descriptors and those that are named, neighbours or not; whatever else was left open."""
    monkeypatch.setattr(box_module, "SYS_CLOSE_RANGE", number)
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(6)]
    try:
        for fd in opened:
            os.set_inheritable(fd, fd % 2 == 0)
        given = [opened[0], opened[1], opened[4]]
        done = subprocess.run(
            [sys.executable, "-c", _OPEN],
            close_fds=False,
            preexec_fn=box_module._inheritance(given),
            capture_output=True,
            text=True,
            check=True,
        )
        assert [int(word) for word in done.stdout.split()] == [0, 1, 2, *given]
    finally:
        for fd in opened:
            os.close(fd)


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(HandoffError, match="no-such-qemu is not installed"):
        Box("no-such-qemu")


# The real one


@pytest.fixture
def vm(tmp_path: Path, probe_kernel: Path) -> Iterator[LoadedVm]:
    machine = load_probe(tmp_path / "probe", probe_kernel, 64 * MIB, {"probe.end": "spin"})
    machine.state.setdefault("loaded", {"disks": []})
    yield machine
    machine.close()


def opened_by(pid: int) -> set[str]:
    """The files with names that a process has open."""
    found = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(entry.path))
    return {path for path in found if path.startswith("/") and not path.startswith(("/dev/", "/memfd:", "/proc/"))}


@needs_qemu
def test_the_real_qemu_has_the_guest_s_files_open_and_no_others(vm: LoadedVm, tmp_path: Path) -> None:
    first, second = tmp_path / "a,b.img", tmp_path / "second.img"
    for path in (first, second):
        path.write_bytes(bytes(MIB))
    options = QemuOptions([Disk(str(first)), Disk(str(second), read_only=True)], net=Network("user"))
    with contextlib.closing(QemuSession(vm, options)) as session:
        read, write = os.pipe()
        session.console.attach(-1, write)
        begin = time.monotonic()
        while not select.select([read], [], [], 0)[0] and time.monotonic() < begin + 30:
            session.loop.turn(0.1)
        os.close(read)
        assert opened_by(session.pid) == {str(first), str(second), f"{vm.path}/memory"}
        session.stop()
        assert session.wait().outcome == "stopped"


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_start_that_fails_leaves_no_descriptor(vm: LoadedVm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(512))
    options = QemuOptions([Disk(str(disk)), Disk(str(disk), snapshot=True, size=512)])
    before = count_descriptors()
    missing = QemuOptions([Disk(str(disk)), Disk(str(tmp_path / "gone"))])
    with pytest.raises(HandoffError, match="No such file"):
        QemuSession(vm, missing)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", _fails(BlockingIOError(11, "Resource temporarily unavailable")))
        with pytest.raises(HandoffError, match="Resource temporarily unavailable") as caught:
            QemuSession(vm, options)
        assert "processes" in caught.value.hint
    for name in ("pipe", "memfd_create"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, _fails(OSError(24, "Too many open files")))
            with pytest.raises(HandoffError, match="Too many open files"):
                QemuSession(vm, options)
    assert count_descriptors() == before


def _fails(error: OSError) -> object:
    def call(*_: object, **__: object) -> object:
        raise error

    return call


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
@pytest.mark.parametrize("size", [512, MIB, 5 << 30, 3 << 40])
def test_overlays_are_qcow2_images(tmp_path: Path, size: int) -> None:
    """By qemu-img's reading."""
    import json

    from bhyveload.handoff.qemu.overlay import temporary_overlay, write_overlay

    base, image = tmp_path / "base", tmp_path / "over"
    with base.open("wb") as file:
        file.truncate(size)
    with image.open("wb") as file:
        write_overlay(file.fileno(), size, str(base), "raw")
    subprocess.run(["qemu-img", "check", str(image)], check=True, capture_output=True)
    info = json.loads(
        subprocess.run(["qemu-img", "info", "--output=json", str(image)], check=True, capture_output=True).stdout
    )
    assert (info["virtual-size"], info["backing-filename"], info["backing-filename-format"]) == (size, str(base), "raw")
    fd = temporary_overlay(size)
    assert os.fstat(fd).st_nlink == 0
    os.close(fd)


@needs_qemu
def test_the_real_qemu_has_its_own_filter(vm: LoadedVm) -> None:
    """Two filters: ours and -sandbox's."""
    assert Box("qemu-system-x86_64").arguments()[:1] == ["-sandbox"]
    with contextlib.closing(QemuSession(vm, QemuOptions([]))) as session:
        started: list[bool] = []
        session.on_running(lambda: started.append(True))
        end = time.monotonic() + 30
        while not started and time.monotonic() < end:
            session.loop.turn(0.1)
        status = Path(f"/proc/{session.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status and "Seccomp_filters:\t2" in status
        assert os.fstat(vm.memory.fd).st_mode & 0o777 == 0o600  # lent to QEMU's user only while it started
        session.stop()


@needs_qemu
def test_arguments_that_name_files(probe_disk: Path, tmp_path: Path) -> None:
    """They are told what to do; without the box they work."""
    other = tmp_path / "other.img"
    other.write_bytes(bytes(MIB))
    load("-d", probe_disk, "-m", "64M")
    words = ("--", "-drive", f"file={other},format=raw,if=virtio")
    done = program("bhyverun", "--accel", "tcg", "vm", *words, check=4)
    assert "Permission denied (QEMU is confined" in done.messages and done.messages.count("\n") == 1
    program("bhyverun", "--accel", "tcg", "--no-sandbox", "vm", *words, check=1)


@needs_landlock
@pytest.mark.parametrize("line", ["#!/bin/sh", "#!/usr/bin/env sh"])
def test_a_script_in_qemu_s_place(stand_in: Path, probe_disk: Path, line: str) -> None:
    """A wrapper of the distribution's: it starts, and reaches no more."""
    real = Path("/usr/local/lib") / f"bhyveload-test-{os.getpid()}"
    try:
        shutil.copy(stand_in, real)
    except OSError:
        pytest.skip("/usr/local/lib is not ours")
    try:
        stand_in.write_text(f'{line}\nexec {real} "$@"\n')
        said = answers([], probe_disk)
    finally:
        real.unlink()
    assert (said["secret"], said["passwd"], said["socket"]) == (*["Permission denied"] * 2, "Operation not permitted")


@pytest.mark.parametrize(
    ("said", "confined", "hint"),
    [
        ("qemu-system-x86_64: -accel kvm: failed to initialize kvm: Permission denied", True, "group kvm"),
        ("qemu-system-x86_64: -accel kvm: failed to initialize kvm: Permission denied", False, "group kvm"),
        ("qemu-system-x86_64: -drive file=x: Could not open 'x': Permission denied", True, "--no-sandbox"),
        ("qemu-system-x86_64: -drive file=x: Could not open 'x': Permission denied", False, ""),
        ("qemu-system-x86_64: -foo: invalid option", True, ""),
    ],
)
def test_what_helps_against_a_denial(said: str, confined: bool, hint: str) -> None:
    """QEMU 7.2's words; giving it files is no help where it may not use KVM."""
    told = failure(1, f"{said}\n", {}, confined)
    assert told.message == said
    assert hint in told.hint and bool(told.hint) == bool(hint)


def test_a_root_that_may_not_raise_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's: what it may have it takes."""
    asked: list[tuple[int, int]] = []

    def refusing(_what: int, limits: tuple[int, int]) -> None:
        asked.append(limits)
        if limits[1] == resource.RLIM_INFINITY:
            raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refusing)
    monkeypatch.setattr(resource, "getrlimit", lambda what: (4096, 65536))
    raise_memory_lock()
    assert asked[-1] == (65536, 65536)
