"""A program's modules in one file: mapped and run at once, not 120 searches, reads and imports: 10 of a load's ms.

What the interpreter keeps as .pyc files, once more: code objects beside those files in ``__pycache__``, and as much to
be trusted.  First those that every run imports, in the order in which they were ready: each finds what it imports.
Behind them, group by group, what only some ask for (a load by need.py), read when they do.  A module counts only while
its source file has the size and time that it had; a change to one of the first, another Python, or anything odd, and
modules are imported as ever.  The program writes the file after a run that had none, where .pyc files would be written;
``python -m bhyveload.cli.bundle`` (tools/setup.sh) writes all programs' at any rate, and smaller ones.
"""

from __future__ import annotations

import marshal
import mmap
import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER, PathFinder
from _io import FileIO
from _struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import CodeType, ModuleType
    from typing import Any

    Row = tuple[str, str, bool, int, int, CodeType]  # module, file, is it a package, the file's size and time, its code
    Place = tuple[int, int]  # offset and size in the file

_PACKAGE = "bhyveload"
_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PATH = os.path.join(_FOLDER, "__pycache__", f"{{}}.{sys.implementation.cache_tag}.opt-{sys.flags.optimize}.bundle")
_HEADER = MAGIC_NUMBER + sys.version.encode()
# What a program's every run imports besides bhyveload.cli.PROGRAM, and later what most do; groups that one asks for by
# need.py, and bhyveload does, come behind those.
_MORE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bhyveload": ((), ("bhyveload.vm.state",)),
    "bhyverun": (
        ("bhyveload.handoff.qemu.session", "bhyveload.handoff.qemu.run", "bhyveload.vm.state", "bhyveload.image.raw"),
        (
            *("bhyveload.running.consoles", "bhyveload.running.control", "bhyveload.guest.watch"),
            *("bhyveload.cli.bhyverun_exec", "bhyveload.api"),
        ),
    ),
    "bhyve": (
        ("bhyveload.running.bhyve_run", "bhyveload.handoff.qemu.run", "bhyveload.vm.state"),
        ("bhyveload.running.control", "bhyveload.running.title"),
    ),
    "bhyvectl": ((), ("bhyveload.cli.listing", "bhyveload.vm.state", "bhyveload.running.machines")),
    "bhyvedisk": (("bhyveload.inspect.work",), ()),
}
# What marshal.loads and the use of what it gives raise for a damaged file
_DAMAGE = (OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, MemoryError)
_SIZES = Struct("<QQ")  # behind the header: of what is read first, and of the file


class _Bundle:
    """A finder and loader of the modules that are read when somebody asks for one of a group.

    ``places``: each module's group in ``file``, behind ``start``.
    """

    def __init__(self, file: FileIO, start: int, places: dict[str, Place]) -> None:
        self._file = file
        self._start = start
        self._places = places
        self._rows: dict[str, Row] = {}

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        place = self._places.get(name)
        if place is None:
            return None
        if name not in self._rows:
            offset, size = place
            try:
                rows = marshal.loads(os.pread(self._file.fileno(), size, self._start + offset))
                self._rows.update((row[0], row) for row in rows)
            except _DAMAGE:
                return None
        row = self._rows.get(name)
        return self.spec(row) if row is not None and _is_current(row) else None

    def spec(self, row: Row) -> ModuleSpec:
        name, file, is_package = row[:3]
        spec = ModuleSpec(name, self, origin=file, is_package=is_package)  # type: ignore[arg-type]  # no load_module
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(file)]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """As the interpreter does it."""

    def exec_module(self, module: ModuleType) -> None:
        exec(self._rows[module.__name__][5], module.__dict__)

    def bring(self, row: Row) -> None:
        """Import a module whose imports are all there, as _frozen_importlib does it, without looking for anything."""
        name, file, is_package, _, _, code = row
        module = type(sys)(name)
        spec = self.spec(row)
        folder, _, last = name.rpartition(".")
        module.__spec__ = spec
        module.__loader__ = self  # type: ignore[assignment]  # no load_module
        module.__file__ = file
        module.__package__ = name if is_package else folder
        if is_package:
            module.__path__ = spec.submodule_search_locations  # type: ignore[assignment]  # a package has them
        sys.modules[name] = module
        exec(code, module.__dict__)
        setattr(sys.modules[folder], last, module)


class _Recorder:
    """A finder that finds what the others would, and notes which of our modules was ready when."""

    def __init__(self) -> None:
        self.ready: list[str] = []

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] != _PACKAGE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        loader: Any = spec.loader if spec is not None else None
        if not hasattr(loader, "get_code"):
            return spec
        run = loader.exec_module

        def run_and_note(module: ModuleType) -> None:
            run(module)
            self.ready.append(name)

        loader.exec_module = run_and_note
        return spec


