"""Disk images in every format for tests, made by qemu-img, qemu-io, xz, gzip and zstd out of one raw disk."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from bhyveload.device import Buffer, Device
from bhyveload.errors import BhyveloadError, FileSystemError
from bhyveload.freebsd_errno import EIO
from bhyveload.image.open import open_disk
from bhyveload.image.raw import RawImage
from bhyveload.image.vhdx_format import crc32c
from support.devices import Hostless
from support.images import MIB, require, run_tool

__all__ = ["MIB", "require", "run_tool"]


class BytesDevice(Hostless):
    """A Device over bytes."""

    sector_size = 512
    read_only = True

    def __init__(self, content: bytes) -> None:
        self.content = memoryview(content)
        self.size = len(content)

    def read(self, offset: int, length: int) -> memoryview:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise FileSystemError(EIO, f"{length} bytes at {offset}")
        return self.content[offset : offset + length]

    def write(self, offset: int, data: Buffer) -> None:
        raise AssertionError("an image is never written to")


def sample_disk(size: int = 5 * MIB + 1536, seed: int = 1) -> bytes:
    """Random, repetitive and zero stretches of all lengths, the last sector not zero."""
    chance = random.Random(seed)
    disk = bytearray(size)
    for number in range(60):
        length = min(size // 4, 1 << chance.randrange(3, 18)) + chance.randrange(7)
        offset = chance.randrange(size - length)
        if number % 3 == 0:
            disk[offset : offset + length] = chance.randbytes(length)
        elif number % 3 == 1:
            disk[offset : offset + length] = (b"FreeBSD! " * (length // 9 + 1))[:length]
        else:
            disk[offset : offset + length] = bytes(length)
    disk[-512:] = chance.randbytes(512)
    return bytes(disk)


def convert(raw: Path, image: Path, form: str, options: str = "", *flags: str) -> Path:
    """``raw`` as ``image`` by qemu-img."""
    require("qemu-img")
    chosen = ["-o", options] if options else []
    run_tool("qemu-img", "convert", "-f", "raw", "-O", form, *chosen, *flags, raw, image)
    return image


def create(image: Path, form: str, size: int | None, options: str = "", *flags: str | Path) -> Path:
    require("qemu-img")
    chosen = ["-o", options] if options else []
    run_tool("qemu-img", "create", "-q", "-f", form, *chosen, *flags, image, *([str(size)] if size is not None else []))
    return image


def qemu_io(image: Path, form: str, *commands: str) -> Path:
    """Change an image as a guest under QEMU does."""
    require("qemu-io")
    run_tool("qemu-io", "-f", form, *[word for command in commands for word in ("-c", command)], image)
    return image


def as_raw(image: Path, form: str, to: Path) -> bytes:
    """What QEMU reads in the image."""
    run_tool("qemu-img", "convert", "-f", form, "-O", "raw", image, to)
    return to.read_bytes()


def read_all(path: Path | str, allow_backing: bool = False) -> bytes:
    """The whole disk, as our reader has it."""
    disk = open_disk(str(path), allow_backing=allow_backing, sandbox=False)
    try:
        return b"".join(bytes(disk.read(at, min(MIB, disk.size - at))) for at in range(0, disk.size, MIB))
    finally:
        disk.close()


def compare_reads(disk: Device, expected: bytes, reads: int = 150, seed: int = 2) -> None:
    """``disk`` is ``expected`` with zero bytes behind it, whole and at random places, on and off every boundary."""
    assert len(expected) <= disk.size < len(expected) + 2 * MIB
    expected = expected.ljust(disk.size, b"\0")
    chance = random.Random(seed)
    assert bytes(disk.read(0, disk.size)) == expected
    for _ in range(reads):
        offset = chance.randrange(disk.size + 1)
        if chance.random() < 0.3:
            offset = offset // 65536 * 65536
        length = min(disk.size - offset, chance.choice((0, 1, 512, 4096, 65536, chance.randrange(300_000))))
        piece = disk.read(offset, length)
        assert len(piece) == length
        assert piece == expected[offset : offset + length], (offset, length)


def outcome(build: Callable[[Device], Device], content: bytes, seed: int) -> str:
    """Open and read a doubtful image here and there: "read", or the class of the error, which must be one of ours."""
    chance = random.Random(seed)
    try:
        disk = build(BytesDevice(content))
        for place in (0, disk.size // 2, max(0, disk.size - 4096), chance.randrange(disk.size + 1)):
            length = min(disk.size - place, MIB // 2)
            assert len(disk.read(place, length)) == length
    except BhyveloadError as error:
        assert error.message.isprintable()
        return type(error).__name__
    return "read"


def mutants(content: bytes, structures: Sequence[tuple[int, int]], count: int, seed: int) -> list[bytes]:
    """``content`` with one to four fields of its ``structures`` (offset, length) replaced, or cut short."""
    chance = random.Random(seed)
    edges = (
        0,
        1,
        2,
        3,
        7,
        0x7F,
        0x80,
        0xFF,
        0xFFFF,
        0x10000,
        0x7FFFFFFF,
        0x80000000,
        0xFFFFFFFF,
        1 << 40,
        (1 << 64) - 1,
    )
    made = []
    for _ in range(count):
        mutant = bytearray(content)
        for _ in range(chance.randrange(1, 5)):
            start, length = chance.choice(structures)
            at = start + chance.randrange(length)
            match chance.randrange(5):
                case 0:
                    mutant[at] ^= 1 << chance.randrange(8)
                case 1:
                    mutant[at] = chance.randrange(256)
                case 2:
                    width = chance.choice((2, 4, 8))
                    value = chance.choice(edges) & ((1 << 8 * width) - 1)
                    mutant[at : at + width] = value.to_bytes(width, chance.choice(("big", "little")))[
                        : len(mutant) - at
                    ]
                case 3:  # a pointer to somewhere else in the image, or into itself
                    other, room = chance.choice(structures)
                    piece = mutant[other : other + min(8, room)]
                    mutant[at : at + len(piece)] = piece
                case 4:
                    width = chance.choice((4, 8))
                    value = chance.randrange(len(content) * 2) // chance.choice((1, 512, 65536))
                    mutant[at : at + width] = value.to_bytes(width, chance.choice(("big", "little")))
        if chance.random() < 0.1:
            del mutant[chance.randrange(len(mutant)) :]
        made.append(bytes(mutant))
    return made


def fix_vhd(content: bytes) -> bytes:
    """The checksums of a VHD's footer, its copy and the dynamic header made right again."""
    fixed = bytearray(content)
    for start, length, at in ((0, 512, 64), (512, 1024, 36), (len(fixed) - 512, 512, 64)):
        if start >= 0 and len(fixed) >= start + length:
            fixed[start + at : start + at + 4] = bytes(4)
            struct.pack_into(">I", fixed, start + at, ~sum(fixed[start : start + length]) & 0xFFFFFFFF)
    return bytes(fixed)


def fix_vhdx(content: bytes) -> bytes:
    """The CRCs of a VHDX's headers and region tables made right again."""
    fixed = bytearray(content)
    for start, length in ((64 << 10, 4096), (128 << 10, 4096), (192 << 10, 65536), (256 << 10, 65536)):
        if len(fixed) >= start + length:
            fixed[start + 4 : start + 8] = bytes(4)
            struct.pack_into("<I", fixed, start + 4, crc32c(bytes(fixed[start : start + length])))
    return bytes(fixed)


def fix_xz(content: bytes) -> bytes:
    """The CRCs of a one-stream .xz file's footer and index made right again."""
    fixed = bytearray(content)
    if len(fixed) > 24:
        fixed[-12:-8] = zlib.crc32(fixed[-8:-2]).to_bytes(4, "little")
        size = (int.from_bytes(fixed[-8:-4], "little") + 1) * 4
        start = len(fixed) - 12 - size
        if start > 0:
            fixed[-16:-12] = zlib.crc32(fixed[start:-16]).to_bytes(4, "little")
    return bytes(fixed)


def mapped(image: RawImage) -> RawImage:
    """``image`` as a child has it, which reads it through the mapping; who opened it reads copies."""
    image._opener = -1
    return image
