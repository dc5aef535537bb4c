"""Command-line parsing against the standard library's getopt."""

from __future__ import annotations

import getopt as stdlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.cli import bhyvedisk
from bhyveload.cli import bhyverun_options as bhyverun
from bhyveload.cli.getopt import Getopt, getopt, timeout_of
from bhyveload.errors import UsageError

SHORT = "CSc:d:e:h:l:m:"
LONG = {"memory": "m:", "disk": "d:", "batch": "batch", "help": "help", "timeout": "timeout:"}


def test_bundling_and_attached_arguments() -> None:
    assert getopt(["-CSm512M", "-h/path", "-m", "-1", "vm", "-C"], SHORT) == (
        [("C", None), ("S", None), ("m", "512M"), ("h", "/path"), ("m", "-1")],
        ["vm", "-C"],
    )


def test_double_dash_ends_options() -> None:
    assert getopt(["-C", "--", "-S"], SHORT) == ([("C", None)], ["-S"])


def test_lone_dash_is_an_operand() -> None:
    assert getopt(["-S", "-", "vm"], SHORT) == ([("S", None)], ["-", "vm"])


def test_an_argument_may_look_like_an_option_or_be_empty() -> None:
    assert getopt(["-e", "--", "-c", "", "x"], SHORT) == ([("e", "--"), ("c", "")], ["x"])


def test_long_options() -> None:
    assert getopt(
        ["--memory=1G", "--memory", "2G", "--batch", "--timeout=", "--disk", "--batch", "vm"], SHORT, LONG
    ) == (
        [("m", "1G"), ("m", "2G"), ("batch", None), ("timeout", ""), ("d", "--batch")],
        ["vm"],
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-x"], "illegal option -- x"),
        (["-C:"], "illegal option -- :"),
        (["-Cc"], "option requires an argument -- c"),
        (["--nothing"], "illegal option -- nothing"),
        (["--memoryx", "1"], "illegal option -- memoryx"),
        (["--memory"], "option requires an argument -- memory"),
        (["--batch=1"], "option doesn't take an argument -- batch"),
        (["--=1"], "illegal option -- "),
        (["-C-"], "illegal option -- -"),
    ],
)
def test_errors(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        getopt(words, SHORT, LONG)
    assert caught.value.message == message


def test_what_stands_before_a_wrong_option_comes_first() -> None:
    seen = []
    with pytest.raises(UsageError):
        for option in Getopt(["-m", "bad", "-Z"], SHORT):
            seen.append(option)
    assert seen == [("m", "bad")]


def test_iterating_twice_gives_the_same() -> None:
    options = Getopt(["-C", "-d", "x", "vm"], SHORT)
    assert list(options) == list(options)
    assert options.operands == ["vm"]


_WORDS = st.lists(st.text("-CScdehlmxZ:=/", max_size=5), max_size=7)


@settings(max_examples=500, deadline=None)
@given(_WORDS)
def test_like_the_standard_library(words: list[str]) -> None:
    try:
        expected = stdlib.getopt(words, SHORT)
    except stdlib.GetoptError as error:
        # the standard library knows no ":" in front of the letters and calls every "--x" a long option: so do we
        with pytest.raises(UsageError):
            getopt(words, SHORT)
        assert error.msg
        return
    options, operands = getopt(words, SHORT)
    assert [("-" + name, argument or "") for name, argument in options] == expected[0]
    assert operands == expected[1]


@pytest.mark.parametrize(
    "text",
    [
        "1e9",
        "1_0",
        "٣",
        "１",
        "+1",
        "-1",
        " 1",
        "1 ",
        "0",
        "0.0",
        "1.",
        "inf",
        "nan",
        "0x1",
        "",
        "1000000000",
        "1.2.3",
        "9" * 5000,
    ],
)
def test_numbers_that_are_none(text: str) -> None:
    """One grammar for all programs: digits of ASCII."""
    with pytest.raises(UsageError, match="--timeout wants a number of seconds"):
        timeout_of(text)
    for option in (["--timeout", text], ["--cpus", text]):
        with pytest.raises(UsageError):
            bhyverun.parse([*option, "vm"])
    with pytest.raises(UsageError):
        bhyvedisk.parse(["info", "--timeout", text, "disk"])


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1.0), ("0.5", 0.5), ("2147484", 2147484.0), ("999999999", 999999999.0), ("007.250", 7.25)]
)
def test_numbers_of_seconds(text: str, value: float) -> None:
    assert timeout_of(text) == value
    assert bhyverun.parse(["--timeout", text, "vm"]).timeout == value


def test_a_long_option_that_may_have_an_argument() -> None:
    long = {"save": "save?", "vm": "vm:"}
    assert getopt(["--save", "--vm", "a", "x"], "", long) == ([("save", None), ("vm", "a")], ["x"])
    assert getopt(["--save=x", "--sav="], "", long) == ([("save", "x"), ("save", "")], [])
