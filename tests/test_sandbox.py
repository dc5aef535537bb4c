"""What the sandbox is made of: numbers against the kernel's headers, hosts without this or that, users, Capsicum."""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bhyveload import capsicum, sandbox, seccomp, syscall
from bhyveload.cli import bhyveload
from bhyveload.errors import SandboxError, UsageError
from bhyveload.host.directory import open_host_directory
from bhyveload.image.raw import open_raw
from bhyveload.sandbox import Sandbox
from bhyveload.seccomp import ALLOW, KILL, NONE, TABLE, program
from bhyveload.syscall import Capabilities
from support.confined import try_confined
from support.golden import Record
from support.places import DATA

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux's confinement")
confining = pytest.mark.skipif(bool(Sandbox().missing), reason=f"this host cannot confine: {Sandbox().missing}")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="root's way into the sandbox")
as_user = pytest.mark.skipif(os.geteuid() == 0, reason="an ordinary user's way into the sandbox")


def header_numbers(path: str, pattern: str) -> dict[str, int]:
    if not os.path.exists(path):
        pytest.skip(f"{path}: the kernel's headers are not installed (linux-libc-dev)")
    return {name: int(number) for name, number in re.findall(pattern, Path(path).read_text())}


def test_numbers_are_those_of_x86_64() -> None:
    known = header_numbers("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", r"#define __NR_(\w+) (\d+)")
    assert {rule[0]: rule[1] for rule in TABLE} == {rule[0]: known[rule[0]] for rule in TABLE}
    for table, name in (
        (sandbox.SYS_SECCOMP, "seccomp"),
        (sandbox.SYS_PRCTL, "prctl"),
        (sandbox.SYS_CAPGET, "capget"),
        (sandbox.SYS_CAPSET, "capset"),
    ):
        assert table["x86_64"] == known[name]


def test_numbers_are_those_of_aarch64() -> None:
    known = header_numbers("/usr/include/asm-generic/unistd.h", r"#define __NR(?:3264)?_(\w+) (\d+)")
    known["newfstatat"] = known["fstatat"]
    assert {rule[0]: rule[2] for rule in TABLE} == {rule[0]: known.get(rule[0], NONE) for rule in TABLE}
    for table, name in (
        (sandbox.SYS_SECCOMP, "seccomp"),
        (sandbox.SYS_PRCTL, "prctl"),
        (sandbox.SYS_CAPGET, "capget"),
        (sandbox.SYS_CAPSET, "capset"),
    ):
        assert table["aarch64"] == known[name]


def test_every_rule_has_its_reason_and_stands_once() -> None:
    names = [rule[0] for rule in TABLE]
    assert len(names) == len(set(names))
    assert all(len(rule[4]) > 3 for rule in TABLE)


