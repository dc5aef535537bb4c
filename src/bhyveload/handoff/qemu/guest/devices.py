"""Each of bhyve's PCI devices as QEMU's arguments.

Ids and registers are bhyve's where QEMU can: virtio is the legacy kind (``disable-modern``), e1000 is the 82545EM.
What QEMU cannot have is one line that says what to do instead, before anything has been started.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import socket
import stat

from bhyveload.bhyve import devices as dev
from bhyveload.bhyve.start import uart_name
from bhyveload.bhyve.starting import failed_start
from bhyveload.errors import HandoffError
from bhyveload.handoff.qemu.command import PROGRAM
from bhyveload.handoff.qemu.drives import ERRORS, option_value
from bhyveload.handoff.qemu.guest.blocks import Blocks, Sectors
from bhyveload.handoff.qemu.guest.consoles import port_arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bhyveload.bhyve.emulations import Address
    from bhyveload.compat import LoaderVersion
    from bhyveload.errors import BhyveError
    from bhyveload.handoff.qemu.files import QemuFiles
    from bhyveload.handoff.qemu.guest.slots import Slots

AHCI_PORTS = 6  # of ich9-ahci
_TAG_MAX = 31
_INTERFACE_MAX = 15
_VNC_BASE = 5900
_FORWARD = re.compile(r"(tcp|udp)?:([0-9.]*):(\d{1,5})-([0-9.]*):(\d{1,5})", re.ASCII)


class DeviceBuilder:
    """Builds the devices of one guest.  ``msi_x``: virtio devices have MSI-X, else one interrupt line."""

    def __init__(self, slots: Slots, files: QemuFiles, blocks: Blocks, compat: LoaderVersion, msi_x: bool) -> None:
        self.compat = compat
        self.slots = slots
        self.files = files
        self.blocks = blocks
        self.msi_x = msi_x

    def arguments(self, device: dev.Device) -> list[str]:
        """What makes ``device``.  Raises BhyveError, HandoffError."""
        build: Callable[[DeviceBuilder, dev.Device], list[str]] = _BUILDERS[type(device)]
        return build(self, device)

    def device(self, kind: str, address: Address, *properties: str) -> list[str]:
        words = [kind, f"id={self.slots.name(address)}", self.slots.place(address), *properties]
        return ["-device", ",".join(word for word in words if word)]

    def virtio(self, kind: str, address: Address, *properties: str) -> list[str]:
        interrupts = "" if self.msi_x else "vectors=0"
        return self.device(kind, address, *properties, interrupts, "disable-modern=on")


def _virtio_block(builder: DeviceBuilder, device: dev.VirtioBlock) -> list[str]:
    name = f"{builder.slots.name(device.address)}.disk"
    block = builder.blocks.make(name, device.backing, lines=["Could not open backing file"])
    discard = "discard=off" if device.backing.no_delete else ""
    properties = [
        f"drive={name}",
        ERRORS,
        f"serial={option_value(device.serial)}",
        discard,
        *block.sectors.properties(),
    ]
    return block.arguments + builder.virtio("virtio-blk-pci", device.address, *properties, *block.properties)


def _ahci(builder: DeviceBuilder, device: dev.Ahci) -> list[str]:
    """QEMU's controller has 6 ports, bhyve's 32: the further ones get controllers behind it."""
    name = builder.slots.name(device.address)
    arguments = builder.device("ich9-ahci", device.address)
    controllers = {0: name}
    slot = device.address.slot
    for port in device.ports:
        number = port.number // AHCI_PORTS
        if number not in controllers:
            slot = builder.slots.free_slot(slot)
            controllers[number] = f"{name}.{number}"
            arguments += ["-device", f"ich9-ahci,id={controllers[number]},addr={slot:#x}.0x0"]
        arguments += _ahci_port(builder, port, f"{controllers[number]}.{port.number % AHCI_PORTS}", name)
    return arguments


def _ahci_port(builder: DeviceBuilder, port: dev.AhciPort, bus: str, controller: str) -> list[str]:
    name = f"{controller}.disk{port.number}"
    disk = port.kind == "hd"
    # else QEMU wants a CD for itself; its sectors are its own
    backing = port.backing if disk else port.backing._replace(read_only=True, logical=0, physical=0)
    block = builder.blocks.make(name, backing, writable=disk)
    if disk and block.sectors.logical not in (0, 512):
        instead = f"sectorsize=512/{block.sectors.physical}, or virtio-blk" if port.backing.logical else "virtio-blk"
        raise HandoffError(f"{port.backing.path}: QEMU's SATA disks have sectors of 512 bytes", f"use {instead}")
    properties = [
        f"bus={bus}",
        f"drive={name}",
        f"serial={option_value(port.serial)}",
        f"model={option_value(port.model)}",
    ]
    properties += [f"ver={option_value(port.revision)}"]
    if disk and port.rotation:
        properties.append(f"rotation_rate={port.rotation}")
    if disk:
        properties += [ERRORS, *block.sectors.properties()]
    return [*block.arguments, "-device", ",".join(["ide-hd" if disk else "ide-cd", *properties, *block.properties])]


def _nvme(builder: DeviceBuilder, device: dev.Nvme) -> list[str]:
    name = f"{builder.slots.name(device.address)}.disk"
    properties = [f"drive={name}", f"serial={option_value(device.serial)}", f"max_ioqpairs={device.queues}"]
    if device.backing is None:
        memory = builder.files.memory(device.ram << 20)
        node = ["-blockdev", f"driver=raw,node-name={name},file.driver={memory}"]
        return node + builder.device("nvme", device.address, *properties, *_nvme_sectors(device.sector_size))
    block = builder.blocks.make(name, device.backing, lines=["nvme: Could not open backing file"])
    properties += _nvme_sectors(device.sector_size or block.sectors.logical)
    return block.arguments + builder.device("nvme", device.address, *properties, *block.properties)


def _nvme_sectors(size: int) -> list[str]:
    """NVMe knows one size only."""
    return Sectors(size, size).properties()


def _network(builder: DeviceBuilder, device: dev.Nic) -> list[str]:
    name = f"{builder.slots.name(device.address)}.net"
    arguments: list[str] = []
    properties = [f"mac={device.mac}", "romfile="]  # no network boot: it would only take guest memory and time
    if device.backend is not None:
        arguments = ["-netdev", _net_backend(builder, name, device)]
        properties.insert(0, f"netdev={name}")
    if device.model == "e1000":
        return arguments + builder.device("e1000-82545em", device.address, *properties)
    if device.mtu:
        properties.append(f"host_mtu={device.mtu}")
    return arguments + builder.virtio("virtio-net-pci", device.address, *properties)


def _net_backend(builder: DeviceBuilder, name: str, device: dev.Nic) -> str:
    backend = device.backend
    if isinstance(backend, dev.Slirp):
        words = [f"user,id={name}", f"restrict={'off' if backend.open else 'on'}"]
        for rule in backend.forward:
            match = _FORWARD.fullmatch(rule)
            if (
                match is None
                or not all(0 < int(port) < 65536 for port in match.group(3, 5))
                or not all(_is_ipv4(text) for text in match.group(2, 4) if text)
            ):
                reason = os.strerror(errno.EINVAL)
                line = f"Unable to parse hostfwd rule '{rule}': {reason}"
                raise failed_start(builder.compat, reason, line, hint="as in hostfwd=tcp:127.0.0.1:2222-:22")
            words.append(f"hostfwd={rule}")
        return ",".join(words)
    assert backend is not None
    if isinstance(backend, dev.Tap):
        return _tap(builder, name, backend.interface)
    if not backend.kind and _is_tap(backend.name):
        return _tap(builder, name, backend.name)  # Linux calls its taps anything
    kind = backend.kind or f"the network '{backend.name}'"
    raise _impossible(
        device.address, f"{device.model} on {kind}", f"type=tap with a tap interface, {device.model},tapN or slirp"
    )


def _is_ipv4(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET, text)
    except OSError:
        return False
    return True


def _tap(builder: DeviceBuilder, name: str, interface: str) -> str:
    if not _is_interface_name(interface):
        raise _no_tap(builder.compat, interface, "no interface on Linux can have that name")
    try:
        return f"tap,id={name},{builder.files.tap(interface)}"
    except HandoffError as error:
        raise _no_tap(builder.compat, interface, error.hint or error.message) from None


def _is_interface_name(name: str) -> bool:
    return len(os.fsencode(name)) <= _INTERFACE_MAX and re.fullmatch(r"[\w.:@-]+", name) is not None


def _is_tap(name: str) -> bool:
    return _is_interface_name(name) and os.path.exists(f"/sys/class/net/{name}/tun_flags")


def _no_tap(compat: LoaderVersion, interface: str, hint: str) -> BhyveError:
    reason = os.strerror(errno.ENOENT)
    return failed_start(compat, reason, f"open of tap device /dev/{interface} failed", hint=hint)


def _random(builder: DeviceBuilder, device: dev.Random) -> list[str]:
    return builder.virtio("virtio-rng-pci", device.address)


def _virtio_console(builder: DeviceBuilder, device: dev.VirtioConsole) -> list[str]:
    name = builder.slots.name(device.address)
    arguments = builder.virtio("virtio-serial-pci", device.address, "max_ports=17")
    for port in device.ports:
        chardev = f"{name}.port{port.number}"
        try:
            where = builder.files.unix_listener(port.path)
        except OSError as error:
            line = f"cannot create port {port.number}: {error.strerror}"
            raise failed_start(builder.compat, str(error.strerror), line, hint=port.path) from None
        arguments += ["-chardev", f"socket,id={chardev},{where},server=on,wait=off"]
        # QEMU keeps port 0 for its console
        words = [f"bus={name}.0", f"nr={port.number + 1}", f"chardev={chardev}", f"name={option_value(port.name)}"]
        arguments += ["-device", ",".join(["virtserialport", *words])]
    return arguments


def _share(builder: DeviceBuilder, device: dev.Share) -> list[str]:
    if len(os.fsencode(device.tag)) > _TAG_MAX:
        raise HandoffError(f"virtio-9p: share name '{device.tag}': QEMU's have at most {_TAG_MAX} bytes")
    try:
        os.listdir(device.path)
    except OSError as error:
        line = f"virtio-9p: failed to open '{device.path}': {error.strerror}"
        raise failed_start(builder.compat, str(error.strerror), line) from None
    name = f"{builder.slots.name(device.address)}.share"
    read_only = ",readonly=on" if device.read_only else ""
    share = f"local,id={name},path={option_value(device.path)},security_model=none{read_only}"
    tag = f"mount_tag={option_value(device.tag)}"
    return ["-fsdev", share, *builder.virtio("virtio-9p-pci", device.address, f"fsdev={name}", tag)]


def _input(builder: DeviceBuilder, device: dev.InputDevice) -> list[str]:
    try:
        os.close(os.open(device.path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError as error:
        line = f"virtio-input: failed to open '{device.path}': {error.strerror}"
        raise failed_start(builder.compat, str(error.strerror), line) from None
    return builder.virtio("virtio-input-host-pci", device.address, f"evdev={option_value(device.path)}")


def _pci_serial(builder: DeviceBuilder, device: dev.PciSerial) -> list[str]:
    name = f"{builder.slots.name(device.address)}.port"
    chardev, arguments = port_arguments(name, device.backend, builder.files, uart_name(device.address), builder.compat)
    return arguments + builder.device("pci-serial", device.address, f"chardev={chardev}", _programming_interface())


@functools.cache
def _programming_interface() -> str:
    """FreeBSD's uart(4) takes a serial port that it does not know only with an interface older than the 16550A's
    (uart_bus_pci.c:uart_pci_probe).  Since version 11 QEMU's cannot have another one."""
    import subprocess  # nothing else here runs QEMU twice

    try:
        told = subprocess.run([PROGRAM, "-device", "pci-serial,help"], capture_output=True, check=False).stdout
    except OSError:  # what cannot be started is told when it is
        return ""
    return "prog_if=1" if b" prog_if=" in told else ""


