"""The files behind a guest's disks, with bhyve's options: one QEMU block node each.

bhyve takes every file as raw, whatever is in it.  A file that bhyveload was given in another format is used in that
format: the guest that was loaded from it must find the same disk.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from bhyveload.bhyve.starting import failed_start
from bhyveload.errors import HandoffError
from bhyveload.handoff.qemu.drives import block_node, option_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhyveload.bhyve.devices import Backing
    from bhyveload.compat import LoaderVersion
    from bhyveload.handoff.disks import Disk
    from bhyveload.handoff.qemu.files import QemuFiles


BLKSSZGET, BLKPBSZGET = 0x1268, 0x127B  # linux/fs.h
_DIRECT_UNIT = 4096  # the most that QEMU finds necessary (block/file-posix.c:raw_probe_alignment)
_SECTOR, _SECTOR_MAX = 512, 2 << 20  # hw/core/qdev-properties-system.c: MAX_BLOCK_SIZE


class Sectors(NamedTuple):
    """Bytes of a sector, and of what is best written at once; 0 where nobody said it."""

    logical: int
    physical: int

    def properties(self) -> list[str]:
        """The device's."""
        if not self.logical:
            return []
        return [f"logical_block_size={self.logical}", f"physical_block_size={self.physical}"]


class BlockNode:
    """One node: its ``name``, the ``arguments`` that make it, what the device on it must say (``properties``), and the
    ``sectors`` that the guest is to see."""

    def __init__(
        self, name: str, arguments: list[str], properties: list[str], read_only: bool, sectors: Sectors
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.properties = properties
        self.read_only = read_only
        self.sectors = sectors


class Blocks:
    """Makes the nodes of one guest.

    ``loaded``: the disks that bhyveload was given and that are not raw files, ready for QEMU.
    ``everything``: the paths of all the guest's disks; one that is there twice is shared.
    """

    def __init__(
        self, files: QemuFiles, compat: LoaderVersion, loaded: Sequence[tuple[str, Disk]], everything: Sequence[str]
    ) -> None:
        self._files = files
        self._compat = compat
        self._loaded = loaded
        self._everything = [os.path.realpath(path) for path in everything]

    def make(self, name: str, backing: Backing, *, writable: bool = False, lines: Sequence[str] = ()) -> BlockNode:
        """A node for ``backing``.  ``writable``: the device refuses a read-only one, so what is written to such a disk
        goes into a temporary file.

        Raises BhyveError: it cannot be opened; ``lines`` are what the emulation says then.  HandoffError.
        """
        read_only = self._only_readable(backing, lines)
        shared = self._everything.count(os.path.realpath(backing.path)) > 1
        properties = ["share-rw=on"] if shared else []
        if backing.synchronous:
            properties.append("write-cache=off")
        disk = self._other_format(backing.path)
        if disk is not None:
            arguments = block_node(name, disk.changed(read_only=read_only), self._files)
            return BlockNode(name, arguments, properties, read_only, Sectors(backing.logical, backing.physical))
        sectors = self._sectors(backing)
        if read_only and writable:
            return BlockNode(name, self._temporary(name, backing.path), properties, False, sectors)
        return BlockNode(name, self._raw(name, backing, read_only, shared), properties, read_only, sectors)

    def _sectors(self, backing: Backing) -> Sectors:
        """What the options say, or what the host's device or file system has (block_if.c:blockif_open)."""
        device, physical = sectors_of_host(backing.path)
        if not backing.logical:
            return Sectors(device, physical)
        if backing.physical > _SECTOR_MAX:
            raise HandoffError(
                f"{backing.path}: QEMU's sectors have {_SECTOR_MAX} bytes at most", "sectorsize=logical/physical"
            )
        if backing.logical < device:  # both are powers of 2
            line = f"Sector size {backing.logical} incompatible with underlying device sector size {device}"
            raise failed_start(self._compat, os.strerror(errno.EINVAL), line)
        return Sectors(backing.logical, backing.physical)

    def _only_readable(self, backing: Backing, lines: Sequence[str]) -> bool:
        """bhyve falls back to reading (block_if.c:blockif_open)."""
        path, reason = backing.path, ""
        for flags, read_only in ((os.O_RDWR, False), (os.O_RDONLY, True)):
            if backing.read_only and not read_only:
                continue
            try:
                fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            except OSError as error:
                reason = str(error.strerror)
                continue
            except ValueError:
                reason = "Invalid argument"
                continue
            mode = os.fstat(fd).st_mode
            os.close(fd)
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise HandoffError(f"{path}: neither a regular file nor a block device")
            return read_only
        more = [f"{line}: {reason}" for line in lines]
        raise failed_start(self._compat, reason, f"bhyve: Could not open backing file: {path}: {reason}", *more)

    def _other_format(self, path: str) -> Disk | None:
        for source, disk in self._loaded:
            try:
                if os.path.samefile(source, path):
                    return disk
            except OSError:
                continue
        return None

    def _temporary(self, name: str, path: str) -> list[str]:
        from bhyveload.handoff.disks import Disk

        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            size = os.lseek(fd, 0, os.SEEK_END)
        finally:
            os.close(fd)
        return block_node(name, Disk(path, True, size=size, snapshot=True), self._files)

    def _raw(self, name: str, backing: Backing, read_only: bool, shared: bool) -> list[str]:
        direct = backing.no_cache and goes_past_the_cache(backing.path)
        file, device = self._files.file(backing.path, read_only, direct)
        below: dict[str, Any] = {"driver": "host_device" if device else "file", "filename": option_value(file)}
        node: dict[str, Any] = {"driver": "raw", "node-name": name}
        if read_only:
            node["read-only"] = below["read-only"] = "on"
        elif not backing.no_delete:
            node["discard"] = below["discard"] = "unmap"
        if direct:
            node["cache.direct"] = below["cache.direct"] = "on"
        if shared:
            below["locking"] = "off"
        words = [f"{key}={value}" for key, value in node.items()]
        words += [f"file.{key}={value}" for key, value in below.items()]
        return ["-blockdev", ",".join(words)]


def goes_past_the_cache(path: str) -> bool:
    """Whether QEMU can use ``path`` with O_DIRECT: the file system has it, and the file ends where a page does."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_DIRECT)
    except (OSError, ValueError):
        return False
    try:
        return os.lseek(fd, 0, os.SEEK_END) % _DIRECT_UNIT == 0
    finally:
        os.close(fd)


def sectors_of_host(path: str) -> Sectors:
    """A block device's sectors; a file's are of 512 bytes, written best in its file system's blocks.  What cannot be
    told, or is none of QEMU's sizes, is 512."""
    try:
        status = os.stat(path)
        if not stat.S_ISBLK(status.st_mode):
            return Sectors(_SECTOR, _sector_size(status.st_blksize, _SECTOR))
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            logical, physical = (
                int.from_bytes(fcntl.ioctl(fd, request, bytes(4)), sys.byteorder) for request in (BLKSSZGET, BLKPBSZGET)
            )
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return Sectors(_SECTOR, _SECTOR)
    logical = _sector_size(logical, _SECTOR)
    return Sectors(logical, _sector_size(physical, logical))


def _sector_size(size: int, least: int) -> int:
    """``size`` where QEMU can have it, else ``least``."""
    return size if least <= size <= _SECTOR_MAX and not size & (size - 1) else least
