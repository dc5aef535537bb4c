"""Who hears of an image being unpacked.  For type checkers only: nothing imports this at run time."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Who tells the user about it.  ``step`` is called in the child that does the work."""

    def begin(self, name: str, folder: str) -> None: ...

    def step(self, done: int, total: int) -> None: ...

    def end(self) -> None: ...