def _frame_buffer(builder: DeviceBuilder, device: dev.FrameBuffer) -> list[str]:
    if device.path:
        raise HandoffError(f"fbuf: VNC on the socket {device.path} is not possible here", "tcp=127.0.0.1:5900")
    if device.port < _VNC_BASE:
        raise HandoffError(f"fbuf: VNC on port {device.port}: QEMU's begin at {_VNC_BASE}", f"tcp=:{_VNC_BASE}")
    host = f"[{device.host}]" if ":" in device.host else device.host
    vnc = f"{option_value(host)}:{device.port - _VNC_BASE}"
    arguments: list[str] = []
    if device.password:
        secret = f"{builder.slots.name(device.address)}.password"
        data = builder.files.secret(device.password)
        arguments += ["-object", f"secret,id={secret},{data}"]
        vnc += f",password-secret={secret}"
    arguments += ["-vnc", vnc]
    screen = ["vgamem_mb=32", f"xres={device.width}", f"yres={device.height}"]
    return arguments + builder.device("VGA", device.address, *screen)


def _usb(builder: DeviceBuilder, device: dev.Usb) -> list[str]:
    name = builder.slots.name(device.address)
    tablets = [word for _ in range(device.tablets) for word in ("-device", f"usb-tablet,bus={name}.0")]
    return builder.device("nec-usb-xhci", device.address) + tablets


