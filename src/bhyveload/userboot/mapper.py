"""Map a FreeBSD userboot object into this process, without the host's dlopen(3).

The host's own loader refuses the object (EI_OSABI 9) and would bind its symbols to the host's C library; this mapper
binds only inside the object, apart from the few functions of support.py.  Source: rtld(1), System V ABI.
Nothing of the object runs here: initialisers and loader_main are the caller's (run.py).
"""

from __future__ import annotations

import ctypes
import mmap

from bhyveload.boot_formats import elf_format as elf
from bhyveload.errors import HostError
from bhyveload.userboot.dynamic import Dynamic
from bhyveload.userboot.headers import PAGE_SIZE, Headers, page_ceil, page_floor, parse_headers, refuse
from bhyveload.userboot.support import supplied_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_munmap = _libc.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_mprotect = _libc.mprotect
_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_MAP_FAILED = ctypes.c_void_p(-1).value
_PROT_NONE = 0

ENTRY = "loader_main"


class MappedObject:
    """A relocated object in memory.

    ``address`` .. ``address + span`` is what it occupies; ``base`` is added to an object address; ``image`` is a view
    of the whole span, as writable as the pages behind it are; ``entry`` and ``initialisers`` are absolute addresses.
    """

    __slots__ = ("_dynamic", "_headers", "address", "base", "entry", "image", "initialisers", "relocations", "span")

    def __init__(
        self,
        address: int,
        span: int,
        image: memoryview,
        headers: Headers,
        dynamic: Dynamic,
        entry: int,
        initialisers: list[int],
        count: int,
    ) -> None:
        self.address = address
        self.span = span
        self.image = image
        self.base = dynamic.base
        self.entry = entry
        self.initialisers = initialisers
        self.relocations = count
        self._dynamic = dynamic
        self._headers = headers

    def lookup(self, name: str) -> int | None:
        """Absolute address of an exported symbol, None when there is none."""
        value = self._dynamic.lookup(name)
        return None if value is None else self.base + value

    def executable(self, address: int) -> bool:
        """Whether the absolute ``address`` is program text of the object."""
        return self._headers.executable(address - self.base)


def map_object(
    data: bytes | memoryview,
    supplied: Callable[[str], int | None] = supplied_address,
    missing: Callable[[str], int] | None = None,
) -> MappedObject:
    """Map, relocate and protect the userboot object whose file is ``data``.

    ``supplied`` and ``missing``: what symbols stand for that the object leaves undefined (Dynamic.relocate).
    Raises KernelError(ENOEXEC) for whatever the file has wrong, HostError when the host has no memory for it.
    """
    view = memoryview(data).cast("B")
    headers = parse_headers(view)
    address = _reserve(headers.span, headers.align)
    try:
        image = memoryview((ctypes.c_char * headers.span).from_address(address)).cast("B")
        lowest = headers.lowest
        for segment in headers.segments:
            at = segment.start - lowest
            image[at : at + segment.filesz] = view[segment.offset : segment.offset + segment.filesz]
        dynamic = Dynamic(headers, image, address - lowest)
        count = dynamic.relocate(supplied, missing)
        initialisers = dynamic.initialisers()
        entry = dynamic.lookup(ENTRY)
        if entry is None:
            refuse(f"it does not define {ENTRY}")
        if not headers.executable(entry):
            refuse(f"its {ENTRY} at {entry:#x} is no program text")
        _protect(headers, address)
    except BaseException:
        _munmap(address, headers.span)
        raise
    return MappedObject(address, headers.span, image, headers, dynamic, dynamic.base + entry, initialisers, count)


def _reserve(span: int, align: int) -> int:
    """Address of ``span`` fresh zero bytes, readable and writable, aligned to ``align``."""
    size = span + align - PAGE_SIZE
    start = _mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if start is None or start == _MAP_FAILED:
        raise HostError(
            f"loader object: no memory for {span >> 20} MiB", "raise the limit on address space (ulimit -v)"
        )
    address: int = (start + align - 1) & -align
    if address > start:
        _munmap(start, address - start)
    if start + size > address + span:
        _munmap(address + span, start + size - address - span)
    return address


def _protect(headers: Headers, address: int) -> None:
    """Final protections: what each segment asks for, nothing in the gaps, RELRO read-only."""
    lowest = headers.lowest
    covered = lowest
    for segment in headers.segments:
        start, end = page_floor(segment.start), page_ceil(segment.end)
        if start > covered:
            _set(address + covered - lowest, start - covered, _PROT_NONE)
        protection = mmap.PROT_READ
        if segment.flags & elf.PF_W:
            protection |= mmap.PROT_WRITE
        if segment.flags & elf.PF_X:
            protection |= mmap.PROT_EXEC
        _set(address + start - lowest, end - start, protection)
        covered = end
    start, end = page_floor(headers.relro[0]), page_floor(headers.relro[1])
    if end > start:
        _set(address + start - lowest, end - start, mmap.PROT_READ)


def _set(address: int, length: int, protection: int) -> None:
    if _mprotect(address, length, protection) != 0:
        raise HostError("loader object: the host refuses to protect its memory", "does a security module forbid it?")
