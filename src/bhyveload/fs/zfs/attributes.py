"""What a ZPL object's bonus and spill block say: mode, size, owner, symbolic link text (zfs_dnode_stat).

libsa takes fixed offsets.  Here the dataset's own layouts are decoded (system attributes, "SA"), so attributes in any
order, in bonus slots beyond the first and in spill blocks are found; the fixed offsets remain for a dataset whose
tables cannot be read.  Reading those tables is not counted as reads: libsa does not read them.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EIO

from . import zap
from . import zfs_format as zf
from .meanwhile import Meanwhile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .dmu import Dnode, ObjectReader, Objset

    Buffer = bytes | memoryview

_ZNODE = Struct("<2Q2Q2Q2Q" + "8Q")
"""atime, mtime, ctime, crtime, then gen, mode, size, parent, links, xattr, rdev, flags; uid and gid follow."""
_ZNODE_OWNER = Struct("<2Q")
_SA_HDR = Struct("<IH")
_WORD = Struct("<Q")
_MAX_LAYOUTS = 1024
_MAX_KNOWN = 1024

# The layout of nearly every object; used when the tables are damaged.
_DEFAULT_LAYOUT = (
    ("ZPL_MODE", 8),
    ("ZPL_SIZE", 8),
    ("ZPL_GEN", 8),
    ("ZPL_UID", 8),
    ("ZPL_GID", 8),
    ("ZPL_PARENT", 8),
    ("ZPL_FLAGS", 8),
    ("ZPL_ATIME", 16),
    ("ZPL_MTIME", 16),
    ("ZPL_CTIME", 16),
    ("ZPL_CRTIME", 16),
    ("ZPL_LINKS", 8),
)
_DEFAULT_SYMLINK_OFFSET = 160


class Layouts:
    """A dataset's SA layouts: number -> ((attribute name, length or 0 for variable), ...).

    ``known``: what bonuses said that say everything; a path's directories are asked again and again."""

    __slots__ = ("by_number", "known")

    def __init__(self, by_number: dict[int, tuple[tuple[str, int], ...]]) -> None:
        self.by_number = by_number
        self.known: dict[bytes, Attributes] = {}


def load_layouts(objset: Objset, master: Dnode) -> Layouts:
    """Read REGISTRY and LAYOUTS of the SA master node.  Damaged or missing ones give no layouts."""
    objects = objset.objects
    try:
        sa_master = objset.dnode(zap.lookup(objects, master, b"SA_ATTRS"))
        registry = objset.dnode(zap.lookup(objects, sa_master, b"REGISTRY"))
        table = objset.dnode(zap.lookup(objects, sa_master, b"LAYOUTS"))
        names: dict[int, tuple[str, int]] = {}
        for name, value in zap.entries(objects, registry):
            names[value[0] & 0xFFFF] = (name.decode("ascii", "replace"), value[0] >> 24 & 0xFFFF)
        layouts: dict[int, tuple[tuple[str, int], ...]] = {}
        for name, numbers in zap.entries(objects, table):
            if name.isdigit() and len(name) < 6 and len(layouts) < _MAX_LAYOUTS:
                layouts[int(name)] = tuple(names[number] for number in numbers)
    except (FileSystemError, KeyError, IndexError):
        return Layouts({})
    return Layouts(layouts)


class Attributes:
    """What is known of one object.  ``symlink``: the text of a link if it is kept with the attributes."""

    __slots__ = ("gid", "mode", "mtime", "size", "symlink", "uid")

    def __init__(self) -> None:
        self.mode = 0
        self.size = 0
        self.uid = 0
        self.gid = 0
        self.mtime = 0
        self.symlink: bytes | None = None