class Machine:
    """struct seccomp_data through a BPF program, by the manual of seccomp(2): a second opinion."""

    def __init__(
        self,
        machine: str,
        folder: bool = False,
        pid: int = 77,
        disks: Sequence[tuple[int, int]] = (),
        walk: bool = False,
    ) -> None:
        code = program(machine, pid, folder, disks, walk)
        self.code = [seccomp._FILTER.unpack_from(code, at) for at in range(0, len(code), 8)]
        self.arch = seccomp.AUDIT_ARCH[machine]

    def answer(self, number: int, *arguments: int, arch: int | None = None) -> int:
        words = [number & 0xFFFFFFFF, self.arch if arch is None else arch, 0, 0]
        for value in (*arguments, 0, 0, 0, 0, 0, 0)[:6]:
            words += [value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF]
        at = accumulator = steps = index = 0
        memory: dict[int, int] = {}
        while True:
            steps += 1
            assert steps < 1000
            code, yes, no, k = self.code[at]
            at += 1
            if code == 0x06:
                return int(k)
            if code == 0x20:
                accumulator = words[k // 4]
            elif code == 0x60:
                accumulator = memory[k]
            elif code == 0x02:
                memory[k] = accumulator
            elif code == 0x07:
                index = accumulator
            elif code in (0x04, 0x0C):
                accumulator = accumulator + (k if code == 0x04 else index) & 0xFFFFFFFF
            elif code == 0x05:
                at += k
            else:
                test = {
                    0x15: accumulator == k,
                    0x25: accumulator > k,
                    0x35: accumulator >= k,
                    0x3D: accumulator >= index,
                    0x45: bool(accumulator & k),
                }[code]
                at += yes if test else no


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_program_answers_as_the_table_says(machine: str) -> None:
    bpf, with_folder = Machine(machine), Machine(machine, folder=True)
    numbers = {name: on_x86 if machine == "x86_64" else on_arm for name, on_x86, on_arm, _, _ in TABLE}
    answers = {numbers[name]: answer for name, _, _, answer, _ in TABLE}
    for number in range(600):
        answer = answers.get(number)
        if answer is None:
            assert bpf.answer(number) == KILL
        elif isinstance(answer, int):
            assert bpf.answer(number, 2**64 - 1, 2**64 - 1, 2**64 - 1) == answer
        elif answer == seccomp.FOLDER:
            assert (bpf.answer(number), with_folder.answer(number)) == (seccomp.ERRNO | 13, ALLOW)
        elif answer == seccomp.WALK:
            assert (bpf.answer(number), with_folder.answer(number)) == (seccomp.ERRNO | 13,) * 2
        elif answer in (seccomp.WITHIN, seccomp.NO_DISK):
            assert bpf.answer(number, 5, 0, 100, 1 << 40) == ALLOW
    for name, argument, good, bad, otherwise in (
        ("mmap", 2, (0, 1, 2, 3), (4, 5, 6, 7, 0xFFFFFFFF), KILL),
        ("mprotect", 2, (0, 1, 2, 3), (4, 5, 6, 7), KILL),
        ("tgkill", 0, (77,), (76, 78, 0, 0xFFFFFFFF), KILL),
        ("ioctl", 1, (0x541B,), (0x5412, 0x5401, 0x541C, 0), seccomp.ERRNO | 25),
        ("newfstatat", 3, (0x1000, 0x1100), (0, 0x100), seccomp.ERRNO | 13),
    ):
        for value in good:
            assert with_folder.answer(numbers[name], *[0] * argument, value) == ALLOW
            allowed = otherwise if name == "newfstatat" else ALLOW
            assert bpf.answer(numbers[name], *[0] * argument, value) == allowed
        for value in bad:
            assert with_folder.answer(numbers[name], *[0] * argument, value) == otherwise
            assert bpf.answer(numbers[name], *[0] * argument, value) == otherwise


SIZES = (0, 512, 1 << 20, (1 << 32) - 1, 1 << 32, (1 << 32) + 512, 5 << 32, 1 << 62)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("size", SIZES)
def test_a_disk_is_written_where_it_is_and_nowhere_else(machine: str, size: int) -> None:
    bpf = Machine(machine, disks=[(9, 512), (7, size), *((fd, 1) for fd in range(20, 52))])
    numbers = {name: on_x86 if machine == "x86_64" else on_arm for name, on_x86, on_arm, _, _ in TABLE}
    pwrite = numbers["pwrite64"]
    edges = {at + by for at in (*SIZES, 1 << 31, 1 << 33) for by in (-513, -1, 0, 1, 512)}
    for position in sorted(edge for edge in edges if 0 <= edge < 1 << 63):
        for count in (0, 1, 512, 513, (1 << 31) + 5, (1 << 32) - 1, 1 << 32, 1 << 63):
            fits = position + count <= size and count < 1 << 32
            assert bpf.answer(pwrite, 7, 0, count, position) == (ALLOW if fits else seccomp.ERRNO | 27)
            assert bpf.answer(pwrite, 8, 0, count, position) == ALLOW  # guest memory
    for name in ("write", "writev", "pwritev", "pwritev2"):
        assert bpf.answer(numbers[name], 7, 0, 1, 0) == seccomp.ERRNO | 1
        assert bpf.answer(numbers[name], 51, 0, 1, 0) == seccomp.ERRNO | 1
        assert bpf.answer(numbers[name], 8, 0, 1, 0) == ALLOW


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_walk_opens_files_to_read_them_and_for_nothing_else(machine: str) -> None:
    without, walking = Machine(machine, folder=True), Machine(machine, folder=True, walk=True)
    numbers = {name: on_x86 if machine == "x86_64" else on_arm for name, on_x86, on_arm, _, _ in TABLE}
    assert walking.answer(numbers["readlinkat"]) == ALLOW
    assert without.answer(numbers["readlinkat"]) == seccomp.ERRNO | 13
    for flags in (os.O_RDONLY, os.O_PATH, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK):
        assert walking.answer(numbers["openat"], 3, 0, flags) == ALLOW
        assert without.answer(numbers["openat"], 3, 0, flags) == seccomp.ERRNO | 13
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_TMPFILE & ~os.O_DIRECTORY):
        assert walking.answer(numbers["openat"], 3, 0, flags | os.O_CLOEXEC) == seccomp.ERRNO | 13


