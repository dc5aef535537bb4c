"""Others' words on a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.printable import escape, escape_bytes, mask


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("a\nb", "a\\x0ab"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("\x7f\x9b", "\\x7f\\xc2\\x9b"),
        ("é", "\\xc3\\xa9"),
        ("\udcff", "\\xff"),
        ("\ud800\udcff", "\\ud800\\udcff"),
    ],
)
def test_escape(text: str, shown: str) -> None:
    assert escape(text) == shown


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters()))
def test_escaped_text_is_one_printable_line(text: str) -> None:
    shown = escape(text)
    assert shown.isascii() and (shown.isprintable() or not shown)


@given(st.binary())
def test_bytes_can_be_had_back(data: bytes) -> None:
    shown = escape_bytes(data, backslash=True)
    assert shown.isascii() and (shown.isprintable() or not shown)
    assert shown.encode("ascii").decode("unicode_escape").encode("latin-1") == data


@pytest.mark.parametrize(
    ("text", "keep", "masked"),
    [
        ("zroot/é", "", "zroot/é"),
        ("a\x1b[2Jb\u202e", "", "a?[2Jb?"),
        (b"a\xffb\n", "", "a\ufffdb?"),
        ("a\n\tb\r", "\n\t", "a\n\tb?"),
    ],
)
def test_mask(text: str | bytes, keep: str, masked: str) -> None:
    assert mask(text, keep) == masked
