"""ZFS, read only but for the boot environment block of the labels.

For callers that want to look into pools (the loader uses the same classes, with a version's refusals and twiddles):

    pools = PoolSet()                          # strict=None: read all that can be read
    pools.probe(device, "disk0p2")             # each disk, or partition of it, that may be a vdev; raises if it is none
    pools.finish()                             # opens the pools; pools.dropped has (name, error) of those it could not
    fs = pools.dataset("tank/ROOT/default")    # or "tank/ds@snapshot"; "": the first pool's bootfs
    fs.lookup(b"/boot"), fs.readdir(...)       # as every file system (fs/interface.py)
    pool_facts(pools.pools[0])                 # vdevs, features, datasets, boot environments as plain values

Everything raises FileSystemError only.  The public names are imported when they are first asked for, so that a guest
without ZFS does not pay for them.  Sources: stand/libsa/zfs/zfsimpl.c, and for the formats
sys/cddl/boot/zfs/zfsimpl.h and OpenZFS.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .facts import boot_environments, pool_facts, pool_lines
    from .pool import Pool
    from .poolset import PoolSet

__all__ = ["Pool", "PoolSet", "boot_environments", "pool_facts", "pool_lines", "prepare"]


_LARGEST_PIECE = 8 << 20
"""What glibc's malloc then takes from memory that was freed, instead of new pages for every record: it learns what is
large from what is given back (M_MMAP_THRESHOLD of mallopt(3))."""


def prepare() -> None:
    """Import and map what reading every pool needs.  Call before the process is confined."""
    from . import checksum, decompress, poolset  # noqa: F401 - to have them

    bytes(_LARGEST_PIECE)
    checksum.prepare()
    decompress.prepare()


def __getattr__(name: str) -> object:
    if name == "PoolSet":
        from .poolset import PoolSet

        return PoolSet
    if name == "Pool":
        from .pool import Pool

        return Pool
    if name in ("boot_environments", "pool_facts", "pool_lines"):
        from . import facts

        return getattr(facts, name)
    raise AttributeError(name)
