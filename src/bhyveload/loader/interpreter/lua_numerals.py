"""Arithmetic on numerals alone, which Lua's compiler does itself, and in floating point.

The loader's Lua has 64-bit integers for floats (stand/liblua/luaconf.h): `7/2*2` is 6.0 there (docs/errata.md,
"Numbers").  The string library's arithmetic does it as the loader does, and the compiler leaves strings alone.
"""

from __future__ import annotations

SOURCE = r"""
local std = ...
local string = std.globals.string
local find, match, sub = string.find, string.match, string.sub
local concat, tonumber, math_type = std.concat, std.tonumber, std.math_type

local whole = std.whole
std.cut_quotients(function(quotient) return math_type(quotient) == "float" and whole(quotient) + 0.0 or quotient end)

-- A `-` behind one of these, or behind an operator, has one operand.
local BEFORE = {}
for word in string.gmatch("and or not return if elseif while until in do then else repeat", "%a+") do
  BEFORE[word] = true
end
local AFTER = {[")"] = true, ["]"] = true, ["}"] = true, ["..."] = true, word = true, number = true, string = true}
local COMPUTES = {number = true}
for operator in string.gmatch("( ) + - * / // % ^", "%S+") do COMPUTES[operator] = true end
local BITWISE = {["&"] = true, ["|"] = true, ["~"] = true, ["<"] = true, [">"] = true}
local FAR = 200 -- tokens, operators: further is not looked
local BINDS_AS_MUCH = {["*"] = true, ["/"] = true, ["//"] = true, ["%"] = true}

local function end_of_string(chunk, at)
  local quote = sub(chunk, at, at)
  local stop = at + 1
  while true do
    stop = find(chunk, "[\\" .. quote .. "]", stop)
    if sub(chunk, stop, stop) == quote then return stop end
    stop = stop + 2
  end
end

-- The tokens of a text that is Lua: kind ("number", "word", "string", or the operator itself), first and last byte.
local function tokens(chunk)
  local kinds, first, last, n, at = {}, {}, {}, 0, 1
  while true do
    at = match(chunk, "^%s*()", at)
    if at > #chunk then return kinds, first, last, n end
    local kind, stop
    local dashes, level = match(chunk, "^(%-?%-?)%[(=*)%[", at)
    if level and (dashes == "" or dashes == "--") then
      kind = dashes == "" and "string" or nil
      _, stop = find(chunk, "]" .. level .. "]", at + #dashes + #level + 2, true)
    elseif find(chunk, "^%-%-", at) then
      stop = (find(chunk, "[\r\n]", at) or #chunk + 1) - 1
    elseif find(chunk, "^[\"']", at) then
      kind, stop = "string", end_of_string(chunk, at)
    elseif find(chunk, "^%d", at) then
      kind, stop = "number", match(chunk, "^%w+()", at) - 1
    elseif find(chunk, "^[%a_]", at) then
      stop = match(chunk, "^[%w_]+()", at) - 1
      kind = "word"
    else
      kind = match(chunk, "^%.%.%.?", at) or match(chunk, "^//", at) or match(chunk, "^[=~<>]=", at)
        or sub(chunk, at, at)
      stop = at + #kind - 1
    end
    if kind then
      n = n + 1
      kinds[n], first[n], last[n] = kind, at, stop
    end
    at = stop + 1
  end
end

-- The same text with such numerals as strings, nil where there are none.
function std.exact_numerals(chunk)
  local kinds, first, last, n = tokens(chunk)
  local starts, stops = {}, {}
  local function unary(at, sign)
    if kinds[at] ~= (sign or "-") then return false end
    local before = kinds[at - 1]
    return not AFTER[before] or before == "word" and BEFORE[sub(chunk, first[at - 1], last[at - 1])]
  end
  local function value(at) return kinds[at] == "number" and tonumber(sub(chunk, first[at], last[at])) or nil end
  -- The first token of a numeral, or of such in parentheses, that ends at ``stop``; nil: it is something else.
  local function operand(stop)
    local depth = 0
    for at = stop, stop - FAR, -1 do
      local kind = kinds[at]
      if not COMPUTES[kind] and not BITWISE[kind] then return nil end
      depth = depth + (kind == ")" and 1 or kind == "(" and -1 or 0)
      if depth == 0 then
        local before = kinds[at - 1]
        local called = kind == "(" and AFTER[before]
          and not (before == "word" and BEFORE[sub(chunk, first[at - 1], last[at - 1])])
        return (kind == "(" or kind == "number") and not called and at or nil
      end
    end
  end
  -- Whether what the operator at ``at`` has on its left is numerals alone, which the compiler makes one of.
  local function calculated(at)
    for _ = 1, FAR do
      local from = operand(at - 1)
      if not from then return false end
      while unary(from - 1) or unary(from - 1, "~") do from = from - 1 end
      at = from - 1
      if not BINDS_AS_MUCH[kinds[at]] and kinds[at] ~= "^" then return true end
    end
    return false
  end
  -- The first numeral behind the operator at ``at``, maybe in parentheses with others; nil: it is something else.
  local function divisor(at)
    local found, depth = nil, 0
    for behind = at + 1, at + FAR do
      local kind = kinds[behind]
      if not COMPUTES[kind] then return nil end
      depth = depth + (kind == "(" and 1 or kind == ")" and -1 or 0)
      found = found or value(behind) and behind
      if depth == 0 and found then return value(found) ~= 0 and found or nil end
    end
  end
  local function quote(from, to) starts[first[from]], stops[first[from]] = true, last[to] end
  for at = 1, n do
    local kind = kinds[at]
    local quoted = false
    if (kind == "/" or kind == "//" or kind == "^") and value(at - 1) then
      local right = value(at + 1)
      local before = at - 2
      while unary(before) do before = before - 1 end -- no loop of a hostile script's: the compiler takes 200
      local bare = kind == "^"
        or not BINDS_AS_MUCH[kinds[at - 2]] and kinds[before] ~= "#" and not unary(before, "~")
      local open = kinds[at + 1] == "(" or kind == "^" and kinds[at + 1] == "-" and value(at + 2)
      quoted = bare and (right and right ~= 0 or open)
      if quoted then
        quote(kind == "//" and unary(at - 2) and at - 2 or at - 1, at - 1)
        if right then quote(at + 1, at + 1) end
      end
    elseif math_type(value(at) or 0) == "float" and unary(at - 1) then
      quote(at, at)
    end
    if (kind == "/" or kind == "//") and not quoted and calculated(at) then
      local behind = divisor(at)
      if behind then quote(behind, behind) end
    end
  end
  local parts, copied = {}, 1
  for at = 1, n do
    local from = first[at]
    if starts[from] and from >= copied then
      parts[#parts + 1] = sub(chunk, copied, from - 1) .. "'" .. sub(chunk, from, stops[from]) .. "'"
      copied = stops[from] + 1
    end
  end
  if copied == 1 then return nil end
  return concat(parts) .. sub(chunk, copied)
end
"""
