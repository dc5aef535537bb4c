"""The report format: round trips, and a child that lies."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bhyveload.confined import wire
from bhyveload.confined.wire import decode, encode
from bhyveload.errors import ReportError

_TEXT = st.text() | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape"))
_SCALARS = st.none() | st.booleans() | st.integers(-(1 << 300) + 1, (1 << 300) - 1) | _TEXT
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_TEXT, inner, max_size=5), max_leaves=20
)


def test_the_format() -> None:
    value = {"kernel": "/boot/é", "gpa": [0x200000, -1], "name": "\udcff", "ok": True, "no": False, "nil": None}
    text = rb'{"kernel":"/boot/\u00e9","gpa":[2097152,-1],"name":"\udcff","ok":true,"no":false,"nil":null}'
    assert encode(value) == text
    assert decode(text) == value


@settings(max_examples=300, deadline=None)
@given(_VALUES)
def test_round_trip(value: Any) -> None:
    data = encode(value)
    again = decode(data)
    assert again == value and repr(again) == repr(value)
    assert json.loads(data) == value


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(_TEXT, _VALUES, max_size=5), st.data())
def test_damaged_reports(value: Any, data: st.DataObject) -> None:
    """Every cut, and any changed byte, is a value or a ReportError; a cut never is a value."""
    report = bytearray(encode(value))
    cut = data.draw(st.integers(0, len(report) - 1))
    with pytest.raises(ReportError):
        decode(bytes(report[:cut]))
    report[cut] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(report))
    except ReportError as error:
        assert "\n" not in error.message and error.message.isprintable()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40) | st.text('[]{}:,"\\ud8eE+.-0123456789tfn NaIi', max_size=30).map(str.encode))
@example(b"9" * 5000)
@example(b"[" * 100000)
@example(b'{"":' * 100000)
@example(b'{"a":[' * 100000)
def test_garbage(data: bytes) -> None:
    try:
        decode(data)
    except ReportError as error:
        assert "\n" not in error.message and error.message.isprintable()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "at byte 0: no value begins here"),
        (b"x", "at byte 0: no value begins here"),
        (b"{}{}", "at byte 2: more behind its end"),
        (b"{} ", "at byte 2: more behind its end"),
        (b"[1.5]", "'1.5' is no whole number"),
        (b"[1e9]", "'1e9' is no whole number"),
        (b"[NaN]", "'NaN' is no whole number"),
        (b"[-Infinity]", "'-Infinity' is no whole number"),
        (b'{"a"', "malformed report: "),
        (b'{1:"a"}', "malformed report: "),
        (b'"a', "malformed report: "),
        (b'"\n"', "malformed report: "),
        (b'"\xc3\xa9"', "malformed report: "),
        (b"9" * 5000, "malformed report: "),
        (b"[" * 100000, "nested too deep"),
    ],
)
def test_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(ReportError, match=reason):
        decode(data)


def test_bounds() -> None:
    with pytest.raises(ReportError, match="more than 1048576 values"):
        decode(b"[" + b"1," * wire.MAX_VALUES + b"1]")
    with pytest.raises(ReportError, match="more than 10 are not read"):
        decode(encode("a" * 20), limit=10)
    with pytest.raises(ReportError, match="larger than 16 MiB"):
        encode("a" * wire.MAX_SIZE)


@pytest.mark.parametrize("value", [object(), {b"a": 1}, {1, 2}, b"bytes"])
def test_types_a_report_has_not(value: object) -> None:
    with pytest.raises(TypeError):
        encode(value)


def test_tuples_arrive_as_lists() -> None:
    assert decode(encode((1, (2,)))) == [1, [2]]
