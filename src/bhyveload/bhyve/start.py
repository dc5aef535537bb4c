"""From the tree to devices: what each emulation makes of its node when bhyve(8) starts (pci_emul.c:init_pci).

Devices come in the order of bus, slot and function, whatever the command line's was.  An error is the emulation's own
line and then init_pci's.
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

from bhyveload.bhyve import devices as dev
from bhyveload.bhyve.block import backing_of, leading_number
from bhyveload.bhyve.emulations import AHCI_PORTS, CONSOLE_PORTS, EMULATIONS, MAX_BUS, MAX_FUNCTION, MAX_SLOT, Address
from bhyveload.bhyve.identity import SERIAL_LENGTH, disk_serial, mac_address, nvme_serial, parse_mac
from bhyveload.bhyve.starting import Start
from bhyveload.libc import strtol, strtoul

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bhyveload.bhyve.config import Config, ConfigNode
    from bhyveload.compat import LoaderVersion

_COM_PORTS = 4
_XHCI_DEVICES, _XHCI_SLOTS = 4, 64
_NVME_QUEUES = 16
_NVME_RAM_SECTOR = 4096
_NVME_RAM_MAX = 1 << 20  # MiB
_MTU_MIN, _MTU_MAX = 46, 65535
_TAG_MAX = 256
_SCREEN = 1024, 768
_SCREEN_MIN, _SCREEN_MAX = (640, 480), (3840, 2160)
_OLD_SCREEN_MAX, _OLD_SCREEN = (1920, 1200), (1920, 1080)  # 13.2: the latter for 0
_VNC_PORT = 5900
_CANONICAL = re.compile(r"0|[1-9]\d{0,2}", re.ASCII)


def start_devices(
    config: Config, name: str, compat: LoaderVersion
) -> tuple[tuple[dev.SerialPort, ...], tuple[dev.Device, ...]]:
    """The ISA serial ports (none without an LPC bridge) and the PCI devices.  Raises BhyveError."""
    start = Start(config, name, compat)
    serial_ports: tuple[dev.SerialPort, ...] | None = None
    found: list[dev.Device] = []
    kinds: set[str] = set()
    for address, node in _slots(config):
        kind = config.get_in(node, "device")
        if kind is None:
            raise start.failed(f'pci slot {address}: missing "device" value')
        emulation = EMULATIONS.get(kind)
        if emulation is None:
            raise start.failed(f'pci slot {address}: unknown device "{kind}"')
        if emulation.alias:
            raise start.failed(f'pci slot {address}: legacy device "{kind}", use "{emulation.alias}" instead')
        if kind in _ONLY_ONE and kind in kinds:
            raise start.failed(_ONLY_ONE[kind])
        kinds.add(kind)
        if kind == "lpc":
            if address.bus:
                raise start.failed("LPC bridge can be present only on bus 0.")
            serial_ports = _serial_ports(start)
        elif kind in _BUILDERS:
            found.append(_BUILDERS[kind](start, address, node))
    return serial_ports or (), tuple(found)


def _slots(config: Config) -> Iterator[tuple[Address, ConfigNode]]:
    buses = config.root.child("pci")
    for bus, slots in _numbered(buses, MAX_BUS):
        for slot, functions in _numbered(slots, MAX_SLOT):
            for function, node in _numbered(functions, MAX_FUNCTION):
                yield Address(bus, slot, function), node


def _numbered(node: ConfigNode | None, limit: int) -> list[tuple[int, ConfigNode]]:
    """The nodes below ``node`` whose names are numbers without leading zeros, up to ``limit``, in their order."""
    if node is None:
        return []
    named = [(name, node.child(name)) for name in node.entries if _CANONICAL.fullmatch(name)]
    return sorted(
        ((int(name), child) for name, child in named if child is not None and int(name) <= limit),
        key=lambda pair: pair[0],
    )


def _serial_ports(start: Start) -> tuple[dev.SerialPort, ...]:
    ports = []
    for number in range(_COM_PORTS):
        text = start.config.get(f"lpc.com{number + 1}.path")
        ports.append(dev.SerialPort(number, _console(start, text, f"LPC device com{number + 1}")))
    return tuple(ports)


def _console(start: Start, text: str | None, device: str) -> dev.Backend | None:
    """uart_backend.c:uart_set_backend."""
    if text is None:
        return None
    unable = f"Unable to initialize backend '{text}' for {device}"
    if text == "stdio":
        if start.stdio_taken:
            raise start.failed(unable, number=errno.EBUSY)
        start.stdio_taken = True
        return dev.Stdio()
    if text.startswith("tcp=") and start.compat == "current":
        host, colon, port = text[4:].rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            host = ""
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port[:6]) > 65535:
            raise start.failed("bhyve: Invalid number of parameter", unable)
        return dev.Tcp(host, int(port))
    if text.startswith("unix=/"):
        return dev.UnixSocket(text[5:])
    if not text or "\0" in text:
        raise start.failed(unable, number=errno.ENOENT)
    return dev.TerminalPort(text)


def _virtio_block(start: Start, address: Address, node: ConfigNode) -> dev.Device:
    backing = backing_of(start, node)
    serial = start.config.get_in(node, "serial") or start.config.get_in(node, "ser") or disk_serial(backing.path)
    return dev.VirtioBlock(address, backing, cut(serial, SERIAL_LENGTH))


def _ahci(start: Start, address: Address, node: ConfigNode) -> dev.Device:
    ports = []
    for number, port in _numbered(node.child("port"), AHCI_PORTS - 1):
        kind = start.config.get_in(port, "type")
        if kind not in ("hd", "cd"):
            raise start.failed(f'Missing or invalid type for port {number}: "{kind or ""}"')
        backing = backing_of(start, port)
        get = start.config.get_in
        ports.append(
            dev.AhciPort(
                number,
                kind,
                backing,
                serial=cut(get(port, "ser") or disk_serial(backing.path), SERIAL_LENGTH),
                revision=cut(get(port, "rev") or "001", 8),
                model=cut(get(port, "model") or f"BHYVE SATA {'DISK' if kind == 'hd' else 'DVD ROM'}", 40),
                rotation=leading_number(get(port, "nmrr") or "0") & 0xFFFF,
            )
        )
    return dev.Ahci(address, tuple(ports))


def _nvme(start: Start, address: Address, node: ConfigNode) -> dev.Device:
    """pci_nvme.c:pci_nvme_parse_config."""
    get = start.config.get_in
    for name, words in (("qsz", "nvme: Invalid qsz option"), ("ioslots", "Invalid ioslots option")):
        text = get(node, name)
        if text is not None and leading_number(text) <= 0:
            raise start.failed(f"{words} {leading_number(text)}")
    ram_text = get(node, "ram")
    backing = backing_of(start, node) if ram_text is None else None
    ram = leading_number(ram_text or "0")
    if backing is None and not 1 <= ram <= _NVME_RAM_MAX:
        raise start.failed("nvme: Unable to allocate RAM", hint=f"ram={ram_text}: 1 to {_NVME_RAM_MAX} MiB")
    queues = leading_number(get(node, "maxq") or "0")
    queues = queues if 0 < queues <= _NVME_QUEUES else _NVME_QUEUES
    sector_size = leading_number(get(node, "sectsz") or "0")
    if sector_size not in (512, 4096, 8192):
        sector_size = _NVME_RAM_SECTOR if backing is None else 0
    serial = get(node, "ser") or nvme_serial(address.slot, address.function)
    return dev.Nvme(address, backing, ram, cut(serial, SERIAL_LENGTH), queues, sector_size)


def _virtio_net(start: Start, address: Address, node: ConfigNode) -> dev.Device:
    return _network(start, address, node, "virtio-net")


def _e1000(start: Start, address: Address, node: ConfigNode) -> dev.Device:
    if start.config.get_in(node, "backend") is None:
        raise start.failed(hint="e1000 wants a network: e1000,tapN or e1000,slirp")
    return _network(start, address, node, "e1000")


def _network(start: Start, address: Address, node: ConfigNode, model: str) -> dev.Device:
    mac_text = start.config.get_in(node, "mac")
    if mac_text is None:
        mac: str | None = mac_address(start.name, address.slot, address.function)
    else:
        mac = parse_mac(mac_text)
    if mac is None:
        raise start.failed(f"Invalid MAC {mac_text}")
    mtu = 0
    mtu_text = start.config.get_in(node, "mtu") if model == "virtio-net" else None
    if mtu_text is not None:
        mtu, end = strtoul(mtu_text)
        if end != len(mtu_text) or mtu_text.startswith("-") or not _MTU_MIN <= mtu <= _MTU_MAX:
            raise start.failed(hint=f"mtu={mtu_text}: must be {_MTU_MIN} to {_MTU_MAX}")
    return dev.Nic(address, model, _net_backend(start, node), mac, mtu)


# net_backends.c, by prefix and in the order of their set; a longer name must come before its beginning.
_NETWORKS = ("tap", "vmnet", "netmap", "vale", "netgraph", "ngd", "slirp")


def _net_backend(start: Start, node: ConfigNode) -> dev.Tap | dev.Slirp | dev.OtherNetwork | None:
    """net_backends.c:netbe_init."""
    name = start.config.get_in(node, "backend")
    if name is None:
        return None
    kind = start.config.get_in(node, "type") or name
    prefix = next((prefix for prefix in _NETWORKS if kind.startswith(prefix)), "")
    if prefix in ("slirp", "ngd") and start.compat != "current":
        prefix = ""
    if prefix in ("tap", "vmnet"):
        return dev.Tap(name)
    if prefix == "slirp":
        forward = start.config.get_in(node, "hostfwd") or ""
        return dev.Slirp(start.config.truth_in(node, "open", False), tuple(filter(None, forward.split(";"))))
    return dev.OtherNetwork(prefix, name)


def _random(start: Start, address: Address, node: ConfigNode) -> dev.Device:
    return dev.Random(address)


def _virtio_console(start: Start, address: Address, node: ConfigNode) -> dev.Device:
    ports = []
    for number, port in _numbered(node.child("port"), CONSOLE_PORTS - 1):
        name, path = start.config.get_in(port, "name"), start.config.get_in(port, "path")
        if name is None or path is None:
            lacks = "name" if name is None else "path"
            raise start.failed(f"vtcon: missing {lacks} for port {number}")
        ports.append(dev.ConsolePort(number, name, path))
    return dev.VirtioConsole(address, tuple(ports))


def _share(start: Start, address: Address, node: ConfigNode) -> dev.Device:
    path, tag = start.config.get_in(node, "path"), start.config.get_in(node, "sharename")
    if path is None:
        raise start.failed("virtio-9p: path required")
    if tag is None:
        raise start.failed("virtio-9p: share name required")
    if len(os.fsencode(tag)) > _TAG_MAX:
        raise start.failed("virtio-9p: share name too long")
    return dev.Share(address, tag, path, start.config.truth_in(node, "ro", False))


def _input(start: Start, address: Address, node: ConfigNode) -> dev.Device:
    path = start.config.get_in(node, "path")
    if path is None:
        raise start.failed("virtio-input: missing required path config value")
    return dev.InputDevice(address, path)


def _uart(start: Start, address: Address, node: ConfigNode) -> dev.Device:
    return dev.PciSerial(address, _console(start, start.config.get_in(node, "path"), uart_name(address)))


def _frame_buffer(start: Start, address: Address, node: ConfigNode) -> dev.Device:
    get = start.config.get_in
    host, port, path = _vnc_address(start, get(node, "tcp") or get(node, "rfb") or "")
    if start.compat == "current" and (unix := get(node, "unix")):
        path = unix
    vga = get(node, "vga") or "io"
    if vga not in ("io", "on", "off"):
        raise start.failed(f'fbuf: Invalid vga setting: "{vga}"')
    width, height = _screen_size(start, get(node, "w"), get(node, "h"))
    wait = start.config.truth_in(node, "wait", False)
    return dev.FrameBuffer(address, host, port, path, width, height, vga, wait, get(node, "password") or "")


def _screen_size(start: Start, *texts: str | None) -> tuple[int, int]:
    """Width and height as bhyve's 16 bits hold them; each generation has its own bounds and words."""
    width, height = (
        default if text is None else leading_number(text) & 0xFFFF for text, default in zip(texts, _SCREEN, strict=True)
    )
    if start.compat == "13.2":
        for name, size, most in zip(("width", "height"), (width, height), _OLD_SCREEN_MAX, strict=True):
            if size > most:
                raise start.failed(f"fbuf: {name} {size} too large")
        return width or _OLD_SCREEN[0], height or _OLD_SCREEN[1]
    if width > _SCREEN_MAX[0] or height > _SCREEN_MAX[1]:
        raise start.failed("fbuf: max resolution is {}x{}".format(*_SCREEN_MAX))
    if width < _SCREEN_MIN[0] or height < _SCREEN_MIN[1]:
        raise start.failed("fbuf: minimum resolution is {}x{}".format(*_SCREEN_MIN))
    return width, height