def test_other_architectures_are_killed() -> None:
    for arch in (0x40000003, 0xC00000B7, 0, 0xFFFFFFFF):  # i386, aarch64
        assert Machine("x86_64").answer(0, arch=arch) == KILL
    for arch in (0x40000028, 0xC000003E):  # arm, x86-64
        assert Machine("aarch64").answer(63, arch=arch) == KILL
    for number in (0x40000000, 0x40000027, 0x40000208, 0xFFFFFFFF, 0x80000000):
        assert Machine("x86_64").answer(number) == KILL


@linux
def test_a_host_without_the_means_is_told_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "call", lambda number, *_: -1)
    box = Sandbox()
    assert any("no Landlock" in lack for lack in box.missing)
    assert any("no seccomp" in lack for lack in box.missing)
    with pytest.raises(SandboxError, match=r"^--require-sandbox: this kernel offers no Landlock"):
        Sandbox(required=True)


@pytest.fixture
def signals() -> Iterator[None]:
    """The program keeps its handlers to its end; here it is a guest."""
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@linux
@pytest.mark.usefixtures("signals")
def test_the_program_on_such_a_host(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """It says so once for each lack and goes on with what there is; --require-sandbox ends it."""
    real = syscall.call
    refused = {sandbox.SYS_LANDLOCK_CREATE_RULESET, *sandbox.SYS_SECCOMP.values()}

    def call(number: int, *arguments: object) -> int:
        return -1 if number in refused else real(number, *arguments)

    monkeypatch.setattr(sandbox, "call", call)
    (disk,) = Record("current", "plain").disks()
    words = ["bhyveload", "--batch", "--dry-run", "-d", f"/proc/self/fd/{disk.descriptor}"]
    monkeypatch.setattr(sys, "argv", words)
    assert bhyveload.main() == 0
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("bhyveload: ")]
    assert [line.partition(" (")[0].partition(" filters")[0] for line in told] == [
        "bhyveload: sandbox: this kernel offers no Landlock",
        "bhyveload: sandbox: this kernel offers no seccomp",
    ]
    monkeypatch.setattr(sys, "argv", [*words, "--require-sandbox"])
    assert bhyveload.main() == 77
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("bhyveload: ")]
    assert len(told) == 1
    assert "--require-sandbox: this kernel offers no Landlock" in told[0]


@linux
def test_a_processor_without_a_table_is_told_about(monkeypatch: pytest.MonkeyPatch) -> None:
    class Names:
        machine = "riscv64"

    monkeypatch.setattr(os, "uname", Names)
    assert any("no seccomp" in lack for lack in Sandbox().missing)


