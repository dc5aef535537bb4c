"""Arithmetic on numerals as a Lua does it whose floats are 64-bit integers (stand/liblua/luaconf.h)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lupa import lua54

from bhyveload.loader.interpreter import lua_base, lua_numerals, lua_sandbox, lua_string
from support import lua_runs

OURS = lua_sandbox.LuaSandbox()
OURS.define({"current": lambda: True})
for source, name in (
    (lua_base.CHECKS, "checks"),
    (lua_string.FORMAT, "format"),
    (lua_string.SOURCE, "string"),
    (lua_numerals.SOURCE, "numerals"),
):
    OURS.install(source, name)
THEIRS: Any = lua54.LuaRuntime(encoding="latin-1").execute(
    "return function(text) return load(text, '=t', 't') ~= nil end"
)


def exact(text: str) -> str | None:
    result = OURS.call("exact_numerals", text)
    return None if result is None else str(result)


# C's division of int64_t cuts towards zero, and its products wrap (the second half was recorded: probe lua-numbers).
@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("9/2*2+1/3", "8.0"),
        ("(9/2)*2", "8.0"),
        ("2*7/2*2", "14.0"),
        ("3*7/2*2", "20.0"),
        ("-7*3/2*2", "-20.0"),
        ("(7)/2*2", "6.0"),
        ("-(7)/2*2", "-6.0"),
        ("(1+6)/2*2", "6.0"),
        ("(2+5)/(1+1)*2", "6.0"),
        ("(5|2)/(1+1)*2", "6.0"),
        ("(7)/(2 == 2 and 2 or 3)", "3.0"),
        ("(7)/(2|1)", "2.0"),
        ("7/-2*2", "-6.0"),
        ("(21)/-7//2", "-1.0"),
        ("15/2/2*4", "12.0"),
        ("~7/2*2", "-8.0"),
        ("~-8//2*2", "6"),
        ("3*-7//2", "-11"),
        ("(function() return (7)/2 end)()*2", "6.0"),
        ("-9/2", "-4.0"),
        ("9//(4/2)", "4.0"),
        ("-9//(4/2)", "-4.0"),
        ("9/2 .. ''", "4.0"),
        ("({[4] = 'four'})[9/2]", "four"),
        ("3^2/2", "4.0"),
        ("2^64", "0.0"),
        ("1^-1", "0.0"),
        ("2^-1*4", "0.0"),
        ("7/2*2", "6.0"),
        ("-7 // (4/2)", "-3.0"),
        ("-7 // 2", "-4"),
        ("2^63", "-9223372036854775808.0"),
        ("2^2^3", "256.0"),
        ("-2^2", "-4.0"),
        ("-9223372036854775808", "-9223372036854775807.0"),
        ("9223372036854775808", "9223372036854775807.0"),
    ],
)
def test_values(tmp_path: Path, expression: str, value: str) -> None:
    script = f'print({expression})\nprint(load("return {expression}")())'
    assert lua_runs.said(lua_runs.run_scripts(tmp_path, script)) == [value, value]


@pytest.mark.parametrize(
    "text",
    [
        "x = '7/2'",
        'x = "a\\"7/2"',
        "x = [[7/2]]",
        "x = [==[7/2]] 7^2]==]",
        "-- 7/2",
        "--[[7/2\n7/2]]",
        "--[==[ ]] 7/2 ]==] x = 1",
        "x = y/2",
        "x = 2/y",
        "x = y*7/2",
        "x = (y*7)/2",
        "x = f(7)/2",
        "x = t[7]/2",
        "x = (7)/y",
        "x = 1//0",
        "x = a.b2/3",
        "x = 5 - -7",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    assert THEIRS(text)
    assert exact(text) is None


def test_only_the_numerals_change() -> None:
    text = "x = '7/2' .. 7/2 --7/2\ny = {-7//(2), 2^3}"
    assert exact(text) == "x = '7/2' .. '7'/'2' --7/2\ny = {'-7'//(2), '2'^'3'}"


def test_how_far_is_looked() -> None:
    """Each operator of a hostile script, and each level of its parentheses, would look all the way."""
    for text in ("x = 1" + "*1" * 5000 + "/2", "x = (1" + "+1" * 5000 + ")/2", "x = (1)/(1" + "+1" * 5000 + ")"):
        assert THEIRS(text)
        assert exact(text) is None


def test_errors_name_the_same_line(tmp_path: Path) -> None:
    script = "print(select(2, pcall(function()\n  local a = 7/2\n  return a + nil\nend)))"
    assert lua_runs.said(lua_runs.run_scripts(tmp_path, script))[0].startswith("/boot/lua/loader.lua:4: attempt to")


PIECES = """
7/2\t(7)/2\t7//2\t-7//(2)\t2^3\t7/(2)\tx/2\t7/x\t'7/2'\t"7/2\\""\t[[7/2]]\t--[[7/2]]\t--7/2\n\t#t\t=\t-\t(\t)\t{\t}\t,\t..
return\tlocal x =\tx\tt[7/2]\tnot\tand\t...\tend\tdo\t9223372036854775808\t-9223372036854775808\t'\\\\'\t"\\z  7/2"\t;
"""
TOKENS = [piece for piece in PIECES.replace("\n", "\t").split("\t") if piece] + ["--7/2\n"]


@given(st.lists(st.sampled_from(TOKENS), max_size=12))
@settings(max_examples=500, deadline=None)
def test_what_was_lua_stays_lua(tokens: list[str]) -> None:
    text = " ".join(tokens)
    if THEIRS(text):
        changed = exact(text)
        assert changed is None or THEIRS(changed), changed
