"""What a library function complains about when it is called last: the place, as C functions name it.

Held against an ordinary Lua 5.4, whose library is C's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lupa import lua54

from bhyveload.loader.interpreter.lua_tail_calls import keep_callers
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
        assert keep_callers(chunk) == chunk
