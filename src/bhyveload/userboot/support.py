"""What a userboot object leaves to its host: `time` and `memmem`, and a few string functions other builds may want.

bhyveload(8) satisfies them from its own C library (what nm -u shows of the object); these are ours.  A
wild pointer faults in the confined child, as it would in C.
"""

from __future__ import annotations

import ctypes
import time

_POINTER = ctypes.c_void_p
_SIZE = ctypes.c_size_t


def _time(result: int | None) -> int:
    now = int(time.time())
    if result:
        ctypes.c_int64.from_address(result).value = now
    return now


def _memmem(big: int | None, big_length: int, little: int | None, little_length: int) -> int | None:
    if little_length == 0:
        return big
    if not big or not little or little_length > big_length:
        return None
    at = ctypes.string_at(big, big_length).find(ctypes.string_at(little, little_length))
    return None if at < 0 else big + at


def _memcpy(destination: int, source: int, length: int) -> int:
    ctypes.memmove(destination, source, length)
    return destination


def _memset(destination: int, byte: int, length: int) -> int:
    ctypes.memset(destination, byte & 0xFF, length)
    return destination


def _memcmp(left: int, right: int, length: int) -> int:
    one, other = ctypes.string_at(left, length), ctypes.string_at(right, length)
    return (one > other) - (one < other)


def _strlen(text: int) -> int:
    return len(ctypes.string_at(text))


_FUNCTIONS = {
    "time": ctypes.CFUNCTYPE(ctypes.c_int64, _POINTER)(_time),
    "memmem": ctypes.CFUNCTYPE(_POINTER, _POINTER, _SIZE, _POINTER, _SIZE)(_memmem),
    "memcpy": ctypes.CFUNCTYPE(_POINTER, _POINTER, _POINTER, _SIZE)(_memcpy),
    "memmove": ctypes.CFUNCTYPE(_POINTER, _POINTER, _POINTER, _SIZE)(_memcpy),
    "memset": ctypes.CFUNCTYPE(_POINTER, _POINTER, ctypes.c_int, _SIZE)(_memset),
    "memcmp": ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, _POINTER, _SIZE)(_memcmp),
    "strlen": ctypes.CFUNCTYPE(_SIZE, _POINTER)(_strlen),
}


def supplied_address(name: str) -> int | None:
    """Absolute address of the function we supply under ``name``, None when we supply none."""
    function = _FUNCTIONS.get(name)
    return None if function is None else ctypes.cast(function, ctypes.c_void_p).value
