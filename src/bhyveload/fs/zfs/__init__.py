"""ZFS, read only but for the boot environment block of the labels.

The public names are ``PoolSet``, ``Pool`` and ``prepare``; they are imported when they are first asked for, so that a
guest without ZFS does not pay for it.  Sources and formats: spec/zfs.md.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .pool import Pool
    from .poolset import PoolSet

__all__ = ["Pool", "PoolSet", "prepare"]


def prepare() -> None:
    """Import and map everything reading any pool may need.  Call before the process is confined."""
    from . import checksum, decompress, poolset  # noqa: F401

    checksum.prepare()
    decompress.prepare()


def __getattr__(name: str) -> object:
    if name == "PoolSet":
        from .poolset import PoolSet

        return PoolSet
    if name == "Pool":
        from .pool import Pool

        return Pool
    raise AttributeError(name)
