"""The interpreters that are built in, by the name that a guest's /boot/loader asks for.

A further one is a module with a class like ``loader.state.Interpreter``, and a line here.
"""

from __future__ import annotations

from bhyveload.need import declare, need

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bhyveload.loader.state import Interpreter, Loader


class BuiltIn:
    """``module`` is asked for through ``need``, ``others`` with it; ``kind`` is the class in it.

    ``scripted``: its first script is one of the guest's (Lua's loader.lua) without which there is nothing to interpret
    but typed lines; it is that script which looks at the variable ``kernel``.
    """

    __slots__ = ("kind", "module", "name", "scripted")

    def __init__(self, name: str, module: str, kind: str, *others: str, scripted: bool = False) -> None:
        self.name = name
        self.module = module
        self.kind = kind
        self.scripted = scripted
        declare(module, *others)

    def start(self, loader: Loader) -> Interpreter:
        """A new one for this run.  Raises ModulesNeeded (need.py)."""
        module: Any = need(self.module)
        interpreter: Interpreter = vars(module)[self.kind](loader)
        return interpreter


INTERPRETERS = {
    entry.name: entry
    for entry in (
        BuiltIn(
            "lua",
            "bhyveload.loader.interpreter.lua",
            "LuaInterpreter",
            "bhyveload.loader.kernel.object",
            "bhyveload.loader.kernel.hints",
            scripted=True,
        ),
        BuiltIn("4th", "bhyveload.loader.interpreter.forth.interpreter", "ForthInterpreter"),
        BuiltIn("simp", "bhyveload.loader.interpreter.simple", "SimpleInterpreter"),
    )
}
