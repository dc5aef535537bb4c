"""Devices for fuzzing: bytes as a disk, and a sound image with small damages where its file system looks."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator

from bhyveload.device import Device
from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EIO, EROFS
from support.devices import Hostless

SECTOR = 512
_PATCH = struct.Struct("<IB")
_MAX_PATCHES = 32


class BytesDevice(Hostless):
    """A read-only disk of exactly these bytes."""

    sector_size = SECTOR
    read_only = True

    def __init__(self, data: bytes | memoryview, size: int | None = None) -> None:
        self.data = memoryview(data).toreadonly()
        self.size = len(data) if size is None else size
        self.name = "fuzzed"

    def read(self, offset: int, length: int) -> memoryview:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise FileSystemError(EIO, "fuzzed: outside the disk")
        have = self.data[offset : offset + length]
        return have if len(have) == length else memoryview(bytes(have).ljust(length, b"\0"))

    def write(self, offset: int, data: bytes | memoryview) -> None:
        raise FileSystemError(EROFS, "fuzzed: read-only")


class RecordingDevice(BytesDevice):
    """Writes down what is read of it."""

    def __init__(self, data: bytes | memoryview) -> None:
        super().__init__(data)
        self.ranges: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> memoryview:
        self.ranges.append((offset, offset + length))
        return super().read(offset, length)


class PatchedDevice(BytesDevice):
    """An image with bytes replaced at some places."""

    def __init__(self, data: bytes | memoryview, patches: list[tuple[int, bytes]]) -> None:
        super().__init__(data)
        self.patches = patches

    def read(self, offset: int, length: int) -> memoryview:
        view = super().read(offset, length)
        changed = None
        for at, piece in self.patches:
            first, last = max(at, offset), min(at + len(piece), offset + length)
            if first < last:
                if changed is None:
                    changed = bytearray(view)
                changed[first - offset : last - offset] = piece[first - at : last - at]
        return view if changed is None else memoryview(changed).toreadonly()


class Damage:
    """Turns fuzzed bytes into damages of ``image``, only where ``walk`` looks at it: else most would hit nothing."""

    def __init__(self, image: bytes | memoryview, walk: Callable[[BytesDevice], object]) -> None:
        self.image = image
        recorder = RecordingDevice(image)
        walk(recorder)
        self.places = _merged(recorder.ranges)
        self.total = sum(last - first for first, last in self.places)

    def device(self, data: bytes) -> PatchedDevice:
        """(position, length of 1 to 16, bytes) one behind the other."""
        patches: list[tuple[int, bytes]] = []
        at = 0
        while at + _PATCH.size <= len(data) and len(patches) < _MAX_PATCHES:
            position, length = _PATCH.unpack_from(data, at)
            piece = data[at + _PATCH.size : at + _PATCH.size + length % 16 + 1]
            at += _PATCH.size + length % 16 + 1
            patches.append((self._offset(position % self.total), piece))
        return PatchedDevice(self.image, patches)

    def _offset(self, position: int) -> int:
        for first, last in self.places:
            if position < last - first:
                return first + position
            position -= last - first
        raise AssertionError

    def seeds(self) -> Iterator[bytes]:
        """Whole 32-bit words set to values that break arithmetic, all over the places."""
        yield b""
        for number in range(24):
            position = self.total * number // 24 // 4 * 4
            for piece in (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x80"):
                yield _PATCH.pack(position, 3) + piece


def sparse(disk: Device) -> memoryview:
    """All bytes of ``disk``, in pages that cost nothing where they are zero."""
    mapped = mmap.mmap(-1, disk.size)
    for start in range(0, disk.size, 1 << 20):
        piece = bytes(disk.read(start, min(1 << 20, disk.size - start)))
        for at in range(0, len(piece), mmap.PAGESIZE):
            page = piece[at : at + mmap.PAGESIZE]
            if page.count(0) != len(page):
                mapped[start + at : start + at + len(page)] = page
    return memoryview(mapped)


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[list[int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    return [(first, last) for first, last in merged]
