"""From the tree to the machine: processors, memory, identities and devices as values, in bhyve's words."""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING

import pytest

from bhyveload.bhyve import devices as dev
from bhyveload.bhyve.command_line import CommandLine
from bhyveload.bhyve.emulations import Address
from bhyveload.bhyve.guest import BhyveGuest, Topology, guest_of, memory_of, pins_of, topology_of
from bhyveload.bhyve.identity import disk_serial, mac_address, machine_uuid, parse_mac
from bhyveload.bhyve.usage import SHORT_OPTIONS
from bhyveload.cli.getopt import getopt
from bhyveload.errors import BhyveError
from support.bhyve_lines import LINES

if TYPE_CHECKING:
    from bhyveload.compat import LoaderVersion


def command_line(words: list[str], compat: LoaderVersion = "current") -> CommandLine:
    line = CommandLine(compat, lambda _: None)
    for option, argument in getopt(words, SHORT_OPTIONS[compat])[0]:
        line.option(option, argument or "")
    return line


def guest(*words: str, name: str = "vm1", compat: LoaderVersion = "current") -> BhyveGuest:
    return guest_of(command_line(list(words), compat).config, name, compat, "host")


def device(slot: str, *words: str) -> dev.Device:
    (found,) = guest("-s", slot, *words).devices
    return found


def refusal(*words: str, compat: LoaderVersion = "current") -> BhyveError:
    with pytest.raises(BhyveError) as error:
        guest(*words, compat=compat)
    return error.value


@pytest.mark.parametrize(
    ("text", "topology"),
    [
        ("1", (1, 1, 1, 1)),
        ("4", (4, 4, 1, 1)),
        ("0x10", (16, 16, 1, 1)),
        ("010", (8, 8, 1, 1)),
        (" +4", (4, 4, 1, 1)),
        ("0000000000000000000000000000004", (4, 4, 1, 1)),
        ("4,cores=2,sockets=2", (4, 2, 2, 1)),
        ("sockets=2,cores=2,threads=2", (8, 2, 2, 2)),
        ("cores=2", (2, 1, 2, 1)),
    ],
)
def test_topologies(text: str, topology: tuple[int, ...]) -> None:
    assert topology_of(command_line(["-c", text]).config) == Topology(*topology)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2,cores=2", "Topology (2 sockets, 2 cores, 1 threads) does not match 2 vCPUs"),
        ("0", "Invalid value for cpus: '0'"),
        ("65536", "Invalid value for cpus: '65536'"),
        ("4x", "Invalid value for cpus: '4x'"),
        ("0x", "Invalid value for cpus: '0x'"),
        ("08", "Invalid value for cpus: '08'"),
        ("-1", "Invalid value for cpus: '-1'"),
        ("99999999999999999999", "Invalid value for cpus: '99999999999999999999'"),
        ("\u0664", "Invalid value for cpus: '\u0664'"),
        ("cores=", "Invalid value for cores: ''"),
        ("sockets=65535,cores=2", "Computed number of vCPUs too high: 131070"),
    ],
)
def test_topologies_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(BhyveError) as error:
        topology_of(command_line(["-c", text]).config)
    assert (error.value.message, error.value.exit_status) == (message, 4)


def test_pins() -> None:
    config = command_line(["-p", "0:1", "-p", "0:3", "-o", "vcpu.1.cpuset=0,4-6"]).config
    assert pins_of(config, 2, "current") == {0: {1, 3}, 1: {0, 4, 5, 6}}
    config = command_line(["-o", "vcpu.0.cpuset=0x10-0x11, 010,+3"]).config  # strtoul(3)
    assert pins_of(config, 1, "current") == {0: {16, 17, 8, 3}}
    for text, message in (
        ("x", "invalid cpuset for vcpu 0: 'x'"),
        ("5-2", "Invalid hostcpu range 5-2"),
        ("1-2-3", "invalid cpuset for vcpu 0: '1-2-3'"),
        ("1024", "hostcpu '1024' outside valid range from 0 to 1023"),
        ("-1", "hostcpu '-1' outside valid range from 0 to 1023"),
        ("9999x", "hostcpu '9999' outside valid range from 0 to 1023"),
        ("1,", "invalid cpuset for vcpu 0: '1,'"),
        ("1-", "invalid cpuset for vcpu 0: '1-'"),
        ("1x", "invalid cpuset for vcpu 0: '1x'"),
        ("\u0663", "invalid cpuset for vcpu 0: '\u0663'"),
    ):
        with pytest.raises(BhyveError) as error:
            pins_of(command_line(["-o", f"vcpu.0.cpuset={text}"]).config, 1, "current")
        assert error.value.message == message


