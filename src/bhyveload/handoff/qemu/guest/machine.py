"""A whole guest of bhyve's as options for QEMU: clock, names, SMBIOS, debugger, serial ports, then its devices."""

from __future__ import annotations

import os

from bhyveload.bhyve import devices as dev
from bhyveload.errors import BhyveError
from bhyveload.handoff.qemu.command import MAX_CPUS, QemuOptions
from bhyveload.handoff.qemu.drives import option_value
from bhyveload.handoff.qemu.guest.blocks import Blocks
from bhyveload.handoff.qemu.guest.consoles import port_arguments
from bhyveload.handoff.qemu.guest.devices import DeviceBuilder
from bhyveload.handoff.qemu.guest.slots import Slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bhyveload.bhyve.guest import BhyveGuest
    from bhyveload.handoff.disks import Disk
    from bhyveload.handoff.qemu.files import QemuFiles

# QEMU's -smbios: type, and bhyve_config(5)'s field -> its own
_SMBIOS = {
    "bios": (0, {"vendor": "vendor", "version": "version", "release_date": "date"}),
    "system": (
        1,
        {
            "manufacturer": "manufacturer",
            "product_name": "product",
            "version": "version",
            "serial_number": "serial",
            "sku": "sku",
            "family_name": "family",
        },
    ),
    "board": (
        2,
        {
            "manufacturer": "manufacturer",
            "product_name": "product",
            "version": "version",
            "serial_number": "serial",
            "asset_tag": "asset",
            "location": "location",
        },
    ),
    "chassis": (
        3,
        {
            "manufacturer": "manufacturer",
            "version": "version",
            "serial_number": "serial",
            "asset_tag": "asset",
            "sku": "sku",
        },
    ),
}
# Layouts that QEMU calls otherwise; what neither knows is left out
_KEYBOARDS = {"dk": "da", "us_unix": "en-us", "us_dvorak": "", "uk": "en-gb", "us": "en-us", "se": "sv", "jp": "ja"}
_QEMU_KEYBOARDS = """
ar bepo cz da de de-ch en-gb en-us es et fi fo fr fr-be fr-ca fr-ch hr hu is it ja lt lv mk nl no pl pt pt-br ru sl sv
th tr
"""


def guest_options(
    guest: BhyveGuest,
    accel: str,
    loaded: Sequence[tuple[str, Disk]] = (),
    *,
    user: str | None = None,
    confined: bool = True,
) -> QemuOptions:
    """What runs ``guest``.  ``loaded``: (path, disk) of bhyveload's disks that are no raw files, ready for QEMU.

    Raises BhyveError: too many processors.
    """
    if guest.topology.cpus > MAX_CPUS:
        raise BhyveError(f"{guest.topology.cpus} vCPUs requested but only {MAX_CPUS} available", bare=True)
    cpus, sockets, cores, threads = guest.topology
    screens = [device for device in guest.devices if isinstance(device, dev.FrameBuffer)]
    slirp = any(isinstance(d, dev.Nic) and isinstance(d.backend, dev.Slirp) for d in guest.devices)
    hold = ""
    if guest.debug is not None and guest.debug.wait:
        hold = "RESUME"
    elif any(screen.wait for screen in screens):
        hold = "VNC_CONNECTED"
    return QemuOptions(
        [],
        accel,
        topology=f"cpus={cpus},sockets={sockets},cores={cores},threads={threads}",
        parts=[lambda files: guest_arguments(guest, accel, loaded, files)],
        plain=True,
        user=user,
        confined=confined,
        open_network=slirp or bool(screens),
        opened=_opened(guest),
        hold=hold,
        pins=guest.pins,
    )


def guest_arguments(guest: BhyveGuest, accel: str, loaded: Sequence[tuple[str, Disk]], files: QemuFiles) -> list[str]:
    """QEMU's arguments for everything but processors and memory.  Raises BhyveError, HandoffError."""
    arguments = ["-rtc", f"base={'localtime' if guest.local_time else 'utc'}", "-uuid", guest.uuid]
    if accel == "kvm" and guest.x2apic is not None:
        arguments += ["-cpu", f"host,x2apic={'on' if guest.x2apic else 'off'}"]
    arguments += _smbios(guest)
    layout = keyboard_layout(guest.keyboard)
    arguments += ["-k", layout] if layout else []
    if guest.debug is not None:
        arguments += _debug(guest.debug.address, guest.debug.port, files)
    slots = Slots(device.address for device in guest.devices)
    arguments += slots.bridges
    blocks = Blocks(files, guest.compat, loaded, [backing.path for backing in backings_of(guest)])
    builder = DeviceBuilder(slots, files, blocks, guest.compat, guest.msi_x)
    for device in guest.devices:
        arguments += builder.arguments(device)
    for port in guest.serial_ports:
        name = f"com{port.number + 1}"
        backend = port.backend
        if backend is None and port.number == 0 and not on_the_terminal(guest):
            backend = dev.Stdio()  # the console of a guest that nobody hears, until bhyvectl --console
        chardev, made = port_arguments(name, backend, files, f"LPC device {name}", guest.compat)
        arguments += [*made, "-device", f"isa-serial,chardev={chardev},index={port.number}"]
    return arguments


def on_the_terminal(guest: BhyveGuest) -> bool:
    """Whether one of its serial ports is the program's terminal."""
    backends = [port.backend for port in guest.serial_ports]
    backends += [device.backend for device in guest.devices if isinstance(device, dev.PciSerial)]
    return any(isinstance(backend, dev.Stdio) for backend in backends)


def backings_of(guest: BhyveGuest) -> Iterator[dev.Backing]:
    """The files behind all of its disks."""
    for device in guest.devices:
        if isinstance(device, dev.Ahci):
            yield from (port.backing for port in device.ports)
        elif isinstance(device, dev.VirtioBlock | dev.Nvme) and device.backing is not None:
            yield device.backing
        elif isinstance(device, dev.Scsi):
            yield dev.Backing(device.device)


def _opened(guest: BhyveGuest) -> list[tuple[str, bool]]:
    shares = [(os.path.realpath(d.path), not d.read_only) for d in guest.devices if isinstance(d, dev.Share)]
    return shares + [(d.path, True) for d in guest.devices if isinstance(d, dev.InputDevice)]


def _smbios(guest: BhyveGuest) -> list[str]:
    arguments = []
    for table, (number, fields) in _SMBIOS.items():
        values = (f"{name}={option_value(guest.smbios[table][field])}" for field, name in fields.items())
        arguments += ["-smbios", ",".join([f"type={number}", *values])]
    return arguments


def keyboard_layout(name: str) -> str:
    """QEMU's name of bhyve's keyboard layout ``name``; "" where it has none."""
    language = name if name in _KEYBOARDS else name.partition("_")[0]
    layout = _KEYBOARDS.get(language, language)
    return layout if layout in _QEMU_KEYBOARDS.split() else ""


def _debug(address: str, port: int, files: QemuFiles) -> list[str]:
    try:
        where = files.listener(address, port)
    except OSError as error:
        raise BhyveError(f"gdb socket bind: {error.strerror}", 4) from None
    return ["-chardev", f"socket,id=gdb,{where},server=on,wait=off", "-gdb", "chardev:gdb"]
