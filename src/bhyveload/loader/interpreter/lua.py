"""The Lua interpreter of loader(8): its start, typed lines, included files (stand/common/interp_lua.c)."""

from __future__ import annotations

from bhyveload.bootable import LUA_SCRIPT
from bhyveload.loader.interpreter import (
    lua_base,
    lua_bytecode,
    lua_errno,
    lua_io,
    lua_lfs,
    lua_loader,
    lua_numerals,
    lua_package,
    lua_pager,
    lua_sandbox,
    lua_string,
)
from bhyveload.loader.parse import ParseError, failure_line, parse
from bhyveload.loader.state import CMD_ERROR, CMD_OK, CMD_WARN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.loader.state import Loader

_LIBRARIES = (
    (lua_base.CHECKS, "checks"),
    (lua_string.FORMAT, "format"),
    (lua_string.SOURCE, "string"),
    (lua_numerals.SOURCE, "numerals"),
    (lua_base.SOURCE, "base"),
    (lua_package.SOURCE, "package"),
    (lua_errno.SOURCE, "errno"),
    (lua_io.SOURCE, "io"),
    (lua_lfs.SOURCE, "lfs"),
    (lua_loader.SOURCE, "loader"),
    (lua_pager.SOURCE, "pager"),
)


_spare: list[lua_sandbox.LuaSandbox] = []


def prepare() -> None:
    """Make everything ready that cannot be imported once the child is confined: lupa loads its parts at first use.  The
    state that this takes is the first interpreter's: in each child, as none is made in this process."""
    sandbox = lua_sandbox.LuaSandbox()
    sandbox.define({"current": lambda: True})
    sandbox.install("", "nothing")
    _spare[:] = [sandbox]


class LuaInterpreter:
    """One Lua state with the loader's libraries.

    FreeBSD's interp_run looks at slot 1 of the Lua stack where it means the result of cli_execute.  Values that typed
    lines and included files leave on the stack stay there for ever, so the oldest of them decides for all later lines
    (docs/errata.md, "The bottom of the stack"): ``_bottom`` is that value as lua_tointeger has it, None while the
    stack is empty.
    """

    name = "lua"
    complaint = ""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self._bottom: int | None = None
        self._sandbox = _spare.pop() if _spare else lua_sandbox.LuaSandbox()
        self._sandbox.leave = getattr(loader, "leave", None)
        for primitives in (
            lua_loader.LoaderLibrary(loader, lambda line: self._run(line, nested=True)).primitives(),
            lua_io.IoLibrary(loader).primitives(),
            lua_lfs.LfsLibrary(loader).primitives(),
            lua_pager.primitives(loader),
            lua_bytecode.PRIMITIVES,
        ):
            self._sandbox.define(primitives)
        for source, name in _LIBRARIES:
            self._sandbox.install(source, name)

    def start(self) -> str:
        """interp_init: run the guest's first script; why it failed, or nothing."""
        loader = self.loader
        loader.environment.set("script.lang", "lua")
        path = (loader.environment.get("loader_lua") if loader.version == "current" else None) or LUA_SCRIPT
        ok, values, first, message = self._call("run_file", path)
        if ok:
            self._keep(values, first)
            return ""
        reason = "unknown" if message is None else lua_loader.cut(message)
        loader.print(f"ERROR: {reason}.\n")
        loader.environment.set("autoboot_delay", "NO")
        return reason

    def run(self, line: str) -> int:
        """A typed line (also one of --loader-command, run when scripts boot by themselves)."""
        return self._run(line, nested=False)

    def _run(self, line: str, nested: bool) -> int:
        """interp_run: as Lua, else as a command through cli_execute, else straight as a builtin command.

        ``nested``: from loader.interpret, whose argument, the line, is slot 1 then."""
        loader = self.loader
        line = lua_loader.cut(line)
        ok, values, first, _ = self._call("run_line", line)
        if ok:
            if not nested:
                self._keep(values, first)
            return CMD_OK
        loader.clear_message()
        try:
            words = parse(line, loader.environment)
        except ParseError as error:
            loader.print(f"fail at line {failure_line(error.reason, loader.version)}\nFailed to parse '{line}'\n")
            return CMD_ERROR
        bottom = self._sandbox.call("numeric", line) if nested else self._bottom
        ok, _, result, _ = self._call("run_command", *words)
        if ok and (result if bottom is None else bottom) == 0:
            return CMD_OK
        status = loader.perform(words)
        if status == CMD_OK:
            return CMD_OK
        loader.print(f"{'Command failed' if loader.message is None else loader.message}\n")
        return CMD_ERROR

    def include(self, path: str) -> int:
        """luaL_dofile: what the file returns, or its error, stays on the stack of the call that included it."""
        nested = self._sandbox.depth > 0
        ok, values, first, _ = self._call("run_file", path)
        if not nested:
            self._keep(values, first)
        return CMD_OK if ok else CMD_WARN

    def _call(self, name: str, *arguments: str) -> tuple[bool, int, int, str | None]:
        """(ok, number of values, the first as an integer, the error message)."""
        result = self._sandbox.call(name, *arguments)
        if result is None:
            return False, 1, 0, "not enough memory"
        ok, values, first, message = result
        return bool(ok), int(values), int(first), message

    def _keep(self, values: int, first: int) -> None:
        if values and self._bottom is None:
            self._bottom = first
