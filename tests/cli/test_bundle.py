"""The file with all modules of a load: used while it is up to date, never otherwise."""

from __future__ import annotations

import marshal
import os
import shutil
import struct
import subprocess
import sys
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType

import pytest

from bhyveload.cli import bundle as module
from support.places import SOURCE

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
sys.argv[:2] = ["bhyveload"]
import os
leave = os._exit
def end(status):
    import bhyveload.cli.bhyveload as module
    file = os.path.join(sys.modules["bhyveload"].__path__[0], "cli", "bhyveload.py")
    print(type(module.__spec__.loader).__name__, module.__file__ == file)
    from bhyveload import need
    need.load("bhyveload.loader.interpreter.simple")
    import bhyveload.loader.interpreter as room
    late = room.simple
    print(type(late.__loader__).__name__, late.__file__ == os.path.join(room.__path__[0], "simple.py"))
    sys.stdout.flush()
    leave(status)
os._exit = end
from bhyveload.cli.start import bhyveload
bhyveload()
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, without what the interpreter has kept of it."""
    shutil.copytree(SOURCE, tmp_path / "bhyveload", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "bhyveload"


def writing() -> dict[str, str]:
    """The environment, as far as it lets the interpreter write .pyc files."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run(package: Path, *options: str) -> list[str]:
    """What --version prints, who has loaded the program's module, and one that is asked for later."""
    command = [sys.executable, "-I", *options, "-c", PROGRAM, str(package.parent), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=writing())
    assert done.stderr == ""
    return done.stdout.splitlines()


def bundle(package: Path) -> Path:
    (found,) = (package / "__pycache__").glob("bhyveload.*.bundle")
    return found


def test_the_second_run_uses_it(package: Path) -> None:
    assert run(package)[1:] == ["SourceFileLoader True"] * 2
    assert bundle(package).stat().st_mode & 0o777 == 0o644
    assert run(package)[1:] == ["_Bundle True"] * 2


def test_a_changed_source_counts(package: Path) -> None:
    run(package)
    source = package / "cli" / "bhyveload.py"
    source.write_text(source.read_text().replace('f"bhyveload {', 'f"changed {'))
    first = run(package)
    assert first[0].startswith("changed ") and first[1] == "SourceFileLoader True"
    again = run(package)
    assert again[0] == first[0] and again[1] == "_Bundle True"


def test_nothing_stays_open_of_a_file_that_is_not_used(package: Path) -> None:
    """run looks at what the interpreter warns of."""
    run(package)
    os.utime(package / "cli" / "bhyveload.py", (1, 1))
    assert run(package, "-X", "dev")[1] == "SourceFileLoader True"
    bundle(package).write_bytes(b"damaged")
    assert run(package, "-X", "dev")[1] == "SourceFileLoader True"


def test_a_changed_source_of_what_is_asked_for_later_counts_alone(package: Path) -> None:
    run(package)
    with (package / "loader" / "interpreter" / "simple.py").open("a") as file:
        file.write("# changed\n")
    assert run(package)[1:] == ["_Bundle True", "SourceFileLoader True"]


def test_modules_are_as_the_interpreter_makes_them(package: Path) -> None:
    """Whatever a module says of itself, and what its package says of it."""
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import os
from bhyveload.cli import bundle
assert bundle.use("bhyveload") == (sys.argv[2] == "bundled")
import bhyveload.cli.bhyveload
for name, module in sorted(sys.modules.items()):
    if name.startswith("bhyveload."):
        folder, _, last = name.rpartition(".")
        spec = module.__spec__
        print(name, module.__name__, module.__package__, module.__file__, getattr(module, "__path__", None), spec.name,
              spec.parent, spec.origin, spec.has_location, spec.submodule_search_locations,
              spec.loader is module.__loader__, vars(sys.modules[folder])[last] is module)
