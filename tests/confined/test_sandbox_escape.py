"""Ways out of the confined child, each tried from inside the real sandbox: every one must fail."""

from __future__ import annotations

import mmap
import os
import re
import resource
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bhyveload import empty_root
from bhyveload.confined.confinement import Subject
from bhyveload.confined.deadline import Deadline
from bhyveload.confined.run import run
from bhyveload.host.console import FdConsole
from bhyveload.host.directory import HostFolder, _open_walking, open_host_directory
from bhyveload.image.raw import RawImage, open_raw
from bhyveload.need import load_all
from bhyveload.sandbox import Sandbox
from support.confined import ANYTHING, FORBIDDEN, as_nobody, only, system_call, try_confined

pytestmark = pytest.mark.skipif(bool(Sandbox().missing), reason=f"this host cannot confine: {Sandbox().missing}")

x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of x86-64")
NOT_THERE = ("ENOENT", "EACCES")  # with an empty root, or by Landlock alone
OPENAT2 = 437
READ = os.O_RDONLY


def openat2(directory: int, name: bytes, flags: int = READ, resolve: int = 0, mode: int = 0) -> int:
    how = struct.pack("=QQQ", flags, mode, resolve)
    return system_call(OPENAT2, directory, name, how, len(how))


def has_empty_root() -> bool:
    """With a host folder: root without CAP_SYS_ADMIN (a container) has none then, for it keeps a right to read it."""
    directory = open_host_directory("/usr")
    try:
        return try_confined(partial(openat2, -100, b"/etc/passwd", os.O_PATH), folder=directory) == "ENOENT"
    finally:
        directory.close()


rooted = pytest.mark.skipif(not has_empty_root(), reason="no mount namespaces here: Landlock and seccomp stand alone")

PLACES = [
    "/etc/passwd",
    "/etc/../etc/passwd",
    "/proc/self/root/etc/passwd",
    "/proc/self/cwd/pyproject.toml",
    "/proc/self/maps",
    "/proc/self/mem",
    "/proc/self/environ",
    "/proc/{parent}/mem",
    "/proc/{parent}/fd/{secret}",
    "/proc/self/fd/{secret}",
    "/dev/tty",
    "/dev/mem",
    "/dev/kvm",
    "/sys/kernel/notes",
    "../../../../../../etc/passwd",
    "link",
]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("the user's own\n")
    path.chmod(0o644)
    return path


