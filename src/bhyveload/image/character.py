"""Disks that are character devices, as all of FreeBSD's are (/dev/ada0, /dev/zvol/...): not mapped, whole sectors only.

Their sizes come from ioctls (sys/sys/disk.h), as in cb_diskioctl of usr.sbin/bhyveload/bhyveload.c.  There a loader's
512-byte reads reach the device as they are, and one with 4096-byte sectors refuses them; here they are widened.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from bhyveload.errors import InputError
from bhyveload.libc import pwrite_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.device import Buffer

DIOCGSECTORSIZE, DIOCGMEDIASIZE = 0x40046480, 0x40086481
_MAX_SECTOR = 1 << 16


class Medium:
    """What a device says of itself: ``size`` and ``sector_size`` in bytes."""

    __slots__ = ("sector_size", "size")

    def __init__(self, fd: int, name: str) -> None:
        """Raises InputError: no disk, or one without a medium."""
        try:
            (self.size,) = struct.unpack("=q", fcntl.ioctl(fd, DIOCGMEDIASIZE, bytes(8)))
            (self.sector_size,) = struct.unpack("=I", fcntl.ioctl(fd, DIOCGSECTORSIZE, bytes(4)))
        except OSError as error:
            raise InputError(f"{name}: not a disk: {error.strerror}") from None
        sector = self.sector_size
        if self.size < 0 or not 0 < sector <= _MAX_SECTOR or sector & (sector - 1) or self.size % sector:
            raise InputError(f"{name}: {self.size} bytes in sectors of {sector} are no disk")

    def read(self, fd: int, offset: int, length: int) -> memoryview:
        """``length`` bytes at ``offset`` of the device open as ``fd``.  Raises OSError; EIO where it ends before."""
        start, left = self._sectors(offset, length)
        before = offset - start
        pieces = []
        while left:
            piece = os.pread(fd, left, start)
            if not piece:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            pieces.append(piece)
            start += len(piece)
            left -= len(piece)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return memoryview(data)[before : before + length]

    def write(self, fd: int, offset: int, data: Buffer) -> None:
        """Put ``data`` at ``offset``; what else its first and last sectors hold is read, and written back.

        Raises OSError.
        """
        start, length = self._sectors(offset, len(data))
        whole = bytearray(self.read(fd, start, length))
        whole[offset - start : offset - start + len(data)] = data
        pwrite_all(fd, memoryview(whole), start)

    def _sectors(self, offset: int, length: int) -> tuple[int, int]:
        """Where the sectors begin that hold those bytes, and how many bytes they are."""
        start = offset - offset % self.sector_size
        end = offset + length
        return start, end + -end % self.sector_size - start
