"""A mounted dataset: paths, files, directories (zfs_lookup of zfsimpl.c, zfs_readdir of zfs.c).

The blocks that libsa reads for a path, a directory entry or a piece of a file are read in its order, so that counting
them gives its twiddles.  Where libsa is wrong (`..` as last component, links in spill blocks, leaves of large
directories, data past the last block) this is right instead.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError, PathError
from bhyveload.freebsd_errno import EINVAL, EIO, EMLINK, ENAMETOOLONG, ENOENT, ENOTDIR, EROFS
from bhyveload.fs.stat import S_IFDIR, S_IFLNK, S_IFMT, Stat

from . import attributes, blkptr, zap
from . import zfs_format as zf
from .dmu import Objset
from .meanwhile import Meanwhile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .attributes import Attributes, Layouts
    from .dmu import Dnode, ObjectReader

    Buffer = bytes | memoryview

_STAT_FIELD = (1 << 63) - 1


class ZfsNode:
    """A file, directory or link of a dataset."""

    __slots__ = ("dnode", "number")

    def __init__(self, number: int, dnode: Dnode) -> None:
        self.number = number
        self.dnode = dnode


class _Way:
    """Where a path has led: object numbers from the root directory on, the last one's dnode, links on the way."""

    __slots__ = ("dnode", "links", "stack")

    def __init__(self, stack: list[int], dnode: Dnode, links: int = 0) -> None:
        self.stack = stack
        self.dnode = dnode
        self.links = links


class ZfsFile:
    """An opened file.  ``close`` makes libsa's one remembered block go, as zfs_close does."""

    __slots__ = ("_filesystem", "_node", "size")

    def __init__(self, filesystem: ZfsFileSystem, node: ZfsNode, size: int) -> None:
        self._filesystem = filesystem
        self._node = node
        self.size = size

    def read(self, offset: int, length: int) -> list[Buffer]:
        """Pieces of whole records of [offset, offset + length), clipped to the file.  Raises FileSystemError: EIO,
        EINVAL (before the file's start)."""
        if offset < 0 or length < 0:
            raise FileSystemError(EINVAL, f"ZFS: {length} bytes at {offset}")
        self._filesystem.touch_attributes(self._node)
        length = min(length, self.size - offset)
        if length <= 0:
            return []
        return self._filesystem.objects.read(self._node.dnode, offset, length)

    def extent(self, offset: int) -> tuple[int, bool]:
        """How many bytes from ``offset`` are alike, and whether they are a hole.  Raises FileSystemError (EIO)."""
        length, hole = self._filesystem.objects.extent(self._node.dnode, offset)
        return min(length, self.size - offset), hole

    def write(self, offset: int, data: Buffer) -> int:
        raise FileSystemError(EROFS, "ZFS is read only")

    def close(self) -> None:
        self._filesystem.objects.last.forget()


