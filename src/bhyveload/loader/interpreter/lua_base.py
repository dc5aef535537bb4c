"""The base library where it touches files, the console or numbers, and what all libraries are written with.

Sources: lbaselib.c, lauxlib.c (argument errors), stand/liblua/{luaconf.h,lstd.c};
docs/errata.md, "Numbers", "Global names".
"""

from __future__ import annotations

# Argument checks: texts and positions as luaL_argerror, luaL_typeerror and pushglobalfuncname make them.
CHECKS = r"""
local std = ...
local error, getinfo, select, type, tonumber = std.error, std.getinfo, std.select, std.type, std.tonumber
local math_type, tointeger, tostring = std.math_type, std.tointeger, std.tostring
local string, getmetatable = std.globals.string, std.globals.getmetatable
local format, match, find = string.format, string.match, string.find

-- A library: a global and an entry of package.loaded.
function std.library(name, fields)
  std.globals[name] = fields
  std.loaded[name] = fields
end

-- An error about an argument; ``depth``: how many functions stand between this one and the library function.
local function fault(depth, qualified, number, extra)
  local info = getinfo(2 + depth, "nt")
  local name = info.name
  if info.namewhat == "method" then
    number = number - 1
    if number == 0 then error(format("calling '%s' on bad self (%s)", name, extra), 3 + depth) end
  end
  local level = 3 + depth
  if not name then
    if info.istailcall then
      name, level = match(qualified, "[^.]*$"), 0
    else
      name = qualified
    end
  end
  error(format("bad argument #%d to '%s' (%s)", number, name, extra), level)
end
std.fault = fault

function std.type_name(value)
  local meta = getmetatable(value)
  local name = type(meta) == "table" and type(value) ~= "string" and meta.__name
  return type(name) == "string" and name or type(value)
end

local function type_fault(depth, qualified, number, count, value, expected)
  local got = number > count and "no value" or std.type_name(value)
  fault(depth + 1, qualified, number, expected .. " expected, got " .. got)
end
std.type_fault = type_fault

-- Numbers whose subtype is float are whole in the loader: they end in ".0" and are cut, not rounded.
local function whole(number)
  if number ~= number then return 0 end
  if number == -0x1.fffffffffffffp62 then return -0x7fffffffffffffff end -- see arithmetic on strings: unm
  if number >= 0x1p63 then return 0x7fffffffffffffff end
  if number <= -0x1p63 then return -0x7fffffffffffffff - 1 end
  return tointeger(number < 0 and -(-number // 1) or number // 1)
end
std.whole = whole

local function text(value)
  if math_type(value) == "float" then return format("%d.0", whole(value)) end
  return tostring(value)
end
std.text = text

-- lua_tonumber of a string: no fractions, no exponents; too many digits saturate (docs/errata.md, "Numbers").
local function number(value)
  local result = tonumber(value)
  if math_type(result) == "float" and type(value) == "string" then
    if find(value, "^%s*[-+]?%d+%s*$") then return result < 0 and -0x1p63 or 0x1p63 end
    return nil
  end
  return result
end
std.number = number

-- lua_tointeger: 0 for what is no number.
function std.integer(value)
  local kind = type(value)
  if kind == "string" then value = number(value) elseif kind ~= "number" then return 0 end
  if math_type(value) == "float" then return whole(value) end
  return value or 0
end

-- lua_tostring: nil for what is neither string nor number.
function std.string_or_nil(value)
  local kind = type(value)
  if kind == "string" then return value end
  if kind == "number" then return text(value) end
  return nil
end

-- luaL_checkstring, for a value that is not a string already.
function std.check_string(qualified, number_, count, value)
  if type(value) == "number" then return text(value) end
  if type(value) == "string" then return value end
  type_fault(1, qualified, number_, count, value, "string")
end

-- luaL_checknumber as an integer.
function std.check_number(qualified, number_, count, value)
  local kind = type(value)
  local result = kind == "number" and value or kind == "string" and number(value) or nil
  if result == nil then type_fault(1, qualified, number_, count, value, "number") end
  return math_type(result) == "float" and whole(result) or result
end
"""

