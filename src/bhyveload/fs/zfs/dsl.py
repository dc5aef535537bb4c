"""Datasets: by name, by object, their children (zfs_lookup_dataset, zfs_rlookup, zfs_get_root).

Each function reads what libsa's function of that purpose reads, in its order.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EIO, ENAMETOOLONG, ENOENT

from . import zap
from . import zfs_format as zf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .dmu import Dnode, Objset

_MAX_DEPTH = 64
_MAX_CHILDREN = 1 << 16


def _bonus_word(dnode: Dnode, offset: int) -> int:
    if len(dnode.bonus) < offset + 8:
        raise FileSystemError(EIO, f"ZFS: object {dnode.number} is neither dataset nor dataset directory")
    return int.from_bytes(dnode.bonus[offset : offset + 8], "little")


def _directory(mos: Objset) -> Dnode:
    return mos.dnode(zf.DMU_POOL_DIRECTORY_OBJECT)


def _dnode(mos: Objset, number: int) -> Dnode:
    """Raises FileSystemError (EIO): whatever kept it from being read (zfs_lookup_dataset)."""
    try:
        return mos.dnode(number)
    except FileSystemError as error:
        raise FileSystemError(EIO, error.message, error.hint) from error


def root_dataset(mos: Objset) -> int:
    """The pool's `bootfs`, or else its root dataset: a dataset's object number.  Raises FileSystemError (EIO)."""
    objects = mos.objects
    directory = _directory(mos)
    try:
        properties = mos.dnode(zap.lookup(objects, directory, b"pool_props"))
        bootfs = zap.lookup(objects, properties, b"bootfs")
    except FileSystemError:
        bootfs = 0
    if bootfs:
        return bootfs
    return _bonus_word(mos.dnode(zap.lookup(objects, directory, b"root_dataset")), zf.DD_HEAD_DATASET_OBJ)


def bootfs_property(mos: Objset) -> int:
    """The object number in the property `bootfs`; 0 when it is not set."""
    try:
        properties = mos.dnode(zap.lookup(mos.objects, _directory(mos), b"pool_props"))
        return zap.lookup(mos.objects, properties, b"bootfs")
    except FileSystemError:
        return 0


def lookup(mos: Objset, name: bytes, snapshots: bool = True) -> int:
    """The dataset ``name`` (without the pool's name; empty: the root dataset), as an object number.

    ``snapshots``: whether `ds@snap` is understood (13.2's loader does not).  Raises FileSystemError: ENOENT, EIO."""
    objects = mos.objects
    try:
        number = zap.lookup(objects, _directory(mos), b"root_dataset")
    except FileSystemError as error:
        raise FileSystemError(EIO, error.message, error.hint) from error
    components = [component for component in name.split(b"/") if component]
    if len(components) > _MAX_DEPTH:
        raise FileSystemError(ENAMETOOLONG, "ZFS: a dataset's name has too many components")
    snapshot = b""
    if snapshots and components:
        components[-1], _, snapshot = components[-1].partition(b"@")
        components = [component for component in components if component]
    directory = _dnode(mos, number)
    for component in components:
        children = _dnode(mos, _bonus_word(directory, zf.DD_CHILD_DIR_ZAPOBJ))
        try:
            number = zap.lookup(objects, children, component)
        except FileSystemError as error:
            raise FileSystemError(ENOENT, f"ZFS: no dataset {name.decode('utf-8', 'replace')}") from error
        directory = _dnode(mos, number)
    head = _bonus_word(directory, zf.DD_HEAD_DATASET_OBJ)
    if not snapshot:
        return head
    names = _dnode(mos, _bonus_word(_dnode(mos, head), zf.DS_SNAPNAMES_ZAPOBJ))
    try:
        return zap.lookup(objects, names, snapshot)
    except FileSystemError as error:
        raise FileSystemError(ENOENT, f"ZFS: no snapshot {name.decode('utf-8', 'replace')}") from error


def name_of(mos: Objset, number: int) -> bytes:
    """A dataset's name without the pool's (empty for the root dataset).  Raises FileSystemError (EIO)."""
    objects = mos.objects
    dataset = _dataset(mos, number)
    directory_number = _bonus_word(dataset, zf.DS_DIR_OBJ)
    is_snapshot = not _bonus_word(dataset, zf.DS_SNAPNAMES_ZAPOBJ)
    result = b""
    for _ in range(_MAX_DEPTH):
        directory = mos.dnode(directory_number)
        parent_number = _bonus_word(directory, zf.DD_PARENT_OBJ)
        if not parent_number and not is_snapshot:
            return result.removeprefix(b"/")
        parent = mos.dnode(parent_number) if parent_number else directory
        if is_snapshot:
            head = mos.dnode(_bonus_word(directory, zf.DD_HEAD_DATASET_OBJ))
            names = mos.dnode(_bonus_word(head, zf.DS_SNAPNAMES_ZAPOBJ))
            result = b"@" + zap.reverse_lookup(objects, names, number)
            is_snapshot = False
            continue
        children = mos.dnode(_bonus_word(parent, zf.DD_CHILD_DIR_ZAPOBJ))
        result = b"/" + zap.reverse_lookup(objects, children, directory_number) + result
        directory_number = parent_number
    raise FileSystemError(EIO, f"ZFS: the parents of dataset {number} lead in a circle")


def _dataset(mos: Objset, number: int) -> Dnode:
    try:
        return mos.dnode(number)
    except FileSystemError as error:
        mos.objects.blocks.say(f"ZFS: can't find dataset {number}")
        raise FileSystemError(EIO, f"ZFS: can't find dataset {number}: {error.message}") from error


def children(mos: Objset, number: int) -> list[bytes]:
    """Names of the datasets right below dataset ``number``, in ZAP order, internal ones (`$MOS`, ...) included."""
    directory_number = _bonus_word(_dataset(mos, number), zf.DS_DIR_OBJ)
    directory = mos.dnode(directory_number)
    names = mos.dnode(_bonus_word(directory, zf.DD_CHILD_DIR_ZAPOBJ))
    result: list[bytes] = []
    for name, _ in zap.entries(mos.objects, names):
        if len(result) >= _MAX_CHILDREN:
            raise FileSystemError(EIO, f"ZFS: dataset {number} has more than {_MAX_CHILDREN} children")
        result.append(name)
    return result


def snapshots(mos: Objset, number: int) -> list[bytes]:
    """Names of a dataset's snapshots, in ZAP order."""
    object_number = _bonus_word(_dataset(mos, number), zf.DS_SNAPNAMES_ZAPOBJ)
    if not object_number:
        return []
    result: list[bytes] = []
    for name, _ in zap.entries(mos.objects, mos.dnode(object_number)):
        if len(result) >= _MAX_CHILDREN:
            raise FileSystemError(EIO, f"ZFS: dataset {number} has more than {_MAX_CHILDREN} snapshots")
        result.append(name)
    return result


def objset_pointer(mos: Objset, number: int) -> bytes:
    """The stored block pointer of a dataset's object set."""
    dataset = _dataset(mos, number)
    pointer = dataset.bonus[zf.DS_BP : zf.DS_BP + zf.BLKPTR_SIZE]
    if len(pointer) != zf.BLKPTR_SIZE:
        raise FileSystemError(EIO, f"ZFS: object {number} is no dataset")
    return pointer


def created(mos: Objset, number: int) -> int:
    """A dataset's creation time, in seconds since 1970."""
    return _bonus_word(_dataset(mos, number), zf.DS_CREATION_TIME)