def test_memory() -> None:
    assert memory_of(command_line(["-m", "214"]).config, "current") == 214 << 20
    with pytest.raises(BhyveError) as error:
        memory_of(command_line(["-m", "1X"]).config, "current")
    assert (error.value.message, error.value.exit_status) == ("invalid memsize '1X'", 64)


def test_made_up_identities() -> None:
    assert mac_address("vm1", 3, 0) == "00:a0:98:ee:08:2b"
    assert mac_address("linuxguest", 2, 0) == "00:a0:98:d2:16:22"
    # net_utils.c:net_genmac hashes 79 characters at most
    assert mac_address("n" * 229, 31, 7) == "00:a0:98:" + hashlib.md5(b"31-7-" + b"n" * 74).digest()[:3].hex(":")
    assert mac_address("n" * 74, 31, 7) == mac_address("n" * 75, 31, 7) != mac_address("n" * 73, 31, 7)
    assert disk_serial("/my/image") == "BHYVE-F107-1665-99C3"
    digest = bytearray(hashlib.md5(b"vm1" + b"host".ljust(256, b"\0")).digest())
    digest[6] = digest[6] & 15 | 0x30
    digest[8] = digest[8] & 63 | 128
    assert uuid.UUID(machine_uuid("vm1", "host")).bytes_le == bytes(digest)


@pytest.mark.parametrize(
    ("text", "mac"),
    [
        ("52:54:00:00:00:01", "52:54:00:00:00:01"),
        ("2:4:6:8:A:c", "02:04:06:08:0a:0c"),
        ("01:00:00:00:00:01", None),
        ("00:00:00:00:00:00", None),
        ("52:54:00:00:00", None),
        ("52:54:00:00:00:100", None),
        ("52:54:00:00:00:", None),
        ("52-54-00-00-00-01", None),
    ],
)
def test_mac_addresses(text: str, mac: str | None) -> None:
    assert parse_mac(text) == mac


A = Address(0, 2, 0)


