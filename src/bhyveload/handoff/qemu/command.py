"""QEMU's command line for a loaded VM.

The machine is what bhyve(8) gives a FreeBSD guest, as far as QEMU has it: a PC with RAM below 3 GiB and from 4 GiB on,
COM1, virtio disks, network and random numbers.  Guest RAM is the VM's memory file, mapped privately: the same VM can
be run again and again.  Paths are the user's: in option lists every comma in them is doubled.
"""

from __future__ import annotations

import os

from bhyveload.errors import HandoffError
from bhyveload.handoff.machine import loaded
from bhyveload.handoff.network import NONE, TAP, USER, Network
from bhyveload.handoff.qemu.drives import disk_arguments, option_value
from bhyveload.handoff.qemu.files import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bhyveload.handoff.disks import Disk
    from bhyveload.handoff.machine import LoadedMachine
    from bhyveload.handoff.qemu.files import QemuFiles

    # What puts further arguments on the command line; every file it names comes from the Files
    Part = Callable[[QemuFiles], Sequence[str]]

PROGRAM = "qemu-system-x86_64"
MAX_CPUS = 255
_RAM_UNIT = 8192  # QEMU rounds RAM up to this and then wants the file to have that size
_PRINTED_CONSOLE = ["-chardev", "stdio,id=console,mux=on,signal=off"]


class QemuOptions:
    """What the user chose for one run.

    ``accel`` is "kvm" or "tcg"; ``shares``: (folder of the host, tag, read-only), seen by the guest through virtio 9p;
    ``extra`` goes to QEMU as it is; ``parts`` put their arguments there.  ``plain``: no device but those of ``parts``,
    not even COM1 (``-serial``), which then may use the chardev "console".  ``topology`` replaces ``cpus``.
    ``user``: whom root's QEMU becomes (None: nobody); ``confined``: it runs in its box (box.py).  What ``parts`` and
    ``extra`` need of the host beyond files: ``open_network``: sockets; ``opened``: (path, writable) that QEMU opens.
    ``hold``: the guest starts at this event of QMP; ``pins``: virtual processor -> the host's that it may run on.
    ``shared``: what the guest writes to its memory goes into the VM's memory file.  ``kernel``: a descriptor of the
    start-up stub that there is already; ``incoming``: one of devices that migration.py saved, by QEMU ``version``,
    ``whole``: and of memory.
    """

    __slots__ = (
        "accel",
        "confined",
        "cpus",
        "disks",
        "extra",
        "hold",
        "incoming",
        "kernel",
        "net",
        "open_network",
        "opened",
        "parts",
        "pins",
        "plain",
        "shared",
        "shares",
        "topology",
        "user",
        "version",
        "whole",
    )

    def __init__(
        self,
        disks: Sequence[Disk],
        accel: str = "tcg",
        cpus: int = 1,
        net: Network | None = None,
        extra: Sequence[str] = (),
        *,
        shares: Sequence[tuple[str, str, bool]] = (),
        parts: Sequence[Part] = (),
        plain: bool = False,
        topology: str = "",
        user: str | None = None,
        confined: bool = True,
        open_network: bool = False,
        opened: Sequence[tuple[str, bool]] = (),
        hold: str = "",
        pins: Mapping[int, Iterable[int]] | None = None,
        shared: bool = False,
        kernel: int = -1,
        incoming: int = -1,
        version: str = "",
        whole: bool = False,
    ) -> None:
        check_processors(cpus)
        self.disks = list(disks)
        self.accel = accel
        self.cpus = cpus
        self.net = net or Network()
        self.extra = list(extra)
        self.shares = list(shares)
        self.parts = list(parts)
        self.plain = plain
        self.topology = topology
        self.user = user
        self.confined = confined
        self.open_network = open_network or self.net.kind == USER
        self.opened = list(opened)
        self.hold = hold
        self.shared = shared
        self.kernel = kernel
        self.incoming = incoming
        self.version = version
        self.whole = whole
        self.pins = {cpu: frozenset(hosts) for cpu, hosts in (pins or {}).items()}

    @property
    def folders(self) -> list[tuple[str, bool]]:
        """(path, writable) of what QEMU opens on the host by its name."""
        return [*((path, not read_only) for path, _, read_only in self.shares), *self.opened]


