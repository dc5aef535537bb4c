"""A disk whose writes go nowhere: for looking at what a loader would do (dry runs, comparisons).

Loaders write little (nextboot, boot-once), so the sectors written are kept one by one; they live as long as the process
that wrote them.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EIO, EROFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from bhyveload.device import Buffer, Device

_SECTOR = 512
_MAX_SECTORS = 1 << 17  # 64 MiB


class Overlay:
    """The Device (device.py) ``disk`` as far as reading goes; as writable as it is."""

    __slots__ = ("_disk", "_sectors", "name", "read_only", "sector_size", "size")

    def __init__(self, disk: Device) -> None:
        self._disk = disk
        self._sectors: dict[int, bytes] = {}
        self.size = disk.size
        self.sector_size = disk.sector_size
        self.read_only = disk.read_only
        self.name = disk.name

    def read(self, offset: int, length: int) -> Buffer:
        """As the disk underneath, with what has been written.  Raises FileSystemError(EIO)."""
        data = self._disk.read(offset, length)
        if not self._sectors or not length:
            return data
        first, last = offset // _SECTOR, (offset + length - 1) // _SECTOR
        if last - first < len(self._sectors):
            changed = [number for number in range(first, last + 1) if number in self._sectors]
        else:
            changed = [number for number in self._sectors if first <= number <= last]
        if not changed:
            return data
        result = bytearray(data)
        for number in changed:
            start = number * _SECTOR - offset
            sector = self._sectors[number]
            low, high = max(0, start), min(length, start + len(sector))
            result[low:high] = sector[low - start : high - start]
        return bytes(result)

    def write(self, offset: int, data: Buffer) -> None:
        """Keep ``data`` for later reads.  Raises FileSystemError: EROFS, EIO (outside, or too much)."""
        length = len(data)
        if self.read_only:
            raise FileSystemError(EROFS, f"{self.name}: the disk image was opened read-only")
        if offset < 0 or offset + length > self.size:
            raise FileSystemError(EIO, f"{self.name}: {length} bytes at {offset} lie outside the {self.size}-byte disk")
        if length // _SECTOR + len(self._sectors) > _MAX_SECTORS:
            raise FileSystemError(EIO, f"{self.name}: too much is written to a disk that keeps nothing")
        first, last = offset // _SECTOR, (offset + length - 1) // _SECTOR
        for number in range(first, last + 1):
            at = number * _SECTOR
            sector = bytearray(self.read(at, min(_SECTOR, self.size - at)))
            low, high = max(offset, at), min(offset + length, at + len(sector))
            sector[low - at : high - at] = data[low - offset : high - offset]
            self._sectors[number] = bytes(sector)

    def descriptors(self) -> Sequence[int]:
        return self._disk.descriptors()

    def describe(self) -> dict[str, Any]:
        return self._disk.describe()

    def close(self) -> None:
        """Forget what was written; the disk underneath stays open."""
        self._sectors.clear()