@pytest.mark.parametrize(
    ("slot", "value"),
    [
        ("2,virtio-blk,/my/image", dev.VirtioBlock(A, dev.Backing("/my/image"), "BHYVE-F107-1665-99C3")),
        (
            "2,virtio-blk,/i,ro,nocache,direct,nodelete,sectorsize=512/4096,serial=0123456789012345678901",
            dev.VirtioBlock(A, dev.Backing("/i", True, True, True, True, 512, 4096), "01234567890123456789"),
        ),
        ("2,nvme,/i", dev.Nvme(A, dev.Backing("/i"), 0, "NVME-2-0", 16, 0)),
        ("2,nvme,ram=16,ser=X,maxq=2,sectsz=512", dev.Nvme(A, None, 16, "X", 2, 512)),
        ("2,nvme,ram=16", dev.Nvme(A, None, 16, "NVME-2-0", 16, 4096)),
        ("2,nvme,/i,maxq=17,sectsz=1024", dev.Nvme(A, dev.Backing("/i"), 0, "NVME-2-0", 16, 0)),
        ("2,nvme,/i,maxq=-1", dev.Nvme(A, dev.Backing("/i"), 0, "NVME-2-0", 16, 0)),
        ("2,virtio-blk,/i,ser=A,serial=B", dev.VirtioBlock(A, dev.Backing("/i"), "B")),
        ("2,virtio-blk,/i,ser=A,sectorsize=0", dev.VirtioBlock(A, dev.Backing("/i"), "A")),
        ("2,virtio-net,tap0,mtu=0x5dc", dev.Nic(A, "virtio-net", dev.Tap("tap0"), mac_address("vm1", 2, 0), 1500)),
        ("2,fbuf,tcp=0", dev.FrameBuffer(A, "127.0.0.1", 5900, "", 1024, 768, "io", False, "")),
        ("2,fbuf,tcp=[::1]", dev.FrameBuffer(A, "::1", 5900, "", 1024, 768, "io", False, "")),
        ("2,fbuf,tcp=h:x", dev.FrameBuffer(A, "h", 5900, "", 1024, 768, "io", False, "")),
        ("2,virtio-net", dev.Nic(A, "virtio-net", None, mac_address("vm1", 2, 0), 0)),
        (
            "2,virtio-net,tap0,mtu=1400",
            dev.Nic(A, "virtio-net", dev.Tap("tap0"), mac_address("vm1", 2, 0), 1400),
        ),
        (
            "2,virtio-net,vmnet3,mac=2:4:6:8:a:c",
            dev.Nic(A, "virtio-net", dev.Tap("vmnet3"), "02:04:06:08:0a:0c", 0),
        ),
        ("2,virtio-net,br7,type=tap", dev.Nic(A, "virtio-net", dev.Tap("br7"), mac_address("vm1", 2, 0), 0)),
        ("2,e1000,slirp", dev.Nic(A, "e1000", dev.Slirp(False, ()), mac_address("vm1", 2, 0), 0)),
        (
            "2,e1000,slirp,open,hostfwd=tcp::2222-:22;udp::53-:53",
            dev.Nic(A, "e1000", dev.Slirp(True, ("tcp::2222-:22", "udp::53-:53")), mac_address("vm1", 2, 0), 0),
        ),
        (
            "2,virtio-net,vale0:p",
            dev.Nic(A, "virtio-net", dev.OtherNetwork("vale", "vale0:p"), mac_address("vm1", 2, 0), 0),
        ),
        (
            "2,virtio-net,eth0",
            dev.Nic(A, "virtio-net", dev.OtherNetwork("", "eth0"), mac_address("vm1", 2, 0), 0),
        ),
        ("2,virtio-rnd", dev.Random(A)),
        ("2,virtio-console,a=/s", dev.VirtioConsole(A, (dev.ConsolePort(0, "a", "/s"),))),
        ("2,virtio-9p,t=/d,ro", dev.Share(A, "t", "/d", True)),
        ("2,virtio-input,/dev/input/event0", dev.InputDevice(A, "/dev/input/event0")),
        ("2,uart,stdio", dev.PciSerial(A, dev.Stdio())),
        ("2,uart", dev.PciSerial(A, None)),
        ("2,xhci,tablet", dev.Usb(A, 1)),
        ("2,xhci", dev.Usb(A, 0)),
        ("2,hda,play=/dev/dsp0", dev.Sound(A, "/dev/dsp0", "")),
        ("2,virtio-scsi", dev.Scsi(A, "/dev/cam/ctl")),
        ("2,fbuf", dev.FrameBuffer(A, "127.0.0.1", 5900, "", 1024, 768, "io", False, "")),
        (
            "2,fbuf,rfb=[::1]:5901,w=800,h=600,vga=off,wait,password=p",
            dev.FrameBuffer(A, "::1", 5901, "", 800, 600, "off", True, "p"),
        ),
        ("2,fbuf,tcp=5902", dev.FrameBuffer(A, "127.0.0.1", 5902, "", 1024, 768, "io", False, "")),
        ("2,fbuf,tcp=unix:/run/v", dev.FrameBuffer(A, "", 0, "/run/v", 1024, 768, "io", False, "")),
    ],
)
def test_devices(slot: str, value: dev.Device) -> None:
    assert device(slot) == value


def test_ahci_ports_have_bhyves_identities() -> None:
    found = device("2,ahci,hd:/tmp/freebsd1.img,nmrr=7200,ser=BHYVE-SER01-0001,cd:/tmp/cd.iso")
    assert found == dev.Ahci(
        A,
        (
            dev.AhciPort(0, "hd", dev.Backing("/tmp/freebsd1.img"), "BHYVE-SER01-0001", "001", "BHYVE SATA DISK", 7200),
            dev.AhciPort(
                1, "cd", dev.Backing("/tmp/cd.iso"), disk_serial("/tmp/cd.iso"), "001", "BHYVE SATA DVD ROM", 0
            ),
        ),
    )
    assert device("2,ahci") == dev.Ahci(A, ())


def test_order_is_that_of_the_bus() -> None:
    found = guest(
        "-s", "31:1,virtio-rnd", "-s", "10,virtio-rnd", "-s", "2,virtio-rnd", "-s", "1:0:0,virtio-rnd"
    ).devices
    assert [str(one.address) for one in found] == ["0:2:0", "0:10:0", "0:31:1", "1:0:0"]
    assert guest("-o", "pci.0.04.0.device=virtio-rnd").devices == ()  # not a slot's name


