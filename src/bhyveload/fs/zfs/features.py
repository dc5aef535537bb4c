"""Features that matter for reading: which loader takes which, and what this reader can do (features_for_read)."""

from __future__ import annotations

_BOTH = (
    "org.illumos:lz4_compress",
    "com.delphix:hole_birth",
    "com.delphix:extensible_dataset",
    "com.delphix:embedded_data",
    "org.open-zfs:large_blocks",
    "org.illumos:sha512",
    "org.illumos:skein",
    "org.zfsonlinux:large_dnode",
    "com.joyent:multi_vdev_crash_dump",
    "com.datto:encryption",
    "com.datto:bookmark_v2",
    "com.delphix:device_removal",
    "org.freebsd:zstd_compress",
    "com.delphix:bookmark_written",
    "com.delphix:head_errlog",
)
_ONLY_13_2 = (
    "com.delphix:spacemap_histogram",
    "com.delphix:zpool_checkpoint",
    "com.delphix:spacemap_v2",
    "org.zfsonlinux:allocation_classes",
    "com.datto:resilver_defer",
    "com.delphix:obsolete_counts",
    "com.intel:allocation_classes",
)
_SINCE_CURRENT = (
    "com.klarasystems:vdev_zaps_v2",
    "org.openzfs:blake3",
    "com.klarasystems:dynamic_gang_header",
)
# Nothing of these changes how a file system's blocks are found and read; names longer than 255 bytes (longname) only
# make entries that no path can name.
_HARMLESS = (
    "org.illumos:edonr",
    "com.delphix:redaction_bookmarks",
    "com.delphix:redacted_datasets",
    "com.delphix:redaction_list_spill",
    "org.zfsonlinux:longname",
)

ACCEPTED: dict[str | None, frozenset[str]] = {
    "13.2": frozenset(_BOTH + _ONLY_13_2),
    "current": frozenset(_BOTH + _SINCE_CURRENT),
    None: frozenset(_BOTH + _ONLY_13_2 + _SINCE_CURRENT + _HARMLESS),
}
"""By loader version; None: what this reader can read."""


def hint(feature: str) -> str:
    """What a user can do about a pool with that feature."""
    if feature in ACCEPTED["current"]:
        return "FreeBSD 14.2's loader and later read it: use --compat current"
    if feature in ACCEPTED[None]:
        return "no FreeBSD loader boots from such a pool; bhyvedisk reads it"
    return "no FreeBSD loader boots from such a pool; create it with -o compatibility=freebsd-14 or without the feature"
