"""Calls of library functions that a function ends with, and divisions, in compiled chunks.

Held against an ordinary Lua 5.4, whose library is C's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lupa import lua54

from bhyveload.loader.interpreter import lua_bytecode
from bhyveload.loader.interpreter.lua_bytecode import as_in_the_loader
from support import lua_runs

THEIRS: Any = lua54.LuaRuntime(encoding="latin-1", unpack_returned_tuples=True).execute(
    "return function(text) return pcall(load(text, '@/boot/lua/loader.lua', 't')) end"
)
CALLS = {
    "global": "return tonumber('7', 99)",
    "field": "return string.format('%d', 'x')",
    "method": "local form = '%d'\nreturn form:format('x')",
    "string's method": "return ('%d'):format('x')",
    "in a function": "local function last(...)\n  return tonumber(...)\nend\nlast('7',\n99)",
    "of a function called last": "local function last()\n  return tonumber('7', 99)\nend\nreturn last()",
    "with many results": "return (select('#', (function() return load('return 1') end)())), tonumber('1', 99)",
    "with a variable closed": "local f\ndo\n  local x\n  f = function() return tonumber(x, 99) end\nend\nreturn f()",
    "after a loop": "for i = 1, 3 do\n  if i == 2 then\n    return tonumber('1', 99)\n  end\nend",
    "arguments that are calls": "return string.format(string.sub('%d', 1), tostring(tonumber('x')))",
    "a library of one's own": "local string = {format = function() error('mine', 2) end}\nreturn string.format()",
    "a function called last": "local function low() error('l', 2) end\nlocal function high() return low() end\nhigh()",
    "its own function": "local function low() error('low', 2) end\nlocal function high() return (low()) end\nhigh()",
    "varargs": "local function f(a, ...)\n  local b <close> = nil\n  return tonumber(a, ...)\nend\nf('7', 99)",
}


@pytest.mark.parametrize("text", CALLS.values(), ids=CALLS.keys())
def test_errors(tmp_path: Path, text: str) -> None:
    ok, message = THEIRS(text)
    assert not ok
    outcome = lua_runs.run_scripts(tmp_path, text, quiet="")
    assert lua_runs.said(outcome)[0] == f"ERROR: {message}."


def test_results_are_whole(tmp_path: Path) -> None:
    script = """
local function all(...) return pcall(...) end
local function none() return print("none") end
print(all(function(...) return ..., "b", nil end, "a"))
print(select("#", none()), select("#", all(function() return 1, nil, nil end)))
local function deep(n) if n == 0 then return "bottom" end return deep(n - 1) end
print(deep(400000))
"""
    assert lua_runs.said(lua_runs.run_scripts(tmp_path, script)) == ["true\ta\tb\tnil", "none", "0\t4", "bottom"]


def test_the_loader_s_own(tmp_path: Path) -> None:
    script = """
print(select(2, pcall(function() return loader.setenv("x") end)))
print(select(2, pcall(function()
  return lfs.attributes("/", "colour") end)))
