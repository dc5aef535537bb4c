"""QEMU's command line for a loaded VM.

The machine is what bhyve(8) gives a FreeBSD guest, as far as QEMU has it: a PC with RAM below 3 GiB and from 4 GiB on,
COM1, virtio disks, network and random numbers.  Guest RAM is the VM's memory file, mapped privately: the same VM can
be run again and again.  Paths are the user's: in option lists every comma in them is doubled.
"""

from __future__ import annotations

import os

from bhyveload.errors import HandoffError
from bhyveload.handoff.disks import disk_arguments, escape
from bhyveload.handoff.machine import loaded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhyveload.handoff.disks import Disk
    from bhyveload.handoff.machine import LoadedMachine

PROGRAM = "qemu-system-x86_64"
MAX_CPUS = 255
NETWORKS = ("none", "user")
_RAM_UNIT = 8192  # QEMU rounds RAM up to this and then wants the file to have that size


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
        command += disk_arguments(number, disk, len(options.disks))
    if options.net == "user":
        # romfile=: no network boot firmware, it would only take guest memory and time
        command += ["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile="]
    return command + options.extra
