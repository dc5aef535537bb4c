"""FreeBSD's capability mode for the confined child, with the rights that bhyveload(8) gives its descriptors.

Sources: usr.sbin/bhyveload/bhyveload.c, sys/sys/capsicum.h.  Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# cap_rights_t: one 64-bit word an index; the highest bits hold the version (0) and the index.
CAP_RIGHTS = struct.Struct("=QQ")
_INDEX = (1 << 57, 1 << 58)
CAP_READ, CAP_SEEK = 0x1, 0x4 | 0x8
CAP_PREAD = CAP_SEEK | CAP_READ
CAP_MMAP_RX = 0x10 | CAP_SEEK | CAP_READ | 0x20
CAP_LOOKUP = 0x400
CAP_FSTATAT = 0x80000 | CAP_LOOKUP

FOLDER = CAP_FSTATAT | CAP_LOOKUP | CAP_PREAD  # -h; what is opened beneath inherits them
BOOT = FOLDER | CAP_MMAP_RX  # /boot, where loaders are looked for without -l


def confine(folder: int = -1, boot: int = -1, libc: Any = None) -> None:
    """Limit the folders' rights and enter capability mode.  Raises OSError (ENOSYS: a kernel without Capsicum).

    ``folder``: the -h directory; ``boot``: /boot; -1: there is none.  The other descriptors keep all their rights.
    """
    library: Any = libc or ctypes.CDLL(None, use_errno=True)
    for fd, rights in ((folder, FOLDER), (boot, BOOT)):
        if fd >= 0:
            _check(library.cap_rights_limit(fd, CAP_RIGHTS.pack(_INDEX[0] | rights, _INDEX[1])))
    _check(library.cap_enter())


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
