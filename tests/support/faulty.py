"""Hosts that fail: disks that cannot be read or end too early, memory that runs full, at a chosen moment."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from bhyveload.device import Buffer
from bhyveload.errors import FileSystemError, VmStorageError
from bhyveload.freebsd_errno import EIO
from bhyveload.image.raw import RawImage
from bhyveload.vm.memory import GuestMemory
from support.devices import Hostless

NEVER = 1 << 60


class FaultyDisk(Hostless):
    """``disk``, whose reads from number ``first`` on (0 is the first) fail as ``kind`` says, ``count`` of them.

    "eio": the error of a host that cannot read; "short": half of the bytes; "zeros": all bytes zero, as a sparse copy
    of a damaged medium has them.
    """

    def __init__(self, disk: RawImage, kind: str, first: int, count: int = NEVER) -> None:
        self.disk = disk
        self.kind = kind
        self.first = first
        self.last = first + count
        self.reads = 0
        self.size = disk.size
        self.sector_size = disk.sector_size
        self.read_only = disk.read_only
        self.name = disk.name

    def descriptors(self) -> tuple[int, ...]:
        return self.disk.descriptors()

    def read(self, offset: int, length: int) -> Buffer:
        number = self.reads
        self.reads += 1
        data = self.disk.read(offset, length)
        if not self.first <= number < self.last:
            return data
        if self.kind == "eio":
            raise FileSystemError(EIO, f"{self.name}: read at {offset}: Input/output error")
        return data[: length // 2] if self.kind == "short" else bytes(length)

    def write(self, offset: int, data: Buffer) -> None:
        self.disk.write(offset, data)


class FullMemory(GuestMemory):
    """Guest memory whose file system has no room for the write number ``first`` and those after it."""

    __slots__ = ("first", "number", "writes")

    def __init__(self, memory: GuestMemory, first: int, number: int = errno.ENOSPC) -> None:
        super().__init__(memory.fd, memory.low, memory.high, memory.fresh)
        self.first = first
        self.number = number
        self.writes = 0

    def write_pieces(self, gpa: int, pieces: object, length: int) -> None:
        self.writes += 1
        if self.writes > self.first:
            raise VmStorageError(f"guest memory: {os.strerror(self.number)}")
        super().write_pieces(gpa, pieces, length)  # type: ignore[arg-type]


def processes_of(session: int) -> list[int]:
    """The processes of a session that still run (zombies do not)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found