def _vnc_address(start: Start, text: str) -> tuple[str, int, str]:
    """(host, port, Unix socket) of ``[host:]port``, ``[v6]:port`` or ``unix:path`` (pci_fbuf.c)."""
    if text.startswith("unix:") and start.compat == "current":
        return "", 0, text[5:]
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or not host or (port and port[0] != ":"):
            raise start.failed(f'fbuf: Invalid IPv6 address: "{text}"')
        colon, port = port[:1], port[1:]
    else:
        host, colon, port = text.partition(":")
        if not colon:
            host, port = "", text
    if colon and not port:
        raise start.failed(f'fbuf: Missing port number: "{text}"')
    number = leading_number(port) or _VNC_PORT
    if not 0 < number <= 65535:
        raise start.failed(f'fbuf: Invalid port number: "{text}"')
    return host or "127.0.0.1", number, ""


def _usb(start: Start, address: Address, node: ConfigNode) -> dev.Device:
    """pci_xhci.c:pci_xhci_parse_devices."""
    slots = node.child("slot")
    taken: set[int] = set()
    for name, slot in () if slots is None else slots.entries.items():
        if len(taken) == _XHCI_DEVICES:
            raise start.failed(f"pci_xhci max number of USB 2 or 3 devices reached, max {_XHCI_DEVICES}")
        if isinstance(slot, str):
            raise start.failed(f"pci_xhci: config variable '{name}' under slot node")
        number, end = strtol(name)
        if end != len(name) or not 0 < number <= _XHCI_SLOTS:
            raise start.failed(f"pci_xhci: invalid slot '{name}'")
        if number in taken:
            raise start.failed(f"pci_xhci: duplicate slot '{name}'")
        model = start.config.get_in(slot, "device")
        if model is None:
            raise start.failed(f"pci_xhci: missing \"device\" value for slot '{name}'")
        if model != "tablet":
            raise start.failed(f'pci_xhci: unknown device model "{model}"')
        taken.add(number)
    return dev.Usb(address, len(taken))


