"""LoadReport: the one value that says what a load did; --json, --dry-run, state.json and the tests read it."""

from __future__ import annotations

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
