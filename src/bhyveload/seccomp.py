"""The system calls that a confined loader may make: an annotated table, and the BPF program made of it.

Three answers.  ALLOW, where needed on conditions that a filter can check (numbers in registers; never what a pointer
points to: paths are Landlock's business).  ERRNO: calls that the C library or Python try on their own and can live
without.  Whatever is not in the table kills the process (SIGSYS): no honest loader makes such a call, and the
parent says so in one line.

Numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h; tests compare them with the
host's own headers.  Standard library only.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Rule = tuple[str, int, int, object, str]
    Instruction = tuple[int, int, int, int]

KILL = 0x80000000  # SECCOMP_RET_KILL_PROCESS
ERRNO = 0x00050000  # SECCOMP_RET_ERRNO
ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW
EPERM, EACCES, ENOTTY, EFBIG, ENOSYS = 1, 13, 25, 27, 38

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_SYSCALL_BIT = 0x40000000
NONE = -1  # the architecture has no such call

FIONREAD = 0x541B
PROT_EXEC = 4
AT_EMPTY_PATH = 0x1000
NOT_TO_READ = 0o20001103  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, __O_TMPFILE: the same on both architectures


class When:
    """ALLOW if argument ``number`` has ``value``: "is", or "with" / "without" the bits of it; else ``otherwise``.

    ``folder``: even that only when a host folder was given.
    """

    __slots__ = ("folder", "number", "otherwise", "test", "value")

    def __init__(self, number: int, test: str, value: int, otherwise: int, folder: bool = False) -> None:
        self.folder = folder
        self.number = number
        self.test = test
        self.value = value
        self.otherwise = otherwise


OWN_PID = "own process"  # the first argument is the process's own id
FOLDER = "with -h only"  # ALLOW when a host folder was given, else EACCES
WALK = "with -h, where the kernel has no openat2"  # else EACCES; opening only to read
WITHIN = "within a disk"  # pwrite64: to a disk, only where it is; to anything else, anywhere
NO_DISK = "not to a disk"  # to anything but a disk, whose bounds a filter could not check there

# name, number on x86-64, on aarch64, answer, why.  The first ones are called thousands of times.
TABLE: tuple[Rule, ...] = (
    ("pread64", 17, 67, ALLOW, "disks"),
    ("preadv", 295, 69, ALLOW, "disks"),
    ("preadv2", 327, 286, ALLOW, "disks: os.preadv"),
    ("pwritev2", 328, 287, NO_DISK, "guest memory: os.pwritev"),
    ("pwritev", 296, 70, NO_DISK, "guest memory: os.pwritev where the C library lacks the other"),
    ("pwrite64", 18, 68, WITHIN, "guest memory; a writable disk (nextboot, ZFS boot-once), which must not grow"),
    ("write", 1, 64, NO_DISK, "the console, the report"),
    ("writev", 20, 66, NO_DISK, "the C library's last words (assertions, abort)"),
    ("read", 0, 63, ALLOW, "keys; files of the host folder"),
    ("lseek", 8, 62, ALLOW, "files of the host folder"),
    ("close", 3, 57, ALLOW, "files of the host folder"),
    ("fstat", 5, 80, ALLOW, "files of the host folder; says nothing about a name"),
    # The flag allows a name as well, which a filter cannot see: whether it exists can be found out, not what is in it.
    ("newfstatat", 262, 79, When(3, "with", AT_EMPTY_PATH, ERRNO | EACCES, folder=True), "fstat of C libraries"),
    ("openat2", 437, 437, FOLDER, "files of the host folder; Landlock allows reading there and nothing else"),
    ("getdents64", 217, 61, FOLDER, "listing the host folder"),
    ("ioctl", 16, 29, When(1, "is", FIONREAD, ERRNO | ENOTTY), "whether a key waits; never TIOCSTI"),
    ("poll", 7, NONE, ALLOW, "waiting for the console"),
    ("ppoll", 271, 73, ALLOW, "waiting for the console"),
    ("select", 23, NONE, ALLOW, "waiting for the console"),
    ("pselect6", 270, 72, ALLOW, "waiting for the console"),
    ("clock_gettime", 228, 113, ALLOW, "time, where the vDSO cannot tell"),
    ("gettimeofday", 96, 169, ALLOW, "time"),
    ("time", 201, NONE, ALLOW, "time"),
    ("clock_getres", 229, 114, ALLOW, "time"),
    ("clock_nanosleep", 230, 115, ALLOW, "delays, the countdown"),
    ("nanosleep", 35, 101, ALLOW, "delays"),
    ("restart_syscall", 219, 128, ALLOW, "a delay that a signal interrupted"),
    ("brk", 12, 214, ALLOW, "memory"),
    ("mmap", 9, 222, When(2, "without", PROT_EXEC, KILL), "memory; nothing new is ever executable"),
    ("mprotect", 10, 226, When(2, "without", PROT_EXEC, KILL), "memory; nothing becomes executable"),
    ("munmap", 11, 215, ALLOW, "memory"),
    ("mremap", 25, 216, ALLOW, "memory: realloc"),
    ("madvise", 28, 233, ALLOW, "memory: free"),
    ("futex", 202, 98, ALLOW, "Python's interpreter lock"),
    ("sched_yield", 24, 124, ALLOW, "locks"),
    ("getrandom", 318, 278, ALLOW, "the C library's allocator"),
    ("getpid", 39, 172, ALLOW, "abort"),
    ("gettid", 186, 178, ALLOW, "abort"),
    ("tgkill", 234, 131, OWN_PID, "abort: only of the process itself"),
    ("rt_sigprocmask", 14, 135, ALLOW, "abort"),
    ("rt_sigreturn", 15, 139, ALLOW, "coming back from a signal handler"),
    ("exit", 60, 93, ALLOW, "the end"),
    ("exit_group", 231, 94, ALLOW, "the end"),
    ("rt_sigaction", 13, 134, ERRNO | EPERM, "abort and Python's own handlers: as they are"),
    ("open", 2, NONE, ERRNO | EACCES, "message catalogues, time zones, /sys, late imports"),
    ("openat", 257, 56, WALK, "the same; a walk through the host folder, which Landlock has to guard"),
    ("stat", 4, NONE, ERRNO | EACCES, "the same"),
    ("lstat", 6, NONE, ERRNO | EACCES, "the same"),
    ("statx", 332, 291, ERRNO | ENOSYS, "the same; C libraries then use the older call"),
    ("access", 21, NONE, ERRNO | EACCES, "the same"),
    ("faccessat", 269, 48, ERRNO | EACCES, "the same"),
    ("faccessat2", 439, 439, ERRNO | EACCES, "the same"),
    ("readlink", 89, NONE, ERRNO | EACCES, "the same"),
    ("readlinkat", 267, 78, WALK, "the same"),
    ("getcwd", 79, 17, ERRNO | EACCES, "relative names"),
    ("fcntl", 72, 25, ERRNO | EPERM, "flags of descriptors, dup"),
    ("dup", 32, 23, ERRNO | EPERM, "Python duplicates what it maps"),
    ("prlimit64", 302, 261, ERRNO | EPERM, "the C library asks for the stack's size"),
    ("sysinfo", 99, 179, ERRNO | EPERM, "the C library asks for the memory's size"),
    ("sched_getaffinity", 204, 123, ERRNO | EPERM, "the C library counts processors"),
    ("uname", 63, 160, ERRNO | EPERM, "not needed"),
    ("getrusage", 98, 165, ERRNO | EPERM, "not needed"),
)

# struct sock_filter: code, jt, jf, k
_FILTER = struct.Struct("=HBBI")
_RULE = struct.Struct("=HBBIHBBI")  # two of them
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_JUMP, _JUMP_GREATER, _JUMP_GREATER_EQUAL_X = 0x05, 0x25, 0x3D
_LOAD_MEMORY, _STORE, _TO_X, _ADD, _ADD_X = 0x60, 0x02, 0x07, 0x04, 0x0C
_DATA_NR, _DATA_ARCH, _DATA_ARGS = 0, 4, 16  # struct seccomp_data; little-endian: an argument's low half is first


def program(machine: str, pid: int, folder: bool, disks: Sequence[tuple[int, int]] = (), walk: bool = False) -> bytes:
    """The BPF program for ``machine`` (a key of AUDIT_ARCH): for the process ``pid``, with a host folder or without.

    ``disks``: (descriptor, size in bytes) of those that it may write.  ``walk``: the folder is looked through by
    openat(2), one name after the other; only where Landlock confines what that can open.
    """
    start: list[Instruction] = [
        (_LOAD, 0, 0, _DATA_ARCH),
        (_JUMP_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _DATA_NR),
    ]
    x86 = machine == "x86_64"
    if x86:
        start += [(_JUMP_GREATER_EQUAL, 0, 1, X32_SYSCALL_BIT), (_RETURN, 0, 0, KILL)]
    code = [_FILTER.pack(*instruction) for instruction in start]
    for name, on_x86, on_arm, answer, _ in TABLE:
        if answer == WALK:
            reading = When(2, "without", NOT_TO_READ, ERRNO | EACCES) if name == "openat" else ALLOW
            answer = reading if walk else ERRNO | EACCES
        number = on_x86 if x86 else on_arm
        if number == NONE:
            continue
        if type(answer) is int:  # most of them, in one step
            code.append(_RULE.pack(_JUMP_EQUAL, 0, 1, number, _RETURN, 0, 0, answer))
            continue
        body = _instructions(answer, pid, folder, disks)
        if len(body) < 256:
            code.append(_FILTER.pack(_JUMP_EQUAL, 0, len(body), number))
        else:
            code.append(_RULE.pack(_JUMP_EQUAL, 1, 0, number, _JUMP, 0, 0, len(body)))
        code += [_FILTER.pack(*instruction) for instruction in body]
    code.append(_FILTER.pack(_RETURN, 0, 0, KILL))
    return b"".join(code)


def _instructions(answer: object, pid: int, folder: bool, disks: Sequence[tuple[int, int]]) -> Sequence[Instruction]:
    if answer == FOLDER:
        answer = ALLOW if folder else ERRNO | EACCES
    elif answer == OWN_PID:
        answer = When(0, "is", pid, KILL)
    elif answer in (WITHIN, NO_DISK):
        return _for_disks(disks, within=answer == WITHIN)
    if isinstance(answer, int):
        return ((_RETURN, 0, 0, answer),)
    assert isinstance(answer, When)
    if answer.folder and not folder:
        return ((_RETURN, 0, 0, answer.otherwise),)
    jump = _JUMP_EQUAL if answer.test == "is" else _JUMP_ANY_BIT
    yes, no = (ALLOW, answer.otherwise) if answer.test != "without" else (answer.otherwise, ALLOW)
    return (
        (_LOAD, 0, 0, _DATA_ARGS + 8 * answer.number),
        (jump, 0, 1, answer.value),
        (_RETURN, 0, 0, yes),
        (_RETURN, 0, 0, no),
    )


def _for_disks(disks: Sequence[tuple[int, int]], within: bool) -> Sequence[Instruction]:
    """ALLOW unless argument 0 is one of ``disks``: then only ``within`` it, as pwrite64's arguments say."""
    code: list[Instruction] = [(_LOAD, 0, 0, _DATA_ARGS)] if disks else []
    for fd, size in disks:
        body = _within(size) if within else ((_RETURN, 0, 0, ERRNO | EPERM),)
        code += [(_JUMP_EQUAL, 0, len(body), fd), *body]
    return (*code, (_RETURN, 0, 0, ALLOW))


