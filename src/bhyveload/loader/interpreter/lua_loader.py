"""The loader library: what scripts ask of loader(8).

Sources: stand/liblua/{lutils,gfx_utils}.c; docs/errata.md, "loader.interpret", "The loader table".
"""

from __future__ import annotations

import time

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import ENOMEM
from bhyveload.libc import to_int
from bhyveload.loader.parse import ParseError, failure_line, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.interpreter.lua_sandbox import Result
    from bhyveload.loader.state import Loader

_MAX_VARIABLES = 16 << 20  # bytes; in userboot the 64 MiB heap is the limit
_PATIENCE = 3600_000_000  # microseconds that a --batch run lets scripts wait for what never comes

SOURCE = r"""
local std, prim = ...
local select, type, unpack = std.select, std.type, std.unpack
local check_string, check_number = std.check_string, std.check_number
local getenv, setenv, unsetenv, out = prim.getenv, prim.setenv, prim.unsetenv, prim.out
local command, perform, interpret, parse = prim.command, prim.perform, prim.interpret, prim.parse
local loader = {machine = "amd64", machine_arch = "amd64", lua_path = "/boot/lua"}

function loader.getenv(...)
  local name = ...
  if type(name) ~= "string" then name = check_string("loader.getenv", 1, select("#", ...), name) end
  return getenv(name)
end

function loader.setenv(...)
  local name, value = ...
  if type(name) ~= "string" then name = check_string("loader.setenv", 1, select("#", ...), name) end
  if type(value) ~= "string" then value = check_string("loader.setenv", 2, select("#", ...), value) end
  return setenv(name, value)
end

function loader.unsetenv(...)
  local name = ...
  if type(name) ~= "string" then name = check_string("loader.unsetenv", 1, select("#", ...), name) end
  return unsetenv(name)
end

function loader.command(...)
  local count = select("#", ...)
  local words = {...}
  for i = 1, count do
    if type(words[i]) ~= "string" then words[i] = check_string("loader.command", i, count, words[i]) end
  end
  return command(unpack(words, 1, count))
end

function loader.perform(...)
  local line = ...
  if type(line) ~= "string" then line = check_string("loader.perform", 1, select("#", ...), line) end
  return perform(line)
end

function loader.interpret(...)
  local count, line = select("#", ...), ...
  if count ~= 1 then return nil end
  if type(line) ~= "string" then line = check_string("loader.interpret", 1, 1, line) end
  return interpret(line)
end

function loader.parse(...)
  local line = ...
  if type(line) ~= "string" then line = check_string("loader.parse", 1, select("#", ...), line) end
  return parse(line)
end

function loader.command_error() return prim.command_error() end
function loader.time() return prim.time() end

function loader.delay(...)
  prim.delay(check_number("loader.delay", 1, select("#", ...), (...)))
end

-- The result is what lies on top of the stack: the last argument (docs/errata.md, "The loader table").
function loader.printc(...)
  local count, text = select("#", ...), ...
  if type(text) ~= "string" then text = check_string("loader.printc", 1, count, text) end
  out(text)
  if count == 1 then return text end
  return (select(count, ...))
end

if prim.current() then
  loader.version = 3000
  loader.CMD_OK, loader.CMD_WARN, loader.CMD_ERROR, loader.CMD_CRIT, loader.CMD_FATAL = 0, 1, 2, 3, 4
  loader.features = {EARLY_ACPI = "Loader probes ACPI in early startup"}

  function loader.exit(...)
    prim.exit(check_number("loader.exit", 1, select("#", ...), (...)))
  end
  function loader.has_command(...)
    if prim.has_command(check_string("loader.has_command", 1, select("#", ...), (...))) then return true end
    return nil, "Builtin command not found"
  end
  function loader.has_feature(...)
    check_string("loader.has_feature", 1, select("#", ...), (...))
    return nil, "Feature not enabled"
  end
else
  function loader.has_command(...)
    local count = select("#", ...)
    if count ~= 1 then return nil end
    return prim.has_command(check_string("loader.has_command", 1, count, (...))) and 1 or 0
  end

  -- userboot's graphics are stubs
  local function drawing(name, wanted)
    name = "loader." .. name
    return function(...)
      local count = select("#", ...)
      if count ~= wanted then return nil end
      for i = 1, count do check_number(name, i, count, (select(i, ...))) end
      return
    end
  end
  loader.fb_bezier = drawing("fb_bezier", 7)
  loader.fb_drawrect = drawing("fb_drawrect", 5)
  loader.fb_line = drawing("fb_line", 5)
  loader.fb_setpixel = drawing("fb_setpixel", 2)
  loader.term_drawrect = drawing("term_drawrect", 4)
  local function image(name)
    name = "loader." .. name
    return function(...)
      local count = select("#", ...)
      if count ~= 6 then return false end
      local file = check_string(name, 1, count, (...))
      for i = 2, count do check_number(name, i, count, (select(i, ...))) end
      prim.readable(file)
      return false
    end
  end
  loader.fb_putimage = image("fb_putimage")
  loader.term_putimage = image("term_putimage")
end

std.library("loader", loader)
std.globals.printc = loader.printc
"""


