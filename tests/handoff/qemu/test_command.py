"""QEMU's command line, QMP, the ELF images: everything about the hand-off that needs no running guest."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bhyveload.errors import HandoffError, VmNotLoaded
from bhyveload.handoff.disks import Disk, disk_from_path, disks_of
from bhyveload.handoff.machine import loaded
from bhyveload.handoff.network import Network
from bhyveload.handoff.pvh.extents import data_extents
from bhyveload.handoff.pvh.pvh_image import save_image, save_stub
from bhyveload.handoff.pvh.stub import build_stub
from bhyveload.handoff.qemu.command import QemuOptions, qemu_command
from bhyveload.handoff.qemu.drives import option_value
from bhyveload.handoff.qemu.qmp import Qmp
from guest.build import build_probe, missing_tools
from guest.loader import LoadedVm, empty_vm, load_probe

MB = 1 << 20


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[LoadedVm]:
    machine = empty_vm(tmp_path / "vm", 64 * MB)
    machine.state = {"loaded": {"disks": []}}
    yield machine
    machine.close()


def after(command: list[str], option: str) -> list[str]:
    """The values of every ``option``."""
    return [command[at + 1] for at, word in enumerate(command) if word == option]


# The command line


def test_guest_memory_is_mapped_privately(vm: LoadedVm) -> None:
    command = qemu_command(vm, "STUB", QemuOptions([]))
    assert after(command, "-object") == [
        f"memory-backend-file,id=ram,size={64 * MB},mem-path={vm.path}/memory,share=off"
    ]
    assert after(command, "-machine") == ["pc,max-ram-below-4g=3G,dump-guest-core=off,memory-backend=ram"]
    assert after(command, "-m") == ["65536K"]
    assert after(command, "-kernel") == ["STUB"]
    assert "-no-reboot" in command and "-nodefaults" in command
    assert command[command.index("-boot") + 1] == "strict=on"


def test_commas_in_paths_and_names_cannot_add_options(tmp_path: Path) -> None:
    folder = tmp_path / "a,share=on"
    folder.mkdir()
    image = folder / "d,read-only=off.img"
    image.write_bytes(bytes(512))
    vm = empty_vm(folder / "vm,debug-threads=on", 64 * MB)
    command = qemu_command(vm, "STUB", QemuOptions([Disk(str(image), read_only=True)]))
    vm.close()
    assert after(command, "-name") == ["guest=vm,,debug-threads=on"]
    assert f"mem-path={option_value(vm.path)}/memory,share=off" in after(command, "-object")[0]
    assert ",share=on" not in after(command, "-object")[0].replace(",,", "")
    (blockdev,) = after(command, "-blockdev")
    assert blockdev.endswith(f"file.filename={str(image).replace(',', ',,')}")
    assert blockdev.startswith("driver=raw,node-name=disk0,read-only=on,file.driver=file,file.read-only=on,")


@pytest.mark.parametrize(
    ("name", "driver"),
    [("raw", "raw"), ("qcow2", "qcow2"), ("vhd", "vpc"), ("vhdx", "vhdx")],
)
def test_the_format_is_always_named(vm: LoadedVm, tmp_path: Path, name: str, driver: str) -> None:
    image = tmp_path / "disk"
    image.write_bytes(b"QFI\xfb" + bytes(508))  # looks like qcow2: must not matter
    command = qemu_command(vm, "STUB", QemuOptions([Disk(str(image), format=name)]))
    (blockdev,) = after(command, "-blockdev")
    if name == "raw":
        assert blockdev.startswith("driver=raw,")
    else:
        tree = json.loads(blockdev)
        assert (tree["driver"], tree["file"]["filename"]) == (driver, str(image))
        assert name in ("vhd", "vhdx") or tree["backing"] is None  # QEMU must not follow a name in the image
    assert "virtio-blk-pci,drive=disk0,werror=report" in after(command, "-device")


def test_a_format_that_qemu_lacks(vm: LoadedVm, tmp_path: Path) -> None:
    image = tmp_path / "disk.img.xz"
    image.write_bytes(b"x")
    with pytest.raises(HandoffError, match="QEMU cannot use a disk image of format xz"):
        qemu_command(vm, "STUB", QemuOptions([Disk(str(image), format="xz")]))


def test_a_disk_that_is_gone(vm: LoadedVm, tmp_path: Path) -> None:
    with pytest.raises(HandoffError, match="No such file") as caught:
        qemu_command(vm, "STUB", QemuOptions([Disk(str(tmp_path / "gone"))]))
    assert "--disk" in caught.value.hint


def test_wired_and_incore(vm: LoadedVm) -> None:
    vm.state["flags"] = {"wired": True, "incore": True}
    command = qemu_command(vm, "STUB", QemuOptions([]))
    assert after(command, "-overcommit") == ["mem-lock=on"]
    assert "dump-guest-core=on" in after(command, "-machine")[0]


def test_network_processors_accelerator_extra(vm: LoadedVm) -> None:
    command = qemu_command(vm, "STUB", QemuOptions([], accel="kvm", cpus=3, net=Network("user"), extra=["-snapshot"]))
    assert after(command, "-netdev") == ["user,id=net0,restrict=on"]
    assert "virtio-net-pci,netdev=net0,romfile=" in after(command, "-device")
    assert (after(command, "-smp"), after(command, "-accel"), after(command, "-cpu")) == (["3"], ["kvm"], ["host"])
    assert command[-1] == "-snapshot"
    assert after(qemu_command(vm, "STUB", QemuOptions([])), "-netdev") == []


def test_a_whole_image_needs_no_memory_file(vm: LoadedVm) -> None:
    command = qemu_command(vm, "IMAGE", QemuOptions([]), whole_image=True)
    assert after(command, "-object") == []
    assert after(command, "-machine") == ["pc,max-ram-below-4g=3G,dump-guest-core=off"]


def test_memory_that_qemu_cannot_have(tmp_path: Path) -> None:
    vm = empty_vm(tmp_path / "odd", 64 * MB + 4096)
    with pytest.raises(HandoffError, match="QEMU cannot have 67112960 bytes"):
        qemu_command(vm, "STUB", QemuOptions([]))
    vm.close()


@pytest.mark.parametrize("cpus", [0, -1, 256])
def test_processors_out_of_range(cpus: int) -> None:
    with pytest.raises(HandoffError, match="must be 1 to 255"):
        QemuOptions([], cpus=cpus)


def test_not_loaded(vm: LoadedVm) -> None:
    class Empty:
        name, path, memory, state = "x", "/x", None, None

    with pytest.raises(VmNotLoaded, match="VM 'x' holds no loaded guest"):
        loaded(Empty())
    assert loaded(vm) == (vm.memory, vm.state)


# Disks


def test_the_loader_s_disks() -> None:
    state = {"loaded": {"disks": [{"path": "/a", "read_only": True, "format": "qcow2"}, {"path": "/b"}]}}
    assert [(d.path, d.read_only, d.format) for d in disks_of(state)] == [("/a", True, "qcow2"), ("/b", False, "raw")]
    assert disks_of({"loaded": {}}) == []


@pytest.mark.parametrize(
    "disks",
    [
        "/a",
        [3],
        [{"path": 3}],
        [{"path": ""}],
        [{"path": "a\0b"}],
        [{}],
        [{"path": "/a", "backing": 3}],
        [{"path": "/a", "backing": [{"path": ""}]}],
        [{"path": "/a", "backing": [{"path": "/a"}] * 100}],
    ],
)
def test_malformed_disks(disks: object) -> None:
    with pytest.raises(HandoffError, match="disk"):
        disks_of({"loaded": {"disks": disks}})


def test_compressed_disks_must_have_been_unpacked(vm: LoadedVm, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(512))
    with pytest.raises(HandoffError, match="compressed with xz"):
        qemu_command(vm, "STUB", QemuOptions([Disk(str(image), compression="xz")]))


def test_what_is_written_to_a_snapshot_is_dropped(vm: LoadedVm, tmp_path: Path) -> None:
    image = tmp_path / "a,b"
    image.write_bytes(bytes(512))
    command = qemu_command(vm, "STUB", QemuOptions([Disk(str(image), snapshot=True)]))
    (drive,) = after(command, "-drive")
    options, _, tree = drive.partition("file=json:")
    assert options == "if=none,id=disk0,snapshot=on,"
    assert json.loads(tree.replace(",,", ",")) == {
        "driver": "raw",
        "read-only": True,
        "file": {"driver": "file", "filename": str(image), "read-only": True},
    }


def test_backing_files_are_named_with_their_formats(vm: LoadedVm, tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in "abc"]
    for name in names:
        Path(name).write_bytes(bytes(512))
    disk = Disk(names[0], format="qcow2", backing=[(names[1], "qcow2"), (names[2], "raw")])
    (blockdev,) = after(qemu_command(vm, "STUB", QemuOptions([disk])), "-blockdev")
    tree = json.loads(blockdev)
    below = tree["backing"]
    assert (tree["file"]["filename"], tree["read-only"]) == (names[0], False)
    assert (below["driver"], below["file"]["filename"], below["read-only"]) == ("qcow2", names[1], True)
    assert below["backing"] == {
        "driver": "raw",
        "read-only": True,
        "file": {"driver": "file", "filename": names[2], "read-only": True},
    }


def test_large_sectors_reach_the_guest(vm: LoadedVm, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(512))
    command = qemu_command(vm, "STUB", QemuOptions([Disk(str(image), sector_size=4096)]))
    assert "virtio-blk-pci,drive=disk0,werror=report,logical_block_size=4096,physical_block_size=4096" in after(
        command, "-device"
    )


def test_names_that_json_cannot_hold(vm: LoadedVm, tmp_path: Path) -> None:
    image = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    Path(image).write_bytes(bytes(512))
    with pytest.raises(HandoffError, match="with such a name"):
        qemu_command(vm, "STUB", QemuOptions([Disk(image, format="qcow2")]))
    assert after(qemu_command(vm, "STUB", QemuOptions([Disk(image)])), "-blockdev")[0].endswith(image)


def test_disks_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.qcow2").write_bytes(bytes(4096))  # the name does not count
    large = bytearray(16384)
    large[4096:4104] = b"EFI PART"
    (tmp_path / "large").write_bytes(large)
    monkeypatch.chdir(tmp_path)
    disk = disk_from_path("a.qcow2")
    assert (disk.format, disk.path, disk.sector_size) == ("raw", str(tmp_path / "a.qcow2"), 512)
    assert disk_from_path("large").sector_size == 4096
    with pytest.raises(HandoffError, match=r"c\.img: no such disk image"):
        disk_from_path("c.img")


# QMP


@pytest.fixture
def ends() -> Iterator[tuple[Qmp, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield Qmp(ours), theirs
    ours.close()
    theirs.close()


def test_messages_in_pieces(ends: tuple[Qmp, socket.socket]) -> None:
    qmp, qemu = ends
    qemu.sendall(b'{"QMP": {}}\r\n{"event"')
    assert list(qmp.receive()) == [{"QMP": {}}]
    assert list(qmp.receive()) == []
    qemu.sendall(b': "STOP"}\r\n')
    assert list(qmp.receive()) == [{"event": "STOP"}]
    qmp.send("quit", now=1)
    assert qemu.recv(100) == b'{"execute": "quit", "id": "quit", "arguments": {"now": 1}}\n'
    qemu.close()
    assert list(qmp.receive()) == []
    assert qmp.closed
    qmp.send("quit")  # nobody listens: no error


@pytest.mark.parametrize("line", [b"hello\n", b"[]\n", b"\xff\n", b"[" * 100000 + b"\n"])
def test_what_is_not_qmp(ends: tuple[Qmp, socket.socket], line: bytes) -> None:
    qmp, qemu = ends
    qemu.settimeout(5)
    qemu.sendall(line)
    with pytest.raises(HandoffError, match="not QMP"):
        while True:
            list(qmp.receive())


def test_an_endless_line(ends: tuple[Qmp, socket.socket]) -> None:
    qmp, qemu = ends
    with pytest.raises(HandoffError, match="endless line"):
        for _ in range(100):
            qemu.sendall(b"x" * 65536)
            assert list(qmp.receive()) == []


# ELF images


@pytest.fixture
def probe_vm(tmp_path: Path) -> Iterator[LoadedVm]:
    if missing_tools():
        pytest.skip(f"{missing_tools()} not installed: the probe guest cannot be built")
    machine = load_probe(tmp_path / "probe", build_probe(tmp_path), 5 << 30, preloads=[("/x", "raw", b"x" * 9000)])
    machine.memory.write((4 << 30) + 0x5000, b"high memory")
    yield machine
    machine.close()


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
def test_the_image_holds_every_byte_of_the_vm(probe_vm: LoadedVm, tmp_path: Path) -> None:
    stub = build_stub(probe_vm.memory, probe_vm.state)
    image = tmp_path / "image"
    save_image(str(image), stub, probe_vm.memory)
    data = image.read_bytes()
    dump = subprocess.run(
        ["readelf", "-hlnW", str(image)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    ).stdout
    assert "Warning" not in dump and "Error" not in dump
    assert f"Entry point address:               {stub.base:#x}" in dump
    assert "Xen" in dump
    high, low = 0, 0
    for line in dump.splitlines():
        words = line.split()
        if words[:1] != ["LOAD"]:
            continue
        offset, _, address, size = (int(word, 16) for word in words[1:5])
        if address == stub.base:
            assert data[offset : offset + size] == stub.image
        else:
            assert data[offset : offset + size] == probe_vm.memory.read(address, size)
            high += size * (address >= 4 << 30)
            low += size * (address < 4 << 30)
    fd = probe_vm.memory.fd
    assert low == sum(b - a for a, b in data_extents(fd, 1 << 20, 3 << 30))
    assert high == sum(b - a for a, b in data_extents(fd, 3 << 30, 5 << 30)) > 0
    assert image.stat().st_mode & 0o777 == 0o600


def test_an_image_that_cannot_be_written_leaves_nothing(probe_vm: LoadedVm, tmp_path: Path) -> None:
    stub = build_stub(probe_vm.memory, probe_vm.state)
    with pytest.raises(HandoffError, match="No such file or directory"):
        save_stub(str(tmp_path / "no" / "stub"), stub)
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(HandoffError, match="folder"):
        save_image(str(target), stub, probe_vm.memory)
    assert [name for name in os.listdir(tmp_path) if name.endswith(".new")] == []
