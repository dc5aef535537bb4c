"""Real bhyve(8) command lines, taken by a real QEMU in its box: it sets everything up, and is ended before it runs."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import struct
import tempfile
from fcntl import ioctl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bhyveload.bhyve.command_line import CommandLine
from bhyveload.bhyve.guest import guest_of
from bhyveload.bhyve.usage import SHORT_OPTIONS
from bhyveload.cli.getopt import getopt
from bhyveload.errors import BhyveError, HandoffError
from bhyveload.handoff.outcome import STOPPED
from bhyveload.handoff.qemu.guest.machine import guest_options
from bhyveload.handoff.qemu.session import QemuSession
from guest.build import build_probe, missing_tools
from guest.loader import LoadedVm, load_probe
from support.bhyve_lines import LINES
from support.qemu import missing_qemu

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(bool(missing_qemu()), reason=missing_qemu()),
    pytest.mark.skipif(bool(missing_tools()), reason=f"{missing_tools()} not installed: there is no guest to load"),
]
DISK = re.compile(r"(?<=[,:])(?:\./|/my/|/tmp/|/vm/|/images/|/dev/zvol/)[\w./-]+|(?<=,)\w+\.(?:img|iso)")
HARMLESS = (
    "qemu-system-x86_64: warning: nic pci0.3.0 has no peer",
    "qemu-system-x86_64: warning: This family of AMD CPU doesn't support hyperthreading(2)",
    "Please configure -smp options properly or try enabling topoext feature.",
)
# What newer versions than this machine's call deprecated, by their own warnings
DEPRECATED = {"-mon": "11.1"}
# What cannot be had, and what is left of the line without it
WITHOUT = {
    "handbook-uefi": r"-l bootrom,\S+ ",
    "handbook-windows": r"-l bootrom,\S+ ",
    "libvirt-slot-1": r"-l bootrom,\S+ ",
    "libvirt-passthru": r"-s 7:0,passthru,\S+ ",
    "libvirt-scsi": r"-s 2:0,virtio-scsi,\S+ ",
    "libvirt-numa": r"-n id=\S+ ",
    "manual-8-disks": r"-s 1,lpc ",
    "libvirt-commandline": r"ARGUMENT1 ARGUMENT2 ",
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedVm]:
    folder = tmp_path_factory.mktemp("accepted")
    vm = load_probe(folder / "vm", build_probe(folder), 64 << 20)
    yield vm
    vm.close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with everything that the lines name; null modems of its own."""
    monkeypatch.setenv("BHYVE_NMDM_DIR", str(tmp_path / "nmdm"))
    with tempfile.TemporaryDirectory() as shared:  # root's QEMU is another user, who must reach it
        os.chmod(shared, 0o755)
        (tmp_path / "shared").symlink_to(shared)
        yield tmp_path
    for lock in (tmp_path / "nmdm").glob("*.lock"):
        os.kill(int(lock.read_text()), signal.SIGTERM)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def made_here(text: str, place: Path) -> str:
    """The line with its disks and folders in ``place``, free ports, and the user's own network for taps."""

    def disk(match: re.Match[str]) -> str:
        path = place / match[0].replace("/", "_")
        with path.open("wb") as file:
            file.truncate(16 << 20)
        return str(path)

    text = DISK.sub(disk, text)
    text = text.replace("/shared/dir", os.path.realpath(place / "shared")).replace("/var/run/libvirt/bhyve", str(place))
    text = re.sub(r"tcp=([\d.]+):\d+", lambda match: f"tcp={match[1]}:{free_port()}", text)
    return re.sub(r",(?:tap\d|faketapdev)", ",slirp", text)


