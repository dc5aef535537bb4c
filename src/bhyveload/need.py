"""Modules that only some runs need, by name.

Importing costs milliseconds, and nothing can be imported once the child is confined (a late import fails there,
notes in docs/architecture.md).  ``need`` returns a module that is loaded already, imports it where that is still
allowed, and otherwise raises ModulesNeeded: the child ends without having touched the VM, the parent imports what the
names stand for and starts a new child.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

if sys.flags.dev_mode:  # python -X dev looks up each codec that a call names: too late in the child
    import codecs

    for codec in ("ascii", "latin-1", "utf-8"):
        codecs.lookup(codec)

# What may be asked for, as those say who ask: a hostile child can make its parent import only these.
GROUPS: dict[str, tuple[str, ...]] = {}
EVERYTHING = "*"
DISKS = "bhyveload.image."  # what every loader may need; the rest is the built-in one's
_confined = False
_prefix = ""
_used: dict[str, None] = {}


def declare(name: str, *others: str) -> None:
    """``name`` may be asked for from here on; ``others`` are imported with it, and may be asked for too."""
    for other in others:
        GROUPS.setdefault(other, ())
    if others or name not in GROUPS:
        GROUPS[name] = others


class OnDemand:
    """Stands for the module ``name`` (``declare``): each look at it is a look at what ``need`` returns.

    For type checkers it is the module: ``if TYPE_CHECKING: from room import module``, ``else: module = OnDemand(...)``.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str, *others: str) -> None:
        declare(name, *others)
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        return getattr(need(self._name), attribute)


class ModulesNeeded(BaseException):
    """The confined child cannot go on without this module."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class LateImport(BaseException):
    """An import in the confined process: it would fail there, and a fallback for it would be the wrong answer."""


class _NoImports:
    """A finder of modules that finds none, loudly."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        raise LateImport(name)


def confine() -> None:
    """From now on nothing can be imported in this process."""
    global _confined
    _confined = True
    sys.meta_path[:] = [_NoImports]


def limit(prefix: str) -> None:
    """This process will ask only for modules whose names begin with ``prefix``."""
    global _prefix
    _prefix = prefix


def need(name: str) -> ModuleType:
    """The module ``name`` of GROUPS.  Raises ModulesNeeded in a confined process that does not have it."""
    _used[name] = None
    module = sys.modules.get(name)
    if module is not None:
        return module
    if _confined:
        raise ModulesNeeded(name)
    return load(name)


def put_off(package: str) -> None:
    """Put ``package``, of somebody else's, where imports look for it, without its own code, which runs when somebody
    asks it for an attribute: what is wanted of it is a module below."""
    from _frozen_importlib import module_from_spec
    from _frozen_importlib_external import PathFinder  # importlib.machinery without its warnings

    folder, _, name = package.rpartition(".")
    above = sys.modules.get(folder)
    spec = PathFinder.find_spec(package, getattr(above, "__path__", None))
    if package in sys.modules or spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    loader = spec.loader

    def load(attribute: str) -> object:
        del module.__dict__["__getattr__"]
        loader.exec_module(module)
        return getattr(module, attribute)

    module.__dict__["__getattr__"] = load
    sys.modules[package] = module
    if above is not None:
        setattr(above, name, module)


def used() -> list[str]:
    """What this process has asked for, in that order."""
    return list(_used)


def settle() -> None:
    """From here on the run cannot start over unnoticed, because it is about to change a disk: have everything.

    Raises ModulesNeeded(EVERYTHING) in a confined process that does not.
    """
    if _confined and any(name.startswith(_prefix) and name not in sys.modules for name in GROUPS):
        raise ModulesNeeded(EVERYTHING)


def load_all(prefix: str = "") -> None:
    """Import everything that may be asked for, as far as its name begins with ``prefix``: for a run at a prompt, which
    cannot start over unnoticed."""
    seen: set[str] = set()
    while new := [name for name in GROUPS if name not in seen]:  # a module may bring groups of its own
        seen.update(new)
        for name in new:
            if name.startswith(prefix):
                load(name)


def load(name: str) -> ModuleType:
    """Import ``name`` and what goes with it, or EVERYTHING.  Raises KeyError for a name that is not in GROUPS."""
    if name == EVERYTHING:
        load_all()
        return sys.modules[__name__]
    for other in GROUPS[name]:
        load(other)
    __import__(name)
    module = sys.modules[name]
    prepare = getattr(module, "prepare", None)
    if prepare is not None:
        prepare()
    return module
