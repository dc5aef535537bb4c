"""System calls that Python's os has no function for, through the C library's syscall(2) and prctl(2).

``_ctypes`` instead of ``ctypes``: a fifth of its cost at start (docs/security.md).
"""

from __future__ import annotations

import _ctypes
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Long(_ctypes._SimpleCData):  # type: ignore[type-arg]  # takes none at run time
    _type_ = "l"


class Pointer(_ctypes._SimpleCData):  # type: ignore[type-arg]  # takes none at run time
    """The address of some bytes, as a number in the bytes of a structure."""

    _type_ = "z"


class _Byte(_ctypes._SimpleCData):  # type: ignore[type-arg]  # takes none at run time
    _type_ = "B"


class Capabilities(_ctypes.Array):  # type: ignore[type-arg]  # takes none at run time
    """What capget(2) fills in: two struct __user_cap_data_struct.  ``Capabilities.from_buffer(bytearray(24))``."""

    _type_ = _Byte
    _length_ = 24


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Long


_libc: Any = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # dlopen(3): the program itself
_syscall: Any = _Function(_ctypes.dlsym(_libc, "syscall"))
_prctl: Any = _Function(_ctypes.dlsym(_libc, "prctl")) if sys.platform == "linux" else None


def call(number: int, *arguments: Any) -> int:
    """The result of system call ``number``, -1 for an error (then ``_ctypes.get_errno``).

    An argument is an int, bytes (their address), a Capabilities, or None (a null pointer).
    """
    return int(_syscall(_Long(number), *[_Long(value) if isinstance(value, int) else value for value in arguments]))


def prctl(option: int, value: int) -> int:
    """Linux's prctl(2), whose number each architecture has its own; -1 for an error."""
    return int(_prctl(_Long(option), _Long(value), _Long(0), _Long(0), _Long(0)))


def checked(result: int) -> int:
    """``result`` of call().  Raises OSError where it is an error."""
    if result < 0:
        number = _ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
