"""The -h folder: what may be read, and every way out that CVE-2024-25940's fix closed."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bhyveload.errors import FileSystemError, HostError
from bhyveload.freebsd_errno import (
    EACCES,
    EINVAL,
    EIO,
    ELOOP,
    ENAMETOOLONG,
    ENOENT,
    ENOTCAPABLE,
    ENOTDIR,
    EROFS,
    from_host,
)
from bhyveload.fs.hostdir import HostFileSystem
from bhyveload.fs.stat import DT_DIR, DT_LNK, DT_REG
from bhyveload.host import directory
from bhyveload.host.callbacks import LoaderCallbacks
from bhyveload.host.directory import HostFolder, open_host_directory
from bhyveload.vm.memory import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bhyveload.fs.interface import FileSystem
    from bhyveload.host.interface import HostDirectory

WAYS = [directory._openat2, directory._open_walking]


class Silent:
    """A console that says nothing."""

    at_end = True

    def write(self, data: bytes) -> None:
        raise AssertionError(f"unexpected output: {data!r}")

    def flush(self) -> None:
        pass

    def getc(self) -> int:
        return -1

    def poll(self) -> bool:
        return False


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder to export, and a secret beside it."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "key").write_text("key")
    root = tmp_path / "root"
    (root / "boot" / "kernel").mkdir(parents=True)
    (root / "boot" / "kernel" / "kernel").write_bytes(bytes(range(256)) * 1000)
    (root / "boot" / "loader.conf").write_text("a=b\n")
    (root / "empty").touch()
    for name, text in {
        "link": "boot/loader.conf",
        "dir": "boot",
        "boot/up": "../boot/./kernel/../loader.conf",
        "chain": "dir/up",
        "absolute-inside": str(root / "empty"),
        "absolute": str(tmp_path / "secret"),
        "etc": "/etc",
        "relative": "../secret",
        "boot/deeper": "../../outside/key",
        "outdir": "../outside",
        "dangling": "nowhere",
        "loop": "loop",
        "in-and-out": "../root/empty",
        "fd": "/proc/self/fd/0",
        "cwd": "/proc/self/cwd",
    }.items():
        (root / name).symlink_to(text)
    os.mkfifo(root / "fifo")
    (root / "to-fifo").symlink_to("fifo")
    return root


@pytest.fixture(params=WAYS, ids=["openat2", "walk"])
def host(tree: Path, request: pytest.FixtureRequest) -> Iterator[HostFolder]:
    fd = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    opened = HostFolder(fd, request.param)
    yield opened
    opened.close()


def refused(host: HostDirectory, name: bytes) -> int:
    with pytest.raises(FileSystemError) as caught:
        host.open(name)
    return caught.value.errno


@pytest.mark.parametrize(
    "name",
    [b"/boot/loader.conf", b"boot/loader.conf", b"/link", b"/dir/loader.conf", b"/boot/up", b"/chain", b"/./boot//up"],
)
def test_files(host: HostFolder, name: bytes) -> None:
    file = host.open(name)
    assert not file.is_directory
    assert (file.size, file.mode & 0o170000) == (4, 0o100000)
    assert file.read(100) == b"a=b\n"
    assert file.read(100) == b""
    assert file.seek(-3, os.SEEK_END) == 1
    assert file.read(2) == b"=b"
    file.close()


@pytest.mark.parametrize("name", [b"", b"/", b".", b"/.", b"/boot/..", b"/dir/../boot/..", b"/boot/kernel/../.."])
def test_the_folder_itself(host: HostFolder, tree: Path, name: bytes) -> None:
    folder = host.open(name)
    assert folder.is_directory
    assert folder.ino == tree.stat().st_ino
    entries = {}
    while (entry := folder.readdir()) is not None:
        entries[entry[2]] = entry
    assert set(entries) == {os.fsencode(path.name) for path in tree.iterdir()} | {b".", b".."}
    assert entries[b"boot"][:2] == ((tree / "boot").stat().st_ino & 0xFFFFFFFF, DT_DIR)
    assert entries[b"empty"][1] == DT_REG
    assert entries[b"link"][1] == DT_LNK
    assert folder.readdir() is None


@pytest.mark.parametrize(
    "name",
    [
        b"..",
        b"/..",
        b"/../secret",
        b"/boot/../../secret",
        b"/boot/kernel/../../../outside/key",
        b"//etc/passwd",
        b"//",
        b"/absolute",
        b"/absolute-inside",
        b"/etc",
        b"/etc/passwd",
        b"/relative",
        b"/boot/deeper",
        b"/dir/deeper",
        b"/outdir",
        b"/outdir/key",
        b"/in-and-out",
        b"/fd",
        b"/cwd/secret",
    ],
)
def test_no_way_out(host: HostFolder, name: bytes) -> None:
    assert refused(host, name) == ENOTCAPABLE


@pytest.mark.parametrize(
    ("name", "number"),
    [
        (b"/nope", ENOENT),
        (b"/dangling", ENOENT),
        (b"/nope/../boot", ENOENT),
        (b"/empty\0/../boot", ENOENT),
        (b"/empty/", ENOTDIR),
        (b"/empty/x", ENOTDIR),
        (b"/empty/..", ENOTDIR),
        (b"/link/", ENOTDIR),
        (b"/loop", ELOOP),
        (b"/fifo", EINVAL),
        (b"/to-fifo", EINVAL),
        (b"/" + b"n" * 300, ENAMETOOLONG),
    ],
)
def test_refusals(host: HostFolder, name: bytes, number: int) -> None:
    assert refused(host, name) == number


def test_sockets_and_devices(host: HostFolder, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert refused(host, b"/socket") == EINVAL
    devices = HostFolder(os.open("/dev", os.O_PATH | os.O_DIRECTORY))
    assert refused(devices, b"/null") == EINVAL
    assert refused(devices, b"/zero") == EINVAL
    devices.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(host: HostFolder, tree: Path) -> None:
    (tree / "empty").chmod(0)
    assert refused(host, b"/empty") == EACCES


@pytest.mark.parametrize("beneath", WAYS, ids=["openat2", "walk"])
def test_kernel_links_of_proc(beneath: Callable[[int, bytes, int], int]) -> None:
    """`-h /proc/self`: cwd, root and fd/N jump out of the tree without being links of the ordinary kind."""
    process = HostFolder(os.open("/proc/self", os.O_PATH | os.O_DIRECTORY), beneath)
    secret = os.open("/etc/passwd", os.O_RDONLY)
    for name in (b"/root", b"/cwd", b"/root/etc/passwd", b"/exe", b"/fd/%d" % secret):
        assert refused(process, name) in (ELOOP, ENOTCAPABLE)
    assert b"VmRSS" in process.open(b"/status").read(1 << 40)  # a file of size 0 that has content
    os.close(secret)
    process.close()


def test_read_and_seek_errors(host: HostFolder) -> None:
    file = host.open(b"/boot/loader.conf")
    for offset, whence in ((-1, 0), (1 << 63, 0), (0, 3), (0, 9), (-5, 2)):
        with pytest.raises(FileSystemError) as caught:
            file.seek(offset, whence)
        assert caught.value.errno == EINVAL
    folder = host.open(b"/boot")
    with pytest.raises(FileSystemError) as caught:
        folder.read(10)
    assert caught.value.errno == EINVAL


def test_descriptors_are_given_back(host: HostFolder) -> None:
    gc.collect()
    gc.collect()  # what earlier tests left open is closed now, not in between
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        host.open(b"/boot/kernel/kernel")  # never closed
        host.open(b"/")
        for name in (b"/nope", b"/fifo", b"/relative", b"/loop", b"/empty/x"):
            refused(host, name)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_large_folder(tmp_path: Path) -> None:
    """More entries than one getdents64 call returns."""
    names = {b"file-with-a-rather-long-name-%05d" % i for i in range(2000)}
    for name in names:
        (tmp_path / os.fsdecode(name)).touch()
    host = open_host_directory(os.fspath(tmp_path))
    folder = host.open(b"/")
    seen = []
    while (entry := folder.readdir()) is not None:
        seen.append(entry[2])
    assert len(seen) == 2002
    assert set(seen) == names | {b".", b".."}


@pytest.mark.parametrize("beneath", WAYS, ids=["openat2", "walk"])
def test_races(tree: Path, beneath: Callable[[int, bytes, int], int]) -> None:
    """While somebody swaps folders for links out, FIFOs for files and moves folders away, nothing leaks or hangs."""
    host = HostFolder(os.open(tree, os.O_PATH | os.O_DIRECTORY), beneath)
    (tree / "a").mkdir()
    (tree / "a" / "key").write_text("inner")
    (tree / "b").symlink_to("../outside")
    (tree / "file").write_text("inner")
    os.mkfifo(tree / "other")
    (tree / "deep" / "x" / "y").mkdir(parents=True)
    stop = threading.Event()

    def swap() -> None:
        names = [("a", "b"), ("file", "other"), ("deep/x", "../outside/x")]
        while not stop.is_set():
            for one, two in names:
                try:
                    os.rename(tree / one, tree / "t")
                    if (tree / two).is_symlink() or (tree / two).exists():
                        os.rename(tree / two, tree / one)
                    os.rename(tree / "t", tree / two)
                except OSError:
                    pass

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(700):
            for name in (
                b"/a/key",
                b"/b/key",
                b"/file",
                b"/other",
                b"/deep/x/y/../../../secret",
                b"/deep/x/../../secret",
            ):
                try:
                    file = host.open(name)
                except FileSystemError:
                    continue
                assert not file.is_directory
                assert file.read(100) == b"inner"
    finally:
        stop.set()
        swapper.join()
        host.close()


def test_a_file_that_turns_into_a_fifo_is_refused(tree: Path) -> None:
    """Between the look at the type and the opening: seen by the second look, without hanging."""

    def beneath(fd: int, name: bytes, flags: int) -> int:
        opened = directory._openat2(fd, name, flags)
        if flags & os.O_PATH and name == b"empty":
            (tree / "empty").unlink()
            os.mkfifo(tree / "empty")
        return opened

    host = HostFolder(os.open(tree, os.O_PATH | os.O_DIRECTORY), beneath)
    assert refused(host, b"/empty") == EINVAL
    host.close()


def test_opening_the_folder(tree: Path) -> None:
    host = open_host_directory(os.fspath(tree))
    assert host.open(b"/link").read(9) == b"a=b\n"
    assert not os.get_inheritable(host.fd)
    host.close()
    for path in (tree / "nope", tree / "empty", tree / "fifo"):
        with pytest.raises(HostError) as caught:
            open_host_directory(os.fspath(path))
        assert str(path) in str(caught.value)
    with pytest.raises(HostError):
        open_host_directory("a\0b")


def test_kernel_without_openat2(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(fd: int, name: bytes, flags: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(directory, "_openat2", missing)
    host = open_host_directory(os.fspath(tree))
    assert host.open(b"/chain").read(9) == b"a=b\n"
    assert refused(host, b"/boot/deeper") == ENOTCAPABLE
    host.close()


def callbacks_of(host: HostFolder | None) -> LoaderCallbacks:
    return LoaderCallbacks(Silent(), GuestMemory(os.memfd_create("guest"), 1 << 20, 0), host_directory=host)


def test_host_file_system(host: HostFolder, tree: Path) -> None:
    fs: FileSystem = HostFileSystem(callbacks_of(host))
    kernel = fs.lookup(b"/boot/kernel/kernel")
    expected = (tree / "boot/kernel/kernel").read_bytes()
    file = fs.open(kernel)
    assert file.size == len(expected)
    assert b"".join(file.read(0, 1 << 40)) == expected
    assert b"".join(file.read(1000, 3)) == expected[1000:1003]
    assert b"".join(file.read(len(expected), 3)) == b""
    status = (tree / "boot/kernel/kernel").stat()
    seen = fs.stat(kernel)
    assert (seen.mode, seen.uid, seen.size, seen.mtime, seen.ino, seen.dev) == (
        status.st_mode,
        status.st_uid,
        status.st_size,
        int(status.st_mtime),
        status.st_ino,
        status.st_dev,
    )
    assert {name for *_, name in fs.readdir(fs.lookup(b"/boot"))} == {
        b".",
        b"..",
        *map(os.fsencode, os.listdir(tree / "boot")),
    }
    with pytest.raises(FileSystemError) as caught:
        file.write(0, b"x")
    assert caught.value.errno == EROFS
    refusals: list[tuple[int, Callable[[], object]]] = [
        (ENOTDIR, lambda: list(fs.readdir(kernel))),
        (EINVAL, lambda: fs.readlink(kernel)),
        (EINVAL, lambda: fs.open(fs.lookup(b"/boot")).read(0, 1)),
        (ENOENT, lambda: HostFileSystem(callbacks_of(None)).lookup(b"/x")),
        (ENOTCAPABLE, lambda: fs.lookup(b"/relative")),
    ]
    for number, action in refusals:
        with pytest.raises(FileSystemError) as caught:
            action()
        assert caught.value.errno == number


def test_ctypes_only_with_h() -> None:
    """Runs without -h do not pay for ctypes."""
    code = "import sys, bhyveload.host.callbacks, bhyveload.fs.hostdir; sys.exit('ctypes' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_the_directory_entries_of_freebsd(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """getdirentries(2) has five bytes more in front of a name than getdents64(2) (FreeBSD's sys/dirent.h)."""
    entries = [(5, 4, b"."), (1 << 40 | 7, 8, b"name of a file"), (9, 10, b"l" * 255)]
    records = b""
    for inode, kind, name in entries:
        length = (24 + len(name) + 1 + 7) & -8
        record = struct.pack("<QqHBBHH", inode, 0, length, kind, 0, len(name), 0) + name
        records += record.ljust(length, b"\0")
    pieces = [records, b""]

    def read_entries(fd: int, buffer: ctypes.Array[ctypes.c_char], size: int) -> int:
        piece = pieces.pop(0)
        ctypes.memmove(buffer, piece, len(piece))
        return len(piece)

    host = open_host_directory(str(tree))
    monkeypatch.setattr(directory, "_read_entries", read_entries)
    monkeypatch.setattr(directory, "NAME_OFFSET", 24)
    folder = host.open(b"/")
    assert list(iter(folder.readdir, None)) == [(inode & 0xFFFFFFFF, kind, name) for inode, kind, name in entries]


def test_errors_of_a_freebsd_host_are_freebsds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_host(errno.EXDEV) == ENOTCAPABLE
    monkeypatch.setattr("sys.platform", "freebsd15")
    assert [from_host(number) for number in (2, 18, 62, 93)] == [2, 18, 62, 93]
    assert from_host(None) == EIO
