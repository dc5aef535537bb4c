"""PCI slots and the emulations that can sit in them: ``-s slot,emulation,configuration`` into the tree.

Sources: usr.sbin/bhyve/pci_emul.c:pci_parse_slot and the pe_legacy_config of each pci_*.c.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from bhyveload.errors import BhyveError
from bhyveload.libc import strtol

if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.bhyve.config import Config, ConfigNode

    Parser = Callable[[Config, ConfigNode | None, str | None], None]

MAX_BUS, MAX_SLOT, MAX_FUNCTION = 255, 31, 7
AHCI_PORTS = 32
CONSOLE_PORTS = 16
_PASSTHRU = re.compile(r"pci(?:0:)?(\d{1,9}):(\d{1,9}):(\d{1,9})|(\d{1,9})/(\d{1,9})/(\d{1,9})", re.ASCII)


class Address(NamedTuple):
    """Where a device sits."""

    bus: int
    slot: int
    function: int

    def __str__(self) -> str:
        return f"{self.bus}:{self.slot}:{self.function}"


def scan_numbers(text: str, separator: str, limit: int) -> list[int]:
    """The leading numbers of ``text`` as sscanf("%d:%d:...") finds them, ``limit`` at most; what follows is ignored."""
    numbers: list[int] = []
    while len(numbers) < limit:
        number, end = strtol(text, 10)
        if not end:
            break
        numbers.append(number)
        if text[end : end + 1] != separator:
            break
        text = text[end + 1 :]
    return numbers


def parse_slot(config: Config, text: str) -> None:
    """Put ``-s text`` into the tree.  Raises BhyveError: not a slot, no such emulation, occupied, bad configuration."""
    place, comma, rest = text.partition(",")
    address = _address(place) if comma else None
    if address is None:
        raise BhyveError(f'Invalid PCI slot info field "{text}"', bare=True)
    name, comma, configuration = rest.partition(",")
    emulation = EMULATIONS.get(name)
    if emulation is None:
        # The second line is what libvirt looks for when it asks for what a bhyve has (bhyve_capabilities.c)
        raise BhyveError(
            f'pci slot {address.slot}:{address.function}: unknown device "{name}"',
            bare=True,
            before=[f'pci slot {address}: unknown device "{name}"'],
        )
    path = f"pci.{address.bus}.{address.slot}.{address.function}"
    if config.find(path) is not None:
        raise BhyveError(f"pci slot {address} already occupied!", bare=True)
    node = config.create(path)
    config.set_in(node, "device", emulation.alias or name)
    emulation.parse(config, node, configuration if comma else None)


def _address(text: str) -> Address | None:
    numbers = scan_numbers(text, ":", 3)
    if len(numbers) == 3:
        bus, slot, function = numbers
    elif numbers:
        bus, slot, function = 0, numbers[0], numbers[1] if len(numbers) == 2 else 0
    else:
        return None
    if not (0 <= bus <= MAX_BUS and 0 <= slot <= MAX_SLOT and 0 <= function <= MAX_FUNCTION):
        return None
    return Address(bus, slot, function)


def parse_plain(config: Config, node: ConfigNode | None, text: str | None) -> None:
    """``name=value,name``."""
    config.parse_options(node, text)


def parse_block(config: Config, node: ConfigNode | None, text: str | None) -> None:
    """``path,name=value,...`` (block_if.c:blockif_legacy_config)."""
    _first_word(config, node, "path", text)


def _parse_net(config: Config, node: ConfigNode | None, text: str | None) -> None:
    _first_word(config, node, "backend", text)


def _parse_scsi(config: Config, node: ConfigNode | None, text: str | None) -> None:
    _first_word(config, node, "dev", text)


def _parse_input(config: Config, node: ConfigNode | None, text: str | None) -> None:
    if text is None:
        raise BhyveError("virtio-input: no input device is given", bare=True, hint="virtio-input,/dev/input/event0")
    _first_word(config, node, "path", text)


def _parse_uart(config: Config, node: ConfigNode | None, text: str | None) -> None:
    if text is not None:
        config.set_in(node, "path", text)


def _first_word(config: Config, node: ConfigNode | None, name: str, text: str | None) -> None:
    if text is None:
        return
    first, comma, rest = text.partition(",")
    config.set_in(node, name, first)
    if comma:
        config.parse_options(node, rest)


def _parse_nvme(config: Config, node: ConfigNode | None, text: str | None) -> None:
    if text is None or not text.startswith("ram="):
        parse_block(config, node, text)
        return
    _first_word(config, node, "ram", text[4:])


def _parse_ahci(config: Config, node: ConfigNode | None, text: str | None) -> None:
    """``hd:path,options,cd:path,...``: a port each (pci_ahci.c:pci_ahci_legacy_config)."""
    if text is None:
        return
    ports = config.create("port", node)
    rest: str | None = text
    number = 0
    while rest is not None and number < AHCI_PORTS:
        kind = rest[:2] if rest[:3] in ("hd:", "cd:") else ""
        if kind:
            rest = rest[3:]
        ends = [end for end in (rest.find(",hd:"), rest.find(",cd:")) if end >= 0]
        port, rest = (rest[: min(ends)], rest[min(ends) + 1 :]) if ends else (rest, None)
        if port:
            if not kind:
                raise BhyveError(f'Missing or invalid type for port {number}: "{port}"', bare=True)
            _ahci_port(config, ports, number, kind, port)
        number += 1


def _parse_ahci_hd(config: Config, node: ConfigNode | None, text: str | None) -> None:
    _ahci_port(config, config.create("port", node), 0, "hd", text)


def _parse_ahci_cd(config: Config, node: ConfigNode | None, text: str | None) -> None:
    _ahci_port(config, config.create("port", node), 0, "cd", text)


def _ahci_port(config: Config, ports: ConfigNode | None, number: int, kind: str, text: str | None) -> None:
    port = config.create(str(number), ports)
    config.set_in(port, "type", kind)
    parse_block(config, port, text)


def _parse_console(config: Config, node: ConfigNode | None, text: str | None) -> None:
    """``name=path,...``: a port each (pci_virtio_console.c:pci_vtcon_legacy_config)."""
    if text is None:
        return
    ports = config.create("port", node)
    for number, word in enumerate(text.split(",")):
        name, equals, path = word.partition("=")
        if not equals:
            raise BhyveError(f"vtcon: port {name} requires a path", bare=True)
        if number >= CONSOLE_PORTS:
            raise BhyveError("vtcon: too many ports", bare=True)
        port = config.create(str(number), ports)
        config.set_in(port, "name", name)
        config.set_in(port, "path", path)


def _parse_9p(config: Config, node: ConfigNode | None, text: str | None) -> None:
    """``name=path,ro`` (pci_virtio_9p.c:pci_vt9p_legacy_config)."""
    shared = False
    for word in () if text is None else text.split(","):
        name, equals, path = word.partition("=")
        if not equals:
            config.set_in(node, word, "true")
            continue
        if shared:
            raise BhyveError("virtio-9p: more than one share name given", bare=True)
        shared = True
        config.set_in(node, "sharename", name)
        config.set_in(node, "path", path)


def _parse_xhci(config: Config, node: ConfigNode | None, text: str | None) -> None:
    """``device=option,device``: a slot each from 1 on (pci_xhci.c:pci_xhci_legacy_config)."""
    if text is None:
        return
    slots = config.create("slot", node)
    for number, word in enumerate(text.split(","), 1):
        device, _, option = word.partition("=")
        slot = config.create(str(number), slots)
        config.set_in(slot, "device", device)
        if option:
            config.parse_options(slot, option)


def _parse_passthru(config: Config, node: ConfigNode | None, text: str | None) -> None:
    if text is None:
        return
    first, comma, rest = text.partition(",")
    if first.startswith("ppt"):
        config.set_in(node, "pptdev", first)
    elif match := _PASSTHRU.match(first):
        numbers = [int(number) for number in match.groups() if number is not None]
        for name, value in zip(("bus", "slot", "func"), numbers, strict=True):
            config.set_in(node, name, str(value))
    else:
        raise BhyveError(f'passthru: invalid options "{text}"', bare=True)
    if comma:
        config.parse_options(node, rest)


class Emulation(NamedTuple):
    """``parse`` puts the configuration behind the name into the tree; ``alias``: stored as that device."""

    parse: Parser = parse_plain
    alias: str = ""


# In the order in which the linker collects them: "-s help" lists them so.
EMULATIONS = {
    "ahci": Emulation(_parse_ahci),
    "ahci-hd": Emulation(_parse_ahci_hd, "ahci"),
    "ahci-cd": Emulation(_parse_ahci_cd, "ahci"),
    "e1000": Emulation(_parse_net),
    "hda": Emulation(),
    "amd_hostbridge": Emulation(),
    "hostbridge": Emulation(),
    "nvme": Emulation(_parse_nvme),
    "uart": Emulation(_parse_uart),
    "virtio-9p": Emulation(_parse_9p),
    "virtio-blk": Emulation(parse_block),
    "virtio-console": Emulation(_parse_console),
    "virtio-input": Emulation(_parse_input),
    "virtio-net": Emulation(_parse_net),
    "virtio-rnd": Emulation(),
    "virtio-scsi": Emulation(_parse_scsi),
    "xhci": Emulation(_parse_xhci),
    "fbuf": Emulation(),
    "lpc": Emulation(),
    "passthru": Emulation(_parse_passthru),
}
