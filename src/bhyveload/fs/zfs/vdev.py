"""The tree of vdevs of a pool and reading through it (stand/libsa/zfs/zfsimpl.c vdev_*).

Every vdev reads with ``read(offset, size, psize, verify)``: ``size`` bytes at ``offset`` of its allocatable space, of
which the first ``psize`` are given to ``verify`` (None: nothing is verified, as for the pieces of a split block).
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError, Unsupported
from bhyveload.freebsd_errno import EINVAL, EIO, EOPNOTSUPP
from bhyveload.printable import mask

from . import raidz
from . import zfs_format as zf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from .label import LeafVdev
    from .nvlist import NvList

    Buffer = bytes | memoryview
    Verify = Callable[[Buffer], bool] | None

    class Moved(Protocol):
        """Where the data of a removed vdev are now (indirect.Mapping)."""

        def read(self, offset: int, size: int, psize: int, verify: Verify) -> Buffer: ...

        def pieces(self, offset: int, size: int, depth: int = 0) -> list[tuple[Vdev, int, int]]: ...


DISK = "disk"
MIRROR = "mirror"
RAIDZ = "raidz"
REPLACING = "replacing"
INDIRECT = "indirect"
HOLE = "hole"
MISSING = "missing"
FILE = "file"
SPARE = "spare"

LOADER_TYPES = (MIRROR, DISK, RAIDZ, INDIRECT, REPLACING, HOLE)
"""What FreeBSD's loader takes."""
ALL_TYPES = (*LOADER_TYPES, FILE, SPARE, MISSING)

MAX_DEPTH = 6
_MAX_CHILDREN = 1024


class Vdev:
    """One vdev.  ``leaf`` is its device once that has been probed; ``state`` is a VDEV_STATE_*."""

    __slots__ = (
        "ashift",
        "children",
        "guid",
        "id",
        "indirect_object",
        "is_log",
        "leaf",
        "mapping",
        "name",
        "nparity",
        "state",
        "top",
        "txg",
        "type",
    )

    def __init__(self, guid: int, kind: str, number: int, name: str) -> None:
        self.guid = guid
        self.type = kind
        self.id = number
        self.name = name
        self.state = zf.VDEV_STATE_HEALTHY if kind == INDIRECT else zf.VDEV_STATE_UNKNOWN
        self.ashift = 0
        self.nparity = 0
        self.is_log = False
        self.children: list[Vdev] = []
        self.top: Vdev = self
        self.leaf: LeafVdev | None = None
        self.indirect_object = 0
        self.mapping: Moved | None = None
        self.txg = 0

    def insert(self, child: Vdev) -> None:
        """Add a child; children are kept in the order of their ids, an id that is there already is not added."""
        for index, other in enumerate(self.children):
            if other.id == child.id:
                return
            if other.id > child.id:
                self.children.insert(index, child)
                return
        self.children.append(child)

    def leaves(self) -> list[Vdev]:
        """The vdevs below (or this one) that have no children."""
        if not self.children:
            return [self]
        return [leaf for child in self.children for leaf in child.leaves()]

    @property
    def readable(self) -> bool:
        """Whether there is anything to read from, whatever the configuration says of its state."""
        return self.leaf is not None or any(child.readable for child in self.children)

    def read(self, offset: int, size: int, psize: int, verify: Verify) -> Buffer:
        """Raises FileSystemError: EIO, or EOPNOTSUPP where there is nothing to read."""
        if self.type == RAIDZ:
            return self._read_raidz(offset, size, psize, verify)
        if self.type in (MIRROR, REPLACING, SPARE):
            return self._read_any_child(offset, size, psize, verify)
        if self.type == INDIRECT:
            if self.mapping is None:
                raise FileSystemError(EIO, f"ZFS: the removed device {self.name} has no mapping")
            return self.mapping.read(offset, size, psize, verify)
        if self.leaf is None:
            raise FileSystemError(EOPNOTSUPP, f"ZFS: the device {self.name} is missing")
        data = self.leaf.read(offset + zf.VDEV_LABEL_START_SIZE, size)
        if verify is not None and not verify(data[:psize]):
            raise FileSystemError(EIO, f"ZFS: wrong checksum on {self.name} ({self.leaf.name}) at {offset:#x}")
        return data

    def _read_any_child(self, offset: int, size: int, psize: int, verify: Verify) -> Buffer:
        """The healthy children in their order; then, as libsa does not, the others that are there."""
        error = FileSystemError(EIO, f"ZFS: no device of {self.name} is there")
        for healthy in (True, False):
            for child in self.children:
                if (child.state == zf.VDEV_STATE_HEALTHY) == healthy and child.readable:
                    try:
                        return child.read(offset, size, psize, verify)
                    except FileSystemError as failure:
                        error = failure
        raise error

    def _read_raidz(self, offset: int, size: int, psize: int, verify: Verify) -> Buffer:
        ids = {child.id: child for child in self.children}
        columns = raidz.columns_of(offset, size, self.top.ashift, len(self.children), self.nparity)

        def read_child(number: int, place: int, length: int) -> Buffer | None:
            child = ids.get(number)
            if child is None or not child.readable:
                return None
            try:
                return child.read(place, length, length, None)
            except FileSystemError:
                return None

        def healthy(number: int) -> bool:
            child = ids.get(number)
            return child is not None and child.readable and child.state == zf.VDEV_STATE_HEALTHY

        try:
            return raidz.read(
                columns, self.nparity, read_child, healthy, verify and (lambda data: verify(data[:psize]))
            )
        except FileSystemError as error:
            names = ", ".join(child.name for child in self.children if not child.readable)
            where = f"{self.name} at {offset:#x}" + (f" (missing: {names})" if names else "")
            raise FileSystemError(error.errno, f"{error.message}, {where}") from error

    def set_state(self) -> None:
        """States of interior vdevs from their children's (vdev_set_state)."""
        for child in self.children:
            child.set_state()
        if not self.children:
            return
        good = sum(child.state == zf.VDEV_STATE_HEALTHY for child in self.children)
        bad = len(self.children) - good
        if not bad:
            self.state = zf.VDEV_STATE_HEALTHY
        elif self.type in (MIRROR, REPLACING, SPARE):
            self.state = zf.VDEV_STATE_DEGRADED if good else zf.VDEV_STATE_OFFLINE
        elif self.type == RAIDZ:
            self.state = zf.VDEV_STATE_OFFLINE if bad > self.nparity else zf.VDEV_STATE_DEGRADED

    def set_initial_state(self, config: NvList) -> None:
        """What a configuration says of the vdev (vdev_set_initial_state): the first of these words that is set."""
        for name, state in _CONFIG_STATES:
            if config.uint64(name):
                self.state = state
                break
        self.is_log = bool(config.uint64(b"is_log"))


