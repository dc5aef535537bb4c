"""QEMU's box: what the program that runs a hostile guest may still do when the guest has taken it over.

It gets its files as descriptors (files.py), so by name it needs its own program, libraries and firmware, to read, and
nothing else.  Landlock is entered between fork and exec; QEMU's own seccomp filter (-sandbox) comes on top, and, where
root starts it, another user.  Facts: docs/security.md.
"""

from __future__ import annotations

import _ctypes
import _signal
import mmap
import os
import resource
import stat
import struct

from bhyveload.errors import HandoffError
from bhyveload.handoff.qemu.calls import refusing_program
from bhyveload.sandbox import (
    CAPABILITY_VERSION_3,
    LANDLOCK_ACCESS_FS_READ_DIR,
    LANDLOCK_ACCESS_FS_READ_FILE,
    LANDLOCK_RULE_PATH_BENEATH,
    LANDLOCK_VERSIONS,
    PATH_BENEATH_ATTR,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    RULESET_ATTR,
    SECCOMP_SET_MODE_FILTER,
    SYS_CAPSET,
    SYS_CLOSE_RANGE,
    SYS_LANDLOCK_ADD_RULE,
    SYS_LANDLOCK_CREATE_RULESET,
    SYS_LANDLOCK_RESTRICT_SELF,
    SYS_SECCOMP,
    Sandbox,
)
from bhyveload.syscall import Pointer, call, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

LANDLOCK_ACCESS_FS_EXECUTE, LANDLOCK_ACCESS_FS_WRITE_FILE = 1 << 0, 1 << 1
LANDLOCK_ACCESS_FS_IOCTL_DEV = 1 << 15
LANDLOCK_ACCESS_NET_ALL = 3  # bind and connect of TCP
SECCOMP = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

_RUN = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR
_READ = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR
_READ_WRITE = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE
# the rights that a rule on a file may have
_ON_FILES = _READ_WRITE | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_IOCTL_DEV
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/gnu/store")
_FIRMWARE = ("qemu", "qemu-kvm", "seabios", "ipxe", "vgabios", "edk2", "OVMF", "locale", "zoneinfo")
_SETTINGS = ("/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime", "/etc/qemu", "/usr/share/zoneinfo")
_RESOLVER = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/run/systemd/resolve")
_PROGRAMS = ("/bin", "/usr/bin", "/usr/local/bin")  # for a script in place of QEMU
_KVM = "/dev/kvm"
_CLOSE_RANGE_CLOEXEC, _LAST_DESCRIPTOR = 4, 0xFFFFFFFF
_BEGINNING = 8 << 20  # bytes of a program: the names of its libraries are there


def raise_memory_lock() -> None:
    """Let this process lock all its memory; root of a container (without CAP_SYS_RESOURCE) has what it is given."""
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))


