"""bhyve's guests as QEMU's arguments: real command lines against lines that were tried by hand with QEMU 7.2."""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.bhyve import devices as dev
from bhyveload.bhyve.command_line import CommandLine
from bhyveload.bhyve.emulations import Address
from bhyveload.bhyve.guest import BhyveGuest, guest_of
from bhyveload.bhyve.usage import SHORT_OPTIONS
from bhyveload.cli.getopt import getopt
from bhyveload.errors import BhyveError, HandoffError
from bhyveload.handoff.disks import Disk
from bhyveload.handoff.qemu.files import Paths
from bhyveload.handoff.qemu.guest.blocks import BLKPBSZGET, BLKSSZGET, Blocks
from bhyveload.handoff.qemu.guest.machine import guest_arguments, guest_options
from bhyveload.handoff.qemu.guest.slots import Slots
from support.bhyve_command import bhyve_command
from support.bhyve_lines import LINES


def guest(words: list[str]) -> BhyveGuest:
    line = CommandLine("current", lambda _: None)
    options, operands = getopt(words, SHORT_OPTIONS["current"])
    for option, argument in options:
        line.option(option, argument or "")
    return guest_of(line.config, operands[0], "current", "host")


class Named(Paths):
    """Paths, whether there is something there or not."""

    def file(self, path: str, read_only: bool, direct: bool = False) -> tuple[str, bool]:
        return path, False


def arguments(words: list[str], accel: str = "tcg") -> list[str]:
    return guest_arguments(guest(words), accel, (), Named())


@pytest.fixture
def everything_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Blocks, "_only_readable", lambda self, backing, lines: backing.read_only)
    monkeypatch.setattr("bhyveload.handoff.qemu.guest.blocks.goes_past_the_cache", lambda path: True)
    monkeypatch.setattr("os.listdir", lambda path: [])


