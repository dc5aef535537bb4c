"""The four labels of a leaf: its configuration, its uberblocks, its boot environment block (vdev_label_t).

A ``LeafVdev`` is an opened device seen as a vdev; what is read of it is counted as libsa's vdev_read would read it,
because every such read may turn the loader's twiddle (docs/errata.md, "Twiddles").
"""

from __future__ import annotations

from struct import Struct

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EINVAL, EIO
from bhyveload.libc import forget_mapped

from . import nvlist
from . import zfs_format as zf
from .checksum import verify_embedded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhyveload.device import Device
    from bhyveload.fs.interface import Twiddles

    from .nvlist import NvList

    Buffer = bytes | memoryview

TWIDDLE_RAW_READ = 4
_MOST_MAPPED = 4 << 20

_UBERBLOCK = Struct("<26Q")
_UBERBLOCK_SWAPPED = Struct(">26Q")
_MAGICS = zf.UBERBLOCK_MAGIC, int.from_bytes(zf.UBERBLOCK_MAGIC.to_bytes(8, "little"), "big")


class Reads:
    """Counts reads of raw devices and passes each on to the loader's twiddle, unless ``paused``: while something is
    read that libsa does not look at.  ``total``: of all, ``shown``: without those."""

    __slots__ = ("paused", "shown", "total", "twiddle")

    def __init__(self, twiddle: Twiddles | None = None) -> None:
        self.twiddle = twiddle
        self.paused = False
        self.shown = 0
        self.total = 0

    def count(self, calls: int) -> None:
        self.total += calls
        if self.paused:
            return
        self.shown += calls
        twiddle = self.twiddle
        if twiddle is not None and calls:
            twiddle(TWIDDLE_RAW_READ, calls)


