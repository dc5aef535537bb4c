"""Disk images for whole-loader tests, made by tools we did not write: makefs, sgdisk, sfdisk, xorriso."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

MIB = 1 << 20


def require(*tools: str) -> None:
    """Skip the test when a tool is missing; the Makefile installs them."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (make setup installs it)")


def run_tool(*words: str | Path, stdin: str | None = None) -> None:
    subprocess.run([str(word) for word in words], input=stdin, check=True, capture_output=True, text=True)


def unpack(archive: Path, into: Path) -> Path:
    with tarfile.open(archive) as tar:
        # 3.11.4 brought filters; 3.12 and later ask for one
        tar.extraction_filter = getattr(tarfile, "tar_filter", lambda member, _: member)
        tar.extractall(into)
    return into


def make_ufs(
    tree: Path, image: Path, size: int = 8 * MIB, block: int = 32768, fragment: int = 4096, version: int = 2
) -> Path:
    """A UFS of ``size`` bytes holding ``tree``."""
    require("makefs")
    parameters = f"version={version},bsize={block},fsize={fragment}"
    run_tool("makefs", "-t", "ffs", "-o", parameters, "-s", str(size), image, tree)
    return image


def put(disk: Path, part: Path, offset: int) -> None:
    """Copy ``part`` into ``disk`` at byte ``offset``, leaving holes where it is zero."""
    data = part.read_bytes()
    with disk.open("r+b") as file:
        for at in range(0, len(data), 1 << 16):
            piece = data[at : at + (1 << 16)]
            if piece.strip(b"\0"):
                file.seek(offset + at)
                file.write(piece)


def blank(disk: Path, size: int) -> Path:
    with disk.open("wb") as file:
        file.truncate(size)
    return disk


_tables: dict[tuple[object, ...], bytes] = {}
_TABLE = 34 * 512  # boot sector, header, entries; the backup needs a sector less


def gpt_disk(disk: Path, parts: Sequence[tuple[int, int, int, str, Path | None]], size: int | None = None) -> Path:
    """A GPT disk; ``parts``: (number, first sector, sectors, sgdisk type, content).

    sgdisk sleeps for a second: a table that it has made is kept for other disks with the same partitions.
    """
    require("sgdisk")
    end = max(first + sectors for _, first, sectors, _, _ in parts)
    size = size or (end + 2048) * 512
    blank(disk, size)
    key = (size, *(part[:4] for part in parts))
    if key in _tables:
        write_at(disk, 0, _tables[key][:_TABLE])
        write_at(disk, size - _TABLE, _tables[key][_TABLE:])
    else:
        words: list[str | Path] = ["sgdisk", "-a", "8"]
        for number, first, sectors, kind, _ in parts:
            words += ["-n", f"{number}:{first}:{first + sectors - 1}", "-t", f"{number}:{kind}"]
        run_tool(*words, disk)
        made = disk.read_bytes()
        _tables[key] = made[:_TABLE] + made[size - _TABLE :]
    for _, first, _, _, content in parts:
        if content is not None:
            put(disk, content, first * 512)
    return disk


def standard_disk(disk: Path, ufs: Path) -> Path:
    """What most guests have: freebsd-boot, then freebsd-ufs at 1 MiB."""
    return gpt_disk(disk, [(1, 40, 1024, "A501", None), (2, 2048, ufs.stat().st_size // 512, "A503", ufs)])


def mbr_disk(disk: Path, script: str, parts: Sequence[tuple[int, Path]], size: int) -> Path:
    """An MBR disk by sfdisk(8); ``parts``: (first sector, content)."""
    require("sfdisk")
    blank(disk, size)
    run_tool("sfdisk", "-q", disk, stdin="label: dos\n" + script)
    for first, content in parts:
        put(disk, content, first * 512)
    return disk


def bsd_label(sectors: int, partitions: dict[int, tuple[int, int, int]]) -> bytes:
    """A disklabel sector; ``partitions``: index -> (offset, sectors, type).  No Debian tool writes them."""
    label = bytearray(512)
    struct.pack_into("<I", label, 0, 0x82564557)
    struct.pack_into("<I", label, 40, 512)
    struct.pack_into("<I", label, 132, 0x82564557)
    struct.pack_into("<H", label, 138, 8)
    for index, (offset, count, kind) in {2: (0, sectors, 0), **partitions}.items():
        struct.pack_into("<IIIBBH", label, 148 + 16 * index, count, offset, 0, kind, 0, 0)
    return bytes(label)


def write_at(disk: Path, offset: int, data: bytes) -> None:
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(data)
