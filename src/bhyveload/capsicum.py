"""FreeBSD's part of the box: capability mode, and for each descriptor the rights that a loader needs of it.

bhyveload(8) limits its directories and enters capability mode (usr.sbin/bhyveload/bhyveload.c, main).  Here the other
descriptors are limited as well, each to how it was opened; vmm(4)'s and /boot's are not among them: the child has none.
Sources: sys/sys/capsicum.h, capsicum_helpers.h (caph_cache_catpages), procctl(2), sysctl(3).  Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# cap_rights_t: one 64-bit word an index; the highest bits hold the version (0) and the index.
CAP_RIGHTS = struct.Struct("=QQ")
_INDEX = (1 << 57, 1 << 58)
CAP_READ, CAP_WRITE, CAP_SEEK = 0x1, 0x2, 0x4 | 0x8
CAP_PREAD = CAP_SEEK | CAP_READ
CAP_MMAP = 0x10  # with CAP_READ and CAP_WRITE to map that way; 0x20 in addition would be for execution
CAP_LOOKUP = 0x400
CAP_FSTAT = 0x80000
CAP_FSTATAT = CAP_FSTAT | CAP_LOOKUP
CAP_EVENT, CAP_IOCTL = 0x20, 0x80  # index 1

FOLDER = CAP_FSTATAT | CAP_LOOKUP | CAP_PREAD  # -h; what is opened beneath inherits them
FILE = CAP_FSTAT | CAP_SEEK | CAP_MMAP
FIONREAD = 0x4004667F  # whether a key waits (sys/sys/filio.h)
DIOCGSECTORSIZE, DIOCGMEDIASIZE = 0x40046480, 0x40086481  # sys/sys/disk.h
IOCTLS = (FIONREAD, DIOCGSECTORSIZE, DIOCGMEDIASIZE)
NL_CAT_LOCALE = 1
P_PID, PROC_PDEATHSIG_CTL = 0, 11
CTL_KERN, KERN_PROC, KERN_PROC_PID = 1, 14, 1  # sys/sys/sysctl.h
# struct kinfo_proc of amd64 (sys/sys/user.h): its size, which is its first member, and where two others are
KINFO_PROC_SIZE, KI_PID, KI_SIZE = 1088, 72, 256

_INT, _WORD = struct.Struct("=i"), struct.Struct("=Q")

_ACCESS = {os.O_RDONLY: CAP_READ, os.O_WRONLY: CAP_WRITE, os.O_RDWR: CAP_READ | CAP_WRITE}


def is_there(libc: Any = None) -> bool:
    """Whether this kernel has capability mode."""
    library: Any = libc or ctypes.CDLL(None, use_errno=True)
    return hasattr(library, "cap_getmode") and library.cap_getmode(ctypes.byref(ctypes.c_uint())) == 0


def confine(descriptors: Iterable[int] = (), folder: int = -1, libc: Any = None) -> None:
    """Limit ``descriptors`` and enter capability mode.  Raises OSError (ENOSYS: a kernel without Capsicum).

    ``folder``: the -h directory among them, or -1.  A descriptor keeps reading or writing, whichever it was opened for,
    and the few ioctls of IOCTLS: no truncating, no locking, no terminal settings, nothing executable.
    """
    library: Any = libc or ctypes.CDLL(None, use_errno=True)
    library.catopen.restype = ctypes.c_void_p
    library.catopen(b"libc", NL_CAT_LOCALE)  # strerror(3) would open the messages' file
    ioctls = struct.pack(f"={len(IOCTLS)}Q", *IOCTLS)
    for fd in sorted({*descriptors} - {folder}):
        access = _access(fd)
        if access is not None:
            rights = CAP_RIGHTS.pack(_INDEX[0] | FILE | access, _INDEX[1] | CAP_EVENT | CAP_IOCTL)
            _check(library.cap_rights_limit(fd, rights))
            _check(library.cap_ioctls_limit(fd, ioctls, ctypes.c_size_t(len(IOCTLS))))
    if folder >= 0:
        _check(library.cap_rights_limit(folder, CAP_RIGHTS.pack(_INDEX[0] | FOLDER, _INDEX[1])))
    _check(library.cap_enter())


def _access(fd: int) -> int | None:
    """CAP_READ, CAP_WRITE or both; None where nothing is open."""
    try:
        return _ACCESS[fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE]
    except OSError as error:
        if error.errno == errno.EBADF:
            return None
        raise


def end_with_parent(signal: int, libc: Any = None) -> None:
    """Have the kernel send ``signal`` to this process when its parent ends."""
    library: Any = libc or ctypes.CDLL(None, use_errno=True)
    number = ctypes.byref(ctypes.c_int(signal))
    library.procctl(P_PID, ctypes.c_int64(0), PROC_PDEATHSIG_CTL, number)  # nothing else depends on it


def address_space(libc: Any = None) -> int:
    """Bytes that this process has mapped, as RLIMIT_AS counts them (vm_map.size); 0 where the kernel does not say."""
    library: Any = libc or ctypes.CDLL(None, use_errno=True)
    own = os.getpid()
    name = (ctypes.c_int * 4)(CTL_KERN, KERN_PROC, KERN_PROC_PID, own)
    data = ctypes.create_string_buffer(KINFO_PROC_SIZE)
    size = ctypes.c_size_t(KINFO_PROC_SIZE)
    if library.sysctl(name, 4, data, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return 0
    (filled,), (pid,) = _INT.unpack_from(data, 0), _INT.unpack_from(data, KI_PID)
    if (size.value, filled, pid) != (KINFO_PROC_SIZE, KINFO_PROC_SIZE, own):
        return 0  # another structure than ours
    return int(_WORD.unpack_from(data, KI_SIZE)[0])


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
