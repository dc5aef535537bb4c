"""JSON text against the standard library's json."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.jsontext import compact, dumps, loads, restored

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5), max_leaves=20
)


@settings(max_examples=300, deadline=None)
@given(_VALUES, st.none() | st.integers(0, 8))
def test_same_text_as_json(value: Any, indent: int | None) -> None:
    expected = json.dumps(value, indent=indent).replace("\x7f", "\\u007f")
    text = dumps(value, indent)
    assert text == expected
    assert text.isascii() and not any((char < " " and char != "\n") or char == "\x7f" for char in text)
    assert json.loads(text) == value


@settings(max_examples=300, deadline=None)
@given(_VALUES)
def test_compact_is_dumps(value: Any) -> None:
    assert compact(value) == dumps(value)


def test_tuples_are_lists() -> None:
    assert dumps((1, (2,), ())) == "[1, [2], []]"


def test_undecodable_bytes_of_names_survive() -> None:
    """Lone surrogates, which strict readers refuse, are in no document."""
    name = b"disk\xff\x80\x1b[2J.img".decode("utf-8", "surrogateescape")
    text = dumps({"disk": name})
    assert text == '{"disk": "disk\\udbff\\udfff\\udbff\\udf80\\u001b[2J.img"}'
    json.loads(text)["disk"].encode("utf-8")  # no surrogate is left
    again = restored(json.loads(text))
    assert again == {"disk": name}
    assert restored(json.loads(dumps([name, {"n": "ü"}]))) == [name, {"n": "ü"}]
    assert dumps("\ud800") == '"\\ufffd"'


def test_subclasses_of_int_are_numbers() -> None:
    class Address(int):
        def __repr__(self) -> str:
            return f"{int(self):#x}"

    assert dumps([Address(16)]) == "[16]"


@pytest.mark.parametrize("value", [b"bytes", {1: "a"}, {None: 1}, {1, 2}, object()])
def test_what_json_has_not(value: object) -> None:
    with pytest.raises(TypeError, match="JSON"):
        dumps([value])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_numbers(value: float) -> None:
    with pytest.raises(ValueError, match="JSON has no"):
        dumps(value)


def test_depth_is_bounded() -> None:
    value: object = 1
    for _ in range(100):
        value = [value]
    assert dumps(value) == "[" * 100 + "1" + "]" * 100
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        dumps([value])


@settings(max_examples=300, deadline=None)
@given(_VALUES, st.none() | st.integers(0, 3), st.sampled_from(["", " ", "\n\t\r "]))
def test_reading_is_json_s(value: Any, indent: int | None, space: str) -> None:
    text = f"{space}{json.dumps(value, indent=indent, ensure_ascii=False)}{space}"
    assert loads(text.encode("utf-8", "replace")) == json.loads(text.encode("utf-8", "replace").decode())


_BAD = (
    *("", " ", "{", "[1,]", '{"a" 1}', "1 2", "[1]x", "'a'", "nul", "NaN", "-Infinity"),
    *('"\x01"', '"\\x"', "\u00a01", "[" * 5),
)


@pytest.mark.parametrize("text", _BAD)
def test_what_is_not_json(text: str) -> None:
    with pytest.raises(ValueError):
        loads(text.encode())
    for constant in ("NaN", "-Infinity"):  # Python's own reader takes those two
        if text == constant:
            return
    with pytest.raises(ValueError):
        json.loads(text)


def test_what_cannot_be_read() -> None:
    with pytest.raises(ValueError):
        loads(b'"\xff"')
    with pytest.raises(RecursionError):
        loads(b"[" * 100_000)
    with pytest.raises(ValueError):
        loads(b"9" * 5000)
