"""A room imports only rooms below it (docs/architecture.md, "Rooms")."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from support.imports import circles, modules, used_by
from support.places import ROOT, SOURCE

# From the top down; what stands together does not know each other.
LEVELS = (
    {"__main__"},
    {"cli", "pytest"},
    {"running"},
    {"cross_check", "boot_environments"},
    {"api"},
    {"work", "loading"},
    {"saved"},
    {"inspect", "handoff", "loader", "userboot", "guest"},
    {"bhyve"},
    {"fs"},
    {"partition"},
    {"image"},
    {"host"},
    {"confined"},
    {"vm"},
    {
        "need",
        "jsontext",
        "report",
        "freebsd_errno",
        "sandbox",
        "seccomp",
        "capsicum",
        "empty_root",
        "device",
        "compat",
        "bootable",
    },
    {"errors", "syscall", "libc", "value", "boot_formats", "new_file", "absolute_path", "printable"},
)
RANK = {room: rank for rank, rooms in enumerate(LEVELS) for room in rooms}
# Neighbours that may be used, each for a reason.
ALLOWED = {
    ("inspect", "loader"): "device names as loader(8) spells them",
    ("host", "fs"): "fs/stat.py: the numbers of stat(2)",
    ("running", "cli"): "a guest that reboots has the program bhyveload run again, by its name",
    ("sandbox", "seccomp"): "its table of system calls",
    ("sandbox", "empty_root"): "one of its layers",
    ("sandbox", "capsicum"): "the same on FreeBSD",
}


def imported_rooms(path: Path) -> set[str]:
    """The rooms of ours that a module uses at run time (not for type checkers), wherever in it: relative imports and
    the names that it gives to need.py count."""
    name = next(name for name, where in modules().items() if where == path)
    used = used_by(name, by_name=True)
    return {other.split(".")[1] for other in used if "." in other}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("room", sorted(RANK))
def test_imports_go_down(room: str) -> None:
    modules = [path for path in SOURCE.rglob("*.py") if room_of(path) == room]
    assert modules
    wrong = []
    for path in modules:
        for other in imported_rooms(path) - {room}:
            if RANK[other] <= RANK[room] and (room, other) not in ALLOWED:
                wrong.append(f"{path.relative_to(SOURCE)} imports {other}")
    assert wrong == []


# One circle of types alone: Forth's machine runs threads, which are translated by what knows the machine.
FORTH = "bhyveload.loader.interpreter.forth."
TYPES_IN_A_CIRCLE = {
    FORTH + name for name in ("function_writer", "machine", "thread", "translate", "translate_words", "words_stack")
}


def test_no_circle_of_imports() -> None:
    assert circles({name: used_by(name) for name in modules()}) == []


def test_no_circle_of_types() -> None:
    """Who can be understood only together with whom says so nowhere else: also what is imported for types."""
    found = circles({name: used_by(name, for_types=True) for name in modules()})
    assert [circle for circle in found if not TYPES_IN_A_CIRCLE.issuperset(circle)] == []


def test_nobody_asks_what_a_machine_or_a_device_is() -> None:
    """The protocols say it all (vm/interface.py, device.py, host/interface.py): no isinstance, no getattr."""
    classes = {"VirtualMachine", "ScratchMachine", "FreebsdVirtualMachine", "RawImage", "ImageDisk", "Partition"}
    objects = {"disk", "device", "image", "source", "volume", "console", "folder", "host_directory", "vm", "machine"}
    asked = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) >= 2:
                first, second = node.args[:2]
                names = {part.id for part in ast.walk(second) if isinstance(part, ast.Name)}
                if node.func.id == "isinstance" and names & classes:
                    asked.append(f"{name}:{node.lineno}")
                if (
                    node.func.id in ("getattr", "hasattr")
                    and ast.unparse(first).rpartition(".")[2].strip("_") in objects
                ):
                    asked.append(f"{name}:{node.lineno}")
    assert asked == []


def test_no_two_classes_have_one_name() -> None:
    """Who reads one in a message, a signature or a search must know which it is."""
    where: dict[str, list[str]] = {}
    for name, path in modules().items():
        for node in ast.parse(path.read_text()).body:  # what a function makes for itself nobody else sees
            if isinstance(node, ast.ClassDef):
                where.setdefault(node.name, []).append(f"{name}:{node.lineno}")
    assert {name: places for name, places in where.items() if len(places) > 1} == {}


def test_names_for_need_and_relative_imports_are_seen() -> None:
    assert "bhyveload.loader.zfs.pools" in used_by("bhyveload.loader.main", by_name=True)
    assert "bhyveload.loader.zfs.pools" not in used_by("bhyveload.loader.main")
    assert "bhyveload.fs.zfs.vdev" in used_by("bhyveload.fs.zfs.pool")
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_every_exception_is_needed() -> None:
    for room, other in ALLOWED:
        modules = [path for path in SOURCE.rglob("*.py") if room_of(path) == room]
        assert any(other in imported_rooms(path) for path in modules), (room, other)


def test_every_room_has_its_place() -> None:
    rooms = {room_of(path) for path in SOURCE.rglob("*.py")} - {"__init__"}
    assert rooms == set(RANK)


def test_every_third_party_import_is_accounted_for() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text()
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add((node.module or "").split(".")[0])
    others = {"bhyveload", "compression", "_sha2", "_sha256"}  # ours, and what other versions of Python have
    foreign = found - set(sys.stdlib_module_names) - others
    assert foreign
    assert sorted(name for name in foreign if f"`{name}" not in text) == []


def test_who_silences_a_checker_says_why() -> None:
    silenced = re.compile(r"# (?:type: ignore\[[^]]*\]|noqa: [A-Z]+\d+\b)(?!  # \w| - \w)")
    found = [
        f"{path.relative_to(SOURCE)}:{number}"
        for path in SOURCE.rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if silenced.search(line)
    ]
    assert found == []


def test_modules_are_of_a_size_to_read() -> None:
    long = {str(p.relative_to(SOURCE)): n for p in SOURCE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 500}
    assert long == {}
