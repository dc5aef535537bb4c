"""ISO 9660 with Rock Ridge, as stand/libsa/cd9660.c reads it, and install media where cd9660.c gives up.

cd9660.c knows one Rock Ridge entry, NM in one piece.  Beyond it this reader joins continued names and multi-extent
files, follows symbolic links (SL) and finds relocated deep directories (CL): there cd9660.c shows the ISO name, the
first extent, or an empty file.  ``probe(..., strict=True)`` switches all of that off: exactly cd9660.c.

What is read, in which order and with which twiddle is cd9660.c's (docs/errata.md, "Twiddles"): a directory
is searched block by block, nothing is remembered between opens but what parsing a block has given.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EFBIG, EINVAL, EIO, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EROFS
from bhyveload.fs.iso9660_format import (
    DIRECTORY_RECORD,
    DIRECTORY_RECORD_NAME,
    ISO_DEFAULT_BLOCK_SIZE,
    ISO_FIRST_DESCRIPTOR,
    ISO_FLAG_DIRECTORY,
    ISO_FLAG_MULTI_EXTENT,
    ISO_STANDARD_ID,
    ISO_VD_END,
    ISO_VD_PRIMARY,
    RRIP_CHILD_LINK,
    RRIP_LINK,
    RRIP_PARENT_LINK,
    RRIP_PLACE,
    VD_ID,
    VD_LOGICAL_BLOCK_SIZE,
    VD_ROOT_DIRECTORY_RECORD,
    VD_TYPE,
    VD_VOLUME_ID,
)
from bhyveload.fs.iso9660_susp import (
    attributes,
    changed,
    iso_name,
    link_text,
    rock_ridge_name,
    rrip_check,
    susp_entries,
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
MAX_DIRECTORY_SIZE = 32 << 20  # some 300,000 entries
MAX_CACHED_BLOCKS = 512  # parsed directory blocks kept, all directories together
MAX_EXTENTS = 4096  # of one file: 16 TiB
MAXSYMLINKS = 32  # libsa's limit (sys/param.h), as for UFS
MAX_PATH = 4096


class IsoNode:
    """A file or folder: where its data lies.  ``link``: the text of a symbolic link, None for everything else.

    ``extents``: (first block, bytes); all but the last are whole blocks.  ``attributes``: mode, owner, group and time
    of the last change where they are wanted.
    """

    __slots__ = ("attributes", "extents", "is_directory", "is_root", "link", "more", "size")

    def __init__(
        self,
        extents: list[tuple[int, int]],
        is_directory: bool,
        is_root: bool = False,
        link: bytes | None = None,
        more: bool = False,
    ) -> None:
        self.extents = extents
        self.size = sum(size for _, size in extents)
        self.is_directory = is_directory
        self.is_root = is_root
        self.link = link
        self.more = more  # a further record of the same file follows
        self.attributes: tuple[int, int, int, int] | None = None


class Entry:
    """One directory record: the name libsa gives it, its ISO name if Rock Ridge hid it, and its node.

    ``child_link``: the record only says (CL) where the directory really is, that was too deep here.
    """

    __slots__ = ("child_link", "extent", "iso_name", "name", "node", "rock_ridge")

    def __init__(
        self, name: bytes, iso: bytes, rock_ridge: bool, extent: int, node: IsoNode, child_link: bool = False
    ) -> None:
        self.name = name
        self.iso_name = iso
        self.rock_ridge = rock_ridge
        self.extent = extent
        self.node = node
        self.child_link = child_link

    def matches(self, wanted: bytes) -> bool:
        """dirmatch: ISO names to the byte; in Rock Ridge names a lower-case letter also finds an upper-case one."""
        if wanted == self.name:
            return True
        if not self.rock_ridge or len(wanted) != len(self.name):
            return False
        return all(w == s or (w == s + 32 and 65 <= s <= 90) for w, s in zip(wanted, self.name, strict=True))


class Block:
    """The entries of one 2048-byte block of a directory, in order, and by upper-cased name."""

    __slots__ = ("entries", "index")

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.index: dict[bytes, list[Entry]] = {}
        for entry in entries:
            self.index.setdefault(entry.name.upper(), []).append(entry)

    def find(self, wanted: bytes) -> Entry | None:
        for entry in self.index.get(wanted.upper(), ()):
            if entry.matches(wanted):
                return entry
        return None


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
        self._skip = -1  # len_skp; -1: not looked yet
        self._rock_ridge = False
        self._blocks: dict[tuple[int, bool], Block] = {}

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
        self._look_for_rock_ridge()
        return self._rock_ridge

    def lookup(self, path: bytes, follow: bool = True) -> IsoNode:
        """cd9660_open.  Raises FileSystemError: ENOENT, ENOTDIR (``file/``), ELOOP, ENAMETOOLONG, EIO."""
        pending = _components(path)
        if not pending:
            self.twiddle(1)
            self._look_for_rock_ridge()
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
                    raise FileSystemError(ELOOP, f"{escape_bytes(path)}: too many symbolic links")
                if node.link.startswith(b"/"):
                    del trail[1:]
                pending += _components(node.link)[1 if pending and node.link.endswith(b"/") else 0 :]
                if len(pending) > MAX_PATH:
                    raise FileSystemError(ENAMETOOLONG, f"{escape_bytes(path)}: symbolic links make the path too long")
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
        for number in _blocks_of(directory):
            self.twiddle(1)
            entry = self._block(directory, number).find(component)
            if entry is not None:
                return self._joined(directory, number, entry)
        return None

    def _joined(self, directory: IsoNode, number: int, entry: Entry) -> IsoNode:
        """All extents of a file whose first record is ``entry``."""
        node = entry.node
        if self.strict or not node.more:
            return node
        extents = list(node.extents)
        seen = False
        for candidate in self._entries_from(directory, number):
            if candidate is entry:
                seen = True
            elif seen and candidate.iso_name == entry.iso_name:
                extents += candidate.node.extents
                if len(extents) > MAX_EXTENTS:
                    raise FileSystemError(EFBIG, f"{escape_bytes(entry.name)}: more than {MAX_EXTENTS} extents")
                if not candidate.node.more:
                    whole = IsoNode(extents, False)
                    whole.attributes = node.attributes
                    return whole
        raise FileSystemError(EIO, f"{escape_bytes(entry.name)}: the record of its last extent is missing")

    def _entries_from(self, directory: IsoNode, first: int) -> Iterator[Entry]:
        for number in _blocks_of(directory):
            if number >= first:
                yield from self._block(directory, number).entries

    def _block(self, directory: IsoNode, number: int) -> Block:
        first = directory.is_root and number == directory.extents[0][0]
        block = self._blocks.get((number, first))
        if block is None:
            data = self._read_block(number)
            if first and self._skip < 0:
                self._look_for_rock_ridge(data)
            block = Block(self._parse(data, first))
            if len(self._blocks) >= MAX_CACHED_BLOCKS:
                self._blocks.clear()
            self._blocks[number, first] = block
        return block

    def _read_block(self, number: int) -> bytes:
        return bytes(self._device.read(number * ISO_DEFAULT_BLOCK_SIZE, ISO_DEFAULT_BLOCK_SIZE))

    def _look_for_rock_ridge(self, data: bytes | None = None) -> None:
        """rrip_check on the root's first record; ``data``: the root's first block if it was read already."""
        if self._skip < 0:
            if data is None:
                data = self._read_block(self.root.extents[0][0])
            skip = rrip_check(self._read_block, data[: data[0]])
            self._rock_ridge = skip is not None
            self._skip = skip or 0

    def _parse(self, data: bytes, first: bool) -> list[Entry]:
        """The records of one directory block; ``first``: it begins with the root's own `.`, which has no len_skp."""
        entries: list[Entry] = []
        position = 0
        while position < len(data) and data[position]:
            record = data[position : position + data[position]]
            position += data[position]
            if len(record) >= DIRECTORY_RECORD_NAME:
                entries.append(self._entry(record, 0 if first and not entries else self._skip))
        return entries

    def _entry(self, record: bytes, skip: int) -> Entry:
        _, extended, extent, size, flags, name_len = DIRECTORY_RECORD.unpack_from(record)
        iso = record[DIRECTORY_RECORD_NAME : DIRECTORY_RECORD_NAME + name_len]
        node = IsoNode([(extent + extended, size)], bool(flags & ISO_FLAG_DIRECTORY))
        susp = susp_entries(self._read_block, record, skip) if self._rock_ridge else []
        name = rock_ridge_name(susp, self.strict)
        if susp and not self.strict:
            node = self._rock_ridge_node(node, susp)
        if not self.strict and node.attributes is None:
            node.attributes = self._attributes(record, susp)
        node.more = bool(flags & ISO_FLAG_MULTI_EXTENT)
        child_link = any(kind == RRIP_CHILD_LINK for kind, _ in susp)
        return Entry(iso_name(iso) if name is None else name, iso, name is not None, extent, node, child_link)

    def _rock_ridge_node(self, node: IsoNode, susp: list[tuple[bytes, bytes]]) -> IsoNode:
        """``node``, or what a symbolic link or the placeholder of a relocated directory stands for."""
        for kind, entry in susp:
            if kind == RRIP_CHILD_LINK and len(entry) >= RRIP_PLACE.size:
                return self._relocated(RRIP_PLACE.unpack_from(entry)[0]) or node
            if kind == RRIP_LINK:
                return IsoNode(node.extents, False, link=link_text(susp))
        return node

    def _relocated(self, block: int) -> IsoNode | None:
        """The directory at ``block``: its own first record, `.`, tells its size.  None: there is no directory."""
        try:
            data = self._read_block(block)
        except FileSystemError:
            return None
        size, flags = DIRECTORY_RECORD.unpack_from(data)[3:5]
        if not flags & ISO_FLAG_DIRECTORY:
            return None
        node = IsoNode([(block, size)], True)
        own = data[: data[0]]
        if len(own) >= DIRECTORY_RECORD_NAME:
            node.attributes = self._attributes(own, susp_entries(self._read_block, own, self._skip))
        return node

    def _attributes(self, record: bytes, susp: list[tuple[bytes, bytes]]) -> tuple[int, int, int, int]:
        """PX and TF; without Rock Ridge what a mounted cd9660 shows: all may read and execute."""
        found = attributes(record, susp)
        if found is not None:
            return found
        kind = S_IFDIR if DIRECTORY_RECORD.unpack_from(record)[4] & ISO_FLAG_DIRECTORY else S_IFREG
        return kind | 0o555, 0, 0, changed(record)

    def _root_attributes(self) -> tuple[int, int, int, int] | None:
        try:
            data = self._read_block(self.root.extents[0][0])
        except FileSystemError:
            return None
        own = data[: data[0]]
        if len(own) < DIRECTORY_RECORD_NAME:
            return None
        self._look_for_rock_ridge(data)
        return self._attributes(own, susp_entries(self._read_block, own, 0) if self._rock_ridge else [])

    def stat(self, node: IsoNode) -> Stat:
        """The medium's own, if not ``strict``; else cd9660_stat's: readable by all, owned by root, no times."""
        if not self.strict:
            if node.is_root and node.attributes is None:
                node.attributes = self._root_attributes()
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
        for number in _blocks_of(node):
            self.twiddle(16)
            for entry in self._block(node, number).entries:
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
        for number in _blocks_of(node):
            for entry in self._block(node, number).entries:
                if not joining and entry.name not in (b".", b"..") and not self._is_relocated(entry):
                    try:
                        yield entry.name, self._joined(node, number, entry)
                    except FileSystemError as error:
                        yield entry.name, error
                joining = entry.node.more

    def child(self, found: IsoNode | FileSystemError) -> IsoNode:
        """The node of what ``children`` gave.  Raises FileSystemError: EIO, EFBIG."""
        if isinstance(found, FileSystemError):
            raise found
        return found

    def _is_relocated(self, entry: Entry) -> bool:
        """Whether a directory belongs elsewhere: its `..` then has a PL.  (RE, which should say it here, makefs leaves
        out.)"""
        if not self._rock_ridge or not entry.node.is_directory or entry.child_link:
            return False
        try:
            data = self._read_block(entry.node.extents[0][0])
        except FileSystemError:
            return False
        parent = data[data[0] :]
        record = parent[: parent[0]] if parent else b""
        if len(record) < DIRECTORY_RECORD_NAME:
            return False
        return any(kind == RRIP_PARENT_LINK for kind, _ in susp_entries(self._read_block, record, self._skip))

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


def _blocks_of(directory: IsoNode) -> range:
    """The numbers of the blocks that hold a directory's data."""
    if directory.size > MAX_DIRECTORY_SIZE and directory.is_directory:
        raise FileSystemError(EFBIG, f"iso9660: a directory of {directory.size} bytes")
    start = directory.extents[0][0]
    return range(start, start + -(-min(directory.size, MAX_DIRECTORY_SIZE) // ISO_DEFAULT_BLOCK_SIZE))


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
    raise FileSystemError(EINVAL, "iso9660: no primary volume descriptor")


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
