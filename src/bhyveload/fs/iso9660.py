"""ISO 9660 with Rock Ridge, as stand/libsa/cd9660.c reads it, and install media where cd9660.c gives up.

cd9660.c knows one Rock Ridge entry, NM in one piece.  Beyond it this reader joins continued names and multi-extent
files, follows symbolic links (SL) and finds relocated deep directories (CL): there cd9660.c shows the ISO name, the
first extent, or an empty file.  ``probe(..., strict=True)`` switches all of that off: exactly cd9660.c.

What is read, in which order and with which twiddle is cd9660.c's (docs/errata.md, "Twiddles"): a directory
is searched block by block, nothing is remembered between opens but what parsing a block has given.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError, NoFileSystem, PathError
from bhyveload.freebsd_errno import EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EROFS
from bhyveload.fs.iso9660_directory import Directories, IsoNode, blocks_of
from bhyveload.fs.iso9660_format import (
    DIRECTORY_RECORD,
    ISO_DEFAULT_BLOCK_SIZE,
    ISO_FIRST_DESCRIPTOR,
    ISO_FLAG_DIRECTORY,
    ISO_STANDARD_ID,
    ISO_VD_END,
    ISO_VD_PRIMARY,
    VD_ID,
    VD_LOGICAL_BLOCK_SIZE,
    VD_ROOT_DIRECTORY_RECORD,
    VD_TYPE,
    VD_VOLUME_ID,
)
from bhyveload.fs.stat import DT_DIR, DT_REG, S_IFDIR, S_IFLNK, S_IFREG, Stat
from bhyveload.printable import escape_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from bhyveload.device import Buffer, Device
    from bhyveload.fs.interface import Twiddle

MAX_DESCRIPTORS = 256  # a volume has a handful
MAXSYMLINKS = 32  # libsa's limit (sys/param.h), as for UFS
MAX_PATH = 4096


class Iso9660File:
    """An open file: its data read straight from the device, one remembered block as cd9660.c keeps (f_buf_blkno)."""

    __slots__ = ("_block", "_device", "_extents", "_strict", "_twiddle", "size")

    def __init__(self, device: Device, twiddle: Twiddle, node: IsoNode, strict: bool) -> None:
        self._device = device
        self._twiddle = twiddle
        self._extents = node.extents
        self._strict = strict
        self._block = 0
        self.size = node.size

    def read(self, offset: int, length: int) -> list[Buffer]:
        """Pieces of [offset, offset + length), one an extent.  Raises FileSystemError: EINVAL, EIO."""
        if offset < 0 or length < 0:
            raise FileSystemError(EINVAL, f"iso9660: read of {length} bytes at {offset}")
        pieces: list[Buffer] = []
        end = min(offset + length, self.size)
        start = 0
        for block, size in self._extents:
            if start >= end:
                break
            first, last = max(offset, start) - start, min(end, start + size) - start
            start += size
            if first >= last:
                continue
            if self._strict and last % ISO_DEFAULT_BLOCK_SIZE:  # cd9660.c reads whole blocks
                self._device.read((block + last // ISO_DEFAULT_BLOCK_SIZE + 1) * ISO_DEFAULT_BLOCK_SIZE - 1, 1)
            self._count(block + first // ISO_DEFAULT_BLOCK_SIZE, block + (last - 1) // ISO_DEFAULT_BLOCK_SIZE)
            pieces.append(self._device.read(block * ISO_DEFAULT_BLOCK_SIZE + first, last - first))
        return pieces

    def extent(self, offset: int) -> tuple[int, bool]:
        """There are no holes."""
        return self.size - offset, False

    def _count(self, first: int, last: int) -> None:
        twiddle = self._twiddle
        for _ in range(last - first + (first != self._block)):
            twiddle(16)
        self._block = last

    def write(self, offset: int, data: Buffer) -> int:
        raise FileSystemError(EROFS, "iso9660: read-only file system")


class Iso9660FileSystem:
    """A mounted ISO 9660 volume (fs/interface.py FileSystem).  ``strict``: nothing that cd9660.c does not do."""

    name = "cd9660"

    def __init__(self, device: Device, twiddle: Twiddle, root: IsoNode, volume_id: bytes, strict: bool) -> None:
        self.strict = strict
        self.volume_id = volume_id
        self.messages: list[str] = []
        self.notes: list[str] = []
        self._device = device
        self.twiddle = twiddle
        self.root = root
        self._directories = Directories(device, root, strict)

    def facts(self) -> dict[str, Any]:
        """For bhyvedisk info (docs/bhyvedisk-json.md).  Raises FileSystemError(EIO)."""
        return {
            "type": "cd9660",
            "label": self.volume_id.decode("utf-8", "surrogateescape"),
            "rock_ridge": self.has_rock_ridge,
            "notes": self.notes,
        }

    @property
    def has_rock_ridge(self) -> bool:
        """Whether libsa takes it for a Rock Ridge volume.  Raises FileSystemError(EIO)."""
        self._directories.look_for_rock_ridge()
        return self._directories.rock_ridge

    def lookup(self, path: bytes, follow: bool = True) -> IsoNode:
        """cd9660_open.  Raises FileSystemError: ENOENT, ENOTDIR (``file/``), ELOOP, ENAMETOOLONG, EIO."""
        pending = _components(path)
        if not pending:
            self.twiddle(1)
            self._directories.look_for_rock_ridge()
            return self.root
        trail = [self.root]
        if self.strict and path.startswith(b"//"):
            self._step(trail, b"/")  # cd9660_open eats one leading `/`; what is left matches nothing
        hops = 0
        while pending:
            component = pending.pop()
            if not component:
                if not trail[-1].is_directory:
                    raise FileSystemError(ENOTDIR, f"{escape_bytes(path)}: not a directory")
                break
            node = self._step(trail, component)
            if node.link is not None and (follow or pending):
                hops += 1
                if hops > MAXSYMLINKS:
                    raise PathError(ELOOP, f"{escape_bytes(path)}: too many symbolic links")
                if node.link.startswith(b"/"):
                    del trail[1:]
                pending += _components(node.link)[1 if pending and node.link.endswith(b"/") else 0 :]
                if len(pending) > MAX_PATH:
                    raise PathError(ENAMETOOLONG, f"{escape_bytes(path)}: symbolic links make the path too long")
            elif node is not trail[-1]:
                trail.append(node)
        return trail[-1]

    def _step(self, trail: list[IsoNode], component: bytes) -> IsoNode:
        """The node of ``component`` in the last folder of ``trail``.

        `.` and `..` are stored only by some writers, and in a relocated directory `..` is the wrong one: ``trail``
        knows better.  They are searched all the same, for the twiddles.
        """
        node = self._search(trail[-1], component)
        if component in (b".", b"..") and trail[-1].is_directory and not self.strict:
            if component == b".." and len(trail) > 1:
                trail.pop()
            return trail[-1]
        if node is None:
            raise FileSystemError(ENOENT, f"{escape_bytes(component)}: no such file or directory")
        return node

    def _search(self, directory: IsoNode, component: bytes) -> IsoNode | None:
        """cd9660.c searches whatever it is given, also a plain file: what it holds are then no matching records."""
        for number in blocks_of(directory):
            self.twiddle(1)
            entry = self._directories.block(directory, number).find(component)
            if entry is not None:
                return self._directories.joined(directory, number, entry)
        return None

    def stat(self, node: IsoNode) -> Stat:
        """The medium's own, if not ``strict``; else cd9660_stat's: readable by all, owned by root, no times."""
        if not self.strict:
            if node.is_root and node.attributes is None:
                node.attributes = self._directories.root_attributes()
            if node.attributes is not None:
                mode, uid, gid, time = node.attributes
                return Stat(mode, node.size if node.link is None else len(node.link), uid, gid, time)
        if node.link is not None:
            return Stat(S_IFLNK | 0o444, len(node.link))
        return Stat((S_IFDIR if node.is_directory else S_IFREG) | 0o444, node.size)

    def readdir(self, node: IsoNode) -> Iterator[tuple[int, int, bytes]]:
        """cd9660_readdir.  Symbolic links are DT_REG, as in cd9660.c.  Raises FileSystemError: ENOTDIR, EIO."""
        if not node.is_directory:
            raise FileSystemError(ENOTDIR, "iso9660: not a directory")
        joining = False
        for number in blocks_of(node):
            self.twiddle(16)
            for entry in self._directories.block(node, number).entries:
                if not (joining and not self.strict):
                    yield entry.extent, DT_DIR if entry.node.is_directory else DT_REG, entry.name
                joining = entry.node.more

    def children(self, node: IsoNode) -> Iterator[tuple[bytes, IsoNode | FileSystemError]]:
        """(name, node) of each entry but `.` and `..`, also of those that a like name hides from ``lookup``.

        A directory that Rock Ridge moved elsewhere is only where it belongs.  In place of a file whose last extent is
        missing, why.  Raises FileSystemError: ENOTDIR, EIO.
        """
        if not node.is_directory:
            raise FileSystemError(ENOTDIR, "iso9660: not a directory")
        joining = False
        for number in blocks_of(node):
            for entry in self._directories.block(node, number).entries:
                if not joining and entry.name not in (b".", b"..") and not self._directories.is_relocated(entry):
                    try:
                        yield entry.name, self._directories.joined(node, number, entry)
                    except FileSystemError as error:
                        yield entry.name, error
                joining = entry.node.more

    def child(self, found: IsoNode | FileSystemError) -> IsoNode:
        """The node of what ``children`` gave.  Raises FileSystemError: EIO, EFBIG."""
        if isinstance(found, FileSystemError):
            raise found
        return found

    def readlink(self, node: IsoNode) -> bytes:
        if node.link is None:
            raise FileSystemError(EINVAL, "iso9660: not a symbolic link")
        return node.link

    def open(self, node: IsoNode) -> Iso9660File:
        return Iso9660File(self._device, self.twiddle, node, self.strict)


def _components(path: bytes) -> list[bytes]:
    """The names in ``path``, last first; an empty one in front stands for a trailing `/`."""
    names = [name for name in path.split(b"/") if name]
    if names and path.endswith(b"/"):
        names.append(b"")
    names.reverse()
    return names


def probe(device: Device, twiddle: Twiddle, strict: bool = False) -> Iso9660FileSystem:
    """cd9660_read_dr: find the primary volume descriptor.  Raises FileSystemError: EINVAL (not ISO 9660), EIO."""
    for number in range(ISO_FIRST_DESCRIPTOR, ISO_FIRST_DESCRIPTOR + MAX_DESCRIPTORS):
        twiddle(1)
        descriptor = bytes(device.read(number * ISO_DEFAULT_BLOCK_SIZE, ISO_DEFAULT_BLOCK_SIZE))
        if descriptor[VD_ID : VD_ID + len(ISO_STANDARD_ID)] != ISO_STANDARD_ID or descriptor[VD_TYPE] == ISO_VD_END:
            break
        if descriptor[VD_TYPE] == ISO_VD_PRIMARY:
            (block_size,) = VD_LOGICAL_BLOCK_SIZE.unpack_from(descriptor)
            if block_size != ISO_DEFAULT_BLOCK_SIZE:
                raise FileSystemError(EINVAL, f"iso9660: logical blocks of {block_size} bytes, not 2048")
            return _mount(device, twiddle, descriptor, strict)
    raise NoFileSystem(EINVAL, "iso9660: no primary volume descriptor")


def describe(facts: dict[str, Any], size: Callable[[int], str]) -> str:
    """fs/interface.py FileSystemModule."""
    rock_ridge = "with Rock Ridge" if facts["rock_ridge"] else "without Rock Ridge"
    return f'ISO 9660 {rock_ridge}, label "{facts["label"]}"'


def with_root_of(other: Iso9660FileSystem, device: Device) -> Iso9660FileSystem:
    """``device`` with the root of another volume, which need not be there: cd9660_open takes the root's record of what
    is mounted on the same unit, whichever the partition."""
    return Iso9660FileSystem(device, other.twiddle, other.root, other.volume_id, other.strict)


def _mount(device: Device, twiddle: Twiddle, descriptor: bytes, strict: bool) -> Iso9660FileSystem:
    record = descriptor[VD_ROOT_DIRECTORY_RECORD]
    _, extended, extent, size, flags, _ = DIRECTORY_RECORD.unpack_from(record)
    root = IsoNode([(extent + extended, size)], bool(flags & ISO_FLAG_DIRECTORY), is_root=True)
    return Iso9660FileSystem(device, twiddle, root, descriptor[VD_VOLUME_ID].rstrip(b" \0"), strict)
