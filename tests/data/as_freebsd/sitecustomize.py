"""Python as on FreeBSD, as far as its modules go: the platform's name, and none of the names that Linux alone has.

tests/vm/test_freebsd_host.py puts this folder into PYTHONPATH.
"""

import errno
import fcntl
import mmap
import os
import resource
import select
import signal
import socket
import sys

_LINUX = {
    errno: ("EBADE", "ECOMM", "EDOTDOT", "EHWPOISON", "EKEYEXPIRED", "ENODATA", "ENOMEDIUM", "ENONET", "EREMOTEIO",
            "ESTRPIPE", "EUCLEAN", "EXFULL"),
    fcntl: ("F_ADD_SEALS", "F_GET_SEALS", "F_GETPIPE_SZ", "F_NOTIFY", "F_SETPIPE_SZ", "F_SETLEASE", "F_OFD_SETLK",
            "F_OFD_SETLKW", "F_OFD_GETLK", "F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_WRITE", "F_SEAL_SEAL"),
    mmap: ("MADV_DONTDUMP", "MADV_DODUMP", "MADV_DONTFORK", "MADV_HUGEPAGE", "MADV_REMOVE", "MAP_DENYWRITE",
           "MAP_EXECUTABLE", "MAP_NORESERVE", "MAP_POPULATE"),
    os: ("CLONE_NEWNS", "MFD_HUGETLB", "O_LARGEFILE", "O_NOATIME", "O_TMPFILE", "P_PIDFD", "RTLD_DEEPBIND",
         "copy_file_range", "eventfd", "getxattr", "listxattr", "pidfd_open", "removexattr", "setns", "setxattr",
         "splice", "unshare"),
    resource: ("RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME", "RLIMIT_SIGPENDING", "prlimit"),
    select: ("epoll", "EPOLLIN"),
    signal: ("SIGCLD", "SIGPOLL", "SIGPWR", "SIGSTKFLT"),
    socket: ("AF_NETLINK", "AF_PACKET", "AF_VSOCK", "SO_PEERCRED"),
}  # fmt: skip
for _module, _names in _LINUX.items():
    for _name in _names:
        if hasattr(_module, _name):
            delattr(_module, _name)
sys.platform = "freebsd14"
_plain = os.uname()
os.uname = lambda: os.uname_result(("FreeBSD", _plain.nodename, "14.2-RELEASE", "FreeBSD 14.2", "amd64"))