@linux
@pytest.mark.parametrize("version", range(1, 8))
def test_every_version_of_landlock(version: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A newer kernel takes what an older one knows; nothing can be opened under any of them."""
    box = Sandbox()
    if box._landlock < version:
        pytest.skip(f"this kernel's Landlock has version {box._landlock}")
    box._landlock = version
    box._seccomp = box._empty_root = False
    box._identity = None
    directory = open_host_directory(str(tmp_path))
    assert try_confined(lambda: os.open("/etc/passwd", os.O_RDONLY), sandbox=box, folder=directory) == "EACCES"
    assert try_confined(lambda: os.mkdir(tmp_path / "x"), sandbox=box, folder=directory) == "EACCES"
    directory.close()


@confining
@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_old_landlock_is_missing_protection_of_a_folder(
    version: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Before version 3 it lets files be emptied: told with -h, and not enough for --require-sandbox."""
    real = syscall.call

    def ask(number: int, *arguments: object) -> int:
        asked = number == sandbox.SYS_LANDLOCK_CREATE_RULESET and arguments[0] is None
        return version if asked else real(number, *arguments)

    monkeypatch.setattr(sandbox, "call", ask)
    assert Sandbox().missing == ()
    lacks = Sandbox(folder=True).missing
    assert bool(lacks) == (version < 3)
    words = ["bhyveload", "--dry-run", "--batch", "--require-sandbox", "-h", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    assert (bhyveload.main() == 77) == (version < 3)
    assert ("does not keep files in the -h folder from being emptied" in capfd.readouterr().err) == (version < 3)
    directory = open_host_directory(str(tmp_path))
    said = try_confined(lambda: 5, sandbox=Sandbox(required=True), folder=directory)  # a library's user
    assert said == "done: 5" if version >= 3 else said.startswith("--require-sandbox: this kernel's Landlock")
    directory.close()


@linux
def test_a_failing_step_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(version: int, folder: int) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(sandbox, "_restrict_files", refuse)
    if not Sandbox()._landlock:
        pytest.skip("no Landlock here")
    assert try_confined(lambda: None) == "the loader cannot be confined: Landlock: Cannot allocate memory"


@confining
def test_what_a_loader_does_goes_on_working(tmp_path: Path) -> None:
    import select
    import time

    path = tmp_path / "disk"
    path.write_bytes(b"data" * 1024)
    disk = open_raw(str(path))

    def work() -> object:
        before = time.monotonic()
        time.sleep(0.001)
        select.select((), (2,), (), 0)
        grown = bytearray(64 << 20)
        grown.extend(bytes(64 << 20))
        return [
            bytes(disk.read(4, 4)),
            os.pread(disk.descriptor, 4, 0),
            time.monotonic() > before,
            time.time() > 0,
            len(os.urandom(8)),
            len(grown),
            os.strerror(2),
        ]

    expected = [b"data", b"data", True, True, 8, 128 << 20, "No such file or directory"]
    assert try_confined(work, disks=[disk]) == f"done: {expected}"


@confining
def test_limits() -> None:
    def limits() -> list[int]:
        names = (resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)
        return [resource.getrlimit(name)[1] for name in names]

    box = Sandbox()
    box._seccomp = False
    assert try_confined(limits, sandbox=box) == "done: [0, 0, 0]"


@confining
def test_core_dumps_when_asked_for() -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    box = Sandbox(core=True)
    box._seccomp = False
    assert try_confined(lambda: resource.getrlimit(resource.RLIMIT_CORE)[1], sandbox=box) == f"done: {hard}"


@linux
def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    """Kill the process that waits for a confined child: the child must not stay."""
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            os.close(reading)
            box = Sandbox()
            if os.fork() == 0:
                box.enter([writing, 2])
                os.write(writing, b"in")
                import time

                time.sleep(60)
                os._exit(0)
            os.close(writing)
            os.wait()
        finally:
            os._exit(1)
    os.close(writing)
    assert os.read(reading, 2) == b"in"
    os.kill(parent, 9)
    os.waitpid(parent, 0)
    assert os.read(reading, 2) == b""  # the last holder of the pipe is gone
    os.close(reading)


@confining
def test_a_sandbox_made_before_a_fork() -> None:
    """A library user's worker process gets it from the process that made it."""
    box = Sandbox()
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if try_confined(lambda: 5, sandbox=box) == "done: 5" else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("root:x:0:0::/:/bin/sh\nnobody:x:65534:65533:nobody:/:/bin/false\n", (65534, 65533)),
        ("nobody:*:99:98::/:", (99, 98)),
        ("nobodyelse:x:7:7::/:\n", None),
        ("# nobody:x:7:7::/:\n", None),
        ("nobody:x:0:0::/:\n", None),
        ("nobody:x:-2:-2::/:\n", None),
        ("nobody:x:7\n", None),
        ("+nobody::::::\n", None),
        ("", None),
    ],
)
def test_who_nobody_is(tmp_path: Path, text: str, found: tuple[int, int] | None) -> None:
    """As passwd(5) has it; where that does not say, the C library is asked."""
    (tmp_path / "passwd").write_text(text)
    assert sandbox._nobody(str(tmp_path / "passwd")) == found
    assert sandbox._nobody(str(tmp_path / "none")) is None


