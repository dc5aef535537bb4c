"""A sealed Lua 5.4: guest code in it cannot reach Python, the host, or more memory than it is given.

What lupa leaves open is closed here, by the recipe that held against the known ways out (docs/lua.md, "Sealing"):
the metatable of Python objects loses everything but __call and __gc, Python functions hide in Lua closures and never
raise, only nil, booleans, integers and strings cross over, and a result that would not fit is refused before lupa
converts it (lupa dead-locks when Lua's memory ends during a conversion).
"""

from __future__ import annotations

from bhyveload.loader.interpreter.lua_module import lua54

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Value = None | bool | int | str
    Result = Value | tuple[Value, ...]
    Leave = Callable[[BaseException], None]

MEMORY_LIMIT = 64 << 20  # userboot's whole heap
HEADROOM = 2 << 20
MAX_DEPTH = 40  # runs of Lua inside commands inside Lua (LUAI_MAXCCALLS ends them in C)
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 63) - 1
_NO_MEMORY = "not enough memory"


class Refusal(Exception):
    """A primitive's way to raise a Lua error; the text is the error message as it is."""


# Runs first, with nothing of the guest's: seals, keeps what the libraries are built from, removes the rest.
# ``left`` is set once a command ended the loader: from then on no primitive answers and no pcall holds.
_BOOT = r"""
local witness, raw_userdata = ...
local debug, table, math, string = debug, table, math, string
local load, pcall, xpcall, error, select, type, next = load, pcall, xpcall, error, select, type, next
local ENDED = "the loader has ended"

local sealed = debug.getmetatable(witness)
for key in next, sealed do
  if key ~= "__call" and key ~= "__gc" then sealed[key] = nil end
end
sealed.__metatable = false

local std = {}
-- What divisions call with their quotient (lua_bytecode.py).
function std.cut_quotients(cut) debug.setmetatable(0, {__gc = cut}) end
local left = false
local function finish(ok, ...)
  if ok then return ... end
  if ok == nil then
    left = true
    error(ENDED, 0)
  end
  error((...) or "not enough memory", 0)
end
function std.after(ok, ...)
  if left then error(ENDED, 0) end
  if ok then return ok, ... end
  return ok, std.reword(...)
end

std.concat, std.unpack, std.math_type, std.tointeger = table.concat, table.unpack, math.type, math.tointeger
std.dump, std.getinfo, std.load, std.error = string.dump, debug.getinfo, load, error
std.pcall, std.xpcall = pcall, xpcall
std.select, std.type, std.tonumber, std.tostring = select, type, tonumber, tostring
function std.reword(...) return ... end
local prim = {}

function std.userdata(metatable)
  local made = raw_userdata()
  if made == nil then error("not enough memory", 0) end
  debug.setmetatable(made, metatable)
  return made
end

local G, loaded, kept = _G, package.loaded, {}
for name in ("_VERSION assert collectgarbage error getmetatable ipairs next package pairs rawequal rawget rawlen "
    .. "rawset require select setmetatable string type"):gmatch("%S+") do
  kept[name] = G[name]
end
-- The guest's globals are another table than the state's own: lupa looks into that one unprotected before each call,
-- and a metatable of the guest's there would end the process.
for name in next, G do G[name] = nil end
for name in next, loaded do
  if name ~= "package" and name ~= "string" then loaded[name] = nil end
end
kept._G, loaded._G = kept, kept
std.globals, std.loaded = kept, loaded

local function define(name, call)
  prim[name] = function(...)
    if left then error(ENDED, 0) end
    return finish(call(...))
  end
end
-- Stripped of debug information, library functions are to errors and positions what C functions are.
local function install(source, name)
  local chunk = load(std.dump(load(source, "=" .. name, "t"), true), "=[C]", "b")
  chunk(std, prim)
end
local function entry(name) return std[name] end
return define, install, entry
"""


def _deny(*_: object) -> NoReturn:
    raise AttributeError("not for Lua")


