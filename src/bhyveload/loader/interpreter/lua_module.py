"""lupa's Lua 5.4, without what the package ``lupa`` does around it.

``from lupa import lua54`` looks for the newest Lua with ``re`` and makes a context manager: 11 of the 12 ms that it
costs.  Nothing of that is used here, so the extension module is imported below a package whose own code waits until
somebody asks it for something.  Of functools it takes ``wraps``, for decorators that nobody here uses, and of
collections what the interpreter has had from its start: half of what is left.
"""

from __future__ import annotations

import _collections_abc
import sys

from bhyveload.need import put_off

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ModuleType = type(sys)


def _wraps(*words: Any, **named: Any) -> Any:
    """functools.wraps, imported when it is called."""
    from functools import wraps

    return wraps(*words, **named)


def _of_functools(name: str) -> object:
    """Whatever another version of lupa may want: the true module's."""
    if sys.modules.get("functools") is _functools:
        del sys.modules["functools"]
    import functools

    return getattr(functools, name)


put_off("lupa")
_functools = ModuleType("functools")
vars(_functools).update(wraps=_wraps, __getattr__=_of_functools)
_stand_ins = {"functools": _functools, "collections.abc": _collections_abc}
_placed = {name: module for name, module in _stand_ins.items() if sys.modules.setdefault(name, module) is module}
try:
    __import__("lupa.lua54")
finally:
    # From Python 3.13 on collections itself puts this very module there, and has no file to find it again.
    if getattr(sys.modules.get("collections"), "abc", None) is _collections_abc:
        _placed.pop("collections.abc", None)
    for _name, _module in _placed.items():
        if sys.modules.get(_name) is _module:
            del sys.modules[_name]
lua54 = sys.modules["lupa.lua54"]
