"""The lfs library: attributes and directories (libexec/flua/modules/lfs.c; docs/errata.md, "lfs")."""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EOPNOTSUPP, strerror
from bhyveload.fs.stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK
from bhyveload.loader.interpreter.lua_loader import cut
from bhyveload.loader.interpreter.lua_sandbox import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.files.open_file import OpenFile
    from bhyveload.loader.interpreter.lua_sandbox import Result
    from bhyveload.loader.state import Loader

MAX_OPEN = 4096
MAX_HANDLES = 65536
_MODES = {
    S_IFREG: "file",
    S_IFDIR: "directory",
    S_IFLNK: "link",
    S_IFSOCK: "socket",
    S_IFIFO: "fifo",
    S_IFCHR: "char device",
    S_IFBLK: "block device",
}

SOURCE = r"""
local std, prim = ...
local error, select, type, setmetatable = std.error, std.select, std.type, std.globals.setmetatable
local check_string, string_or_nil, fault, type_fault = std.check_string, std.string_or_nil, std.fault, std.type_fault
local rawset, tostring = std.globals.rawset, std.text
local MEMBERS = {"mode", "dev", "ino", "nlink", "uid", "gid", "rdev", "access", "modification", "change", "size",
  "permissions"}
local POSITION = {}
for i = 1, #MEMBERS do POSITION[MEMBERS[i]] = i end
local directories = setmetatable({}, {__mode = "k"})
local CLOSED = 0
local lfs = {DT_DIR = 4}
if prim.current() then lfs.DT_REG, lfs.DT_LNK = 8, 10 end

function lfs.attributes(...)
  local count, path, wanted = select("#", ...), ...
  if type(path) ~= "string" then path = check_string("lfs.attributes", 1, count, path) end
  local values = {prim.attributes(path)}
  if values[1] == nil then return nil, values[2], values[3] end
  local member = string_or_nil(wanted)
  if member then
    local position = POSITION[member]
    if not position then error("invalid attribute name '" .. member .. "'", 2) end
    return values[position]
  end
  if type(wanted) ~= "table" then wanted = {} end
  for i = 1, #MEMBERS do rawset(wanted, MEMBERS[i], values[i]) end
  return wanted
end

local function next_entry(...)
  local state = ...
  local number = directories[state == nil and 0 or state]
  if not number then
    type_fault(0, "?", 1, select("#", ...), state, "directory iterator metatable")
  elseif number == CLOSED then
    fault(0, "?", 1, "closed directory")
  end
  local name, kind = prim.dir_next(number)
  if not name then
    directories[state] = CLOSED
    return
  end
  return name, kind
end

local function close_directory(state)
  local number = directories[state == nil and 0 or state]
  if number and number ~= CLOSED then
    directories[state] = CLOSED
    prim.dir_close(number)
  end
end
local directory = {
  __name = "directory iterator metatable", __gc = close_directory,
  __index = {next = next_entry, close = close_directory},
}

function lfs.dir(...)
  if select("#", ...) ~= 1 then return nil end
  local path = ...
  if type(path) ~= "string" then path = check_string("lfs.dir", 1, 1, path) end
  local number = prim.dir_open(path)
  if not number then return nil end
  local state = std.userdata(directory)
  directories[state] = number
  return next_entry, state
end

std.library("lfs", lfs)
"""


class LfsLibrary:
    """The primitives behind SOURCE; open directories by number."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self._open: dict[int, OpenFile] = {}
        self._last = 0

    def primitives(self) -> dict[str, Callable[..., Result]]:
        return {
            "attributes": self.attributes,
            "dir_close": self.close,
            "dir_next": self.next,
            "dir_open": self.open,
        }

    def attributes(self, path: str) -> Result:
        """The members in the order of SOURCE's MEMBERS, or (None, message, errno).

        libsa's file systems leave nlink, rdev and the times other than mtime alone (stack garbage there, 0 here).
        """
        path = cut(path)
        try:
            file = self.loader.files.open(path)
            if file.fs.name == "raw":  # fstat of a device
                raise FileSystemError(EOPNOTSUPP, f"{path}: a device")
            stat = file.stat()
        except FileSystemError as error:
            message = f"cannot obtain information from file '{path}': {strerror(error.errno)}"
            return None, message, error.errno
        mode = _MODES.get(stat.mode & S_IFMT, "other")
        permissions = f"{stat.mode & ~S_IFMT & 0xFFFF:o}"
        return mode, stat.dev, stat.ino, 0, stat.uid, stat.gid, 0, 0, stat.mtime, 0, stat.size, permissions

    def open(self, path: str) -> Result:
        if len(self._open) >= MAX_OPEN or self._last >= MAX_HANDLES:
            raise Refusal("not enough memory")
        try:
            file = self.loader.files.open(cut(path))
        except FileSystemError:
            return None
        self._last += 1
        self._open[self._last] = file
        return self._last

    def next(self, number: int) -> Result:
        """(name, d_type), None at the end; what cannot be read as a directory has no entries."""
        try:
            entry = self._open[number].readdir()
        except FileSystemError:
            entry = None
        if entry is None:
            self.close(number)
            return None
        return entry[2].decode("latin-1"), entry[1]

    def close(self, number: int) -> None:
        file = self._open.pop(number, None)
        if file is not None:
            file.close()
