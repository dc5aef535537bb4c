"""A guest's devices as values: what bhyve(8) would have built, for whoever builds it.

Paths are as the user wrote them.  Each device has the ``address`` that the command line gave it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from bhyveload.bhyve.emulations import Address


class Backing(NamedTuple):
    """A disk's file (block_if.c).  ``logical`` and ``physical`` sector sizes in bytes, 0 when not given."""

    path: str
    read_only: bool = False
    no_cache: bool = False  # O_DIRECT
    synchronous: bool = False  # O_SYNC
    no_delete: bool = False  # no TRIM
    logical: int = 0
    physical: int = 0


class VirtioBlock(NamedTuple):
    address: Address
    backing: Backing
    serial: str


class AhciPort(NamedTuple):
    """``kind`` is "hd" or "cd"; ``rotation``: ATA's nominal media rotation rate, 0 for unknown, 1 for none."""

    number: int
    kind: str
    backing: Backing
    serial: str
    revision: str
    model: str
    rotation: int


class Ahci(NamedTuple):
    address: Address
    ports: tuple[AhciPort, ...]


class Nvme(NamedTuple):
    """``ram``: MiB of memory instead of a backing file."""

    address: Address
    backing: Backing | None
    ram: int
    serial: str
    queues: int
    sector_size: int


class Tap(NamedTuple):
    interface: str


class Slirp(NamedTuple):
    """The user's own network, 10.0.2.0/24.  ``open``: it reaches the world; ``forward``: protocol:address:port-…"""

    open: bool
    forward: tuple[str, ...]


class OtherNetwork(NamedTuple):
    """A backend that only FreeBSD has: netmap, vale, netgraph."""

    kind: str
    name: str


class Nic(NamedTuple):
    """``model``: "virtio-net" or "e1000"; ``backend``: None for a cable that leads nowhere; ``mtu``: 0 if not given."""

    address: Address
    model: str
    backend: Tap | Slirp | OtherNetwork | None
    mac: str
    mtu: int


class Random(NamedTuple):
    address: Address


class ConsolePort(NamedTuple):
    """``number`` counts from 0; ``path``: where a Unix socket listens."""

    number: int
    name: str
    path: str


class VirtioConsole(NamedTuple):
    address: Address
    ports: tuple[ConsolePort, ...]


class Share(NamedTuple):
    """A directory of the host (9P)."""

    address: Address
    tag: str
    path: str
    read_only: bool


class InputDevice(NamedTuple):
    address: Address
    path: str


class Stdio(NamedTuple):
    """The terminal (or whatever standard input and output are)."""


class TerminalPort(NamedTuple):
    """A terminal device, one end of an nmdm(4) pair among them."""

    path: str


class Tcp(NamedTuple):
    """A TCP port that listens."""

    host: str
    port: int


class UnixSocket(NamedTuple):
    """A Unix socket that listens (not FreeBSD's)."""

    path: str


Backend = Stdio | TerminalPort | Tcp | UnixSocket


class SerialPort(NamedTuple):
    """A serial port on the ISA bus; ``number`` 0 is COM1; ``backend`` None: not connected."""

    number: int
    backend: Backend | None


class PciSerial(NamedTuple):
    address: Address
    backend: Backend | None


class FrameBuffer(NamedTuple):
    """A screen served over VNC at ``host``:``port``, or on the Unix socket ``path``.

    ``wait``: the guest starts when somebody looks; ``password`` empty: none.
    """

    address: Address
    host: str
    port: int
    path: str
    width: int
    height: int
    vga: str
    wait: bool
    password: str


class Usb(NamedTuple):
    """A USB controller with that many tablets."""

    address: Address
    tablets: int


class Sound(NamedTuple):
    address: Address
    play: str
    record: str


class Scsi(NamedTuple):
    """``device``: FreeBSD's CAM target layer, or (not FreeBSD's) a disk."""

    address: Address
    device: str


class Passthru(NamedTuple):
    """A device of the host."""

    address: Address
    device: str


Device = (
    VirtioBlock
    | Ahci
    | Nvme
    | Nic
    | Random
    | VirtioConsole
    | Share
    | InputDevice
    | PciSerial
    | FrameBuffer
    | Usb
    | Sound
    | Scsi
    | Passthru
)
