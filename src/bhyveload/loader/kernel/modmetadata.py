"""What a kernel or module says about itself: its set of struct mod_metadata records (sys/sys/module.h).

Sources: parse_modmetadata in stand/common/load_elf.c and load_elf_obj.c.
"""

from __future__ import annotations

from bhyveload.boot_formats.elf_format import MDT_DEPEND, MDT_MODULE, MDT_PNP_INFO, MDT_VERSION
from bhyveload.boot_formats.modinfo_format import MOD_DEPEND, MODINFOMD_DEPLIST
from bhyveload.errors import KernelError
from bhyveload.freebsd_errno import EIO
from bhyveload.loader.kernel.guest import GuestReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bhyveload.boot_formats.elf_format import ElfClass
    from bhyveload.host.interface import GuestCopy
    from bhyveload.loader.kernel.preloaded import PreloadedFile

    Relocate = Callable[[bytearray, int], None]

_MAX_RECORDS = 16384  # FreeBSD's GENERIC has some 3000
_VERSION_SIZE = 4


class ModuleSet:
    """A modmetadata set at [start, stop) of guest memory.

    Its pointers are moved by ``offset``, or become what ``relocate`` makes of a copy of the memory at an address, where
    that is given.  ``dependencies`` is False for a kernel, which must not have any; ``say`` is told of unknown types,
    as the handler of objects tells the user.
    """

    def __init__(
        self,
        guest: GuestCopy,
        elf: ElfClass,
        start: int,
        stop: int,
        offset: int = 0,
        relocate: Relocate | None = None,
        dependencies: bool = True,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.memory = GuestReader(guest)
        self.elf = elf
        self.start = start
        self.stop = stop
        self.offset = offset
        self.relocate = relocate
        self.dependencies = dependencies
        self.say = say

    def read(self, file: PreloadedFile) -> int:
        """Note modules and dependencies in ``file``; how many VERSION records there were.  Raises KernelError."""
        count = (self.stop - self.start + self.elf.word - 1) // self.elf.word
        if count > _MAX_RECORDS:
            raise KernelError(EIO, f"{file.name}: {count} module metadata records")
        versions = 0
        for kind, data, name in self._moved(count) if self.relocate is None else self._relocated(count, self.relocate):
            if kind == MDT_VERSION:
                self._version(file, data, name)
                versions += 1
            elif kind == MDT_DEPEND:
                if self.dependencies:
                    self._depend(file, data, name)
            elif self.say is not None and kind not in (MDT_MODULE, MDT_PNP_INFO):
                self.say(f"unknown type {kind}\n")
        return versions

    def _moved(self, count: int) -> Iterator[tuple[int, int, int]]:
        """md_type, md_data and md_cval of each record, moved by ``offset``: a kernel has thousands."""
        word, layout, offset = self.elf.word, self.elf.metadata, self.offset
        unpack = self.memory.unpack
        pointers = memoryview(self.memory.read(self.start, max(0, count) * word)).cast("Q" if word == 8 else "I")
        first = min(pointers, default=0)
        block = self.memory.block(first + offset, max(pointers, default=0) - first + layout.size)
        if block is not None:  # the linker lays all records into one section
            unpack_from = layout.unpack_from
            for pointer in pointers:
                _, kind, data, name = unpack_from(block, pointer - first)
                yield kind, data + offset, name + offset
            return
        for pointer in pointers:
            _, kind, data, name = unpack(layout, pointer + offset)
            yield kind, data + offset, name + offset

    def _relocated(self, count: int, relocate: Relocate) -> Iterator[tuple[int, int, int]]:
        """The same, with relocations applied to copies of the memory."""
        word, layout = self.elf.word, self.elf.metadata
        for number in range(count):
            address = self.start + number * word
            pointer = bytearray(self.memory.read(address, word))
            relocate(pointer, address)
            where = int.from_bytes(pointer, "little")
            record = bytearray(self.memory.read(where, layout.size))
            relocate(record, where)
            _, kind, data, name = layout.unpack(record)
            yield kind, data, name

    def _version(self, file: PreloadedFile, data: int, name: int) -> None:
        text = self.memory.string(name).decode("latin-1")
        file.add_module(text, int.from_bytes(self.memory.read(data, _VERSION_SIZE), "little", signed=True))

    def _depend(self, file: PreloadedFile, data: int, name: int) -> None:
        text = self.memory.string(name)
        file.add_metadata(MODINFOMD_DEPLIST, self.memory.read(data, MOD_DEPEND.size) + text + b"\0")


def fake_module_name(path: str) -> str:
    """fake_modname: the module that a file without VERSION records stands for."""
    name = path.rpartition("/")[2]
    stem, dot, _ = name.rpartition(".")
    return (stem if dot else name) or "bad"
