"""-S and -C: guest memory that stays in RAM while it is loaded, and that belongs into core dumps.

bhyveload(8) maps guest memory with MAP_NOCORE unless VM_MEM_F_INCORE is given, and wires it with VM_MEM_F_WIRED
(lib/libvmmapi/vmmapi.c).  Here memory is written through its descriptor and not mapped at all,
so it is in no core dump and not locked; these two options map it.  What bhyverun then does with them is in
handoff/qemu/command.py.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys

from bhyveload.errors import VmMemoryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# madvise(2): FreeBSD's name for it and Linux's
_NO_DUMP: int = getattr(mmap, "MADV_NOCORE", 0) or mmap.MADV_DONTDUMP
_COREDUMP_FILTER = "/proc/self/coredump_filter"
_MAPPED_SHARED = 1 << 3  # core(5): file-backed shared mappings


class ResidentMemory:
    """A mapping of what ``descriptors`` lead to, ``size`` bytes of guest memory, locked where ``wired``, in core dumps
    where ``incore``, until ``close`` or the end of ``with``.

    Raises VmMemoryError: the kernel does not map or lock that much.
    """

    __slots__ = ("_maps",)

    def __init__(self, descriptors: Sequence[int], size: int, *, wired: bool, incore: bool) -> None:
        try:
            self._maps = [mmap.mmap(fd, size) for fd in descriptors]
            if incore and sys.platform == "linux":  # FreeBSD's core dumps have them
                _dump_shared_mappings()
            for mapping in self._maps:
                if not incore:
                    mapping.madvise(_NO_DUMP)
                if wired:
                    _lock(mapping, size)
        except (OSError, OverflowError, ValueError) as error:
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            hint = "raise the limit on locked memory (ulimit -l), or leave -S away" if wired else ""
            raise VmMemoryError(f"vm_setup_memory: {reason} ({size} bytes)", hint) from None

    def close(self) -> None:
        for mapping in self._maps:
            mapping.close()

    def __enter__(self) -> ResidentMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lock(memory: mmap.mmap, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    anchor = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(anchor)
    del anchor  # it would keep the mapping from being closed
    if libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(size)):
        number = ctypes.get_errno()
        raise OSError(number or errno.ENOMEM, os.strerror(number or errno.ENOMEM))


def _dump_shared_mappings() -> None:
    """Memory that has a name in the file system is left out of core dumps unless the process asks for it."""
    with open(_COREDUMP_FILTER, "r+", encoding="ascii") as file:
        wanted = int(file.read(), 16) | _MAPPED_SHARED
        file.seek(0)
        file.write(f"{wanted:#x}")
