"""How a loader left, as the report says it: the same for the built-in one and for userboot objects."""

from __future__ import annotations

from bhyveload.errors import LoaderError
from bhyveload.host.callbacks import GuestReady, InputEnded, LoaderExit, SwapInterpreter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def report_of(end: BaseException, ready: Callable[[], dict[str, Any]], at_a_prompt: str) -> dict[str, Any]:
    """The report of ``end``: "end" is "exec" (with what ``ready`` gives), "exit" (with "code") or "swap" (with
    "interpreter").

    Raises LoaderError at the end of input, with the hint ``at_a_prompt``; whatever else ``end`` is.
    """
    if isinstance(end, GuestReady):
        return {"end": "exec", **ready()}
    if isinstance(end, LoaderExit):
        return {"end": "exit", "code": end.code}
    if isinstance(end, SwapInterpreter):
        return {"end": "swap", "interpreter": end.name.decode("latin-1")}
    if isinstance(end, InputEnded):
        raise LoaderError("end of input at the loader's prompt: nothing was booted", at_a_prompt)
    raise end
