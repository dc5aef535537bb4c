"""The memory-size grammar of vm_parse_memsize (lib/libvmmapi/vmmapi.c), and the host's own strtoul as an oracle."""

from __future__ import annotations

import ctypes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bhyveload.errors import UsageError, VmMemoryError
from bhyveload.vm.memory import split_memory
from bhyveload.vm.memsize import parse_memory_size

KB, MB, GB = 1 << 10, 1 << 20, 1 << 30
ULONG_MAX = (1 << 64) - 1


@pytest.mark.parametrize("compat", ["current", "13.2"])
@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256", 256 * MB),
        ("0x100", 256 * MB),
        ("0X100", 256 * MB),
        ("010", 8 * MB),
        ("1048575", 1048575 * MB),
        ("1048576", MB),
        ("0", 0),
        ("1b", 1),
        ("1B", 1),
        ("512k", 512 * KB),
        ("256M", 256 * MB),
        ("256m", 256 * MB),
        ("3g", 3 * GB),
        ("0x2G", 2 * GB),
        ("010K", 8 * KB),
        ("2T", 2 << 40),
        ("1p", 1 << 50),
        ("15E", 15 << 60),
        (" \t\n\v\f\r256", 256 * MB),
        (" +256M", 256 * MB),
        ("+1", MB),
        ("-1", ULONG_MAX),
        ("-0", 0),
        ("-0M", 0),
        ("99999999999999999999999999", ULONG_MAX),
        ("18446744073709551615", ULONG_MAX),
    ],
)
def test_both_versions(text: str, size: int, compat: str) -> None:
    assert parse_memory_size(text, "13.2" if compat == "13.2" else "current") == size


@pytest.mark.parametrize(
    ("text", "old", "current"),
    [
        ("256MB", 256 * MB, 256 * MB),
        ("1Gxyz", GB, None),
        ("1e30", 1 << 60, None),
        ("256MBx", 256 * MB, None),
        ("1bb", 1, None),
        ("1bk", 1, None),
        ("-1b", ULONG_MAX, None),
        ("-1k", None, None),
        ("0b11", 0, 3 * MB),
        ("0b1M", 0, MB),
        ("0x", None, None),
        ("0xM", None, None),
        ("- 1k", None, None),
        ("--1k", None, None),
        ("-+1", None, None),
        ("99999999999999999999999999k", None, None),
    ],
)
def test_versions_differ_or_refuse(text: str, old: int | None, current: int | None) -> None:
    assert _parse(text, old=True) == old
    assert _parse(text, old=False) == current


@pytest.mark.parametrize("text", ["", " ", "k", "M", "x", "1x", "1.5G", "1 G", "16E", "1\u212a", "\u0661", "256é"])
def test_refused_by_both(text: str) -> None:
    for old in (True, False):
        assert _parse(text, old) is None


def test_message() -> None:
    with pytest.raises(UsageError, match=r"^Invalid memsize '1x'$") as caught:
        parse_memory_size("1x")
    assert caught.value.exit_status == 64
    assert caught.value.hint


def test_parsed_but_no_memory() -> None:
    for text in ("0", "1b", "-1"):
        with pytest.raises(VmMemoryError):
            split_memory(parse_memory_size(text))


@settings(max_examples=300, deadline=None)
@given(st.from_regex(r"\A[ \t\v]{0,2}[-+]{0,2}(0[xX])?[0-9a-fA-F]{0,22}[a-z ]?\Z"))
@example("0777777777777777777777")
@example("02000000000000000000000")
def test_bare_numbers_like_strtoul(text: str) -> None:
    strtoul = ctypes.CDLL(None).strtoul
    strtoul.restype = ctypes.c_ulong
    strtoul.argtypes = (ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_int)
    raw = ctypes.c_char_p(text.encode())
    end = ctypes.c_void_p()
    value = strtoul(raw, ctypes.byref(end), 0)
    start = ctypes.cast(raw, ctypes.c_void_p).value
    assert start is not None and end.value is not None
    consumed_all = bool(text) and end.value - start == len(text)
    if consumed_all:
        assert parse_memory_size(text, "13.2") == (value * MB if value < MB else value)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_a_size_or_a_usage_error(text: str) -> None:
    for old in (True, False):
        size = _parse(text, old)
        assert size is None or 0 <= size <= ULONG_MAX


def _parse(text: str, old: bool) -> int | None:
    try:
        return parse_memory_size(text, "13.2" if old else "current")
    except UsageError as error:
        assert error.message == f"Invalid memsize '{text}'"
        return None
