"""The userboot interface as C sees it: struct loader_callbacks, FreeBSD's struct stat, for ctypes.

Source: stand/userboot/userboot.h, sys/sys/stat.h (ino64).  tests/guest/offsets.c compiles the
same tables and tests/userboot/test_abi.py compares.
"""

from __future__ import annotations

import ctypes

from bhyveload.host.callbacks import USERBOOT_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OLD_VERSION = 3  # all that FreeBSD 10's objects accept
LIBSA_NAME_MAX = 255  # libsa's dirent.d_name has 256 bytes, whatever userboot.h says of PATH_MAX

_int = ctypes.c_int
_uint = ctypes.c_uint
_u64 = ctypes.c_uint64
_off_t = ctypes.c_int64  # uint64_t in the table, used as an off_t by the host
_ptr = ctypes.c_void_p
_size = ctypes.c_size_t
_resid = ctypes.POINTER(ctypes.c_size_t)
_u64_out = ctypes.POINTER(ctypes.c_uint64)
_string = ctypes.c_char_p

# (member, version that added it, result, parameters after `void *arg`), in the order of the table
SIGNATURES: tuple[tuple[str, int, Any, tuple[Any, ...]], ...] = (
    ("getc", 1, _int, ()),
    ("putc", 1, None, (_int,)),
    ("poll", 1, _int, ()),
    ("open", 1, _int, (_string, ctypes.POINTER(_ptr))),
    ("close", 1, _int, (_ptr,)),
    ("isdir", 1, _int, (_ptr,)),
    ("read", 1, _int, (_ptr, _ptr, _size, _resid)),
    ("readdir", 1, _int, (_ptr, ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_uint8), _resid, _ptr)),
    ("seek", 1, _int, (_ptr, _off_t, _int)),
    ("stat", 1, _int, (_ptr, _ptr, _ptr, _ptr, _ptr)),  # struct stat *; before 2018 mode, uid, gid and size
    ("diskread", 1, _int, (_int, _off_t, _ptr, _size, _resid)),
    ("diskwrite", 1, _int, (_int, _off_t, _ptr, _size, _resid)),
    ("copyin", 1, _int, (_ptr, _u64, _size)),
    ("copyout", 1, _int, (_u64, _ptr, _size)),
    ("setreg", 1, None, (_int, _u64)),
    ("setmsr", 1, None, (_int, _u64)),
    ("setcr", 1, None, (_int, _u64)),
    ("setgdt", 1, None, (_u64, _size)),
    ("exec", 1, None, (_u64,)),
    ("delay", 1, None, (_int,)),
    ("exit", 1, None, (_int,)),
    ("getmem", 1, None, (_u64_out, _u64_out)),
    ("diskioctl", 2, _int, (_int, ctypes.c_ulong, _ptr)),
    ("getenv", 3, _ptr, (_int,)),
    ("vm_set_register", 4, _int, (_int, _int, _u64)),
    ("vm_set_desc", 4, _int, (_int, _int, _u64, _uint, _uint)),
    ("swap_interpreter", 5, None, (_string,)),
)

PROTOTYPES: dict[str, Any] = {
    name: ctypes.CFUNCTYPE(result, _ptr, *parameters) for name, _, result, parameters in SIGNATURES
}

# Entered with the interpreter lock held (PYFUNCTYPE): there is one thread, and callbacks need not fetch the lock then.
LOADER_MAIN: Any = ctypes.PYFUNCTYPE(None, _ptr, _ptr, _int, _int)
INITIALISER: Any = ctypes.PYFUNCTYPE(None)


class LoaderCallbackTable(ctypes.Structure):
    """struct loader_callbacks, LP64: 27 pointers."""

    _fields_ = [(name, PROTOTYPES[name]) for name, *_ in SIGNATURES]


class OldLoaderCallbackTable(ctypes.Structure):
    """The table of FreeBSD 10 and 11, without diskwrite (vintage.py)."""

    _fields_ = [(name, PROTOTYPES[name]) for name, *_ in SIGNATURES if name != "diskwrite"]


def callback_offset(name: str, table: type[ctypes.Structure] = LoaderCallbackTable) -> int:
    """Offset of the member ``name`` in bytes."""
    offset: int = getattr(table, name).offset
    return offset


class Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_int64), ("tv_nsec", ctypes.c_int64)]


class FreeBSDStat(ctypes.Structure):
    """struct stat of FreeBSD 12 and later on amd64: 224 bytes."""

    _fields_ = [
        ("st_dev", ctypes.c_uint64),
        ("st_ino", ctypes.c_uint64),
        ("st_nlink", ctypes.c_uint64),
        ("st_mode", ctypes.c_uint16),
        ("st_bsdflags", ctypes.c_int16),
        ("st_uid", ctypes.c_uint32),
        ("st_gid", ctypes.c_uint32),
        ("st_padding1", ctypes.c_int32),
        ("st_rdev", ctypes.c_uint64),
        ("st_atim", Timespec),
        ("st_mtim", Timespec),
        ("st_ctim", Timespec),
        ("st_birthtim", Timespec),
        ("st_size", ctypes.c_int64),
        ("st_blocks", ctypes.c_int64),
        ("st_blksize", ctypes.c_int32),
        ("st_flags", ctypes.c_uint32),
        ("st_gen", ctypes.c_uint64),
        ("st_filerev", ctypes.c_uint64),
        ("st_spare", ctypes.c_uint64 * 9),
    ]


def callback_table(
    functions: dict[str, Any], version: int, old: bool = False
) -> tuple[LoaderCallbackTable | OldLoaderCallbackTable, list[Any]]:
    """The table with a C entry point per function, and the entry points (keep both alive while C may call).

    Members that ``version`` of the interface does not know are NULL; ``old``: the table without diskwrite.
    """
    if not 1 <= version <= USERBOOT_VERSION:
        raise ValueError(f"userboot interface version {version}")
    table = OldLoaderCallbackTable if old else LoaderCallbackTable
    known = {field[0] for field in table._fields_}
    entries = {
        name: PROTOTYPES[name](functions[name]) for name, since, *_ in SIGNATURES if since <= version and name in known
    }
    return table(**entries), list(entries.values())
