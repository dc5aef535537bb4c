"""What kind of image a file is, by its first bytes (a fixed VHD: by its last ones).  Names do not count.

Nothing but bytes at fixed places is compared, so this may be done where guest bytes must not be parsed.
"""

from __future__ import annotations

from bhyveload.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.device import Buffer, Device

RAW = "raw"
FORMATS = ("qcow2", "vmdk", "vhd", "vhdx")
COMPRESSIONS = ("xz", "gz", "zst")

_MAGICS = (
    (b"QFI\xfb", "qcow2"),
    (b"KDMV", "vmdk"),
    (b"COWD", "vmdk"),
    (b"conectix", "vhd"),
    (b"vhdxfile", "vhdx"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x1f\x8b\x08", "gz"),
    (b"\x28\xb5\x2f\xfd", "zst"),
)
_VMDK_DESCRIPTOR = b"# Disk DescriptorFile"
# A raw disk whose guest wrote a descriptor into its first sectors must not become a list of its neighbours' disks.
_MAX_DESCRIPTOR = 64 << 10
_VHD_FOOTER_SIZE = 512
_VHD_FIXED = b"\xff" * 8  # the footer's Data Offset, byte 16, where there is no dynamic disk header

_NOT_READ = (
    (0, b"QED\0", "a QED image"),
    (0, b"WithoutFreeSpace", "a Parallels image"),
    (0, b"WithouFreSpacExt", "a Parallels image"),
    (64, b"\x7f\x10\xda\xbe", "a VirtualBox VDI image"),
    (257, b"ustar", "a tar archive (or an OVA, which is one)"),
    (0, b"PK\3\4", "a ZIP archive"),
    (0, b"BZh", "compressed with bzip2"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4"),
)
_CONVERT = "qemu-img convert, or the program that made it, can make a raw image of it"

_GPT_SIGNATURE = b"EFI PART"


def detect(file: Device, name: str) -> str:
    """ "raw", one of FORMATS or one of COMPRESSIONS.  Raises ImageError for kinds that are known but not read."""
    head = bytes(file.read(0, min(file.size, 512)))
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    if head.startswith(_VMDK_DESCRIPTOR) and file.size <= _MAX_DESCRIPTOR:
        return "vmdk"
    for offset, magic, what in _NOT_READ:
        if head.startswith(magic, offset):
            raise ImageError(f"{name}: this is {what}, which is not read", _CONVERT)
    if file.size > _VHD_FOOTER_SIZE:
        footer = bytes(file.read(file.size - _VHD_FOOTER_SIZE, 24))
        if footer.startswith(b"conectix") and footer.endswith(_VHD_FIXED):
            return "vhd"
    return RAW


def media_sector_size(size: int, read: Callable[[int, int], Buffer]) -> int:
    """4096 when only that shows a GPT, as partition.table finds it; else 512.  ``read``: (offset, length) of a disk of
    ``size`` bytes."""
    if size < 4096 + len(_GPT_SIGNATURE) or bytes(read(512, len(_GPT_SIGNATURE))) == _GPT_SIGNATURE:
        return 512
    return 4096 if bytes(read(4096, len(_GPT_SIGNATURE))) == _GPT_SIGNATURE else 512
