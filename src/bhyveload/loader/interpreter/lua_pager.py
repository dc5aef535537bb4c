"""The pager library (stand/liblua/lpager.c)."""

from __future__ import annotations

from bhyveload.loader.commands.basic import pager_file
from bhyveload.loader.interpreter.lua_loader import cut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.interpreter.lua_sandbox import Result
    from bhyveload.loader.state import Loader

# output() takes its arguments off the stack while it counts them: only the first is shown (docs/errata.md, "The loader
# table").
SOURCE = r"""
local std, prim = ...
local select, text, check_string = std.select, std.text, std.check_string
std.library("pager", {
  open = function() prim.pager_open() end,
  close = function() prim.pager_close() end,
  output = function(...)
    if select("#", ...) > 0 then prim.pager_output(text((...))) end
  end,
  file = function(...)
    local count = select("#", ...)
    -- pager_file's 1, for a user who quits, is taken for a number of results: the last argument is the one.
    if prim.pager_file(check_string("pager.file", 1, count, (...))) == 1 then return (select(count, ...)) end
  end,
})
"""


def primitives(loader: Loader) -> dict[str, Callable[..., Result]]:
    console = loader.console

    def output(text: str) -> None:
        console.pager_output(cut(text))

    def file(path: str) -> int:
        return pager_file(loader, cut(path))

    return {
        "pager_open": console.pager_open,
        "pager_close": console.pager_close,
        "pager_output": output,
        "pager_file": file,
    }
