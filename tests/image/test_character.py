"""Disks of FreeBSD, which are character devices: image/character.py."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from bhyveload.errors import FileSystemError, InputError
from bhyveload.freebsd_errno import EIO, EROFS
from bhyveload.image import raw
from bhyveload.image.raw import open_raw
from bhyveload.image.remembered import format_of

SIZE = 1 << 20


class Device:
    """A file that behaves as a device with sectors of ``sector`` bytes: whole ones only, no mapping, sizes by ioctl."""

    def __init__(self, path: Path, sector: int) -> None:
        self.path = path
        self.sector = sector
        self.size = SIZE
        self.reads = 0


@pytest.fixture(params=[512, 4096])
def device(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    made = Device(tmp_path / "ada0", request.param)
    made.path.write_bytes(os.urandom(SIZE))
    plain = os.pread, os.pwrite

    def whole(offset: int, length: int) -> None:
        if offset % made.sector or length % made.sector:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def pread(fd: int, length: int, offset: int) -> bytes:
        whole(offset, length)
        made.reads += 1
        return plain[0](fd, min(length, 128 * 1024), offset)

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        whole(offset, len(data))
        return plain[1](fd, data, offset)

    def ioctl(fd: int, request: int, data: bytes) -> bytes:
        answers = {0x40086481: struct.pack("=q", made.size), 0x40046480: struct.pack("=I", made.sector)}
        if request not in answers:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        return answers[request]

    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(raw, "stat", SimpleNamespace(S_ISCHR=lambda mode: True))
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    monkeypatch.setattr(sys, "platform", "freebsd14")
    yield made


def test_any_bytes_can_be_read(device: Device) -> None:
    content = device.path.read_bytes()
    disk = open_raw(str(device.path))
    assert (disk.size, disk.sector_size, disk.read_only) == (SIZE, 512, False), "512 whatever the medium (cb_diskioctl)"
    for offset, length in ((0, 512), (512, 8), (4095, 2), (0, SIZE), (SIZE - 3, 3), (700, 0), (1, 300_000)):
        assert bytes(disk.read(offset, length)) == content[offset : offset + length]
    assert disk.describe()["sector_size"] == device.sector
    for offset, length in ((SIZE, 1), (-1, 1), (0, SIZE + 1)):
        with pytest.raises(FileSystemError) as caught:
            disk.read(offset, length)
        assert caught.value.errno == EIO


def test_what_is_written_leaves_its_neighbours(device: Device) -> None:
    content = bytearray(device.path.read_bytes())
    disk = open_raw(str(device.path))
    for offset, data in ((512, b"a" * 512), (5, b"bc"), (4090, b"d" * 5000), (SIZE - 1, b"e")):
        disk.write(offset, data)
        content[offset : offset + len(data)] = data
    assert device.path.read_bytes() == content
    with pytest.raises(FileSystemError) as caught:
        disk.write(SIZE - 1, b"xy")
    assert caught.value.errno == EIO
    with pytest.raises(FileSystemError) as caught:
        open_raw(str(device.path), read_only=True).write(0, b"x")
    assert caught.value.errno == EROFS


def test_a_device_that_ends_early(device: Device) -> None:
    disk = open_raw(str(device.path))
    os.truncate(device.path, SIZE // 2)
    with pytest.raises(FileSystemError) as caught:
        disk.read(0, SIZE)
    assert caught.value.errno == EIO


def test_a_device_is_raw_unless_said(device: Device) -> None:
    """Its guest may write an image's header to it."""
    with device.path.open("r+b") as file:
        file.write(b"QFI\xfb\0\0\0\3")
    disk = open_raw(str(device.path))
    assert format_of(disk) == "raw"
    assert format_of(disk, "qcow2", keep=False) == "qcow2"


@pytest.mark.parametrize(("size", "sector"), [(-512, 512), (SIZE, 0), (SIZE, 513), (SIZE + 1, 512), (1 << 30, 1 << 20)])
def test_sizes_that_are_none(device: Device, size: int, sector: int) -> None:
    device.size, device.sector = size, sector
    with pytest.raises(InputError, match=r"are no disk$"):
        open_raw(str(device.path))


def test_what_is_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's own /dev/null, which knows no such ioctl."""
    monkeypatch.setattr(sys, "platform", "freebsd14")
    with pytest.raises(InputError, match=r"^/dev/null: not a disk: Inappropriate ioctl for device$"):
        open_raw("/dev/null")