# What was tried: the head is QEMU's own, this is what bhyve's devices are.
TRIED = {
    "handbook-linux-cd": (
        "-rtc base=localtime -netdev tap,id=n2.0,ifname=tap0,script=no,downscript=no -device virtio-net-pci,"
        "addr=0x2.0x0,netdev=n2.0,mac=00:a0:98:d2:16:22,romfile=,disable-modern=on -blockdev driver=raw,"
        "node-name=b3.0,file.driver=file,file.filename=./linux.img -device virtio-blk-pci,addr=0x3.0x0,drive=b3.0,"
        "serial=BHYVE-B27D-002B-D50E,disable-modern=on -device ich9-ahci,addr=0x4.0x0 -blockdev driver=raw,"
        "node-name=b4.0.0,read-only=on,file.driver=file,file.read-only=on,file.filename=./somelinux.iso -device"
        ' "ide-cd,bus=pci0.4.0.0,drive=b4.0.0,serial=BHYVE-82B1-C66C-B507,model=BHYVE SATA DVD ROM,ver=001"'
        " -device isa-serial,chardev=console,index=0 -chardev null,id=com2 -device isa-serial,chardev=com2,index=1"
        " -chardev null,id=com3 -device isa-serial,chardev=com3,index=2 -chardev null,id=com4"
        " -device isa-serial,chardev=com4,index=3"
    ),
    "manual-3-taps": (
        "-rtc base=localtime -netdev tap,id=n2.0,ifname=tap0,script=no,downscript=no -device virtio-net-pci,"
        "addr=0x2.0x0,multifunction=on,netdev=n2.0,romfile= -netdev tap,id=n2.1,ifname=tap1,script=no,downscript=no"
        " -device virtio-net-pci,addr=0x2.0x1,multifunction=on,netdev=n2.1,romfile="
        " -netdev tap,id=n2.2,ifname=tap2,script=no,downscript=no"
        " -device virtio-net-pci,addr=0x2.0x2,multifunction=on,netdev=n2.2,mac=00:be:fa:76:45:00,romfile="
        " -blockdev driver=raw,node-name=b3.0,file.driver=file,file.filename=/my/image"
        " -device virtio-blk-pci,addr=0x3.0x0,drive=b3.0,serial=BHYVE-F107-1665-99C3"
    ),
    "libvirt-base": (
        "-rtc base=localtime -netdev user,id=n1.0 -device virtio-net-pci,addr=0x1.0x4,netdev=n1.0,"
        "mac=52:54:00:00:00:00,romfile= -device ich9-ahci,addr=0x2.0x0 -blockdev driver=raw,node-name=b2.0.0,"
        "file.driver=file,file.filename=/tmp/freebsd.img -device"
        ' "ide-hd,bus=pci0.2.0.0,drive=b2.0.0,serial=BHYVE-5D92-7B2F-60AB,model=BHYVE SATA DISK,ver=001"'
    ),
    "libvirt-rotation-rate": (
        "-rtc base=utc -device ich9-ahci,addr=0x2.0x0"
        " -blockdev driver=raw,node-name=b2.0.0,file.driver=file,file.filename=/tmp/freebsd1.img -device"
        ' "ide-hd,bus=pci0.2.0.0,rotation_rate=7200,serial=BHYVE-SER01-0001,model=BHYVE SATA DISK,ver=001"'
        " -blockdev driver=raw,node-name=b2.0.1,file.driver=file,file.filename=/tmp/freebsd2.img -device"
        ' "ide-hd,bus=pci0.2.0.1,rotation_rate=5400,serial=BHYVE-SER02-0004,model=BHYVE SATA DISK,ver=001"'
        " -blockdev driver=raw,node-name=b2.0.2,file.driver=file,file.filename=/tmp/freebsd3.img -device"
        ' "ide-hd,bus=pci0.2.0.2,rotation_rate=1,serial=BHYVE-SER03-1234,model=BHYVE SATA DISK,ver=001"'
        " -netdev user,id=n3.0 -device virtio-net-pci,addr=0x3.0x0,netdev=n3.0,mac=52:54:00:b9:94:02,romfile="
    ),
    "libvirt-4-consoles": (
        "-rtc base=utc -device ich9-ahci,addr=0x2.0x0 -blockdev driver=raw,node-name=b2.0.0,file.driver=file,"
        'file.filename=/tmp/freebsd.img -device "ide-hd,bus=pci0.2.0.0,serial=BHYVE-5D92-7B2F-60AB,'
        'model=BHYVE SATA DISK,ver=001" -netdev user,id=n3.0 -device virtio-net-pci,addr=0x3.0x0,netdev=n3.0,'
        "mac=52:54:00:b1:42:eb,romfile= -chardev serial,id=com1,path=TTY -device isa-serial,chardev=com1,index=0"
        " -chardev socket,id=com2,host=127.0.0.1,port=12345,server=on,wait=off"
        " -device isa-serial,chardev=com2,index=1 -chardev socket,id=com3,host=0.0.0.0,port=54321,server=on,wait=off"
        " -device isa-serial,chardev=com3,index=2 -chardev serial,id=com4,path=TTY"
        " -device isa-serial,chardev=com4,index=3"
    ),
    "mixture": (
        "-rtc base=utc -chardev socket,id=gdb,host=localhost,port=12399,server=on,wait=off -gdb chardev:gdb"
        " -blockdev driver=raw,node-name=b2.0,file.driver=file,file.filename=/tmp/freebsd.img"
        " -device nvme,addr=0x2.0x0,drive=b2.0,serial=BHYVE-NVME0-01234,max_ioqpairs=2"
        " -netdev user,id=n3.0,restrict=off -device e1000-82545em,addr=0x3.0x0,netdev=n3.0,mac=52:54:00:00:00:00,"
        "romfile= -fsdev local,id=fs4.0,path=/shared/dir,security_model=none,readonly=on"
        " -device virtio-9p-pci,addr=0x4.0x0,mount_tag=shared_dir -device virtio-serial-pci,addr=0x5.0x0,max_ports=17"
        " -chardev socket,id=vc0,path=/var/run/libvirt/bhyve/bhyve.agent-1,server=on,wait=off"
        " -device virtserialport,bus=vs5.0,nr=1,chardev=vc0,name=org.qemu.guest_agent.1"
        " -device virtio-rng-pci,addr=0x6.0x0 -vnc 127.0.0.1:4"
        " -device VGA,addr=0x1d.0x0,vgamem_mb=32,xres=1024,yres=768 -device nec-usb-xhci,addr=0x1e.0x0"
        " -device usb-tablet,bus=x30.0"
    ),
}
MIXTURE = (
    "-u -c cpus=2,sockets=1,cores=2,threads=1 -G 12399"
    " -s 2:0,nvme,/tmp/freebsd.img,maxq=2,qsz=256,ser=BHYVE-NVME0-01234"
    " -s 3:0,e1000,slirp,mac=52:54:00:00:00:00,open -s 4:0,virtio-9p,shared_dir=/shared/dir,ro"
    " -s 5,virtio-console,org.qemu.guest_agent.1=/var/run/libvirt/bhyve/bhyve.agent-1 -s 6,virtio-rnd"
    " -s 29,fbuf,tcp=127.0.0.1:5904 -s 30,xhci,tablet bhyve"
)
NAMES_OF_OURS = ("id", "drive", "netdev", "fsdev", "node-name", "bus")


