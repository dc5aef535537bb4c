"""The machine that a tree describes: processors, memory, clock, names, and its devices (bhyverun.c, smbiostbl.c).

Each part can be had by itself, so that a program can complain in bhyve's order.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from bhyveload.bhyve.command_line import CPU_SETSIZE, parse_number
from bhyveload.bhyve.identity import machine_uuid
from bhyveload.bhyve.start import start_devices
from bhyveload.errors import EX_USAGE, BhyveError, UsageError
from bhyveload.libc import strtol, strtoul, to_int
from bhyveload.vm.memsize import parse_memory_size

if TYPE_CHECKING:
    from bhyveload.bhyve.config import Config
    from bhyveload.bhyve.devices import Device, SerialPort
    from bhyveload.compat import LoaderVersion

DEFAULT_MEMORY = "256M"
_UINT16_MAX = 65535
# smbiostbl.c's defaults; the keys are bhyve_config(5)'s.
SMBIOS: dict[str, dict[str, str]] = {
    "bios": {"vendor": "BHYVE", "version": "14.0", "release_date": "10/17/2021"},
    "system": {
        "manufacturer": "FreeBSD",
        "product_name": "BHYVE",
        "version": "1.0",
        "serial_number": "None",
        "sku": "None",
        "family_name": "Virtual Machine",
    },
    "board": {
        "manufacturer": "FreeBSD",
        "product_name": "BHYVE",
        "version": "1.0",
        "serial_number": "None",
        "asset_tag": "None",
        "location": "None",
    },
    "chassis": {
        "manufacturer": "FreeBSD",
        "version": "1.0",
        "serial_number": "None",
        "asset_tag": "None",
        "sku": "None",
    },
}


class Topology(NamedTuple):
    cpus: int
    sockets: int
    cores: int
    threads: int


class DebugServer(NamedTuple):
    """``-G``.  ``wait``: the guest starts when the debugger lets it."""

    address: str
    port: int
    wait: bool


class BhyveGuest(NamedTuple):
    """``pins``: virtual processor -> the host's; ``x2apic``: None when nobody said; ``smbios``: table -> field -> text,
    as bhyve_config(5) names them."""

    name: str
    compat: LoaderVersion
    topology: Topology
    pins: dict[int, frozenset[int]]
    wired: bool
    incore: bool
    local_time: bool
    x2apic: bool | None
    msi_x: bool
    destroy_on_power_off: bool
    debug: DebugServer | None
    uuid: str
    smbios: dict[str, dict[str, str]]
    keyboard: str
    serial_ports: tuple[SerialPort, ...]
    devices: tuple[Device, ...]


def topology_of(config: Config) -> Topology:
    """Raises BhyveError: not numbers, or they do not fit together (bhyverun.c:calc_topology)."""
    given = {name: config.get(name) for name in ("cpus", "cores", "threads", "sockets")}
    numbers = {
        name: parse_number(name, text, 1, _UINT16_MAX) for name, text in given.items() if text is not None
    }  # in bhyve's order: the first wrong one is told
    cores, threads = numbers.get("cores", 1), numbers.get("threads", 1)
    sockets = numbers.get("sockets", numbers.get("cpus", 1))
    product = sockets * cores * threads
    if product > _UINT16_MAX:
        raise BhyveError(f"Computed number of vCPUs too high: {product}")
    cpus = numbers.get("cpus", product)
    if cpus != product:
        raise BhyveError(
            f"Topology ({sockets} sockets, {cores} cores, {threads} threads) does not match {cpus} vCPUs",
        )
    return Topology(cpus, sockets, cores, threads)


def pins_of(config: Config, cpus: int, compat: LoaderVersion) -> dict[int, frozenset[int]]:
    """Raises BhyveError (bhyverun.c:parse_cpuset)."""
    pins = {}
    for cpu in range(cpus):
        text = config.get(f"vcpu.{cpu}.cpuset")
        if text is not None:
            pins[cpu] = _cpu_set(cpu, text, CPU_SETSIZE[compat])
    return pins


def _cpu_set(cpu: int, text: str, limit: int) -> frozenset[int]:
    """``number`` or ``first-last``, comma separated."""
    numbers: set[int] = set()
    first, rest = -1, text
    while True:
        value, end = strtoul(rest)
        number, after = to_int(value), rest[end : end + 1]
        if end and not 0 <= number < limit:
            raise BhyveError(f"hostcpu '{number}' outside valid range from 0 to {limit - 1}")
        if not end or after not in ("", ",", "-") or (after == "-" and first >= 0):
            raise BhyveError(f"invalid cpuset for vcpu {cpu}: '{text}'")
        if after == "-":
            first = number
        elif first > number:
            raise BhyveError(f"Invalid hostcpu range {first}-{number}")
        else:
            numbers.update(range(number if first < 0 else first, number + 1))
            first = -1
        if not after:
            return frozenset(numbers)
        rest = rest[end + 1 :]


def memory_of(config: Config, compat: LoaderVersion) -> int:
    """Bytes of ``-m``.  Raises BhyveError."""
    text = config.get("memory.size") or ""
    try:
        return parse_memory_size(text, compat)
    except UsageError:
        raise BhyveError(f"invalid memsize '{text}'", EX_USAGE) from None


def guest_of(config: Config, name: str, compat: LoaderVersion, hostname: str) -> BhyveGuest:
    """The whole machine.  ``hostname``: the host's, for the UUID.  Raises BhyveError, as bhyve at its start."""
    topology = topology_of(config)
    serial_ports, devices = start_devices(config, name, compat)
    return BhyveGuest(
        name=name,
        compat=compat,
        topology=topology,
        pins=pins_of(config, topology.cpus, compat),
        wired=config.truth("memory.wired", False),
        incore=config.truth("memory.guest_in_core", False),
        local_time=config.truth("rtc.use_localtime", True),
        x2apic=None if config.raw("x86.x2apic") is None else config.truth("x86.x2apic", False),
        msi_x=config.truth("virtio_msix", True),
        destroy_on_power_off=config.truth("destroy_on_poweroff", False),
        debug=_debug_of(config),
        uuid=_uuid_of(config, name, hostname),
        smbios={
            table: {field: config.get(f"{table}.{field}") or text for field, text in fields.items()}
            for table, fields in SMBIOS.items()
        },
        keyboard=config.get("keyboard.layout") or "",
        serial_ports=serial_ports,
        devices=devices,
    )


def _debug_of(config: Config) -> DebugServer | None:
    """gdb.c:init_gdb; that it cannot listen ends bhyve with 1.  Port 0 would be one that nobody can know: none."""
    text = config.get("gdb.port")
    if text is None:
        return None
    port, end = strtol(text, 10)
    if not end or end != len(text) or not 0 <= port <= _UINT16_MAX:
        raise BhyveError(f"gdb address resolution: '{text}' is no port", hint="-G [w][address:]port")
    if port == 0:
        return None
    return DebugServer(config.get("gdb.address") or "localhost", port, config.truth("gdb.wait", False))


def _uuid_of(config: Config, name: str, hostname: str) -> str:
    text = config.get("uuid")
    if text is None:
        return machine_uuid(name, hostname)
    if not text:
        return "00000000-0000-0000-0000-000000000000"  # uuid_from_string(3)
    if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        raise BhyveError("Invalid UUID", bare=True, hint=f"-U {text}")
    return text.lower()
