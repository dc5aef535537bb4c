"""bhyverun --save and --restore: a guest that has booted, kept and run as clones, under TCG (guest/login.c)."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bhyveload
from bhyveload.errors import HandoffError, UsageError
from guest.build import build_probe, missing_tools
from support.end_to_end import MIB, PROGRAMS, Finished, load, make_disk, needs_gcc, needs_qemu, program

pytestmark = [needs_qemu, needs_gcc]
FILES = ["devices", "disk0.qcow2", "kernel", "memory", "saved.json"]


class Kept:
    """A saved guest and its image."""

    def __init__(self, folder: Path, disk: Path) -> None:
        self.folder = folder
        self.disk = disk


def save(folder: Path, *words: str, status: int = 0) -> Finished:
    return program(
        "bhyverun", "--accel", "tcg", "--timeout", "60", "--save", folder, *words, "work", timeout=90, check=status
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Saved at its login prompt, with a network."""
    if missing_tools():
        pytest.skip(f"{missing_tools()} not installed")
    folder = tmp_path_factory.mktemp("saved")
    disk = make_disk(folder, build_probe(folder, source="login.c"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHYVE_VMM_DIR", str(folder / "vms"))
        load("-d", disk, "-m", "64M", name="work")
        done = save(folder / "guest", "--save-at", "^login: $", "--net", "user")
    assert done.out.endswith(b"login: ") and not done.messages
    return Kept(folder / "guest", disk)


def restore(folder: Path, *words: str, name: str = "clone") -> Finished:
    return program("bhyverun", "--timeout", "60", "--restore", folder, *words, name, timeout=90)


def vms() -> list[str]:
    folder = Path(os.environ["BHYVE_VMM_DIR"])
    return [path.name for path in folder.iterdir()] if folder.exists() else []


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_clone_goes_on_where_the_guest_was(kept: Kept) -> None:
    """No word of the boot, commands at once; the saved guest and its image stay as they are, and no VM."""
    assert sorted(path.name for path in kept.folder.iterdir()) == FILES
    assert kept.folder.stat().st_mode & 0o777 == 0o700
    before, image = contents(kept.folder), kept.disk.read_bytes()
    done = restore(kept.folder, "--exec", "echo one", "--exec", "exit 7")
    assert (done.status, done.out, done.messages) == (7, b"one\n", "")
    assert contents(kept.folder) == before and kept.disk.read_bytes() == image
    assert vms() == []


def saved_memory_of(runner: subprocess.Popen[bytes], folder: Path) -> list[str]:
    """Where the runner's QEMU maps the saved memory: lines of /proc/PID/maps."""
    try:
        (qemu,) = Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split()
        return [line for line in Path(f"/proc/{qemu}/maps").read_text().splitlines() if str(folder / "memory") in line]
    except (OSError, ValueError):  # not there yet, or no QEMU yet
        return []


def test_clones_at_once_share_memory(kept: Kept) -> None:
    """Two at a time; what each QEMU maps of the saved memory is that file, privately."""
    words = ["--timeout", "60", "--console", "none", "--restore", str(kept.folder)]
    clones = [subprocess.Popen([str(PROGRAMS / "bhyverun"), *words, f"clone{number}"]) for number in range(2)]
    try:
        for number, process in enumerate(clones):
            end = time.monotonic() + 60
            while not (lines := saved_memory_of(process, kept.folder)):
                assert process.poll() is None and time.monotonic() < end
                time.sleep(0.05)
            program("bhyvectl", f"--vm=clone{number}", "--get-stats", check=0)
            (line,) = lines
            first, last = (int(word, 16) for word in line.split()[0].split("-"))
            assert (line.split()[1], last - first) == ("rw-p", 64 * MIB)
        for number, process in enumerate(clones):
            program("bhyvectl", f"--vm=clone{number}", "--destroy", check=0)
            assert process.wait(20) == 4
    finally:
        for process in clones:
            if process.poll() is None:
                process.kill()
            process.wait()
    assert vms() == []


def test_saved_by_its_name_with_what_it_wrote(kept: Kept, tmp_path: Path) -> None:
    """bhyvectl --save, also of a clone's VM that cannot be; a run that is not saved leaves nothing."""
    load("-d", kept.disk, "-m", "64M", name="work")
    command = [str(PROGRAMS / "bhyverun"), "--accel", "tcg", "--timeout", "60", "--save", str(tmp_path / "new"), "work"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = b""
        while b"login: " not in said:
            data = os.read(process.stdout.fileno(), 4096)
            assert data
            said += data
        program("bhyvectl", "--vm=work", "--save", check=0)
        assert process.wait(20) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == FILES
    assert restore(tmp_path / "new", "--exec", "echo again").out == b"again\n"
    done = program("bhyvectl", "--vm=work", "--save", check=1)
    assert "--save: the guest is not running (bhyverun work)" in done.messages


@pytest.mark.parametrize("words", [[], ["--snapshot"], ["--overlay", "top.qcow2"]], ids=str)
def test_a_guest_that_was_not_started_for_it(kept: Kept, tmp_path: Path, words: list[str]) -> None:
    """It had written to its disk, wherever that goes; clones see that, and the command's output behind it."""
    disk = tmp_path / "disk.img"
    shutil.copy(kept.disk, disk)
    load("-d", disk, "-m", "64M", name="work")
    words = [str(tmp_path / word) if word.endswith("qcow2") else word for word in words]
    command = [str(PROGRAMS / "bhyverun"), "--accel", "tcg", "--timeout", "60", "--net", "user,host", *words, "work"]
    keys = b"root\rexec /bin/sh +i -s\n_c=\n_c=$_c'write-disk'\n/bin/sh -c\n"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None and process.stderr is not None
        process.stdin.write(keys)
        process.stdin.flush()
        said = b""
        while b"wwwwwww\r\n" not in said:
            data = os.read(process.stdout.fileno(), 4096)
            assert data, said
            said += data
        done = program("bhyvectl", "--vm=work", "--save", check=71)
        assert "only a guest that was started with bhyverun --save has a folder already" in done.messages
        done = program("bhyvectl", "--vm=work", f"--save={kept.folder}", check=71)
        assert "is there already: a guest is saved into a new folder" in done.messages
        done = program("bhyvectl", "--vm=work", f"--save={tmp_path}/absent/new", check=71)
        assert "absent/new: No such file or directory" in done.messages
        process.stdin.write(b"_c=\n_c=$_c'echo goes on'\n/bin/sh -c\n")
        process.stdin.flush()
        while b"goes on\r\n" not in said:
            said += os.read(process.stdout.fileno(), 4096)
        assert program("bhyvectl", "--vm=work", f"--save={tmp_path}/new", check=0).messages == ""
        assert process.wait(20) == 0 and b"not saved" in process.stderr.readline() and not process.stderr.read()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == FILES
    clone = bhyveload.restore(tmp_path / "new", net="user,host")
    with clone:
        clone.session.on_running(lambda: clone.session.console.type(b"_c=\n_c=$_c'read-disk'\n/bin/sh -c\n"))
        heard = bytearray()
        clone.session.console.hear(heard.extend)
        end = time.monotonic() + 30
        while b"wwwwwww\r\n" not in heard and time.monotonic() < end:
            clone.session.turn(0.1)
    assert b"wwwwwww\r\n" in heard
    assert (disk.read_bytes() == kept.disk.read_bytes()) is bool(words)
    assert vms() == ["work"]


def test_not_saved(kept: Kept, tmp_path: Path) -> None:
    load("-d", kept.disk, "-m", "64M", name="work")
    done = save(tmp_path / "new", "--save-at", "never", "--expect", "usb0", status=3)
    assert "work: ended before it was saved" in done.messages
    assert not (tmp_path / "new").exists()
    done = save(kept.folder, status=4)
    assert "File exists" in done.messages and sorted(path.name for path in kept.folder.iterdir()) == FILES
    done = program("bhyverun", "--save", tmp_path / "new", "work", "--", "-device", "virtio-balloon-pci", check=4)
    assert "--save and QEMU's own arguments exclude each other" in done.messages


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        header = json.loads((folder / "saved.json").read_text())
        change(header)
        (folder / "saved.json").write_text(json.dumps(header))

    return edit


def layer(header: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = header["disks"][0]["layers"][0]
    return entry


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "unfinished": (lambda folder: (folder / "saved.json").unlink(), "saved there, or not wholly"),
    "everybody's": (lambda folder: folder.chmod(0o770), "is not yours alone"),
    "no JSON": (lambda folder: (folder / "saved.json").write_bytes(b"[" * 100000), "is no JSON"),
    "no object": (lambda folder: (folder / "saved.json").write_text("[]"), "no version that is known"),
    "too large": (lambda folder: os.truncate(folder / "saved.json", 2 << 20), "no file of a saved guest"),
    "schema": (edited(lambda header: header.update(schema=2)), "no version that is known"),
    "QEMU": (edited(lambda header: header.update(qemu="6.1.0")), "saved by QEMU 6.1.0, this is"),
    "processor": (edited(lambda header: header.update(processor="\x1b[2J")), "processor \\x1b[2J, this one is max"),
    "accel": (edited(lambda header: header.update(accel="xen")), "accel is missing or wrong"),
    "cpus": (edited(lambda header: header.update(cpus=True)), "cpus is missing or wrong"),
    "memory": (edited(lambda header: header.update(memory=1 << 60)), "memory is missing or wrong"),
    "exchange": (edited(lambda header: header.update(exchange=1)), "exchange is missing or wrong"),
    "sizes": (edited(lambda header: header.update(sizes={})), "memory is missing or wrong"),
    "net": (edited(lambda header: header.update(net=["tap", "x"])), "net is missing or wrong"),
    "disks": (edited(lambda header: header.update(disks=[1])), "disks is missing or wrong"),
    "layers": (edited(lambda header: header["disks"][0].update(layers=[])), "layers is missing or wrong"),
    "path": (edited(lambda header: layer(header).update(path="x")), "path is missing or wrong"),
    "format": (edited(lambda header: layer(header).update(format="vmdk")), "format is missing or wrong"),
    "somebody's file": (
        edited(lambda header: layer(header).update(path="/etc/passwd")),
        "/etc/passwd: its size is not what it was",
    ),
    "identity": (edited(lambda header: layer(header).update(inode=1)), "its identity is not what it was"),
    "changed": (edited(lambda header: layer(header).update(modified=1)), "its time of change is not what it was"),
    "gone": (edited(lambda header: layer(header).update(path="/absent")), "/absent: No such file"),
    "memory cut": (lambda folder: os.truncate(folder / "memory", MIB), "has not the"),
    "devices cut": (lambda folder: os.truncate(folder / "devices", 100), "has not the"),
    "a link": (
        lambda folder: (folder / "kernel").rename(folder / "k").with_name("kernel").symlink_to("k"),
        "kernel: Too many levels",
    ),
    "overlay": (lambda folder: (folder / "disk0.qcow2").write_bytes(bytes(4096)), "disk0.qcow2"),
    "devices": (
        lambda folder: (folder / "devices").write_bytes(bytes((folder / "devices").stat().st_size)),
        "QEMU does not take the saved guest",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_refused_with_a_reason(kept: Kept, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "guest"
    shutil.copytree(kept.folder, folder)
    damage, reason = DAMAGE[kind]
    damage(folder)
    done = restore(folder)
    assert done.status == 4 and reason in done.messages and "Traceback" not in done.messages, done.messages
    assert vms() == []


def test_saved_after_commands(kept: Kept, tmp_path: Path) -> None:
    """A clone begins at the shell, and copies folders; one whose commands fail is not saved."""
    words = ["--accel", "tcg", "--timeout", "60", "--copy-limit", "2M"]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("x")
    done = program("bhyverun", *words, "--exec", "echo a", "--save", tmp_path / "new", kept.disk, timeout=90)
    assert (done.status, done.out, done.messages) == (0, b"a\n", "")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == FILES and vms() == []
    assert json.loads((tmp_path / "new" / "saved.json").read_text())["shell"] is True
    copies = ["--copy-in", f"{tmp_path}/in:/x", "--copy-out", f"/x:{tmp_path}/out", "--log", f"{tmp_path}/log"]
    done = restore(tmp_path / "new", "--exec", "echo b", *copies)
    assert (done.status, done.out, done.messages) == (0, b"b\n", "")
    assert (tmp_path / "out" / "file").read_text() == "x"
    assert b"login" not in (tmp_path / "log").read_bytes()
    done = program("bhyverun", *words, "--exec", "exit 9", "--save", tmp_path / "none", kept.disk, timeout=90)
    assert done.status == 9 and not (tmp_path / "none").exists()
    done = program("bhyverun", "--exec", "true", "--save", tmp_path / "none", "--save-at", "x", kept.disk, check=125)
    assert "--save-at and --exec exclude each other" in done.messages


def test_a_clone_is_told_who_it_is(kept: Kept, tmp_path: Path) -> None:
    """With commands behind it, and left to itself; a hook that fails ends the run."""
    before = int(time.time())
    done = restore(
        kept.folder, "--on-restore", "echo me", "--exec", "echo last", "--get", f"/x:{tmp_path}/out", name="clone-7"
    )
    assert (done.status, done.out, done.messages) == (0, b"last\n", "")
    told = dict(word.split("=") for word in (tmp_path / "out").read_text().removeprefix("export ").split())
    assert told["BHYVE_NAME"] == "'clone-7'"
    assert re.fullmatch(r"'02(:[0-9a-f]{2}){5}'", told["BHYVE_MAC"])
    assert before <= int(told["BHYVE_TIME"].strip("'")) <= int(time.time())
    done = restore(kept.folder, "--on-restore", "exit 4", "--exec", "echo last")
    assert (done.status, done.out, done.messages) == (125, b"", "bhyverun: --on-restore: exit status 4\n")
    command = [str(PROGRAMS / "bhyverun"), "--timeout", "60", "--restore", str(kept.folder), "--on-restore", "echo me"]
    with subprocess.Popen([*command, "clone"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = b""
        while not re.search(rb"Welcome.*\nme\n.*login: \Z", said, re.DOTALL):
            data = os.read(process.stdout.fileno(), 4096)
            assert data, said
            said += data
        process.send_signal(signal.SIGQUIT)
    done = restore(kept.folder, "--on-restore", "reboot", "--expect", "never")
    assert (done.status, done.messages) == (3, "bhyverun: clone: the console never showed what --expect names\n")
    done = restore(kept.folder, "--on-restore", "exit 4")
    assert (done.status, done.messages) == (4, "bhyverun: --on-restore: exit status 4\n")
    assert vms() == []


def test_what_a_clone_writes_may_be_kept(kept: Kept, tmp_path: Path) -> None:
    overlay = tmp_path / "new.qcow2"
    done = restore(kept.folder, "--overlay", str(overlay), "--exec", "poweroff")
    assert done.status == 126
    info = subprocess.run(["qemu-img", "info", "--output=json", overlay], check=True, capture_output=True).stdout
    assert json.loads(info)["backing-filename"] == str(kept.folder / "disk0.qcow2")
    subprocess.run(["qemu-img", "check", "-q", overlay], check=True)
    done = restore(kept.folder, "--overlay", str(overlay), "--exec", "echo never")
    assert done.status == 125 and "is there already, and the saved guest's memory knows nothing of it" in done.messages


def test_the_library(kept: Kept, tmp_path: Path) -> None:
    """A guest is saved at its shell; clones of it are at theirs, and are the library's to work in."""
    vm = bhyveload.load_image(str(kept.disk), 64 * MIB)
    try:
        with bhyveload.start(vm, accel="tcg", save_to=tmp_path / "new") as guest:
            guest.put(b"before", "/x")
            guest.save(60)
            assert guest.session.over
        with pytest.raises(HandoffError, match="File exists"):
            bhyveload.start(vm, accel="tcg", save_to=tmp_path / "new")
        with bhyveload.start(vm, accel="tcg", save_to=tmp_path / "none") as guest:
            assert guest.run("echo a", timeout=60).text == "a\n"
        assert not (tmp_path / "none").exists()
        with bhyveload.start(vm, accel="tcg") as guest, pytest.raises(UsageError, match="not started to be saved"):
            guest.save()
    finally:
        vm.destroy()
    with bhyveload.restore(tmp_path / "new") as one, bhyveload.restore(tmp_path / "new") as two:
        one.put(b"one", "/x", timeout=60)
        assert (one.get("/x"), two.get("/x", timeout=60)) == (b"one", b"before")
    with bhyveload.restore(kept.folder, net="user,host") as guest:
        assert guest.run("echo b", timeout=60).text == "b\n"
    with pytest.raises(HandoffError, match=r"the saved guest has the network none"):
        bhyveload.restore(tmp_path / "new", net="user")
    assert vms() == []


def test_an_overlay_on_something_else(kept: Kept, tmp_path: Path) -> None:
    folder = tmp_path / "guest"
    shutil.copytree(kept.folder, folder)
    (tmp_path / "other").write_bytes(bytes(10 * MIB))
    overlay = folder / "disk0.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", tmp_path / "other", overlay], check=True
    )
    done = restore(folder)
    assert done.status == 4 and "stands on something else" in done.messages, done.messages


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--cpus", "2"], "disks and processors are those of the saved guest"),
        (["--no-disk"], "disks and processors are those of the saved guest"),
        (["--snapshot"], "--restore and --snapshot exclude each other"),
        (["--net", "user,model=e1000"], "the saved guest has the network user"),
        (["--accel", "kvm"], "was saved with --accel tcg"),
        (["--save", "x"], "exclude each other"),
        (["--save-at", "x"], "--save-at is for --save"),
        (["--copy-limit", "1G"], "--restore and --copy-limit exclude each other"),
        (["--put", "x:y", "--on-restore", "true"], "--put is for --exec"),
        (["--overlay", "a", "--overlay", "b"], "2 overlays for 1 disks"),
    ],
)
def test_what_does_not_go_with_it(kept: Kept, words: list[str], reason: str) -> None:
    done = restore(kept.folder, *words)
    assert done.status == 4 and reason in done.messages, done.messages
    assert vms() == []


def test_a_name_that_is_taken(kept: Kept) -> None:
    load("-d", kept.disk, "-m", "64M", name="work")
    done = restore(kept.folder, name="work")
    assert done.status == 4 and "is loaded with something else" in done.messages
    assert vms() == ["work"]