def test_serial_ports_belong_to_the_lpc_bridge() -> None:
    assert guest("-l", "com1,stdio").serial_ports == ()
    ports = guest(
        "-s", "1,lpc", "-l", "com1,stdio", "-l", "com2,tcp=127.0.0.1:99", "-l", "com4,/dev/nmdm0A"
    ).serial_ports
    assert [port.backend for port in ports] == [
        dev.Stdio(),
        dev.Tcp("127.0.0.1", 99),
        None,
        dev.TerminalPort("/dev/nmdm0A"),
    ]
    v6 = guest("-s", "1,lpc", "-l", "com1,tcp=[::1]:99").serial_ports[0]
    assert v6.backend == dev.Tcp("::1", 99)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["-s", "2,virtio-blk"], 'Missing "path" for block device.'),
        (["-s", "2,ahci-cd"], 'Missing "path" for block device.'),
        (["-s", "2,virtio-blk,/x,sectorsize=abc"], 'Invalid sector size "abc"'),
        (["-s", "2,virtio-blk,/x,sectorsize=512x"], 'Invalid sector size "512x"'),
        (["-s", "2,virtio-blk,/x,sectorsize=512/"], 'Invalid sector size "512/"'),
        (["-s", "2,virtio-blk,/x,sectorsize=512/4096/8192"], 'Invalid sector size "512/4096/8192"'),
        (["-s", "2,virtio-blk,/x,sectorsize=513"], "Invalid sector size 513/513"),
        (["-s", "2,virtio-blk,/x,sectorsize=-512"], "Invalid sector size -512/-512"),
        (["-o", "pci.0.2.0.device=virtio-blk", "-o", "pci.0.2.0.sectorsize=x"], 'Invalid sector size "x"'),
        (["-s", "2,virtio-blk,/x,sectorsize=4096/512"], "Invalid sector size 4096/512"),
        (["-s", "2,virtio-net,tap0,mac=ff:ff:ff:ff:ff:ff"], "Invalid MAC ff:ff:ff:ff:ff:ff"),
        (["-s", "2,xhci,mouse"], 'pci_xhci: unknown device model "mouse"'),
        (
            ["-s", "2,xhci,tablet,tablet,tablet,tablet,tablet"],
            "pci_xhci max number of USB 2 or 3 devices reached, max 4",
        ),
        (["-s", "2,xhci", "-o", "pci.0.2.0.slot.65.device=tablet"], "pci_xhci: invalid slot '65'"),
        (["-s", "2,xhci", "-o", "pci.0.2.0.slot.x.device=tablet"], "pci_xhci: invalid slot 'x'"),
        (["-s", "2,xhci,tablet", "-o", "pci.0.2.0.slot.0x1.device=tablet"], "pci_xhci: duplicate slot '0x1'"),
        (["-s", "2,xhci", "-o", "pci.0.2.0.slot.2=x"], "pci_xhci: config variable '2' under slot node"),
        (["-s", "2,xhci", "-o", "pci.0.2.0.slot.2.y=x"], "pci_xhci: missing \"device\" value for slot '2'"),
        (["-s", "2,nvme,/x,qsz=0"], "nvme: Invalid qsz option 0"),
        (["-s", "2,nvme,/x,ioslots=-1"], "Invalid ioslots option -1"),
        (["-s", "2,nvme,ram=0"], "nvme: Unable to allocate RAM"),
        (["-s", "1,lpc", "-s", "31,lpc"], "Only one LPC bridge is allowed."),
        (["-s", "1:1:0,lpc"], "LPC bridge can be present only on bus 0."),
        (["-s", "2,fbuf", "-s", "3,fbuf"], "Only one frame buffer device is allowed."),
        (["-s", "2,fbuf,vga=maybe"], 'fbuf: Invalid vga setting: "maybe"'),
        (["-s", "2,fbuf,tcp=[::1"], 'fbuf: Invalid IPv6 address: "[::1"'),
        (["-s", "2,fbuf,tcp=h:"], 'fbuf: Missing port number: "h:"'),
        (["-s", "2,fbuf,tcp=[::1]:"], 'fbuf: Missing port number: "[::1]:"'),
        (["-s", "2,fbuf,tcp=[::1]x"], 'fbuf: Invalid IPv6 address: "[::1]x"'),
        (["-s", "2,fbuf,tcp=-1"], 'fbuf: Invalid port number: "-1"'),
        (["-s", "2,fbuf,tcp=h:65536"], 'fbuf: Invalid port number: "h:65536"'),
        (["-s", "2,passthru,ppt0"], "passthru requires guest memory to be wired"),
        (["-s", "2,virtio-9p"], "virtio-9p: path required"),
        (["-o", "pci.0.2.0.device=ahci-hd"], 'pci slot 0:2:0: legacy device "ahci-hd", use "ahci" instead'),
        (["-o", "pci.0.2.0.device=nosuch"], 'pci slot 0:2:0: unknown device "nosuch"'),
        (["-o", "pci.0.2.0.path=/x"], 'pci slot 0:2:0: missing "device" value'),
    ],
)
def test_start_errors(words: list[str], line: str) -> None:
    error = refusal(*words)
    assert error.before == (line,)
    assert error.message == "Device emulation initialization error: Invalid argument"
    assert (error.bare, error.exit_status) == (True, 4)
    assert refusal(*words, compat="13.2").message == "device emulation initialization error: Invalid argument"