def pieces(words: list[str]) -> list[tuple[str, str, dict[str, str]]]:
    """(option, its first word, its properties) of what makes devices, in order."""
    found = []
    for option, value in zip(words[::2], words[1::2], strict=True):
        first, *rest = re.split(r",(?!,)", value)
        if "=" in first:
            first, rest = "", [first, *rest]
        found.append((option, first, {word.partition("=")[0]: word.partition("=")[2] for word in rest}))
    return found


@pytest.mark.usefixtures("everything_is_there")
@pytest.mark.parametrize("name", TRIED)
def test_what_was_tried(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same devices in the same order at the same places with the same identities; only our names for nodes differ."""
    monkeypatch.setattr("bhyveload.handoff.qemu.guest.consoles.device_of", lambda path: "TTY")
    words = shlex.split(MIXTURE) if name == "mixture" else LINES[name].words
    words = [word.replace("faketapdev", "slirp,open") for word in words]
    ours = [piece for piece in pieces(arguments(words)) if piece[0] not in ("-uuid", "-smbios")]
    tried = pieces(shlex.split(TRIED[name]))
    ours = ours[: len(tried)] if name == "manual-3-taps" else ours  # its four serial ports are not of interest
    assert [piece[:2] for piece in ours] == [piece[:2] for piece in tried]
    for (option, _, mine), (_, _, wanted) in zip(ours, tried, strict=True):
        for key, value in wanted.items():
            if key == "bus":  # the same connector of it
                assert mine[key].rpartition(".")[2] == value.rpartition(".")[2]
            elif key not in NAMES_OF_OURS and value != "vc0":
                assert mine[key] == value, (key, mine, wanted)
        if option == "-blockdev":
            assert mine.get("read-only", "off") == wanted.get("read-only", "off")
        names = [mine[key] for key in NAMES_OF_OURS if key in mine]
        assert all(names)


def test_every_device_uses_what_was_made_for_it() -> None:
    made: set[str] = set()
    monkey = pytest.MonkeyPatch()
    monkey.setattr(Blocks, "_only_readable", lambda self, backing, lines: backing.read_only)
    monkey.setattr("os.listdir", lambda path: [])
    try:
        for option, _, found in pieces(arguments(shlex.split(MIXTURE))):
            for key in ("drive", "netdev", "fsdev"):
                assert found.get(key) is None or found[key] in made
            assert "chardev" not in found or found["chardev"] in made
            name = found.get("id", found.get("node-name"))
            if name and option != "-device":
                assert name not in made
                made.add(name)
    finally:
        monkey.undo()


def device(words: str, kind: str, accel: str = "tcg") -> list[dict[str, str]]:
    found = pieces(arguments([*words.split(), "vm1"], accel))
    return [properties for option, name, properties in found if option == "-device" and name == kind]


def test_places() -> None:
    """Slots are hexadecimal for QEMU; those of PIIX3 are out of reach; further buses are bridges."""
    slots = Slots(
        Address(*place) for place in ((0, 10, 0), (0, 10, 3), (0, 31, 0), (0, 0, 5), (0, 1, 0), (0, 1, 7), (3, 4, 1))
    )
    assert slots.place(Address(0, 10, 0)) == "addr=0xa.0x0,multifunction=on"
    assert slots.place(Address(0, 10, 3)) == "addr=0xa.0x3,multifunction=on"
    assert slots.place(Address(0, 0, 5)) == "addr=0x1.0x4"
    assert slots.place(Address(0, 1, 0)) == "addr=0x1.0x5"
    assert slots.place(Address(0, 1, 7)) == "addr=0x1.0x6"
    assert slots.place(Address(3, 4, 1)) == "bus=bus3,addr=0x4.0x1,multifunction=on"
    assert slots.bridges == ["-device", "pci-bridge,id=bus3,chassis_nr=3,shpc=off,addr=0x3.0x0,multifunction=on"]
    assert slots.free_slot(2) == 4
    assert slots.free_slot(31) == 2


def test_no_place() -> None:
    with pytest.raises(HandoffError, match="slots 0 and 1 have room for 5 devices"):
        Slots(Address(0, slot, function) for slot in (0, 1) for function in range(3))
    slots = Slots(Address(0, slot, 0) for slot in range(2, 32))
    with pytest.raises(HandoffError, match="no PCI slot is left"):
        slots.free_slot(2)


@pytest.mark.usefixtures("everything_is_there")
def test_more_disks_than_a_controller_of_qemus_has() -> None:
    words = [word.replace("faketapdev", "slirp") for word in LINES["libvirt-more-than-32"].words]
    found = pieces(arguments(words))
    controllers = [p for option, kind, p in found if kind == "ich9-ahci"]
    disks = [p for option, kind, p in found if kind == "ide-hd"]
    assert len(controllers) == 7 and len(disks) == 36
    assert len({one["addr"] for one in controllers}) == 7
    assert [disk["bus"] for disk in disks[4:8]] == [*("pci0.2.0.4", "pci0.2.0.5"), *("pci0.2.0.1.0", "pci0.2.0.1.1")]
    places = {one["id"]: int(one["addr"].split(".")[0], 16) for one in controllers}
    assert [places[name] for name in ("pci0.2.0", "pci0.2.0.1", "pci0.2.0.2")] == [2, 5, 6]  # 3 and 4 are taken
    # one file is there twice: both nodes do without QEMU's lock, which bhyve has not either
    nodes = [p for option, _, p in found if option == "-blockdev" and p["file.filename"] == "/tmp/d1.img"]
    assert [node["file.locking"] for node in nodes] == ["off", "off"]
    assert [disk.get("share-rw") for disk in disks[:3]] == ["on", "on", None]


@pytest.mark.usefixtures("everything_is_there")
def test_block_options() -> None:
    words = "-s 2,virtio-blk,/i,ro -s 3,virtio-blk,/j,nocache,direct,nodelete,sectorsize=512/4096 vm1"
    found = pieces(arguments(words.split()))
    read_only, other = (p for option, _, p in found if option == "-blockdev")
    assert (read_only["read-only"], read_only["file.read-only"]) == ("on", "on")
    assert "discard" not in read_only
    assert (other["cache.direct"], other["file.cache.direct"], other.get("discard")) == ("on", "on", None)
    disk = device("-s 3,virtio-blk,/j,nocache,direct,nodelete,sectorsize=512/4096", "virtio-blk-pci")[0]
    assert (disk["discard"], disk["write-cache"]) == ("off", "off")
    assert (disk["logical_block_size"], disk["physical_block_size"]) == ("512", "4096")


def test_sectors_are_the_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As block_if.c:blockif_open has it: a file's blocks, a device's sectors."""
    image = tmp_path / "disk"
    image.write_bytes(bytes(8192))
    best = str(os.stat(image).st_blksize)

    def sectors(words: str, kind: str) -> list[str | None]:
        command = guest_arguments(guest(["-s", f"2,{words}", "vm1"]), "tcg", (), Paths())
        (found,) = (p for option, name, p in pieces(command) if option == "-device" and name == kind)
        return [found.get("logical_block_size"), found.get("physical_block_size")]

    for emulation, kind in (("virtio-blk", "virtio-blk-pci"), ("ahci-hd", "ide-hd")):
        assert sectors(f"{emulation},{image}", kind) == ["512", best]
        assert sectors(f"{emulation},{image},sectorsize=512/2048", kind) == ["512", "2048"]
    assert sectors(f"nvme,{image}", "nvme") == ["512", "512"]
    assert sectors(f"nvme,{image},sectorsize=4096", "nvme") == ["4096", "4096"]
    assert sectors("nvme,ram=1", "nvme") == ["4096", "4096"]
    assert sectors(f"ahci-cd,{image}", "ide-cd") == [None, None]
    units = {BLKSSZGET: 4096, BLKPBSZGET: 16384}
    monkeypatch.setattr("stat.S_ISBLK", lambda mode: True)
    monkeypatch.setattr("fcntl.ioctl", lambda fd, request, data: units[request].to_bytes(4, sys.byteorder))
    assert sectors(f"virtio-blk,{image}", "virtio-blk-pci") == ["4096", "16384"]
    assert sectors(f"virtio-blk,{image},sectorsize=8192", "virtio-blk-pci") == ["8192", "8192"]
    with pytest.raises(BhyveError) as error:
        sectors(f"virtio-blk,{image},sectorsize=512", "virtio-blk-pci")
    assert error.value.before == ("Sector size 512 incompatible with underlying device sector size 4096",)
    with pytest.raises(HandoffError, match="QEMU's SATA disks have sectors of 512 bytes"):
        sectors(f"ahci-hd,{image}", "ide-hd")
    units[BLKPBSZGET] = 3 << 20  # none of QEMU's sizes
    assert sectors(f"virtio-blk,{image}", "virtio-blk-pci") == ["4096", "4096"]


@pytest.mark.parametrize(("size", "direct"), [(8192, "on"), (8704, None), (1, None)])
def test_past_the_cache_only_where_qemu_can(tmp_path: Path, size: int, direct: str | None) -> None:
    """It refuses a disk that does not end where O_DIRECT can write (seen); bhyve just uses O_DIRECT."""
    image = tmp_path / "disk"
    image.write_bytes(bytes(size))
    try:
        os.close(os.open(image, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        direct = None  # not in this file system at all
    command = guest_arguments(guest(["-s", f"2,virtio-blk,{image},nocache", "vm1"]), "tcg", (), Paths())
    (node,) = (p for option, _, p in pieces(command) if option == "-blockdev")
    assert [node.get("cache.direct"), node.get("file.cache.direct")] == [direct, direct]


def test_an_input_device_that_is_not_there() -> None:
    with pytest.raises(BhyveError) as error:
        arguments(["-s", "2,virtio-input,/no/event", "vm1"])
    assert error.value.before == ("virtio-input: failed to open '/no/event': No such file or directory",)


def test_what_a_file_really_is(tmp_path: Path) -> None:
    """A raw file whatever its content says, but the disk that bhyveload was given in another format."""
    image = tmp_path / "disk"
    image.write_bytes(b"QFI\xfb" + bytes(508))
    words = ["-s", f"2,virtio-blk,{image}", "-s", f"3,ahci-hd,{image}", "vm1"]
    found = pieces(guest_arguments(guest(words), "tcg", (), Paths()))
    assert [p["driver"] for option, _, p in found if option == "-blockdev"] == ["raw", "raw"]
    loaded = [(str(image), Disk(str(image), format="qcow2"))]
    command = guest_arguments(guest(words[:2] + words[4:]), "tcg", loaded, Paths())
    assert '"driver": "qcow2"' in command[command.index("-blockdev") + 1].replace('":"', '": "')


def test_a_disk_that_may_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bhyve goes on reading only; a SATA disk of QEMU's cannot, so what is written is dropped."""
    image = tmp_path / "disk"
    image.write_bytes(bytes(4096))
    command = guest_arguments(guest(["-s", f"2,ahci-hd,{image},ro", "vm1"]), "tcg", (), Paths())
    assert "snapshot=on" in command[command.index("-drive") + 1]
    command = guest_arguments(guest(["-s", f"2,ahci-cd,{image}", "vm1"]), "tcg", (), Paths())
    assert "read-only=on" in command[command.index("-blockdev") + 1]


@pytest.mark.parametrize("options", ["", ",ro"])
@pytest.mark.parametrize("emulation", ["virtio-blk", "ahci-hd", "nvme", "ahci-cd"])
def test_a_disk_that_is_not_there(emulation: str, options: str) -> None:
    with pytest.raises(BhyveError) as error:
        arguments(["-s", f"2,{emulation},/no/such/disk{options}", "vm1"])
    assert error.value.before[0] == "bhyve: Could not open backing file: /no/such/disk: No such file or directory"
    assert error.value.before[1:] == (
        *(("Could not open backing file: No such file or directory",) if emulation == "virtio-blk" else ()),
        *(("nvme: Could not open backing file: No such file or directory",) if emulation == "nvme" else ()),
    )
    assert error.value.message == "Device emulation initialization error: No such file or directory"


@pytest.mark.parametrize("options", ["", ",ro"])
def test_a_folder_is_no_disk(tmp_path: Path, options: str) -> None:
    with pytest.raises(HandoffError, match="neither a regular file nor a block device") as error:
        arguments(["-s", f"2,virtio-blk,{tmp_path}{options}", "vm1"])
    assert not error.value.hint  # bhyve has no --disk


def test_a_scsi_disk_is_a_file(tmp_path: Path) -> None:
    """Not FreeBSD's: there it is the CAM target layer, which is refused."""
    image = tmp_path / "disk"
    image.write_bytes(bytes(512))
    found = pieces(guest_arguments(guest(["-s", f"2,virtio-scsi,{image}", "vm1"]), "tcg", (), Paths()))
    assert [kind for option, kind, _ in found if option == "-device"] == ["virtio-scsi-pci", "scsi-hd"]


def test_identities_and_clock() -> None:
    command = arguments(["-U", "5d8ab6ee-1111-4222-8333-0123456789ab", "-o", "board.version=a,b", "vm1"])
    assert command[command.index("-uuid") + 1] == "5d8ab6ee-1111-4222-8333-0123456789ab"
    tables = [command[at + 1] for at, word in enumerate(command) if word == "-smbios"]
    assert tables[0] == "type=0,vendor=BHYVE,version=14.0,date=10/17/2021"
    assert tables[2].startswith("type=2,manufacturer=FreeBSD,product=BHYVE,version=a,,b,serial=None")
    assert [table.split(",")[0] for table in tables] == ["type=0", "type=1", "type=2", "type=3"]


def test_processor_and_interrupts() -> None:
    assert "vectors" not in device("-s 2,virtio-rnd", "virtio-rng-pci")[0]
    assert device("-W -s 2,virtio-rnd", "virtio-rng-pci")[0]["vectors"] == "0"
    assert "-cpu" not in arguments(["-x", "vm1"])
    command = arguments(["-x", "vm1"], "kvm")
    assert command[command.index("-cpu") + 1] == "host,x2apic=on"
    assert "-cpu" not in arguments(["vm1"], "kvm")


@pytest.mark.parametrize(("layout", "qemus"), [("de", "de"), ("dk", "da"), ("de_noacc", "de"), ("us_unix", "en-us")])
def test_keyboards(layout: str, qemus: str) -> None:
    command = arguments(["-K", layout, "vm1"])
    assert command[command.index("-k") + 1] == qemus
    assert "-k" not in arguments(["-K", "klingon", "vm1"])


def test_options_of_the_run() -> None:
    options = guest_options(guest(["-c", "4,cores=2,sockets=2", "-p", "0:0", "vm1"]), "tcg")
    assert options.topology == "cpus=4,sockets=2,cores=2,threads=1"
    assert (options.plain, options.open_network, options.hold, options.pins) == (True, False, "", {0: frozenset({0})})
    assert guest_options(guest(["-s", "2,e1000,slirp", "vm1"]), "tcg").open_network
    assert guest_options(guest(["-s", "2,fbuf,wait", "vm1"]), "tcg").hold == "VNC_CONNECTED"
    assert guest_options(guest(["-G", "w1234", "vm1"]), "tcg").hold == "RESUME"
    with pytest.raises(BhyveError, match="256 vCPUs requested but only 255 available"):
        guest_options(guest(["-c", "256", "vm1"]), "tcg")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-s", "2,virtio-scsi,/dev/cam/ctl"], "pci slot 0:2:0: virtio-scsi on /dev/cam/ctl is not possible here"),
        (["-S", "-s", "7:0,passthru,3/0/0"], "pci slot 0:7:0: passthru of 3/0/0 is not possible here"),
        (["-s", "2,virtio-net,vale0:p"], "pci slot 0:2:0: virtio-net on vale is not possible here"),
        (["-s", "2,virtio-net,netgraph,path=x:,peerhook=y"], "pci slot 0:2:0: virtio-net on netgraph is not possible"),
        (["-s", "2,e1000,eth0"], "pci slot 0:2:0: e1000 on the network 'eth0' is not possible here"),
        (["-s", "2,fbuf,tcp=127.0.0.1:5800"], "fbuf: VNC on port 5800: QEMU's begin at 5900"),
        (["-s", "2,fbuf,tcp=unix:/run/vnc"], "fbuf: VNC on the socket /run/vnc is not possible here"),
        (["-s", f"2,virtio-9p,{'t' * 32}=/tmp"], "QEMU's have at most 31 bytes"),
        (["-s", f"2,ahci-hd,{__file__},sectorsize=4096"], "QEMU's SATA disks have sectors of 512 bytes"),
        (["-s", f"2,virtio-blk,{__file__},sectorsize=512/4194304"], "QEMU's sectors have 2097152 bytes at most"),
    ],
)
def test_refusals_say_what_instead(words: list[str], message: str) -> None:
    with pytest.raises(HandoffError, match=re.escape(message)) as error:
        arguments([*words, "vm1"])
    assert error.value.exit_status == 4
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "rule",
    [
        "tcp:22",
        "tcp::99999-:22",
        "tcp::0-:22",
        "tcp::\u0662\u0662-:22",
        "tcp:::22-:22",
        "tcp::22-:22,id=x",
        "tcp:1.2.3:5999-:22",
        "udp::5999-10.0.2.256:22",
    ],
)
def test_a_forward_that_is_none(rule: str) -> None:
    """net_backend_slirp.c:config_one_hostfwd."""
    words = ["-o", "pci.0.2.0.device=virtio-net", "-o", "pci.0.2.0.backend=slirp", "-o", f"pci.0.2.0.hostfwd={rule}"]
    with pytest.raises(BhyveError) as error:
        arguments([*words, "vm1"])
    assert error.value.before == (f"Unable to parse hostfwd rule '{rule}': Invalid argument",)
    assert error.value.exit_status == 4


