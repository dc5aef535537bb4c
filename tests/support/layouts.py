"""Random disks by seed: partition tables (GPT, MBR, BSD labels, hybrids, damaged ones) around small file systems.

    python3 -m support.layouts SEED disk.img     (in tests/) writes the disk and prints its kind
    python3 -m support.layouts SEED              prints the keys typed at the loader's prompt

A seed gives the same disk everywhere (random.Random).  FreeBSD's own loaders were run on these disks; what they printed
is in tests/data/layouts (README.md there).  The order of the random draws is part of the data: change nothing.
"""

from __future__ import annotations

import functools
import random
import struct
import sys
import uuid
import zlib
from pathlib import Path

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DATA = Path(__file__).parent.parent / "data" / "layouts"
SECTOR = 512
GPT_TYPES = {
    "boot": "83BD6B9D-7F41-11DC-BE0B-001560B84F0F",
    "ufs": "516E7CB6-6ECF-11D6-8FF8-00022D09712B",
    "zfs": "516E7CBA-6ECF-11D6-8FF8-00022D09712B",
    "swap": "516E7CB5-6ECF-11D6-8FF8-00022D09712B",
    "efi": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    "fbsd": "516E7CB4-6ECF-11D6-8FF8-00022D09712B",
    "linux": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
    "ms": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
    "vinum": "516E7CB8-6ECF-11D6-8FF8-00022D09712B",
    "nandfs": "74BA7DD9-A689-11E1-BD04-00E081286ACF",
    "none": "00000000-0000-0000-0000-000000000000",
}
DISKMAGIC = 0x82564557

Bounds = list[tuple[int, int, int]]  # start, sectors, type
Slots = list[tuple[int, int, int, int]]  # flag, type, start, sectors


@functools.cache
def file_systems() -> list[bytes]:
    """An ISO and eight UFS (1 and 2, blocks of 4, 8, 32 and 64 KiB) with the same small tree, sorted by name."""
    return [zstd.decompress(path.read_bytes()) for path in sorted((DATA / "fs").iterdir())]


def bsd_label(r: random.Random, size: int, partitions: Bounds) -> bytes:
    count = len(partitions)
    label = bytearray(148 + 16 * count)
    struct.pack_into("<I", label, 0, DISKMAGIC)
    struct.pack_into("<I", label, 40, SECTOR)
    struct.pack_into("<III", label, 44, 63, 255, 10)
    struct.pack_into("<II", label, 56, 16065, size)
    struct.pack_into("<I", label, 132, DISKMAGIC)
    struct.pack_into("<H", label, 138, count)
    struct.pack_into("<II", label, 140, 8192, 8192)
    for index, (start, sectors, kind) in enumerate(partitions):
        struct.pack_into("<IIIBBH", label, 148 + 16 * index, sectors, start, 0, kind, 0, 0)
    checksum = 0
    for at in range(0, len(label), 2):
        checksum ^= struct.unpack_from("<H", label, at)[0]
    struct.pack_into("<H", label, 136, checksum if r.random() < 0.95 else checksum ^ 1)
    return bytes(label)


def mbr(image: bytearray, slots: Slots, magic: bool = True) -> None:
    for index, (flag, kind, start, sectors) in enumerate(slots[:4]):
        entry = struct.pack("<B3sB3sII", flag, b"\1\1\0", kind, b"\xfe\xff\xff", start, sectors)
        image[446 + 16 * index : 462 + 16 * index] = entry
    if magic:
        image[510:512] = b"\x55\xaa"


def put(image: bytearray, lba: int, data: bytes | bytearray) -> None:
    image[lba * SECTOR : lba * SECTOR + len(data)] = data[: max(0, len(image) - lba * SECTOR)]


