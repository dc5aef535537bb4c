"""Builtin commands that few boots use: virtual disks in files, ZFS datasets and stores.

Sources: stand/common/{vdisk,zfs_cmd,nvstore}.c; docs/errata.md, "Words of the loader".
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EINVAL, EIO, ENXIO, EROFS, strerror
from bhyveload.libc import strtol
from bhyveload.loader.state import CMD_ERROR, CMD_OK
from bhyveload.need import OnDemand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bhyveload.device import Buffer
    from bhyveload.loader.files.open_file import OpenFile
    from bhyveload.loader.state import Command, Loader
    from bhyveload.loader.zfs import nvstore as zfs_nvstore
    from bhyveload.loader.zfs import pools as zfs_pools
else:
    zfs_nvstore = OnDemand("bhyveload.loader.zfs.nvstore", "bhyveload.fs.zfs")
    zfs_pools = OnDemand("bhyveload.loader.zfs.pools", "bhyveload.fs.zfs")

_MIN_VDISK = 1 << 20


class FileDisk:
    """A disk in a guest's file (vdisk): a Device (device.py), read-only."""

    sector_size = 512
    read_only = True

    def __init__(self, file: OpenFile, size: int) -> None:
        self._file = file
        self.name = file.name
        self.size = size // 512 * 512

    def read(self, offset: int, length: int) -> Buffer:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise FileSystemError(EIO, f"{self._file.name}: read of {length} bytes at {offset} is outside the file")
        return b"".join(self._file.file.read(offset, length))

    def write(self, offset: int, data: Buffer) -> None:
        raise FileSystemError(EROFS, f"{self._file.name}: a mapped file is not written")

    def descriptors(self) -> tuple[int, ...]:
        """None of its own: the disk that the file is on has them."""
        return ()

    def describe(self) -> dict[str, Any]:
        return {"path": self.name, "format": "raw", "size": self.size, "read_only": True, "sector_size": 512}

    def close(self) -> None:
        """Nothing: a file of the loader's is not closed."""


def map_vdisk(loader: Loader, argv: list[str]) -> int:
    if len(argv) != 2:
        loader.print("usage: map-vdisk filename\n")
        return CMD_ERROR
    name = argv[1]
    vdisks = loader.disks.vdisks
    for unit, (known, _) in vdisks.items():
        if known == name:
            loader.print(f"map-vdisk: file {name} is already mapped as vdisk{unit}\n")
            return CMD_ERROR
    try:
        size = loader.files.stat(name).size
    except FileSystemError as error:
        loader.print(f"map-vdisk: stat failed: {strerror(error.errno)}\n")
        return CMD_ERROR
    if size < _MIN_VDISK:
        loader.print(f"map-vdisk: file {name} is too small.\n")
        return CMD_ERROR
    try:
        file = loader.files.open(name)
    except FileSystemError as error:
        loader.print(f"map-vdisk: open failed: {strerror(error.errno)}\n")
        return CMD_ERROR
    unit = next(number for number in range(len(vdisks) + 1) if number not in vdisks)
    vdisks[unit] = name, FileDisk(file, size)
    loader.print(f"map-vdisk: file {name} is mapped as vdisk{unit}\n")
    return CMD_OK


def unmap_vdisk(loader: Loader, argv: list[str]) -> int:
    if len(argv) != 2:
        loader.print("usage: unmap-vdisk vdiskN\n")
        return CMD_ERROR
    unit = _vdisk_unit(argv[1])
    if unit not in loader.disks.vdisks:
        loader.print(f"unmap-vdisk: unknown device {argv[1]}\n")
        return CMD_ERROR
    name, _ = loader.disks.vdisks.pop(unit)
    loader.disks.forget("vdisk", unit)
    loader.files.forget("vdisk")
    loader.print(f"{argv[1]} ({name}) unmapped\n")
    return CMD_OK


def _vdisk_unit(name: str) -> int:
    """The number in vdiskN or vdiskN:, -1 where there is none.  strtol takes blanks, a sign and zeros before it."""
    if not name.startswith("vdisk"):
        return -1
    rest = name[len("vdisk") :]
    unit, end = strtol(rest, 10)
    return unit if end and rest[end:] in ("", ":") else -1


def lszfs(loader: Loader, argv: list[str]) -> int:
    if len(argv) != 2:
        return loader.fail("a single dataset must be supplied")
    if loader.files.pools is None:
        return loader.fail(strerror(ENXIO))
    return zfs_pools.lszfs(loader, argv[1])


def reloadbe(loader: Loader, argv: list[str]) -> int:
    if len(argv) > 2:
        return loader.fail("wrong number of arguments")
    if loader.environment.get("zfs_be_root") is None:
        # no pool was found: only a root named by hand is an error
        return loader.fail(strerror(EINVAL)) if len(argv) == 2 else CMD_OK
    result: int = zfs_pools.reloadbe(loader, argv[1] if len(argv) == 2 else None)
    return result


def nvstore(loader: Loader, argv: list[str]) -> int:
    return zfs_nvstore.nvstore(loader, argv)


COMMANDS: dict[str, Command] = {
    "map-vdisk": map_vdisk,
    "unmap-vdisk": unmap_vdisk,
    "lszfs": lszfs,
    "reloadbe": reloadbe,
    "nvstore": nvstore,
}