def _within(size: int) -> Sequence[Instruction]:
    """ALLOW if pwrite64's position (argument 3) and count (argument 2) together do not exceed ``size``; else EFBIG.

    64-bit arithmetic in halves.  A position below zero is the kernel's to refuse.
    """
    count, position = _DATA_ARGS + 8 * 2, _DATA_ARGS + 8 * 3
    high, low = size >> 32, size & 0xFFFFFFFF
    return (
        (_LOAD, 0, 0, count + 4),
        (_JUMP_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, ERRNO | EFBIG),
        (_LOAD, 0, 0, count),
        (_TO_X, 0, 0, 0),
        (_LOAD, 0, 0, position),
        (_ADD_X, 0, 0, 0),
        (_STORE, 0, 0, 0),
        (_JUMP_GREATER_EQUAL_X, 0, 2, 0),  # the sum is not below the count: no carry
        (_LOAD, 0, 0, position + 4),
        (_JUMP, 0, 0, 2),
        (_LOAD, 0, 0, position + 4),
        (_ADD, 0, 0, 1),
        (_JUMP_GREATER, 3, 0, high),
        (_JUMP_EQUAL, 0, 3, high),
        (_LOAD_MEMORY, 0, 0, 0),
        (_JUMP_GREATER, 0, 1, low),
        (_RETURN, 0, 0, ERRNO | EFBIG),
        (_RETURN, 0, 0, ALLOW),
    )