class LuaSandbox:
    """One Lua state.  ``leave``: called with the exception that ends the loader; need not return."""

    def __init__(self, limit: int = MEMORY_LIMIT) -> None:
        self.leave: Leave | None = None
        self._limit = limit
        self._pending: BaseException | None = None
        self.depth = 0
        self._runtime = lua54.LuaRuntime(
            encoding="latin-1",
            register_eval=False,
            register_builtins=False,
            attribute_filter=_deny,
            unpack_returned_tuples=True,
            max_memory=limit,
        )
        self._define, self._install, self._entry = self._runtime.execute(_BOOT, _deny, self._userdata, mode="t")
        self._entries: dict[str, Callable[..., Any]] = {}

    def define(self, functions: dict[str, Callable[..., Result]]) -> None:
        """Give the libraries these functions, under ``prim``.

        They get nil, booleans, integers and strings (latin-1) and return such or a tuple of them.  They raise Refusal
        for a Lua error; anything else they raise ends the loader.
        """
        for name, function in functions.items():
            self._define(name, self._primitive(function))

    def install(self, source: str, name: str) -> None:
        """Run a library: trusted Lua text that gets ``std`` and ``prim``."""
        self._install(source, name)

    def call(self, name: str, *arguments: Value) -> Any:
        """Call the function ``name`` that a library left in ``std``; None when Lua could not even start it.

        Raises Refusal when calls are nested too deep, and whatever ended the loader meanwhile.
        """
        if self.depth >= MAX_DEPTH:
            raise Refusal("C stack overflow")
        if not self._fits(sum(len(word) for word in arguments if type(word) is str)):
            return None
        function = self._entries.get(name)
        if function is None:
            function = self._entries[name] = self._entry(name)
        self.depth += 1
        try:
            result = function(*arguments)
        except Exception:  # lupa's: the state had no memory or C stack left for the call itself
            result = None
        finally:
            self.depth -= 1
        if self._pending is not None:
            raise self._pending
        return result

    def _fits(self, size: int) -> bool:
        """Whether ``size`` more bytes leave Lua its headroom, after collecting garbage if need be."""
        runtime = self._runtime
        ceiling = self._limit - HEADROOM - size
        if runtime.get_memory_used() <= ceiling:
            return True
        runtime.gccollect()
        return bool(runtime.get_memory_used() <= ceiling)

    def _userdata(self) -> object | None:
        """A fresh userdata for std.userdata, which takes its metatable away."""
        return _Handle() if self._fits(0) else None

    def _primitive(self, function: Callable[..., Result]) -> Callable[..., Any]:
        """``function`` as Lua may call it: (True, results...), (False, message), False (no memory), None (the end)."""
        fits = self._fits

        def call(*arguments: Value) -> Any:
            try:
                result = function(*arguments)
                values = result if isinstance(result, tuple) else (result,)
                size = 0
                for value in values:
                    if type(value) is str:
                        size += len(value)
                if not fits(size):
                    return False
                return (True, *map(_plain, values))
            except Refusal as refusal:
                return False, _plain(str(refusal)[:500])
            except MemoryError:
                return False
            except RecursionError:
                return False, "stack overflow"
            except BaseException as end:
                self._end(end)
                return None

        return call

    def _end(self, end: BaseException) -> None:
        if end is self._pending:
            return
        if self.leave is not None:
            try:
                self.leave(end)
            except BaseException as other:
                end = other
        self._pending = end


class _Handle:
    """What a userdata of Lua's holds: nothing."""

    __slots__ = ()


def _plain(value: Value) -> Value:
    """``value`` as lupa can convert it without an error of its own."""
    kind = type(value)
    if kind is str:
        text = str(value)
        return text if text.isascii() else text.encode("latin-1", "replace").decode("latin-1")
    if kind is int:
        number = int(value or 0)
        return min(max(number, _INT_MIN), _INT_MAX)
    return value if value is None or kind is bool else None
