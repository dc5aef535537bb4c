"""The text of a Python function that stands for a definition, and the top of the data stack while it is written."""

from __future__ import annotations

from bhyveload.loader.interpreter.forth.ficl_format import CELL_MAX, CELL_MIN


class FunctionText:
    """``items`` is the top of the data stack as it will be: numbers, names of variables, and names of conditions that
    were not yet made into flags.  What lies below is on the real stack.  A variable in ``wide`` may hold more than a
    cell."""

    def __init__(self) -> None:
        self.lines: list[str] = ["def word():"]
        self.indent = 1
        self.items: list[int | str] = []
        self.wide: set[str] = set()
        self.conditions: dict[str, str] = {}  # name -> the condition it stands for
        self.count = 0

    def line(self, text: str) -> None:
        self.lines.append("    " * self.indent + text)

    def name(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def pop_item(self) -> int | str:
        if self.items:
            return self.items.pop()
        name = self.name()
        self.line(f"{name} = pop()")
        return name

    def need(self, count: int) -> None:
        """Have the top ``count`` of the stack as items."""
        while len(self.items) < count:
            name = self.name()
            self.line(f"{name} = pop()")
            self.items.insert(0, name)

    def value(self, item: int | str) -> str:
        """The item as text of a cell."""
        if isinstance(item, int):
            return str(item)
        if item in self.conditions:
            name = self.name()
            self.line(f"{name} = -1 if {self.conditions[item]} else 0")
            return name
        if item in self.wide:
            self.line(f"if not {CELL_MIN} <= {item} <= {CELL_MAX}: {item} = signed({item})")
            self.wide.discard(item)
        return item

    def pop(self) -> str:
        return self.value(self.pop_item())

    def truth(self, item: int | str) -> str:
        """The item as a condition."""
        if isinstance(item, str) and item in self.conditions:
            return self.conditions[item]
        return self.value(item)

    def condition(self, text: str) -> None:
        name = self.name()
        self.conditions[name] = text
        self.items.append(name)

    def assign(self, text: str, wide: bool = False) -> str:
        name = self.name()
        self.line(f"{name} = {text}")
        if wide:
            self.wide.add(name)
        return name

    def flush(self) -> None:
        """Put all items on the real stack."""
        for item in self.items:
            self.line(f"push({self.value(item)})")
        self.items.clear()
