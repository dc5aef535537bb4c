"""Where a loaded kernel's symbols are, for people at a debugger; and out of the guest's disks with them (--symbols)."""

from __future__ import annotations

import os
import shlex
import zlib

from bhyveload.confined.confinement import Subject
from bhyveload.confined.deadline import SURVEY_SECONDS, Deadline
from bhyveload.confined.reports import SYMBOLS
from bhyveload.confined.run import run as run_confined
from bhyveload.errors import BhyveloadError, HostError, InputError
from bhyveload.handoff.disks import disks_of
from bhyveload.image.open import open_disk
from bhyveload.sandbox import Sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from bhyveload.image.open import Disk

_STEP = 1 << 20


class Symbols:
    """The kernel of the loaded VM in ``state``: ``kernel``, its path on ``device`` of the disks ``paths``; ``debug``,
    the path of its debug information ("": there is none); ``whole``: the kernel has that itself.

    Raises BhyveloadError: the disks are gone, cannot be read, or are not where the kernel came from.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        report = state.get("loaded")
        report = report if isinstance(report, dict) else {}
        kernel, device = report.get("kernel"), report.get("loaddev")
        name = kernel.get("name") if isinstance(kernel, dict) else None
        if not isinstance(name, str) or not isinstance(device, str) or not name:
            raise InputError("the VM's state names no kernel")
        given, colon, path = name.partition(":") if not name.startswith("/") else ("", "", name)
        self.device = f"{given}:" if colon else device
        self.kernel = path
        if not self.device.startswith(("disk", "zfs:")):
            raise InputError(f"the kernel came from {self.device}", "its symbols are where it is")
        self._disks = [(disk.path, bool(disk.backing)) for disk in disks_of(state)]
        found = self._found()
        self.debug: str = found["debug"]
        self.whole: bool = found["whole"]
        self.looked_for: list[str] = found["looked_for"]
        self._crc: int | None = found["crc"]

    def _opened(self) -> list[Disk]:
        return [open_disk(path, read_only=True, allow_backing=backing) for path, backing in self._disks]

    def _found(self) -> dict[str, Any]:
        from bhyveload.inspect.symbols import find_symbols
        from bhyveload.inspect.volumes import DiskVolumes

        disks = self._opened()
        kernel = self.kernel.encode("latin-1", "replace")
        subject = Subject("the reader of symbols", Sandbox(), disks=disks)
        found: dict[str, Any] = run_confined(
            lambda _: find_symbols(DiskVolumes(disks), self.device, kernel), subject, Deadline(SURVEY_SECONDS), SYMBOLS
        )
        return found

    def hint(self) -> str:
        """What to say to whoever has not asked for a copy."""
        if self.whole:
            return f"the kernel has its debug information itself: {self._copying(self.kernel)}"
        if self.debug:
            return f"{self.device}{self.debug} ({self._copying(self.debug)}; --symbols FOLDER copies it and the kernel)"
        return f"none on {self.device} (looked for {', '.join(self.looked_for)})"

    def _copying(self, path: str) -> str:
        words = ["bhyvedisk", "cp", *(word for disk, _ in self._disks for word in ("-d", disk))]
        place = self.device.removesuffix(":")
        words += ["--dataset", place.removeprefix("zfs:")] if place.startswith("zfs:") else ["--partition", place]
        return shlex.join([*words, path, "."])

    def copy(self, folder: str) -> tuple[str, str]:
        """Copy both into ``folder``, which is made where it is not there: the kernel's copy, and what is wrong with its
        debug information ("": nothing).  gdb finds that beside the kernel.  Raises BhyveloadError."""
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise HostError(f"--symbols {folder}: {error.strerror}") from None
        kernel = self._copy(self.kernel, folder)
        if self.whole:
            return kernel, ""
        if not self.debug:
            return kernel, f"no debug information is on {self.device} (looked for {', '.join(self.looked_for)})"
        debug = self._copy(self.debug, folder)
        if self._crc is not None and _crc(debug) != self._crc:
            return kernel, f"{self.debug} belongs to another kernel: its checksum is not the one that the kernel names"
        return kernel, ""

    def _copy(self, path: str, folder: str) -> str:
        from bhyveload.cli.bhyvedisk import copy_out

        place = self.device.removesuffix(":")
        dataset = place.removeprefix("zfs:") if place.startswith("zfs:") else ""
        return copy_out(self._opened(), "" if dataset else place, dataset, path, folder)


def _crc(path: str) -> int:
    """As .gnu_debuglink has it: CRC-32 of ISO 3309."""
    total = 0
    with open(path, "rb") as file:
        while piece := file.read(_STEP):
            total = zlib.crc32(piece, total)
    return total


def tell(state: Mapping[str, Any], folder: str, behind: Sequence[str], say: Callable[[str], None]) -> None:
    """Copy the symbols into ``folder`` ("": only say where they are) and say how gdb is started, words ``behind`` it.

    Raises BhyveloadError where a copy was asked for.
    """
    if folder:
        kernel, trouble = Symbols(state).copy(folder)
        if trouble:
            say(f"symbols: {trouble}")
        say(shlex.join(["gdb", kernel, *behind]))
        return
    try:
        say(f"symbols: {Symbols(state).hint()}")
    except BhyveloadError as error:
        say(f"symbols: {error.message}")
