"""What a report may look like, said with values: each refuses what does not fit and returns what does.

    SHAPE = Record({"name": Text(), "sizes": Sequence(Number(0, 1 << 40), 100)})
    SHAPE.check(value)

Reports come from processes that read what a guest wrote, and may be in its hands: nothing of a report is looked at
before its shape has seen it.  ``check`` raises Misfit, which says where; run.py makes a ReportError of it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any, Protocol

    class Shape(Protocol):
        """``check`` returns the value, with nothing in it that was not asked for.  Raises Misfit."""

        def check(self, value: Any) -> Any: ...


MAX_TEXT = 64 << 10  # characters
MAX_ITEMS = 1 << 16
LEFT_OUT = object()  # what an Optional stands for that a Record then lacks


class Misfit(Exception):
    """A value that does not fit; ``where``: the member it is in."""

    def __init__(self, where: str = "") -> None:
        super().__init__(where)
        self.where = where


class Text:
    """A str of at most ``limit`` characters, or exactly one of ``words``."""

    def __init__(self, limit: int = MAX_TEXT, words: Collection[str] = ()) -> None:
        self._limit = limit
        self._words = words

    def check(self, value: Any) -> str:
        if not isinstance(value, str) or len(value) > self._limit or (self._words and value not in self._words):
            raise Misfit
        return value


class Number:
    """An int from ``least`` to ``most``; True and False are none."""

    def __init__(self, least: int = 0, most: int = (1 << 64) - 1) -> None:
        self._least = least
        self._most = most

    def check(self, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not self._least <= value <= self._most:
            raise Misfit
        return value


class Flag:
    """True or False."""

    def check(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise Misfit
        return value


class Optional:
    """``shape``, or None or nothing, for which ``absent`` stands."""

    def __init__(self, shape: Shape, absent: object = None) -> None:
        self._shape = shape
        self._absent = absent

    def check(self, value: Any) -> Any:
        return self._absent if value is None else self._shape.check(value)


class Sequence:
    """A list of at most ``limit`` values of one shape."""

    def __init__(self, shape: Shape, limit: int = MAX_ITEMS) -> None:
        self._shape = shape
        self._limit = limit

    def check(self, value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > self._limit:
            raise Misfit
        return [self._shape.check(item) for item in value]


class Entries:
    """A dict of at most ``limit`` values of one shape, under any names, or under some of ``names``."""

    def __init__(self, shape: Shape, names: Collection[str] | None = None, limit: int = MAX_ITEMS) -> None:
        self._shape = shape
        self._names = names
        self._limit = limit

    def check(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > self._limit:
            raise Misfit
        if self._names is not None and not all(name in self._names for name in value):
            raise Misfit
        return {_name(name): self._shape.check(item) for name, item in value.items()}


def _name(name: Any) -> str:
    if not isinstance(name, str) or len(name) > MAX_TEXT:
        raise Misfit
    return name


class Fields:
    """A dict with these members, in this order; others are dropped."""

    def __init__(self, members: Mapping[str, Shape]) -> None:
        self._members = members

    def check(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Misfit
        checked = {}
        for name, shape in self._members.items():
            try:
                item = shape.check(value.get(name))
            except Misfit as misfit:
                misfit.where = f"{name}.{misfit.where}" if misfit.where else name
                raise
            if item is not LEFT_OUT:
                checked[name] = item
        return checked


class Choice:
    """A dict whose ``member`` says of which shape the whole is."""

    def __init__(self, member: str, shapes: Mapping[str, Shape]) -> None:
        self._member = member
        self._shapes = shapes

    def check(self, value: Any) -> Any:
        word = value.get(self._member) if isinstance(value, dict) else None
        shape = self._shapes.get(word) if isinstance(word, str) else None
        if shape is None:
            raise Misfit(self._member)
        return {self._member: word, **shape.check(value)}
