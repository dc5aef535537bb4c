"""A file system with nothing in it: what a further one needs (tests/fs/test_registry.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bhyveload.device import Device
from bhyveload.errors import FileSystemError, NoFileSystem
from bhyveload.freebsd_errno import EINVAL, ENOENT
from bhyveload.fs.interface import DiskFile, Twiddle
from bhyveload.fs.stat import S_IFDIR, Stat

MAGIC = b"EMPTY-FS"


class EmptyFileSystem:
    name = "emptyfs"

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.notes = ["it is empty"]

    def facts(self) -> dict[str, Any]:
        return {"type": self.name, "notes": self.notes}

    def lookup(self, path: bytes, follow: bool = True) -> str:
        if path.strip(b"/"):
            raise FileSystemError(ENOENT, "emptyfs: there is nothing")
        return "root"

    def stat(self, node: object) -> Stat:
        return Stat(S_IFDIR | 0o755, 0, ino=1)

    def readdir(self, node: object) -> Iterator[tuple[int, int, bytes]]:
        return iter(())

    def readlink(self, node: object) -> bytes:
        raise FileSystemError(EINVAL, "emptyfs: not a link")

    def open(self, node: object) -> DiskFile:
        raise FileSystemError(EINVAL, "emptyfs: not a file")

    def children(self, node: object) -> Iterator[tuple[bytes, Any]]:
        return iter(())

    def child(self, found: Any) -> Any:
        return found


def probe(device: Device, twiddle: Twiddle, strict: bool = False) -> EmptyFileSystem:
    twiddle(1)
    if bytes(device.read(0, len(MAGIC))) != MAGIC:
        raise NoFileSystem(EINVAL, "emptyfs: no magic")
    return EmptyFileSystem()


def describe(facts: dict[str, Any], size: Callable[[int], str]) -> str:
    return "an empty file system"