def use(program: str) -> bool:
    """Import everything that is in the bundle of ``program``, if there is one that is up to date; other modules come
    from it later."""
    try:
        file = FileIO(_PATH.format(program))
    except OSError:
        return False
    found = _read(file)
    if found is None:
        file.close()
        return False
    rows, ours = found
    sys.meta_path.insert(0, ours)
    for row in rows:
        if row[0] not in sys.modules:
            ours.bring(row)
    return True


def _read(file: FileIO) -> tuple[list[Row], _Bundle] | None:
    """What to import, and the finder of the rest; None: the file is damaged or out of date."""
    try:
        start = len(_HEADER) + _SIZES.size
        head = file.read(start)
        if len(head) < start or not head.startswith(_HEADER):
            return None
        size, whole = _SIZES.unpack_from(head, len(_HEADER))
        if os.fstat(file.fileno()).st_size != whole or size > whole - start:
            return None
        with mmap.mmap(file.fileno(), start + size, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            rows, places = marshal.loads(view[start:])
        if not all(map(_is_current, rows)):
            return None
    except _DAMAGE:
        return None
    return rows, _Bundle(file, start + size, places)


def _is_current(row: Row) -> bool:
    try:
        found = os.stat(row[1])
    except OSError:
        return False
    return found.st_size == row[3] and found.st_mtime_ns == row[4]


def record() -> _Recorder:
    """Note what is imported from now on."""
    recorder = _Recorder()
    sys.meta_path.insert(0, recorder)
    return recorder


def bring_first(program: str) -> None:
    """Import what every run of ``program`` does."""
    __import__(f"{_PACKAGE}.cli.{program}")
    for name in _MORE[program][0]:
        __import__(name)


def cached(spec: Any) -> CodeType:
    """A module's code as the interpreter has it already.  Raises OSError, ImportError."""
    code: CodeType = spec.loader.get_code(spec.name)
    return code


def compiled(spec: Any) -> CodeType:
    """The same, compiled anew (4 ms) without what no program reads: docstrings, types of parameters and results.

    Raises OSError, ImportError, SyntaxError.
    """
    import ast

    with open(spec.origin, "rb") as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
            continue
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.ClassDef):
            if node.decorator_list:
                continue  # dataclass makes a text where there is none
        elif not isinstance(node, ast.Module):
            continue
        if ast.get_docstring(node, clean=False):
            text = node.body.pop(0)
            if not node.body:
                node.body.append(ast.copy_location(ast.Pass(), text))
    return compile(tree, spec.origin, "exec", dont_inherit=True)


def keep(program: str, recorder: _Recorder, first: int, code: Callable[[Any], CodeType] = cached) -> None:
    """Write the ``first`` modules that were recorded, and behind them what else ``program`` may ask for, for its next
    run; where that cannot be, nothing happens.  ``code``: of a module, from its spec."""
    from bhyveload.libc import write_all
    from bhyveload.new_file import NewFile

    rows = recorder.ready[:first]
    places: dict[str, Place] = {}
    parts: list[bytes] = []
    at = 0
    try:
        with NewFile(_PATH.format(program)) as new:
            for names in _groups(program, recorder, first):
                parts.append(marshal.dumps([_row(name, code) for name in names]))
                places.update(dict.fromkeys(names, (at, len(parts[-1]))))
                at += len(parts[-1])
            head = marshal.dumps(([_row(name, code) for name in rows], places))
            os.fchmod(new.fd, 0o644)  # as .pyc files
            whole = len(_HEADER) + _SIZES.size + len(head) + at
            write_all(new.fd, b"".join((_HEADER, _SIZES.pack(len(head), whole), head, *parts)))
            new.place()
    except (OSError, ImportError, SyntaxError, TypeError, ValueError):
        pass


def _groups(program: str, recorder: _Recorder, first: int) -> Iterator[list[str]]:
    """What this process has imported later, then what else may be asked for, group by group."""
    from bhyveload import need

    wanted = [*_MORE[program][1], *need.GROUPS]
    for name in wanted:
        try:
            if name in need.GROUPS:
                need.load(name)
            else:
                __import__(name)
        except (ImportError, OSError):
            pass  # no lupa, no file of its own that can be read: those who ask will hear of it
        if new := recorder.ready[first:]:
            yield new
        first += len(new)


def _row(name: str, code: Callable[[Any], CodeType]) -> Row:
    """Raises OSError, ImportError."""
    spec: Any = sys.modules[name].__spec__
    found = os.stat(spec.origin)
    is_package = spec.submodule_search_locations is not None
    return name, spec.origin, is_package, found.st_size, found.st_mtime_ns, code(spec)


def make(programs: Sequence[str]) -> None:
    """Write those of ``programs``, or all: each in a process of its own, what another one has imported would not be
    recorded."""
    for program in programs:
        recorder = record()
        bring_first(program)
        keep(program, recorder, len(recorder.ready), compiled)
    if not programs:
        for program in _MORE:
            os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-m", f"{_PACKAGE}.cli.bundle", program])


if __name__ == "__main__":
    make(sys.argv[1:])
