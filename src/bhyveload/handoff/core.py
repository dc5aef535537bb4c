"""An ELF core of guest memory as the loader left it, for debuggers: one segment for low memory, one for high memory.

Debuggers of kernels go by the physical addresses (lib/libkvm/kvm_amd64.c:_amd64_initvtop).
"""

from __future__ import annotations

import errno
import os
import struct

from bhyveload.errors import HostError
from bhyveload.vm.memory import VM_HIGHMEM_BASE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from bhyveload.vm.memory import GuestMemory

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_IDENT = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
_ET_CORE, _EM_X86_64, _PT_LOAD, _PF_RWX = 4, 62, 1, 7
_PAGE = 4096
_STEP = 1 << 20


def new_file(path: str) -> int:
    """A descriptor of the new file ``path``, the user's alone.  Raises HostError: there is one, ..."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HostError(f"--dump {path}: {error.strerror}") from None


def written_file(path: str) -> int:
    """A descriptor of the core that is at ``path`` already.  Raises HostError."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise HostError(f"--dump {path}: {error.strerror}") from None


def write_core(fd: int, memory: GuestMemory, path: str) -> None:
    """Into ``fd``, the file ``path``.  Holes of the memory file stay holes.  Raises HostError."""
    parts = [(0, memory.low, 0)] + ([(VM_HIGHMEM_BASE, memory.high, memory.low)] if memory.high else [])
    header = _HEADER.pack(
        *(_IDENT, _ET_CORE, _EM_X86_64, 1, 0, _HEADER.size, 0, 0, _HEADER.size, _SEGMENT.size, len(parts), 0, 0, 0)
    )
    for address, size, offset in parts:
        header += _SEGMENT.pack(_PT_LOAD, _PF_RWX, _PAGE + offset, address, address, size, size, _PAGE)
    try:
        os.pwrite(fd, header, 0)
        os.ftruncate(fd, _PAGE + memory.low + memory.high)
        for start, end in _filled(memory.fd, memory.low + memory.high):
            for at in range(start, end, _STEP):
                data = os.pread(memory.fd, min(_STEP, end - at), at)
                if os.pwrite(fd, data, _PAGE + at) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise HostError(f"--dump {path}: {error.strerror}") from None


def _filled(fd: int, size: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            raise
        at = min(size, os.lseek(fd, start, os.SEEK_HOLE))
        yield start, at
