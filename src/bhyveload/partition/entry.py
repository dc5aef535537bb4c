"""What a partition table says, whatever its format: entries and their types.

The type constants are bhyveload's own names (gpart's where gpart has one); TYPE_NAMES gives the words that loader(8)'s
lsdev prints (stand/common/part.c, parttype2str).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    # Read ``count`` sectors from sector ``lba`` of the disk or slice: bytes past its end read as zeros.
    ReadSectors = Callable[[int, int], bytes]

UNKNOWN = "unknown"
EFI = "efi"
FREEBSD = "freebsd"
FREEBSD_BOOT = "freebsd-boot"
FREEBSD_UFS = "freebsd-ufs"
FREEBSD_ZFS = "freebsd-zfs"
FREEBSD_SWAP = "freebsd-swap"
FREEBSD_VINUM = "freebsd-vinum"
LINUX = "linux"
LINUX_SWAP = "linux-swap"
DOS = "dos"
ISO9660_TYPE = "iso9660"
APFS = "apple-apfs"

TYPE_NAMES = {
    UNKNOWN: "Unknown",
    EFI: "EFI",
    FREEBSD: "FreeBSD",
    FREEBSD_BOOT: "FreeBSD boot",
    FREEBSD_UFS: "FreeBSD UFS",
    FREEBSD_ZFS: "FreeBSD ZFS",
    FREEBSD_SWAP: "FreeBSD swap",
    FREEBSD_VINUM: "FreeBSD vinum",
    LINUX: "Linux",
    LINUX_SWAP: "Linux swap",
    DOS: "DOS/Windows",
    ISO9660_TYPE: "ISO9660",
    APFS: "APFS",
}


class Entry:
    """One partition.  ``start`` and ``size`` in sectors, relative to the disk or slice that holds the table.

    ``type`` is one of the constants above, ``raw_type`` what the table itself says (MBR type byte, BSD fstype, or 0).
    ``active``: the MBR's boot flag.  ``label``, ``guid`` and ``type_guid`` are GPT's (empty elsewhere).
    """

    __slots__ = ("active", "guid", "index", "label", "raw_type", "size", "start", "type", "type_guid")

    def __init__(
        self,
        index: int,
        start: int,
        size: int,
        type: str,
        raw_type: int = 0,
        active: bool = False,
        label: str = "",
        guid: str = "",
        type_guid: str = "",
    ) -> None:
        self.index = index
        self.start = start
        self.size = size
        self.type = type
        self.raw_type = raw_type
        self.active = active
        self.label = label
        self.guid = guid
        self.type_guid = type_guid

    @property
    def type_name(self) -> str:
        """The type as lsdev prints it."""
        return TYPE_NAMES[self.type]

    def __repr__(self) -> str:
        return f"Entry({self.index}, start={self.start}, size={self.size}, type={self.type!r})"
