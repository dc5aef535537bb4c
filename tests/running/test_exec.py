"""bhyverun --exec and the library's Guest with a guest that understands a few commands (guest/login.c), under TCG."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bhyveload
from bhyveload.errors import GuestEnded
from guest.build import build_probe, missing_tools
from support.end_to_end import PROGRAMS, Finished, load, make_disk, needs_gcc, needs_qemu, program

pytestmark = [needs_qemu, needs_gcc]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if missing_tools():
        pytest.skip(f"{missing_tools()} not installed")
    folder = tmp_path_factory.mktemp("login")
    return make_disk(folder, build_probe(folder, source="login.c"))


def execute(place: Path | str, *words: str | Path, timeout: str = "60") -> Finished:
    return program("bhyverun", "--accel", "tcg", "--timeout", timeout, *words, place, timeout=120)


def vms() -> list[str]:
    folder = Path(os.environ["BHYVE_VMM_DIR"])
    return [path.name for path in folder.iterdir()] if folder.exists() else []


def test_an_image(disk: Path) -> None:
    """Output and status are the commands'; the image is as before, and no VM stays."""
    before = disk.read_bytes()
    done = execute(
        disk, "--exec", "echo hällo", "--exec", "noise", "--exec", "exit 7", "--exec", "echo never", "-m", "64M"
    )
    assert (done.status, done.out.decode()) == (7, "hällo\nbefore\nbehind\n")
    assert disk.read_bytes() == before
    assert vms() == []


