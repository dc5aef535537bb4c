"""A pool: its vdevs, its MOS, its datasets (spa_t and zfs_spa_init of zfsimpl.c)."""

from __future__ import annotations

from bhyveload.errors import FileSystemError, Unsupported
from bhyveload.freebsd_errno import EINVAL, EIO, ENOENT
from bhyveload.printable import mask

from . import blkptr, bootenv, dsl, features, nvlist, vdev, zap
from . import zfs_format as zf
from .dmu import LastBlock, ObjectReader, Objset
from .indirect import Mapping
from .label import NO_UBERBLOCK, Uberblock
from .meanwhile import Meanwhile
from .vdev import Vdev
from .zio import BlockReader
from .zpl import ZfsFileSystem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bhyveload.compat import LoaderVersion

    from .dmu import Dnode
    from .label import Reads
    from .nvlist import NvList

_MAX_CONFIG = 16 << 20
_STATUS_LINE = 79


class Pool:
    """``name`` as text; ``root`` a vdev whose children are the top-level vdevs; ``features``: those of the MOS that
    matter for reading, with their reference counts; ``config``: the MOS configuration."""

    __slots__ = (
        "_told",
        "blocks",
        "bootenv_block",
        "checkpoint",
        "checkpoint_mos",
        "config",
        "features",
        "guid",
        "known",
        "mos",
        "name",
        "objects",
        "printer",
        "root",
        "strict",
        "txg",
        "uberblock",
        "version",
    )

    def __init__(
        self,
        guid: int,
        name: str,
        reads: Reads,
        last: LastBlock,
        printer: Callable[[str], None],
        strict: LoaderVersion | None,
        known: dict[int, Vdev],
    ) -> None:
        """``known``: all vdevs of all pools by guid (libsa's zfs_vdevs)."""
        self.guid = guid
        self.name = name
        self.printer = printer
        self.strict = strict
        self.known = known
        self.root = Vdev(guid, "root", 0, "root")
        self.txg = 0
        self.version = 0
        self.uberblock = NO_UBERBLOCK
        self.checkpoint: Uberblock | None = None
        self.blocks = BlockReader({}, reads, printer, strict)
        self.objects = ObjectReader(self.blocks, last)
        self.mos: Objset | None = None
        self.checkpoint_mos: Objset | None = None
        self.features: dict[str, int] = {}
        self.config: NvList | None = None
        self.bootenv_block: NvList | None = None
        self._told: set[int] = set()  # encrypted datasets that were named once

    def types(self) -> tuple[str, ...]:
        """The vdev types that are taken."""
        return vdev.ALL_TYPES if self.strict is None else vdev.LOADER_TYPES

    def insert_top(self, top: Vdev) -> None:
        self.root.insert(top)
        self.blocks.top_vdevs.setdefault(top.id, top)
        self.known[top.guid] = top

    def remove_top(self, top: Vdev) -> None:
        """Forget a top-level vdev and what is below it (a label that turned out to be stale)."""
        self.root.children.remove(top)
        if self.blocks.top_vdevs.get(top.id) is top:
            del self.blocks.top_vdevs[top.id]
        for guid in [guid for guid, other in self.known.items() if other.top is top]:
            del self.known[guid]

    def open(self) -> None:
        """Read the MOS: salt, features, configuration, checkpoint (zfs_spa_init).

        Raises FileSystemError, for ``explain``: EIO and others; the loader's words go to the printer."""
        pointer = zf.BLKPTR.pack(*self.uberblock.rootbp)
        try:
            data = self.blocks.read_bp(blkptr.decode(pointer))
            mos = Objset(data, self.objects)
        except FileSystemError as error:
            raise self._refused(f"ZFS: can't read MOS of pool {self.name}") from error
        if mos.os_type != zf.DMU_OST_META:
            raise self._refused(f"ZFS: corrupted MOS of pool {self.name}")
        self.mos = mos
        try:
            directory = mos.dnode(zf.DMU_POOL_DIRECTORY_OBJECT)
        except FileSystemError as error:
            raise self._refused(f"ZFS: failed to read pool {self.name} directory object") from error
        try:
            salt = zap.lookup_array(self.objects, directory, b"org.illumos:checksum_salt", 1)
            self.blocks.salt = blkptr.Salt(bytes(salt[:32]).ljust(32, b"\0"))
        except FileSystemError:
            pass  # older pools have none
        try:
            self._check_features(mos)
        except FileSystemError as error:
            raise self._refused(f"ZFS: pool {self.name} is not supported") from error
        try:
            config_object = zap.lookup(self.objects, directory, b"config")
        except FileSystemError as error:
            raise self._refused("ZFS: can not read MOS config") from error
        config = self._load_nvlist(mos, config_object)
        self._load_checkpoint(directory)
        self._update_vdevs(config)
        self.config = config
        self.version = config.uint64(b"version") or 0

    def explain(self, error: FileSystemError) -> FileSystemError:
        """Why ``open`` failed, in a user's words: nearly always disks that were not named."""
        why = error.__cause__
        words, hint = error.message, error.hint
        missing = [
            item.name for item in self.root.leaves() if item.leaf is None and item.type in (vdev.DISK, vdev.FILE)
        ]
        if missing and self.root.children and not isinstance(why or error, Unsupported):
            names = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
            words, hint = f"{words}: these devices are missing: {names}", f"name all disks of {self.name} with -d"
        elif isinstance(why, FileSystemError):
            words, hint = f"{words}: {why.message}", why.hint
        return FileSystemError(error.errno, words, hint)

    def _refused(self, words: str) -> FileSystemError:
        """What to raise, from its reason if there is one."""
        self.printer(words)
        return FileSystemError(EIO, words)

    def _check_features(self, mos: Objset) -> None:
        directory = mos.dnode(zf.DMU_POOL_DIRECTORY_OBJECT)
        try:
            number = zap.lookup(self.objects, directory, b"features_for_read")
        except FileSystemError:
            return  # a pool without features
        dnode = mos.dnode(number)
        if dnode.type != zf.DMU_OTN_ZAP_METADATA:
            raise FileSystemError(EIO, "ZFS: the list of features is damaged")
        accepted = features.ACCEPTED[self.strict]
        for name, value in zap.entries(self.objects, dnode):
            feature = mask(name)
            self.features[feature] = value[0] if value else 0
            if feature and value and value[0] and feature not in accepted:
                self.printer(f"ZFS: unsupported feature: {feature}")
                raise Unsupported(EIO, f"it uses the feature {feature}", features.hint(feature))

    def _load_nvlist(self, mos: Objset, number: int) -> NvList:
        dnode = mos.dnode(number)
        if dnode.type != zf.DMU_OT_PACKED_NVLIST and dnode.bonustype != zf.DMU_OT_PACKED_NVLIST_SIZE:
            raise FileSystemError(EIO, f"ZFS: pool {self.name}: object {number} is no configuration")
        size = int.from_bytes(dnode.bonus[:8], "little")
        if len(dnode.bonus) != 8 or size > _MAX_CONFIG:
            raise FileSystemError(EIO, f"ZFS: pool {self.name}: a configuration of {size} bytes")
        data = self.objects.read_bytes(dnode, 0, size)
        try:
            return nvlist.decode(data)
        except FileSystemError as error:
            raise self._refused("ZFS: can't find vdev details") from error

    def _load_checkpoint(self, directory: Dnode) -> None:
        try:
            words = zap.lookup_array(self.objects, directory, b"com.delphix:zpool_checkpoint")
        except FileSystemError:
            return
        checkpoint = Uberblock((words + (0,) * 26)[:26])
        if not checkpoint.checkpoint_txg:
            return
        try:
            data = self.blocks.read(zf.BLKPTR.pack(*checkpoint.rootbp))
            self.checkpoint_mos = Objset(data, self.objects)
        except FileSystemError as error:
            raise self._refused("ZFS: can not read checkpoint data.") from error
        self.checkpoint = checkpoint

    def _update_vdevs(self, config: NvList) -> None:
        """Top-level vdevs that no label told of, newer states (vdev_init_from_nvlist)."""
        tree = config.nvlist(b"vdev_tree")
        if tree is None or config.uint64(b"pool_guid") is None or config.uint64(b"vdev_children") is None:
            raise self._refused("ZFS: can't find vdev details")
        if config.uint64(b"pool_guid") != self.guid:
            raise FileSystemError(EINVAL, f"ZFS: pool {self.name}: the configuration is another pool's")
        for guid, child in vdev.children_of(tree):
            top = self.known.get(guid)
            if top is None:
                self.add_top(guid, child)
                self.blocks.forget()  # what was passed over as unknown is an error from now on
            elif top.top is top and top in self.root.children:
                vdev.update_states(top, child, self.known)
        self.root.set_state()
        assert self.mos is not None
        for top in self.root.children:
            if top.type == vdev.INDIRECT:
                top.mapping = Mapping(self.mos, top.indirect_object, self.blocks.top_vdevs.get, top.name)

    def add_top(self, guid: int, config: NvList) -> Vdev:
        """Create a top-level vdev and what is below it, or add what is below an existing one (vdev_from_nvlist)."""
        top = self.known.get(guid)
        if top is None:
            top = vdev.from_config(guid, config, self.types(), self.printer)
            self.insert_top(top)
        elif top not in self.root.children:
            raise FileSystemError(EINVAL, f"ZFS: the vdev {guid:#x} occurs twice")
        levels = vdev.MAX_DEPTH if self.strict is None else 1
        vdev.add_children(top, config, self.types(), self.printer, self.known, levels)
        return top

    def _require_mos(self, checkpoint: bool = False) -> Objset:
        mos = self.checkpoint_mos if checkpoint else self.mos
        if mos is None:
            raise FileSystemError(EIO, f"ZFS: pool {self.name} is not open")
        return mos

    @property
    def root_dataset(self) -> int:
        """Object number of the `bootfs` dataset, or of the root dataset (zfs_get_root).  Raises FileSystemError."""
        mos = self._require_mos()
        return mos.again("root", lambda: dsl.root_dataset(mos))

    @property
    def bootfs(self) -> str:
        """The whole name of the dataset in the property `bootfs`; empty when it is not set."""
        number = dsl.bootfs_property(self._require_mos())
        return self.dataset_name(number) if number else ""

    def find_dataset(self, name: str, checkpoint: bool = False) -> int:
        """Object number of ``name`` (without the pool's name; empty: the root dataset) (zfs_lookup_dataset)."""
        mos = self._require_mos(checkpoint)
        wanted = name.encode("utf-8", "surrogateescape")
        return mos.again(wanted, lambda: dsl.lookup(mos, wanted, self.strict != "13.2"))

    def dataset_name(self, number: int) -> str:
        """The whole name of a dataset, `pool/ds` (zfs_rlookup)."""
        mos = self._require_mos()
        name = mask(mos.again(number, lambda: dsl.name_of(mos, number)))
        if not name or name.startswith("@"):
            return self.name + name
        return f"{self.name}/{name}"

    def mount(self, number: int) -> ZfsFileSystem:
        """The file system of dataset ``number``; 0: bootfs or root dataset (zfs_mount_impl)."""
        mos = self._require_mos()
        number = number or dsl.root_dataset(mos)
        pointer = dsl.objset_pointer(mos, number)
        try:
            with Meanwhile(self.blocks.reads, paused=True), self.objects.last.kept():
                name = self.dataset_name(number)
        except FileSystemError:
            name = f"{self.name}: object {number}"
        if number not in self._told and blkptr.decode(pointer).encrypted:
            self._told.add(number)
            self.printer(f"ZFS: the dataset {name} is encrypted and cannot be read")
        return ZfsFileSystem(self.objects, pointer, number, name)

    def dataset(self, name: str) -> ZfsFileSystem:
        """The file system of a dataset or snapshot by its whole name (`pool/ds`, `pool/ds@snap`) or the name below the
        pool; empty: bootfs or root dataset.  Raises FileSystemError: ENOENT, EIO (encrypted, damaged)."""
        return self.mount(self.find_dataset(self.relative(name)) if name else 0)

    def relative(self, name: str) -> str:
        """A dataset's name without the pool's."""
        if name == self.name:
            return ""
        for separator in "/@":
            if name.startswith(self.name + separator):
                return name[len(self.name) :].lstrip("/")
        return name

    def list_children(self, name: str, checkpoint: bool = False) -> list[str]:
        """Names of the datasets right below ``name``, in ZAP order, `$MOS` and its like included."""
        return self.children_of(self.find_dataset(self.relative(name), checkpoint), checkpoint)

    def children_of(self, number: int, checkpoint: bool = False) -> list[str]:
        """The same of a dataset's object number (zfs_list_dataset, zfs_callback_dataset)."""
        return [mask(child) for child in dsl.children(self._require_mos(checkpoint), number)]

    def list_snapshots(self, name: str) -> list[str]:
        """Names of the snapshots of ``name``, in ZAP order."""
        mos = self._require_mos()
        return [mask(child) for child in dsl.snapshots(mos, self.find_dataset(self.relative(name)))]

    def created(self, name: str) -> int:
        """When a dataset was created, in seconds since 1970.  Raises FileSystemError: ENOENT, EIO."""
        return dsl.created(self._require_mos(), self.find_dataset(self.relative(name)))

    def is_encrypted(self, name: str) -> bool:
        """Whether a dataset's object set says so.  Raises FileSystemError: ENOENT, EIO."""
        pointer = dsl.objset_pointer(self._require_mos(), self.find_dataset(self.relative(name)))
        return blkptr.decode(pointer).encrypted

    @property
    def state(self) -> int:
        """VDEV_STATE_* of the whole (spa_status)."""
        healthy = sum(top.state == zf.VDEV_STATE_HEALTHY for top in self.root.children)
        degraded = sum(top.state == zf.VDEV_STATE_DEGRADED for top in self.root.children)
        if healthy and healthy == len(self.root.children):
            return zf.VDEV_STATE_HEALTHY
        return zf.VDEV_STATE_DEGRADED if healthy + degraded else zf.VDEV_STATE_CLOSED

    def status(self) -> Iterator[str]:
        """The lines of `lsdev -v`, each with its newline; blocks are read between the first and the second."""
        yield _cut(f"  pool: {self.name}")
        try:
            yield _cut(f"bootfs: {self.dataset_name(self.root_dataset)}")
        except FileSystemError:
            pass
        yield "config:\n\n"
        yield "        NAME STATE\n"
        yield _cut(f"        {self.name} {zf.VDEV_STATE_NAMES[self.state]}")
        for top in self.root.children:
            yield from _vdev_status(top, 1)

    def bootenv(self) -> NvList | None:
        """The boot environment block, read once (zfs_get_bootenv); None: there is none."""
        if self.bootenv_block is None:
            for top in self.root.children:
                self.bootenv_block = bootenv.read(top)
                if self.bootenv_block is not None:
                    break
        return self.bootenv_block

    def set_bootenv(self, benv: NvList) -> None:
        """Write the block in place on all labels of all healthy leaves (zfs_set_bootenv).

        Raises FileSystemError (EINVAL): it does not fit."""
        for top in self.root.children:
            bootenv.write(top, benv, self.printer)
        self.bootenv_block = benv

    def bootonce(self) -> str:
        """The device to boot once, left as it is; empty: none is set.  Raises FileSystemError (EIO)."""
        benv = self.bootenv()
        once = benv.string(zf.FREEBSD_BOOTONCE) if benv is not None else None
        return (once or b"").partition(b"\0")[0].decode("latin-1")

    def take_bootonce(self) -> str:
        """The device to boot once, which is removed from the labels (zfs_get_bootonce).

        Raises FileSystemError (ENOENT): none is set."""
        benv = self.bootenv()
        once = benv.string(zf.FREEBSD_BOOTONCE) if benv is not None else None
        if benv is None or once is None:
            raise FileSystemError(ENOENT, f"ZFS: pool {self.name}: no boot environment is set for one boot")
        benv.remove(zf.FREEBSD_BOOTONCE, nvlist.DATA_TYPE_STRING)
        self.set_bootenv(benv)
        if not once:
            raise FileSystemError(ENOENT, f"ZFS: pool {self.name}: no boot environment is set for one boot")
        return once.partition(b"\0")[0].decode("latin-1")

    @property
    def has_nvstore(self) -> bool:
        """Whether zfs_attach_nvstore attaches the store: after ``bootenv``, and only for nvlist blocks."""
        return self.bootenv_block is not None and self.bootenv_block.uint64(zf.BOOTENV_VERSION) == zf.VB_NVLIST

    def nvstore(self) -> list[nvlist.Pair]:
        """The stored variables in order.  Raises FileSystemError: ENXIO, ENOENT."""
        return list(bootenv.store(self.bootenv_block))

    def nvstore_find(self, name: str) -> nvlist.Pair | None:
        """The first stored variable of that name."""
        key = name.encode("latin-1", "replace")
        return next((pair for pair in self.nvstore() if pair.name == key), None)

    def nvstore_set(self, name: str, value: str, type_name: str | None = None) -> int:
        """Set a variable and write the labels; 0, or what loader(8) answers though it did so.

        Raises FileSystemError: ENXIO, EINVAL."""
        result = bootenv.put(self.bootenv_block, name, value, type_name)
        assert self.bootenv_block is not None
        self.set_bootenv(self.bootenv_block)
        return result

    def nvstore_unset(self, name: str) -> None:
        """Remove a variable and write the labels.  Raises FileSystemError: ENXIO, ENOENT."""
        bootenv.drop(self.bootenv_block, name)
        assert self.bootenv_block is not None
        self.set_bootenv(self.bootenv_block)


def _cut(line: str) -> str:
    """pager_printf's buffer holds 79 characters, the newline among them."""
    return (line + "\n")[:_STATUS_LINE]


def _vdev_status(item: Vdev, indent: int) -> Iterator[str]:
    if item.is_log:
        yield "        logs\n"
        indent += 1
    yield _cut(f"        {'  ' * indent}{item.name} {zf.VDEV_STATE_NAMES[item.state]}")
    for child in item.children:
        yield from _vdev_status(child, indent + 1)
