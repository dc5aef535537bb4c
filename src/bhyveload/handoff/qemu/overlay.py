"""Empty qcow2 images on top of a guest's disk: what the guest writes goes there, the disk stays as it is.

Source: QEMU's docs/interop/qcow2.txt.
"""

from __future__ import annotations

import os
import stat
import struct

from bhyveload.absolute_path import absolute_path
from bhyveload.errors import HandoffError
from bhyveload.image.qcow2_format import (
    EXTENSION_BACKING_FORMAT,
    EXTENSION_END,
    HEADER_EXTENSION,
    HEADER_V2,
    HEADER_V3,
    MAX_BACKING_NAME,
    QCOW_MAGIC,
)
from bhyveload.new_file import unnamed_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.handoff.disks import Disk

_FORMAT_NAMES = {"vhd": "vpc"}  # as QEMU's programs write them into an image
_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
_HEADER_LENGTH = 104
_REFCOUNT_ORDER = 4  # 16-bit reference counts
_SECTOR = 512
_TABLE_SPAN = _CLUSTER * (_CLUSTER // 8)  # bytes of the disk that one L2 table covers


def write_overlay(fd: int, size: int, backing: str = "", backing_format: str = "", place: str = "") -> None:
    """Make ``fd``, which lies in ``place``, an empty qcow2 image of ``size`` bytes, standing on ``backing`` if named.

    Raises HandoffError: a name that is too long, no room.
    """
    size = (size + _SECTOR - 1) & -_SECTOR
    name = os.fsencode(backing)
    if len(name) > MAX_BACKING_NAME:
        raise HandoffError(f"{backing}: too long a name for what an overlay stands on", "use a shorter path")
    tables = max(1, -(-size // _TABLE_SPAN))
    clusters = 3 + -(-tables * 8 // _CLUSTER)  # header, refcount table, refcount block, L1 table
    extension = b""
    if backing_format:
        form = backing_format.encode()
        extension = HEADER_EXTENSION.pack(EXTENSION_BACKING_FORMAT, len(form))
        extension += form.ljust(-(-len(form) // 8) * 8, b"\0")
    extension += HEADER_EXTENSION.pack(EXTENSION_END, 0)
    name_at = _HEADER_LENGTH + len(extension) if name else 0
    header = HEADER_V2.pack(
        QCOW_MAGIC, 3, name_at, len(name), _CLUSTER_BITS, size, 0, tables, 3 * _CLUSTER, _CLUSTER, 1, 0, 0
    ) + HEADER_V3.pack(0, 0, 0, _REFCOUNT_ORDER, _HEADER_LENGTH)
    try:
        os.ftruncate(fd, 0)
        os.ftruncate(fd, clusters * _CLUSTER)
        os.pwrite(fd, header + extension + name, 0)
        os.pwrite(fd, struct.pack(">Q", 2 * _CLUSTER), _CLUSTER)
        os.pwrite(fd, struct.pack(">H", 1) * clusters, 2 * _CLUSTER)
    except OSError as error:
        hint = "make room there, or let TMPDIR name another place" if place == _folder() else ""
        where = "an overlay for the guest's disk" + (f" ({place})" if place else "")
        raise HandoffError(f"{where}: {error.strerror}", hint) from None


def put_on_top(disk: Disk, make: bool = True) -> Disk:
    """``disk`` with ``disk.overlay``, which is made if it is not there, unless only its name is wanted (``make``).  The
    disk is as disks.unpacked() leaves it.

    Raises HandoffError: another disk's overlay, or no overlay at all; no room; ImageError.
    """
    path = absolute_path(disk.overlay)
    below = absolute_path(disk.path)
    if os.path.exists(path):
        _check_overlay(path, below, disk)
        return disk.changed(overlay=path, snapshot=False)
    if not make:
        return disk.changed(overlay=path, snapshot=False)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HandoffError(f"--overlay {disk.overlay}: {error.strerror}") from None
    try:
        write_overlay(fd, disk.size, below, _FORMAT_NAMES.get(disk.format, disk.format), place=path)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)
    return disk.changed(overlay=path, snapshot=False)


def written_below(disk: Disk) -> str:
    """A file below ``disk.overlay`` that was written to since the overlay was, as by a run without it; "": none."""
    last = _written(disk.overlay)
    return next((path for path in (disk.name, *(path for path, _ in disk.backing)) if _written(path) > last > 0), "")


def _written(path: str) -> int:
    try:
        status = os.stat(path)
    except OSError:
        return 0
    return status.st_mtime_ns if stat.S_ISREG(status.st_mode) else 0


def _check_overlay(path: str, below: str, disk: Disk) -> None:
    """Whether the file at ``path`` stands on this disk.  Our own confined reader looks at it."""
    from bhyveload.image.disk import open_image

    top = open_image(path, "qcow2", allow_backing=True)
    try:
        backing = top.backing[0][0] if top.backing else ""
        if not backing or not os.path.samefile(backing, below):
            raise HandoffError(
                f"--overlay {disk.overlay}: stands on {backing or 'nothing'}, not on {disk.name}", "name another file"
            )
        if top.size != (disk.size + _SECTOR - 1) & -_SECTOR:
            raise HandoffError(
                f"--overlay {disk.overlay}: is for a disk of {top.size} bytes, {disk.name} has {disk.size}",
                "a disk must not change its size below an overlay",
            )
    finally:
        top.close()


def temporary_overlay(size: int, backing: str = "", form: str = "") -> int:
    """A descriptor of such an image without a name: it is gone with whoever has it open.  Its header names what it
    stands on if it can: QEMU is told anyway.  Raises HandoffError."""
    fd = scratch_file()
    named = len(os.fsencode(backing)) <= MAX_BACKING_NAME
    try:
        write_overlay(fd, size, backing if named else "", _FORMAT_NAMES.get(form, form) if named else "", _folder())
    except BaseException:
        os.close(fd)
        raise
    return fd


def scratch_file() -> int:
    """A file in $TMPDIR, or in /var/tmp: a guest may write a lot.  Raises HandoffError."""
    folder = _folder()
    try:
        fd = unnamed_file(folder)
        return fd if fd >= 0 else _unlinked(folder)
    except OSError as error:
        raise HandoffError(f"{folder}: {error.strerror}", "let TMPDIR name one for what the guest writes") from None


def _folder() -> str:
    return os.environ.get("TMPDIR") or "/var/tmp"


def _unlinked(folder: str) -> int:
    """Where there are no files without a name."""
    path = os.path.join(folder, f"bhyverun-{os.getpid()}-{os.urandom(8).hex()}")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.unlink(path)
    return fd
