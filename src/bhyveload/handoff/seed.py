"""A disk for a guest's first boot: a FAT file system called CIDATA with user-data and meta-data, for nuageinit(7) and
cloud-init ("NoCloud").

Sources: libexec/nuageinit/nuageinit, sys/fs/msdosfs/bpb.h and direntry.h.
"""

from __future__ import annotations

import os
import struct

from bhyveload.errors import InputError, UsageError
from bhyveload.handoff.disks import Disk
from bhyveload.libc import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_SECTOR = 512
_SECTORS = 8192  # 4 MiB: FAT12 with 4 KiB clusters
_PER_CLUSTER = 8
_CLUSTER = _SECTOR * _PER_CLUSTER
_RESERVED, _FATS, _FAT_SECTORS, _ROOT_ENTRIES = 1, 2, 4, 512
_ROOT = _RESERVED + _FATS * _FAT_SECTORS
_DATA = _ROOT + _ROOT_ENTRIES * 32 // _SECTOR
_CLUSTERS = (_SECTORS - _DATA) // _PER_CLUSTER
_LABEL = b"CIDATA     "
_MEDIA = 0xF8
_DATE = (2024 - 1980) << 9 | 1 << 5 | 1
_ATTR_VOLUME, _ATTR_ARCHIVE, _ATTR_LONG = 0x08, 0x20, 0x0F
_LONG_PART = 13  # characters
_FILE_MAX = 1 << 20
_HOSTNAME_MAX = 253


def seed_disk(seed: str, hostname: str, key_paths: list[str]) -> Disk:
    """The disk for these options: ``seed`` is "" or ``USER-DATA[,META-DATA]``, two files.

    It is kept by an open descriptor for as long as this process lives.  Raises InputError, UsageError.
    """
    user_path, _, meta_path = seed.partition(",")
    user_data = read_seed(user_path) if user_path else None
    meta_data = read_seed(meta_path) if meta_path else None
    image = seed_image(seed_files(user_data, meta_data, hostname, [public_key(path) for path in key_paths]))
    fd = os.memfd_create("seed", os.MFD_CLOEXEC)
    write_all(fd, image)
    return Disk(f"/proc/{os.getpid()}/fd/{fd}", read_only=True, size=len(image), name="seed")


def seed_image(files: Mapping[str, bytes]) -> bytes:
    """The disk with ``files`` in it.  Raises UsageError: they are too large."""
    fat = [0xF00 | _MEDIA, 0xFFF]
    root = bytearray(_entry(_LABEL, _ATTR_VOLUME, 0, 0))
    data = bytearray()
    for number, (name, content) in enumerate(files.items()):
        count = -(-len(content) // _CLUSTER)
        if len(fat) + count > _CLUSTERS or len(content) > _FILE_MAX:
            raise UsageError(f"--seed: {name} is too large", f"{_FILE_MAX >> 20} MiB at most")
        first = len(fat) if count else 0
        fat += [*range(first + 1, first + count), 0xFFF] if count else []
        data += content.ljust(count * _CLUSTER, b"\0")
        root += _named(name, b"SEED%04dDAT" % number, first, len(content))
    table = _packed(fat).ljust(_FAT_SECTORS * _SECTOR, b"\0")
    image = _boot_sector() + table * _FATS + root.ljust(_ROOT_ENTRIES * 32, b"\0") + data
    return bytes(image.ljust(_SECTORS * _SECTOR, b"\0"))


def _boot_sector() -> bytes:
    block = struct.pack(
        "<3s8sHBHBHHBHHHIIBBBI11s8s",
        *(b"\xeb\x3c\x90", b"BSD4.4  ", _SECTOR, _PER_CLUSTER, _RESERVED, _FATS, _ROOT_ENTRIES, _SECTORS, _MEDIA),
        *(_FAT_SECTORS, 32, 16, 0, 0, 0x80, 0, 0x29, 0x5EED5EED, _LABEL, b"FAT12   "),
    )
    return block.ljust(_SECTOR - 2, b"\0") + b"\x55\xaa"


def _packed(entries: list[int]) -> bytes:
    """12 bits each, two in three bytes."""
    pairs = zip(entries[::2], [*entries[1::2], 0], strict=False)
    return b"".join((low | high << 12).to_bytes(3, "little") for low, high in pairs)


def _entry(name: bytes, attributes: int, cluster: int, size: int) -> bytes:
    return struct.pack("<11sB8xHHHHI", name, attributes, 0, 0, _DATE, cluster, size)


def _named(name: str, short: bytes, cluster: int, size: int) -> bytes:
    """The entries of a file with a long name, the last part of it first."""
    total = 0
    for byte in short:
        total = ((total >> 1) | (total & 1) << 7) + byte & 0xFF
    units = (name.encode("utf-16-le") + b"\0\0").ljust(-(-(len(name) + 1) // _LONG_PART) * _LONG_PART * 2, b"\xff")
    if not len(name) % _LONG_PART:
        units = name.encode("utf-16-le")
    count = len(units) // 2 // _LONG_PART
    entries = b""
    for number in range(count, 0, -1):
        part = units[(number - 1) * _LONG_PART * 2 : number * _LONG_PART * 2]
        order = number | (0x40 if number == count else 0)
        entries += struct.pack("<B10sBBB12sH4s", order, part[:10], _ATTR_LONG, 0, total, part[10:22], 0, part[22:])
    return entries + _entry(short, _ATTR_ARCHIVE, cluster, size)


def seed_files(user_data: bytes | None, meta_data: bytes | None, hostname: str, keys: list[str]) -> dict[str, bytes]:
    """user-data and meta-data: those given, or made of a host name and public keys (for root's shell and freebsd's).

    Raises UsageError: both, or what cannot be a host's name or a key.
    """
    if user_data is not None and keys:
        raise UsageError("--seed and --ssh-key exclude each other", "write the key into the user-data")
    if meta_data is not None and hostname:
        raise UsageError("--seed with meta-data and --hostname exclude each other")
    if hostname and not (len(hostname) <= _HOSTNAME_MAX and all(map(_is_label, hostname.split(".")))):
        raise UsageError(f"--hostname {hostname}: cannot be a host's name")
    if meta_data is None:
        meta_data = b"instance-id: bhyverun\n" + (f"local-hostname: {hostname}\n".encode() if hostname else b"")
    if user_data is None:
        lines = ["#cloud-config", *(["ssh_authorized_keys:"] if keys else []), *(f"  - {key}" for key in keys)]
        user_data = "\n".join([*lines, ""]).encode()
    return {"meta-data": meta_data, "user-data": user_data}


def _is_label(text: str) -> bool:
    return 0 < len(text) < 64 and text.isascii() and text.replace("-", "").isalnum() and text.strip("-") == text


def public_key(path: str) -> str:
    """The key in a file as ssh-keygen(1) writes them.  Raises InputError, UsageError."""
    line = read_seed(path).decode("utf-8", "replace").strip()
    kind, _, rest = line.partition(" ")
    if not line.isprintable() or not rest or not kind.startswith(("ssh-", "ecdsa-", "sk-")):
        raise UsageError(f"--ssh-key {path}: is no public key", "ssh-keygen makes two files, the public one is .pub")
    return line


def read_seed(path: str) -> bytes:
    """A file of the user's, with a bound.  Raises InputError, UsageError."""
    try:
        with open(path, "rb") as file:
            data = file.read(_FILE_MAX + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if len(data) > _FILE_MAX:
        raise UsageError(f"{path}: is too large for a seed", f"{_FILE_MAX >> 20} MiB at most")
    return data
