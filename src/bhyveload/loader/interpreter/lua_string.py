"""The string library where the loader's differs: numbers in format, arithmetic on numerals, what dump makes.

The loader has no floating point (stand/liblua/luaconf.h): float conversions are those of libsa's printf, which knows
none, and numerals with a fraction are no numbers.  Sources: lstrlib.c, stand/libsa/printf.c;
docs/errata.md, "Numbers".
"""

from __future__ import annotations

# string.format: what libsa's printf makes of a conversion.  Errors are raised here, not by the native function: theirs
# would name this function as the place.
FORMAT = r"""
local std, prim = ...
local string = std.globals.string
local select, type, error, pcall, concat = std.select, std.type, std.error, std.pcall, std.concat
local math_type, text, whole, number = std.math_type, std.text, std.whole, std.number
local fault, type_fault, check_string = std.fault, std.type_fault, std.check_string
local find, match, gsub, native = string.find, string.match, string.gsub, string.format
local old = prim.current() == false

local function refuse(form)
  error("invalid conversion '" .. form .. "' to 'format'", 4)
end

local function check_modifiers(form, plain)
  local flags, width, precision = match(form, "^%%([-+ #0]*)(%d*)%.?(%d*)")
  if old then
    if #flags > 5 then error("invalid format (repeated flags)", 4) end
    if #width > 2 or #precision > 2 then error("invalid format (width or precision too long)", 4) end
  elseif #form > 22 then
    error("invalid format string to 'format'", 4)
  elseif not pcall(native, form, plain) then
    error("invalid conversion specification: '" .. form .. "'", 4)
  end
end

local function a_number(at, count, value)
  local result = value
  if type(value) == "string" then result = number(value) elseif type(value) ~= "number" then result = nil end
  if result == nil then type_fault(2, "string.format", at, count, value, "number") end
  return result
end

-- One conversion; ``at``: the number of the argument ``value``.
local function convert(form, letter, at, count, value)
  if at > count then fault(1, "string.format", at, "no value") end
  if find("diouxXc", letter, 1, true) then
    value = a_number(at, count, value)
    if math_type(value) == "float" then value = whole(value) end
    check_modifiers(form, 0)
    if find(form, " ", 1, true) then return letter == "c" and form or gsub(form, "(%a)$", "ll%1") end
    return native((gsub(form, "%+", "")), value)
  elseif find("aAeEgG", letter, 1, true) then
    a_number(at, count, value)
    check_modifiers(form, 0)
    return form
  elseif letter == "q" then
    if #form > 2 then error("specifier '%q' cannot have modifiers", 3) end
    if math_type(value) == "float" then return native("%d", whole(value)) end
    if value ~= nil and type(value) ~= "boolean" and type(value) ~= "number" and type(value) ~= "string" then
      fault(1, "string.format", at, "value has no literal form")
    end
    return native("%q", value)
  elseif letter == "s" then
    check_modifiers(form, "")
    if math_type(value) == "float" then value = text(value) end
    return native(form, value)
  elseif letter == "p" then
    check_modifiers(form, 0)
    return native(form, value)
  end
  refuse(form)
end

function string.format(...)
  local count, pattern = select("#", ...), ...
  if type(pattern) ~= "string" then pattern = check_string("string.format", 1, count, pattern) end
  local values = {...}
  local parts, n, at, argument = {}, 0, 1, 1
  while true do
    local from, to = find(pattern, "%", at, true)
    n = n + 1
    parts[n] = string.sub(pattern, at, (from or 0) - 1)
    if not from then return concat(parts) end
    local form = match(pattern, "^%%[-+ #0]*%d*%.?%d*.?", from)
    at = from + #form
    n = n + 1
    if form == "%%" then
      parts[n] = "%"
    else
      argument = argument + 1
      parts[n] = convert(form, match(form, "(%D?)$"), argument, count, values[argument])
    end
  end
end
"""

# The arithmetic of strings is in their metatable; dump remembers what it made, so that load can take it back.
SOURCE = r"""
local std = ...
local string, getmetatable = std.globals.string, std.globals.getmetatable
local error, type, select, getinfo = std.error, std.type, std.select, std.getinfo
local number, whole, type_fault, native_dump = std.number, std.whole, std.type_fault, string.dump
local math_type = std.math_type
local meta = getmetatable("")

local function arithmetic(verb, calculate)
  local event = "__" .. verb
  meta[event] = function(a, b)
    local x = type(a) == "string" and number(a) or type(a) == "number" and a
    local y = type(b) == "string" and number(b) or type(b) == "number" and b
    if x and y then return calculate(x, y) end
    local other = type(b) ~= "string" and getmetatable(b)
    local handler = type(other) == "table" and other[event]
    if not handler then
      error("attempt to " .. verb .. " a '" .. type(a) .. "' with a '" .. type(b) .. "'", 2)
    end
    return (handler(a, b))
  end
end
arithmetic("add", function(x, y) return x + y end)
arithmetic("sub", function(x, y) return x - y end)
arithmetic("mul", function(x, y) return x * y end)
arithmetic("mod", function(x, y) return x % y end)
-- lstd_pow: 2^63 and what is beyond wraps around.
local function power(x, y)
  local result = y < 0 and 0.0 or x ^ y
  if result < 0x1p63 and result >= -0x1p63 then return result end
  local base, exponent, product = whole(x), whole(y), 1
  while exponent > 0 do
    if exponent % 2 == 1 then product = product * base end
    base, exponent = base * base, exponent // 2
  end
  return product + 0.0
end
arithmetic("pow", power)
arithmetic("div", function(x, y) return whole(x / y) + 0.0 end)
arithmetic("idiv", function(x, y)
  if math_type(x) == "float" or math_type(y) == "float" then return whole(x / y) + 0.0 end
  return x // y
end)
-- The largest number has no float of its own: the one below stands for it where its sign is turned.
arithmetic("unm", function(x) return x == 0x1p63 and -0x1.fffffffffffffp62 or -x end)

local dumps = {}
std.dumps = dumps
function string.dump(...)
  local count, chunk, strip = select("#", ...), ...
  if type(chunk) ~= "function" then type_fault(0, "string.dump", 1, count, chunk, "function") end
  local info = getinfo(chunk, "S")
  if info.what == "C" or info.source == "=?" then error("unable to dump given function", 2) end
  local dumped = native_dump(chunk, strip)
  dumps[dumped] = true
  return dumped
end
"""