class ZfsFileSystem:
    """One dataset or snapshot.  ``dataset`` is its object number, ``dataset_name`` its whole name as text."""

    __slots__ = ("_layouts", "dataset", "dataset_name", "name", "objects", "objset")

    def __init__(self, objects: ObjectReader, pointer: bytes, dataset: int, dataset_name: str) -> None:
        """Raises FileSystemError (EIO): encrypted, not a file system, or its object set cannot be read."""
        self.name = "zfs"
        self.objects = objects
        self.dataset = dataset
        self.dataset_name = dataset_name
        self._layouts: Layouts | None = None
        printer = objects.blocks.printer
        try:
            data = objects.read_block_pointer(pointer)
        except FileSystemError as error:
            printer(f"ZFS: can't read object set for dataset {dataset}")
            printer("ZFS: can't open root filesystem")
            raise FileSystemError(EIO, f"{error.message} (dataset {dataset_name})", error.hint) from error
        if blkptr.decode(pointer).encrypted:
            raise FileSystemError(
                EIO,
                f"ZFS: the dataset {dataset_name} is encrypted",
                "boot environments must not be encrypted: FreeBSD's loader cannot read them either",
            )
        self.objset = Objset(data, objects)
        if self.objset.os_type != zf.DMU_OST_ZFS:
            printer(f"Unexpected object set type {self.objset.os_type}")
            raise FileSystemError(EIO, f"ZFS: {dataset_name} is no file system (object set type {self.objset.os_type})")

    def lookup(self, path: bytes, follow: bool = True) -> ZfsNode:
        """Raises FileSystemError: ENOENT, ENOTDIR, ENAMETOOLONG, EMLINK (more than 11 links), EIO."""
        cut = path.rfind(b"/") + 1
        folder, name = path[:cut], path[cut:]

        def to_folder() -> _Way:
            way = self._root()
            self._walk(way, folder, len(name), follow)
            return way

        # the way to a folder is known; one over links is not, whose length counts together with the name's
        known = self.objset.again(folder, to_folder, lambda found: not found.links)
        way = _Way(known.stack[:], known.dnode, known.links)
        self._walk(way, name, 0, follow, at_folder=bool(folder))
        return ZfsNode(way.stack[-1], way.dnode.again() if way.dnode is known.dnode else way.dnode)

    def _root(self) -> _Way:
        master = self.objset.dnode(zf.MASTER_NODE_OBJ)
        root = zap.lookup(self.objects, master, b"ROOT") & zf.ZFS_DIRENT_OBJ_MASK
        return _Way([root], self.objset.dnode(root))

    def _walk(self, way: _Way, path: bytes, more: int, follow: bool, at_folder: bool = False) -> None:
        """Go on along ``path``, which ``more`` bytes follow; ``at_folder``: the dnode there has just been read."""
        stack = way.stack
        dnode = way.dnode
        rest = path
        while rest:
            if not at_folder:
                dnode = self.objset.dnode(stack[-1])
            at_folder = False
            rest = rest.lstrip(b"/")
            if not rest:
                break
            component = rest.partition(b"/")[0]
            rest = rest[len(component) :]
            if component == b".":
                continue
            if component == b"..":
                if len(stack) == 1:
                    raise FileSystemError(ENOENT, "ZFS: no way above the root directory")
                stack.pop()
                if not rest:
                    dnode = self.objset.dnode(stack[-1])
                continue
            if len(component) > zf.NAME_MAX:
                raise PathError(ENAMETOOLONG, "ZFS: a component longer than 255 bytes")
            if self._attributes(dnode).mode & S_IFMT != S_IFDIR:
                raise FileSystemError(ENOTDIR, "ZFS: not a directory")
            number = zap.lookup(self.objects, dnode, component) & zf.ZFS_DIRENT_OBJ_MASK
            stack.append(number)
            dnode = self.objset.dnode(number)
            found = self._attributes(dnode)
            if found.mode & S_IFMT != S_IFLNK or (not follow and not rest):
                continue
            if way.links >= zf.ZFS_MAX_SYMLINKS:
                raise PathError(EMLINK, f"ZFS: more than {zf.ZFS_MAX_SYMLINKS} symbolic links")
            way.links += 1
            if found.size + len(rest) + more + 1 > zf.PATH_MAX:
                raise PathError(ENAMETOOLONG, "ZFS: a path longer than 1023 bytes")
            rest = self._link_text(dnode, found) + rest
            if rest.startswith(b"/"):
                del stack[1:]
            else:
                stack.pop()
        way.dnode = dnode

    def _attributes(self, dnode: Dnode) -> Attributes:
        if dnode.bonustype != zf.DMU_OT_SA:
            return attributes.of_znode(dnode)
        if self._layouts is None:
            self._layouts = self._load_layouts()
        return attributes.of_sa(dnode, self.objects, self._layouts)

    def _load_layouts(self) -> Layouts:
        with Meanwhile(self.objects.blocks.reads, paused=True), self.objects.last.kept():
            return attributes.load_layouts(self.objset, self.objset.dnode(zf.MASTER_NODE_OBJ))

    def touch_attributes(self, node: ZfsNode) -> None:
        """What zfs_stat reads at every read and readdir: the spill block of an object without a bonus."""
        dnode = node.dnode
        if dnode.bonustype == zf.DMU_OT_SA and not dnode.bonuslen and dnode.spill is not None:
            self.objects.read_block_pointer(dnode.spill)

    def _link_text(self, dnode: Dnode, found: Attributes) -> bytes:
        if found.symlink is not None:
            return found.symlink
        return self.objects.read_bytes(dnode, 0, found.size)

    def stat(self, node: ZfsNode) -> Stat:
        found = self._attributes(node.dnode)
        return Stat(
            mode=found.mode & 0xFFFF,
            size=found.size & _STAT_FIELD,
            uid=found.uid & 0xFFFFFFFF,
            gid=found.gid & 0xFFFFFFFF,
            mtime=found.mtime & _STAT_FIELD,
            ino=node.number,
        )

    def readlink(self, node: ZfsNode) -> bytes:
        """Raises FileSystemError (EIO): not a link, or damaged."""
        found = self._attributes(node.dnode)
        if found.mode & S_IFMT != S_IFLNK or found.size >= zf.PATH_MAX:
            raise FileSystemError(EIO, "ZFS: not a symbolic link")
        return self._link_text(node.dnode, found)

    def open(self, node: ZfsNode) -> ZfsFile:
        return ZfsFile(self, node, self._attributes(node.dnode).size & _STAT_FIELD)

    def readdir(self, node: ZfsNode) -> Iterator[tuple[int, int, bytes]]:
        """(object number, d_type, name); `.` and `..` are not stored.  Raises FileSystemError: ENOTDIR, EIO."""
        dnode = node.dnode
        if self._attributes(dnode).mode & S_IFMT != S_IFDIR:
            raise FileSystemError(ENOTDIR, "ZFS: not a directory")
        if dnode.bsize < zf.MZAP_ENT_LEN:
            raise FileSystemError(EIO, f"ZFS: the directory {node.number} is damaged")
        if zap.is_micro(self.objects.block(dnode, 0)):
            return self._readdir_micro(node)
        return self._readdir_fat(node)

    def children(self, node: ZfsNode) -> Iterator[tuple[bytes, int]]:
        """(name, object number) of each entry.  Raises as readdir."""
        return ((name, number) for number, _, name in self.readdir(node))

    def child(self, number: int) -> ZfsNode:
        """The node of what ``children`` gave.  Raises FileSystemError (EIO)."""
        return ZfsNode(number, self.objset.dnode(number))

    def _readdir_micro(self, node: ZfsNode) -> Iterator[tuple[int, int, bytes]]:
        dnode = node.dnode
        for offset in range(zf.MZAP_ENT_LEN, dnode.bsize - zf.MZAP_ENT_LEN + 1, zf.MZAP_ENT_LEN):
            # asked for again at each entry: what the caller read meanwhile has taken its place
            name, value = zap.micro_entry(self.objects.block(dnode, 0), offset)
            if name:
                yield value & zf.ZFS_DIRENT_OBJ_MASK, value >> 60, name
                self.touch_attributes(node)

    def _readdir_fat(self, node: ZfsNode) -> Iterator[tuple[int, int, bytes]]:
        dnode = node.dnode
        for leaf in zap.leaves(self.objects, dnode, zap.fat_header(self.objects, dnode)):
            for name, integers in leaf.entries():
                value = integers[0] if integers else 0
                yield value & zf.ZFS_DIRENT_OBJ_MASK, value >> 60, name
                self.touch_attributes(node)
