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
from bhyveload.userboot.search import find_loader, loader_name, read_loader, refuse_swap


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
    assert find_loader(directories, b"lua") == (f"{first}/userboot_lua.so", b"first lua")
    assert find_loader(directories) == (f"{second}/userboot.so", b"second")


def test_none_has_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no userboot_4th\.so in ") as caught:
        find_loader([str(tmp_path)], b"4th")
    assert str(tmp_path) in caught.value.message
    assert "built-in loader" in caught.value.hint
    with pytest.raises(InputError, match="in any directory"):
        find_loader([])


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "userboot.so")
    with pytest.raises(InputError, match=r"userboot\.so: not a regular file"):
        find_loader([str(tmp_path)])


def test_reading_what_l_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.so"
    path.write_bytes(b"content")
    assert read_loader(str(path)) == b"content"
    with pytest.raises(InputError, match="No such file"):
        read_loader(str(tmp_path / "absent.so"))
    monkeypatch.setattr(search, "MAX_LOADER_SIZE", 3)
    with pytest.raises(InputError, match="too large"):
        read_loader(str(path))


def test_a_swap_with_an_explicit_loader_is_refused_in_upstreams_words() -> None:
    error = refuse_swap(b"4th")
    assert str(error) == "requested loader interpreter does not match guest userboot"
    assert "userboot_4th.so" in error.hint
    assert error.exit_status == 1
    assert str(refuse_swap(b"")) == "guest failed to request an interpreter"
    assert refuse_swap(b"\x1b[2J" * 100).hint.isprintable()
