"""Starting a 32-bit kernel: bootinfo, stack, registers.

Sources: stand/userboot/userboot/{elf32_freebsd,bootinfo32}.c;
docs/errata.md, "13.2 and current".
"""

from __future__ import annotations

from struct import pack

from bhyveload.boot_formats.modinfo_format import (
    BASE_MEMORY,
    BOOTINFO,
    BOOTINFO_SIZE_13,
    BOOTINFO_VERSION,
    EXTENDED_MEMORY,
    MODINFOMD_ESYM,
    MODINFOMD_SSYM,
    RB_BOOTINFO,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from bhyveload.compat import LoaderVersion
    from bhyveload.host.callbacks import LoaderCallbacks
    from bhyveload.loader.kernel.metadata import Placement
    from bhyveload.loader.kernel.preloaded import PreloadedFile

GUEST_STACK, GUEST_BOOTINFO, GUEST_GDT = 0x1000, 0x2000, 0x3000
_STACK_SIZE = 4096
_GDT_ENTRIES = 4
ESP = 4
_RETURN_ADDRESS = 0xBEEFFACE
_ENTRY_MASK = 0xFFFFFF
_U32 = 0xFFFFFFFF


def exec_kernel(
    host: LoaderCallbacks, entry: int, placement: Placement, howto: int, bootinfo: tuple[bytes, bytes]
) -> NoReturn:
    """elf32_exec: leaves with GuestReady at ``entry``, of which the low 24 bits count.  ``bootinfo``: as
    ``bootinfo_block`` has it."""
    block, kernel_name = bootinfo
    host.copyin(block, GUEST_BOOTINFO)
    host.copyin(kernel_name, GUEST_BOOTINFO + len(block))
    words = pack(
        "<9I",
        _RETURN_ADDRESS,
        (howto | RB_BOOTINFO) & _U32,
        0,  # bootdev
        0,
        0,
        0,
        GUEST_BOOTINFO,
        placement.modulep,
        placement.kernend,
    )
    host.copyin(words.rjust(_STACK_SIZE, b"\0"), GUEST_STACK)
    host.setreg(ESP, GUEST_STACK + _STACK_SIZE - len(words))
    host.setgdt(GUEST_GDT, _GDT_ENTRIES * 8 - 1)
    host.exec(entry & _ENTRY_MASK)


def bootinfo_block(
    low: int, version: LoaderVersion, kernel: PreloadedFile, kernelname: str, placement: Placement
) -> tuple[bytes, bytes]:
    """(struct bootinfo, the kernel's path with its NUL, which lies behind it); ``low``: bytes of low memory."""
    ssym, esym = (
        int.from_bytes((kernel.find_metadata(type_) or b"")[:4], "little") for type_ in (MODINFOMD_SSYM, MODINFOMD_ESYM)
    )
    if ssym == 0 or esym == 0:
        ssym = esym = 0
    size = BOOTINFO.size if version == "current" else BOOTINFO_SIZE_13
    block = BOOTINFO.pack(
        BOOTINFO_VERSION,
        GUEST_BOOTINFO + size,
        0,  # nfs_diskless
        0,  # n_bios_used
        size,
        1,  # memsizes_valid
        BASE_MEMORY // 1024,
        ((low - EXTENDED_MEMORY) // 1024) & _U32,
        ssym,
        esym,
        placement.kernend,
        placement.envp,
        placement.modulep,
    ).ljust(size, b"\0")
    name = kernelname.encode("latin-1", "replace")
    return block, name[: GUEST_GDT - GUEST_BOOTINFO - size - 1] + b"\0"
