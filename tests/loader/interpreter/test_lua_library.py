"""Random calls of the base and string libraries: results and errors, with their places, are those of C's libraries.

Held against an ordinary Lua 5.4.  What the loader's Lua has otherwise (floats, paths of modules) does not occur.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from lupa import lua54

from support import lua_runs

VALUES = r"""
nil
true
false
0
1
-1
3
256
9223372036854775807
"x"
"10"
"0x1F"
" 5 "
""
"a%s%d"
"%d"
"%5.1s|"
"%-5d|%x"
"%q"
"%i"
"%c"
"a.b"
"(%w)(%w)"
"[a"
"%"
"=n"
"t"
"b"
"\0a"
"\255"
"return 1"
"return ..."
"x ="
{}
{1, 2, 3}
next
load
function(...) return ... end
setmetatable({}, {__tostring = function() return "T" end})
setmetatable({}, {__tostring = function() return 1 end})
setmetatable({}, {__name = "Nm"})
setmetatable({}, {__metatable = "locked"})
setmetatable({}, {__len = function() return 2 end})
setmetatable({}, {__index = function(t, k) return k end, __call = function(self, ...) return "c", ... end})
setmetatable({}, {__pairs = function(t) return next, {7}, nil end})
""".strip("\n").split("\n")
BASE = (
    "tonumber tostring pcall xpcall select error assert ipairs pairs next rawlen rawget rawset rawequal setmetatable "
)
STRING = "format rep sub byte char find match gsub gmatch upper len reverse lower pack unpack packsize"
FUNCTIONS = (BASE + "getmetatable type load").split(" ") + [f"string.{name}" for name in STRING.split(" ")]
METHODS = [*STRING.split(" "), "nosuch"]
SHOW = r"""local out = printc
local function show(value)
  local text = tostring(value)
  return (text:gsub("builtin: 0x%x+", "ADDRESS"):gsub("0x%x+", "ADDRESS"):gsub("[^ -~]", function(c)
    return "\\" .. c:byte()
  end))
end
local function r(...)
  local line = select("#", ...) .. ":"
  for i = 1, select("#", ...) do
    local ok, text = pcall(show, (select(i, ...)))
    line = line .. " <" .. (ok and text or "?" .. tostring(text)) .. ">"
  end
  out(line .. "\n")
end
"""
THEIRS: Any = lua54.LuaRuntime(encoding="latin-1", register_eval=False, register_builtins=False).execute(
    "math, table, os, coroutine, utf8, debug, python = nil\n"
    "return function(text, out) printc = out load(text, '@/boot/lua/loader.lua', 't')() end"
)


def statement(rng: random.Random) -> str:
    def arguments() -> list[str]:
        return [rng.choice(VALUES) for _ in range(rng.choice([0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4]))]

    function, words = rng.choice(FUNCTIONS), ", ".join(arguments())
    return rng.choice(
        [
            f"r(pcall({', '.join([function, *arguments()])}))",
            f"r(pcall(function() return {function}({words}) end))",
            f"r(pcall(function() local a, b = {function}({words}) return a, b end))",
            f"r(pcall(function() local s = {rng.choice(VALUES)} return (s):{rng.choice(METHODS)}({words}) end))",
            f"r(pcall(function() for k, v in {rng.choice(VALUES)} do return k, v end end))",
            f"r(xpcall(function() return {function}({words}) end, function(m) return '<' .. tostring(m) .. '>' end))",
        ]
    )


@pytest.mark.parametrize("seed", range(4))
def test_random_calls(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    statements = [statement(rng) for _ in range(200)]
    script = SHOW + "\n".join(statements) + "\n"
    theirs: list[str] = []
    THEIRS(script, theirs.append)
    console = lua_runs.run_scripts(tmp_path, script, quiet="").console.decode("latin-1")
    lines = re.sub(r"[|/\\-]\x08", "", console).replace("\r\n", "\n").partition("Revision 3.0\n")[2].split("\n")
    for text, ours, other in zip(statements, lines, theirs, strict=False):
        assert ours == other.rstrip("\n"), text


def test_which_argument_is_looked_at_first(tmp_path: Path) -> None:
    """luaB_load looks at the mode before the name; str_format at the number of its arguments before anything."""
    script = """
print(pcall(load, "x", true, {}))
print(pcall(string.format, "%d"))
print(pcall(string.format, "%y"))
print(pcall(string.format, true))
print(pcall(pcall))
print(pcall(xpcall, print, 1))
print(pcall(function() local f = pcall; f() end))
"""
    assert lua_runs.said(lua_runs.run_scripts(tmp_path, script)) == [
        "false\tbad argument #3 to 'load' (string expected, got table)",
        "false\tbad argument #2 to 'string.format' (no value)",
        "false\tbad argument #2 to 'string.format' (no value)",
        "false\tbad argument #1 to 'string.format' (string expected, got boolean)",
        "false\tbad argument #1 to 'pcall' (value expected)",
        "false\tbad argument #2 to 'xpcall' (function expected, got number)",
        "false\t/boot/lua/loader.lua:9: bad argument #1 to 'f' (value expected)",
    ]


# luaD_tryfuncTM of Lua 5.4.2 complains by luaG_typeerror, which names variables only; 5.4.4 has luaG_callerror.
@pytest.mark.parametrize(("current", "named"), [(True, " (metamethod 'add')"), (False, "")])
def test_what_13_2_does_not_name(tmp_path: Path, current: bool, named: str) -> None:
    script = (
        "print(pcall(function() return setmetatable({}, {__add = 5}) + 1 end))\nprint(pcall(function() nosuch() end))"
    )
    assert lua_runs.said(lua_runs.run_scripts(tmp_path, script, current=current)) == [
        f"false\t/boot/lua/loader.lua:2: attempt to call a number value{named}",
        "false\t/boot/lua/loader.lua:3: attempt to call a nil value (global 'nosuch')",
    ]
