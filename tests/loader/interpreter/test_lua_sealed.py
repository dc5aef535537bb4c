"""Hostile Lua: nothing of Python's or the host's is in reach, memory and stack end in errors, errors end in the prompt.

Each attack is a guest's loader.lua; what it prints last, and that the prompt answers afterwards, is the verdict.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bhyveload.errors import LoaderCrashed
from support.lua_runs import run_scripts, said


def attack(folder: Path, script: str, **more: object) -> list[str]:
    """What the script printed; the loader must have survived it and answer at its prompt."""
    outcome = run_scripts(folder, script, b"echo still here\nquit\n", **more)  # type: ignore[arg-type]
    assert outcome.end == "exit"
    assert "still here" in outcome.console.decode("latin-1").split("\r\n")
    return said(outcome)


def test_libraries_that_are_not_there(tmp_path: Path) -> None:
    names = "python debug os math table coroutine utf8 jit bit32 python_builtins eval collect"
    checks = "".join(f"print('{name}', {name})\n" for name in names.split())
    assert attack(tmp_path, checks) == [f"{name}\tnil" for name in names.split()]


# Everything that can be reached from the globals, through tables and metatables; functions' results aside.
WALK = """
local seen, bad, tables = {}, {}, 0
local function walk(value, name)
  local kind = type(value)
  if kind == "userdata" or kind == "thread" then bad[#bad + 1] = name .. ":" .. kind end
  local meta = getmetatable(value)
  if meta ~= nil and meta ~= getmetatable("") and type(meta) ~= "table" then bad[#bad + 1] = name .. ":meta" end
  if kind ~= "table" or seen[value] then return end
  seen[value] = true
  tables = tables + 1
  for key, inner in next, value do
    walk(key, name .. ".key")
    walk(inner, name .. "." .. tostring(key))
  end
  if type(meta) == "table" then walk(meta, name .. ".meta") end
end
walk(_G, "_G")
walk(getmetatable(""), "string.meta")
for _, text in ipairs(bad) do print(text) end
print(tables > 8, #bad)
"""


def test_no_python_object_is_in_reach(tmp_path: Path) -> None:
    assert attack(tmp_path, WALK) == ["true\t0"]


def test_handles_are_opaque(tmp_path: Path) -> None:
    script = """
local f = io.open("/boot/loader")
local _, state = lfs.dir("/boot")
print(type(f), getmetatable(f))
print(type(state), type(getmetatable(state)))
for _, try in ipairs({
  function() return f.read end, function() f.x = 1 end, function() return f() end, function() return f .. "" end,
  function() return #f end, function() return f + 1 end, function() return f < f end,
  function() return f["__class__"] end,
  function() return state.__class__ end, function() return pairs(f)() end,
}) do
  local ok, result = pcall(try)
  print(ok, type(result))
end
local meta = getmetatable(state)
for key in pairs(meta) do meta[key] = nil end
meta.__index, meta.__gc, meta.__call = function() error("mine") end, function() error("gc") end, error
print(pcall(function() return state.next end))
print(io.close(f), io.close(f))
print(io.read(f), io.write(f, "x"))
"""
    lines = attack(tmp_path, script)
    assert lines[:2] == ["userdata\tnil", "userdata\ttable"]
    assert lines[2:10] == ["false\tstring"] * 8
    assert lines[10] == "true\tnil"
    assert lines[-2:] == ["true\tfalse", "nil\tnil\tinvalid argument\t22"]


def test_errors_are_never_objects_of_pythons(tmp_path: Path) -> None:
    """Every library function, with every kind of argument: what pcall gives back is text."""
    script = """
local odd = {nil, true, 0, -1, 1 << 20, "", "\\0", "x", {}, print, setmetatable({}, {__tostring = error}),
  setmetatable({}, {__index = error, __name = 5}), string.rep("z", 5000), io.open("/boot/loader")}
local skip = {exit = true, delay = true, getchar = true, gets = true, collectgarbage = true, interpret = true}
local calls, kinds = 0, {}
local function note(ok, first)
  calls = calls + 1
  if not ok then kinds[type(first)] = true end
end
local function try(library)
  for name, f in pairs(library) do
    if type(f) == "function" and not skip[name] then
      note(pcall(f))
      for i = 1, 14 do
        if name ~= "command" or type(odd[i]) ~= "string" then
          note(pcall(f, odd[i]))
          for j = 1, 14 do note(pcall(f, odd[i], odd[j])) end
          note(pcall(f, odd[i], odd[15 - i], odd[i]))
        end
      end
    end
  end
end
for _, library in ipairs({loader, io, lfs, errno, package, string}) do try(library) end
for kind in pairs(kinds) do print() print("error of type " .. kind) end
print(calls > 5000)
"""
    lines = attack(
        tmp_path, script.replace("local function try", "loader.setenv('LINES', '100000')\nlocal function try")
    )
    kinds = {line for line in lines if "error of type" in line}
    assert kinds == {"error of type string"}
    assert lines[-1] == "true"


BYTECODE = """
local dumped = string.dump(function(...) return 42 end)
print("own", load(dumped)())
print("mode t", load(dumped, "x", "t"))
local refused = 0
for at = 1, #dumped do
  local changed = dumped:sub(1, at - 1) .. string.char(dumped:byte(at) ~ 0x55) .. dumped:sub(at + 1)
  local chunk, message = load(changed, "=x", "b")
  if chunk == nil and type(message) == "string" then refused = refused + 1 end
end
print(refused == #dumped)
print(load(dumped:sub(1, 20), "=cut", "b"))
print(load("\\27Lua", "=header"))
print(pcall(string.dump, print))
print(pcall(string.dump, loader.setenv))
print(pcall(string.dump, string.format))
local parts = {dumped:sub(1, 30), dumped:sub(31) .. "x"}
local at = 0
print(load(function() at = at + 1 return parts[at] end, "=parts"))
print(loadfile("/boot/code"))
"""


def test_bytecode_runs_only_unchanged(tmp_path: Path) -> None:
    lines = attack(
        tmp_path, BYTECODE, files={"boot/code": b"\x1bLua\x54\x00\x19\x93\r\n\x1a\n\x04\x08\x08" + b"x" * 50}
    )
    refusal = "bad binary format (only what string.dump made is loaded)"
    assert lines == [
        "own\t42",
        "mode t\tnil\tattempt to load a binary chunk (mode is 't')",
        "true",
        f"nil\tcut: {refusal}",
        f"nil\theader: {refusal}",
        "false\tunable to dump given function",
        "false\tunable to dump given function",
        "false\tunable to dump given function",
        f"nil\tparts: {refusal}",
        f"nil\t/boot/code: {refusal}",
    ]


@pytest.mark.parametrize(
    "bomb",
    [
        "local s = 'x' while true do s = s .. s end",
        "local t = {} for i = 1, 1e9 // 1 do t[i] = i end".replace("1e9 // 1", "1000000000"),
        "string.rep('x', 1 << 40)",
        "string.rep('x', 50 << 20, ',')",
        "('x'):rep(30 << 20):gsub('x', 'yyyy')",
        "local t = {} while true do t = {t, string.rep('y', 1000)} end",
        "local t = {} for i = 1, 10000000 do t[i] = setmetatable({}, {__gc = function() end}) end",
        "assert(load(function() return 'local x = 1 ' end))",
    ],
)
def test_memory_ends_in_an_error(tmp_path: Path, bomb: str) -> None:
    lines = attack(tmp_path, f"local ok, message = pcall(function() {bomb} end)\nprint(ok, type(message))\n")
    assert lines == ["false\tstring"]


def test_full_memory_and_the_loaders_functions(tmp_path: Path) -> None:
    """lupa dead-locks when Lua's memory ends while it converts a result: no function may get there."""
    script = """
loader.setenv("big", string.rep("b", 20000))
local keep, n = {}, 0
local function fill() while true do n = n + 1 keep[n] = string.rep(tostring(n), 200) end end
pcall(fill)
local fails, works = 0, 0
local calls = {
  function() return loader.getenv("big") end, function() return loader.parse("a b ${big}") end,
  function() return io.read(assert(io.open("/boot/data"))) end, function() return lfs.attributes("/boot") end,
  function() return loader.command("echo", "") end, function() return require("nothing") end,
  function() return io.open("/boot/data") end, function() return loader.command_error() end,
}
for round = 1, 20 do
  for _, call in ipairs(calls) do
    if pcall(call) then works = works + 1 else fails = fails + 1 end
  end
  pcall(fill)
end
keep = nil
collectgarbage()
print(fails + works == 160, #loader.getenv("big"))
"""
    lines = attack(tmp_path, script, files={"boot/data": b"d" * 100_000})
    assert lines[-1] == "true\t20000"


def test_variables_and_handles_are_bounded(tmp_path: Path) -> None:
    script = """
local value, refused = string.rep("v", 1 << 20), 0
for i = 1, 100 do if loader.setenv("v" .. i, value) ~= 0 then refused = refused + 1 end end
print(refused > 50)
for i = 1, 100 do loader.unsetenv("v" .. i) end
local files = {}
for i = 1, 5000 do files[i] = io.open("/boot/loader") end
local count = 0
for _ in pairs(files) do count = count + 1 end
print(count < 5000, count >= 80)
"""
    assert attack(tmp_path, script) == ["true", "true\ttrue"]


@pytest.mark.parametrize(
    "script",
    [
        "local function f() return f() + 1 end print(pcall(f))",
        "local t = setmetatable({}, {}) getmetatable(t).__index = function(_, k) return t[k .. 'x'] end "
        "print(pcall(function() return t.a end))",
        "print(load(string.rep('(', 5000) .. '1' .. string.rep(')', 5000)))",
        "print(pcall(string.find, string.rep('a', 300000), string.rep('a?', 300000) .. 'b'))",
        "print(pcall(string.rep('x', 10).gsub, string.rep('a', 100), '%f', ''))",
        "local function nest(n) return n == 0 and '' or '{' .. nest(n - 1) .. '}' end "
        "print(load('return ' .. nest(3000)))",
        "print(loader.interpret('loader.interpret(\"' .. 'x' .. '\")'))",
        "function again() loader.interpret('again()') end again() print('done')",
        "function cli_execute(...) return loader.command('include', '/boot/lua/self.lua') end "
        "dofile('/boot/lua/self.lua') cli_execute = nil print('done')",
        "print(pcall(error))",
        "print(pcall(error, nil)) print(pcall(error, {})) print(select('#', pcall(error)))",
        "print(xpcall(function() error('a') end, function() error('b') end))",
        "print(pcall(setmetatable(_G, {__index = function(_, k) error(k) end}).nope))",
        "setmetatable(_G, {__newindex = function() error('no') end, __metatable = false}) print(pcall(load('x = 1')))",
        "for i = 1, 2000 do setmetatable({}, {__gc = function() loader.command('echo') error('in gc') end}) end "
        "collectgarbage() print('done')",
    ],
)
def test_stack_and_error_tricks(tmp_path: Path, script: str) -> None:
    files = {"boot/lua/self.lua": "loader.command('include', '/boot/lua/self.lua')\n"}
    assert attack(tmp_path, script + "\n", files=files)[-1] != ""


def test_a_tampered_string_library_only_hurts_the_guest(tmp_path: Path) -> None:
    script = """
local meta = getmetatable("")
for name in pairs(string) do string[name] = function() error("gone") end end
for name in pairs(meta) do meta[name] = nil end
for _, name in ipairs({"pcall", "error", "select", "type", "next", "pairs", "tostring", "rawset", "load", "print"}) do
  if name ~= "print" then _G[name] = nil end
end
print(loader.getenv("currdev"), lfs.attributes("/boot", "mode"), io.read(io.open("/boot/loader"), 4))
print(loader.parse("a 'b c'"))
for name in lfs.dir("/boot") do if name == "lua" then print(name) end end
package.loaded, package.path, package.searchers = nil, nil, nil
"""
    lines = attack(tmp_path, script)
    assert lines == ["host0:\tdirectory\t$Int\t4", "a\tb c", "lua"]


def test_the_search_path_stays_in_the_guest(tmp_path: Path) -> None:
    (tmp_path / "outside.lua").write_text("return 'outside'\n")
    script = """
package.path = "../?.lua;/../?.lua;/boot/../../?.lua;/proc/self/?"
print(pcall(require, "outside"))
print(pcall(dofile, "/etc/passwd"))
print(package.loadlib("/lib/x86_64-linux-gnu/libc.so.6", "system"))
print(io.open("/proc/self/mem"), io.open("../outside.lua"), io.open("host0:/../outside.lua"))
"""
    lines = attack(tmp_path / "guest", script)
    text = "\n".join(lines)
    assert "outside'" in text and "false" in lines[0]
    assert "false\tcannot open /etc/passwd: no such file or directory" in lines
    assert "nil\tdynamic libraries not enabled; check your Lua installation\tabsent" in lines
    assert lines[-1] == "nil\tnil\tnil"


def test_a_finalizer_cannot_outlive_the_loader(tmp_path: Path) -> None:
    """Guest code that runs while the loader is leaving: the boot, or here the quit, is not held up."""
    script = """
setmetatable({}, {__gc = function(x) while true do pcall(loader.command, "echo", "late") end end})
pcall(function() loader.command("quit") end)
while true do pcall(loader.command, "echo", "after the end") end
"""
    began = time.monotonic()
    outcome = run_scripts(tmp_path, script)
    assert outcome.end == "exit"
    assert "after the end" not in outcome.console.decode()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "loop",
    [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "local function f() pcall(f) f() end f()",
        "string.find(string.rep('a', 50), string.rep('a?', 50) .. string.rep('a', 50))",
        "setmetatable({}, {__gc = function() while true do end end}) collectgarbage()",
        "for _ in function() return 1 end do end",
    ],
)
def test_endless_scripts_are_ended(tmp_path: Path, loop: str) -> None:
    with pytest.raises(LoaderCrashed, match=r"did not finish in 0\.7 seconds"):
        run_scripts(tmp_path, loop + "\nwhile true do end\n", timeout=0.7)