def test_a_tap_whose_name_cannot_be_one() -> None:
    for name in ("tap-of-a-name-too-long", "tap0,script=x"):
        words = ["-o", "pci.0.2.0.device=virtio-net", "-o", f"pci.0.2.0.backend={name}", "vm1"]
        with pytest.raises(BhyveError) as error:
            arguments(words)
        assert error.value.before == (f"open of tap device /dev/{name} failed",)


@pytest.mark.usefixtures("everything_is_there")
def test_commas_cannot_add_options() -> None:
    """What -o sets may contain any character; so may serial numbers, names and paths."""
    words = [
        *("-o", "pci.0.2.0.device=virtio-blk", "-o", "pci.0.2.0.path=/a,readonly=off", "-o", "pci.0.2.0.ser=x,y=z"),
        *("-o", "pci.0.3.0.device=virtio-9p", "-o", "pci.0.3.0.path=/d,x=y", "-o", "pci.0.3.0.sharename=t,u=v"),
        *("-o", "pci.0.4.0.device=virtio-console", "-o", "pci.0.4.0.port.0.name=n,o=p"),
        *("-o", "pci.0.4.0.port.0.path=/s,t=u", "-o", "bios.vendor=v,w=x", "vm1"),
    ]
    for word in arguments(words):
        alone = word.replace(",,", "")
        for key in ("readonly=off", "y=z", "x=y", "u=v", "o=p", "t=u", "w=x"):
            assert f",{key}" not in alone


