"""Other values of some attributes for a while (contextlib would cost 5 ms at every start)."""

from __future__ import annotations


class Meanwhile:
    """``with Meanwhile(thing, name=value)``: ``thing.name`` is ``value`` within, and what it was before behind."""

    __slots__ = ("_before", "_thing", "_values")

    def __init__(self, thing: object, **values: object) -> None:
        self._thing = thing
        self._values = values
        self._before = {name: getattr(thing, name) for name in values}

    def __enter__(self) -> None:
        for name, value in self._values.items():
            setattr(self._thing, name, value)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            setattr(self._thing, name, value)