@pytest.fixture
def place(request: pytest.FixtureRequest, secret: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(secret.parent)
    os.symlink(secret, "link")
    fd = os.open(secret, READ)
    request.addfinalizer(lambda: os.close(fd))
    return str(request.param).format(parent=os.getpid(), secret=fd)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


@pytest.fixture
def public(secret: Path) -> Iterator[Path]:
    """The same where every user may look: pytest's own folders are closed to others."""
    with tempfile.TemporaryDirectory() as above:
        os.chmod(above, 0o755)
        yield make_folder(Path(above))


def make_folder(above: Path) -> Path:
    path = above / "shared"
    (path / "boot").mkdir(parents=True)
    (path / "boot" / "kernel").write_bytes(b"kernel")
    os.symlink("/etc/passwd", path / "absolute")
    os.symlink("../../secret", path / "boot" / "upwards")
    os.symlink("boot/kernel", path / "inside")
    return path


def in_folder(folder: Path, action: Callable[[int], Any], sandbox: Sandbox | None = None) -> str:
    directory = open_host_directory(str(folder))
    try:
        return try_confined(lambda: action(directory.fd), folder=directory, sandbox=sandbox)
    finally:
        directory.close()


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_no_file_can_be_opened(place: str) -> None:
    assert try_confined(lambda: os.open(place, READ)) == "EACCES"


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_landlock_alone_stops_that(place: str, folder: Path) -> None:
    """With a folder, because without one no descriptor is left for any file."""
    answers = ("EACCES", "ENOENT", "EPERM", "ENXIO")  # /proc/self/fd/N: that descriptor is closed by now
    assert in_folder(folder, lambda _: os.open(place, READ), only(landlock=True)) in answers
    assert try_confined(lambda: os.open(place, READ), sandbox=only()) == "EMFILE"


@pytest.mark.parametrize("place", ["/etc/passwd", "/proc/self/root/etc/passwd", "link"], indirect=True)
def test_seccomp_alone_stops_that(place: str) -> None:
    assert try_confined(lambda: os.open(place, READ), sandbox=only(seccomp=True)) == "EACCES"


def test_without_a_sandbox_all_that_works(secret: Path, folder: Path) -> None:
    """Else the tests above would prove nothing."""
    assert in_folder(folder, lambda _: os.read(os.open(secret, READ), 3), only()) == "done: b'the'"
    assert in_folder(folder, lambda _: os.path.exists("/proc/self/maps"), only()) == "done: True"


def test_openat2_is_refused_without_a_folder(secret: Path) -> None:
    assert try_confined(lambda: openat2(-100, bytes(secret))) == "EACCES"


def test_the_folder_can_be_read(folder: Path) -> None:
    assert in_folder(folder, lambda fd: os.read(openat2(fd, b"boot/kernel"), 10)) == "done: b'kernel'"
    assert in_folder(folder, lambda fd: os.read(openat2(fd, b"inside"), 10)) == "done: b'kernel'"
    directory = open_host_directory(str(folder))

    def look() -> list[object]:
        found: list[object] = []
        listing = directory.open(b"boot")
        while (entry := listing.readdir()) is not None:
            found.append(entry[2])
        file = directory.open(b"/boot/kernel")
        return [sorted(map(str, found)), file.size, file.read(3), file.seek(-2, 2), file.read(9)]

    expected = ["b'.'", "b'..'", "b'kernel'", "b'upwards'"]
    assert try_confined(look, folder=directory) == f"done: {[expected, 6, b'ker', 4, b'el']}"
    directory.close()


@pytest.mark.parametrize(
    "name",
    [b"/etc/passwd", b"../secret", b"absolute", b"boot/upwards", b"/proc/self/root/etc/passwd", b"../shared/../secret"],
)
def test_no_way_leads_out_of_the_folder(folder: Path, secret: Path, name: bytes) -> None:
    """A child in an attacker's hands asks the kernel without RESOLVE_BENEATH: Landlock must hold alone."""
    assert in_folder(folder, lambda fd: openat2(fd, name), only(landlock=True, seccomp=True)) == "EACCES"
    assert in_folder(folder, lambda fd: openat2(fd, name), only()).startswith("done")
    assert in_folder(folder, lambda fd: openat2(fd, name)) in NOT_THERE


# A descriptor opened with O_PATH reads nothing, so Landlock does not look; it tells whether a name exists, and more.
LOOKED_AT = ["/etc/passwd", "/proc/self/root/etc/passwd", "../secret", "../shared/boot/kernel", "boot/upwards"]


def look_at(fd: int, name: str) -> int:
    return os.fstat(openat2(fd, name.encode(), os.O_PATH)).st_size


@rooted
@pytest.mark.parametrize("name", LOOKED_AT)
def test_no_name_outside_the_folder_is_there_at_all(folder: Path, secret: Path, name: str) -> None:
    assert in_folder(folder, lambda fd: look_at(fd, name), only(landlock=True, seccomp=True)).startswith("done")
    assert in_folder(folder, lambda fd: look_at(fd, name)) == "ENOENT"
    assert in_folder(folder, lambda fd: look_at(fd, name), only(empty_root=True)) == "ENOENT"
    assert in_folder(folder, lambda fd: look_at(fd, "boot/kernel")) == "done: 6"


@pytest.mark.parametrize("name", LOOKED_AT)
def test_nor_for_an_ordinary_user(public: Path, name: str) -> None:
    """His empty root is one in a user namespace; where that is not to be had, Landlock and seccomp stand alone."""
    if not as_nobody(lambda: str(has_user_namespaces())).endswith("True"):
        pytest.skip("no user namespaces for ordinary users here")
    assert as_nobody(lambda: in_folder(public, lambda fd: look_at(fd, name))) == "ENOENT"
    assert as_nobody(lambda: in_folder(public, lambda fd: look_at(fd, "boot/kernel"))) == "done: 6"
    owner = os.geteuid() or 65534
    os.chown(public / "boot" / "kernel", owner, -1)
    owned = as_nobody(lambda: in_folder(public, lambda fd: os.fstat(openat2(fd, b"boot/kernel")).st_uid))
    assert owned == f"done: {owner}"


def has_user_namespaces() -> bool:
    """Asked in a process of its own, which then ends."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if empty_root.enter(os.uname().machine, -1, True) else 1)
    return os.waitpid(pid, 0)[1] == 0


@rooted
@pytest.mark.parametrize(
    "place", ["/etc/passwd", "/proc/self/maps", "/dev/null", "../../../../etc/passwd"], indirect=True
)
def test_an_empty_root_alone_holds(place: str, folder: Path) -> None:
    box = only(empty_root=True)
    assert in_folder(folder, lambda _: os.open(place, READ), box) == "ENOENT"
    assert in_folder(folder, lambda _: os.listdir("/"), box) == "done: []"
    assert in_folder(folder, lambda _: os.open("/new", os.O_CREAT | os.O_WRONLY), box) == "EROFS"
    assert in_folder(folder, lambda fd: os.open("boot/new", os.O_CREAT | os.O_WRONLY, dir_fd=fd), box) == "EROFS"


@rooted
def test_a_folder_under_which_others_are_mounted() -> None:
    """The root directory itself: a tree of many mounts, all of them to be seen and none to be written."""
    box = only(empty_root=True)
    assert in_folder(Path("/"), lambda fd: len(os.listdir(openat2(fd, b"proc/self"))) > 5, box) == "done: True"
    new = in_folder(
        Path("/"), lambda fd: openat2(fd, b"tmp/bhyveload-escaped", os.O_CREAT | os.O_WRONLY, mode=0o600), box
    )
    assert new == "EROFS"


@rooted
@pytest.mark.parametrize("version", [1, 2])
def test_an_old_landlock_does_not_let_files_be_emptied(public: Path, version: int) -> None:
    """Before Linux 6.2 open(2) with O_TRUNC passes Landlock: the public is a read-only mount."""
    kernel = public / "boot" / "kernel"
    kernel.chmod(0o666)

    def empty(fd: int) -> int:
        return openat2(fd, b"boot/kernel", os.O_RDONLY | os.O_TRUNC)

    box = Sandbox()
    box._landlock = version
    assert in_folder(public, empty, box) == "EROFS"
    assert kernel.read_bytes() == b"kernel"
    box._empty_root = False
    assert in_folder(public, empty, box).startswith("done")
    assert kernel.read_bytes() == b""


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        (b"boot/kernel", os.O_WRONLY),
        (b"boot/kernel", os.O_RDWR),
        (b"boot/kernel", os.O_RDONLY | os.O_TRUNC),
        (b"new", os.O_WRONLY | os.O_CREAT),
        (b".", os.O_RDWR | os.O_TMPFILE),
    ],
)
def test_the_folder_is_only_read(folder: Path, name: bytes, flags: int) -> None:
    mode = 0o600 if flags & (os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY) else 0
    # Landlock, or the mount before it
    assert in_folder(folder, lambda fd: openat2(fd, name, flags, mode=mode)) in ("EACCES", "EROFS")
    landlock = only(landlock=True, seccomp=True)
    assert in_folder(folder, lambda fd: openat2(fd, name, flags, mode=mode), landlock) == "EACCES"
    assert (folder / "boot" / "kernel").read_bytes() == b"kernel"


def test_the_folder_does_not_make_other_calls_possible(folder: Path) -> None:
    assert in_folder(folder, lambda fd: os.open("boot/kernel", READ, dir_fd=fd)) == "EACCES"
    assert in_folder(folder, lambda fd: os.unlink("boot/kernel", dir_fd=fd)) == FORBIDDEN
    assert in_folder(folder, lambda fd: os.mkdir("x", dir_fd=fd)) == FORBIDDEN


def test_nothing_is_learned_about_names(folder: Path, secret: Path) -> None:
    """Without a folder not even whether a file is there; AT_EMPTY_PATH does not help."""
    number = 262 if os.uname().machine == "x86_64" else 79
    for flags in (0, 0x100, 0x1000):
        look = partial(system_call, number, -100, bytes(secret), bytes(256), flags)
        assert try_confined(look) == "EACCES"
    assert try_confined(lambda: os.stat(secret)) == "EACCES"
    assert try_confined(lambda: os.access(secret, os.R_OK)) == "done: False"
    assert try_confined(lambda: os.readlink("/proc/self/exe")) == "EACCES"
    assert in_folder(folder, lambda fd: os.stat(secret)) == "EACCES"


def test_what_the_parent_has_open_is_closed(secret: Path) -> None:
    inherited = os.open(secret, READ)
    try:
        os.set_inheritable(inherited, True)
        assert try_confined(lambda: os.read(inherited, 3)) == "EBADF"
        # 0 and 1 belong to nobody here: they lead to nothing
        assert try_confined(lambda: os.read(0, 3)) == "done: b''"
    finally:
        os.close(inherited)


def test_descriptors_above_the_limit_are_closed_too(secret: Path) -> None:
    """The limit may have been lowered after they were opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    inherited = os.open(secret, READ)
    limit = max(map(int, os.listdir("/proc/self/fd"))) + 50  # room for what the child is started with
    high = os.dup2(inherited, limit + 50)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        assert try_confined(lambda: os.read(high, 3)) == "EBADF"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(inherited)
        os.close(high)


def run_unused(program: str) -> None:
    os.execv(program, [program])


CALLS: dict[str, Callable[[], Any]] = {
    "execve": lambda: run_unused("/bin/true"),
    "fork": os.fork,
    "socket inet": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "socket unix": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "socket netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "socket packet": lambda: socket.socket(17, socket.SOCK_RAW),
    "socketpair": socket.socketpair,
    "kill the parent": lambda: os.kill(os.getppid(), 0),
    "kill everybody": lambda: os.kill(-1, 0),
    "kill itself": lambda: os.kill(os.getpid(), 0),
    "mmap executable": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "mmap writable and executable": lambda: mmap.mmap(-1, 4096, prot=7),
    "memfd_create": lambda: os.memfd_create("x"),
    "unlink": lambda: os.unlink("/tmp/nothing-there"),
    "mkdir": lambda: os.mkdir("/tmp/bhyveload-escaped"),
    "chmod": lambda: os.chmod("/tmp/nothing-there", 0),
    "chdir": lambda: os.chdir("/"),
    "chroot": lambda: os.chroot("/"),
    "setuid": lambda: os.setuid(0),
    "truncate": lambda: os.ftruncate(2, 0),
    "pipe": os.pipe,
    "sendfile": lambda: os.sendfile(2, 0, 0, 1),
    "splice": lambda: os.splice(0, 2, 1),
    "setpriority": lambda: os.setpriority(os.PRIO_PROCESS, 0, 0),
    "sync": os.sync,
}
X86_CALLS: dict[str, tuple[int | bytes | None, ...]] = {
    "ptrace attach": (101, 16, os.getpid(), 0, 0),
    "process_vm_readv": (310, os.getpid(), 0, 0, 0, 0, 0),
    "process_vm_writev": (311, os.getpid(), 0, 0, 0, 0, 0),
    "io_uring_setup": (425, 8, bytes(120)),
    "clone": (56, 17, 0, 0, 0, 0),
    "clone3": (435, bytes(88), 88),
    "vfork": (58,),
    "unshare": (272, 0x10000000),
    "setns": (308, 0, 0),
    "pidfd_open": (434, os.getpid(), 0),
    "pidfd_getfd": (438, 0, 0, 0),
    "bpf": (321, 0, bytes(72), 72),
    "perf_event_open": (298, bytes(112), 0, -1, -1, 0),
    "userfaultfd": (323, 0),
    "keyctl": (250, 0, 0),
    "mount": (165, b"x", b"/", b"tmpfs", 0, 0),
    "open_by_handle_at": (304, -100, bytes(16), 0),
    "creat": (85, b"/tmp/bhyveload-escaped", 0o600),
    "symlink": (88, b"a", b"/tmp/bhyveload-escaped"),
    "link": (86, b"/etc/passwd", b"/tmp/bhyveload-escaped"),
    "rename": (82, b"/etc/passwd", b"/tmp/bhyveload-escaped"),
    "personality READ_IMPLIES_EXEC": (135, 0x400000),
    "prctl PR_SET_DUMPABLE": (157, 4, 1, 0, 0, 0),
    "prctl PR_SET_PDEATHSIG": (157, 1, 0, 0, 0, 0),
    "pkey_mprotect": (329, 0, 4096, 5, -1),
    "shmat": (30, 0, 0, 0),
    "remap_file_pages": (216, 0, 0, 0, 0, 0),
    "modify_ldt": (154, 0, 0, 0),
    "arch_prctl": (158, 0x1001, 0),
    "tgkill the parent": (234, os.getpid(), os.getpid(), 0),
    "tkill": (200, os.getpid(), 0),
    "rt_sigqueueinfo": (129, os.getpid(), 0, bytes(128)),
    "seccomp": (317, 1, 0, 0),
    "init_module": (175, 0, 0, b""),
    "kexec_load": (246, 0, 0, 0, 0),
    "iopl": (172, 3),
    "setrlimit": (160, 7, bytes(16)),
    "execveat": (322, -1, b"", 0, 0, 0x1000),
    "mprotect of everything": (10, 0, 1 << 46, 4),
    "x32 getpid": (0x40000000 | 39,),
    "x32 execve": (0x40000000 | 520, b"/bin/true", 0, 0),
    "a number that does not exist": (999,),
    "a negative number": (-1,),
}


@pytest.mark.parametrize("name", CALLS)
def test_forbidden_call(name: str) -> None:
    assert try_confined(CALLS[name]) == FORBIDDEN


@x86
@pytest.mark.parametrize("name", X86_CALLS)
def test_forbidden_raw_call(name: str) -> None:
    number, *arguments = X86_CALLS[name]
    assert isinstance(number, int)
    assert try_confined(lambda: system_call(number, *arguments)) == FORBIDDEN


def test_nothing_was_left_behind() -> None:
    assert not os.path.exists("/tmp/bhyveload-escaped")


def test_own_memory_cannot_become_executable() -> None:
    """The pages exist already; mprotect must refuse them."""
    page = mmap.mmap(-1, 4096)
    address = _address_of(page)
    number = 10 if os.uname().machine == "x86_64" else 226
    assert try_confined(lambda: system_call(number, address, 4096, 1)) == "done: 0"
    assert try_confined(lambda: system_call(number, address, 4096, 5)) == FORBIDDEN


def _address_of(page: mmap.mmap) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(page))


