"""QEMU's command line for a loaded VM.

The machine is what bhyve(8) gives a FreeBSD guest, as far as QEMU has it: a PC with RAM below 3 GiB and from 4 GiB on,
COM1, virtio disks, network and random numbers.  Guest RAM is the VM's memory file, mapped privately: the same VM can
be run again and again.  Paths are the user's: in option lists every comma in them is doubled.
"""

from __future__ import annotations

import os
import stat

from bhyveload.errors import HandoffError
from bhyveload.handoff.machine import loaded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from bhyveload.handoff.machine import LoadedMachine

PROGRAM = "qemu-system-x86_64"
MAX_CPUS = 255
NETWORKS = ("none", "user")
_RAM_UNIT = 8192  # QEMU rounds RAM up to this and then wants the file to have that size

# bhyveload's image formats and QEMU's drivers.  The driver is always named: QEMU must not guess from a raw disk's
# first bytes, which the guest can write.
_DRIVERS = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vpc", "vpc": "vpc", "vhdx": "vhdx"}


class Disk:
    """A disk for the guest: ``format`` as bhyveload names it (raw, qcow2, vmdk, vhd, vhdx)."""

    __slots__ = ("format", "path", "read_only")

    def __init__(self, path: str, read_only: bool = False, format: str = "raw") -> None:
        self.path = path
        self.read_only = read_only
        self.format = format


def disk_from_path(path: str) -> Disk:
    """A disk that the user names at run time: its format by the file name, read-only where it cannot be written.

    Raises HandoffError when there is no such file.
    """
    if not os.access(path, os.R_OK):
        raise HandoffError(f"{path}: {'permission denied' if os.path.exists(path) else 'no such disk image'}")
    suffix = os.path.splitext(path)[1].lower().lstrip(".")
    return Disk(os.path.abspath(path), not os.access(path, os.W_OK), suffix if suffix in _DRIVERS else "raw")


def disks_of(state: Mapping[str, Any]) -> list[Disk]:
    """The disks that bhyveload was given.  Raises HandoffError when the report is malformed."""
    loaded = state.get("loaded")
    given = loaded.get("disks", []) if isinstance(loaded, dict) else []
    if not isinstance(given, list):
        raise HandoffError("the VM's state does not list its disks", "load the VM again or give --disk")
    disks = []
    for entry in given:
        path = entry.get("path") if isinstance(entry, dict) else None
        if not isinstance(path, str) or not path or "\0" in path:
            raise HandoffError("the VM's state names a disk without a path", "load the VM again or give --disk")
        disks.append(Disk(path, bool(entry.get("read_only")), str(entry.get("format", "raw"))))
    return disks


class Options:
    """What the user chose for one run.  ``accel`` is "kvm" or "tcg"; ``extra`` goes to QEMU as it is."""

    __slots__ = ("accel", "cpus", "disks", "extra", "net")

    def __init__(
        self,
        disks: Sequence[Disk],
        accel: str = "tcg",
        cpus: int = 1,
        net: str = "none",
        extra: Sequence[str] = (),
    ) -> None:
        if not 1 <= cpus <= MAX_CPUS:
            raise HandoffError(f"{cpus} processors: must be 1 to {MAX_CPUS}")
        if net not in NETWORKS:
            raise HandoffError(f"network '{net}': must be one of {', '.join(NETWORKS)}")
        self.disks = list(disks)
        self.accel = accel
        self.cpus = cpus
        self.net = net
        self.extra = list(extra)


def escape(value: str) -> str:
    """``value`` inside one of QEMU's option lists."""
    return value.replace(",", ",,")


def qemu_command(vm: LoadedMachine, kernel: str, options: Options, *, whole_image: bool = False) -> list[str]:
    """The command that runs ``vm`` with the stub in the file ``kernel``, its console on standard input and output.

    ``whole_image``: ``kernel`` holds the guest's memory too, the VM's memory file is not used.

    Raises HandoffError when QEMU cannot have that memory size or one of the disks; VmNotLoaded.
    """
    memory, state = loaded(vm)
    size = memory.low + memory.high
    if size % _RAM_UNIT:
        raise HandoffError(f"QEMU cannot have {size} bytes of memory", "load the VM again with a whole number of MiB")
    flags = state.get("flags")
    flags = flags if isinstance(flags, dict) else {}
    incore = "on" if flags.get("incore") else "off"
    machine = f"pc,max-ram-below-4g=3G,dump-guest-core={incore}"
    ram: list[str] = []
    if not whole_image:
        machine += ",memory-backend=ram"
        path = escape(os.path.join(vm.path, "memory"))
        ram = ["-object", f"memory-backend-file,id=ram,size={size},mem-path={path},share=off"]
    command = [
        PROGRAM,
        *("-name", f"guest={escape(vm.name)}"),
        *("-machine", machine),
        *("-accel", options.accel),
        *("-m", f"{size >> 10}K"),
        *ram,
        *("-smp", str(options.cpus)),
        "-no-user-config",
        "-nodefaults",
        "-no-reboot",
        *("-display", "none"),
        *("-chardev", "stdio,id=console,mux=on,signal=off"),
        *("-serial", "chardev:console"),
        *("-kernel", kernel),
        *("-device", "virtio-rng-pci"),
    ]
    if options.accel == "kvm":
        command += ["-cpu", "host"]
    if flags.get("wired"):
        command += ["-overcommit", "mem-lock=on"]
    for number, disk in enumerate(options.disks):
        command += _disk(number, disk)
    if options.net == "user":
        # romfile=: no network boot firmware, it would only take guest memory and time
        command += ["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile="]
    return command + options.extra


def _disk(number: int, disk: Disk) -> list[str]:
    driver = _DRIVERS.get(disk.format)
    if driver is None:
        raise HandoffError(
            f"{disk.path}: QEMU cannot use a disk image of format {disk.format}",
            "unpack it, or convert it with qemu-img, and give it with --disk",
        )
    try:
        mode = os.stat(disk.path).st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise HandoffError(f"{disk.path}: {reason}", "give the guest's disk with --disk, or --no-disk") from None
    protocol = "host_device" if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) else "file"
    node, read_only = f"disk{number}", "on" if disk.read_only else "off"
    return [
        "-blockdev",
        f"driver={driver},node-name={node},read-only={read_only},"
        f"file.driver={protocol},file.read-only={read_only},file.filename={escape(disk.path)}",
        "-device",
        f"virtio-blk-pci,drive={node}",
    ]