class Box:
    """Prepared by the parent, entered by the child with ``enter`` right before it becomes ``program``.

    ``missing``: what this host lacks, a line each.  ``identity``: (user, group) that it becomes, or None.
    """

    __slots__ = (
        "_abi",
        "_code",
        "_files",
        "_groups",
        "_memory_lock",
        "_network",
        "_own_filter",
        "_seccomp",
        "core",
        "identity",
        "missing",
        "program",
    )

    def __init__(
        self,
        program: str,
        *,
        user: str | None = None,
        kvm: bool = False,
        network: bool = False,
        resolver: bool = False,
        core: bool = False,
        memory_lock: bool = False,
        folders: Iterable[tuple[str, bool]] = (),
        confined: bool = True,
    ) -> None:
        """``network``: it may use TCP; ``resolver``: it looks names up for the guest; ``core``: leave core dumps
        possible; ``folders``: (path, writable) of host folders that the guest was given.

        Raises HandoffError (``program`` is not there), UsageError (no such user).
        """
        self.program = _found(program)
        self.core = core
        self._memory_lock = memory_lock
        self._network = network
        self._groups: list[int] = []
        self._files: list[tuple[str, int]] = []
        self.identity: tuple[int, int] | None = None
        self._abi = 0
        self._seccomp = self._own_filter = False
        self.missing: tuple[str, ...] = ()
        if not confined:
            return
        sandbox = Sandbox(user)
        self._abi = sandbox.landlock
        self._seccomp = sandbox.seccomp
        self.missing = sandbox.missing
        self._own_filter = _uses_seccomp(self.program)
        self.identity = sandbox.identity
        folders = list(folders)
        if folders and user is None and self._abi:
            self.identity = None  # root's folders are often root's alone; Landlock leaves it those and nothing else
        if self.identity is not None and kvm and not self._reaches_kvm():
            self.identity = None
            self.missing += (f"{_KVM} is root's alone: QEMU stays root, without its capabilities",)
        for path in (self.program, *_interpreters(self.program)):
            prefix = os.path.dirname(os.path.dirname(path))
            self._files += [(path, _RUN), *((library, _RUN) for library in _libraries(prefix))]
            self._files += [(firmware, _READ) for firmware in _firmware(prefix)]
        if _interpreters(self.program):
            self._files += [(path, _RUN) for path in _PROGRAMS]
        self._files += [(path, _READ) for path in _SETTINGS + (_RESOLVER if resolver else ())]
        self._files += [(path, _READ_WRITE) for path in ("/dev/null", "/dev/zero")]
        self._files += [(path, LANDLOCK_ACCESS_FS_READ_FILE) for path in ("/dev/urandom", "/dev/random")]
        if kvm:
            self._files.append((_KVM, _READ_WRITE | LANDLOCK_ACCESS_FS_IOCTL_DEV))
        for path, writable in folders:
            self._files.append((path, -1 if writable else _READ))

    def _reaches_kvm(self) -> bool:
        """Whether the other user may open /dev/kvm: as everybody, or by its group, which it then gets."""
        try:
            status = os.stat(_KVM)
        except OSError:
            return True  # QEMU says so
        if status.st_mode & 0o006 == 0o006:
            return True
        if status.st_mode & 0o060 == 0o060:
            self._groups = [status.st_gid]
            return True
        return False

    def arguments(self) -> list[str]:
        """What of the box is QEMU's own."""
        return ["-sandbox", SECCOMP] if self._own_filter else []

    def entry(self, reopened: Sequence[int], given: Sequence[int] = ()) -> tuple[Callable[[], None], list[int]]:
        """What the child calls after fork, and descriptors to close in the parent afterwards.

        ``reopened``: descriptors that QEMU opens once more through /proc/self/fd; ``given``: those that it inherits
        besides the standard ones, and no other.  Everything is looked up now: a fork must neither import nor look for
        anything.
        """
        inherit = _inheritance(given)
        parent = os.getpid()
        ruleset = self._ruleset(reopened) if self._abi else -1
        confined = bool(self._files)
        identity, groups, core, lock = self.identity, self._groups, self.core, self._memory_lock
        capset = SYS_CAPSET.get(os.uname().machine, -1)
        header, none = struct.pack("=Ii", CAPABILITY_VERSION_3, 0), bytes(24)
        root = os.geteuid() == 0
        seccomp, filters = self._filters() if confined else (-1, b"")

        def in_child() -> None:
            inherit()
            if confined:
                if not core:
                    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                if root and lock:
                    raise_memory_lock()
                if identity is not None:
                    os.setgroups(groups)
                    os.setresgid(identity[1], identity[1], identity[1])
                    os.setresuid(identity[0], identity[0], identity[0])
                prctl(PR_SET_NO_NEW_PRIVS, 1)
                if root and capset >= 0:
                    for number in range(64):
                        prctl(_PR_CAPBSET_DROP, number)
                    call(capset, header, none)
            # Until exec a handler of ours would take the signal, and nobody act on it: QEMU would run on alone
            _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
            prctl(PR_SET_PDEATHSIG, _signal.SIGTERM)  # behind the change of user, which resets it
            if ruleset >= 0 and call(SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0):
                os._exit(126)
            if filters and call(seccomp, SECCOMP_SET_MODE_FILTER, 0, filters):
                os._exit(126)
            if os.getppid() != parent:
                os._exit(1)

        return in_child, [ruleset] if ruleset >= 0 else []

    def _filters(self) -> tuple[int, bytes]:
        """seccomp(2)'s number and a struct sock_fprog; b"" where this kernel has no filters."""
        machine = os.uname().machine
        if not self._seccomp:
            return -1, b""
        self._code = refusing_program(machine, self._network)  # the structure only points to it
        return SYS_SECCOMP[machine], struct.pack("=H6x8s", len(self._code) // 8, bytes(Pointer(self._code)))

    def _ruleset(self, reopened: Sequence[int]) -> int:
        """A Landlock ruleset.  Raises HandoffError."""
        files, network, scopes, size = next(row[1:] for row in reversed(LANDLOCK_VERSIONS) if row[0] <= self._abi)
        attribute = RULESET_ATTR.pack(files, 0 if self._network else network, scopes)[:size]
        ruleset = call(SYS_LANDLOCK_CREATE_RULESET, attribute, size, 0)
        if ruleset < 0:
            raise _not_confined(_ctypes.get_errno())
        try:
            for path, access in self._files:
                try:
                    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
                except OSError:
                    continue  # this host does not have it
                try:
                    _allow(ruleset, fd, files if access == -1 else access & files)
                finally:
                    os.close(fd)
            for fd in reopened:
                _allow(ruleset, fd, _READ_WRITE & files)
        except BaseException:
            os.close(ruleset)
            raise
        return ruleset


_PR_CAPBSET_DROP = 24


def _allow(ruleset: int, fd: int, access: int) -> None:
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        access &= _ON_FILES
    rule = PATH_BENEATH_ATTR.pack(access, fd)
    if call(SYS_LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0):
        number = _ctypes.get_errno()
        if not _is_anonymous(fd):
            raise _not_confined(number)


def _is_anonymous(fd: int) -> bool:
    """Whether it lies on a file system of the kernel's own, which Landlock does not guard (pipes, memfd)."""
    try:
        return not os.readlink(f"/proc/self/fd/{fd}").startswith("/") or "memfd:" in os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return False


def _not_confined(number: int) -> HandoffError:
    return HandoffError(
        f"QEMU cannot be confined: Landlock: {os.strerror(number)}", "--no-sandbox runs it with all your rights"
    )


def _found(program: str) -> str:
    """The real path of ``program``.  Raises HandoffError."""
    for folder in os.get_exec_path():  # shutil.which() costs the import of every compressor
        path = os.path.join(folder, program)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return os.path.realpath(path)
    raise HandoffError(f"{program} is not installed", "apt install qemu-system-x86")


def _uses_seccomp(program: str) -> bool:
    """Whether this QEMU was built with a filter of its own: then it needs the library, and says so at its beginning."""
    try:
        with open(program, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(b"libseccomp.so", 0, _BEGINNING) >= 0
    except (OSError, ValueError):
        return False


def _interpreters(program: str) -> list[str]:
    """What runs ``program`` where it is a script, as the wrappers of some distributions are."""
    try:
        with open(program, "rb") as file:
            line = file.read(256).partition(b"\n")[0]
    except OSError:
        return []
    if not line.startswith(b"#!"):
        return []
    words = os.fsdecode(line[2:]).split()
    found = [os.path.realpath(words[0])] if words else []
    if words[1:] and os.path.basename(words[0]) == "env":
        found += [path for folder in os.get_exec_path() if os.path.isfile(path := os.path.join(folder, words[1]))][:1]
    return [real for path in found for real in dict.fromkeys((path, os.path.realpath(path)))]


def _libraries(prefix: str) -> list[str]:
    """Where shared libraries and QEMU's modules are."""
    own = [os.path.join(prefix, name) for name in ("lib", "lib64", "libexec")] if prefix != "/" else []
    named = [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if os.path.isabs(path)]
    return [*_LIBRARIES, *own, *named]


def _firmware(prefix: str) -> list[str]:
    shares = dict.fromkeys(os.path.join(base, "share") for base in (prefix, "/usr", "/usr/local"))
    built = [os.path.join(prefix, name) for name in ("pc-bios", "build/qemu-bundle", "build/pc-bios")]  # not installed
    return [*built, *(os.path.join(share, name) for share in shares for name in _FIRMWARE)]


def _inheritance(given: Sequence[int]) -> Callable[[], None]:
    """What a child calls so that the program it becomes has the standard descriptors and ``given``.

    Not subprocess's pass_fds: where two of those are neighbours, it closes all that there might be one by one behind
    the box, where /proc cannot be read: 20,000 calls, or a million in a container (_posixsubprocess.c,
    _close_range_except).
    """
    kept = sorted({0, 1, 2, *given})
    ends = [*(fd - 1 for fd in kept[1:]), _LAST_DESCRIPTOR]
    others = [(fd + 1, end) for fd, end in zip(kept, ends, strict=True) if fd < end]

    def inherit() -> None:
        if any(call(SYS_CLOSE_RANGE, first, last, _CLOSE_RANGE_CLOEXEC) for first, last in others):
            for name in os.listdir("/dev/fd"):  # Linux before 5.11
                try:
                    os.set_inheritable(int(name), False)
                except OSError:
                    pass  # that of this folder itself
        for fd in kept:
            os.set_inheritable(fd, True)

    return inherit
