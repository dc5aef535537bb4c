"""Module information for the kernel (sys/sys/linker.h, sys/x86/include/metadata.h, sys/amd64/include/pc/bios.h)."""

from __future__ import annotations

from struct import Struct

MODINFO_END, MODINFO_NAME, MODINFO_TYPE, MODINFO_ADDR, MODINFO_SIZE = 0, 1, 2, 3, 4
MODINFO_EMPTY, MODINFO_ARGS = 5, 6
MODINFO_METADATA = 0x8000

MODINFOMD_AOUTEXEC = 0x0001
MODINFOMD_ELFHDR = 0x0002
MODINFOMD_SSYM = 0x0003
MODINFOMD_ESYM = 0x0004
MODINFOMD_DYNAMIC = 0x0005
MODINFOMD_ENVP = 0x0006
MODINFOMD_HOWTO = 0x0007
MODINFOMD_KERNEND = 0x0008
MODINFOMD_SHDR = 0x0009
MODINFOMD_CTORS_ADDR = 0x000A
MODINFOMD_CTORS_SIZE = 0x000B
MODINFOMD_FW_HANDLE = 0x000C
MODINFOMD_KEYBUF = 0x000D
MODINFOMD_FONT = 0x000E
MODINFOMD_SPLASH = 0x000F
MODINFOMD_SHTDWNSPLASH = 0x0010
MODINFOMD_SMAP = 0x1001
MODINFOMD_NOCOPY = 0x8000
MODINFOMD_DEPLIST = 0x4001 | MODINFOMD_NOCOPY

RECORD = Struct("<II")  # type, size
U32 = Struct("<I")
U64 = Struct("<Q")
SMAP_ENTRY = Struct("<QQI")  # base, length, type
SMAP_TYPE_MEMORY = 1
BASE_MEMORY = 0xA0000
EXTENDED_MEMORY = 0x100000
HIGH_MEMORY = 1 << 32
MOD_DEPEND = Struct("<iii")  # minimum, preferred, maximum

# struct bootinfo (sys/i386/include/bootinfo.h) up to bi_modulep: version, kernelname, nfs_diskless, n_bios_used,
# bios_geom[8], size, memsizes_valid, bios_dev, pad[2], basemem, extmem, symtab, esymtab, kernend, envp, modulep
BOOTINFO = Struct("<4I32xIB3x7I")
BOOTINFO_VERSION = 1
BI_BASEMEM, BI_EXTMEM = 56, 60  # offsets, in KiB
BOOTINFO_SIZE_13 = 136  # FreeBSD 13.2's has EFI fields behind bi_modulep, all zero
RB_BOOTINFO = 0x80000000

# struct keybuf (stand/libsa/geli/geliboot.h): u32 number of keys, 64 keys of 516 bytes
KEYBUF_ENTRY = 4 + 512
KEYBUF_SIZE = 4 + 64 * KEYBUF_ENTRY

KERNEL_TYPE = "elf kernel"
MODULE_TYPE = "elf module"
OBJECT_TYPE = "elf obj module"
