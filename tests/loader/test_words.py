"""Numbers, variables and command lines: against libc, sort(1) and the recorded rules
(docs/errata.md, "Quotes and expansion")."""

from __future__ import annotations

import ctypes
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.freebsd_errno import ENOENT, EPERM
from bhyveload.libc import strtol, strtoul, to_int
from bhyveload.loader.environment import Environment, Variable, no_set, no_unset
from bhyveload.loader.parse import MAXARGS, PARSE_BUFSIZE, ParseError, backslash, failure_line, parse

_libc = ctypes.CDLL(None)
_libc.strtol.restype = ctypes.c_long
_libc.strtoul.restype = ctypes.c_ulong
_NUMBERS = st.text("0123456789abcfxXzZ+- \t\v", max_size=30)


def c_number(function: str, text: str, base: int) -> tuple[int, int]:
    """(value, length of what was taken) as libc says."""
    buffer = ctypes.create_string_buffer(text.encode("latin-1"))
    end = ctypes.c_char_p()
    value = getattr(_libc, function)(buffer, ctypes.byref(end), base)
    left = ctypes.cast(end, ctypes.c_void_p).value or 0
    return value, left - ctypes.addressof(buffer)


@given(text=_NUMBERS, base=st.sampled_from([0, 8, 10, 16]))
@settings(max_examples=500, deadline=None)
def test_numbers_are_libcs(text: str, base: int) -> None:
    assert strtol(text, base) == c_number("strtol", text, base)
    assert strtoul(text, base) == c_number("strtoul", text, base)


@pytest.mark.parametrize("text", ["9223372036854775807", "9223372036854775808", "-9223372036854775809", "0x" + "f" * 17,
                                  "18446744073709551615", "18446744073709551616", "-1", "-18446744073709551616", "0x",
                                  "0xg", "08", "", "-", " +7up"])  # fmt: skip
def test_numbers_at_the_edges(text: str) -> None:
    assert strtol(text) == c_number("strtol", text, 0)
    assert strtoul(text) == c_number("strtoul", text, 0)


@given(st.integers(-(1 << 70), 1 << 70))
def test_ints_wrap_as_cs(value: int) -> None:
    assert to_int(value) == ctypes.c_int(value & 0xFFFFFFFF).value


# Variables


@given(st.lists(st.text(st.characters(min_codepoint=1, max_codepoint=255, exclude_characters="\n="), max_size=8)))
@settings(max_examples=60, deadline=None)
def test_variables_are_sorted_as_strcmp_sorts(names: list[str]) -> None:
    environment = Environment()
    for name in names:
        environment.set(name, "x")
    listed = [variable.name.encode("latin-1") for variable in environment.sorted()]
    text = b"".join(name.encode("latin-1") + b"\n" for name in names)
    theirs = subprocess.run(["sort", "-u"], input=text, capture_output=True, check=True, env={"LC_ALL": "C"}).stdout
    assert listed == theirs.split(b"\n")[:-1]


def test_a_variable_without_value() -> None:
    environment = Environment()
    assert environment.put("a") == 0
    assert environment.get("a") == "" and environment.sorted()[0].value is None
    assert environment.put("a=b=c") == 0
    assert environment.get("a") == "b=c"
    assert environment.put("=v") == 0
    assert environment.get("") == "v"
    assert environment.unset("nope") == ENOENT
    assert environment.unset("a") == 0 and environment.get("a") is None


def test_hooks_decide() -> None:
    environment = Environment()
    asked: list[str | None] = []

    def hook(variable: Variable, value: str | None) -> int:
        asked.append(value)
        if value == "good":
            variable.value = value
            return 0
        return 22

    environment.define("hooked", "first", hook, no_unset)
    assert environment.set("hooked", "bad") == 22
    assert environment.get("hooked") == "first"
    assert environment.set("hooked", "good") == 0 and environment.get("hooked") == "good"
    assert environment.unset("hooked") == EPERM
    environment.define("fixed", "1", no_set, no_unset)
    assert environment.put("fixed=2") == EPERM and environment.get("fixed") == "1"
    assert environment.set("hooked", "other", overwrite=False) == 0
    assert asked == ["bad", "good"]