def test_the_terminal_cannot_be_typed_on() -> None:
    import fcntl
    import termios

    leader, follower = os.openpty()
    os.dup2(follower, 199)
    try:
        console = FdConsole(199, 199)

        def confined(request: int, argument: bytes) -> str:
            def work(_: object) -> dict[str, Any]:
                try:
                    fcntl.ioctl(199, request, argument)
                except OSError as error:
                    return {"value": error.errno}
                return {"value": 0}

            subject = Subject("the loader", Sandbox(), console=console)
            return str(run(work, subject, Deadline(10), ANYTHING)["value"])

        assert confined(termios.FIONREAD, bytes(4)) == "0"
        assert confined(termios.TIOCSTI, b"r") == "25"  # ENOTTY
        assert confined(0x541C, b"\x03" + bytes(7)) == "25"  # TIOCLINUX
        assert confined(termios.TCSETS, bytes(64)) == "25"
        os.set_blocking(leader, False)
        with pytest.raises(BlockingIOError):
            os.read(leader, 100)
    finally:
        for fd in (leader, follower, 199):
            os.close(fd)


def test_a_read_only_disk_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(1024))
    fd = os.open(path, READ)
    disk = RawImage(fd, str(path), read_only=True)
    assert try_confined(lambda: os.pwrite(fd, b"x", 0), disks=[disk]) == "EBADF"
    assert try_confined(lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDWR), disks=[disk]) == "EACCES"
    load_all()  # a disk is written only when nothing has to be imported any more
    writable = open_raw(str(path))
    assert try_confined(lambda: writable.write(0, b"good"), disks=[writable]) == "done: None"
    assert path.read_bytes()[:5] == b"good\0"