"""
    assert lua_runs.said(lua_runs.run_scripts(tmp_path, script)) == [
        "/boot/lua/loader.lua:3: bad argument #2 to 'setenv' (string expected, got no value)",
        "/boot/lua/loader.lua:5: invalid attribute name 'colour'",
    ]


def test_another_lua_s_chunks_are_left_alone() -> None:
    for chunk in ("", "\x1bLua", "\x1bLuaS" + "\0" * 60, "\x1bLua\x55" + "\0" * 60):
        assert as_in_the_loader(chunk) == chunk


# C's int64_t for floats: quotients are cut towards zero before anything else is done with them.
DIVISIONS = {
    "local a, b = 7, 2\nprint(a / b * 2, -a / b * 2, a / b)": "6.0\t-6.0\t3.0",
    "local a = 7\na = a / 2\nprint(a * 2, a .. '', a == 3)": "6.0\t3.0\ttrue",
    "local t = {10, 20, 30, 40, 50}\nprint(t[#t / 2], t[(#t + 1) / 2])": "20\t30",
    "print(string.rep('x', #'abcde' / 2))": "xx",
    "local s = 0\nfor i = 1, 9 / (2 + 0) do s = s + i end\nprint(s)": "10",
    "local n = 9\nlocal s = 0\nfor i = 1, n / 2 do s = s + n / i / 2 end\nprint(s)": "8.0",
    "local n, steps = 27, 0\nwhile n ~= 1 do\nif n % 2 == 0 then n = n / 2 else n = 3 * n + 1 end\nsteps = steps + 1\n"
    "end\nprint(steps)": "111",
    "local n = 100\nrepeat n = n / 3 until n < 2\nprint(n)": "1.0",
    "local function f(...) local a, b = ... return a / b, b / a end\nprint(f(7, 2))": "3.0\t0.0",
    "local function g(a) return function(b) return a / b end end\nprint(g(9)(2) + g(9)(4))": "6.0",
    "local t = {n = 9}\nt.n = t.n / 2\nt.m = {t.n / 3, [t.n / 2] = t.n / 2 }\nprint(t.n, t.m[2])": "4.0\t2.0",
    "local t = setmetatable({}, {__div = function(a, b) return b end})\nprint(t / 'x', 5 / t == t, t / 7)": (
        "x\ttrue\t7"
    ),
    "print('9' / 2, 9 / '2', '9' / '2')": "4.0\t4.0\t4.0",
    "local a = 3\ngoto there\n::back::\nprint(1)\ndo return end\n::there::\nif a / 2 == 1 then goto back end": "1",
    "local a = 7 -- don't: '/'\nprint('a/b', a / 2) -- it's": "a/b\t3.0",
    "local a = 7\nprint('\"', a / 2, '\"')": '"\t3.0\t"',
    'local a = 7\nprint("\\"", a / 2)': '"\t3.0',
    "local a, s = 7, [[/]] print(a / 2, s)": "3.0\t/",
    "local a = 5\nfor k, v in pairs({a / 2}) do print(k, v) end": "1\t2.0",
    "local a <const>, b <close> = 7 / (1 + 1), nil\nprint(a)": "3.0",
}


@pytest.mark.parametrize("text", DIVISIONS, ids=lambda text: text[:30])
def test_divisions(tmp_path: Path, text: str) -> None:
    assert lua_runs.said(lua_runs.run_scripts(tmp_path, text)) == [DIVISIONS[text]]


def test_numbers_show_no_metatable(tmp_path: Path) -> None:
    script = "print(getmetatable(1), getmetatable(1.0 and 2))\nprint(pcall(function() local n = 1 return n.x end))"
    script = script.replace("1.0 and 2", "4 // 2")
    assert lua_runs.said(lua_runs.run_scripts(tmp_path, script)) == [
        "nil\tnil",
        "false\t/boot/lua/loader.lua:3: attempt to index a number value (local 'n')",
    ]


FAILING = {
    "global": "return nosuch / 2",
    "field": "local t = {}\nreturn t.x / 2",
    "its own result": "local t = {}\nlocal a = 5\na = t.x / a\nreturn a",
    "second": "local a = 5\nreturn a / t",
    "constant": "local a\nreturn a / 7",
    "table": "return {} / {}",
    "upvalue": "local up\nlocal function f() return 3 / up end\nf()",
    "lines": "local a = 8 / (1 + 1)\nlocal b = a / (1 + 1)" + "\n" * 200 + "error(b / 1)",
    "many lines": "\n".join(f"local x{i} = 8 / (1 + {i})" for i in range(150)) + "\nerror({} .. 1)",
    "loops": "for i = 1, 3 do\n  local a = i / (1 + 1)\n  if a / 1 == 9 then break end\nend\nreturn nosuch.x",
}


@pytest.mark.parametrize("text", FAILING.values(), ids=FAILING.keys())
def test_places_and_names_of_failing_divisions(tmp_path: Path, text: str) -> None:
    ok, message = THEIRS(text)
    assert not ok
    outcome = lua_runs.run_scripts(tmp_path, text, quiet="")
    assert lua_runs.said(outcome)[0] == f"ERROR: {message}."


def test_a_huge_script_is_left_alone(tmp_path: Path) -> None:
    """What a guest's script makes us hold in memory is bounded; its quotients are an ordinary Lua's then."""
    script = "local a, b = 7, 2\nprint(a / b * 2)\nif b == 3 then\n" + "a = a / b\n" * 70_000 + "end"
    assert lua_runs.said(lua_runs.run_scripts(tmp_path, script)) == ["7.0"]
    script = script[: -len("a = a / b\n") * 10_000 - len("end")] + "end"
    assert lua_runs.said(lua_runs.run_scripts(tmp_path, script)) == ["6.0"]


def test_nested_functions(tmp_path: Path) -> None:
    script = "local a, b = 7, 2\n" + "return (function() " * 40 + "print(a / b * 2)" + " end)()" * 40
    assert lua_runs.said(lua_runs.run_scripts(tmp_path, script)) == ["6.0"]


def test_how_far_is_looked_for_what_is_called_last(tmp_path: Path) -> None:
    """A table that was loaded far above, called from very often: every call would have looked all the way."""
    script = (
        "local far = string\nlocal x\n"
        + "if x then return far.f() end\n" * 10_000
        + "if x then return tonumber(x) end\nprint('done')"
    )
    chunk = THEIRS(f"return string.dump(load({script!r}))")[1]
    seen = lua_bytecode._Chunk(chunk.encode("latin-1"))
    seen.function()
    assert seen.looks == 0
    assert lua_runs.said(lua_runs.run_scripts(tmp_path, script)) == ["done"]
