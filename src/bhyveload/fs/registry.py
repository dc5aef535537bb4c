"""The file systems that a disk or partition can hold, in the order of file_system[] (stand/userboot/userboot/conf.c).

The loader, its diagnosis and bhyvedisk all go by this list.  A further one is a module of this room with ``probe`` and
``describe`` (fs/interface.py, FileSystemModule) and a line in DISK.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError, NoFileSystem
from bhyveload.freebsd_errno import EINVAL
from bhyveload.need import declare, need

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bhyveload.device import Device
    from bhyveload.fs.interface import FileSystemModule, ProbedFileSystem, Twiddle


class Signature:
    """``magic`` at byte ``at`` of the block of ``size`` bytes at ``offset``."""

    __slots__ = ("at", "magic", "offset", "size")

    def __init__(self, offset: int, size: int, at: int, magic: bytes) -> None:
        self.offset = offset
        self.size = size
        self.at = at
        self.magic = magic

    def is_on(self, device: Device) -> bool:
        """Raises FileSystemError: the block cannot be read."""
        return device.read(self.offset, self.size)[self.at : self.at + len(self.magic)] == self.magic


class FileSystemKind:
    """One kind of file system.

    ``name``: libsa's; ``title``: in words; ``module``: what reads it, asked for (need.py) only where ``signature`` is
    in sight (None: every disk is a candidate).
    ``by_unit``: what is mounted is found again by the disk's unit, as cd9660_open does; else by the device's name.
    """

    __slots__ = ("by_unit", "module", "name", "signature", "title")

    def __init__(
        self, name: str, title: str, module: str, signature: Signature | None = None, by_unit: bool = False
    ) -> None:
        self.name = name
        self.title = title
        self.module = module
        self.signature = signature
        self.by_unit = by_unit
        declare(module)

    def load(self) -> FileSystemModule:
        """Its module.  Raises ModulesNeeded (need.py)."""
        found: Any = need(self.module)
        module: FileSystemModule = found
        return module

    def probe(self, device: Device, twiddle: Twiddle, strict: bool = False) -> ProbedFileSystem:
        """Mount it.  ``strict``: nothing is found that FreeBSD's loader does not find.

        Raises NoFileSystem where there is none, any other FileSystemError when it cannot be read.
        """
        if self.signature is not None:
            try:
                found = self.signature.is_on(device)
            except FileSystemError:
                twiddle(1)  # what the module's probe would show for that read
                raise
            if not found:
                twiddle(1)
                raise NoFileSystem(EINVAL, f"no {self.title}")
        return self.load().probe(device, twiddle, strict)


DISK = (
    FileSystemKind("ufs", "UFS", "bhyveload.fs.ufs"),
    FileSystemKind("cd9660", "ISO 9660", "bhyveload.fs.iso9660", Signature(16 * 2048, 2048, 1, b"CD001"), by_unit=True),
)


for _kind in DISK:
    if _kind.signature is None:
        _kind.load()  # every run would ask for it, and start over


def kind_named(name: str) -> FileSystemKind | None:
    return next((kind for kind in DISK if kind.name == name), None)


def mounted(device: Device, twiddle: Twiddle) -> tuple[ProbedFileSystem | None, list[FileSystemError]]:
    """What the first kind that knows it finds on ``device``, and why those before it, or all, do not."""
    refusals: list[FileSystemError] = []
    for kind in DISK:
        try:
            return kind.probe(device, twiddle), refusals
        except FileSystemError as error:
            refusals.append(error)
    return None, refusals


def titles() -> list[str]:
    """The kinds in words, ZFS with them."""
    return [*(kind.title for kind in DISK), "ZFS"]
