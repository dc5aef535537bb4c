"""The boot environment block of the labels: boot once, and variables kept by loader(8) (vdev_boot_envblock_t).

Source: vdev_read_bootenv and vdev_write_bootenv of stand/libsa/zfs/zfsimpl.c, the nvstore functions of zfs.c.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EINVAL, EIO, ENOENT, ENXIO
from bhyveload.libc import whole_long

from . import nvlist as nv
from . import zfs_format as zf
from .checksum import seal_embedded
from .nvlist import NvList

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .label import LeafVdev
    from .vdev import Vdev

    Buffer = bytes | memoryview

_CONTROL = frozenset((*range(32), 127))

_TYPE_NAMES = (
    *("UNKNOWN", "BOOLEAN", "BYTE", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64", "STRING", "BYTE_ARRAY"),
    *("INT16_ARRAY", "UINT16_ARRAY", "INT32_ARRAY", "UINT32_ARRAY", "INT64_ARRAY", "UINT64_ARRAY", "STRING_ARRAY"),
    *("HRTIME", "NVLIST", "NVLIST_ARRAY", "BOOLEAN_VALUE", "INT8", "UINT8", "BOOLEAN_ARRAY", "INT8_ARRAY"),
    "UINT8_ARRAY",
)
_TYPES = {f"DATA_TYPE_{name}": number for number, name in enumerate(_TYPE_NAMES)}
_WIDTHS = {
    nv.DATA_TYPE_INT8: (8, True),
    nv.DATA_TYPE_INT16: (16, True),
    nv.DATA_TYPE_INT32: (32, True),
    nv.DATA_TYPE_INT64: (64, True),
    nv.DATA_TYPE_BYTE: (8, False),
    nv.DATA_TYPE_UINT8: (8, False),
    nv.DATA_TYPE_UINT16: (16, False),
    nv.DATA_TYPE_UINT32: (32, False),
    nv.DATA_TYPE_UINT64: (64, False),
    nv.DATA_TYPE_BOOLEAN_VALUE: (32, False),
}


def decode(block: Buffer) -> NvList | None:
    """The list in a boot environment block; None when an nvlist in it is damaged."""
    version = int.from_bytes(block[:8], "big")
    content = bytes(block[8 : 8 + zf.BOOTENV_SIZE])
    if version == zf.VB_NVLIST:
        try:
            return nv.decode(content)
        except FileSystemError:
            return None
    result = NvList()
    if version == zf.VB_RAW:
        text = content[:-1].partition(b"\0")[0]
        result.set(zf.BOOTENV_VERSION, nv.DATA_TYPE_UINT64, zf.VB_RAW if text else zf.VB_NVLIST)
        if text:
            result.set(zf.GRUB_ENVMAP, nv.DATA_TYPE_STRING, text)
        return result
    command = bytes(block).partition(b"\0")[0]
    if command and not _CONTROL.intersection(command):
        result.set(zf.FREEBSD_BOOTONCE, nv.DATA_TYPE_STRING, command)
    else:
        result.set(zf.BOOTENV_VERSION, nv.DATA_TYPE_UINT64, zf.VB_NVLIST)
    return result


def encode(benv: NvList, version: int) -> bytes:
    """The block without its checksum tail filled in.  Raises FileSystemError (EINVAL): too long, unknown version."""
    if version == zf.VB_NVLIST:
        content = nv.encode(benv)
    elif version == zf.VB_RAW:
        content = benv.string(zf.GRUB_ENVMAP) or b""
    else:
        raise FileSystemError(EINVAL, f"ZFS: boot environment block of version {version}")
    if len(content) > zf.BOOTENV_SIZE:
        raise FileSystemError(EINVAL, f"ZFS: {len(content)} bytes do not fit in the boot environment block")
    return version.to_bytes(8, "big") + content.ljust(zf.BOOTENV_SIZE, b"\0") + bytes(zf.ZIO_ECK_SIZE)


def read(vdev: Vdev) -> NvList | None:
    """From the first healthy leaf, and the first of its labels, whose block is right; None: there is none."""
    for child in vdev.children:
        if child.state == zf.VDEV_STATE_HEALTHY:
            found = read(child)
            if found is not None:
                return found
    if vdev.leaf is None:
        return None
    for label in range(zf.VDEV_LABELS):
        block = vdev.leaf.read_label(label, zf.VDEV_BOOTENV_OFFSET, zf.VDEV_PAD_SIZE)
        if block is not None:
            return decode(block)
    return None


def write(vdev: Vdev, benv: NvList, printer: Callable[[str], None]) -> None:
    """Write the block in place on all labels of every healthy leaf below a top-level vdev.

    What cannot be written is said through ``printer``, as the loader does.  Raises FileSystemError (EINVAL): the list
    does not fit."""
    old = read(vdev)
    version = zf.VB_RAW if old is None else old.uint64(zf.BOOTENV_VERSION, zf.VB_RAW)
    _write(vdev, encode(benv, version or 0), printer)


def _write(vdev: Vdev, block: bytes, printer: Callable[[str], None]) -> None:
    for child in vdev.children:
        if child.state == zf.VDEV_STATE_HEALTHY:
            _write(child, block, printer)
    if vdev.leaf is None:
        return
    for label in range(zf.VDEV_LABELS):
        try:
            _write_label(vdev.leaf, label, block)
        except FileSystemError:
            # vdev_write knows no other reason than EIO, on a read-only disk either
            printer(f"failed to write bootenv to {vdev.name} label {label}: {EIO}")


def _write_label(leaf: LeafVdev, label: int, block: bytes) -> None:
    """One label; only where its configuration verifies, so that nothing else is overwritten."""
    if leaf.read_label(label, zf.VDEV_PHYS_OFFSET, zf.VDEV_PHYS_SIZE) is None:
        raise FileSystemError(EIO, f"ZFS: label {label} of {leaf.name} is not readable")
    place = leaf.label_offset(label, zf.VDEV_BOOTENV_OFFSET)
    leaf.write(place, seal_embedded(block, (place, 0, 0, 0)))


def value_text(pair: nv.Pair) -> str:
    """A stored value as the loader variable it becomes (zfs_nvstore_setenv, its formats included).

    Raises FileSystemError (EINVAL): a type that cannot be a variable."""
    kind, value = pair.type, pair.value
    if kind == nv.DATA_TYPE_STRING:
        text: str = value.decode("latin-1")
        return text
    if kind not in _WIDTHS:
        raise FileSystemError(EINVAL, f"ZFS: nvstore: a value of type {kind}")
    if kind in (nv.DATA_TYPE_BYTE, nv.DATA_TYPE_UINT8):
        return f"{value}c"
    if kind == nv.DATA_TYPE_INT8:
        return chr(value & 0xFF)
    if kind == nv.DATA_TYPE_BOOLEAN_VALUE and value >> 31:
        value -= 1 << 32
    return str(value)


def store(benv: NvList | None) -> NvList:
    """The variables.  Raises FileSystemError: ENXIO no boot environment block, ENOENT no variables in it."""
    if benv is None:
        raise FileSystemError(ENXIO, "ZFS: nvstore: no boot environment block")
    found = benv.nvlist(zf.FREEBSD_NVSTORE)
    if found is None:
        raise FileSystemError(ENOENT, "ZFS: nvstore: no variables")
    return found


def pair_text(pair: nv.Pair, indent: int = 0) -> str:
    """A pair as `nvstore store -l` shows it (nvpair_print)."""
    value = pair.value
    name = _TYPE_NAMES[pair.type] if pair.type < len(_TYPE_NAMES) else str(pair.type)
    count = len(value) if isinstance(value, list) or pair.type == nv.DATA_TYPE_BYTE_ARRAY else 1
    head = f"{' ' * indent}DATA_TYPE_{name} [{0 if value is None else count}] {pair.name.decode('latin-1')}"
    if pair.type in _WIDTHS:
        bits, _ = _WIDTHS[pair.type]
        if bits == 8 and value & 0x80:
            bits = 32  # a char, passed as an int
            value |= 0xFFFFFF00
        return f"{head} = 0x{value & (1 << bits) - 1:x}\n"
    if pair.type in (nv.DATA_TYPE_INT64_ARRAY, nv.DATA_TYPE_UINT64_ARRAY):
        return head + "".join(f" [{index}] = 0x{item & (1 << 64) - 1:x}" for index, item in enumerate(value)) + "\n"
    if pair.type == nv.DATA_TYPE_STRING:
        return f'{head} = "{value.decode("latin-1")}"\n'
    if pair.type == nv.DATA_TYPE_NVLIST:
        return f"{head}\n{list_text(value, indent + 2)}"
    return head + "\n"


def list_text(variables: NvList, indent: int) -> str:
    """nvlist_print."""
    return "".join(pair_text(pair, indent) for pair in variables) + f"{'End of nvlist':>{indent + 13}}\n"


def is_string(pair: nv.Pair) -> bool:
    return pair.type == nv.DATA_TYPE_STRING


def put(benv: NvList | None, name: str, text: str, type_name: str | None) -> int:
    """Set a variable.  Without a type: the type it has, or string (zfs_nvstore_setter_str).

    The result is 0, or EINVAL for a boolean, which is stored all the same (its case falls through there).
    Raises FileSystemError: ENXIO no boot environment block, EINVAL unknown type or not a number."""
    if benv is None:
        raise FileSystemError(ENXIO, "ZFS: nvstore: no boot environment block")
    variables = benv.nvlist(zf.FREEBSD_NVSTORE) or NvList()
    key = name.encode("latin-1", "replace")
    if type_name is None:
        old = variables.pair(key)
        kind = nv.DATA_TYPE_STRING if old is None else old.type
    else:
        kind = _TYPES.get(type_name, nv.DATA_TYPE_UNKNOWN)
    variables.set(key, kind, _value(kind, text))
    benv.set(zf.FREEBSD_NVSTORE, nv.DATA_TYPE_NVLIST, variables)
    return EINVAL if kind == nv.DATA_TYPE_BOOLEAN_VALUE else 0


def _value(kind: int, text: str) -> int | bytes:
    if kind == nv.DATA_TYPE_STRING:
        return text.encode("latin-1", "replace")
    if kind not in _WIDTHS:
        raise FileSystemError(EINVAL, "ZFS: nvstore: no such type")
    bits, signed = _WIDTHS[kind]
    number = whole_long(text, unsigned=not signed)
    if number is None:
        raise FileSystemError(EINVAL, f"ZFS: nvstore: {text} is no number")
    value = number & (1 << bits) - 1
    return value - (1 << bits) if signed and value >> bits - 1 else value


def drop(benv: NvList | None, name: str) -> None:
    """Remove a variable, and the list of variables with its last one.  Raises FileSystemError: ENXIO, ENOENT."""
    variables = store(benv)
    assert benv is not None
    if not variables.remove(name.encode("latin-1", "replace")):
        raise FileSystemError(ENOENT, f"ZFS: nvstore: no variable {name}")
    benv.remove(zf.FREEBSD_NVSTORE, nv.DATA_TYPE_NVLIST)
    if variables.pairs:
        benv.pairs.append(nv.Pair(zf.FREEBSD_NVSTORE, nv.DATA_TYPE_NVLIST, variables))
