"""Which modules of ours a module uses: imports, relative ones too, and the names that are asked for (need.py)."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from support.places import SOURCE


@cache
def modules() -> dict[str, Path]:
    """Every module's name and file."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = ("bhyveload", *path.relative_to(SOURCE).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def used_by(name: str, for_types: bool = False, by_name: bool = False) -> set[str]:
    """What the module ``name`` imports at run time, wherever in it; ``for_types``: under TYPE_CHECKING as well;
    ``by_name``: what it names in a text, for ``need`` to import."""
    path = modules()[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()

    def add(module: str, names: Iterable[str] = ()) -> None:
        found.update(full if (full := f"{module}.{part}") in modules() else module for part in names or ("",))

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for child in (*(node.body if for_types else ()), *node.orelse):
                visit(child)
            return
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                above = package.split(".")
                module = ".".join([*above[: len(above) - node.level + 1], *([module] if module else [])])
            add(module, [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                add(alias.name)
        elif by_name and isinstance(node, ast.Constant) and isinstance(node.value, str):
            add(node.value)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return (found & set(modules())) - {name}


def circles(uses: dict[str, set[str]]) -> list[list[str]]:
    """The sets of modules that reach each other (Tarjan's strongly connected components of two and more)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in uses[name]:
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for name in uses:
        if name not in order:
            visit(name)
    return sorted(found)
