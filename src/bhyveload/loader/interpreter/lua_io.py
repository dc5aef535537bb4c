"""The io library: bare handles, in-place writing, keys (stand/liblua/{lutils,lstd}.c; docs/errata.md, "io").

Also ``slurp``, by which scripts themselves are read.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import strerror
from bhyveload.loader.files.files import O_RDONLY, O_RDWR, O_WRONLY
from bhyveload.loader.files.open_file import SOPEN_RASIZE
from bhyveload.loader.interpreter.lua_loader import cut
from bhyveload.loader.interpreter.lua_sandbox import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.files.open_file import OpenFile
    from bhyveload.loader.interpreter.lua_sandbox import Result
    from bhyveload.loader.state import Loader

MAX_READ = 32 << 20  # of one io.read
MAX_SCRIPT = 16 << 20
MAX_OPEN = 4096
MAX_HANDLES = 65536  # a userdata costs some memory for good: lupa keeps what it stood for
_LINE = 128  # lua_gets' buffer without its last byte

SOURCE = r"""
local std, prim = ...
local select, type, setmetatable = std.select, std.type, std.globals.setmetatable
local string_or_nil, number, whole, math_type = std.string_or_nil, std.number, std.whole, std.math_type
local userdata = std.userdata
local handles = setmetatable({}, {__mode = "k"})
local io = {
  getchar = function() return prim.getchar() end,
  ischar = function() return prim.ischar() end,
  gets = function() return prim.gets() end,
}

function io.open(...)
  local count, name, mode = select("#", ...), ...
  if count < 1 or count > 2 then return nil end
  name = string_or_nil(name)
  if count == 1 then mode = "r" else mode = string_or_nil(mode) end
  if not name or not mode then return nil end
  local opened = prim.io_open(name, mode)
  if not opened then return nil end
  local handle = userdata(nil)
  handles[handle] = opened
  return handle
end

function io.close(...)
  local handle = ...
  local opened = handles[handle == nil and 0 or handle]
  if select("#", ...) ~= 1 or not opened then return false end
  handles[handle] = nil
  return prim.io_close(opened)
end

function io.read(...)
  local count, handle, size = select("#", ...), ...
  local opened = handles[handle == nil and 0 or handle]
  if count < 1 or count > 2 or not opened then return nil, 0 end
  if count == 1 then return prim.io_read(opened) end
  if type(size) == "string" then size = number(size) elseif type(size) ~= "number" then size = 0 end
  if math_type(size) == "float" then size = whole(size) end
  return prim.io_read(opened, size or 0)
end

function io.write(...)
  local count, handle = select("#", ...), ...
  local opened = handles[handle == nil and 0 or handle]
  local words = {...}
  if count < 2 or not opened then return nil, "invalid argument", 22 end
  for i = 2, count do
    words[i] = string_or_nil(words[i])
    if not words[i] then return nil, "invalid argument", 22 end
  end
  local written = 0
  for i = 2, count do
    local size, message, errno = prim.io_write(opened, words[i])
    if message then return nil, message, errno end
    written = written + size
  end
  return written
end

std.library("io", io)
"""


class IoLibrary:
    """The primitives behind SOURCE; open files by number."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self._files: dict[int, tuple[OpenFile, int]] = {}  # with the size they had when opened
        self._last = 0

    def primitives(self) -> dict[str, Callable[..., Result]]:
        console = self.loader.console
        return {
            "getchar": console.getchar,
            "gets": lambda: console.gets(_LINE),
            "io_close": self.close,
            "io_open": self.open,
            "io_read": self.read,
            "io_write": self.write,
            "ischar": console.ischar,
            "slurp": self.slurp,
        }

    def open(self, name: str, mode: str) -> Result:
        """fopen: a number for the open file, None when it cannot be opened."""
        if mode[:1] not in ("r", "w") or len(self._files) >= MAX_OPEN or self._last >= MAX_HANDLES:
            return None
        if mode[1:2] == "+":
            flags = O_RDWR
        else:
            flags = O_RDONLY if mode[0] == "r" else O_WRONLY
        try:
            file = self.loader.files.open(cut(name), flags)
            size = file.stat().size
        except FileSystemError:
            return None
        self._last += 1
        self._files[self._last] = (file, size)
        return self._last

    def close(self, number: int) -> bool:
        file, _ = self._files.pop(number)
        file.close()
        return True

    def read(self, number: int, size: int | None = None) -> Result:
        file, known = self._files[number]
        if size is None:
            size = known if known >= 0 else MAX_READ  # a decompressed file's size is not known
        if size < 0:
            raise Refusal("not enough memory")
        try:
            if size == 0:
                _refill(file)
            data = file.read(min(size, MAX_READ))
        except FileSystemError:  # fread's -1 taken for a length
            raise Refusal("memory allocation error: block too big") from None
        return data.decode("latin-1"), len(data)

    def write(self, number: int, text: str) -> Result:
        """(bytes written,), or (None, message, errno) as luaL_fileresult has it."""
        file, _ = self._files[number]
        try:
            done = file.write(text.encode("latin-1", "replace")) if text else 0
        except FileSystemError as error:
            return None, strerror(error.errno), error.errno
        if done < len(text):
            return None, strerror(0), 0
        return done

    def slurp(self, path: str) -> Result:
        """A script's text; (None, message) as luaL_loadfilex words it."""
        path = cut(path)
        try:
            file = self.loader.files.open(path)
            file.stat()
        except FileSystemError as error:
            return None, f"cannot open {path}: {strerror(error.errno)}"
        try:
            data = file.read(MAX_SCRIPT + 1)
        except FileSystemError as error:
            return None, f"cannot read {path}: {strerror(error.errno)}"
        if len(data) > MAX_SCRIPT:
            return None, f"cannot read {path}: larger than {MAX_SCRIPT} bytes"
        return data.decode("latin-1")


def _refill(file: OpenFile) -> None:
    """libsa's read of no bytes: what the read-ahead buffer holds is lost, the next 512 bytes take its place."""
    file._left = 0
    file._readahead = b"".join(file._advance(SOPEN_RASIZE))
    file._left = len(file._readahead)