def accepted(vm: LoadedVm, words: list[str], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """QEMU has set up everything that ``words`` ask for and answers: its processors.  Raises as the run would."""
    line = CommandLine("current", lambda _: None)
    options, operands = getopt(words, SHORT_OPTIONS["current"])
    for option, argument in options:
        line.option(option, argument or "")
    run = guest_options(guest_of(line.config, operands[-1], "current", "host"), "tcg")
    run.extra += ["-compat", "deprecated-input=reject"]  # what a later QEMU may not have
    run.hold = "NEVER"
    run.pins = {0: frozenset({0})}
    answers: list[Any] = []

    def answer(session: QemuSession, processors: list[Any]) -> None:
        answers.extend(processors)
        session.stop()

    monkeypatch.setattr(QemuSession, "_pin", answer)
    with contextlib.closing(QemuSession(vm, run)) as session:
        given = Path(f"/proc/{session.pid}/cmdline").read_bytes().split(b"\0")
        assert DEPRECATED.keys().isdisjoint(map(os.fsdecode, given))
        result = session.wait(300)
    assert result.outcome == STOPPED
    assert [line for line in result.messages.splitlines() if not line.startswith(HARMLESS)] == []
    return answers


@pytest.mark.parametrize("name", LINES)
def test_accepted(name: str, loaded: LoadedVm, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = made_here(re.sub(WITHOUT.get(name, "$^"), "", LINES[name].text), place)
    words = shlex.split(text)[1:]
    if name == "manual-8-disks":
        words.append("vm")
    found = accepted(loaded, words, monkeypatch)
    assert len(found) == {"-c 1 ": 1, "-c 2 ": 2, "-c 4 ": 4, "-c 8 ": 8}.get(text[text.find("-c ") :][:5], len(found))


@pytest.mark.parametrize(
    "words",
    [
        "-s 1:0,virtio-rnd -s 0:3,virtio-rnd -s 1:7,virtio-rnd -s 3:5,virtio-rnd -s 2:4:0,virtio-rnd",
        "-W -s 2,virtio-rnd -s 3,virtio-net -s 4,virtio-console,a=PLACE/a -s 5,virtio-9p,t=PLACE/shared"
        " -s 6,virtio-blk,DISK",
        "-s 2,uart,unix=PLACE/tty -s 6,virtio-scsi,DISK -s 7:4,virtio-rnd -s 1:0:0,virtio-rnd",
        "-s 2,uart,tcp=127.0.0.1:0 -s 3,uart -s 4,virtio-net,slirp,mtu=1400 -s 5,nvme,ram=16,sectsz=4096",
        "-s 2,virtio-blk,DISK,ro,nocache,direct,sectorsize=512/4096,nodelete -s 3,ahci-cd,DISK,ro -s 4,nvme,DISK,ro",
        "-s 2,ahci-hd,DISK,ro,sectorsize=512/4096,nodelete,direct -G 0:0 -K de -o board.version=a,b",
        "-s 2,virtio-blk,DISK -s 3,virtio-blk,DISK -s 4,e1000,slirp,hostfwd=tcp:127.0.0.1:PORT-:22",
        "-s 2,virtio-blk,ODD,nocache -s 3,ahci-hd,ODD,nocache -s 4,nvme,ODD -s 5,nvme,ram=1,sectsz=8192",
        "-c sockets=2,cores=2,threads=2 -x -D -e -Y -w -a -I"
        " -s 2,fbuf,tcp=127.0.0.1:PORT,w=800,h=600,password=x,vga=off",
    ],
)
def test_everything_else_is_accepted(
    words: str, loaded: LoadedVm, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = place / "disk"
    disk.write_bytes(bytes(1 << 20))
    odd = place / "odd"
    odd.write_bytes(bytes(8704))
    words = (
        words.replace("PLACE/shared", os.path.realpath(place / "shared"))
        .replace("PLACE", str(place))
        .replace("DISK", str(disk))
        .replace("ODD", str(odd))
        .replace("PORT", str(free_vnc_port()))
    )
    assert accepted(loaded, [*words.split(), "vm"], monkeypatch)


def free_vnc_port() -> int:
    while (port := free_port()) < 5900:
        pass
    return port


def test_a_power_button_before_there_is_a_guest(loaded: LoadedVm) -> None:
    """QEMU answers nothing before it has been greeted: who presses so early is told at once."""
    line = CommandLine("current", lambda _: None)
    told: list[str] = []
    with contextlib.closing(
        QemuSession(loaded, guest_options(guest_of(line.config, "vm", "current", ""), "tcg"))
    ) as one:
        one.power_button(lambda: told.append("unheard"))
        assert told == ["unheard"]
        one.stop()
        assert one.wait(300).outcome == STOPPED


def test_a_port_that_is_taken(loaded: LoadedVm, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BhyveError) as error:
            accepted(loaded, ["-s", "1,lpc", "-l", f"com2,tcp=127.0.0.1:{port}", "vm"], monkeypatch)
        assert error.value.before == (
            f"bhyve: bind(127.0.0.1:{port}): Address already in use",
            f"Unable to initialize backend 'tcp=127.0.0.1:{port}' for LPC device com2",
        )
        with pytest.raises(BhyveError, match="gdb socket bind: Address already in use"):
            accepted(loaded, ["-G", f"127.0.0.1:{port}", "vm"], monkeypatch)
        with pytest.raises(HandoffError, match="hostfwd"):
            accepted(loaded, ["-s", f"2,e1000,slirp,hostfwd=tcp:127.0.0.1:{port}-:22", "vm"], monkeypatch)


def test_a_terminal_that_is_none(loaded: LoadedVm, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, reason in (("/dev/null", "Inappropriate ioctl for device"), ("/no/tty", "No such file or directory")):
        with pytest.raises(BhyveError, match=f"Device emulation initialization error: {reason}") as error:
            accepted(loaded, ["-s", "1,lpc", "-l", f"com1,{path}", "vm"], monkeypatch)
        assert error.value.before == (f"Unable to initialize backend '{path}' for LPC device com1",)


def test_a_socket_that_somebody_serves(loaded: LoadedVm, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["-s", f"2,virtio-console,agent={place}/socket", "vm"]
    accepted(loaded, words, monkeypatch)
    accepted(loaded, words, monkeypatch)  # what the last run left is replaced
    (place / "socket").unlink()
    with socket.socket(socket.AF_UNIX) as served:
        served.bind(str(place / "socket"))
        served.listen()
        with pytest.raises(BhyveError) as error:
            accepted(loaded, words, monkeypatch)
    assert error.value.before == ("cannot create port 0: Address already in use",)
    with pytest.raises(BhyveError) as error:
        accepted(loaded, ["-s", f"2,virtio-console,agent={place}/{'x' * 108}", "vm"], monkeypatch)
    assert error.value.before == ("cannot create port 0: File name too long",)


def test_a_tap_that_is_not_there(loaded: LoadedVm, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BhyveError) as error:
        accepted(loaded, ["-s", "2,virtio-net,tap4093", "vm"], monkeypatch)
    assert error.value.before == ("open of tap device /dev/tap4093 failed",)
    assert not Path("/sys/class/net/tap4093").exists()  # QEMU itself would have made it


def test_a_tap(loaded: LoadedVm, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tap that is the test's own, without ip(8): up while the guest has it, there afterwards."""
    with contextlib.ExitStack() as stack:
        for name in (f"tap{os.getpid() % 100000}", f"guest{os.getpid() % 100000}"):  # the other one is Linux's
            make_tap(name, stack)
            assert accepted(loaded, ["-s", f"2,virtio-net,{name}", "vm"], monkeypatch)
            assert int(Path(f"/sys/class/net/{name}/flags").read_text(), 16) & 1


def make_tap(name: str, stack: contextlib.ExitStack) -> None:
    set_interface, set_persistent = 0x400454CA, 0x400454CB
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"/dev/net/tun: {error.strerror}")
    try:
        ioctl(fd, set_interface, struct.pack("16sH22x", name.encode(), 0x1002))
        ioctl(fd, set_persistent, 1)
    except OSError as error:
        os.close(fd)
        pytest.skip(f"no tap interface can be made here: {error.strerror}")
    os.close(fd)

    def remove() -> None:
        fd = os.open("/dev/net/tun", os.O_RDWR)
        ioctl(fd, set_interface, struct.pack("16sH22x", name.encode(), 0x1002))
        ioctl(fd, set_persistent, 0)
        os.close(fd)

    stack.callback(remove)
