"""A saved guest (saving.py) as one more clone: memory shared until it writes to it, disks of its own."""

from __future__ import annotations

import contextlib
import os
import stat

from bhyveload.absolute_path import absolute_path
from bhyveload.errors import HandoffError, UsageError
from bhyveload.handoff.disks import Disk, disk_from_path
from bhyveload.handoff.network import NONE, Network
from bhyveload.handoff.qemu.command import QemuOptions
from bhyveload.handoff.qemu.overlay import put_on_top
from bhyveload.saved.format import (
    DEVICES,
    HEADER,
    HEADER_MAX,
    KERNEL,
    MEMORY,
    Saved,
    SavedDisk,
    parse_header,
    processor_of,
)
from bhyveload.saved.saving import Standing, disk_name
from bhyveload.vm.memory import GuestMemory, split_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_KERNEL_MAX = 64 << 20
_AGAIN = "save the guest again"


class Restoration:
    """The saved guest in ``folder``, its files open until ``closing`` is.  Raises HandoffError: it is damaged, or this
    host, QEMU or one of its images is not what it was."""

    def __init__(self, folder: str, closing: contextlib.ExitStack) -> None:
        self._folder = absolute_path(folder)
        self._closing = closing
        with contextlib.suppress(OSError):  # the first file says so
            status = os.stat(self._folder)
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                raise HandoffError(
                    f"{folder}: is not yours alone: others could change the guest", "own it, with chmod 700"
                )
        with open(self._open(HEADER, HEADER_MAX), "rb", closefd=False) as file:
            self.saved: Saved = parse_header(file.read(HEADER_MAX), self._path(HEADER))
        now = processor_of(self.saved.accel)
        if now != self.saved.processor:
            raise HandoffError(
                f"{folder}: saved on the processor {ascii(self.saved.processor)[1:-1]}, this one is {now}", _AGAIN
            )
        self._memory = self._sized(MEMORY, os.O_RDWR)
        self._devices = self._sized(DEVICES)
        self._kernel = self._in_memory(self._sized(KERNEL))

    def machine(self, name: str, folder: str) -> Standing:
        """What runs under ``name`` and in ``folder``."""
        memory = GuestMemory(self._memory, *split_memory(self.saved.memory), fresh=False)
        return Standing(name, folder, memory, {"flags": dict(self.saved.flags)})

    def options(
        self, net: Network, user: str | None, confined: bool, exchange: Disk | None = None, overlays: Sequence[str] = ()
    ) -> QemuOptions:
        """``exchange``: the disk for folders, of the size that the saved one has; ``overlays``: new files that keep
        what the clone writes to its disks.  Raises HandoffError: another network card, another image."""
        kind, model = self.saved.net
        if net.kind == NONE:
            net = Network(kind, model=model)
        if (net.kind, net.model) != (kind, model):
            raise HandoffError(f"the saved guest has the network {kind} ({model}), not {net.kind} ({net.model})")
        if len(overlays) > len(self.saved.disks):
            raise UsageError(f"{len(overlays)} overlays for {len(self.saved.disks)} disks")
        disks = [self._disk(number, disk) for number, disk in enumerate(self.saved.disks)]
        for number, path in enumerate(overlays):
            disks[number] = self._kept(number, disks[number], path)
        return QemuOptions(
            [*disks, *([exchange] if exchange is not None else [])],
            self.saved.accel,
            self.saved.cpus,
            net,
            user=user,
            confined=confined,
            kernel=self._kernel,
            incoming=self._devices,
            version=self.saved.qemu,
        )

    def _disk(self, number: int, disk: SavedDisk) -> Disk:
        for layer in disk.layers:
            if difference := layer.difference():
                raise HandoffError(difference, _AGAIN)
        chain = [(layer.path, layer.format) for layer in disk.layers]
        (path, form), *backing = chain
        if disk.read_only:
            return Disk(path, True, form, size=disk.size, sector_size=disk.sector_size, backing=backing)
        top = self._path(disk_name(number))
        opened = disk_from_path(f"{top},format=qcow2,backing")  # by our own confined reader
        if [os.path.realpath(path) for path, _ in opened.backing] != [os.path.realpath(path) for path, _ in chain]:
            raise HandoffError(f"{top}: stands on something else than {path}", _AGAIN)
        return opened.changed(backing=chain, name=path, snapshot=True, sector_size=disk.sector_size)

    def _kept(self, number: int, disk: Disk, path: str) -> Disk:
        """``disk`` with what the clone writes in a new file: the memory knows nothing of what an older one holds."""
        if disk.read_only:
            raise UsageError(f"--overlay {path}: disk {number} is read-only")
        if os.path.lexists(path):
            raise HandoffError(
                f"--overlay {path}: is there already, and the saved guest's memory knows nothing of it",
                "name a new file; boot an older one with bhyveload -d FILE,format=qcow2,backing",
            )
        return put_on_top(disk.changed(overlay=path, snapshot=False))

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _open(self, name: str, most: int, flags: int = os.O_RDONLY) -> int:
        path = self._path(name)
        try:
            fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            hint = "no guest has been saved there, or not wholly" if name == HEADER else _AGAIN
            raise HandoffError(f"{path}: {error.strerror}", hint) from None
        self._closing.callback(os.close, fd)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            raise HandoffError(f"{path}: is no file of a saved guest", _AGAIN)
        return fd

    def _sized(self, name: str, flags: int = os.O_RDONLY) -> int:
        size = self.saved.sizes[name]
        fd = self._open(name, size, flags)
        if os.fstat(fd).st_size != size:
            raise HandoffError(f"{self._path(name)}: has not the {size} bytes that were saved", _AGAIN)
        return fd

    def _in_memory(self, fd: int) -> int:
        """A copy without a name, which whoever QEMU becomes may open."""
        data = os.pread(fd, _KERNEL_MAX + 1, 0)
        if len(data) > _KERNEL_MAX:
            raise HandoffError(f"{self._path(KERNEL)}: is too large", _AGAIN)
        copy = os.memfd_create("bhyverun stub", os.MFD_CLOEXEC)
        self._closing.callback(os.close, copy)
        os.write(copy, data)
        return copy