"""

    def told(how: str) -> list[str]:
        command = [sys.executable, "-IB", "-c", code, str(package.parent), how]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    plain = told("plain")
    assert len(plain) > 90
    run(package)
    assert told("bundled") == plain


@pytest.mark.parametrize("damage", ["empty", "cut", "other version", "garbage", "too large", "rows of nothing"])
def test_a_damaged_one_is_made_anew(package: Path, damage: str) -> None:
    run(package)
    data = bundle(package).read_bytes()
    sizes, rows = len(module._HEADER), marshal.dumps(([()], {}))
    bad = {
        "empty": b"",
        "cut": data[: len(data) // 2],
        "other version": b"\0\0\0\0" + data[4:],
        "garbage": data[:300] + b"i",
        "too large": data[:sizes] + b"\xff" * 8 + data[sizes + 8 :],
        "rows of nothing": data[:sizes] + struct.pack("<QQ", len(rows), sizes + 16 + len(rows)) + rows,
    }
    bundle(package).write_bytes(bad[damage])
    assert run(package)[1] == "SourceFileLoader True"
    assert run(package)[1] == "_Bundle True"


def test_damage_to_what_is_asked_for_later_counts_alone(package: Path) -> None:
    run(package)
    data = bundle(package).read_bytes()
    sizes = len(module._HEADER)
    later = sizes + 16 + struct.unpack_from("<Q", data, sizes)[0]
    bundle(package).write_bytes(data[:later] + bytes(len(data) - later))
    assert run(package)[1:] == ["_Bundle True", "SourceFileLoader True"]


def test_nothing_is_written_where_the_interpreter_writes_nothing(package: Path) -> None:
    assert run(package, "-B")[1] == "SourceFileLoader True"
    assert not (package / "__pycache__").exists()


def test_a_folder_that_cannot_be_written_to(package: Path) -> None:
    (package / "__pycache__").write_text("no folder")
    assert run(package)[1] == "SourceFileLoader True"


OTHERS = """
import sys
sys.path.insert(0, sys.argv[1])
program = sys.argv[2]
sys.argv = [program, "--version"]
import os
leave = os._exit
def end(status):
    for name in sorted(name for name in sys.modules if name.startswith("bhyveload.")):
        print(name, type(sys.modules[name].__spec__.loader).__name__)
    sys.stdout.flush()
    leave(status)
os._exit = end
from bhyveload.cli import start
getattr(start, program)()
"""


@pytest.mark.parametrize("program", ["bhyverun", "bhyve", "bhyvectl", "bhyvedisk"])
def test_each_program_has_its_own(package: Path, program: str) -> None:
    def loaders() -> dict[str, str]:
        command = [sys.executable, "-I", "-c", OTHERS, str(package.parent), program]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=writing())
        lines = [line.split() for line in done.stdout.splitlines() if line.startswith("bhyveload.")]
        return {words[0]: words[1] for words in lines}

    first = loaders()
    assert first[f"bhyveload.cli.{program}"] == "SourceFileLoader"
    again = loaders()
    found = {name for name, loader in again.items() if loader != "_Bundle"}
    assert found <= {f"bhyveload.{name}" for name in ("cli", "cli.start", "cli.bundle", "cli.descriptors")}


def test_all_are_made_at_install_time(package: Path) -> None:
    command = [sys.executable, "-m", "bhyveload.cli.bundle"]
    subprocess.run(command, check=True, env={**writing(), "PYTHONPATH": str(package.parent)})
    made = {path.name.partition(".")[0] for path in (package / "__pycache__").glob("*.bundle")}
    assert made == {"bhyveload", "bhyverun", "bhyve", "bhyvectl", "bhyvedisk"}


def test_one_that_is_made_on_purpose_is_smaller(package: Path) -> None:
    command = [sys.executable, "-m", "bhyveload.cli.bundle", "bhyveload"]
    subprocess.run(command, check=True, env={**writing(), "PYTHONPATH": str(package.parent)})
    size = bundle(package).stat().st_size
    assert run(package)[1:] == ["_Bundle True"] * 2
    bundle(package).unlink()
    run(package)
    assert bundle(package).stat().st_size > size


def parts(code: CodeType) -> list[CodeType]:
    """A module's code and that of its functions and classes."""
    return [code, *(part for const in code.co_consts if isinstance(const, CodeType) for part in parts(const))]


@pytest.mark.parametrize(
    "name", ["fs/ufs.py", "loader/console.py", "errors.py", "confined/child.py", "fs/zfs/pool.py", "loader/__init__.py"]
)
def test_what_is_compiled_anew_is_the_same_but_for_texts_and_types(name: str) -> None:
    spec = spec_from_file_location("module", SOURCE / name)
    assert spec is not None
    pairs = list(zip(parts(module.cached(spec)), parts(module.compiled(spec)), strict=True))
    for cached, anew in pairs:
        assert (cached.co_qualname, cached.co_firstlineno) == (anew.co_qualname, anew.co_firstlineno)
        assert (cached.co_varnames, cached.co_filename) == (anew.co_varnames, anew.co_filename)
        assert {line for _, _, line in anew.co_lines()} <= {line for _, _, line in cached.co_lines()}
        if not any(isinstance(const, CodeType) for const in cached.co_consts):
            assert set(cached.co_names) - {"__doc__"} == set(anew.co_names)