def _sound(start: Start, address: Address, node: ConfigNode) -> dev.Device:
    get = start.config.get_in
    return dev.Sound(address, get(node, "play") or "", get(node, "rec") or "")


def _scsi(start: Start, address: Address, node: ConfigNode) -> dev.Device:
    return dev.Scsi(address, start.config.get_in(node, "dev") or "/dev/cam/ctl")


def _passthru(start: Start, address: Address, node: ConfigNode) -> dev.Device:
    if not start.config.truth("memory.wired", False):
        raise start.failed("passthru requires guest memory to be wired")
    get = start.config.get_in
    return dev.Passthru(address, get(node, "pptdev") or "/".join(get(node, n) or "0" for n in ("bus", "slot", "func")))


def uart_name(address: Address) -> str:
    """What bhyve's messages call a serial port on the PCI bus (pci_uart.c)."""
    return f"pci uart at {address.slot}:{address.function}"


def cut(text: str, length: int) -> str:
    """``text`` as a field of ``length`` bytes holds it."""
    return os.fsdecode(os.fsencode(text)[:length])


_ONLY_ONE = {
    "lpc": "Only one LPC bridge is allowed.",
    "fbuf": "Only one frame buffer device is allowed.",
    "xhci": "pci_xhci controller already defined",
}
_BUILDERS: dict[str, Callable[[Start, Address, ConfigNode], dev.Device]] = {
    "ahci": _ahci,
    "e1000": _e1000,
    "fbuf": _frame_buffer,
    "hda": _sound,
    "nvme": _nvme,
    "passthru": _passthru,
    "uart": _uart,
    "virtio-9p": _share,
    "virtio-blk": _virtio_block,
    "virtio-console": _virtio_console,
    "virtio-input": _input,
    "virtio-net": _virtio_net,
    "virtio-rnd": _random,
    "virtio-scsi": _scsi,
    "xhci": _usb,
}
