"""ISO 9660's directories: what lies in each of their blocks, as stand/libsa/cd9660.c and Rock Ridge have it.

``strict``: cd9660.c and nothing else (fs/iso9660.py).  Blocks are parsed once; what is read and when is cd9660.c's.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EFBIG, EIO
from bhyveload.fs.iso9660_format import (
    DIRECTORY_RECORD,
    DIRECTORY_RECORD_NAME,
    ISO_DEFAULT_BLOCK_SIZE,
    ISO_FLAG_DIRECTORY,
    ISO_FLAG_MULTI_EXTENT,
    RRIP_CHILD_LINK,
    RRIP_LINK,
    RRIP_PARENT_LINK,
    RRIP_PLACE,
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
from bhyveload.fs.stat import S_IFDIR, S_IFREG
from bhyveload.printable import escape_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from bhyveload.device import Device

MAX_DIRECTORY_SIZE = 32 << 20  # some 300,000 entries
MAX_CACHED_BLOCKS = 512  # parsed directory blocks kept, all directories together
MAX_EXTENTS = 4096  # of one file: 16 TiB


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


class IsoEntry:
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


class IsoBlock:
    """The entries of one 2048-byte block of a directory, in order, and by upper-cased name."""

    __slots__ = ("entries", "index")

    def __init__(self, entries: list[IsoEntry]) -> None:
        self.entries = entries
        self.index: dict[bytes, list[IsoEntry]] = {}
        for entry in entries:
            self.index.setdefault(entry.name.upper(), []).append(entry)

    def find(self, wanted: bytes) -> IsoEntry | None:
        for entry in self.index.get(wanted.upper(), ()):
            if entry.matches(wanted):
                return entry
        return None


class Directories:
    """The directories of one volume whose root is ``root``.  ``rock_ridge``: what looking for it has found."""

    def __init__(self, device: Device, root: IsoNode, strict: bool) -> None:
        self._device = device
        self._root = root
        self._strict = strict
        self._skip = -1  # len_skp; -1: not looked yet
        self.rock_ridge = False
        self._blocks: dict[tuple[int, bool], IsoBlock] = {}

    def joined(self, directory: IsoNode, number: int, entry: IsoEntry) -> IsoNode:
        """All extents of a file whose first record is ``entry``, found in block ``number``.
        Raises FileSystemError: EIO, EFBIG."""
        node = entry.node
        if self._strict or not node.more:
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

    def _entries_from(self, directory: IsoNode, first: int) -> Iterator[IsoEntry]:
        for number in blocks_of(directory):
            if number >= first:
                yield from self.block(directory, number).entries

    def block(self, directory: IsoNode, number: int) -> IsoBlock:
        """What is in block ``number`` of ``directory``, one of ``blocks_of``.  Raises FileSystemError(EIO)."""
        first = directory.is_root and number == directory.extents[0][0]
        block = self._blocks.get((number, first))
        if block is None:
            data = self._read_block(number)
            if first and self._skip < 0:
                self.look_for_rock_ridge(data)
            block = IsoBlock(self._parse(data, first))
            if len(self._blocks) >= MAX_CACHED_BLOCKS:
                self._blocks.clear()
            self._blocks[number, first] = block
        return block

    def _read_block(self, number: int) -> bytes:
        return bytes(self._device.read(number * ISO_DEFAULT_BLOCK_SIZE, ISO_DEFAULT_BLOCK_SIZE))

    def look_for_rock_ridge(self, data: bytes | None = None) -> None:
        """rrip_check on the root's first record; ``data``: the root's first block if it was read already.
        Raises FileSystemError(EIO)."""
        if self._skip < 0:
            if data is None:
                data = self._read_block(self._root.extents[0][0])
            skip = rrip_check(self._read_block, data[: data[0]])
            self.rock_ridge = skip is not None
            self._skip = skip or 0

    def _parse(self, data: bytes, first: bool) -> list[IsoEntry]:
        """The records of one directory block; ``first``: it begins with the root's own `.`, which has no len_skp."""
        entries: list[IsoEntry] = []
        position = 0
        while position < len(data) and data[position]:
            record = data[position : position + data[position]]
            position += data[position]
            if len(record) >= DIRECTORY_RECORD_NAME:
                entries.append(self._entry(record, 0 if first and not entries else self._skip))
        return entries

    def _entry(self, record: bytes, skip: int) -> IsoEntry:
        _, extended, extent, size, flags, name_len = DIRECTORY_RECORD.unpack_from(record)
        iso = record[DIRECTORY_RECORD_NAME : DIRECTORY_RECORD_NAME + name_len]
        node = IsoNode([(extent + extended, size)], bool(flags & ISO_FLAG_DIRECTORY))
        susp = susp_entries(self._read_block, record, skip) if self.rock_ridge else []
        name = rock_ridge_name(susp, self._strict)
        if susp and not self._strict:
            node = self._rock_ridge_node(node, susp)
        if not self._strict and node.attributes is None:
            node.attributes = self._attributes(record, susp)
        node.more = bool(flags & ISO_FLAG_MULTI_EXTENT)
        child_link = any(kind == RRIP_CHILD_LINK for kind, _ in susp)
        return IsoEntry(iso_name(iso) if name is None else name, iso, name is not None, extent, node, child_link)

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

    def root_attributes(self) -> tuple[int, int, int, int] | None:
        """The root's own, which stand in its first record; None where that cannot be read."""
        try:
            data = self._read_block(self._root.extents[0][0])
        except FileSystemError:
            return None
        own = data[: data[0]]
        if len(own) < DIRECTORY_RECORD_NAME:
            return None
        self.look_for_rock_ridge(data)
        return self._attributes(own, susp_entries(self._read_block, own, 0) if self.rock_ridge else [])

    def is_relocated(self, entry: IsoEntry) -> bool:
        """Whether a directory belongs elsewhere: its `..` then has a PL.  (RE, which should say it here, makefs leaves
        out.)"""
        if not self.rock_ridge or not entry.node.is_directory or entry.child_link:
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


def blocks_of(directory: IsoNode) -> range:
    """The numbers of the blocks that hold a directory's data.  Raises FileSystemError(EFBIG)."""
    if directory.size > MAX_DIRECTORY_SIZE and directory.is_directory:
        raise FileSystemError(EFBIG, f"iso9660: a directory of {directory.size} bytes")
    start = directory.extents[0][0]
    return range(start, start + -(-min(directory.size, MAX_DIRECTORY_SIZE) // ISO_DEFAULT_BLOCK_SIZE))
