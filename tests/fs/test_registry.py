"""A further file system is a module and a line: the loader, its diagnosis and bhyvedisk then know it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bhyveload import need
from bhyveload.errors import FileSystemError, LoaderError, NoFileSystem
from bhyveload.fs import iso9660, registry, ufs
from bhyveload.fs.interface import FileSystemModule
from bhyveload.fs.registry import FileSystemKind, Signature
from bhyveload.image.raw import open_raw
from bhyveload.inspect.survey import describe, survey
from bhyveload.inspect.tree import find
from bhyveload.inspect.volumes import DiskVolumes
from bhyveload.loader.state import Options
from support import empty_fs, harness
from support.devices import Hostless

LINE = ("emptyfs", "Empty", "support.empty_fs")


@pytest.fixture(params=["every disk is a candidate", "by signature"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A disk with that file system; the registry has its line."""
    signature = Signature(0, 512, 0, empty_fs.MAGIC) if request.param == "by signature" else None
    monkeypatch.setattr(registry, "DISK", (*registry.DISK, FileSystemKind(*LINE, signature)))
    monkeypatch.setattr("bhyveload.loader.files.files.DISK", registry.DISK)
    path = tmp_path / "disk.img"
    path.write_bytes(empty_fs.MAGIC.ljust(1 << 20, b"\0"))
    return path


def test_every_module_keeps_the_protocol() -> None:
    one: FileSystemModule = ufs  # or mypy fails
    other: FileSystemModule = iso9660
    further: FileSystemModule = empty_fs
    assert all(callable(module.describe) for module in (one, other, further))


def test_the_loader_mounts_it(disk: Path) -> None:
    outcome = harness.run([open_raw(str(disk))], b"ls /\nls /boot\nquit\n", environment=[b"autoboot_delay=NO"])
    assert outcome.end == "exit"
    assert b"OK ls /\r\n/\r\nOK ls /boot\r\n" in outcome.console  # there is a root, and nothing in it
    assert b"open '/boot' failed: no such file or directory" in outcome.console


def test_bhyvedisk_describes_it(disk: Path) -> None:
    images = [open_raw(str(disk))]
    disks = DiskVolumes(images)
    facts = survey(images, disks)
    assert facts["disks"][0]["file_system"] == {"type": "emptyfs", "notes": ["it is empty"]}
    lines = list(describe(facts))
    assert "  an empty file system" in lines and "  note: it is empty" in lines
    assert lines[-1] == "boots disk0: Empty, no /boot/kernel/kernel"


def test_bhyvedisk_walks_it(disk: Path) -> None:
    name, fs = DiskVolumes([open_raw(str(disk))]).file_system()
    assert (name, fs.name) == ("disk0:", "emptyfs")
    with pytest.raises(FileSystemError, match="nothing"):
        find(fs, b"/boot")


def test_a_failed_load_is_explained_by_it(disk: Path) -> None:
    with pytest.raises(LoaderError, match=r"disk.img \(disk0\): there is no /boot$"):
        harness.run([open_raw(str(disk))], options=Options(batch=True))


def test_whether_there_is_none_is_told_from_damage(tmp_path: Path) -> None:
    """What every kind's probe says of a disk without it, and what of one that it finds and cannot read."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    _, refusals = registry.mounted(open_raw(str(path)), lambda divisor: None)
    assert len(refusals) == len(registry.DISK)
    assert all(isinstance(refusal, NoFileSystem) for refusal in refusals)
    data = bytearray(1 << 20)
    data[65536 + 1372 : 65536 + 1376] = (0x19540119).to_bytes(4, "little")  # FS_UFS2_MAGIC, and nothing else
    path.write_bytes(data)
    _, refusals = registry.mounted(open_raw(str(path)), lambda divisor: None)
    assert not isinstance(refusals[0], NoFileSystem)


def test_a_module_is_asked_for_only_where_its_signature_is(tmp_path: Path) -> None:
    class Zeros(Hostless):
        size = 1 << 20

        def read(self, offset: int, length: int) -> bytes:
            return bytes(length)

        def write(self, offset: int, data: bytes | memoryview) -> None:
            raise AssertionError

    kind = FileSystemKind("nowhere", "Nowhere", "support.there_is_no_such_module", Signature(0, 512, 0, b"NOWHERE"))
    turns: list[int] = []
    with pytest.raises(FileSystemError, match="no Nowhere"):
        kind.probe(Zeros(), turns.append)
    assert turns == [1] and "support.there_is_no_such_module" in need.GROUPS
    del need.GROUPS["support.there_is_no_such_module"]
