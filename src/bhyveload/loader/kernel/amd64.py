"""Starting a 64-bit kernel: stack, page tables, descriptor table, registers.

Source: stand/userboot/userboot/elf64_freebsd.c (elf64_exec).
"""

from __future__ import annotations

from struct import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from bhyveload.host.callbacks import LoaderCallbacks
    from bhyveload.loader.kernel.metadata import Placement

STACK, PML4, PDPT, PD, GDT = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000
PAGE_SIZE = 4096
PG_V, PG_RW, PG_PS = 0x1, 0x2, 0x80
_ENTRIES = 512
_LARGE_PAGE = 2 << 20
MSR_EFER = 0xC0000080
EFER_LME, EFER_LMA = 0x100, 0x400
CR0_PE, CR0_NE, CR0_PG = 0x1, 0x20, 0x80000000
CR4_PAE, CR4_VMXE = 0x20, 0x2000
RSP = 4
_CODE_SEGMENT = 0x0020980000000000  # present, long mode, execute only
_DATA_SEGMENT = 0x0000900000000000  # present, read only


def page_tables() -> bytes:
    """PML4, PDPT and PD, one page each: every GiB of the address space is the first GiB of memory."""
    top = pack("<Q", PDPT | PG_V | PG_RW) * _ENTRIES
    middle = pack("<Q", PD | PG_V | PG_RW) * _ENTRIES
    pages = pack(f"<{_ENTRIES}Q", *range(PG_V | PG_RW | PG_PS, _ENTRIES * _LARGE_PAGE, _LARGE_PAGE))
    return top + middle + pages


def exec_kernel(host: LoaderCallbacks, entry: int, placement: Placement) -> NoReturn:
    """elf64_exec: leaves with GuestReady at ``entry``."""
    host.copyin(pack("<III", 0, placement.modulep, placement.kernend).ljust(PAGE_SIZE, b"\0"), STACK)
    tables = memoryview(page_tables())
    for number, address in enumerate((PML4, PDPT, PD)):
        host.copyin(tables[number * PAGE_SIZE : (number + 1) * PAGE_SIZE], address)
    host.setreg(RSP, STACK)
    host.setmsr(MSR_EFER, EFER_LMA | EFER_LME)
    host.setcr(4, CR4_PAE | CR4_VMXE)
    host.setcr(3, PML4)
    host.setcr(0, CR0_PG | CR0_PE | CR0_NE)
    gdt = pack("<QQQ", 0, _CODE_SEGMENT, _DATA_SEGMENT)
    host.copyin(gdt, GDT)
    host.setgdt(GDT, len(gdt))
    host.exec(entry)
