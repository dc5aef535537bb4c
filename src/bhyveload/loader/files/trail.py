"""What a run of the loader looked for, for --explain."""

from __future__ import annotations

from bhyveload.freebsd_errno import ENOENT, strerror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bhyveload.errors import FileSystemError

_MAX_PATHS = 200
_MAX_TEXT = 300


class Trail:
    """The files that were looked for, in order of the first look; "" or why they are not there, by the last."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends: dict[str, str] = {}

    def note(self, path: str, error: FileSystemError | None) -> None:
        path = path[:_MAX_TEXT]
        if path in self._ends or len(self._ends) < _MAX_PATHS:
            self._ends[path] = "" if error is None else _why(path, error)

    @property
    def missed(self) -> list[str]:
        return [path for path, why in self._ends.items() if why]

    def described(self) -> list[dict[str, Any]]:
        return [{"path": path, "found": not why, "why": why} for path, why in self._ends.items()]


def _why(path: str, error: FileSystemError) -> str:
    """A reason without the path that it is about; of what is not there, no more than that."""
    if error.errno == ENOENT and not error.hint:
        return "not there"
    reason = error.message.removeprefix(f"{path}: ").removeprefix(f"{path.partition(':')[2]}: ")
    return reason[:_MAX_TEXT] or strerror(error.errno)
