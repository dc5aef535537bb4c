"""Confine the process that sees a guest's bytes: Landlock, seccomp, limits and an unprivileged user on Linux, Capsicum
on FreeBSD.  Stand-alone: standard library only, knows nothing of loaders.

    sandbox = Sandbox()                  # in the parent: what is to be had here?
    sandbox.missing                      # what is not, one line each: for the user to hear
    ...fork...
    sandbox.enter(descriptors, folder)   # in the child, after everything is opened, mapped and imported

Afterwards the process reads and writes through ``descriptors`` alone, and opens files beneath ``folder`` for reading.
It cannot open anything else, make sockets, start or signal processes, or get new executable memory.  What is made to
try all the same is killed (SIGSYS); seccomp.py has the table.  Facts: docs/security.md.
"""

from __future__ import annotations

import errno
import os
import resource
import struct
import sys

from bhyveload import empty_root
from bhyveload.errors import SandboxError, UsageError
from bhyveload.seccomp import program
from bhyveload.syscall import Capabilities, Pointer, call, checked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MEMORY = 2 << 30  # bytes of address space that the child may take in addition to what it has
FILE_SIZE = 1 << 30  # bytes by which the largest file that a loader writes to may grow: its console's output
FOLDER_DESCRIPTORS = 128  # open files of the host folder: the loader has 64 (SOPEN_MAX)

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS = 1, 4, 8, 38
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_READ_SEARCH, CAP_SETGID, CAP_SETUID = 2, 6, 7
SIGKILL = 9

SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
SYS_PRCTL = {"x86_64": 157, "aarch64": 167}
SYS_CAPGET, SYS_CAPSET = {"x86_64": 125, "aarch64": 90}, {"x86_64": 126, "aarch64": 91}
SECCOMP_SET_MODE_FILTER, SECCOMP_GET_ACTION_AVAIL = 1, 2

# The same numbers on every architecture (5.13 is newer than the common table's start).
SYS_CLOSE_RANGE = 436  # Linux 5.9
SYS_LANDLOCK_CREATE_RULESET, SYS_LANDLOCK_ADD_RULE, SYS_LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1
LANDLOCK_TRUNCATE = 3  # the first ABI version that can forbid open(2) to empty a file
LANDLOCK_ACCESS_FS_READ_FILE, LANDLOCK_ACCESS_FS_READ_DIR = 1 << 2, 1 << 3
RULESET_ATTR = struct.Struct("=QQQ")  # handled_access_fs, handled_access_net, scoped
PATH_BENEATH_ATTR = struct.Struct("=Qi")  # allowed_access, parent_fd (packed)
# (first ABI version, file rights, network rights, scopes, size of the attribute): include/uapi/linux/landlock.h
LANDLOCK_VERSIONS = (
    (1, (1 << 13) - 1, 0, 0, 8),
    (2, (1 << 14) - 1, 0, 0, 8),  # REFER
    (3, (1 << 15) - 1, 0, 0, 8),  # TRUNCATE
    (4, (1 << 15) - 1, 3, 0, 16),  # bind and connect of TCP
    (5, (1 << 16) - 1, 3, 0, 16),  # IOCTL_DEV
    (6, (1 << 16) - 1, 3, 3, 24),  # abstract UNIX sockets, signals
)
_NO_TRUNCATE = "this kernel's Landlock (before Linux 6.2) does not keep files in the -h folder from being emptied"


