"""Raw images: image/raw.py."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from bhyveload.errors import FileSystemError, InputError
from bhyveload.freebsd_errno import EIO, EROFS
from bhyveload.image import raw
from bhyveload.image.raw import RawImage, open_raw
from bhyveload.need import load_all
from support.confined import only, try_confined


def disk(tmp_path: Path, content: bytes) -> tuple[Path, RawImage]:
    path = tmp_path / "disk.img"
    path.write_bytes(content)
    return path, open_raw(str(path))


def test_read_gives_a_view_of_exactly_these_bytes(tmp_path: Path) -> None:
    content = os.urandom(100_003)
    _, image = disk(tmp_path, content)
    assert (image.size, image.sector_size, image.read_only) == (100_003, 512, False)
    piece = image.read(4097, 5000)
    assert isinstance(piece, memoryview)
    assert bytes(piece) == content[4097:9097]
    assert bytes(image.read(0, 100_003)) == content
    assert bytes(image.read(100_003, 0)) == b""


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (0, 1025), (1024, 1), (1 << 70, 512), (512, 1 << 70)])
def test_outside_is_an_input_output_error(tmp_path: Path, offset: int, length: int) -> None:
    _, image = disk(tmp_path, bytes(1024))
    with pytest.raises(FileSystemError) as caught:
        image.read(offset, length)
    assert caught.value.errno == EIO


@pytest.mark.parametrize("size", [0, 1, 511, 700, 4095])
def test_empty_and_odd_sizes(tmp_path: Path, size: int) -> None:
    _, image = disk(tmp_path, b"x" * size)
    assert image.size == size
    assert bytes(image.read(0, size)) == b"x" * size
    with pytest.raises(FileSystemError):
        image.read(0, size + 1)


def test_write_goes_to_the_file_and_shows_in_earlier_views(tmp_path: Path) -> None:
    path, image = disk(tmp_path, bytes(8192))

    def write() -> bytes:
        """As a child does, whose reads are views of the mapping."""
        before = image.read(0, 8192)
        image.write(5000, b"nextboot")
        image.write(0, memoryview(b"abc"))
        return bytes(before[5000:5008])

    load_all()
    assert try_confined(write, disks=[image]) == "done: b'nextboot'"
    assert bytes(image.read(5000, 8)) == b"nextboot"
    assert path.read_bytes() == b"abc" + bytes(4997) + b"nextboot" + bytes(8192 - 5008)
    for offset in (-1, 8191):
        with pytest.raises(FileSystemError) as caught:
            image.write(offset, b"xy")
        assert caught.value.errno == EIO
    assert path.stat().st_size == 8192


def test_a_disk_that_may_not_be_written_is_opened_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"content")
    real_open = os.open

    def refusing(name: str, flags: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real_open(name, flags)

    monkeypatch.setattr(os, "open", refusing)
    image = open_raw(str(path))
    assert image.read_only
    assert bytes(image.read(0, 7)) == b"content"
    with pytest.raises(FileSystemError) as caught:
        image.write(0, b"x")
    assert caught.value.errno == EROFS
    assert path.read_bytes() == b"content"


def test_what_is_no_disk_image_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    for name, reason in (
        ("missing", "No such file"),
        ("", "s a directory"),
        ("fifo", "neither a regular file nor a block device"),
        ("socket", ""),
        ("nul\0byte", "null"),
    ):
        with pytest.raises(InputError) as caught:
            open_raw(os.path.join(str(tmp_path), name))
        assert reason in str(caught.value)
    listener.close()
    with pytest.raises(InputError, match="neither a regular file nor a block device"):
        open_raw("/dev/null")


def test_close_does_not_need_the_views_back(tmp_path: Path) -> None:
    _, image = disk(tmp_path, b"a" * 10_000)
    held = image.read(0, 10_000)
    image.close()
    image.close()
    assert bytes(held) == b"a" * 10_000
    with pytest.raises(FileSystemError):
        image.read(0, 1)


def test_opening_leaves_no_descriptor_behind_on_failure(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    gc.collect()  # what earlier tests left open is closed now, not in between
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(InputError):
            open_raw(str(tmp_path / "fifo"))
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_disk_that_becomes_shorter_does_not_end_the_process_that_opened_it(tmp_path: Path) -> None:
    """A mapping would: SIGBUS, and the terminal stays raw."""
    path, image = disk(tmp_path, bytes(8192))
    os.truncate(path, 100)
    pid = os.fork()
    if pid == 0:
        raw._process = image._opener  # it takes itself for that process
        try:
            image.read(4096, 10)
        except FileSystemError as error:
            os._exit(0 if error.errno == EIO and "became shorter" in error.message else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert try_confined(lambda: image.read(4096, 10)[0], disks=[image], sandbox=only()) == (
        "the loader died by SIGBUS: a disk image became shorter while it was read, or lies on a tmpfs that is full"
    )


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("losetup") is None, reason="only root makes loop devices")
def test_a_device_that_is_read_only_although_it_opens(tmp_path: Path) -> None:
    """losetup -r: it can be opened for writing, but not mapped then."""
    image = tmp_path / "disk.img"
    image.write_bytes(b"x" * (1 << 20))
    made = subprocess.run(["losetup", "-r", "-f", "--show", str(image)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(made.stderr.strip())
    device = made.stdout.strip()
    try:
        disk = open_raw(device)
        assert (disk.read_only, disk.size, bytes(disk.read(512, 3))) == (True, 1 << 20, b"xxx")
        disk.close()
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