@as_root
@confining
def test_root_becomes_nobody() -> None:
    nobody = pwd.getpwnam("nobody")
    box = Sandbox()
    box._seccomp = False
    assert try_confined(lambda: [*os.getresuid(), *os.getresgid(), os.getgroups()], sandbox=box) == (
        f"done: {[*[nobody.pw_uid] * 3, *[nobody.pw_gid] * 3, []]}"
    )


@as_root
@confining
def test_root_s_folder_is_read_nevertheless(tmp_path: Path) -> None:
    """-h of root's own folder, as on FreeBSD: only there, and not with a --user of one's own choice."""
    (tmp_path / "file").write_text("hello")
    (tmp_path / "file").chmod(0o600)
    tmp_path.chmod(0o700)
    directory = open_host_directory(str(tmp_path))
    assert try_confined(lambda: directory.open(b"file").read(9), folder=directory) == "done: b'hello'"
    with_user = try_confined(lambda: directory.open(b"file").read(9), folder=directory, sandbox=Sandbox("nobody"))
    assert with_user == "host0: file: Permission denied"
    directory.close()


@as_root
@confining
def test_no_capability_is_left_without_a_folder() -> None:
    box = Sandbox()
    box._seccomp = box._landlock = 0  # type: ignore[assignment]
    lines = try_confined(capabilities, sandbox=box)
    assert lines == "done: (0, 0)"


def capabilities() -> tuple[int, int]:
    data = bytearray(24)
    number = sandbox.SYS_CAPGET[os.uname().machine]
    header = (sandbox.CAPABILITY_VERSION_3).to_bytes(4, "little") + bytes(4)
    assert syscall.call(number, header, Capabilities.from_buffer(data)) == 0
    return int.from_bytes(data[0:4], "little"), int.from_bytes(data[4:8], "little")


@pytest.mark.parametrize("user", ["no-such-user-here", "4294967295", "", "root\0x"])
def test_unknown_users(user: str) -> None:
    with pytest.raises(UsageError, match="there is no such user"):
        Sandbox(user)


@as_root
@pytest.mark.parametrize("user", ["root", "0"])
def test_root_itself_is_refused(user: str) -> None:
    with pytest.raises(UsageError, match="do not run as root"):
        Sandbox(user)


@as_user
def test_a_user_stays_what_he_is() -> None:
    Sandbox(str(os.geteuid()))
    with pytest.raises(UsageError, match="only root can become another user"):
        Sandbox("root")


@linux
def test_root_that_cannot_change_is_told_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sandbox, "_is_mapped", lambda path, number: False)
    assert any("the loader stays root" in lack for lack in Sandbox().missing)


@linux
def test_maps_of_user_namespaces(tmp_path: Path) -> None:
    path = tmp_path / "uid_map"
    path.write_text("         0       1000          1\n         1     100000      65536\n")
    assert sandbox._is_mapped(str(path), 0)
    assert sandbox._is_mapped(str(path), 65534)
    assert not sandbox._is_mapped(str(path), 65537)
    assert sandbox._is_mapped(str(tmp_path / "absent"), 5)


# FreeBSD


@pytest.fixture(scope="module")
def libc(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler (install gcc)")
    target = tmp_path_factory.mktemp("capsicum") / "libc.so"
    source = DATA / "fake_capsicum.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", target, source], check=True)
    library = ctypes.CDLL(str(target), use_errno=True)
    library.trace.restype = ctypes.c_char_p
    return library


@pytest.fixture
def fake(libc: ctypes.CDLL) -> Iterator[ctypes.CDLL]:
    libc.forget()
    yield libc
    libc.forget()


