"""Save a running guest into a folder (format.py) that restoring.py starts clones from.

The guest's memory is a file of that folder from the start of the run: saving it costs nothing but its devices.
"""

from __future__ import annotations

import contextlib
import os

from bhyveload.absolute_path import absolute_path
from bhyveload.errors import HandoffError
from bhyveload.guest.watch import Watch
from bhyveload.handoff.disks import unpacked
from bhyveload.handoff.machine import loaded
from bhyveload.handoff.network import TAP
from bhyveload.handoff.outcome import SAVED
from bhyveload.handoff.pvh.extents import data_extents
from bhyveload.handoff.pvh.stub_file import stub_file
from bhyveload.handoff.qemu.command import flags_of
from bhyveload.handoff.qemu.overlay import put_on_top
from bhyveload.libc import write_all
from bhyveload.new_file import NewFile, private_folder
from bhyveload.saved.format import (
    DEVICES,
    HEADER,
    KERNEL,
    MEMORY,
    Saved,
    SavedDisk,
    header_text,
    layer_of,
    processor_of,
)
from bhyveload.vm.memory import GuestMemory

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Sequence
    from typing import Any

    from bhyveload.confined.deadline import Deadline
    from bhyveload.handoff.disks import Disk
    from bhyveload.handoff.machine import LoadedMachine
    from bhyveload.handoff.qemu.command import QemuOptions
    from bhyveload.handoff.qemu.session import QemuSession
    from bhyveload.image.progress import Progress

_COPY_MAX = 1 << 30


class Standing:
    """A LoadedMachine whose memory is somewhere else than in the VM's folder."""

    def __init__(self, name: str, path: str, memory: GuestMemory, state: dict[str, Any]) -> None:
        self.name, self.path = name, path
        self.memory, self.state = memory, state


