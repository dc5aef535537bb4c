"""Removed devices: an indirect vdev's blocks lie elsewhere, a mapping says where (vdev_indirect_read).

Source: vdev_indirect_read and vdev_indirect_mapping_* of stand/libsa/zfs/zfsimpl.c.
"""

from __future__ import annotations

from struct import Struct

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EIO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .dmu import Dnode, Objset
    from .vdev import Vdev

    Buffer = bytes | memoryview
    Verify = Callable[[Buffer], bool] | None

_ENTRY = Struct("<3Q")
_PHYS = Struct("<3Q")
"""max_offset, bytes_mapped, num_entries."""
_OFFSET_MASK = (1 << 63) - 1
_ASIZE_MASK = (1 << 24) - 1
_MAX_ENTRIES = 1 << 24
_MAX_CHAIN = 16
"""Removed devices whose data went to devices that were removed in turn."""
_MAX_PIECES = 1 << 15


class Mapping:
    """The mapping object of one indirect vdev, opened at the first read through it.

    Like libsa it keeps a window of entries: as many as one block of the object holds."""

    __slots__ = ("_busy", "_count", "_dnode", "_mos", "_number", "_start", "_top", "_window", "name")

    def __init__(self, mos: Objset, number: int, top: Callable[[int], Vdev | None], name: str) -> None:
        """``number``: the mapping object in the MOS; ``top`` finds a top-level vdev by its id."""
        self._mos = mos
        self._number = number
        self._top = top
        self.name = name
        self._dnode: Dnode | None = None
        self._count = 0
        self._window = b""
        self._start = 0
        self._busy = False

    def _fail(self, reason: str) -> FileSystemError:
        return FileSystemError(EIO, f"ZFS: the mapping of the removed device {self.name}: {reason}")

    def _open(self) -> Dnode:
        dnode = self._mos.dnode(self._number)
        if len(dnode.bonus) < _PHYS.size or dnode.bsize < _ENTRY.size:
            raise self._fail("not a mapping object")
        self._count = _PHYS.unpack_from(dnode.bonus)[2]
        if self._count > _MAX_ENTRIES:
            raise self._fail(f"{self._count} entries")
        self._dnode = dnode
        return dnode

    def _entry(self, index: int) -> tuple[int, int, int, int]:
        """(source offset, length, destination vdev, destination offset)."""
        place = (index - self._start) * _ENTRY.size
        if not 0 <= place <= len(self._window) - _ENTRY.size:
            self._load(index)
            place = 0
        source, dva0, dva1 = _ENTRY.unpack_from(self._window, place)
        return (source & _OFFSET_MASK) << 9, (dva0 & _ASIZE_MASK) << 9, dva0 >> 32, (dva1 & _OFFSET_MASK) << 9

    def _load(self, index: int) -> None:
        if self._busy:
            raise self._fail("it lies on the removed device itself")
        self._busy = True
        try:
            dnode = self._dnode or self._open()
            entries = min(self._count, dnode.bsize // _ENTRY.size)
            self._window = self._mos.objects.read_bytes(dnode, index * _ENTRY.size, max(entries, 1) * _ENTRY.size)
            self._start = index
        finally:
            self._busy = False

    def _find(self, offset: int) -> int:
        if self._dnode is None:
            self._load(0)
        low, high = 0, self._count - 1
        while low <= high:
            middle = (low + high) // 2
            source, length, _, _ = self._entry(middle)
            if offset < source:
                high = middle - 1
            elif offset < source + length:
                return middle
            else:
                low = middle + 1
        raise self._fail(f"{offset:#x} is not mapped")

    def pieces(self, offset: int, size: int, depth: int = 0) -> list[tuple[Vdev, int, int]]:
        """Where [offset, offset + size) lies: (vdev, offset, length), in order, no vdev among them indirect.

        Raises FileSystemError (EIO): a hole in the mapping, an unknown vdev, a circle."""
        if depth > _MAX_CHAIN:
            raise self._fail("it leads in a circle")
        index = self._find(offset)
        result: list[tuple[Vdev, int, int]] = []
        while size:
            if index >= self._count or len(result) > _MAX_PIECES:
                raise self._fail(f"{offset:#x} is not mapped")
            source, length, number, target = self._entry(index)
            inner = offset - source
            if not 0 <= inner < length:
                raise self._fail(f"{offset:#x} is not mapped")
            part = min(size, length - inner)
            vdev = self._top(number)
            if vdev is None:
                raise self._fail(f"it leads to the device {number}, which is unknown")
            if vdev.mapping is not None:
                result += vdev.mapping.pieces(target + inner, part, depth + 1)
            else:
                result.append((vdev, target + inner, part))
            offset += part
            size -= part
            index += 1
        return result

    def read(self, offset: int, size: int, psize: int, verify: Verify) -> Buffer:
        """One piece is read with verification (so a mirror can try its other side); several are put together first."""
        pieces = self.pieces(offset, size)
        if len(pieces) == 1:
            vdev, place, _ = pieces[0]
            return vdev.read(place, size, psize, verify)
        data = b"".join(bytes(vdev.read(place, length, length, None)) for vdev, place, length in pieces)
        if verify is not None and not verify(data[:psize]):
            raise self._fail(f"wrong checksum of a split block at {offset:#x}")
        return data
