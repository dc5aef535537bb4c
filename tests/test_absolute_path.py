"""Names of files against what the host's kernel finds by them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bhyveload.absolute_path import absolute_path


@pytest.mark.parametrize(
    "name", ["file", "./file", "link/../file", "./link/..//file", "{}/link/../file", "link/./../file", "..", ".", "a b"]
)
def test_it_is_the_same_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far" / "folder").mkdir(parents=True)
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").symlink_to("../far/folder")
    for place in ("far", "near"):
        (tmp_path / place / "file").touch()
        (tmp_path / place / "a b").touch()
    monkeypatch.chdir(tmp_path / "near")
    name = name.format(tmp_path / "near")
    path = absolute_path(name)
    assert path.startswith("/")
    assert not {"", ".", ".."} & set(path.split("/")[1:])
    assert os.path.samefile(path, name)
    monkeypatch.chdir("/")
    assert os.path.exists(path)


def test_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert absolute_path("/etc/../etc/passwd") == "/etc/passwd"
    with pytest.raises(FileNotFoundError):
        absolute_path("../disk.img")