def strategy_calls(offset: int, length: int, sector_size: int) -> int:
    """How many read() calls vdev_read makes: a partial first sector, the whole sectors, a partial last one."""
    head = offset % sector_size
    total = head + length
    calls = 1 if head else 0
    whole = -(-total // sector_size) - calls
    if total % sector_size and total > sector_size:
        calls += 1
        whole -= 1
    return calls + (1 if whole > 0 else 0)


class LeafVdev:
    """A device as a vdev.  ``psize``: its size as ZFS sees it, which places the labels at its end."""

    __slots__ = ("_mapped", "device", "name", "psize", "reads")

    def __init__(self, device: Device, name: str, reads: Reads) -> None:
        self.device = device
        self.name = name
        self.reads = reads
        self._mapped = 0  # bytes read since what is mapped was forgotten
        self.psize = device.size & ~(zf.VDEV_LABEL_SIZE - 1)

    def read(self, offset: int, length: int) -> Buffer:
        """Raises FileSystemError (EIO) when that is not on the device or cannot be read."""
        self.reads.count(strategy_calls(offset, length, self.device.sector_size))
        if offset < 0 or offset + length > self.device.size:
            raise FileSystemError(EIO, f"ZFS: {self.name}: [{offset:#x}, {offset + length:#x}) is outside the device")
        data = self.device.read(offset, length)
        self._mapped += length
        if self._mapped > _MOST_MAPPED:
            self._mapped = 0
            forget_mapped(data)
        return data

    def write(self, offset: int, data: bytes) -> None:
        self.reads.count(strategy_calls(offset, len(data), self.device.sector_size))
        self.device.write(offset, data)

    def label_offset(self, label: int, offset: int) -> int:
        """Where ``offset`` of a label lies on the device (vdev_label_offset)."""
        end = 0 if label < zf.VDEV_LABELS // 2 else self.psize - zf.VDEV_LABELS * zf.VDEV_LABEL_SIZE
        return end + label * zf.VDEV_LABEL_SIZE + offset

    def holds(self, label: int, offset: int, length: int, start: bytes) -> bool:
        """Whether a region of ``length`` bytes of a label begins with ``start``; counted as reading all of it if so."""
        place = self.label_offset(label, offset)
        if place < 0 or place + length > self.device.size:
            return False
        try:
            found = self.device.read(place, len(start))
        except FileSystemError:
            return False
        if found != start:
            return False
        self.reads.count(strategy_calls(place, length, self.device.sector_size))
        return True

    def read_label(self, label: int, offset: int, length: int) -> Buffer | None:
        """A checksummed region of a label; None when it cannot be read or its checksum is wrong."""
        place = self.label_offset(label, offset)
        try:
            data = self.read(place, length)
        except FileSystemError:
            return None
        return data if verify_embedded(data, (place, 0, 0, 0)) else None


def read_config(leaf: LeafVdev) -> NvList | None:
    """The configuration of the label with the highest txg, and the leaf's psize set from it (vdev_label_read_config).

    A label without txg, or with txg 0, is taken at once.  None: no label is readable."""
    best: NvList | None = None
    best_txg = 0
    stored = b""
    for label in range(zf.VDEV_LABELS):
        if stored and leaf.holds(label, zf.VDEV_PHYS_OFFSET, zf.VDEV_PHYS_SIZE, stored):
            continue  # the best one again: whether its checksum is right there makes no difference
        data = leaf.read_label(label, zf.VDEV_PHYS_OFFSET, zf.VDEV_PHYS_SIZE)
        if data is None:
            continue
        try:
            config, length = nvlist.decode_prefix(bytes(data[: -zf.ZIO_ECK_SIZE]))
        except FileSystemError:
            continue
        txg = config.uint64(b"txg")
        if not txg:
            return config
        if txg > best_txg:
            best, best_txg = config, txg
            stored = bytes(data[:length])
            size = _label_psize(config)
            if size:
                leaf.psize = size
    return best


def _label_psize(config: NvList) -> int:
    """A leaf's size from the top-level vdev's asize; 0 when that says nothing (vdev_get_label_asize)."""
    tree = config.nvlist(b"vdev_tree")
    if tree is None:
        return 0
    kind = tree.string(b"type")
    asize = tree.uint64(b"asize")
    if asize is None or kind not in (b"mirror", b"disk", b"raidz", b"file"):
        return 0
    if kind == b"raidz":
        children = len(tree.nvlists(b"children"))
        if not children:
            return 0
        asize //= children
    return asize + zf.VDEV_LABEL_START_SIZE + zf.VDEV_LABEL_END_SIZE


class Uberblock:
    """What counts of an uberblock_t, in host order."""

    __slots__ = ("checkpoint_txg", "order", "rootbp", "txg", "version")

    def __init__(self, words: tuple[int, ...]) -> None:
        self.version = words[1]
        self.txg = words[2]
        self.rootbp = words[5:21]
        self.checkpoint_txg = words[25]
        sequence = words[24] >> 32 & 0xFFFF if words[22] == zf.MMP_MAGIC and words[24] & 2 else 0
        self.order = (self.txg, words[4], sequence)


NO_UBERBLOCK = Uberblock((0,) * 26)


def supported_version(version: int | None) -> bool:
    return version is not None and (
        1 <= version <= zf.SPA_VERSION_BEFORE_FEATURES or version == zf.SPA_VERSION_FEATURES
    )


def decode_uberblock(data: Buffer) -> Uberblock | None:
    """None: not an uberblock, or of a version nobody knows (uberblock_verify)."""
    words = _UBERBLOCK.unpack_from(data)
    if words[0] != zf.UBERBLOCK_MAGIC:
        words = _UBERBLOCK_SWAPPED.unpack_from(data)
    if words[0] != zf.UBERBLOCK_MAGIC or not supported_version(words[1]):
        return None
    return Uberblock(words)


def _taken_slots(device: Device, start: int, slot_size: int) -> Sequence[int]:
    """Where in the ring at ``start`` slots begin with the magic number, of either byte order; all slots of a ring that
    cannot be read in one piece."""
    slots = range(start, start + zf.VDEV_UBERBLOCK_RING, slot_size)
    try:
        ring = memoryview(device.read(start, zf.VDEV_UBERBLOCK_RING))
    except FileSystemError:
        return slots
    return [place for place, head in zip(slots, ring.cast("Q")[:: slot_size // 8], strict=False) if head in _MAGICS]


def load_uberblock(leaf: LeafVdev, ashift: int, best: Uberblock) -> Uberblock:
    """The best uberblock of the leaf's four rings, or ``best`` if none is better (vdev_uberblock_load).

    libsa reads and verifies every slot.  Here only the heads are looked at, and whole slots from the best down until
    one verifies; the reads are counted as libsa's."""
    shift = min(max(ashift, zf.UBERBLOCK_SHIFT), zf.MAX_UBERBLOCK_SHIFT)
    slot_size = 1 << shift
    slots = zf.VDEV_UBERBLOCK_RING >> shift
    device = leaf.device
    found = []
    for label in range(zf.VDEV_LABELS):
        start = leaf.label_offset(label, zf.VDEV_UBERBLOCK_RING_OFFSET)
        leaf.reads.count(slots * strategy_calls(start, slot_size, device.sector_size))
        for place in _taken_slots(device, start, slot_size):
            if place < 0 or place + slot_size > device.size:
                continue
            try:
                uberblock = decode_uberblock(device.read(place, zf.UBERBLOCK_SIZE))
            except FileSystemError:
                continue
            if uberblock is not None and uberblock.order > best.order:
                found.append((uberblock, place))
    found.sort(key=lambda item: item[0].order, reverse=True)
    for uberblock, place in found:
        try:
            data = device.read(place, slot_size)
        except FileSystemError:
            continue
        if verify_embedded(data, (place, 0, 0, 0)):
            return uberblock
    return best


def required(config: NvList, name: bytes) -> int:
    """A number that a configuration must have.  Raises FileSystemError (EINVAL)."""
    value = config.uint64(name)
    if value is None:
        raise FileSystemError(EINVAL, f"ZFS: a label lacks {name.decode()}")
    return value