def test_capsicum_limits_each_descriptor(fake: ctypes.CDLL) -> None:
    """The -h directory has bhyveload(8)'s rights; the others read or write as they were opened (sys/sys/capsicum.h)."""
    reading, writing = os.pipe()
    both = os.memfd_create("disk")
    closed = os.dup(both)
    os.close(closed)
    try:
        capsicum.confine([both, reading, writing, closed, 77], 77, fake)
    finally:
        for fd in (reading, writing, both):
            os.close(fd)
    ioctls = "3 0x4004667f 0x40046480 0x40086481"
    assert fake.trace().decode().splitlines() == [
        "catopen libc 1",
        f"cap_rights_limit {reading} 0x8001d 0xa0",
        f"cap_ioctls_limit {reading} {ioctls}",
        f"cap_rights_limit {writing} 0x8001e 0xa0",
        f"cap_ioctls_limit {writing} {ioctls}",
        f"cap_rights_limit {both} 0x8001f 0xa0",
        f"cap_ioctls_limit {both} {ioctls}",
        "cap_rights_limit 77 0x8040d 0",
        "cap_enter",
    ]


def test_capsicum_numbers() -> None:
    """FreeBSD's ioccom.h: _IOR(group, number, type)."""

    def ior(group: str, number: int, size: int) -> int:
        return 0x40000000 | size << 16 | ord(group) << 8 | number

    assert (ior("f", 127, 4), ior("d", 128, 4), ior("d", 129, 8)) == capsicum.IOCTLS


def test_capsicum_without_descriptors(fake: ctypes.CDLL) -> None:
    capsicum.confine(libc=fake)
    assert fake.trace() == b"catopen libc 1\ncap_enter\n"


@pytest.mark.parametrize("function", ["cap_rights_limit", "cap_ioctls_limit", "cap_enter"])
def test_capsicum_errors(fake: ctypes.CDLL, function: str) -> None:
    fake.fail_on(function.encode(), errno.ENOSYS)
    with pytest.raises(OSError) as caught:
        capsicum.confine([1], libc=fake)
    assert caught.value.errno == errno.ENOSYS


def test_capsicum_may_not_be_there(fake: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    """bhyveload(8) goes on without (caph_enter); so do we, and say it."""
    assert capsicum.is_there(fake)
    fake.fail_on(b"cap_getmode", errno.ENOSYS)
    assert not capsicum.is_there(fake)
    assert not capsicum.is_there(), "the C library here has no such function"
    monkeypatch.setattr(sys, "platform", "freebsd14")
    assert Sandbox().missing == ("this kernel has no Capsicum (options CAPABILITY_MODE): the loader is not confined",)
    with pytest.raises(SandboxError, match=r"^--require-sandbox: this kernel has no Capsicum"):
        Sandbox(required=True)


def test_root_stays_root_on_freebsd_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "freebsd14")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert Sandbox().identity is None
    assert Sandbox(user="nobody").identity == Sandbox(user="65534").identity != None  # noqa: E711
    assert "user" in [name for name, _ in Sandbox(user="nobody")._steps(set(), -1, (), False)]
    assert "user" not in [name for name, _ in Sandbox()._steps(set(), -1, (), False)]


def test_the_child_ends_with_its_parent_on_freebsd(fake: ctypes.CDLL) -> None:
    capsicum.end_with_parent(9, fake)
    assert fake.trace() == b"procctl 0 0 11 9\n"


def test_how_much_a_process_has_mapped_on_freebsd(fake: ctypes.CDLL) -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    assert capsicum.address_space(fake) == pytest.approx(mapped, abs=16 << 20)
    fake.fail_on(b"sysctl", errno.EPERM)
    assert capsicum.address_space(fake) == 0


@pytest.mark.parametrize(
    ("taken", "limit"),
    [(5 << 30, (resource.RLIMIT_AS, (5 << 30) + sandbox.MEMORY)), (0, (resource.RLIMIT_DATA, sandbox.MEMORY))],
)
def test_memory_has_a_limit_on_freebsd(taken: int, limit: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what is mapped already, the guest's memory among it; where the kernel does not say, what brk(2) takes."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(sys, "platform", "freebsd14")
    monkeypatch.setattr(capsicum, "address_space", lambda: taken)
    monkeypatch.setattr(sandbox, "_lower", lambda number, value: asked.append((number, value)))
    sandbox._limit(set(), False, 1)
    assert limit in asked
    assert {number for number, _ in asked} & {resource.RLIMIT_AS, resource.RLIMIT_DATA} == {limit[0]}