def cut(text: str) -> str:
    """What C sees of a Lua string: the part before the first NUL."""
    return text if "\0" not in text else text.partition("\0")[0]


class LoaderLibrary:
    """The primitives behind SOURCE.  ``interpret``: the interpreter's ``run``."""

    def __init__(self, loader: Loader, interpret: Callable[[str], int]) -> None:
        self.loader = loader
        self.interpret = interpret
        self._variables = 0  # bytes set so far, at least what the environment holds
        self._waited = 0  # microseconds of a --batch run that did not pass

    def primitives(self) -> dict[str, Callable[..., Result]]:
        loader = self.loader
        environment = loader.environment
        return {
            "command": self.command,
            "command_error": lambda: loader.errbuf,
            "current": lambda: loader.version == "current",
            "delay": self.delay,
            "exit": lambda code: loader.host.exit(to_int(code)),
            "getenv": lambda name: environment.get(cut(name)),
            "has_command": lambda name: cut(name) in loader.commands,
            "interpret": self._interpret,
            "out": loader.console.draw if loader.options.batch else loader.console.print,
            "parse": self.parse,
            "perform": self.perform,
            "readable": self.readable,
            "setenv": self.setenv,
            "time": lambda: int(time.time()) + self._waited // 1_000_000,
            "unsetenv": lambda name: environment.unset(cut(name)),
        }

    def _interpret(self, line: str) -> int:
        return self.interpret(line)

    def delay(self, usec: int) -> None:
        """Wait; with --batch nobody can press a key meanwhile, so the clock is put on instead.  Raises LoaderError.

        lua_delay keeps an int of the number; one below zero, which usleep(3) takes for an hour, is nothing here.
        """
        usec = max(to_int(usec), 0)
        if not self.loader.options.batch:
            self.loader.host.delay(usec)
            return
        self._waited += usec
        if self._waited > _PATIENCE:
            raise self.loader.console.nobody_there()

    def command(self, *words: str) -> int:
        self.loader.console.drawn()
        return self.loader.perform([cut(word) for word in words])

    def perform(self, line: str) -> int:
        words = self._words(line)
        return 1 if words is None else self.loader.perform(words)

    def parse(self, line: str) -> Result:
        words = self._words(line)
        return None if words is None else tuple(words)

    def _words(self, line: str) -> list[str] | None:
        self.loader.console.drawn()
        try:
            return parse(line, self.loader.environment)
        except ParseError as error:
            self.loader.print(f"fail at line {failure_line(error.reason, self.loader.version)}\n")
            return None

    def readable(self, path: str) -> bool:
        """Whether fopen would open it."""
        try:
            self.loader.files.open(cut(path)).stat()
        except FileSystemError:
            return False
        return True

    def setenv(self, name: str, value: str) -> int:
        name, value = cut(name), cut(value)
        environment = self.loader.environment
        self._variables += len(name) + len(value) + 64
        if self._variables > _MAX_VARIABLES:
            held = sum(len(each.name) + len(each.value or "") + 64 for each in environment.sorted())
            if held + len(name) + len(value) > _MAX_VARIABLES:
                return ENOMEM
            self._variables = held
        return environment.set(name, value)
