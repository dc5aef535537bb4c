"""Which userboot object is chosen, and what a guest may ask for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.errors import InputError, LoaderError
from bhyveload.userboot import search
from bhyveload.userboot.search import (
    LoaderObject,
    Loaders,
    default_directories,
    find_loader,
    loader_name,
    read_loader,
    refuse_swap,
)


def found(loader: LoaderObject | None) -> tuple[str, bytes]:
    assert loader is not None
    return loader.path, loader.data


@pytest.mark.parametrize(
    ("interpreter", "name"),
    [
        (None, "userboot.so"),
        (b"lua", "userboot_lua.so"),
        (b"4th", "userboot_4th.so"),
        (b"simp", "userboot_simp.so"),
        (b"a-b_C9", "userboot_a-b_C9.so"),
        (b"x" * 16, f"userboot_{'x' * 16}.so"),
    ],
)
def test_names(interpreter: bytes | None, name: str) -> None:
    assert loader_name(interpreter) == name


@pytest.mark.parametrize(
    "interpreter", [b"../lua", b"lua/../../etc", b"lua.so", b"x" * 17, b"lua\n", b"\x1b[2J", b"l\0a", b"\xe9", b" "]
)
def test_names_a_guest_may_not_ask_for(interpreter: bytes, tmp_path: Path) -> None:
    with pytest.raises(LoaderError, match="impossible name"):
        find_loader([str(tmp_path)], interpreter)
    with pytest.raises(LoaderError, match="impossible name") as caught:
        loader_name(interpreter)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400
    assert caught.value.exit_status == 1


def test_an_empty_request_is_upstreams_message() -> None:
    with pytest.raises(LoaderError, match="guest failed to request an interpreter"):
        loader_name(b"")


@settings(max_examples=100, deadline=None)
@given(interpreter=st.binary(max_size=40))
def test_no_name_leaves_the_directory(interpreter: bytes) -> None:
    try:
        name = loader_name(interpreter)
    except LoaderError:
        return
    assert "/" not in name
    assert name.startswith("userboot_")
    assert name.endswith(".so")


def test_the_first_directory_that_has_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    (first / "userboot_lua.so").write_bytes(b"first lua")
    (second / "userboot_lua.so").write_bytes(b"second lua")
    (second / "userboot.so").write_bytes(b"second")
    directories = [str(tmp_path / "absent"), str(first), str(second)]
    assert found(find_loader(directories, b"lua")) == (f"{first}/userboot_lua.so", b"first lua")
    assert found(find_loader(directories)) == (f"{second}/userboot.so", b"second")


def test_none_has_it(tmp_path: Path) -> None:
    assert find_loader([str(tmp_path)], b"4th") is None
    assert find_loader([]) is None


def test_a_link_may_not_lead_out_of_the_directory(tmp_path: Path) -> None:
    """bhyveload(8) looks loaders up beneath /boot (O_RESOLVE_BENEATH)."""
    folder = tmp_path / "loaders"
    folder.mkdir()
    (tmp_path / "outside.so").write_bytes(b"outside")
    (folder / "userboot_lua.so").write_bytes(b"lua")
    (folder / "userboot.so").symlink_to("userboot_lua.so")
    (folder / "userboot_4th.so").symlink_to("../outside.so")
    assert found(find_loader([str(folder)]))[1] == b"lua"
    with pytest.raises(InputError, match=r"userboot_4th\.so: leads out of its directory"):
        find_loader([str(folder)], b"4th")


def test_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = ("/usr/local/share/bhyveload", "/usr/share/bhyveload")
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_directories() == ("/home/somebody/.local/share/bhyveload", *packages)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_directories() == ("/data/bhyveload", *packages)
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_directories() == packages

    class FreeBSD:
        sysname = "FreeBSD"

    monkeypatch.setattr(os, "uname", FreeBSD)
    assert default_directories() == ("/boot",)


def test_who_begins_and_who_follows(tmp_path: Path) -> None:
    (tmp_path / "userboot.so").write_bytes(b"default")
    (tmp_path / "userboot_4th.so").write_bytes(b"4th")
    directories = [str(tmp_path)]
    assert Loaders(directories).first() is None, "the built-in loader"
    assert found(Loaders(directories, always=True).first())[1] == b"default"
    assert Loaders([str(tmp_path / "absent")], always=True).first() is None
    assert found(Loaders(directories).for_interpreter(b"4th"))[1] == b"4th"
    assert Loaders(directories).for_interpreter(b"lua") is None
    explicit = Loaders(directories, LoaderObject("own.so", b"own"))
    assert found(explicit.first()) == ("own.so", b"own")
    with pytest.raises(LoaderError, match="requested loader interpreter does not match guest userboot"):
        explicit.for_interpreter(b"4th")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "userboot.so")
    with pytest.raises(InputError, match=r"userboot\.so: (not a regular file|neither a file nor a folder)"):
        find_loader([str(tmp_path)])


def test_reading_what_l_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.so"
    path.write_bytes(b"content")
    with path.open("rb") as file:
        assert found(read_loader(file.fileno(), "name")) == ("name", b"content")
        assert found(read_loader(file.fileno(), "name")) == ("name", b"content"), "again, after a reboot"
        monkeypatch.setattr(search, "MAX_LOADER_SIZE", 3)
        with pytest.raises(InputError, match="name: 0 MiB is too large"):
            read_loader(file.fileno(), "name")
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(InputError, match="not a regular file"):
        read_loader(fd, "name")
    os.close(fd)
    with pytest.raises(InputError, match="Bad file descriptor"):
        read_loader(fd, "name")


def test_a_swap_with_an_explicit_loader_is_refused_in_upstreams_words() -> None:
    error = refuse_swap(b"4th")
    assert str(error) == "requested loader interpreter does not match guest userboot"
    assert "userboot_4th.so" in error.hint
    assert error.exit_status == 1
    assert str(refuse_swap(b"")) == "guest failed to request an interpreter"
    assert refuse_swap(b"\x1b[2J" * 100).hint.isprintable()
