"""What a guest, or somebody who sends an image, can make of a disk so that other programs open files of the host."""

from __future__ import annotations

import struct
from pathlib import Path

_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
_NEWLINES = b"\n \r\n"
_GRAIN = 128  # sectors


def raw_disk_as_vmdk(disk: Path, target: Path) -> None:
    """``disk``, of 12 MiB or more with nothing behind 10 MiB: a sound VMDK by its footer, whose content is what it was;
    by its first header one of capacity 0, whose descriptor names ``target``."""
    data = bytearray(disk.read_bytes())
    sectors = len(data) // 512
    grains = sectors // _GRAIN
    first, last = 10 << 20, (10 << 20) + 65536  # where what is overwritten goes
    data[first : first + 65536] = data[0:65536]
    data[last : last + 65536] = data[(grains - 1) * 65536 : grains * 65536]
    directory, table = 16384, 20480
    entries = [number * _GRAIN for number in range(grains)]
    entries[0], entries[-1] = first // 512, last // 512
    data[directory : directory + 4] = struct.pack("<I", table // 512)
    data[table : table + 4 * grains] = struct.pack(f"<{grains}I", *entries)
    text = (
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        f'createType="monolithicFlat"\nRW 8 FLAT "{target}" 0\n'
    ).encode()
    data[512 : 512 + len(text) + 1] = text + b"\0"
    header = _HEADER.pack(b"KDMV", 1, 1, 0, _GRAIN, 1, 20, 512, 0, 0xFFFFFFFFFFFFFFFF, 128, 0, _NEWLINES, 0)
    data[0:512] = header.ljust(512, b"\0")
    footer = _HEADER.pack(b"KDMV", 1, 1, sectors, _GRAIN, 0, 0, 512, 0, directory // 512, 128, 0, _NEWLINES, 0)
    data[-1536:] = struct.pack("<QII", 1, 0, 3).ljust(512, b"\0") + footer.ljust(512, b"\0") + bytes(512)
    with disk.open("r+b") as file:  # the same file: a guest cannot make another
        file.write(data)


def raw_disk_as_qcow2(disk: Path, target: Path) -> None:
    """``disk``: an empty qcow2 image that stands on ``target``."""
    name = str(target).encode()
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb",
        3,
        0x200,
        len(name),
        16,
        8 << 20,
        0,
        1,
        3 << 16,
        1 << 16,
        1,
        0,
        0,
        0,
        0,
        0,
        4,
        104,
    )
    with disk.open("r+b") as file:
        file.write(header.ljust(0x200, b"\0") + name)
        file.seek(1 << 16)
        file.write(struct.pack(">Q", 2 << 16).ljust(1 << 16, b"\0"))
        file.write((struct.pack(">H", 1) * 4).ljust(1 << 16, b"\0"))
        file.write(bytes(1 << 16))


def descriptor(path: Path, line: str) -> Path:
    """A VMDK descriptor with one more ``line``."""
    head = '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
    path.write_text(f"{head}{line}\n")
    return path
