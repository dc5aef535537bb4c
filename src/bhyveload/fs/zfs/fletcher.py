"""Fletcher-2 and Fletcher-4 (sys/cddl/boot/zfs/fletcher.c).

Fletcher-4 is the checksum of nearly every block of an ordinary pool.  On x86-64 it runs as 59 bytes of machine code
(3.9 GB/s; pure Python does 14 MB/s).  ``prepare`` maps them and must run before the process is confined: a page
that is executable cannot be had afterwards.  Everything else falls back to pure Python by itself.
"""

from __future__ import annotations

from itertools import accumulate
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Buffer = bytes | memoryview
    Words = tuple[int, int, int, int]

_MASK = (1 << 64) - 1
_PY_BUFFER_SIZE = 128  # its 80 bytes, and room
_SUMS = Struct("<4Q")

# xor eax,eax; xor r8d,r8d; xor r9d,r9d; xor r10d,r10d; lea rsi,[rdi+rsi*4]; cmp rdi,rsi; jae 2f
# 1: mov ecx,[rdi]; add rdi,4; add rax,rcx; add r8,rax; add r9,r8; add r10,r9; cmp rdi,rsi; jb 1b
# 2: mov [rdx],rax; mov [rdx+8],r8; mov [rdx+16],r9; mov [rdx+24],r10; ret
_FLETCHER_4_CODE = bytes.fromhex(
    "31c04531c04531c94531d2488d34b74839f773178b0f4883c7044801c84901c04d01c14d01ca4839"
    "f772e94889024c8942084c894a104c895218c3"
)

_HOSTS = (("Linux", "x86_64"), ("FreeBSD", "amd64"))  # uname(3) of those whose C has the ABI that the code is for

_native: Callable[[Buffer], Words] | None = None
_keep: list[object] = []


def prepare() -> bool:
    """Map the machine code; whether Fletcher-4 is fast from now on.  Call before confinement."""
    global _native
    if _native is not None:
        return True
    import os

    host = os.uname()
    if (host.sysname, host.machine) not in _HOSTS:
        return False
    try:
        _native = _map_native()
        return _native(b"\1\0\0\0\2\0\0\0") == (3, 4, 5, 6)
    except (ImportError, OSError, MemoryError, ValueError):
        _native = None
        return False


def _map_native() -> Callable[[Buffer], Words]:
    import _ctypes  # what ctypes is made of: a fourth of its cost at start
    import mmap

    class Character(_ctypes._SimpleCData):  # type: ignore[type-arg]  # takes none at run time
        _type_ = "c"

    class Number(_ctypes._SimpleCData):  # type: ignore[type-arg]  # takes none at run time
        _type_ = "i"

    class Size(_ctypes._SimpleCData):  # type: ignore[type-arg]  # takes none at run time
        _type_ = "L"

    class Protect(_ctypes.CFuncPtr):
        _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
        _restype_ = Number
        _argtypes_ = (Size, Size, Number)

    class Routine(_ctypes.CFuncPtr):
        _flags_ = _ctypes.FUNCFLAG_CDECL
        _restype_ = None
        _argtypes_ = (Size, Size, Size)

    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    page.write(_FLETCHER_4_CODE)
    address = _ctypes.addressof(Character.from_buffer(page))
    itself: Any = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # dlopen(3): the program itself
    protect: Any = Protect(_ctypes.dlsym(itself, "mprotect"))
    if protect(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC) != 0:
        raise OSError(_ctypes.get_errno(), "mprotect")
    routine: Any = Routine(address)
    sums = bytearray(_SUMS.size)
    sums_address = _ctypes.addressof(Character.from_buffer(sums))
    address_of = _buffer_address(_ctypes, itself, Number, Size)
    _keep.extend((page, sums))

    def fletcher_4(data: Buffer) -> Words:
        routine(address_of(data), len(data) // 4, sums_address)
        return _SUMS.unpack(sums)

    return fletcher_4


def _buffer_address(_ctypes: Any, itself: Any, number: Any, size: Any) -> Callable[[Buffer], int]:
    """The address of a buffer's bytes, also of a read-only one (a mapped image), by the buffer protocol: Py_buffer's
    first member."""

    class Object(_ctypes._SimpleCData):  # type: ignore[misc]  # imported where it is to be had
        _type_ = "O"

    class Character(_ctypes._SimpleCData):  # type: ignore[misc]  # imported where it is to be had
        _type_ = "c"

    class Get(_ctypes.CFuncPtr):  # type: ignore[misc]  # imported where it is to be had
        _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_PYTHONAPI
        _restype_ = number
        _argtypes_ = (Object, size, number)

    class Release(_ctypes.CFuncPtr):  # type: ignore[misc]  # imported where it is to be had
        _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_PYTHONAPI
        _restype_ = None
        _argtypes_ = (size,)

    get: Any = Get(_ctypes.dlsym(itself, "PyObject_GetBuffer"))
    release: Any = Release(_ctypes.dlsym(itself, "PyBuffer_Release"))
    view = bytearray(_PY_BUFFER_SIZE)
    view_address = _ctypes.addressof(Character.from_buffer(view))
    pointer = Struct("P")

    def address(data: Buffer) -> int:
        get(data, view_address, 0)
        found: int = pointer.unpack_from(view, 0)[0]
        release(view_address)  # the caller's reference keeps the bytes where they are
        return found

    return address


def fletcher_4_native(data: Buffer) -> Words:
    """The four sums over the buffer's 32-bit little-endian words (a length that is no multiple of 4 is cut)."""
    if _native is not None:
        return _native(data)
    return _fletcher_4_python(data, "I")


def _fletcher_4_python(data: Buffer, code: str) -> Words:
    words = Struct(f"<{len(data) // 4}{code}").unpack_from(data)
    if not words:
        return 0, 0, 0, 0
    first = list(accumulate(words))
    second = list(accumulate(first))
    third = list(accumulate(second))
    return first[-1] & _MASK, second[-1] & _MASK, third[-1] & _MASK, sum(third) & _MASK


def fletcher_4_byteswap(data: Buffer) -> Words:
    """The same over words of the other byte order."""
    count = len(data) // 4
    return fletcher_4_native(Struct(f"<{count}I").pack(*Struct(f">{count}I").unpack_from(data)))


def _fletcher_2(data: Buffer, order: str) -> Words:
    words = Struct(f"{order}{len(data) // 16 * 2}Q").unpack_from(data)
    if not words:
        return 0, 0, 0, 0
    even = list(accumulate(words[0::2]))
    odd = list(accumulate(words[1::2]))
    return even[-1] & _MASK, odd[-1] & _MASK, sum(even) & _MASK, sum(odd) & _MASK


def fletcher_2_native(data: Buffer) -> Words:
    """Two pairs of sums over 64-bit words taken in turns."""
    return _fletcher_2(data, "<")


def fletcher_2_byteswap(data: Buffer) -> Words:
    """The same over words of the other byte order."""
    return _fletcher_2(data, ">")