class Sandbox:
    """A confinement, prepared in the parent and entered in the child.

    ``user``: whom root's child becomes; None: nobody.  ``required``: raise SandboxError when anything is missing.
    ``core``: leave core dumps possible.  ``growth``: by how many bytes the largest file that it writes to may grow
    (console output).  ``folder``: it will be entered with one.  ``missing``: what this host lacks, a line each.
    """

    __slots__ = (
        "_capsicum",
        "_core",
        "_empty_root",
        "_growth",
        "_identity",
        "_landlock",
        "_machine",
        "_required",
        "_seccomp",
        "missing",
    )

    def __init__(
        self,
        user: str | None = None,
        required: bool = False,
        core: bool = False,
        growth: int = FILE_SIZE,
        folder: bool = False,
    ) -> None:
        """Raises UsageError (no such user, or not allowed to become it), SandboxError (``required``)."""
        self._core = core
        self._growth = growth
        self._machine = os.uname().machine
        self._capsicum = False
        self._landlock = 0
        self._seccomp = False
        self._empty_root = True
        self._required = required
        self._identity = _identity(user)
        self.missing: tuple[str, ...] = ()
        if sys.platform == "linux":
            self._ask_linux(folder)
        elif sys.platform.startswith("freebsd"):
            self._ask_freebsd()
        else:
            self.missing = (f"{sys.platform} has neither Landlock nor Capsicum: the loader is not confined",)
        self._insist(self.missing)

    def _insist(self, missing: tuple[str, ...]) -> None:
        if self._required and missing:
            raise SandboxError(
                f"--require-sandbox: {missing[0]}", "use a kernel with it, or leave --require-sandbox away"
            )

    @property
    def landlock(self) -> int:
        """The version of this kernel's Landlock; 0: none."""
        return self._landlock

    @property
    def seccomp(self) -> bool:
        """Whether this kernel has seccomp filters."""
        return self._seccomp

    @property
    def may_walk(self) -> bool:
        """Whether a folder can be looked through without openat2(2): a filter that lets openat(2) pass needs Landlock
        to confine what it opens."""
        return self._landlock > 0 or not self._seccomp

    @property
    def identity(self) -> tuple[int, int] | None:
        """(user, group) that root's child becomes."""
        return None if self._identity is None else self._identity[:2]

    def _ask_linux(self, folder: bool) -> None:
        missing = []
        if self._machine in SYS_SECCOMP:
            self._landlock = max(0, call(SYS_LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION))
            action = struct.pack("=I", 0x80000000)  # SECCOMP_RET_KILL_PROCESS, Linux 4.14
            self._seccomp = call(SYS_SECCOMP[self._machine], SECCOMP_GET_ACTION_AVAIL, 0, action) == 0
        if not self._landlock:
            missing.append("this kernel offers no Landlock (Linux 5.13, switched on): names of files are not guarded")
        elif folder and self._landlock < LANDLOCK_TRUNCATE:
            missing.append(_NO_TRUNCATE)
        if not self._seccomp:
            missing.append("this kernel offers no seccomp filters here: system calls are not guarded")
        if self._identity and self._machine in SYS_CAPGET and not _may_become(self._machine, self._identity):
            missing.append("root cannot become another user here: the loader stays root")
            self._identity = None
        self.missing = tuple(missing)

    def _ask_freebsd(self) -> None:
        from bhyveload.capsicum import is_there

        self._capsicum = is_there()
        if not self._capsicum:
            self.missing = ("this kernel has no Capsicum (options CAPABILITY_MODE): the loader is not confined",)
        if self._identity is not None and self._identity[2]:
            self._identity = None  # root stays root in capability mode, as with bhyveload(8), unless --user says whom

    def enter(
        self,
        descriptors: Iterable[int],
        folder: int = -1,
        disks: Sequence[tuple[int, int]] = (),
        walk: bool = False,
    ) -> None:
        """Confine this process for good: to ``descriptors``, and to reading beneath ``folder`` (a descriptor).

        ``disks``: which of ``descriptors`` are disks that it may write, and their sizes in bytes: they do not grow.
        ``walk``: ``folder`` is looked through without openat2(2), where ``may_walk``.

        The standard descriptors stay: those that are not among ``descriptors`` lead to /dev/null, except standard
        error.  Raises SandboxError when a step fails that should not: nothing may go on then.
        """
        keep = {fd for fd in descriptors if fd >= 0}
        if folder >= 0:
            keep.add(folder)
            if 0 < self._landlock < LANDLOCK_TRUNCATE:
                self._insist((_NO_TRUNCATE,))
        for name, action in self._steps(keep, folder, disks, walk):
            try:
                action()
            except OSError as error:
                raise SandboxError(f"the loader cannot be confined: {name}: {error.strerror}") from None

    def _steps(
        self, keep: set[int], folder: int, disks: Sequence[tuple[int, int]], walk: bool
    ) -> Iterable[tuple[str, Callable[[], None]]]:
        """In this order: each takes away what the ones before it needed."""
        parent = os.getppid()
        yield "descriptors", lambda: _close_others(keep)
        if sys.platform.startswith("freebsd"):
            yield from self._freebsd_steps(keep, folder)
            return
        yield "limits", lambda: _limit(keep, self._core, self._growth)
        if sys.platform != "linux":
            return
        landlock, seccomp = self._landlock, self._seccomp
        # Root's folder may hold what only root can read: Landlock narrows that right down to the folder.
        root = self._identity is not None
        readable = bool(self._identity is not None and self._identity[2] and folder >= 0 and landlock and seccomp)
        if root:
            yield "empty root", lambda: self._leave_files(folder, user_namespace=False)
        yield "user", lambda: self._become(readable)
        if not root or not readable:
            yield "empty root", lambda: self._leave_files(folder, user_namespace=True)
        yield "prctl", lambda: self._settle(parent)
        if landlock:
            yield "Landlock", lambda: _restrict_files(landlock, folder)
        yield "descriptors", lambda: _limit_descriptors(keep, folder)
        if seccomp:
            yield "seccomp", lambda: self._filter(folder >= 0, disks, walk)

    def _freebsd_steps(self, keep: set[int], folder: int) -> Iterable[tuple[str, Callable[[], None]]]:
        from bhyveload.capsicum import confine

        yield "limits", lambda: _limit(keep, self._core, self._growth)
        if (identity := self.identity) is not None:
            yield "user", lambda: _set_user(*identity)
        if self._capsicum:
            yield "Capsicum", lambda: confine({0, 1, 2} | keep, folder)

    def _leave_files(self, folder: int, user_namespace: bool) -> None:
        """An empty root directory, where it is to be had (empty_root.py): root's own, or one in a user namespace."""
        if self._empty_root and empty_root.enter(self._machine, folder, user_namespace):
            self._empty_root = False  # once is enough
        if user_namespace:
            self._set_capabilities(0)

    def _become(self, readable: bool) -> None:
        if self._identity is not None:
            uid, gid, _ = self._identity
            if readable:
                self._prctl(PR_SET_KEEPCAPS, 1)
            _set_user(uid, gid)
        if not self._set_capabilities(1 << CAP_DAC_READ_SEARCH if readable else 0):
            self._set_capabilities(0)  # a container's root without that capability: the folder is read as the user

    def _set_capabilities(self, kept: int) -> bool:
        """Whether this process now has ``kept`` and no other.  Raises OSError when it cannot have none."""
        if self._machine not in SYS_CAPSET:
            return True
        header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
        result = call(SYS_CAPSET[self._machine], header, struct.pack("=6I", kept, kept, 0, 0, 0, 0))
        if not kept:
            checked(result)
        return result == 0

    def _settle(self, parent: int) -> None:
        if not self._core:
            self._prctl(PR_SET_DUMPABLE, 0)
        die_with_parent(parent)  # behind the change of user, which resets it
        self._prctl(PR_SET_NO_NEW_PRIVS, 1)

    def _prctl(self, option: int, value: int) -> None:
        if self._machine in SYS_PRCTL:
            checked(call(SYS_PRCTL[self._machine], option, value, 0, 0, 0))

    def _filter(self, folder: bool, disks: Sequence[tuple[int, int]], walk: bool) -> None:
        code = program(self._machine, os.getpid(), folder, disks, walk and self.may_walk)
        fprog = struct.pack("=H6x8s", len(code) // 8, bytes(Pointer(code)))
        checked(call(SYS_SECCOMP[self._machine], SECCOMP_SET_MODE_FILTER, 0, fprog))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when ``parent``, which forked it, ends."""
    number = SYS_PRCTL.get(os.uname().machine) if sys.platform == "linux" else None
    if number is not None:
        call(number, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    elif sys.platform.startswith("freebsd"):
        from bhyveload.capsicum import end_with_parent

        end_with_parent(SIGKILL)
    else:
        return
    if os.getppid() != parent:
        os._exit(1)  # it ended before that


def _identity(user: str | None) -> tuple[int, int, bool] | None:
    """(uid, gid, default) to become; None: stay.  Raises UsageError."""
    own = os.geteuid()
    if user is None:
        if own != 0:
            return None
        uid, gid = _nobody() or _look_up("nobody") or (65534, 65534)
        return uid, gid, True
    entry = (own, 0) if user == str(own) else _look_up(user)
    if entry is None:
        raise UsageError(f"--user {user}: there is no such user")
    if own != 0:
        if entry[0] == own:
            return None
        raise UsageError(f"--user {user}: only root can become another user")
    if entry[0] == 0:
        raise UsageError(f"--user {user}: a guest's scripts do not run as root", "name a user without rights")
    return (*entry, False)


def _set_user(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _nobody(path: str = "/etc/passwd") -> tuple[int, int] | None:
    """What passwd(5) says of nobody: the C library would look for the daemon of its name services first, 0.7 ms."""
    try:
        with open(path, "rb", buffering=0) as file:
            text = b"\n" + file.read(1 << 20)
    except OSError:
        return None
    fields = text.partition(b"\nnobody:")[2].partition(b"\n")[0].split(b":")
    if len(fields) != 6 or not (fields[1].isdigit() and fields[2].isdigit()):
        return None
    uid, gid = int(fields[1]), int(fields[2])
    return (uid, gid) if 0 < uid < 1 << 32 and 0 < gid < 1 << 32 else None


def _look_up(user: str) -> tuple[int, int] | None:
    import pwd

    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError, ValueError):
        return None
    return entry.pw_uid, entry.pw_gid


def _may_become(machine: str, identity: tuple[int, int, bool]) -> bool:
    """Whether root may change its user here: containers take that right, or do not know the user."""
    data = bytearray(24)
    if call(SYS_CAPGET[machine], struct.pack("=Ii", CAPABILITY_VERSION_3, 0), Capabilities.from_buffer(data)) != 0:
        return False
    if not data[0] & 1 << CAP_SETGID or not data[0] & 1 << CAP_SETUID:
        return False
    return _is_mapped("/proc/self/uid_map", identity[0]) and _is_mapped("/proc/self/gid_map", identity[1])


def _is_mapped(path: str, number: int) -> bool:
    try:
        with open(path, "rb", buffering=0) as file:
            rows = [list(map(int, line.split())) for line in file.read(1 << 16).splitlines()]
    except OSError:
        return True  # no user namespaces in this kernel, or no /proc to ask
    return any(first <= number < first + count for first, _, count in rows)


def _close_others(keep: set[int]) -> None:
    if not {0, 1} <= keep:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in {0, 1} - keep:
            os.dup2(null, fd)
    at = 3
    for fd in sorted(keep):
        if fd >= 3:
            os.closerange(at, fd)
            at = fd + 1
    # A limit that was lowered after descriptors were opened does not bound their numbers: ask the kernel first.
    if sys.platform != "linux" or call(SYS_CLOSE_RANGE, at, 0xFFFFFFFF, 0) != 0:
        os.closerange(at, resource.getrlimit(resource.RLIMIT_NOFILE)[1] & 0xFFFFF)


def _limit(keep: set[int], core: bool, growth: int) -> None:
    largest = 0
    for fd in keep:
        try:
            largest = max(largest, os.fstat(fd).st_size)
        except OSError as error:
            if error.errno != errno.EBADF:  # the user closed standard input
                raise
    limits = [
        (resource.RLIMIT_FSIZE, largest + growth),
        (resource.RLIMIT_NPROC, 0),
    ]
    if not core:
        limits.append((resource.RLIMIT_CORE, 0))
    if taken := _address_space():
        limits.append((resource.RLIMIT_AS, taken + MEMORY))
    else:
        limits.append((resource.RLIMIT_DATA, MEMORY))  # on Linux what is not shared; on FreeBSD only what brk(2) takes
    for number, value in limits:
        _lower(number, value)


def _address_space() -> int:
    """Bytes that this process has mapped; 0: nobody says."""
    if sys.platform.startswith("freebsd"):
        from bhyveload.capsicum import address_space

        return address_space()
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read(64).split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _limit_descriptors(keep: set[int], folder: int) -> None:
    _lower(resource.RLIMIT_NOFILE, max(keep, default=2) + 1 + FOLDER_DESCRIPTORS if folder >= 0 else 0)


def _lower(number: int, value: int) -> None:
    hard = resource.getrlimit(number)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(number, (value, value))


def _restrict_files(version: int, folder: int) -> None:
    """Landlock: every right that this kernel knows is refused, except reading beneath ``folder``."""
    files, network, scopes, size = next(row[1:] for row in reversed(LANDLOCK_VERSIONS) if row[0] <= version)
    attribute = RULESET_ATTR.pack(files, network, scopes)[:size]
    ruleset = checked(call(SYS_LANDLOCK_CREATE_RULESET, attribute, size, 0))
    if folder >= 0:
        rule = PATH_BENEATH_ATTR.pack(LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR, folder)
        checked(call(SYS_LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0))
    checked(call(SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)