def test_an_image_with_a_comma_in_a_folder(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named from where the user is: an image is told from a VM's name by what is there."""
    shutil.copy(disk, tmp_path / "my disk, 2.img")
    monkeypatch.chdir(tmp_path)
    done = execute("my disk, 2.img", "--exec", "echo here", "-m", "64M")
    assert (done.status, done.out) == (0, b"here\n")
    assert execute("my disk, 2.img,format=raw,ro", "--exec", "exit 3", "-m", "64M").status == 3


def test_neither_a_vm_nor_an_image() -> None:
    done = execute("nothing.img", "--exec", "true")
    assert (done.status, done.out) == (125, b"")
    assert done.messages.startswith("bhyverun: there is neither a VM nor a disk image 'nothing.img' (")
    assert done.messages.count("\n") == 1


def test_a_killed_run_leaves_a_vm_until_the_next(disk: Path) -> None:
    words = ["--accel", "tcg", "--timeout", "60", str(disk), "--exec", "spin"]
    with subprocess.Popen([str(PROGRAMS / "bhyverun"), *words], stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 60
        while not any((Path(os.environ["BHYVE_VMM_DIR"]) / name / "control").exists() for name in vms()):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        process.kill()
    (left,) = vms()
    done = execute(disk, "--exec", "echo next", "-m", "64M")
    assert (done.status, done.out) == (0, b"next\n")
    assert vms() == [], left


def test_a_loaded_vm_and_files(disk: Path, tmp_path: Path) -> None:
    load("-d", disk, "-m", "64M", name="work")
    data = bytes(range(256)) * 8
    (tmp_path / "in").write_bytes(data)
    words = ["--put", f"{tmp_path}/in:/tmp/file", "--get", f"/tmp/file:{tmp_path}/out", "--log", f"{tmp_path}/log"]
    done = execute("work", "--exec", "bytes", *words)
    assert (done.status, done.out, done.messages) == (0, bytes(range(256)), "")
    assert (tmp_path / "out").read_bytes() == data
    assert b"login: root" in (tmp_path / "log").read_bytes()
    assert vms() == ["work"]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_bytes(os.urandom(300_000))
    (folder / "link").symlink_to("deep/file")
    (folder / "away").symlink_to("/etc/passwd")
    return folder


def test_folders(disk: Path, source: Path, tmp_path: Path) -> None:
    """On a disk that the guest reads and writes by virtio; also after a command that fails."""
    words = ["--copy-in", f"{source}:/root/a b", "--copy-out", f"/root/a b:{tmp_path}/out", "--copy-limit", "2M"]
    done = execute(disk, "--exec", "exit 3", *words)
    assert done.status == 3 and done.out == b""
    assert done.messages == "bhyverun: /root/a b: left out: away: a link out of the folder, to /etc/passwd\n"
    assert names(tmp_path / "out") == ["deep", "deep/file", "link"]
    assert (tmp_path / "out" / "link").read_bytes() == (source / "deep" / "file").read_bytes()
    done = execute(disk, "--exec", "true", "--copy-in", source, "--copy-limit", "1k")
    assert (done.status, "a limit of 1024 bytes for copied folders" in done.messages) == (125, True)
    done = execute(disk, "--exec", "true", "--copy-in", source, "--copy-limit", "1M")  # this guest reads 2 MiB
    assert (done.status, done.messages) == (125, "bhyverun: source: in the guest: exit status 1\n")


def test_a_share_that_the_guest_cannot_mount(disk: Path, tmp_path: Path) -> None:
    done = execute(disk, "--exec", "echo never", "--share", f"{tmp_path},at=/tmp/here")
    assert (done.status, done.out) == (125, b"")
    assert "/tmp/here: the guest cannot mount the share share: sh: not found (p9fs is in FreeBSD 15" in done.messages
    done = execute(disk, "--exec", "echo own", "--share", f"{tmp_path},at=none")
    assert (done.status, done.out, done.messages) == (0, b"own\n", "")


def test_a_panic(disk: Path) -> None:
    done = execute(disk, "--exec", "panic")
    assert done.status == 126
    lines = done.messages.splitlines()
    assert lines[0] == "bhyverun: the kernel panicked: a test of ours"
    assert "bhyverun: | cpuid = 0" in lines and lines[-1].startswith("bhyverun: | db>")


def test_a_guest_that_ends_or_takes_too_long(disk: Path) -> None:
    done = execute(disk, "--exec", "reboot")
    assert (done.status, done.messages.splitlines()[0]) == (126, "bhyverun: the guest ended (rebooted)")
    done = execute(disk, "--exec", "spin", timeout="10")
    assert (done.status, done.messages) == (124, "bhyverun: the command took too long\n")


def test_errors_are_125(tmp_path: Path, disk: Path) -> None:
    for words, why in (
        (["--exec", "true", tmp_path / "absent"], "no such"),
        (["--exec", "true", "nobody"], "neither a VM"),
        (["--exec", "true", "--daemon", disk], "exclude each other"),
        (["--exec", "true", "--put", "x", disk], "two files with a colon"),
        (["--exec", "true", "--get", f"/tmp/x:{tmp_path}", disk], "is a folder"),
        (["--exec", "true", "--get", f"/tmp/x:{tmp_path}/absent/x", disk], "absent: no such folder"),
        (["--exec", "true", "--copy-in", tmp_path / "absent", disk], "absent: no such folder"),
        (["--exec", "true", "--copy-in", ":x", disk], "two folders with a colon"),
        (["--exec", "true", "--copy-out", "..", disk], "two folders with a colon"),
        (["--exec", "true", "--login", "", disk], "--login '': must be a user's name"),
        (["--exec", "true", "--login", "two words", disk], "must be a user's name"),
        (["--exec", "true", "--login", "-f", disk], "must be a user's name"),
        (["--exec", "true", "--password-file", tmp_path / "absent", disk], "No such file"),
    ):
        done = program("bhyverun", *words)
        assert done.status == 125 and why.lower() in done.messages.lower(), (done.status, done.messages)
    done = program("bhyverun", "--login", "me", "nobody")
    assert (done.status, done.messages) == (4, "bhyverun: --login is for --exec\n")


def work(disk: Path, keys: bytes, *words: str, status: int) -> Finished:
    """A plain run with ``keys`` typed on its console."""
    load("-d", disk, "-m", "64M", name="work")
    words = ("--accel", "tcg", "--timeout", "30", *words)
    return program("bhyverun", *words, "work", keys=keys, timeout=60, check=status)


SHELL = b"root\rexec /bin/sh +i -s\n"


def test_expected_and_unwanted_text(disk: Path) -> None:
    done = work(disk, b"", "--expect", "^lo.in: $", "--fail-on", "never", status=0)
    assert done.out.endswith(b"login: ") and not done.messages
    done = work(disk, b"", "--fail-on", "trade.ark", status=3)
    assert "shows what --fail-on names: trade.ark" in done.messages and "| FreeBSD is a" in done.messages
    done = work(disk, SHELL + b"_c=poweroff\n_c=$_c'poweroff'\n/bin/sh -c\n", "--expect", "never", status=3)
    assert done.messages == "bhyverun: work: the console never showed what --expect names\n"
    done = program("bhyverun", "--expect", "(", "work", check=4)
    assert "'(' is no regular expression" in done.messages


def test_a_kernel_in_its_debugger_with_nobody_there(disk: Path) -> None:
    done = work(disk, SHELL + b"_c=\n_c=$_c'panic'\n/bin/sh -c\n", status=3)
    lines = done.messages.splitlines()
    assert lines[0] == "bhyverun: work: the kernel panicked: a test of ours"
    assert lines[-1].rstrip() == "bhyverun: | db>"


def test_gdb_starts_the_guest(disk: Path) -> None:
    """A line of gdb's protocol is enough: continue."""
    load("-d", disk, "-m", "64M", name="work")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(PROGRAMS / "bhyverun"), "--accel", "tcg", "--timeout", "60", "--gdb", str(port)]
    command += ["--expect", "login:", "work"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stderr is not None and process.stdout is not None
        while b"waiting for gdb" not in (line := process.stderr.readline()):
            assert line
        with socket.create_connection(("127.0.0.1", port), 20) as gdb:
            gdb.settimeout(20)
            gdb.sendall(b"+$?#3f")
            answer = b""
            while b"#" not in answer:
                answer += gdb.recv(100)
            gdb.sendall(b"+$c#63")
            assert process.wait(60) == 0
        assert process.stdout.read().endswith(b"login: ")


def test_the_library(disk: Path, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with bhyveload.boot(str(disk), 64 << 20, accel="tcg") as guest:
        assert guest.run("echo one", timeout=60).text == "one\n"
        assert guest.run("exit 3").status == 3
        flood: list[int] = []
        assert guest.run("flood 3000", out=lambda text: flood.append(len(text))).status == 0
        assert sum(flood) == 3000 * 73
        guest.put(b"\0\xff'text'\n", "/tmp/x")
        assert guest.get("/tmp/x") == b"\0\xff'text'\n"
        guest.put_tree(source, "/root/in", timeout=60)
        assert guest.get_tree("/root/in", tmp_path / "out") == ["away: a link out of the folder, to /etc/passwd"]
        assert (tmp_path / "out" / "deep" / "file").read_bytes() == (source / "deep" / "file").read_bytes()
        with pytest.raises(GuestEnded, match="powered off"):
            guest.run("poweroff")
    assert vms() == []
    assert capfd.readouterr().out == ""


FULL = """
import os, subprocess, sys
from bhyveload import load_image, start
from bhyveload.handoff.disks import disk_from_path, unpacked
from bhyveload.handoff.qemu.overlay import put_on_top

image, room = sys.argv[1:]
vm = load_image(image, 64 << 20)
disk = put_on_top(unpacked(disk_from_path(image).changed(overlay=room + "/overlay")))
with start(vm, accel="tcg", disks=[disk], copy_limit=0) as guest:
    print(guest.run("read-disk", timeout=60).status)
    with open(room + "/fill", "wb", buffering=0) as fill:
        try:
            while True:
                fill.write(bytes(4096))
        except OSError as error:
            print(error.strerror)
    print(guest.run("write-disk", timeout=60).status)
    os.unlink(room + "/fill")
    print(guest.run("write-disk", timeout=60).status)
    guest.session.stop()
    print(guest.session.wait().messages, end="")
vm.destroy()
"""


def test_a_host_s_disk_that_is_full(disk: Path, tmp_path: Path) -> None:
    """The guest gets an error, as from bhyve(8): it is not stopped for somebody who never comes."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed (util-linux)")
    room = tmp_path / "room"
    room.mkdir()
    script = f'mount -t tmpfs -o size=400k none "{room}" || exit 99; exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", FULL, str(disk), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("mounting is not allowed here")
    full = "No space left on device"
    told = ["0", full, "1", "0", f"{room}/overlay: a write failed: {full}"]
    assert (done.stdout.splitlines(), done.stderr) == (told, "")
