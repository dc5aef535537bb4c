"""Python as on FreeBSD, as far as its modules go: the platform's name, and none of the names that Linux alone has.

tests/vm/test_freebsd_host.py puts this folder into PYTHONPATH.  The names are what CPython 3.11.2's modules lack when
they are compiled for FreeBSD: its configure ran with FreeBSD's headers and C library, and the modules' tables of
functions and constants were compared with those of a Python on Linux (docs/freebsd.md).
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
import termios

_LINUX = {
    errno: """EADV EBADE EBADFD EBADR EBADRQC EBADSLT EBFONT ECHRNG ECOMM EDEADLOCK EDOTDOT EHWPOISON EISNAM EKEYEXPIRED
        EKEYREJECTED EKEYREVOKED EL2HLT EL2NSYNC EL3HLT EL3RST ELIBACC ELIBBAD ELIBEXEC ELIBMAX ELIBSCN ELNRNG
        EMEDIUMTYPE ENAVAIL ENOANO ENOCSI ENODATA ENOKEY ENOMEDIUM ENONET ENOPKG ENOSR ENOSTR ENOTNAM ENOTUNIQ EREMCHG
        EREMOTEIO ERESTART ERFKILL ESRMNT ESTRPIPE ETIME EUCLEAN EUNATCH EXFULL""",
    fcntl: """DN_ACCESS F_GETLEASE F_GETLK64 F_GETPIPE_SZ F_GETSIG F_NOTIFY F_OFD_GETLK F_OFD_SETLK F_OFD_SETLKW
        F_SETLEASE F_SETLK64 F_SETLKW64 F_SETPIPE_SZ F_SETSIG LOCK_MAND""",
    mmap: """MADV_DODUMP MADV_DOFORK MADV_DONTDUMP MADV_DONTFORK MADV_HUGEPAGE MADV_HWPOISON MADV_MERGEABLE
        MADV_NOHUGEPAGE MADV_REMOVE MADV_UNMERGEABLE MAP_DENYWRITE MAP_EXECUTABLE MAP_NORESERVE MAP_POPULATE""",
    os: """CLONE_NEWNS GRND_NONBLOCK O_LARGEFILE O_NOATIME O_RSYNC O_TMPFILE P_PIDFD RWF_APPEND RWF_DSYNC RWF_HIPRI
        RWF_NOWAIT RWF_SYNC SCHED_BATCH SCHED_IDLE ST_NOEXEC getrandom getxattr listxattr pidfd_open removexattr setns
        setxattr splice unshare""",
    resource: "RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_OFILE RLIMIT_RTPRIO RLIMIT_RTTIME RLIMIT_SIGPENDING prlimit",
    select: "EPOLLERR EPOLLHUP EPOLLIN EPOLLOUT POLLMSG epoll",
    signal: "SIGCLD SIGPOLL SIGPWR SIGSTKFLT pidfd_send_signal",
    socket: "AF_ALG AF_CAN AF_NETLINK AF_PACKET AF_VSOCK MSG_MORE SCM_CREDENTIALS SO_PASSCRED SO_PEERCRED SO_PRIORITY",
    termios: "B576000 BS0 BSDLY CRDLY FFDLY IUCLC NLDLY OFDEL OFILL OLCUC TCFLSH TCGETA TCGETS TCSBRK TIOCINQ XCASE",
}
_NO_DUMP = mmap.MADV_DONTDUMP
for _module, _names in _LINUX.items():
    for _name in _names.split():
        if hasattr(_module, _name):
            delattr(_module, _name)
vars(mmap)["MADV_NOCORE"] = _NO_DUMP  # FreeBSD's name, this kernel's number
sys.platform = "freebsd14"
_plain = os.uname()
os.uname = lambda: os.uname_result(("FreeBSD", _plain.nodename, "14.2-RELEASE", "FreeBSD 14.2", "amd64"))