NAMES = st.sampled_from(
    ["device", "path", "backend", "ro", "ser", "mac", "port.0.path", "port.0.type", "port.7.path", "tcp"]
)
KINDS = st.sampled_from(["ahci", "nvme", "virtio-blk", "virtio-net", "e1000", "fbuf", "uart", "virtio-console", "xhci"])
VALUES = (
    KINDS
    | st.sampled_from(["/dev/null", "tap0", "slirp", "hd", "stdio", "[::1]:5901"])
    | st.text("a,:=/%0.[\udcff", max_size=6)
)
SLOTS = st.tuples(st.integers(0, 2), st.integers(0, 31), st.integers(0, 7))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(SLOTS, st.lists(st.tuples(NAMES, VALUES), max_size=4)), max_size=4))
def test_any_tree_becomes_arguments_or_a_refusal(devices: list[tuple[tuple[int, ...], list[tuple[str, str]]]]) -> None:
    line = CommandLine("current", lambda _: None)
    try:
        for place, values in devices:
            for name, value in values:
                line.option("o", f"pci.{place[0]}.{place[1]}.{place[2]}.{name}={value}")
        command = guest_arguments(guest_of(line.config, "vm1", "current", "host"), "tcg", (), Named())
    except (BhyveError, HandoffError) as error:
        assert error.exit_status in (4, 64)
        return
    assert len(command) % 2 == 0 and all(word.startswith("-") for word in command[::2])


