"""saved.json of a saved guest: what it needs to run again.  The folder may come from anybody: all of it is checked.

FOLDER/saved.json       this; it is there once the rest is whole
FOLDER/memory           guest memory, as the VM's file of that name
FOLDER/devices          what QEMU knows of the machine beside its memory
FOLDER/kernel           the start-up stub: QEMU wants it again
FOLDER/diskN.qcow2      what the guest had written to its disk N, on top of its image
"""

from __future__ import annotations

import os
import stat
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from bhyveload.errors import HandoffError, VmMemoryError
from bhyveload.guest.exchange import LIMIT_MAX
from bhyveload.handoff.network import MODELS, NONE, USER
from bhyveload.handoff.qemu.command import MAX_CPUS
from bhyveload.handoff.qemu.drives import MAX_DISKS
from bhyveload.jsontext import dumps, loads, restored
from bhyveload.vm.memory import split_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADER, MEMORY, DEVICES, KERNEL = "saved.json", "memory", "devices", "kernel"
HEADER_MAX = 1 << 20
SCHEMA = 1
_LAYERS_MAX = 64
_FORMATS = ("raw", "qcow2", "vhd", "vhdx")
_FLAGS = ("wired", "incore")
_LARGEST = (1 << 63) - 1


class SavedLayer(NamedTuple):
    """A file below a disk, and what must not have changed of it."""

    path: str
    format: str
    device: int
    inode: int
    size: int
    modified: int  # ns

    def difference(self) -> str:
        """Why it is not the file that it was; "" when it is."""
        try:
            now = layer_of(self.path, self.format)
        except HandoffError as error:
            return str(error)
        if now == self:
            return ""
        what = "size" if now.size != self.size else "time of change" if now.inode == self.inode else "identity"
        return f"{self.path}: its {what} is not what it was when the guest was saved"


class SavedDisk(NamedTuple):
    """``size`` in bytes; ``layers``: topmost first, below the folder's own file where the guest may write."""

    read_only: bool
    sector_size: int
    size: int
    layers: tuple[SavedLayer, ...]


class Saved(NamedTuple):
    """``sizes`` of the files of the folder, by name; ``net``: (kind, model); ``exchange``: bytes of the disk for
    folders behind the others, 0 for none; ``shell``: a shell of guest/session.py's waits on the console."""

    qemu: str
    accel: str
    processor: str
    cpus: int
    memory: int
    flags: dict[str, bool]
    net: tuple[str, str]
    disks: tuple[SavedDisk, ...]
    sizes: dict[str, int]
    exchange: int
    shell: bool