# tonumber, tostring, print, load and their like.
SOURCE = r"""
local std, prim = ...
local G = std.globals
local error, select, type, tonumber, pcall, load = std.error, std.select, std.type, std.tonumber, std.pcall, std.load
local text, number, fault, type_fault, check_string = std.text, std.number, std.fault, std.type_fault, std.check_string
local concat, math_type, native_tostring = std.concat, std.math_type, std.tostring
local string = G.string
local byte, char, find, gsub = string.byte, string.char, string.find, string.gsub
local match, sub = string.match, string.sub
local xpcall, after = std.xpcall, std.after
local out, slurp = prim.out, prim.slurp
local as_in_the_loader, exact_numerals = prim.as_in_the_loader, std.exact_numerals
local old = prim.current() == false
local LARGE = #"9223372036854775808"

-- The numbers' metatable is not the guest's (std.cut_quotients).
local getmetatable = G.getmetatable
function G.getmetatable(...)
  local value = ...
  if type(value) == "number" then return nil end
  if select("#", ...) == 0 then fault(0, "getmetatable", 1, "value expected") end
  return getmetatable(value)
end

function G.pcall(...)
  if select("#", ...) == 0 then fault(0, "pcall", 1, "value expected") end
  return after(pcall(...))
end

function G.xpcall(...)
  local _, handler = ...
  if type(handler) ~= "function" then type_fault(0, "xpcall", 2, select("#", ...), handler, "function") end
  return after(xpcall(...))
end

function G.tonumber(...)
  local count, value, base = select("#", ...), ...
  if base == nil then
    if count == 0 then fault(0, "tonumber", 1, "value expected") end
    local kind = type(value)
    if kind == "string" then return number(value) end
    if kind == "number" then return value end
    return nil
  end
  base = std.check_number("tonumber", 2, count, base)
  if type(value) ~= "string" then type_fault(0, "tonumber", 1, count, value, "string") end
  if base < 2 or base > 36 then fault(0, "tonumber", 2, "base out of range") end
  return (tonumber(value, base))
end

function G.tostring(...)
  local value = ...
  if math_type(value) == "float" then return text(value) end
  if value == nil and select("#", ...) == 0 then fault(0, "tostring", 1, "value expected") end
  return native_tostring(value)
end

function G.print(...)
  local values, parts, n = {...}, {}, 0
  for i = 1, select("#", ...) do
    local value = values[i]
    local kind = type(value)
    if i > 1 then
      n = n + 1
      parts[n] = "\t"
    end
    if n > 0 and (kind == "table" or kind == "userdata") then -- its __tostring may print
      out(concat(parts))
      parts, n = {}, 0
    end
    n = n + 1
    parts[n] = text(value)
  end
  parts[n + 1] = "\n"
  out(concat(parts))
end

function G.warn(...)
  local count = select("#", ...)
  if count == 0 then type_fault(0, "warn", 1, 0, nil, "string") end
  for i = 1, count do check_string("warn", i, count, (select(i, ...))) end
end

-- The loader's Lua has no numerals with fractions or exponents.  Where the text holds such characters, compile it
-- once more with each of them replaced by a byte that no Lua token has (a hundred take turns): in strings and comments
-- that is nothing, elsewhere it is the first that the compiler stumbles over.
local function malformed_number(chunk, name)
  local found, parts, copied, calculated = {}, {}, 1, false
  local from = find(chunk, "%d")
  while from do
    local before = from > 1 and byte(chunk, from - 1) or 32
    local to
    if before >= 65 and before <= 90 or before >= 97 and before <= 122 or before == 95 then
      to = match(chunk, "^[%w_]*()", from) -- a digit within a name
    elseif before == 92 and #match(sub(chunk, from > 64 and from - 64 or 1, from - 1), "\\*$") % 2 == 1 then
      to = match(chunk, "^%d%d?%d?()", from) -- a decimal escape in a string
    else
      local word
      word, to = match(chunk, "^([%w_.]+)()", from)
      calculated = calculated or #word >= LARGE or find(chunk, "^%s*[/^]", to) ~= nil
      local fraction = before == 46 and not (from > 2 and byte(chunk, from - 2) == 46)
      if fraction or not (find(word, "^%d+$") or find(word, "^0[xX]%x+$")) then
        local sign = find(word, "^%d[%d.]*[eE]$") and match(chunk, "^[-+]%w*", to) or ""
        local mark = 128 + #found % 100
        found[#found + 1] = {from, (fraction and "." or "") .. word .. sign, mark}
        parts[#parts + 1] = sub(chunk, copied, from - (fraction and 2 or 1)) .. char(mark)
        copied = to
      end
    end
    from = find(chunk, "%d", to)
  end
  if #found == 0 then return nil, calculated end
  local _, message = load(concat(parts) .. sub(chunk, copied), name, "t")
  local where, line, mark = match(message or "", "^(.*:)(%d+): .*near '<\\(%d+)>'$")
  if not where then return nil, calculated end
  local newline, current = find(chunk, "\n", 1, true), 1
  for i = 1, #found do
    local from = found[i][1]
    while newline and newline < from do
      newline, current = find(chunk, "\n", newline + 1, true), current + 1
    end
    if current == tonumber(line) and found[i][3] == tonumber(mark) then
      return where .. line .. ": malformed number near '" .. found[i][2] .. "'"
    end
  end
  return nil, calculated
end

-- Whether something is divided that is in parentheses and has no letter.
local function divides_numerals(chunk)
  local at = find(chunk, "/", 2, true)
  while at do
    local before = byte(chunk, at - 1)
    if (before == 41 or before <= 32)
      and find(sub(chunk, at > 64 and at - 64 or 1, at), "%([%s%d()%%*+/^&|~<>-]*%)%s*/$") then return true end
    at = find(chunk, "/", at + 1, true)
  end
  return false
end

-- What a function may end with a call of, one of the libraries' or a table of them (lua_bytecode.py).
local LIBRARIES = {}
for name in string.gmatch("tonumber tostring print printc load loadfile dofile pcall xpcall warn getmetatable loader "
    .. "io lfs pager string package", "%a+") do
  LIBRARIES[name] = true
end
local function ends_in_library(chunk)
  local _, at = find(chunk, "return", 1, true)
  if at and find(chunk, ":format", 1, true) then return true end
  while at do
    if LIBRARIES[match(chunk, "^%s+([%a_][%w_]*)", at + 1)] then return true end
    _, at = find(chunk, "return", at, true)
  end
  return false
end

-- Behind each division stands an OP_MMBIN or OP_MMBINK for TM_DIV.
local MAY_DIVIDE = "[\46\48\174\176]..\11"

-- luaL_loadbufferx; ``...`` is an environment or nothing: the globals.
local function compile(chunk, name, mode, ...)
  local environment = G
  if select("#", ...) > 0 then environment = ... end
  if byte(chunk) == 27 then
    if mode and not find(mode, "b", 1, true) then
      return nil, "attempt to load a binary chunk (mode is '" .. mode .. "')"
    end
    if std.dumps[chunk] then return load(chunk, name, "b", environment) end -- unchanged since string.dump made it
    return nil, (match(name, "^[=@](.*)") or name) .. ": bad binary format (only what string.dump made is loaded)"
  end
  if mode and not find(mode, "t", 1, true) then
    return nil, "attempt to load a text chunk (mode is '" .. mode .. "')"
  end
  local compiled, message = load(chunk, name, "t", environment)
  local malformed, calculated = malformed_number(chunk, name)
  if malformed then return nil, malformed end
  if not compiled then
    if old then message = gsub(message, "for goto at line (%d+)$", "for <goto> at line %1") end
    return nil, message
  end
  local exact = (calculated or divides_numerals(chunk)) and exact_numerals(chunk)
  if exact then compiled = load(exact, name, "t", environment) or compiled end
  local last = ends_in_library(chunk)
  if last or find(chunk, "/", 1, true) then
    local dumped = std.dump(compiled)
    if last or find(dumped, MAY_DIVIDE) then
      compiled = load(as_in_the_loader(dumped), name, "b", environment) or compiled
    end
  end
  return compiled
end
std.compile = compile

local function pieces(reader)
  local parts, n = {}, 0
  while true do
    local piece = reader()
    if piece == nil or piece == "" then return concat(parts) end
    if type(piece) ~= "string" then error("reader function must return a string", 0) end
    n = n + 1
    parts[n] = piece
  end
end

local function optional_string(qualified, at, count, value)
  if value == nil then return nil end
  if type(value) ~= "string" then return check_string(qualified, at, count, value) end
  return value
end

function G.load(...)
  local count = select("#", ...)
  local chunk, name, mode = ...
  mode = optional_string("load", 3, count, mode)
  name = optional_string("load", 2, count, name)
  local kind = type(chunk)
  if kind == "number" then
    chunk, kind = text(chunk), "string"
  elseif kind == "function" then
    local ok, result = after(pcall(pieces, chunk))
    if not ok then return nil, result end
    chunk, name = result, name or "=(load)"
  elseif kind ~= "string" then
    type_fault(0, "load", 1, count, chunk, "function")
  end
  if count >= 4 then
    local environment = select(4, ...)
    return compile(chunk, name or chunk, mode, environment)
  end
  return compile(chunk, name or chunk, mode)
end

-- luaL_loadfilex
local function load_file(path, mode, ...)
  if path == nil then return nil, "cannot read stdin: no such file or directory" end
  local content, message = slurp(path)
  if not content then return nil, message end
  if byte(content) == 35 then content = gsub(content, "^#[^\n]*", "", 1) end
  return compile(content, "@" .. path, mode, ...)
end
std.load_file = load_file

function G.loadfile(...)
  local count, path, mode = select("#", ...), ...
  path = optional_string("loadfile", 1, count, path)
  mode = optional_string("loadfile", 2, count, mode)
  if count >= 3 then
    local environment = select(3, ...)
    return load_file(path, mode, environment)
  end
  return load_file(path, mode)
end

local function values(...) return ... end

function G.dofile(...)
  local path = optional_string("dofile", 1, select("#", ...), (...))
  local chunk, message = load_file(path)
  if not chunk then error(message, 0) end
  return values(chunk()) -- not a tail call: the chunk's caller is a library function
end

-- 13.2's Lua 5.4.2 has no words for a loop's iterator and for metamethods that are no functions (luaG_callerror).
if old then
  function std.reword(message, ...)
    if type(message) == "string" and find(message, "attempt to call a ", 1, true) then
      message = gsub(message, " %(for iterator 'for iterator'%)$", "")
      message = gsub(message, " %(metamethod '%l+'%)$", "")
    end
    return message, ...
  end
end

-- What the interpreter calls: ok, the number of values, the first as an integer, the error message.
local function outcome(ok, ...)
  local first = ...
  return ok, select("#", ...), std.integer(first), not ok and std.string_or_nil(std.reword(first)) or nil
end

function std.run_line(line)
  local chunk, message = compile(line, line)
  if not chunk then return outcome(false, message) end
  return outcome(pcall(chunk))
end

function std.run_file(path)
  local chunk, message = load_file(path)
  if not chunk then return outcome(false, message) end
  return outcome(pcall(chunk))
end

local function cli_execute(...) return G.cli_execute(...) end

function std.run_command(...) return outcome(pcall(cli_execute, ...)) end

function std.numeric(line) return std.integer(line) end
"""