def test_no_permission(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither to write nor to read; only to write is a disk that is read-only."""
    image = tmp_path / "disk"
    image.write_bytes(bytes(512))
    real, denied = os.open, [os.O_RDWR]

    def refusing(path: str, flags: int, *more: int) -> int:
        if path == str(image) and flags & os.O_ACCMODE in denied:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", refusing)
    command = guest_arguments(guest(["-s", f"2,virtio-blk,{image}", "vm1"]), "tcg", (), Paths())
    assert "read-only=on" in command[command.index("-blockdev") + 1]
    denied.append(os.O_RDONLY)
    with pytest.raises(BhyveError) as error:
        arguments(["-s", f"2,virtio-blk,{image}", "vm1"])
    assert error.value.before == (
        f"bhyve: Could not open backing file: {image}: Permission denied",
        "Could not open backing file: Permission denied",
    )


def test_the_line_for_freebsd_is_one_that_we_take() -> None:
    """support/bhyve_command.py writes bhyve(8)'s command line; read back, it is the same guest."""
    disks = [Disk("/a", read_only=True), Disk("/b", sector_size=4096)]
    command = bhyve_command("vm1", 1 << 30, disks, cpus=2, tap="tap0", wired=True)
    one = guest(command[1:])
    assert (one.name, one.topology.cpus, one.wired) == ("vm1", 2, True)
    backings = [device.backing for device in one.devices if isinstance(device, dev.VirtioBlock)]
    assert [(backing.path, backing.read_only, backing.logical) for backing in backings] == [
        ("/a", True, 0),
        ("/b", False, 4096),
    ]
    assert one.serial_ports[0].backend == dev.Stdio()
    assert any(isinstance(device, dev.Nic) and device.backend == dev.Tap("tap0") for device in one.devices)
