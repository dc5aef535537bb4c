"""Folders in and out of a scripted guest (support/scripted_guest.py): its sh and tar are
the host's, its disk is the file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bhyveload.errors import GuestError, InputError, UsageError
from bhyveload.guest.exchange import Exchange
from bhyveload.guest.session import Guest
from support.scripted_guest import ScriptedSession

MIB = 1 << 20


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    with Exchange(os.memfd_create("disk"), 4 * MIB - 1) as exchange:
        yield exchange


@pytest.fixture(scope="module", params=["tar", "bsdtar"])
def guest(
    exchange: Exchange, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guest]:
    """Two more disks are in front of it, one of them absent.  FreeBSD's tar is bsdtar."""
    tar = shutil.which(request.param)
    if tar is None:
        pytest.skip(f"{request.param} is not installed")
    with pytest.MonkeyPatch.context() as patch, Exchange(os.memfd_create("other"), MIB) as other:
        programs = tmp_path_factory.mktemp("programs")
        (programs / "tar").symlink_to(tar)
        patch.setenv("PATH", str(programs), prepend=":")
        names = f"/dev/absent {other.path} {exchange.path}"
        patch.setattr("bhyveload.guest.exchange.DEVICES", names.encode())
        session = ScriptedSession("login")
        with Guest(session, patience=20.0, exchange=exchange) as guest:  # type: ignore[arg-type]
            yield guest


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source it's"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / os.fsdecode(b"\xff ")).write_bytes(os.urandom(MIB))
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    (folder / "link").symlink_to("deep/er")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_there_and_back(guest: Guest, source: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    os.mkfifo(source / "pipe")
    guest.put_tree(source, tmp_path / "in its" / "place", timeout=60, step=lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1] >= MIB
    (source / "pipe").unlink()
    assert names(tmp_path / "in its" / "place") == names(source)
    assert (tmp_path / "in its" / "place" / "run").stat().st_mode & 0o777 == 0o755
    (tmp_path / "in its" / "place" / "away").symlink_to("/etc")
    left_out = guest.get_tree(tmp_path / "in its" / "place", tmp_path / "back", timeout=60)
    assert left_out == ["away: a link out of the folder, to /etc"]
    assert names(tmp_path / "back") == names(source)
    (random,) = (source / "deep" / "er").iterdir()
    assert (tmp_path / "back" / "deep" / "er" / random.name).read_bytes() == random.read_bytes()


def test_nothing_of_the_folder_before_is_left(guest: Guest, source: Path, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "link").symlink_to(source)
    guest.put_tree(tmp_path / "link", tmp_path / "one")
    assert names(tmp_path / "one") == names(source)
    guest.put_tree(tmp_path / "small", tmp_path / "two")
    assert names(tmp_path / "two") == []
    assert guest.get_tree(tmp_path / "small", tmp_path / "three") == [] and names(tmp_path / "three") == []


def test_what_cannot_be(guest: Guest, exchange: Exchange, source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: no such folder"):
        guest.put_tree(tmp_path / "absent", "/x")
    with pytest.raises(InputError, match="not a folder"):
        guest.put_tree(source / "run", "/x")
    with pytest.raises(UsageError, match="cannot be the name of a folder"):
        guest.put_tree(source, "a\nb")
    (source / "more").write_bytes(bytes(4 * MIB))
    with pytest.raises(UsageError, match="more than the 4 MiB that may be copied") as caught:
        guest.put_tree(source, tmp_path / "in")
    assert "--copy-limit" in caught.value.hint
    with pytest.raises(GuestError, match=r"absent: in the guest: .*No such file"):
        guest.get_tree(tmp_path / "absent", tmp_path / "back")
    (tmp_path / "file").touch()
    with pytest.raises(GuestError, match="file: in the guest: "):
        guest.put_tree(source / "deep", tmp_path / "file")
    guest.exchange = None
    try:
        with pytest.raises(GuestError, match="has no disk for folders"):
            guest.put_tree(source, "/x")
    finally:
        guest.exchange = exchange
    for limit in (0, MIB - 1, 1 << 50):
        with pytest.raises(UsageError, match="a limit of"):
            Exchange(-1, limit)


def test_a_guest_without_the_disk(guest: Guest, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bhyveload.guest.exchange.DEVICES", b"/dev/absent")
    with pytest.raises(GuestError, match="the disk for folders is not there"):
        guest.put_tree(source, "/x")


def test_a_guest_without_9p(guest: Guest) -> None:
    with pytest.raises(GuestError, match="the guest cannot mount the share tag: ") as caught:
        guest.mount("tag", "/proc")
    assert "FreeBSD 15" in caught.value.hint
