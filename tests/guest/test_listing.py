"""A guest's tar stream read by confined children: the host's tar made it, or a child that is in the guest's hands."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bhyveload.errors import BhyveloadError, GuestError, LoaderCrashed, ReportError
from bhyveload.guest import listing
from bhyveload.guest.archive import Archive, ArchiveEntry
from bhyveload.guest.extract import extract
from bhyveload.guest.listing import ConfinedArchive


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for number in range(2500):
        place = folder / f"{number % 7}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"file {number}").write_bytes(b"%d" % number)
    (folder / os.fsdecode(b"\xff\xe9")).write_bytes(b"no text")
    (folder / "link").symlink_to("0/file 0")
    with open(folder / "holes", "wb") as file:
        for number in range(40):
            file.seek(number << 18)
            file.write(b"%d" % number)
    return folder


@pytest.fixture
def disk(source: Path) -> Iterator[ConfinedArchive]:
    fd = os.memfd_create("disk")
    subprocess.run(["tar", "-cSf", f"/proc/{os.getpid()}/fd/{fd}", "--format=pax", "-C", source, "."], check=True)
    os.ftruncate(fd, os.fstat(fd).st_size + 1024)
    yield ConfinedArchive(fd, os.fstat(fd).st_size)
    os.close(fd)


def _content(folder: Path) -> dict[bytes, bytes | str]:
    return {
        os.fsencode(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_a_tree_of_several_reports(tmp_path: Path, source: Path, disk: ConfinedArchive) -> None:
    assert extract(disk, str(tmp_path / "out")) == []
    assert _content(tmp_path / "out") == _content(source)


def test_no_header_is_read_by_this_process(
    tmp_path: Path, disk: ConfinedArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, entries = os.getpid(), Archive.entries

    def elsewhere(archive: Archive, at: int = 0) -> Iterator[ArchiveEntry]:
        assert os.getpid() != here
        return entries(archive, at)

    monkeypatch.setattr(Archive, "entries", elsewhere)
    assert extract(disk, str(tmp_path / "out"), lambda done, total: None) == []


def _row(**more: Any) -> dict[str, Any]:
    plain = {
        "kind": "file",
        "path": "f",
        "mode": 0o644,
        "modified": 0,
        "size": 1,
        "target": "",
        "pieces": [],
        "at": 512,
    }
    return {**plain, **more}


@pytest.mark.parametrize(
    ("report", "error", "reason"),
    [
        ({"entries": [_row(path="../f")], "more": False}, GuestError, "the path ../f"),
        ({"entries": [_row(path="/f")], "more": False}, GuestError, "the path /f"),
        ({"entries": [_row(kind="door")], "more": False}, ReportError, "entries.kind"),
        ({"entries": [_row(mode=0o4755)], "more": False}, ReportError, "entries.mode"),
        ({"entries": [_row(pieces=[0, 0, 2])], "more": False}, GuestError, "a file's pieces"),
        ({"entries": [_row(pieces=[0, 1 << 40, 1])], "more": False}, GuestError, "ends too early"),
        ({"entries": [], "more": True}, GuestError, "does not go on"),
        ({"entries": [_row(at=0)], "more": True}, GuestError, "does not go on"),
        ({"entries": [_row()] * 1001, "more": False}, ReportError, "entries"),
    ],
)
def test_reports_that_lie(
    tmp_path: Path,
    disk: ConfinedArchive,
    monkeypatch: pytest.MonkeyPatch,
    report: dict[str, Any],
    error: type[BhyveloadError],
    reason: str,
) -> None:
    monkeypatch.setattr(listing, "_batch", lambda *_: report)
    with pytest.raises(error, match=reason):
        extract(disk, str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path)) == ["out", "source"]


def test_a_reader_that_opens_a_file(tmp_path: Path, disk: ConfinedArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    def opens(*_: object) -> dict[str, Any]:
        os.open("/etc/passwd", os.O_RDONLY)
        return {"entries": [], "more": False}

    monkeypatch.setattr(listing, "_batch", opens)
    with pytest.raises(LoaderCrashed, match="the reader of the guest's folder"):
        extract(disk, str(tmp_path / "out"))