def of_znode(dnode: Dnode) -> Attributes:
    """From a znode_phys_t in the bonus (ZPL 1 to 4).  Raises FileSystemError (EIO): the bonus is too short."""
    if len(dnode.bonus) < 144:
        raise FileSystemError(EIO, f"ZFS: object {dnode.number} has no attributes")
    words = _ZNODE.unpack_from(dnode.bonus)
    result = Attributes()
    result.mtime = words[2]
    result.mode, result.size = words[9], words[10]
    result.uid, result.gid = _ZNODE_OWNER.unpack_from(dnode.bonus, 128)
    if zf.ZNODE_PHYS_SIZE + result.size <= dnode.bonuslen:
        text = dnode.bonus[zf.ZNODE_PHYS_SIZE : zf.ZNODE_PHYS_SIZE + result.size]
        result.symlink = text if len(text) == result.size else None
    return result


def of_sa(dnode: Dnode, objects: ObjectReader, layouts: Layouts) -> Attributes:
    """From system attributes in the bonus and, for what is not there, in the spill block.

    Raises FileSystemError (EIO): neither is there, or damaged."""
    alone = dnode.spill is None
    if alone and (known := layouts.known.get(dnode.bonus)) is not None:
        return known
    found: dict[str, bytes] = {}
    if dnode.bonuslen:
        _collect(dnode, dnode.bonus, layouts, found)
        if dnode.spill is not None and ("ZPL_SIZE" not in found or _needs_link_text(found)):
            with Meanwhile(objects.blocks.reads, paused=True):
                _collect(dnode, objects.read_block_pointer(dnode.spill), layouts, found)
    elif dnode.spill is not None:
        _collect(dnode, objects.read_block_pointer(dnode.spill), layouts, found)
    result = Attributes()
    try:
        result.mode = _WORD.unpack(found["ZPL_MODE"])[0]
        result.size = _WORD.unpack(found["ZPL_SIZE"])[0]
        result.uid = _WORD.unpack(found.get("ZPL_UID", bytes(8)))[0]
        result.gid = _WORD.unpack(found.get("ZPL_GID", bytes(8)))[0]
        result.mtime = _WORD.unpack_from(found.get("ZPL_MTIME", bytes(16)))[0]
    except KeyError as error:
        raise FileSystemError(EIO, f"ZFS: object {dnode.number} has no attributes") from error
    except StructError:  # the registry gives one another length
        raise FileSystemError(EIO, f"ZFS: the attributes of object {dnode.number} are damaged") from None
    text = found.get("ZPL_SYMLINK")
    if text is not None and len(text) >= result.size:
        result.symlink = text[: result.size]
    if alone and len(layouts.known) < _MAX_KNOWN:
        layouts.known[dnode.bonus] = result
    return result


def _needs_link_text(found: dict[str, bytes]) -> bool:
    is_link = int.from_bytes(found.get("ZPL_MODE", b""), "little") & 0o170000 == 0o120000
    return is_link and "ZPL_SYMLINK" not in found


def _collect(dnode: Dnode, data: Buffer, layouts: Layouts, found: dict[str, bytes]) -> None:
    """Add the attributes of one SA header and what follows it."""
    if len(data) < 8:
        raise FileSystemError(EIO, f"ZFS: object {dnode.number} has no attributes")
    magic, info = _SA_HDR.unpack_from(data)
    if magic != zf.SA_MAGIC:
        raise FileSystemError(EIO, f"ZFS: the attributes of object {dnode.number} are damaged")
    place = (info >> 10) * 8
    layout = layouts.by_number.get(info & 0x3FF)
    lengths = memoryview(data)[6:place]
    variable = 0
    if layout is None:
        layout = _DEFAULT_LAYOUT if place + _DEFAULT_SYMLINK_OFFSET <= len(data) else _DEFAULT_LAYOUT[:6]
        if place + _DEFAULT_SYMLINK_OFFSET < len(data):
            found["ZPL_SYMLINK"] = bytes(data[place + _DEFAULT_SYMLINK_OFFSET :])
    for name, length in layout:
        if not length:
            length = int.from_bytes(lengths[2 * variable : 2 * variable + 2], "little")
            variable += 1
        if place + length > len(data):
            raise FileSystemError(EIO, f"ZFS: the attributes of object {dnode.number} are cut off")
        found.setdefault(name, bytes(data[place : place + length]))
        place += length + 7 & ~7
