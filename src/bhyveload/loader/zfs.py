"""The loader's side of ZFS: pools found on the disks, the boot file system as currdev (stand/userboot/userboot/main.c,
stand/libsa/zfs/zfs.c; spec/zfs.md 14-16)."""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.fs.zfs.poolset import PoolSet
from bhyveload.loader.vdev_probe import walk_disks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.fs.interface import Device
    from bhyveload.loader.state import Loader


def prepare() -> None:
    """Import everything reading any pool may need.  Call before the process is confined."""
    from bhyveload.fs import zfs

    zfs.prepare()


def probe_pools(loader: Loader) -> None:
    """zfs_dev_init: every pool on every disk, open."""
    strict = "current" if loader.current else "13.2"
    pools = PoolSet(loader.console.twiddle, lambda line: loader.print(line + "\n"), strict)

    def probe(device: Device, name: str) -> bool:
        try:
            pools.probe(device, name)
        except FileSystemError:
            return False
        return True

    walk_disks(loader, probe)
    pools.finish()
    loader.files.pools = pools


def choose_currdev(loader: Loader, set_currdev: Callable[[Loader, str], None]) -> None:
    """The first pool's boot file system becomes currdev and loaddev."""
    set_currdev(loader, loader.files.pools.format())
