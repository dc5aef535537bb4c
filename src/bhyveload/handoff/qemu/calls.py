"""System calls that QEMU has no business with, as a BPF program in front of its own filter (-sandbox).

QEMU's filter forbids starting programs and gaining rights.  This one adds: looking into other processes, asking the
kernel for new kinds of machinery, and, for a guest without a network, sockets (those that reach other programs of the
user by a name are nothing that Landlock guards).  The calls fail with EPERM; io_uring with ENOSYS, QEMU has other ways.

Numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import struct

from bhyveload.seccomp import ALLOW, AUDIT_ARCH, ENOSYS, EPERM, ERRNO, KILL, X32_SYSCALL_BIT

# name, number on x86-64, on aarch64, what is answered
REFUSED = (
    ("ptrace", 101, 117, EPERM),
    ("process_vm_readv", 310, 270, EPERM),
    ("process_vm_writev", 311, 271, EPERM),
    ("pidfd_getfd", 438, 438, EPERM),
    ("open_by_handle_at", 304, 265, EPERM),
    ("mount", 165, 40, EPERM),
    ("unshare", 272, 97, EPERM),
    ("setns", 308, 268, EPERM),
    ("bpf", 321, 280, EPERM),
    ("perf_event_open", 298, 241, EPERM),
    ("add_key", 248, 217, EPERM),
    ("request_key", 249, 218, EPERM),
    ("keyctl", 250, 219, EPERM),
    ("io_uring_setup", 425, 425, ENOSYS),
)
REFUSED_WITHOUT_NETWORK = (("socket", 41, 198, EPERM),)

_FILTER = struct.Struct("=HBBI")  # struct sock_filter: code, jt, jf, k
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06
_DATA_NR, _DATA_ARCH = 0, 4  # struct seccomp_data


def refusing_program(machine: str, network: bool) -> bytes:
    """The BPF program for ``machine`` (a key of seccomp.AUDIT_ARCH)."""
    x86 = machine == "x86_64"
    code = [
        (_LOAD, 0, 0, _DATA_ARCH),
        (_JUMP_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _DATA_NR),
    ]
    if x86:
        code += [(_JUMP_GREATER_EQUAL, 0, 1, X32_SYSCALL_BIT), (_RETURN, 0, 0, KILL)]
    for _, on_x86, on_arm, answer in REFUSED + (() if network else REFUSED_WITHOUT_NETWORK):
        code += [(_JUMP_EQUAL, 0, 1, on_x86 if x86 else on_arm), (_RETURN, 0, 0, ERRNO | answer)]
    code.append((_RETURN, 0, 0, ALLOW))
    return b"".join(_FILTER.pack(*instruction) for instruction in code)
