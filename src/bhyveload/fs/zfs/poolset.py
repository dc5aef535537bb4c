"""All pools on all disks (vdev_probe of zfsimpl.c, zfs_dev_init of zfs.c)."""

from __future__ import annotations

from bhyveload.errors import FileSystemError, Unsupported
from bhyveload.freebsd_errno import EINVAL, EIO, ENXIO
from bhyveload.printable import mask

from . import features
from . import zfs_format as zf
from .dmu import LastBlock
from .label import LeafVdev, Reads, load_uberblock, read_config, required, supported_version
from .pool import Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bhyveload.compat import LoaderVersion
    from bhyveload.device import Device
    from bhyveload.fs.interface import Twiddles

    from .nvlist import NvList
    from .vdev import Vdev
    from .zpl import ZfsFileSystem


class PoolSet:
    """``probe`` every disk and partition in the loader's order, then ``finish``; ``pools`` in order of discovery.

    ``twiddle``: called with 4 and the number of reads of a device that libsa would make.  ``printer``: gets every line
    the loader would print, without newline; they are also kept in ``messages``.  ``strict``: the loader version whose
    refusals hold, or None to read all that can be read.  ``dropped``: (pool's name, reason) of pools that were found
    but cannot be used."""

    __slots__ = (
        "_labels",
        "dropped",
        "known",
        "last",
        "messages",
        "nvstore",
        "pools",
        "printer",
        "reads",
        "refused",
        "strict",
    )

    def __init__(
        self,
        twiddle: Twiddles | None = None,
        printer: Callable[[str], None] | None = None,
        strict: LoaderVersion | None = None,
    ) -> None:
        self.reads = Reads(twiddle)
        self.messages: list[str] = []
        self.printer = printer
        self.strict = strict
        self.pools: list[Pool] = []
        self.dropped: list[tuple[str, FileSystemError]] = []
        self.refused: list[FileSystemError] = []
        """Of devices whose labels ask for what the loader version, or this reader, does not have."""
        self.known: dict[int, Vdev] = {}
        self.last = LastBlock()
        self._labels: dict[int, int] = {}
        self.nvstore: Pool | None = None
        """The pool whose stored variables loader(8) attached; there is at most one."""

    def say(self, line: str) -> None:
        self.messages.append(line)
        if self.printer is not None:
            self.printer(line)

    def probe(self, device: Device, name: str) -> int:
        """Take a device or partition as a vdev; the guid of its pool.

        Raises FileSystemError (EIO and others): it is none, or none that can be used."""
        leaf = LeafVdev(device, name, self.reads)
        if leaf.psize < zf.SPA_MINDEVSIZE:
            raise FileSystemError(EIO, f"ZFS: {name} is too small for a vdev")
        config = read_config(leaf)
        if config is None:
            raise FileSystemError(EIO, f"ZFS: {name} has no label")
        self._check_config(config, name)
        pool_guid = required(config, b"pool_guid")
        pool = self.find(pool_guid) or self._create(pool_guid, config)
        txg = required(config, b"txg")
        pool.txg = max(pool.txg, txg)
        guid = required(config, b"guid")
        item = self.known.get(guid)
        if item is not None and item.leaf is not None:
            raise FileSystemError(EIO, f"ZFS: {name} is {item.leaf.name} again")
        try:
            self._add_vdevs(pool, config, guid, txg)
        except Unsupported as error:
            self.refused.append(Unsupported(error.errno, f"{name}: {error.message}", error.hint))
            raise
        item = self.known.get(guid)
        if item is None or item.children or item.top not in pool.root.children:
            self.say("ZFS: inconsistent nvlist contents")
            raise FileSystemError(EIO, f"ZFS: the label of {name} does not name its own device")
        item.leaf = leaf
        if item.state == zf.VDEV_STATE_UNKNOWN:
            item.state = zf.VDEV_STATE_HEALTHY
        item.top.set_state()
        pool.uberblock = load_uberblock(leaf, item.top.ashift, pool.uberblock)
        return pool_guid

    def _check_config(self, config: NvList, name: str) -> None:
        version = config.uint64(b"version")
        if version is None:
            raise FileSystemError(EIO, f"ZFS: the label of {name} lacks its version")
        if not supported_version(version):
            words = f"ZFS: unsupported ZFS version {version & 0xFFFFFFFF} (should be {zf.SPA_VERSION_FEATURES})"
            self.say(words)
            raise FileSystemError(EIO, words)
        accepted = features.ACCEPTED[self.strict]
        unknown = ""
        for pair in config.nvlist(b"features_for_read") or ():
            feature = mask(pair.name)
            if feature not in accepted:
                self.say(f"ZFS: unsupported feature: {feature}")
                unknown = unknown or feature
        if unknown:
            self.refused.append(Unsupported(EIO, f"ZFS: {name}: unsupported feature {unknown}", features.hint(unknown)))
            raise self.refused[-1]
        state = config.uint64(b"state")
        if state is None or state == zf.POOL_STATE_DESTROYED:
            raise FileSystemError(EIO, f"ZFS: the pool on {name} is destroyed")
        txg = config.uint64(b"txg")
        if txg is None or config.uint64(b"pool_guid") is None or not config.string(b"name"):
            raise FileSystemError(EIO, f"ZFS: {name} is a cache or spare device")
        if not txg and self.strict != "13.2":
            raise FileSystemError(EIO, f"ZFS: {name} was detached from its pool")

    def _create(self, guid: int, config: NvList) -> Pool:
        name = mask(config.string(b"name") or b"")
        pool = Pool(guid, name, self.reads, self.last, self.say, self.strict, self.known)
        self.pools.append(pool)
        return pool

    def _add_vdevs(self, pool: Pool, config: NvList, guid: int, txg: int) -> None:
        top_guid = config.uint64(b"top_guid")
        tree = config.nvlist(b"vdev_tree")
        if top_guid is None or tree is None:
            self.say("ZFS: can't find vdev details")
            raise FileSystemError(EINVAL, f"ZFS: pool {pool.name}: a label without vdev tree")
        old = self.known.get(top_guid)
        kept: dict[int, LeafVdev] = {}
        if old is not None and old.txg != txg and self.strict != "13.2":
            if old not in pool.root.children:
                raise FileSystemError(EINVAL, f"ZFS: pool {pool.name}: the vdev {top_guid:#x} occurs twice")
            if txg < old.txg:
                self._use_stale(pool, old, guid, txg)
                return
            self._say_stale(pool, "using", guid, txg, old)
            kept = {item.guid: item.leaf for item in old.leaves() if item.leaf is not None}
            pool.remove_top(old)
        top = pool.add_top(top_guid, tree)
        if not top.txg:
            top.txg = txg
            self._labels[top_guid] = guid
        for other, leaf in kept.items():
            item = self.known.get(other)
            if item is not None and item.top is top and not item.children:
                item.leaf = leaf
                item.state = item.state or zf.VDEV_STATE_HEALTHY

    def _use_stale(self, pool: Pool, top: Vdev, guid: int, txg: int) -> None:
        """A label older than the one the tree came from: its device is used if that tree names it.

        Raises FileSystemError (EIO): ignored."""
        if self.known.get(guid) is None:
            raise FileSystemError(EIO, self._say_stale(pool, "ignoring", guid, txg, top))
        self._say_stale(pool, "using", guid, txg, top)

    def _say_stale(self, pool: Pool, verb: str, guid: int, txg: int, top: Vdev) -> str:
        words = (
            f"ZFS: pool {pool.name} vdev {top.name} {verb} stale label from 0x{guid:x}@0x{txg:x}, "
            f"referred by 0x{self._labels.get(top.guid, 0):x}@0x{top.txg:x}"
        )
        self.say(words)
        return words

    def find(self, guid: int) -> Pool | None:
        return next((pool for pool in self.pools if pool.guid == guid), None)

    def by_name(self, name: str) -> Pool:
        """Raises FileSystemError (ENXIO): no pool of that name."""
        for pool in self.pools:
            if pool.name == name:
                return pool
        raise FileSystemError(ENXIO, f"ZFS: no pool {name}")

    def finish(self) -> list[Pool]:
        """Open every pool; those that cannot be opened are dropped, with the loader's words (zfs_dev_init)."""
        for pool in list(self.pools):
            try:
                pool.open()
            except FileSystemError as error:
                self.pools.remove(pool)
                self.dropped.append((pool.name, pool.explain(error)))
        return self.pools

    def describe(self, verbose: bool) -> Iterator[str]:
        """The lines of lsdev, each with its newline (zfs_dev_print, spa_all_status)."""
        if self.pools:
            yield "zfs devices:\n"
        for number, pool in enumerate(self.pools):
            if verbose:
                if number:
                    yield "\n"
                yield from pool.status()
            else:
                yield f"    zfs:{pool.name}\n"[:79]

    def parse(self, spec: str) -> tuple[Pool, int, str]:
        """(pool, dataset's object number, path) of what follows `zfs` in a device specification (zfs_parsedev).

        Raises FileSystemError: EINVAL without both colons, ENXIO unknown pool, ENOENT unknown dataset."""
        end = spec.rfind(":")
        if not spec.startswith(":") or end == 0:
            raise FileSystemError(EINVAL, f"zfs{spec}: a colon is missing")
        name, _, dataset = spec[1:end].partition("/")
        pool = self.by_name(name)
        return pool, pool.find_dataset(dataset), spec[end + 1 :]

    def format(self, pool: Pool | None = None, dataset: int = 0) -> str:
        """`zfs:pool/dataset:` (zfs_fmtdev); without a pool the first, without a dataset its bootfs or root.

        Raises FileSystemError: ENXIO no pool, EIO."""
        if pool is None:
            if not self.pools:
                raise FileSystemError(ENXIO, "ZFS: there is no pool")
            pool = self.pools[0]
        return f"zfs:{pool.dataset_name(dataset or pool.root_dataset)}:"

    def dataset(self, name: str) -> ZfsFileSystem:
        """The file system of `pool`, `pool/ds` or `pool/ds@snap`; empty: the first pool's bootfs."""
        if not name and self.pools:
            return self.pools[0].dataset("")
        return self.by_name(name.partition("/")[0].partition("@")[0]).dataset(name)