def check_processors(cpus: int) -> None:
    """Raises HandoffError: too many of them, or none; TypeError: no whole number."""
    if not isinstance(cpus, int):
        raise TypeError(f"cpus: must be a whole number, not {cpus!r}")
    if not 1 <= cpus <= MAX_CPUS:
        raise HandoffError(f"{cpus} processors: must be 1 to {MAX_CPUS}")


def qemu_command(
    vm: LoadedMachine,
    kernel: str,
    options: QemuOptions,
    files: QemuFiles | None = None,
    *,
    memory_path: str = "",
    console: Sequence[str] = _PRINTED_CONSOLE,
    whole_image: bool = False,
) -> list[str]:
    """The command that runs ``vm`` with the stub in the file ``kernel``, its console on ``console`` (standard input and
    output).

    ``files``: how QEMU comes by the disks (None: by their paths).  ``memory_path``: what QEMU calls the memory file.
    ``whole_image``: ``kernel`` holds the guest's memory too, the VM's memory file is not used.

    Raises HandoffError when QEMU cannot have that memory size or one of the disks; VmNotLoaded.
    """
    files = files or Paths()
    memory, state = loaded(vm)
    size = memory.low + memory.high
    if size % _RAM_UNIT:
        raise HandoffError(f"QEMU cannot have {size} bytes of memory", "load the VM again with a whole number of MiB")
    flags = flags_of(state)
    machine = f"pc,max-ram-below-4g=3G,dump-guest-core={'on' if flags.get('incore') else 'off'}"
    ram: list[str] = []
    if not whole_image:
        machine += ",memory-backend=ram"
        path = option_value(memory_path or os.path.join(vm.path, "memory"))
        ram = [
            "-object",
            f"memory-backend-file,id=ram,size={size},mem-path={path},share={'on' if options.shared else 'off'}",
        ]
    command = [
        PROGRAM,
        *("-name", f"guest={option_value(vm.name)}"),
        *("-machine", machine),
        *("-accel", options.accel),
        # TCG's default processor is an x86-64-v1, on which a kernel built for more dies without a word
        *("-cpu", "host" if options.accel == "kvm" else "max"),
        *("-m", f"{size >> 10}K"),
        *ram,
        *("-smp", options.topology or str(options.cpus)),
        "-no-user-config",
        "-nodefaults",
        "-no-reboot",
        *("-boot", "strict=on"),  # SeaBIOS leaves alone what it need not boot from: it has the stub
        *("-display", "none"),
        *console,
        *("-kernel", kernel),
    ]
    if flags.get("wired"):
        command += ["-overcommit", "mem-lock=on"]
    if not options.plain:
        command += ["-serial", "chardev:console", "-device", "virtio-rng-pci"]
    for number, disk in enumerate(options.disks):
        command += disk_arguments(number, disk, files, len(options.disks))
    command += network_arguments(options.net, files)
    for number, share in enumerate(options.shares):
        command += share_arguments(number, *share)
    for part in options.parts:
        command += part(files)
    return command + options.extra


def flags_of(state: dict[str, object]) -> dict[str, object]:
    """bhyveload's -S and -C, as state.json keeps them."""
    flags = state.get("flags")
    return flags if isinstance(flags, dict) else {}


def network_arguments(net: Network, files: QemuFiles) -> list[str]:
    """The guest's network card.  Raises HandoffError (no such interface)."""
    if net.kind == NONE:
        return []
    if net.kind == TAP:
        backend = f"tap,id=net0,{files.tap(net.interface)}"
    else:
        restrict = "off" if net.host or net.forwards else "on"
        backend = f"user,id=net0,restrict={restrict}"
        for protocol, host, port, guest, guest_port in net.forwards:
            backend += f",hostfwd={protocol}:{host}:{port}-{guest}:{guest_port}"
    mac = f",mac={net.mac}" if net.mac else ""
    # romfile=: no network boot firmware, it would only take guest memory and time
    return ["-netdev", backend, "-device", f"{net.model},netdev=net0{mac},romfile="]


def share_arguments(number: int, path: str, tag: str, read_only: bool) -> list[str]:
    """A folder of the host for the guest: mount -t p9fs TAG /mnt."""
    name = f"share{number}"
    local = f"local,id={name},path={option_value(path)},security_model=none,readonly={'on' if read_only else 'off'}"
    return ["-fsdev", local, "-device", f"virtio-9p-pci,fsdev={name},mount_tag={option_value(tag)}"]