# Command lines


def words(line: str, **variables: str) -> list[str]:
    environment = Environment()
    for name, value in variables.items():
        environment.set(name, value)
    return parse(line, environment)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", []),
        (" \t\n ", []),
        ("a  b\tc", ["a", "b", "c"]),
        ("'a b' \"c d\"", ["a b", "c d"]),
        ("a'b c'd", ["ab cd"]),
        ("'' a \"\"", ["a"]),
        ("\"a'b'c\"", ["a'b'c"]),
        ("'a\"b\"c'", ['a"b"c']),
        ("a\\ b", ["a", "b"]),
        ("a\\\\ b", ["a b"]),
        ("\\'a\\'", ["'a'"]),
        ('\\"', ['"']),
        ("\\$v", ["$v"]),
        ("\\\\n", ["n"]),
        ("x\\ny", ["x", "y"]),
        ("x\\sy\\040z", ["x", "y", "z"]),
        ('"x\\ty"', ["x\ty"]),
        ("\\101\\102", ["AB"]),
        ("\\0x41\\0X42", ["AB"]),
        ("\\0x4g", ["\x04g"]),
        ("\\400", ["400"]),
        ("\\07", ["07"]),
        ("\\X\\{", ["X{"]),
        ("a\\zb", ["ab"]),
        ("a\\000b", ["a"]),
        ("a\\", ["a\\"]),
        ("$v", ["value"]),
        ("${v}x $(v)y", ["valuex", "valuey"]),
        ('"${v}"', ["value"]),
        ("'$v'", ["$v"]),
        ("$v.x", []),
        ("$v$v", []),
        ('"$v x"', ["value x"]),
        ("${w}", ["two words"]),
        ("${s}", ["$v"]),
        ("$nope a", ["a"]),
        ("${}x", ["x"]),
        ("$ a", ["a"]),
        ("a$", []),
        ("x a$", ["x"]),
        ("a${", []),
        ("\xe9\xff", ["\xe9\xff"]),
    ],
)
def test_lines(line: str, expected: list[str]) -> None:
    assert words(line, v="value", w="two words", s="$v") == expected


@pytest.mark.parametrize(
    ("line", "old"),
    [
        ("'a", 180),
        ('a "b', 180),
        ('"a\'b"', 180),
        ('"it\'s"', 180),
        ('"$v"', 180),
        ("${v", 159),
        ("$(v}", 159),
        ("x" * 1024, 145),
        ("x" * 1023 + "\\\\y", 113),
        ('"' + "x" * 1023 + "'", 118),
        ("'" + "x" * 1023 + '"', 125),
        ("a " * 21, 133),
        ("a " * 20 + "b", 184),
    ],
)
def test_lines_that_cannot_be_split(line: str, old: int) -> None:
    with pytest.raises(ParseError) as caught:
        words(line, v="value")
    assert failure_line(caught.value.reason, "13.2") == old
    assert failure_line(caught.value.reason, "current") == old - 3


def test_limits_are_reached() -> None:
    assert words("a " * 19 + "b") == ["a"] * 19 + ["b"]
    assert words("x" * 1023) == ["x" * 1023]
    assert words("${long}", long="y" * 5000) == ["y" * 1023]


@given(st.text(st.sampled_from("ab \t\\'\"${}()nx0147z"), max_size=60))
@settings(max_examples=400)
def test_any_line(line: str) -> None:
    try:
        found = words(line, a="1", ab="2 3")
    except ParseError as error:
        assert failure_line(error.reason, "current") > 100
    else:
        assert len(found) <= MAXARGS and all(0 < len(word) < PARSE_BUFSIZE for word in found)


@given(st.lists(st.text("abcXYZ019_-./:=,;", min_size=1, max_size=20), max_size=MAXARGS))
def test_plain_words_are_split_at_blanks(plain: list[str]) -> None:
    assert words(" ".join(plain)) == plain
    assert words(" ".join(f"'{word} {word}'" for word in plain)) == [f"{word} {word}" for word in plain]


@given(st.text(st.sampled_from("ab \t'\"${}()x0"), max_size=40))
def test_text_without_backslashes_is_left_alone(text: str) -> None:
    assert backslash(text) == text
