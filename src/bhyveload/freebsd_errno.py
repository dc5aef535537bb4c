"""FreeBSD's errno numbers and libsa's texts for them.

Sources: sys/sys/errno.h, stand/libsa/stand.h (98-105), stand/libsa/strerror.c (docs/errata.md,
"strerror").  Numbers above 34 differ from Linux's, so ``from_host`` translates what the host's kernel says.
"""

from __future__ import annotations

import errno as _host
import sys

EPERM = 1
ENOENT = 2
EIO = 5
ENXIO = 6
ENOEXEC = 8
EBADF = 9
ENOMEM = 12
EACCES = 13
EFAULT = 14
EBUSY = 16
EEXIST = 17
ENODEV = 19
ENOTDIR = 20
EISDIR = 21
EINVAL = 22
EMFILE = 24
ENOTTY = 25
EFBIG = 27
ENOSPC = 28
ESPIPE = 29
EROFS = 30
EMLINK = 31
ERANGE = 34
EAGAIN = 35
EOPNOTSUPP = 45
ETIMEDOUT = 60
ELOOP = 62
ENAMETOOLONG = 63
ENOTEMPTY = 66
ESTALE = 70
EBADRPC = 72
ENOSYS = 78
EFTYPE = 79
EAUTH = 80
EILSEQ = 86
ENOTCAPABLE = 93
ECAPMODE = 94
EINTEGRITY = 97
# libsa's own (stand.h)
EADAPT = 98
ECTLR = 99
EUNIT = 100
ESLICE = 101
EPART = 102
ERDLAB = 103
EUNLAB = 104
EOFFSET = 105

_TEXTS = {
    0: "no error",
    EPERM: "operation not permitted",
    ENOENT: "no such file or directory",
    EIO: "input/output error",
    ENXIO: "device not configured",
    ENOEXEC: "exec format error",
    EBADF: "bad file descriptor",
    ENOMEM: "cannot allocate memory",
    ENODEV: "operation not supported by device",
    ENOTDIR: "not a directory",
    EISDIR: "is a directory",
    EINVAL: "invalid argument",
    EMFILE: "too many open files",
    EFBIG: "file too large",
    EROFS: "read-only filesystem",
    EOPNOTSUPP: "operation not supported",
    ETIMEDOUT: "operation timed out",
    ESTALE: "stale NFS file handle",
    EBADRPC: "RPC struct is bad",
    EFTYPE: "inappropriate file type or format",
    EADAPT: "bad adaptor number",
    ECTLR: "bad controller number",
    EUNIT: "bad unit number",
    ESLICE: "bad slice number",
    EPART: "bad partition",
    ERDLAB: "can't read disk label",
    EUNLAB: "disk unlabelled",
    EOFFSET: "illegal seek",
}


def strerror(number: int) -> str:
    """libsa's text for an errno number (stand/libsa/strerror.c)."""
    return _TEXTS.get(number) or f"unknown error ({number})"


_FROM_HOST = {
    _host.EAGAIN: EAGAIN,
    _host.EOPNOTSUPP: EOPNOTSUPP,
    _host.ETIMEDOUT: ETIMEDOUT,
    _host.ELOOP: ELOOP,
    _host.ENAMETOOLONG: ENAMETOOLONG,
    _host.ENOTEMPTY: ENOTEMPTY,
    _host.ENOSYS: ENOSYS,
    _host.ESTALE: ESTALE,
    _host.EILSEQ: EILSEQ,
    _host.EXDEV: ENOTCAPABLE,  # openat2(RESOLVE_BENEATH)'s word for "outside", as FreeBSD's openat(2) has it
}


def from_host(number: int | None) -> int:
    """FreeBSD's number for a host errno (None: EIO)."""
    if number is None:
        return EIO
    if sys.platform.startswith("freebsd"):
        return number
    if number in _FROM_HOST:
        return _FROM_HOST[number]
    return number if 0 < number <= ERANGE else EIO