def fill_slice(r: random.Random, image: bytearray, lba: int, sectors: int) -> None:
    """What a freebsd slice holds: a label and a file system, or a file system alone."""
    if r.random() >= 0.7:
        put(image, lba, r.choice(file_systems()))
        return
    count = r.choice([8, 8, 8, 16, 3, 2])
    base = r.choice([0, 0, 0, lba])
    partitions = [(0, 0, 0)] * count
    content = r.choice(file_systems())
    start = r.choice([0, 16, 32, 64])
    partitions[0] = (start + base, len(content) // SECTOR, r.choice([7, 7, 7, 27, 0, 1]))
    if count > 2:
        partitions[2] = (base, sectors, 0)
    if count > 3 and r.random() < 0.4:
        partitions[3] = (start + len(content) // SECTOR + base, 100, r.choice([7, 1, 27]))
    if count > 1 and r.random() < 0.4:
        partitions[1] = (start + len(content) // SECTOR + base, 64, 1)
    put(image, lba + start, content)
    put(image, lba + 1, bsd_label(r, sectors, partitions))


def _header(
    r: random.Random, current: int, backup: int, table_lba: int, table: bytes, entry: int, damage: str
) -> bytes:
    """A GPT header for the disk's end at max(current, backup); ``damage`` names what is wrong with it."""
    count, size = len(table) // entry, max(current, backup) + 1
    raw = struct.pack(
        "<8sIIIIQQQQ16sQIII",
        b"EFI PART",
        0x10000,
        92,
        0,
        0,
        current,
        backup,
        34,
        size - 34,
        uuid.UUID(int=5).bytes_le,
        table_lba,
        count,
        entry,
        zlib.crc32(table),
    )
    header = bytearray(raw)
    if damage == "rev":
        header[8:12] = b"\0\0\2\0"
    if damage == "self":
        header[24:32] = struct.pack("<Q", current + 1)
    struct.pack_into("<I", header, 16, zlib.crc32(header))
    if damage == "crc":
        header[16] ^= 1
    if damage == "sig":
        header[0] ^= 1
    if damage == "tab":
        header[88] ^= 1
    if damage == "hsize":
        struct.pack_into("<I", header, 12, r.choice([0, 91, 512, 513, 100]))
    if damage == "es":
        struct.pack_into("<I", header, 84, r.choice([0, 127, 64, 4096]))
    if damage in ("tab", "es"):
        struct.pack_into("<I", header, 16, 0)
        struct.pack_into("<I", header, 16, zlib.crc32(header))
    return bytes(header)


def _gpt(r: random.Random, image: bytearray, hybrid: bool) -> None:
    size = len(image) // SECTOR
    wanted = r.randint(1, 6)
    entry_size = r.choice([128] * 8 + [256])
    count = r.choice([128] * 6 + [4, 8, 16, 130])
    at = max(r.choice([34 if count <= 128 else 40, 2048, 40]), 2 + (count * entry_size + 511) // 512)
    entries = []
    for number in range(wanted):
        content = r.choice(file_systems())
        kind = r.choice(["ufs"] * 5 + ["boot", "swap", "efi", "fbsd", "linux", "ms", "vinum", "nandfs", "none", "zfs"])
        sectors = len(content) // SECTOR if kind in ("ufs", "linux", "fbsd", "ms") else r.choice([1, 100, 2000])
        if at + sectors > size - 40:
            break
        if kind in ("ufs", "linux", "ms") and r.random() < 0.85:
            put(image, at, content)
        elif kind == "fbsd":
            fill_slice(r, image, at, sectors)
        index = number if r.random() < 0.9 else number + r.randint(1, 3)
        attributes = r.choice([0, 0, 0, 1 << 59, 1 << 58, 1 << 57, 4, 3 << 58])
        label = r.choice(["root", "", "boot é", "x" * 36])
        entries.append((index, kind, at, at + sectors - 1, attributes, label))
        at += sectors + r.choice([0, 0, 8, 2048])
    entry_array = bytearray(count * entry_size)
    for index, kind, first, last, attributes, label in entries:
        if index < count:
            entry_array[index * entry_size : index * entry_size + 128] = (
                uuid.UUID(GPT_TYPES[kind]).bytes_le
                + uuid.UUID(int=r.getrandbits(128)).bytes_le
                + struct.pack("<QQQ", first, last, attributes)
                + label.encode("utf-16-le").ljust(72, b"\0")
            )
    table = bytes(entry_array)
    table_sectors = (len(table) + 511) // 512
    damages = ["ok"] * 9 + ["crc", "sig", "tab", "rev", "self", "hsize", "es"]
    put(image, 1, _header(r, 1, size - 1, 2, table, entry_size, r.choice(damages)))
    put(image, 2, table)
    put(image, size - 1 - table_sectors, table)
    put(image, size - 1, _header(r, size - 1, 1, size - 1 - table_sectors, table, entry_size, r.choice(damages)))
    protective: dict[str, Slots] = {
        "std": [(0, 0xEE, 1, size - 1)],
        "active": [(0x80, 0xEE, 1, size - 1)],
        "short": [(0, 0xEE, 1, 0xFFFFFFFF)],
        "extra": [(0, 0xEE, 1, size - 1), (0x80, 0xA5, 2048, 2048)],
        "second": [(0, 0, 0, 0), (0, 0xEE, 1, size - 1)],
        "none": [(0, 0, 0, 0)],
    }
    slots = protective[r.choice(["std"] * 8 + ["active", "short", "extra", "second", "none"])]
    if hybrid and entries:
        _, _, first, last, _, _ = entries[0]
        slots = [(0, 0xEE, 1, 33), (0x80, r.choice([0xA5, 0x83, 0x0B]), first, last - first + 1)]
    mbr(image, slots)


def _slices(r: random.Random, image: bytearray) -> None:
    size = len(image) // SECTOR
    at = r.choice([63, 64, 2048, 1])
    slots: Slots = []
    for _ in range(r.randint(1, 4)):
        content = r.choice(file_systems())
        sectors = len(content) // SECTOR + 200
        if at + sectors > size:
            break
        kind = r.choice([0xA5] * 6 + [0x83, 0x0B, 0x0C, 0x07, 0xEF, 0xA9, 0x82, 0])
        slots.append((r.choice([0, 0, 0x80, 0x80, 1]), kind, at, sectors))
        if kind == 0xA5:
            fill_slice(r, image, at, sectors)
        elif kind in (0x83, 0x0C):
            put(image, at, content)
        at += sectors + r.choice([0, 1, 63])
    if r.random() < 0.3 and at + 20000 < size:
        slots.append((0, r.choice([5, 15, 0x85]), at, size - at))
        _logical(r, image, at, size)
    if r.random() < 0.2:
        r.shuffle(slots)
    mbr(image, slots, r.random() < 0.95)


def _logical(r: random.Random, image: bytearray, base: int, size: int) -> None:
    current, count = base, r.randint(1, 3)
    for number in range(count):
        content = r.choice(file_systems()[:3])
        sectors = len(content) // SECTOR + 100
        if current + 63 + sectors > size:
            break
        record = bytearray(SECTOR)
        kind = r.choice([0xA5, 0x83, 0x0C])
        behind = current + 63 + sectors
        struct.pack_into("<B3sB3sII", record, 446, 0, b"\1\1\0", kind, b"\xfe\xff\xff", 63, sectors)
        if number < count - 1:
            struct.pack_into("<B3sB3sII", record, 462, 0, b"\1\1\0", 5, b"\xfe\xff\xff", behind - base, sectors + 63)
        record[510:512] = b"\x55\xaa"
        put(image, current, record)
        if kind == 0xA5:
            fill_slice(r, image, current + 63, sectors)
        else:
            put(image, current + 63, content)
        current = behind


def _make(r: random.Random) -> tuple[str, bytes]:
    size = r.choice([24, 30, 36]) * 2048
    image = bytearray(size * SECTOR)
    kind = r.choice(["gpt"] * 6 + ["mbr"] * 4 + ["bare", "label", "hybrid", "empty", "iso"])
    if kind in ("gpt", "hybrid"):
        _gpt(r, image, kind == "hybrid")
    elif kind == "mbr":
        _slices(r, image)
    elif kind == "bare":
        image = bytearray(r.choice(file_systems()))
    elif kind == "iso":
        image = bytearray(file_systems()[0])
        if r.random() < 0.3:
            image.extend(b"x" * 100)
    elif kind == "label":
        fill_slice(r, image, 0, size)
    if r.random() < 0.1:
        del image[r.randrange(len(image) // 4, len(image)) :]
    if r.random() < 0.05:
        image += b"\0" * r.choice([512, 1 << 20, 77])
    return kind, bytes(image)


_DEVICES = [f"disk0{place}:" for place in ("", "p1", "p2", "p3", "s1", "s1a", "s2", "s2a", "a", "s5", "s1d", "p1a")]
_DEVICES += ["disk1:", "disk0s1c:", "disk0s6:"]
_COMMANDS = [
    "ls %s\n",
    "ls %s/\n",
    "ls -l %s/boot\n",
    "set currdev=%s\nls\n",
    "more %s/who\n",
    "load %s/boot/kernel/kernel\nunload\n",
    "load -t raw %s\nunload\n",
    "lsdev\nls %s/nope\n",
    "ls %s/boot/rel\n",
    "ls -l %s/abs\n",
]


def _keys(r: random.Random) -> str:
    typed = "lsdev -v\nshow currdev\nls\n"
    for _ in range(r.randint(2, 7)):
        typed += r.choice(_COMMANDS) % r.choice(_DEVICES)
    return typed + "load /boot/kernel/kernel\nboot\nquit\n"


def disk(seed: int) -> tuple[str, bytes, str]:
    """(kind, content, keys) of a seed."""
    r = random.Random(f"layout-{seed}")
    kind, image = _make(r)
    return kind, image, _keys(r)


if __name__ == "__main__":
    made, content, typed = disk(int(sys.argv[1]))
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_bytes(content)
        print(made)
    else:
        sys.stdout.write(typed)