_CONFIG_STATES = (
    (b"offline", zf.VDEV_STATE_OFFLINE),
    (b"removed", zf.VDEV_STATE_REMOVED),
    (b"faulted", zf.VDEV_STATE_FAULTED),
    (b"degraded", zf.VDEV_STATE_DEGRADED),
    (b"not_present", zf.VDEV_STATE_CANT_OPEN),
)


def from_config(guid: int, config: NvList, types: tuple[str, ...], printer: Callable[[str], None]) -> Vdev:
    """A vdev without its children (vdev_init).

    Raises FileSystemError: EIO for a type that is not in ``types`` (said through ``printer`` in the loader's words) or
    an impossible parity, EINVAL when id or type is missing."""
    number = config.uint64(b"id")
    stored = config.string(b"type")
    if number is None or stored is None:
        raise FileSystemError(EINVAL, "ZFS: a vdev's configuration lacks its id or type")
    kind = mask(stored)
    if kind not in types:
        message = f"ZFS: can only boot from disk, mirror, raidz1, raidz2 and raidz3 vdevs, got: {kind}"
        printer(message)
        raise Unsupported(EIO, message, "bhyvedisk reads it; FreeBSD boots from disks and partitions only")
    nparity = config.uint64(b"nparity") or 0
    if kind == RAIDZ and not 1 <= nparity <= 3:
        message = f"ZFS: invalid raidz parity: {nparity}"
        printer(message)
        raise FileSystemError(EIO, message)
    path = config.string(b"path")
    if path is not None:
        name = mask(path).removeprefix("/dev/")
    else:
        name = f"{kind}{nparity}-{number}" if kind == RAIDZ else f"{kind}-{number}"
    vdev = Vdev(guid, kind, number, name)
    vdev.set_initial_state(config)
    vdev.ashift = min(config.uint64(b"ashift") or 0, 63)
    vdev.nparity = nparity
    vdev.indirect_object = config.uint64(b"com.delphix:indirect_object") or 0
    return vdev


def children_of(config: NvList) -> list[tuple[int, NvList]]:
    """(guid, configuration) of a vdev's children.  Raises FileSystemError (EINVAL): without guid, or too many."""
    children = config.nvlists(b"children")
    if len(children) > _MAX_CHILDREN:
        raise FileSystemError(EINVAL, f"ZFS: a vdev with {len(children)} children")
    result = []
    for child in children:
        guid = child.uint64(b"guid")
        if guid is None:
            raise FileSystemError(EINVAL, "ZFS: a vdev's configuration lacks its guid")
        result.append((guid, child))
    return result


def add_children(
    parent: Vdev,
    config: NvList,
    types: tuple[str, ...],
    printer: Callable[[str], None],
    known: dict[int, Vdev],
    levels: int = MAX_DEPTH,
) -> None:
    """Create the vdevs below ``parent``, ``levels`` deep, into ``known`` by guid.  libsa creates one level:
    what is below a `replacing` within a mirror or raidz is not used by it."""
    for guid, child_config in children_of(config):
        child = known.get(guid)
        if child is None:
            child = from_config(guid, child_config, types, printer)
            child.top = parent.top
            known[guid] = child
            parent.insert(child)
        elif child.top is not parent.top:
            raise FileSystemError(EINVAL, f"ZFS: the vdev {guid:#x} occurs twice")
        if levels > 1:
            add_children(child, child_config, types, printer, known, levels - 1)


def update_states(vdev: Vdev, config: NvList, known: dict[int, Vdev], depth: int = 0) -> None:
    """Take over what a newer configuration says of the states (vdev_update_from_nvlist)."""
    vdev.set_initial_state(config)
    if depth <= MAX_DEPTH:
        for guid, child_config in children_of(config):
            child = known.get(guid)
            if child is not None and child.top is vdev.top:
                update_states(child, child_config, known, depth + 1)
