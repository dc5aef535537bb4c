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
COMPRESSIONS = ("xz", "gz", "zst", "bz2", "lzma")

_MAGICS = (
    (b"QFI\xfb", "qcow2"),
    (b"KDMV", "vmdk"),
    (b"COWD", "vmdk"),
    (b"conectix", "vhd"),
    (b"vhdxfile", "vhdx"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x1f\x8b\x08", "gz"),
    (b"\x28\xb5\x2f\xfd", "zst"),
    *((b"BZh%d1AY&SY" % level, "bz2") for level in range(1, 10)),
)
_VMDK_DESCRIPTOR = b"# Disk DescriptorFile"
# A raw disk whose guest wrote a descriptor into its first sectors must not become a list of its neighbours' disks.
_MAX_DESCRIPTOR = 64 << 10
_VHD_FOOTER_SIZE = 512
_VHD_FIXED = b"\xff" * 8  # the footer's Data Offset, byte 16, where there is no dynamic disk header

_CONVERT = "qemu-img convert, or the program that made it, can make a raw image of it"
# offset, bytes there, what it is, what helps ("%s" is the file)
_NOT_READ = (
    (0, b"QED\0", "a QED image", _CONVERT),
    (0, b"WithoutFreeSpace", "a Parallels image", _CONVERT),
    (0, b"WithouFreSpacExt", "a Parallels image", _CONVERT),
    (64, b"\x7f\x10\xda\xbe", "a VirtualBox VDI image", _CONVERT),
    (257, b"ustar", "a tar archive (or an OVA, which is one)", "tar -xf %s"),
    (0, b"PK\3\4", "a ZIP archive", "unzip %s"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "7z x %s"),
    (0, b"Rar!\x1a\x07", "a RAR archive", "unrar x %s"),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4", "lz4 -dk %s"),
    (0, b"LZIP", "compressed with lzip", "lzip -dk %s"),
    (0, b"\x89LZO\0\r\n\x1a\n", "compressed with lzop", "lzop -d %s"),
    (0, b"\x1f\x9d", "compressed with compress", "gzip -dk %s"),
    (0, b"#!/bin/sh\n#V", "compressed with mkuzip(8)", "attach it in a FreeBSD guest and copy /dev/mdN.uzip"),
    (0, b"LUKS\xba\xbe", "an encrypted (LUKS) volume", "open it with cryptsetup, and give its device to -d"),
)
_LZMA_HEADER = 13  # LZMA_Alone: properties, dictionary size, size of what is in it (or ff for unknown)
_LZMA_PROPERTIES = 0x5D  # lc=3, lp=0, pb=2: what every encoder writes
_LZMA_UNKNOWN = b"\xff" * 8
_LZMA_MAX_SIZE = 1 << 48

_GPT_SIGNATURE = b"EFI PART"


def detect(file: Device, name: str) -> str:
    """ "raw", one of FORMATS or one of COMPRESSIONS.  Raises ImageError for kinds that are known but not read."""
    head = bytes(file.read(0, min(file.size, 512)))
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    if head.startswith(_VMDK_DESCRIPTOR) and file.size <= _MAX_DESCRIPTOR:
        return "vmdk"
    if _is_lzma(head):
        return "lzma"
    for offset, magic, what, hint in _NOT_READ:
        if head.startswith(magic, offset):
            raise ImageError(f"{name}: this is {what}, which is not read", hint.replace("%s", name))
    if file.size > _VHD_FOOTER_SIZE:
        footer = bytes(file.read(file.size - _VHD_FOOTER_SIZE, 24))
        if footer.startswith(b"conectix") and footer.endswith(_VHD_FIXED):
            return "vhd"
    return RAW


def _is_lzma(head: bytes) -> bool:
    """LZMA_Alone has no magic number: its header must make sense, and the first byte of the stream is 0."""
    if len(head) < _LZMA_HEADER + 1 or head[0] != _LZMA_PROPERTIES or head[_LZMA_HEADER]:
        return False
    dictionary = int.from_bytes(head[1:5], "little")
    top = dictionary & (dictionary - 1)  # 2^n or 2^n + 2^(n-1), from 4 KiB
    if dictionary < 4096 or (top and dictionary != top + top // 2):
        return False
    return head[5:13] == _LZMA_UNKNOWN or 0 < int.from_bytes(head[5:13], "little") < _LZMA_MAX_SIZE


def media_sector_size(size: int, read: Callable[[int, int], Buffer]) -> int:
    """4096 when only that shows a GPT, as partition.table finds it; else 512.  ``read``: (offset, length) of a disk of
    ``size`` bytes."""
    if size < 4096 + len(_GPT_SIGNATURE) or bytes(read(512, len(_GPT_SIGNATURE))) == _GPT_SIGNATURE:
        return 512
    return 4096 if bytes(read(4096, len(_GPT_SIGNATURE))) == _GPT_SIGNATURE else 512
