"""The modules of a load in one file: read at once instead of 120 searches and reads, 8 of a load's 60 ms.

What the interpreter keeps as .pyc files, once more: code objects by module name, beside those files in ``__pycache__``
and as much to be trusted.  The file counts only while each source file has the size and time that it had; a change to
one of them, another Python, or anything odd, and modules are imported as ever.  The program writes it after a run that
had none, where .pyc files would be written; ``python -m bhyveload.cli.bundle`` (tools/setup.sh) writes it at any rate.
"""

from __future__ import annotations

import marshal
import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

    Entry = tuple[str, bool, int, int, bytes]  # file, is it a package, its size and time, marshalled code

_PACKAGE = "bhyveload"
_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PATH = os.path.join(_FOLDER, "__pycache__", f"load.{sys.implementation.cache_tag}.opt-{sys.flags.optimize}.bundle")
_HEADER = MAGIC_NUMBER + sys.version.encode()


class _Bundle:
    """A finder and loader of the modules in ``entries``."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        entry = self._entries.get(name)
        if entry is None:
            return None
        file, is_package = entry[:2]
        spec = ModuleSpec(name, self, origin=file, is_package=is_package)  # type: ignore[arg-type]
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(file)]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """As the interpreter does it."""

    def exec_module(self, module: ModuleType) -> None:
        exec(marshal.loads(self._entries[module.__name__][4]), module.__dict__)

    def get_code(self, name: str) -> CodeType:
        code: CodeType = marshal.loads(self._entries[name][4])
        return code


def use() -> bool:
    """Import from the bundle from now on, if there is one that is up to date."""
    try:
        with open(_PATH, "rb", buffering=0) as file:
            data = file.read()
        if not data or not data.startswith(_HEADER):
            return False
        entries: dict[str, Entry] = marshal.loads(memoryview(data)[len(_HEADER) :])
        for path, _, size, time, _ in entries.values():
            found = os.stat(path)
            if found.st_size != size or found.st_mtime_ns != time:
                return False
    except (OSError, EOFError, ValueError, TypeError, AttributeError):
        return False
    sys.meta_path.insert(0, _Bundle(entries))
    return True


def keep() -> None:
    """Write what this process has imported of ours, for the next one; where that cannot be, nothing happens."""
    entries: dict[str, Entry] = {}
    for name, module in list(sys.modules.items()):
        spec: Any = getattr(module, "__spec__", None)
        if name.partition(".")[0] != _PACKAGE or spec is None or not hasattr(spec.loader, "get_code"):
            continue
        is_package = spec.submodule_search_locations is not None
        try:
            found = os.stat(spec.origin)
            code = marshal.dumps(spec.loader.get_code(name))
        except (OSError, ImportError, TypeError, ValueError):
            return
        entries[name] = spec.origin, is_package, found.st_size, found.st_mtime_ns, code
    from bhyveload.libc import write_all
    from bhyveload.new_file import NewFile

    try:
        with NewFile(_PATH) as new:
            os.fchmod(new.fd, 0o644)  # as .pyc files
            write_all(new.fd, _HEADER + marshal.dumps(entries))
            new.place()
    except OSError:
        pass


def main() -> None:
    from bhyveload.cli import bhyveload
    from bhyveload.need import load

    assert bhyveload.main is not None
    load("bhyveload.loader.interpreter.lua")
    keep()


if __name__ == "__main__":
    main()