def _sound(builder: DeviceBuilder, device: dev.Sound) -> list[str]:
    name = builder.slots.name(device.address)
    codec = ["-device", f"hda-duplex,bus={name}.0,audiodev={name}.audio"]
    return ["-audiodev", f"none,id={name}.audio", *builder.device("ich9-intel-hda", device.address), *codec]


def _scsi(builder: DeviceBuilder, device: dev.Scsi) -> list[str]:
    """bhyve has FreeBSD's CAM target layer there; a file or disk is what QEMU can make of it."""
    if not (os.path.isfile(device.device) or stat.S_ISBLK(_mode(device.device))):
        raise _impossible(device.address, f"virtio-scsi on {device.device}", "a disk's path, or virtio-blk")
    name = builder.slots.name(device.address)
    block = builder.blocks.make(f"{name}.disk", dev.Backing(device.device))
    words = ["scsi-hd", f"bus={name}.0", f"drive={name}.disk", ERRORS, *block.properties]
    return [*block.arguments, *builder.virtio("virtio-scsi-pci", device.address), "-device", ",".join(words)]


def _mode(path: str) -> int:
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0


def _passthru(_builder: DeviceBuilder, device: dev.Passthru) -> list[str]:
    raise _impossible(device.address, f"passthru of {device.device}", "a device that is emulated")


def _impossible(address: Address, what: str, instead: str) -> HandoffError:
    return HandoffError(f"pci slot {address}: {what} is not possible here (QEMU on Linux)", f"use {instead}")


_BUILDERS: dict[type, Callable[[DeviceBuilder, Any], list[str]]] = {
    dev.Ahci: _ahci,
    dev.FrameBuffer: _frame_buffer,
    dev.InputDevice: _input,
    dev.Nic: _network,
    dev.Nvme: _nvme,
    dev.Passthru: _passthru,
    dev.PciSerial: _pci_serial,
    dev.Random: _random,
    dev.Scsi: _scsi,
    dev.Share: _share,
    dev.Sound: _sound,
    dev.Usb: _usb,
    dev.VirtioBlock: _virtio_block,
    dev.VirtioConsole: _virtio_console,
}
