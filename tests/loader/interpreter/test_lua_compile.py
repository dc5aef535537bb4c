"""Which texts are Lua for the loader: what an ordinary Lua 5.4 takes, but for numerals with fractions and exponents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lupa import lua54

import stock_like
from bhyveload.loader.interpreter import lua_base, lua_bytecode, lua_numerals, lua_sandbox, lua_string

OURS = lua_sandbox.LuaSandbox()
OURS.define(
    {
        "current": lambda: True,
        "as_in_the_loader": lua_bytecode.as_in_the_loader,
        "out": lambda text: None,
        "result": lambda *_: None,
        "slurp": lambda path: (None, "none"),
    }
)
for source, name in (
    (lua_base.CHECKS, "checks"),
    (lua_string.FORMAT, "format"),
    (lua_string.SOURCE, "string"),
    (lua_numerals.SOURCE, "numerals"),
    (lua_base.SOURCE, "base"),
    (
        "local std = ...\n"
        "function std.try(text)\n"
        "  local chunk, message = std.compile(text, '=t')\n"
        "  return chunk and '' or message\n"
        "end",
        "try",
    ),
):
    OURS.install(source, name)
THEIRS: Any = lua54.LuaRuntime(encoding="latin-1").execute(
    "return function(text) local chunk, message = load(text, '=t', 't') return chunk and '' or message end"
)


def ours(text: str) -> str:
    """The message, "" where the text is fine."""
    return str(OURS.call("try", text))


PIECES = """
x\ty1\ta.b1.c2\tt[1]\t(2)\t{3}\t4\t0x1F\t0xe+1\t'1.5'\t"2e3"\t[[3.5 4.]]\t[=[5.]]e1]=]\t--[[6.7 8.9]]\t..\t//\t/\t^\t-
#\t+\t==\t~=\t<=\t>=\t<\t>\t=\t;\t,\t:\t::\tgoto l1\t::l2::\tlocal\tfunction\tend\tif\tthen\telse\tdo\twhile\tfor\tin
return\tbreak\tnil\ttrue\tnot\tand\tor\t...\t%\t&\t|\t~\t<<\t>>\t'\\'1.5'\t"\\"2.5"\tf()\ts:m()\t7 .. 8\t$\t@\t`\t!
"""
TOKENS = [*PIECES.strip().replace("\n", "\t").split("\t"), "--1.5\n", "'\\\n3.5'", "\0", "\n", "--[[1.5\n2.5]]"]


@given(st.lists(st.sampled_from(TOKENS), max_size=25))
@settings(max_examples=700, deadline=None)
def test_texts_without_fractions_are_judged_as_lua_does(tokens: list[str]) -> None:
    text = " ".join(tokens)
    assert ours(text) == str(THEIRS(text))


@pytest.mark.parametrize("path", sorted(stock_like.SCRIPTS.glob("*/*.lua")), ids=lambda path: str(path.name))
def test_scripts_are_fine(path: Path) -> None:
    assert ours(path.read_text()) == ""


@pytest.mark.parametrize(
    ("text", "numeral"),
    [
        ("x = 1.5", "1.5"),
        ("x = 1.", "1."),
        ("x = .5", ".5"),
        ("x = 1e3", "1e3"),
        ("x = 1E+3", "1E+3"),
        ("x = 3e", "3e"),
        ("x = 0x1p4", "0x1p4"),
        ("x = 0x.8", "0x.8"),
        ("x = 1..2", "1..2"),
        ("x = '1.5' .. 2.5", "2.5"),
        ("local t = {1, 2.0}", "2.0"),
        ("return 5.0", "5.0"),
    ],
)
def test_fractions_and_exponents_are_malformed(text: str, numeral: str) -> None:
    assert ours(text) == f"t:1: malformed number near '{numeral}'"
    assert ours("-- 1.5\nlocal a = [[2.5\n]]\n" + text) == f"t:4: malformed number near '{numeral}'"


@pytest.mark.parametrize(
    "before",
    [r'"\065BC"', r'"\65e"', r'"\0651.5"', r"'\\1.5'", r'"\\\065BC"', r'"\x41\065"', r'"\9z1e5"', "[[\\065.5]]"],
)
def test_a_decimal_escape_hides_no_numeral(before: str) -> None:
    assert ours(f"local a = {before} .. 1.5") == "t:1: malformed number near '1.5'"
    assert ours(f"local a = {before}") == ""


@pytest.mark.parametrize(
    "text", ["x = 1 .. 2", "x = a.b", "x = t[1].c", "x = '1.5'", "-- 1.5", "x = 1 --1.5", "v1.x = 2"]
)
def test_what_only_looks_like_one(text: str) -> None:
    assert ours(text) == ""


def test_nothing_is_left_among_the_state_s_own_globals() -> None:
    """A name that a library forgot to declare would decide about the texts that are compiled later, too."""
    for text in ("return 7 / 2 + 1", "return 1.5", "return (", "-- 1e1\nx = '\\065' + 18446744073709551616"):
        ours(text)
    assert list(OURS._runtime.globals()) == []


def test_a_numeral_is_found_behind_others_in_a_comment() -> None:
    comment = f"x = 1 --[[{'1e1 ' * 500}\n\n{'2e2 ' * 30}]] "
    assert ours(f"{comment}\nx = 3e3") == "t:4: malformed number near '3e3'"
    assert ours(f"{comment}x = 3e3 x = 4e4") == "t:3: malformed number near '3e3'"
