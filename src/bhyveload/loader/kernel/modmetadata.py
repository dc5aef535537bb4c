"""What a kernel or module says about itself: its set of struct mod_metadata records (sys/sys/module.h).

Sources: parse_modmetadata in stand/common/load_elf.c and load_elf_obj.c; spec/kernel-loading.md 3, "Module metadata
records".
"""

from __future__ import annotations

from bhyveload.errors import KernelError
from bhyveload.freebsd_errno import EIO
from bhyveload.loader.kernel.elf_format import MDT_DEPEND, MDT_MODULE, MDT_PNP_INFO, MDT_VERSION
from bhyveload.loader.kernel.guest import WORD_MASK, copyout, string
from bhyveload.loader.kernel.metadata_format import MOD_DEPEND, MODINFOMD_DEPLIST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.kernel.elf_format import ElfClass
    from bhyveload.loader.kernel.metadata import PreloadedFile
    from bhyveload.loader.state import Loader

    # (value, its address, indices of the words in it that are pointers): the value as the kernel will see it
    Relocate = Callable[[bytearray, int], None]

_MAX_RECORDS = 16384
_VERSION_SIZE = 4


class ModuleSet:
    """A modmetadata set at [start, stop) of guest memory.

    ``relocate`` changes a copy of guest memory as its relocations say; ``dependencies`` is False for a kernel, which
    must not have any; ``report_unknown`` says unknown types on the console, as the handler of objects does.
    """

    def __init__(
        self,
        loader: Loader,
        elf: ElfClass,
        start: int,
        stop: int,
        relocate: Relocate,
        dependencies: bool = True,
        report_unknown: bool = False,
    ) -> None:
        self.loader = loader
        self.elf = elf
        self.start = start
        self.stop = stop
        self.relocate = relocate
        self.dependencies = dependencies
        self.report_unknown = report_unknown

    def read(self, file: PreloadedFile) -> int:
        """Note modules and dependencies in ``file``; how many VERSION records there were.  Raises KernelError."""
        word = self.elf.word
        if self.stop - self.start > _MAX_RECORDS * word:
            raise KernelError(EIO, f"{file.name}: {(self.stop - self.start) // word} module metadata records")
        versions = 0
        for at in range(self.start, self.stop, word):
            pointer = self._relocated(at & WORD_MASK, word)
            record = self._relocated(int.from_bytes(pointer, "little"), self.elf.metadata.size)
            _, kind, data, name = self.elf.metadata.unpack(record)
            if kind == MDT_VERSION:
                self._version(file, data, name)
                versions += 1
            elif kind == MDT_DEPEND:
                if self.dependencies:
                    self._depend(file, data, name)
            elif self.report_unknown and kind not in (MDT_MODULE, MDT_PNP_INFO):
                self.loader.print(f"unknown type {kind}\n")
        return versions

    def _relocated(self, address: int, size: int) -> bytearray:
        value = bytearray(copyout(self.loader, address, size))
        self.relocate(value, address)
        return value

    def _version(self, file: PreloadedFile, data: int, name: int) -> None:
        text = string(self.loader, name).decode("latin-1")
        file.add_module(text, int.from_bytes(copyout(self.loader, data, _VERSION_SIZE), "little", signed=True))

    def _depend(self, file: PreloadedFile, data: int, name: int) -> None:
        text = string(self.loader, name)
        file.add_metadata(MODINFOMD_DEPLIST, copyout(self.loader, data, MOD_DEPEND.size) + text + b"\0")


def fake_module_name(path: str) -> str:
    """fake_modname: the module that a file without VERSION records stands for."""
    name = path.rpartition("/")[2]
    stem, dot, _ = name.rpartition(".")
    return (stem if dot else name) or "bad"