def layer_of(path: str, form: str) -> SavedLayer:
    """The file ``path`` as it is now.  Raises HandoffError: not there, or nothing that shows when it is changed."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise HandoffError(f"{path}: {getattr(error, 'strerror', None) or 'not a path'}") from None
    if not stat.S_ISREG(status.st_mode):
        raise HandoffError(f"{path}: is no regular file: whether it changes is not to be seen", "use an image file")
    return SavedLayer(path, form, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def processor_of(accel: str) -> str:
    """The processor that a guest sees, for comparing."""
    if accel != "kvm":
        return "max"
    names = ("vendor_id", "cpu family", "model", "stepping", "flags")
    found: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file.read(1 << 16).splitlines():
                name, _, value = line.partition(":")
                if name.strip() in names:
                    found.setdefault(name.strip(), value.strip())
    except OSError:
        return "unknown"
    found["flags"] = f"{zlib.crc32(found.get('flags', '').encode()):08x}"
    return " ".join(found.get(name, "?") for name in names)


def header_text(saved: Saved) -> bytes:
    values = saved._asdict()
    values["disks"] = [{**disk._asdict(), "layers": [layer._asdict() for layer in disk.layers]} for disk in saved.disks]
    return dumps({"schema": SCHEMA, **values}, indent=1).encode() + b"\n"


def parse_header(text: bytes, where: str) -> Saved:
    """Raises HandoffError."""
    try:
        header = restored(loads(text))
    except (ValueError, RecursionError):
        raise HandoffError(f"{where}: is no JSON", _HINT) from None
    check = _HeaderCheck(where)
    if not isinstance(header, dict) or check.number(header, "schema", 0, _LARGEST) != SCHEMA:
        raise HandoffError(f"{where}: is of no version that is known here", _HINT)
    memory = check.number(header, "memory", 1 << 20, 1 << 46)
    try:
        split_memory(memory)
    except VmMemoryError:
        raise check.wrong("memory") from None
    flags, sizes = check.mapping(header, "flags"), check.mapping(header, "sizes")
    net = check.list(header, "net", 2)
    if len(net) != 2 or net[0] not in (NONE, USER) or net[1] not in MODELS.values():
        raise check.wrong("net")
    saved = Saved(
        qemu=check.text(header, "qemu", 40),
        accel=check.text(header, "accel", 10, ("kvm", "tcg")),
        processor=check.text(header, "processor", 400),
        cpus=check.number(header, "cpus", 1, MAX_CPUS),
        memory=memory,
        flags={name: flags.get(name) is True for name in _FLAGS},
        net=(net[0], net[1]),
        disks=tuple(_disk(check, entry) for entry in check.list(header, "disks", MAX_DISKS)),
        sizes={name: check.number(sizes, name, 1, _LARGEST) for name in (MEMORY, DEVICES, KERNEL)},
        exchange=check.number(header, "exchange", 0, LIMIT_MAX),
        shell=header.get("shell") is True,
    )
    if saved.exchange % (1 << 20):
        raise check.wrong("exchange")
    if saved.sizes[MEMORY] != memory:
        raise check.wrong("sizes")
    return saved


def _disk(check: _HeaderCheck, entry: object) -> SavedDisk:
    if not isinstance(entry, dict):
        raise check.wrong("disks")
    layers = []
    for below in check.list(entry, "layers", _LAYERS_MAX):
        if not isinstance(below, dict):
            raise check.wrong("layers")
        path = check.text(below, "path", 4096)
        if not os.path.isabs(path) or "\0" in path:
            raise check.wrong("path")
        numbers = [check.number(below, name, 0, (1 << 64) - 1) for name in ("device", "inode", "size", "modified")]
        layers.append(SavedLayer(path, check.text(below, "format", 10, _FORMATS), *numbers))
    if not layers:
        raise check.wrong("layers")
    read_only = entry.get("read_only")
    sector_size = check.number(entry, "sector_size", 512, 4096)
    if not isinstance(read_only, bool) or sector_size not in (512, 4096):
        raise check.wrong("disks")
    return SavedDisk(read_only, sector_size, check.number(entry, "size", 0, 1 << 62), tuple(layers))


_HINT = "save the guest again"


class _HeaderCheck:
    """Typed access to the header; a failure names the member."""

    def __init__(self, where: str) -> None:
        self._where = where

    def wrong(self, what: str) -> HandoffError:
        return HandoffError(f"{self._where}: {what} is missing or wrong", _HINT)

    def mapping(self, members: dict[str, Any], name: str) -> dict[str, Any]:
        value = members.get(name)
        if not isinstance(value, dict):
            raise self.wrong(name)
        return value

    def list(self, members: dict[str, Any], name: str, most: int) -> list[Any]:
        value = members.get(name)
        if not isinstance(value, list) or len(value) > most:
            raise self.wrong(name)
        return value

    def number(self, members: dict[str, Any], name: str, least: int, most: int) -> int:
        value = members.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.wrong(name)
        return value

    def text(self, members: dict[str, Any], name: str, most: int, choices: Sequence[str] = ()) -> str:
        value = members.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= most or (choices and value not in choices):
            raise self.wrong(name)
        return value
