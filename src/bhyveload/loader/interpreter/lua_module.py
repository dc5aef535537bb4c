"""lupa's Lua 5.4, without what the package ``lupa`` does around it.

``from lupa import lua54`` looks for the newest Lua with ``re`` and makes a context manager: 11 of the 12 ms that it
costs.  Nothing of that is used here, so the extension module is imported below a package whose own code waits until
somebody asks it for something.
"""

from __future__ import annotations

import sys
from _frozen_importlib import module_from_spec
from _frozen_importlib_external import PathFinder  # importlib.machinery without its warnings


def _wait(name: str) -> None:
    """Put the package ``name`` where imports look for it; its code runs when an attribute of it is asked for."""
    spec = PathFinder.find_spec(name)
    if name in sys.modules or spec is None or spec.loader is None:
        return
    package = module_from_spec(spec)
    loader = spec.loader

    def load(attribute: str) -> object:
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, attribute)

    package.__dict__["__getattr__"] = load
    sys.modules[name] = package


_wait("lupa")
__import__("lupa.lua54")
lua54 = sys.modules["lupa.lua54"]