@pytest.mark.parametrize(
    ("size", "now", "before"),
    [
        ("w=640,h=480", (640, 480), (640, 480)),
        ("w=3840,h=2160", (3840, 2160), "fbuf: width 3840 too large"),
        ("w=1920,h=2160", (1920, 2160), "fbuf: height 2160 too large"),
        ("w=3841", "fbuf: max resolution is 3840x2160", "fbuf: width 3841 too large"),
        ("h=479", "fbuf: minimum resolution is 640x480", (1024, 479)),
        ("w=0,h=x", "fbuf: minimum resolution is 640x480", (1920, 1080)),
        ("w=66336", (800, 768), (800, 768)),  # both keep 16 bits
        ("w=-1", "fbuf: max resolution is 3840x2160", "fbuf: width 65535 too large"),
    ],
)
def test_screens_of_both_generations(size: str, now: tuple[int, int] | str, before: tuple[int, int] | str) -> None:
    """pci_fbuf.c:pci_fbuf_parse_config, and 13.2's."""
    both: dict[LoaderVersion, tuple[int, int] | str] = {"current": now, "13.2": before}
    for compat, wanted in both.items():
        words = ("-s", f"2,fbuf,{size}")
        if isinstance(wanted, str):
            assert refusal(*words, compat=compat).before == (wanted,)
        else:
            (screen,) = guest(*words, compat=compat).devices
            assert isinstance(screen, dev.FrameBuffer)
            assert (screen.width, screen.height) == wanted


@pytest.mark.parametrize("mtu", ["45", "65536", "1500x", "-1500", "x", "-18446744073709550116"])
def test_an_mtu_that_cannot_be(mtu: str) -> None:
    error = refusal("-s", f"2,virtio-net,tap0,mtu={mtu}")
    assert (error.before, error.hint) == ((), f"mtu={mtu}: must be 46 to 65535")


def test_console_errors() -> None:
    error = refusal("-s", "1,lpc", "-l", "com1,stdio", "-l", "com2,stdio")
    assert error.before == ("Unable to initialize backend 'stdio' for LPC device com2",)
    error = refusal("-s", "1,lpc", "-l", "com1,tcp=127.0.0.1")
    assert error.before == (
        "bhyve: Invalid number of parameter",
        "Unable to initialize backend 'tcp=127.0.0.1' for LPC device com1",
    )

    error = refusal("-s", "2,uart,stdio", "-s", "1:3:4,uart,stdio")
    assert error.before == ("Unable to initialize backend 'stdio' for pci uart at 3:4",)


def test_a_network_without_backend_is_an_error_for_e1000_only() -> None:
    error = refusal("-s", "2,e1000")
    assert (error.exit_status, error.hint) == (4, "e1000 wants a network: e1000,tapN or e1000,slirp")


def test_other_settings() -> None:
    one = guest("-u", "-S", "-C", "-D", "-x", "-W", "-G", "w:5", "-K", "de", "-o", "bios.vendor=LENOVO")
    assert (one.local_time, one.wired, one.incore, one.destroy_on_power_off) == (False, True, True, True)
    assert (one.x2apic, one.msi_x, one.keyboard) == (True, False, "de")
    assert one.debug is not None and one.debug == ("localhost", 5, True)
    assert one.smbios["bios"] == {"vendor": "LENOVO", "version": "14.0", "release_date": "10/17/2021"}
    plain = guest()
    assert (plain.local_time, plain.debug, plain.uuid) == (True, None, machine_uuid("vm1", "host"))
    assert guest("-U", "5D8AB6EE-1111-4222-8333-0123456789AB").uuid == "5d8ab6ee-1111-4222-8333-0123456789ab"
    assert refusal("-U", "5d8ab6ee").message == "Invalid UUID"
    assert guest("-U", "").uuid == "00000000-0000-0000-0000-000000000000"  # uuid_from_string(3)
    assert guest("-G", "0").debug is None
    for port in ("", "x", "12x", "-1", "65536", "\u0663"):
        assert refusal("-G", port).message == f"gdb address resolution: '{port}' is no port"


@pytest.mark.parametrize("name", [name for name in LINES if name not in ("manual-8-disks", "libvirt-commandline")])
def test_real_lines_become_machines(name: str) -> None:
    words = LINES[name].words
    assert guest(*words[:-1], name=words[-1]).topology.cpus >= 1
