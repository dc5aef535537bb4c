"""UFS1 and UFS2 as FreeBSD's loader reads them (stand/libsa/ufs.c).

The twiddle turns exactly where libsa's does (docs/errata.md, "Twiddles"): once for the superblock, once for each
inode read, and in ufs_file.py for the blocks.  libsa remembers neither inodes nor the names of directory blocks; what
is remembered here turns it all the same.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError, PathError
from bhyveload.freebsd_errno import EINVAL, EIO, ENOENT, ENOTDIR
from bhyveload.fs.stat import DT_UNKNOWN, S_IFDIR, S_IFLNK, S_IFMT, Stat
from bhyveload.fs.ufs_file import UfsFile, UfsNode
from bhyveload.fs.ufs_format import (
    DIRECT,
    MAXPATHLEN,
    MAXSYMLINKS,
    SBLOCK_UFS2,
    UFS1_DINODE,
    UFS1_POINTERS,
    UFS2_DINODE,
    UFS2_POINTERS,
    UFS_MAXNAMLEN,
    UFS_NDADDR,
    UFS_ROOTINO,
)
from bhyveload.fs.ufs_super import check_summary, find_superblock
from bhyveload.printable import escape_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from bhyveload.device import Buffer, Device
    from bhyveload.fs.interface import Twiddle
    from bhyveload.fs.ufs_super import Superblock

MAX_DIRECTORY_SIZE = 64 << 20  # a directory of a million names; bounds the search of a damaged one
MAX_CACHED_NAMES = 65536
MAX_CACHED_NODES = 1024
_MAX_SIZE = (1 << 63) - 1


def probe(device: Device, twiddle: Twiddle, strict: bool = False) -> UfsFileSystem:
    """Mount the UFS on ``device``; turns ``twiddle`` for the superblock, and later for all that is read.

    Raises FileSystemError: ENOENT no UFS, EINVAL newfs was interrupted, EILSEQ big-endian (the message is the loader's
    own), EIO unreadable.
    """
    twiddle(1)
    superblock = find_superblock(device)
    check_summary(device, superblock)
    return UfsFileSystem(device, superblock, twiddle)


def describe(facts: dict[str, Any], size: Callable[[int], str]) -> str:
    """fs/interface.py FileSystemModule."""
    state = "clean" if facts["clean"] else "not unmounted cleanly"
    label = f', label "{facts["label"]}"' if facts["label"] else ""
    sizes = f"blocks of {facts['block_size']}, fragments of {facts['fragment_size']}"
    return f"UFS{facts['version']}, {sizes}, {size(facts['size'])}, {state}{label}"


class UfsFileSystem:
    """A mounted UFS (fs/interface.py FileSystem).

    ``messages``: lines that the loader itself prints when it mounts this; ``notes``: these and what else is worth
    telling the user.
    """

    __slots__ = (
        "_names",
        "_names_held",
        "_nodes",
        "_readable",
        "_twiddle",
        "device",
        "messages",
        "name",
        "notes",
        "superblock",
    )

    def __init__(self, device: Device, superblock: Superblock, twiddle: Twiddle) -> None:
        self.name = "ufs"
        self.device = device
        self.superblock = superblock
        self.messages = [superblock.check_hash_message] if superblock.check_hash_message else []
        self.notes = [*self.messages, *_notes(superblock)]
        self._twiddle = twiddle
        self._names: dict[tuple[int, int], tuple[dict[bytes, int], int]] = {}
        self._names_held = 0
        self._nodes: dict[int, UfsNode] = {}
        self._readable = 0  # bytes of the device: what lies behind them was not tried yet

    def facts(self) -> dict[str, Any]:
        """For bhyvedisk info (docs/bhyvedisk-json.md)."""
        superblock = self.superblock
        return {
            "type": "ufs",
            "version": superblock.version,
            "block_size": superblock.bsize,
            "fragment_size": superblock.fsize,
            "size": superblock.size * superblock.fsize,
            "label": superblock.volname.decode("utf-8", "surrogateescape"),
            "clean": superblock.clean,
            "notes": list(self.notes),
        }

    def lookup(self, path: bytes, follow: bool = True) -> UfsNode:
        """The node at ``path``; symbolic links are followed within the file system, at most 32 of them.

        Raises FileSystemError: ENOENT (also for a name over 255 bytes and for too many links), ENOTDIR, EIO.
        """
        path = path.partition(b"\0")[0]
        node = self._inode(UFS_ROOTINO)
        position = links = 0
        while True:
            while path[position : position + 1] == b"/":
                position += 1
            if position == len(path):
                return node
            end = path.find(b"/", position)
            if end < 0:
                end = len(path)
            name = path[position:end]
            if node.mode & S_IFMT != S_IFDIR:
                raise FileSystemError(ENOTDIR, f"{_shown(path[:position])}: not a directory")
            if len(name) > UFS_MAXNAMLEN:
                raise PathError(ENOENT, f"{_shown(name)}: name too long")
            parent = node
            node = self._inode(self._search(parent, name))
            position = end
            if node.mode & S_IFMT == S_IFLNK and (follow or path[end:].strip(b"/")):
                links += 1
                if node.size + len(path) - end > MAXPATHLEN or links > MAXSYMLINKS:
                    raise PathError(ENOENT, f"{_shown(name)}: too many or too long symbolic links")
                path = (self.readlink(node) + path[end:]).partition(b"\0")[0]
                position = 0
                node = self._inode(UFS_ROOTINO if path.startswith(b"/") else parent.ino)

    def stat(self, node: UfsNode) -> Stat:
        """What ufs_stat tells; ``dev`` is the file system's id folded."""
        return Stat(node.mode, node.size, node.uid, node.gid, node.mtime, node.ino, self.superblock.dev)

    def readdir(self, node: UfsNode) -> Iterator[tuple[int, int, bytes]]:
        """(0, d_type, name) of each entry in use, `.` and `..` included, read as they are asked for.

        Raises FileSystemError: ENOTDIR, EIO for a damaged directory.
        """
        if node.mode & S_IFMT != S_IFDIR:
            raise FileSystemError(ENOTDIR, f"ufs: inode {node.ino} is not a directory")
        return ((0, d_type, name) for _, d_type, name in self._records(node))

    def children(self, node: UfsNode) -> Iterator[tuple[bytes, int]]:
        """(name, inode number) of each entry but `.` and `..`.  Raises as readdir."""
        if node.mode & S_IFMT != S_IFDIR:
            raise FileSystemError(ENOTDIR, f"ufs: inode {node.ino} is not a directory")
        return ((name, ino) for ino, _, name in self._records(node) if name not in (b".", b".."))

    def child(self, ino: int) -> UfsNode:
        """The node of what ``children`` gave.  Raises FileSystemError(EIO)."""
        return self._inode(ino)

    def readlink(self, node: UfsNode) -> bytes:
        """The text of a symbolic link.  Raises FileSystemError: EINVAL not a link, EIO, ENOENT longer than a path."""
        if node.mode & S_IFMT != S_IFLNK:
            raise FileSystemError(EINVAL, f"ufs: inode {node.ino} is not a symbolic link")
        if node.size < self.superblock.maxsymlinklen:
            return node.short[: node.size]
        if node.size > MAXPATHLEN:
            raise FileSystemError(ENOENT, f"ufs: inode {node.ino}: symbolic link of {node.size} bytes")
        pointer = node.pointers[0]
        if not 0 < pointer < self.superblock.size:
            raise FileSystemError(EIO, f"ufs: inode {node.ino}: the symbolic link's text is missing")
        self._twiddle(1)
        return bytes(self.device.read(pointer << self.superblock.fshift, node.size))

    def open(self, node: UfsNode) -> UfsFile:
        """The file's content (a directory's too: its raw entries).  Raises FileSystemError(EIO): impossible size."""
        if node.size > _MAX_SIZE:
            raise FileSystemError(EIO, f"ufs: inode {node.ino}: a size of {node.size} bytes is impossible")
        return UfsFile(self.device, self.superblock, node, self._twiddle, self._forget)

    def _inode(self, ino: int) -> UfsNode:
        """read_inode: one twiddle each time."""
        self._twiddle(1)
        node = self._nodes.get(ino)
        if node is None:
            if len(self._nodes) >= MAX_CACHED_NODES:
                self._nodes.clear()
            node = self._nodes[ino] = self._read_inode(ino)
        return node

    def _read_inode(self, ino: int) -> UfsNode:
        superblock = self.superblock
        place = superblock.inode_offset(ino)
        end = place + superblock.bsize - ino % superblock.inopb * superblock.dinode_size
        if end > self._readable:  # libsa reads the whole block: on a disk that was cut off within it there is no inode
            self.device.read(end - 1, 1)
            self._readable = end
        raw = self.device.read(place, superblock.dinode_size)
        if superblock.version == 1:
            mode, size, mtime, short, uid, gid = UFS1_DINODE.unpack_from(raw)
            return UfsNode(ino, mode, size, uid, gid, mtime, UFS1_POINTERS.unpack(short), short)
        mode, uid, gid, size, mtime, short = UFS2_DINODE.unpack_from(raw)
        return UfsNode(ino, mode, size, uid, gid, mtime, UFS2_POINTERS.unpack(short), short)

    def _search(self, node: UfsNode, name: bytes) -> int:
        """The inode number of ``name`` in a directory; blocks behind the one that has it are not read."""
        file: UfsFile | None = None
        for block in range(-(-node.size >> self.superblock.bshift)):
            known = self._names.get((node.ino, block))
            if known is not None and block < UFS_NDADDR:
                if node.pointers[block]:
                    self._twiddle(4)
            else:
                file = file or self._open_directory(node)
                if known is None:
                    known = self._remember_names(node.ino, block, self._directory_block(file, block))
                else:
                    file.pass_over(block)
            names, damage = known
            if name in names:
                return names[name]
            if damage >= 0:
                raise self._damaged(node, (block << self.superblock.bshift) + damage)
        raise FileSystemError(ENOENT, f"{_shown(name)}: no such file or directory")

    def _records(self, node: UfsNode) -> Iterator[tuple[int, int, bytes]]:
        """(inode, d_type, name) of each entry in use."""
        file = self._open_directory(node)
        old_format = self.superblock.maxsymlinklen <= 0
        for block in range(-(-node.size >> self.superblock.bshift)):
            content = self._directory_block(file, block)
            position = 0
            while position < len(content):
                if not _is_sound(content, position):
                    raise self._damaged(node, (block << self.superblock.bshift) + position)
                ino, reclen, d_type, namlen = DIRECT.unpack_from(content, position)
                if old_format:
                    d_type, namlen = DT_UNKNOWN, d_type
                if ino:
                    start = position + DIRECT.size
                    yield ino, d_type, bytes(content[start : start + namlen]).partition(b"\0")[0]
                position += reclen

    def _open_directory(self, node: UfsNode) -> UfsFile:
        whole = self.superblock.size << self.superblock.fshift
        if node.size > min(whole, MAX_DIRECTORY_SIZE):
            raise FileSystemError(EIO, f"ufs: directory inode {node.ino}: a size of {node.size} bytes is impossible")
        return UfsFile(self.device, self.superblock, node, self._twiddle)

    def _directory_block(self, file: UfsFile, block: int) -> Buffer:
        pieces = file.read(block << self.superblock.bshift, self.superblock.bsize)
        return pieces[0]  # a block is one extent, or one hole of fewer bytes than the zeros at hand

    def _remember_names(self, ino: int, block: int, content: Buffer) -> tuple[dict[bytes, int], int]:
        """The names of a directory block (the first of equal ones counts), and where it is damaged or -1."""
        names: dict[bytes, int] = {}
        old_format = self.superblock.maxsymlinklen <= 0
        position, damage = 0, -1
        content = bytes(content)
        while position < len(content):
            if not _is_sound(content, position):
                damage = position
                break
            number, reclen, d_type, namlen = DIRECT.unpack_from(content, position)
            if number:
                start = position + DIRECT.size
                # libsa compares the length and then the text up to its NUL, which must be there.
                end = start + (d_type if old_format else namlen)
                if content[end : end + 1] == b"\0":
                    names.setdefault(content[start:end], number)
            position += reclen
        if self._names_held > MAX_CACHED_NAMES:
            self._forget()
        self._names_held += len(names)
        self._names[ino, block] = known = (names, damage)
        return known

    def _forget(self) -> None:
        self._names.clear()
        self._names_held = 0
        self._nodes.clear()

    def _damaged(self, node: UfsNode, offset: int) -> FileSystemError:
        return FileSystemError(
            EIO, f"ufs: directory inode {node.ino}: the entry at {offset} is damaged", "run fsck_ffs(8) on it"
        )


def _is_sound(content: Buffer, position: int) -> bool:
    """Whether a directory record begins here whose length leads on and stays in the block.

    libsa trusts the length: with 0 it never ends.
    """
    if position + DIRECT.size > len(content):
        return False
    reclen: int = DIRECT.unpack_from(content, position)[1]
    return reclen >= DIRECT.size and reclen % 4 == 0 and position + reclen <= len(content)


def _notes(superblock: Superblock) -> list[str]:
    if not superblock.refusal:
        return []
    if superblock.version == 2 and superblock.location != SBLOCK_UFS2:
        return [
            f"UFS2 superblock at {superblock.location} (Debian's makefs does this): "
            f"FreeBSD's own loader looks for it at {SBLOCK_UFS2} and would not read this file system"
        ]
    return [f"FreeBSD 13.2's loader would not read this file system: {superblock.refusal} in the superblock"]


def _shown(text: bytes) -> str:
    """A guest's name for a message: printable, not too long."""
    return escape_bytes(text[:80]) + ("..." if len(text) > 80 else "")