def test_a_file_cannot_grow_without_end(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(1024))
    disk = open_raw(str(path))
    assert try_confined(lambda: os.pwrite(disk.descriptor, b"x", 2 << 30), disks=[disk]) == "EFBIG"
    box = Sandbox()
    box._seccomp = False
    assert try_confined(lambda: os.pwrite(disk.descriptor, b"x", 2 << 30), disks=[disk], sandbox=box) == "EFBIG"


def test_a_disk_does_not_become_longer(tmp_path: Path) -> None:
    """Not even by a byte: a sparse hole of a gigabyte would be one pwrite(2)."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(1024))
    disk = open_raw(str(path))
    fd = disk.descriptor

    def seek_and_write() -> int:
        os.lseek(fd, 0, os.SEEK_END)
        return os.write(fd, b"x")

    assert try_confined(lambda: os.pwrite(fd, bytes(513), 512), disks=[disk]) == "EFBIG"
    assert try_confined(lambda: os.pwrite(fd, b"x", 1 << 20), disks=[disk]) == "EFBIG"
    assert try_confined(lambda: os.pwritev(fd, [b"x"], 0), disks=[disk]) == "EPERM"
    assert try_confined(seek_and_write, disks=[disk]) == "EPERM"
    assert path.stat().st_size == 1024
    assert try_confined(lambda: os.pwrite(fd, bytes([1]) * 512, 512), disks=[disk]) == "done: 512"
    assert path.read_bytes() == bytes(512) + bytes([1]) * 512


def test_memory_is_bounded() -> None:
    assert try_confined(lambda: len(bytearray(512 << 20))) == f"done: {512 << 20}"
    assert try_confined(lambda: len(bytearray(3 << 30))) == "MemoryError"


def test_landlock_alone_stops_networks_and_signals() -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(b"\0bhyveload-test-%d" % os.getpid())
    listener.listen()
    tcp = socket.create_server(("127.0.0.1", 0))
    port = tcp.getsockname()[1]

    def to_unix() -> None:
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect(b"\0bhyveload-test-%d" % os.getppid())

    def to_tcp() -> None:
        socket.socket().connect(("127.0.0.1", port))

    box = only(landlock=True)
    version = Sandbox()._landlock
    with listener, tcp:
        # RLIMIT_NOFILE 0 already forbids the socket; that is a layer, too
        assert try_confined(to_tcp, sandbox=box) == "EMFILE"
        if version >= 6:
            assert try_confined(lambda: os.kill(os.getppid(), 0), sandbox=box) == "EPERM"


def test_no_process_is_started_without_seccomp_either() -> None:
    """As a user without rights (nobody, when root runs this): RLIMIT_NPROC does not count for root."""
    sandbox = Sandbox()
    sandbox._seccomp = False
    assert try_confined(os.fork, sandbox=sandbox) == "EAGAIN"


def test_late_imports_are_loud() -> None:
    assert "colorsys" not in sys.modules
    assert re.match(
        r"internal error in the loader: LateImport: colorsys ", try_confined(lambda: __import__("colorsys"))
    )
    assert re.match(r"internal error in the loader: LateImport: ", try_confined(lambda: "x".encode("cp1250")))


# A kernel or a container's filter without openat2(2): the folder is looked through name by name


@pytest.fixture
def walked(folder: Path) -> Iterator[HostFolder]:
    directory = HostFolder(os.open(folder, os.O_PATH | os.O_DIRECTORY), _open_walking)
    assert directory.walks
    yield directory
    directory.close()


def test_a_folder_is_looked_through_without_openat2(walked: HostFolder) -> None:
    def look() -> list[object]:
        listing = walked.open(b"boot")
        names = []
        while (entry := listing.readdir()) is not None:
            names.append(entry[2])
        return [sorted(names), walked.open(b"/boot/kernel").read(9), walked.open(b"inside").read(9)]

    expected = [[b".", b"..", b"kernel", b"upwards"], b"kernel", b"kernel"]
    assert try_confined(look, folder=walked) == f"done: {expected}"
    for name in (b"absolute", b"boot/upwards", b"../secret"):
        assert "leads out of the host folder" in try_confined(partial(walked.open, name), folder=walked)


def test_the_walk_s_calls_lead_nowhere_else(walked: HostFolder, secret: Path) -> None:
    """openat and readlinkat pass the filter then: Landlock and the empty root hold, and nothing is opened to write."""
    landlock = only(landlock=True, seccomp=True)
    fd = walked.fd
    for name in (bytes(secret), b"/etc/passwd", b"../secret", b"absolute"):
        read = partial(os.open, name, READ, dir_fd=fd)
        assert try_confined(read, folder=walked) in NOT_THERE
        assert try_confined(read, folder=walked, sandbox=landlock) == "EACCES"
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_TRUNC, os.O_CREAT, os.O_TMPFILE | os.O_RDWR):
        assert try_confined(partial(os.open, b"boot/kernel", flags, dir_fd=fd), folder=walked) == "EACCES"
    assert try_confined(lambda: os.open("boot/kernel", READ, dir_fd=fd)) == "EACCES", "without a folder"


def test_a_folder_that_could_not_be_looked_through_is_refused_before_the_fork(walked: HostFolder) -> None:
    """openat(2) in the filter without Landlock would open everything."""
    said = try_confined(lambda: 5, folder=walked, sandbox=only(seccomp=True))
    assert said == "-h needs openat2(2) (Linux 5.6) or Landlock, and this kernel or container has neither"
    assert try_confined(lambda: walked.open(b"inside").read(3), folder=walked, sandbox=only()) == "done: b'ker'"
