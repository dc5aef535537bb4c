"""LoadReport: the one value that says what a load did; --json, --dry-run, state.json and the tests read it."""

from __future__ import annotations

from bhyveload.errors import ReportError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class LoadReport:
    """What was loaded, from where, with which variables and registers (docs/state-json.md, "loaded").

    ``files``: every preloaded file, kernel first, each with name, type, args, address (guest physical), size (bytes)
    and modules.  ``environment``: the variables handed to the kernel.  ``timings``: nanoseconds per stage.
    ``vcpu``: registers, selectors and descriptors of vCPU 0.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def __getattr__(self, name: str) -> Any:
        try:
            return self._fields[name]
        except KeyError:
            raise AttributeError(name) from None

    def as_dict(self) -> dict[str, Any]:
        """A copy of every field, ready for JSON."""
        return dict(self._fields)


_TEXT, _NUMBER = "a text", "a number"
_FILE = {
    "name": _TEXT,
    "type": _TEXT,
    "args": (_TEXT,),
    "address": _NUMBER,
    "size": _NUMBER,
    "modules": [{"name": _TEXT, "version": _NUMBER}],
}
# The child's part of a report: a dict has these members, a list or the values of a set-like dict are all of one shape,
# a tuple's may be None.
_SHAPE: dict[str, Any] = {
    "interpreter": _TEXT,
    "compat": _TEXT,
    "currdev": _TEXT,
    "loaddev": _TEXT,
    "partition": ({"disk": _TEXT, "scheme": _TEXT, "start": _NUMBER, "size": _NUMBER},),
    "filesystem": _TEXT,
    "howto": _NUMBER,
    "entry": _NUMBER,
    "files": [_FILE],
    "environment": {None: _TEXT},
    "calls": [_TEXT],
    "notes": [_TEXT],
    "kernel": (_FILE,),
    "modulep": _NUMBER,
    "kernend": _NUMBER,
    "timings": {None: _NUMBER},
    "loader": _TEXT,
}
_OPTIONAL = ("modulep", "kernend")  # of a guest without a stack


def checked(result: dict[str, Any]) -> dict[str, Any]:
    """What a possibly hostile child says it loaded, in the shape of a LoadReport; nothing else of it.

    Raises ReportError: something is missing or not what it should be.
    """
    report = {}
    for name, shape in _SHAPE.items():
        value = result.get(name)
        if value is None and name in _OPTIONAL:
            value = 0
        report[name] = _shaped(value, shape, name)
    return report


def _shaped(value: Any, shape: Any, name: str) -> Any:
    if isinstance(shape, tuple):
        return None if value is None else _shaped(value, shape[0], name)
    if isinstance(shape, list):
        if isinstance(value, list):
            return [_shaped(item, shape[0], name) for item in value]
    elif isinstance(shape, dict):
        if isinstance(value, dict):
            if None not in shape:
                return {key: _shaped(value.get(key), inner, name) for key, inner in shape.items()}
            if all(isinstance(key, str) for key in value):
                return {key: _shaped(item, shape[None], name) for key, item in value.items()}
    elif shape is _TEXT:
        if isinstance(value, str):
            return value
    elif isinstance(value, int) and -(1 << 63) <= value < 1 << 64:
        return value
    raise ReportError(f"the loader's report lacks a usable '{name}'")
