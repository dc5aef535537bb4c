"""The report format: round trips, and a child that lies."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bhyveload.confined import wire
from bhyveload.confined.wire import decode, encode
from bhyveload.errors import ReportError

_TEXT = st.text() | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape"))
_SCALARS = st.none() | st.booleans() | st.integers(-(1 << 300) + 1, (1 << 300) - 1) | _TEXT | st.binary()
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_TEXT, inner, max_size=5), max_leaves=20
)


def test_the_format() -> None:
    value = {"kernel": "/boot/é", "gpa": [0x200000, -1], "data": b"\0e", "ok": True, "no": False, "nil": None}
    text = b"ds6:kernels8:/boot/\xc3\xa9s3:gpali2097152ei-1ees4:datab2:\0es2:okts2:nofs3:nilne"
    assert encode(value) == text
    assert decode(text) == value


@settings(max_examples=300, deadline=None)
@given(_VALUES)
def test_round_trip(value: Any) -> None:
    data = encode(value)
    again = decode(data)
    assert again == value and repr(again) == repr(value)


@settings(max_examples=300, deadline=None)
@given(_VALUES, st.data())
def test_damaged_reports(value: Any, data: st.DataObject) -> None:
    """Every cut, and any changed byte, is a value or a ReportError; a cut never is a value."""
    report = bytearray(encode(value))
    cut = data.draw(st.integers(0, len(report) - 1))
    with pytest.raises(ReportError):
        decode(bytes(report[:cut]))
    report[cut] = data.draw(st.integers(0, 255))
    try:
        again = decode(bytes(report))
    except ReportError:
        return
    assert encode(again) == bytes(report)  # one value, one text


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40) | st.text("ntfisbled0123456789:-", max_size=30).map(str.encode))
@example(b"i" + b"9" * 5000 + b"e")
@example(b"i%de" % (1 << 300))
@example(b"l" * 100000)
@example(b"d" * 100000)
@example(b"ds0:" * 100)
def test_garbage(data: bytes) -> None:
    try:
        value = decode(data)
    except ReportError as error:
        assert "\n" not in error.message and error.message.isprintable()
    else:
        assert encode(value) == data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "at byte 0: it ends too early"),
        (b"x", "at byte 0: no value begins with b'x'"),
        (b"e", "no value begins"),
        (b"nn", "at byte 1: more behind its end"),
        (b"ie", "no number"),
        (b"i-e", "no number"),
        (b"i-0e", "no number"),
        (b"i01e", "no number"),
        (b"i+1e", "no number"),
        (b"i 1e", "no number"),
        (b"i1_0e", "no number"),
        (b"i1", "no number"),
        (b"i" + b"1" * 101 + b"e", "no number"),
        (b"s-1:a", "length outside"),
        (b"b5:abcd", "length outside"),
        (b"b99999999:", "length outside"),
        (b"b999999999:", "no number"),
        (b"s5", "no number"),
        (b"l", "it ends too early"),
        (b"di1ene", "a name that is no string"),
        (b"db1:ane", "a name that is no string"),
        (b"ds1:ans1:ane", "a name that comes twice"),
        (b"ds1:ae", "no value begins with b'e'"),
    ],
)
def test_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(ReportError, match=reason):
        decode(data)


def test_bounds() -> None:
    deepest = b"l" * wire.MAX_DEPTH + b"e" * wire.MAX_DEPTH
    assert encode(decode(deepest)) == deepest
    with pytest.raises(ReportError, match="nested more than 32 deep"):
        decode(b"l" + deepest + b"e")
    with pytest.raises(ReportError, match="nested more than 32 deep"):
        encode([decode(deepest)])
    with pytest.raises(ReportError, match="more than 1048576 values"):
        decode(b"l" + b"n" * wire.MAX_VALUES + b"e")
    with pytest.raises(ReportError, match="more than 10 are not read"):
        decode(b"b20:" + bytes(20), limit=10)
    with pytest.raises(ReportError, match="larger than 16 MiB"):
        encode(bytes(wire.MAX_SIZE))
    with pytest.raises(ReportError, match="integer of 301 bits"):
        encode(1 << 300)
    with pytest.raises(ReportError, match="no Unicode"):
        encode("\ud800")


@pytest.mark.parametrize("value", [1.5, object(), {1: 2}, {b"a": 1}, {1, 2}])
def test_types_a_report_has_not(value: object) -> None:
    with pytest.raises(TypeError):
        encode(value)


def test_tuples_arrive_as_lists() -> None:
    assert decode(encode((1, (2,)))) == [1, [2]]
