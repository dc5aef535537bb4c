"""Relocating the few words of module metadata that the loader itself must read (stand/common/reloc_elf.c).

Nothing in guest memory changes: the kernel's linker relocates the module later.
"""

from __future__ import annotations

from bisect import bisect_left
from struct import unpack_from

from bhyveload.boot_formats.elf_format import R_X86_64_64, R_X86_64_IRELATIVE, R_X86_64_RELATIVE
from bhyveload.errors import KernelError
from bhyveload.freebsd_errno import EFTYPE, EIO
from bhyveload.loader.kernel.guest import MIB, WORD_MASK, copyout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.host.interface import GuestCopy

    SymbolAddress = Callable[[int], int]

ESRCH = 3
_MAX_TABLE = 8 * MIB
_WORD = 8


class Relocations:
    """An amd64 REL or RELA table in guest memory at ``address``, for data whose r_offset 0 is at ``base``.
    ``say``: where complaints go.

    Raises KernelError(EIO) when the table is larger than any real one.
    """

    def __init__(
        self, guest: GuestCopy, say: Callable[[str], None], address: int, size: int, base: int, has_addend: bool
    ) -> None:
        if size > _MAX_TABLE:
            raise KernelError(EIO, f"a relocation table of {size // MIB} MiB")
        self.base = base
        self._say = say
        self._words = 3 if has_addend else 2
        entry = self._words * _WORD
        self.count = size // entry
        self._table = copyout(guest, address, self.count * entry)
        self._offsets = memoryview(self._table).cast("Q")[:: self._words].tolist() if self.count else []
        self._order: list[int] | None = None  # numbers of the entries by offset, unless that is the table's own order
        ordered = sorted(self._offsets)
        if ordered != self._offsets:
            self._order = sorted(range(self.count), key=self._offsets.__getitem__)
            self._offsets = ordered

    def apply(self, value: bytearray, address: int, symbol_address: SymbolAddress) -> None:
        """Relocate ``value``, a copy of the memory at ``address``.

        Raises KernelError: ESRCH (symbol not found), EFTYPE (a relocation that is not understood).
        """
        first = (address - self.base) & WORD_MASK
        for place in range(bisect_left(self._offsets, first), self.count):
            at = self._offsets[place] - first
            if at + _WORD > len(value):
                break
            self._apply_one(value, at, place if self._order is None else self._order[place], symbol_address)

    def _apply_one(self, value: bytearray, at: int, number: int, symbol_address: SymbolAddress) -> None:
        entry = number * self._words * _WORD
        if self._words == 3:
            info, addend = unpack_from("<QQ", self._table, entry + _WORD)
        else:
            (info,) = unpack_from("<Q", self._table, entry + _WORD)
            (addend,) = unpack_from("<Q", value, at)
        kind = info & 0xFFFFFFFF
        if kind == R_X86_64_64:
            target = symbol_address(info >> 32)
            if target == 0:
                raise KernelError(ESRCH, "module metadata refers to a symbol that is not in the module")
        elif kind == R_X86_64_RELATIVE:
            target = self.base
        elif kind == R_X86_64_IRELATIVE:
            return
        else:
            self._say(f"\nunhandled relocation type {kind}\n")
            raise KernelError(EFTYPE, f"module metadata needs a relocation of type {kind}")
        value[at : at + _WORD] = ((target + addend) & WORD_MASK).to_bytes(_WORD, "little")
