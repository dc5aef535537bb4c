"""strtoll and strtoull against those of the host's C library."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bhyveload.libc import pwrite_all, strtol, strtoul_errno, whole_long, write_all

_C = ctypes.CDLL(None, use_errno=True)
_C.strtoll.restype = ctypes.c_longlong
_C.strtoull.restype = ctypes.c_ulonglong


def in_c(text: str, unsigned: bool) -> tuple[int, int, int]:
    """(value, index of the end, errno)."""
    data = ctypes.create_string_buffer(text.encode("ascii"))
    end = ctypes.c_char_p()
    ctypes.set_errno(0)
    value = (_C.strtoull if unsigned else _C.strtoll)(data, ctypes.byref(end), 0)
    rest = ctypes.cast(end, ctypes.c_void_p).value
    assert rest is not None
    return value, rest - ctypes.addressof(data), ctypes.get_errno()


numbers = st.text(alphabet="0123456789abcdefxXoO_+- \t", max_size=24) | st.integers(-(1 << 66), 1 << 66).map(str)


@given(numbers)
@example("1_000")
@example("--5")
@example("+-5")
@example("0o17")
@example("0x")
@example("-0x8000000000000000")
@example("9223372036854775808")
@example("18446744073709551616")
@example(" 5")
@example("5 ")
@example("")
def test_as_the_c_library_has_them(text: str) -> None:
    value, end, _ = in_c(text, unsigned=False)
    assert strtol(text) == (value, end)
    value, end, errno = in_c(text, unsigned=True)
    assert strtoul_errno(text, binary=False) == (value, end, end > 0 and not errno)
    for unsigned in (False, True):
        value, end, errno = in_c(text, unsigned)
        whole = None if errno or not text or end != len(text) or not end else value
        mine = whole_long(text, unsigned)
        assert (None if mine is None else mine & (1 << 64) - 1) == (None if whole is None else whole & (1 << 64) - 1)


def test_everything_is_written(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    write_all(fd, b"abcdef")
    pwrite_all(fd, memoryview(b"XY"), 2)
    os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"abXYef"
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        write_all(writing, b"abc")
    os.close(writing)


def test_a_slow_reader_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    data = bytes(range(256)) * (1 << 12)  # more than a pipe holds
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.extend(iter(lambda: os.read(reading, 1 << 16), b"")))
    reader.start()
    write_all(writing, data)
    os.close(writing)
    reader.join()
    os.close(reading)
    assert b"".join(got) == data


def test_binary_numbers_since_14() -> None:
    assert strtoul_errno("-0b101x", binary=True) == ((1 << 64) - 5, 6, True)
    assert strtoul_errno("0b2", binary=True) == strtoul_errno("0b1", binary=False) == (0, 1, True)
