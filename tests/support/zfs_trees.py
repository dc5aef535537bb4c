"""The content of a data set in the words of the manifests, and disks with damaged sectors."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from bhyveload.device import Device
from bhyveload.fs.stat import S_IFDIR, S_IFLNK, S_IFMT
from bhyveload.fs.zfs.zpl import ZfsFileSystem
from support.devices import Hostless
from support.zfs_pools import SECTOR, disk, vdev_partition

VDEV_LABEL_START = 4 << 20
Tree = dict[str, list[str]]


def tree_of(filesystem: ZfsFileSystem, path: bytes = b"") -> Iterator[tuple[str, list[str]]]:
    """The manifest's description of what is below ``path``."""
    for _, kind, name in filesystem.readdir(filesystem.lookup(path or b"/")):
        full = path + b"/" + name
        node = filesystem.lookup(full, follow=False)
        stat = filesystem.stat(node)
        assert kind in (0, stat.mode >> 12)
        if stat.mode & S_IFMT == S_IFDIR:
            yield full.decode(), ["d"]
            yield from tree_of(filesystem, full)
        elif stat.mode & S_IFMT == S_IFLNK:
            assert stat.size == len(filesystem.readlink(node))
            yield full.decode(), ["l", filesystem.readlink(node).decode()]
        else:
            file = filesystem.open(node)
            digest = hashlib.sha256()
            for start in range(0, stat.size, 1 << 20):
                for piece in file.read(start, 1 << 20):
                    digest.update(piece)
            yield full.decode(), ["f", digest.hexdigest()]


class Damaged(Hostless):
    """A vdev's device, a share of whose data sectors (labels excluded) read as something else."""

    sector_size = SECTOR
    read_only = True

    def __init__(self, name: str, seed: int, share: float, inner: Device | None = None) -> None:
        self.inner = inner or vdev_partition(disk(name))
        self.size = self.inner.size
        self.seed = seed
        self.share = share

    def read(self, offset: int, length: int) -> bytes:
        data = bytearray(self.inner.read(offset, length))
        for sector in range(max(offset, VDEV_LABEL_START) // SECTOR, -(-(offset + length) // SECTOR)):
            generator = random.Random(self.seed << 32 | sector)
            if generator.random() < self.share:
                start = max(0, sector * SECTOR - offset)
                end = min(length, (sector + 1) * SECTOR - offset)
                data[start:end] = generator.randbytes(end - start)
        return bytes(data)

    def write(self, offset: int, data: object) -> None:
        raise AssertionError("nothing is written")
