"""require through the guest's file systems: package.searchers and what else of loadlib.c the loader has.

``require`` itself is Lua's own; it only walks package.searchers.  Nothing is ever loaded as a C library, but their
names are looked for, as in loadlib.c (it shows in the message, and in twiddles).
"""

from __future__ import annotations

SOURCE = r"""
local std, prim = ...
local G, loaded = std.globals, std.loaded
local error, select, type, concat = std.error, std.select, std.type, std.concat
local string = G.string
local gsub, match, gmatch, find = string.gsub, string.match, string.gmatch, string.find
local fault, type_fault, check_string, load_file = std.fault, std.type_fault, std.check_string, std.load_file
local readable = prim.readable
local package = G.package
local NO_LIBRARIES = "dynamic libraries not enabled; check your Lua installation"

local preload_searcher = package.searchers[1]
local config, preload = package.config, package.preload
for key in G.next, package do package[key] = nil end
package.config = config
package.cpath = "/boot/lua/5.4/lib/?.so;/boot/lua/5.4/lib/loadall.so;./?.so"
package.path = "/boot/lua/?.lua"
package.loaded, package.preload = loaded, preload

local function plain(text) return (gsub(text, "[%^%$%(%)%%%.%[%]%*%+%-%?]", "%%%0")) end

-- searchpath: a file that can be opened, or nil and what was tried.
local function search_path(name, path, separator, directory)
  if separator ~= "" and find(name, separator, 1, true) then
    name = gsub(name, plain(separator), (gsub(directory, "%%", "%%%%")))
  end
  local tried = {}
  for template in gmatch(path, "[^;]+") do
    local file = gsub(template, "%?", (gsub(name, "%%", "%%%%")))
    if readable(file) then return file end
    tried[#tried + 1] = "no file '" .. file .. "'"
  end
  return nil, concat(tried, "\n\t")
end

function package.searchpath(...)
  local count = select("#", ...)
  local words = {...}
  for i = 1, 4 do
    if i > 2 and words[i] == nil then
      words[i] = i == 3 and "." or "/"
    elseif type(words[i]) ~= "string" then
      words[i] = check_string("package.searchpath", i, count, words[i])
    end
  end
  return search_path(words[1], words[2], words[3], words[4])
end

function package.loadlib(...)
  local count = select("#", ...)
  for i = 1, 2 do check_string("package.loadlib", i, count, (select(i, ...))) end
  return nil, NO_LIBRARIES, "absent"
end

local function module_path(field)
  local path = std.string_or_nil(package[field])
  if not path then error("'package." .. field .. "' must be a string", 0) end
  return path
end

local function failed(name, file, message)
  error("error loading module '" .. name .. "' from file '" .. file .. "':\n\t" .. message, 0)
end

local function search_lua(name)
  local file, tried = search_path(name, module_path("path"), ".", "/")
  if not file then return tried end
  local chunk, message = load_file(file)
  if not chunk then failed(name, file, message) end
  return chunk, file
end

local function search_c(name)
  local file, tried = search_path(name, module_path("cpath"), ".", "/")
  if not file then return tried end
  failed(name, file, NO_LIBRARIES)
end

local function search_c_root(name)
  local root = match(name, "^([^.]*)%.")
  if not root then return end
  local file, tried = search_path(root, module_path("cpath"), ".", "/")
  if not file then return tried end
  failed(name, file, NO_LIBRARIES)
end

local function searcher(search)
  return function(...)
    local name = ...
    if type(name) ~= "string" then name = check_string("?", 1, select("#", ...), name) end
    return search(name)
  end
end
package.searchers = {preload_searcher, searcher(search_lua), searcher(search_c), searcher(search_c_root)}
"""