class Keeper:
    """One run that is to be saved into the new folder ``folder``: when a line of the console matches ``marker``, or
    when somebody calls ``save``.  ``tell`` is told why it cannot be.  Use it in a ``with``: a folder that holds no
    saved guest at its end is removed."""

    def __init__(self, folder: str, marker: re.Pattern[bytes] | None, tell: Callable[[str], None]) -> None:
        """Raises HandoffError."""
        self.folder = absolute_path(folder)
        self.saved = False
        self.shell = False  # whether one of guest/session.py's waits on the console
        self._watch = Watch([marker]) if marker is not None else None
        self._tell = tell
        self._closing = contextlib.ExitStack()
        self._layers: list[SavedDisk] = []
        self._begun = False
        try:
            private_folder(self.folder)
        except OSError as error:
            hint = "a guest is saved into a new folder: name another one" if os.path.exists(self.folder) else ""
            raise HandoffError(f"--save {folder}: {error.strerror}", hint) from None

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()
        if self.saved:
            return
        names = [HEADER, MEMORY, DEVICES, KERNEL]
        for name in names + [disk_name(number) for number in range(len(self._layers))]:
            with contextlib.suppress(OSError):
                os.unlink(self._path(name))
        with contextlib.suppress(OSError):
            os.rmdir(self.folder)

    def machine(self, vm: LoadedMachine, empty: bool = False) -> Standing:
        """``vm`` with a copy of its memory in the folder; ``empty``: with zeros instead, QEMU is to fill it.

        Raises HandoffError, VmNotLoaded."""
        memory, state = loaded(vm)
        size = memory.low + memory.high
        fd = self._new(MEMORY)
        try:
            os.ftruncate(fd, size)
            for first, end in () if empty else data_extents(memory.fd, 0, size):
                _copy(memory.fd, fd, first, end)
        except OSError as error:
            raise HandoffError(f"{self._path(MEMORY)}: {error.strerror}") from None
        return Standing(vm.name, vm.path, GuestMemory(fd, memory.low, memory.high, fresh=False), state)

    def disks(self, given: Sequence[Disk], progress: Progress | None, deadline: Deadline) -> list[Disk]:
        """What the guest writes goes into files of the folder.  Raises HandoffError, and as disks.unpacked()."""
        kept = []
        for number, disk in enumerate(given):
            overlay = "" if disk.read_only else self._path(disk_name(number))
            ready = unpacked(disk.changed(overlay=overlay, snapshot=False), progress, deadline)
            chain = [(ready.path, ready.format), *ready.backing]
            layers = tuple(layer_of(absolute_path(path), form) for path, form in chain)
            self._layers.append(SavedDisk(disk.read_only, disk.sector_size, ready.size, layers))
            kept.append(put_on_top(ready) if overlay else ready)
        return kept

    def fill(self, number: int, source: int) -> None:
        """Disk ``number``'s file gets the bytes of ``source``, a qcow2 image that stands on the same.  Raises
        HandoffError."""
        try:
            fd = os.open(self._path(disk_name(number)), os.O_RDWR | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise HandoffError(f"{self._path(disk_name(number))}: {error.strerror}") from None
        try:
            size = os.fstat(source).st_size
            os.ftruncate(fd, size)
            for first, end in data_extents(source, 0, size):
                _copy(source, fd, first, end)
        finally:
            os.close(fd)

    def prepare(
        self, machine: Standing, options: QemuOptions, exchange: int = 0, began: LoadedMachine | None = None
    ) -> None:
        """Have the run be one that can be saved.  ``exchange``: bytes of the last disk, if that is for folders;
        ``began``: what the guest began as, where ``machine`` has no memory yet.

        Raises HandoffError."""
        if options.net.kind == TAP or options.shares or options.extra:
            raise HandoffError(
                "--save: a network by tap, a shared folder or QEMU's own arguments cannot be saved", "run without them"
            )
        stub = stub_file(began or machine)
        self._closing.callback(os.close, stub)
        _copy(stub, self._new(KERNEL), 0, os.fstat(stub).st_size)
        options.shared, options.kernel = True, stub
        self._devices = self._new(DEVICES)
        self._facts: dict[str, Any] = {
            "accel": options.accel,
            "processor": processor_of(options.accel),
            "cpus": options.cpus,
            "memory": machine.memory.low + machine.memory.high,
            "flags": {name: value is True for name, value in flags_of(machine.state).items()},
            "net": (options.net.kind, options.net.model),
            "exchange": exchange,
        }

    def attend(self, session: QemuSession) -> None:
        self._session = session
        watch = self._watch
        if watch is None:
            return

        def hear(data: bytes) -> None:
            watch.feed(data)
            if watch.matched is not None and self._watch is watch:
                self._watch = None  # once, whatever comes of it
                self.save(lambda reason: None)

        session.console.hear(hear)

    def save_at_shell(self, answer: Callable[[str], None]) -> None:
        """``save``, with a shell of guest/session.py's that waits on the console."""
        self.shell = True
        self.save(answer)

    def save_to(self, folder: str, answer: Callable[[str], None], step: object = None) -> None:
        """``save`` for somebody who may name the folder.  There is no step: the memory is there already."""
        if folder and os.path.realpath(folder) != os.path.realpath(self.folder):
            answer(f"it was started to be saved into {self.folder}")
        else:
            self.save(answer)

    def save(self, answer: Callable[[str], None]) -> None:
        """Save the guest and end the run; ``answer`` is called with "" then, or with why it runs on."""
        if self._begun:
            answer("it is being saved already")
            return
        self._begun = True

        def done(reason: str) -> None:
            reason = reason or self._finish()
            self._begun = not reason
            if reason:
                self._tell(f"the guest is not saved: {reason}")
            answer(reason)
            if self.saved:
                self._session.stop(SAVED)

        os.ftruncate(self._devices, 0)
        os.lseek(self._devices, 0, os.SEEK_SET)
        self._session.save(self._devices, done)

    def _finish(self) -> str:
        sizes = {name: os.stat(self._path(name)).st_size for name in (MEMORY, DEVICES, KERNEL)}
        saved = Saved(
            qemu=self._session.version, disks=tuple(self._layers), sizes=sizes, shell=self.shell, **self._facts
        )
        try:
            with NewFile(self._path(HEADER)) as new:
                write_all(new.fd, header_text(saved))
                new.place()
        except OSError as error:
            return str(error)
        self.saved = True
        return ""

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _new(self, name: str) -> int:
        try:
            fd = os.open(self._path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise HandoffError(f"{self._path(name)}: {error.strerror}") from None
        self._closing.callback(os.close, fd)
        return fd


def disk_name(number: int) -> str:
    return f"disk{number}.qcow2"


def _copy(source: int, target: int, first: int, end: int) -> None:
    """Bytes [first, end) of one file to the same place in another.  Raises HandoffError."""
    try:
        os.lseek(target, first, os.SEEK_SET)
        while first < end:
            done = os.sendfile(target, source, first, min(end - first, _COPY_MAX))
            if not done:
                raise HandoffError("guest memory ends early", "load the VM again")
            first += done
    except OSError as error:
        raise HandoffError(f"saving the guest: {error.strerror}") from None
