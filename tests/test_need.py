"""Nothing is imported once the child is confined: what only some runs need is asked for by name, before or again."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bhyveload
import stock_like_forth
from bhyveload import need
from support import images, stock_disk

SOURCE = Path(bhyveload.__file__).parent
ROOMS = ("fs", "loader", "partition")  # what runs in the confined child
# Functions that may import, because they run before the child is confined or find what was imported then.
BEFORE = {
    "prepare": "called by need.load",
    "_map_native": "fletcher.prepare's",
    "_wraps": "lua_module's, for lupa's decorators, which nothing in the child uses",
    "_of_functools": "lua_module's, while lupa is imported",
    "open_zstd": "loader/files/files.py asks for bhyveload.image.zstd first",
    "__getattr__": "fs/zfs: names for those outside the child",
}


def sources() -> list[Path]:
    return sorted(path for room in ROOMS for path in (SOURCE / room).rglob("*.py"))


def stand_ins() -> dict[str, tuple[str, str]]:
    """module:name of each ``OnDemand`` -> what it is for type checkers, and what at run time."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.If) or ast.unparse(node.test) != "TYPE_CHECKING":
                continue
            types = {
                alias.asname or alias.name: f"{imported.module}.{alias.name}"
                for imported in node.body
                if isinstance(imported, ast.ImportFrom) and not imported.level
                for alias in imported.names
            }
            for stand_in in node.orelse:
                assert isinstance(stand_in, ast.Assign) and isinstance(stand_in.value, ast.Call), path
                assert ast.unparse(stand_in.value.func) == "OnDemand", path
                name, (module, *_) = ast.unparse(stand_in.targets[0]), map(ast.literal_eval, stand_in.value.args)
                found[f"{path.relative_to(SOURCE)}:{name}"] = types[name], module
    return found


def test_a_stand_in_is_for_type_checkers_what_it_is_at_run_time() -> None:
    assert len(stand_ins()) > 10
    assert {where: both for where, both in stand_ins().items() if both[0] != both[1]} == {}


def test_everything_that_may_be_asked_for_can_be_had() -> None:
    """In a process of its own: what is imported may declare more."""
    code = "from bhyveload import need; import bhyveload.loader.run; need.load_all(); print(*need.GROUPS); "
    code += "import sys; print(*(name for name in need.GROUPS if name not in sys.modules)); need._confined = True; "
    code += "need.settle()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    names, missing = done.stdout.split("\n")[:2]
    assert missing == ""
    assert {module for where, (_, module) in stand_ins().items() if not where.startswith("inspect")} <= {*names.split()}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_import_inside_functions_of_the_child(path: Path) -> None:
    late = [
        f"{function.name}:{node.lineno}"
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and function.name not in BEFORE
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert late == []


def test_in_a_confined_process_missing_modules_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "bhyveload.loader.commands.rare"
    need.declare(name)
    need.load(name)
    monkeypatch.setattr(need, "_confined", True)
    assert need.need(name) is sys.modules[name]
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(need.ModulesNeeded) as caught:
        need.need(name)
    assert caught.value.name == name
    with pytest.raises(need.ModulesNeeded) as caught:
        need.settle()
    assert caught.value.name == need.EVERYTHING


def test_unconfined_nothing_has_to_be_settled() -> None:
    need.settle()


def test_a_child_cannot_make_its_parent_import_anything_else() -> None:
    for name in ("os", "bhyveload.cli.bhyveload", "", "bhyveload.loader.interpreter.lua;os"):
        with pytest.raises(KeyError):
            need.load(name)


def children(disk: Path, vms: Path) -> list[str]:
    """How many children a load of ``disk`` takes, and whose scripts have run."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", _COUNT_CHILDREN, str(disk), str(vms)], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_a_usual_guest_needs_one_child(tmp_path: Path) -> None:
    """UFS and Lua scripts: a child that lacked them would have been thrown away."""
    assert children(stock_disk.make_disk(tmp_path), tmp_path / "vmm") == ["1", "lua"]


def test_another_guest_needs_one_child_when_its_vm_has_been_loaded_before(tmp_path: Path) -> None:
    """Forth scripts: they are found by a loader with Lua, which the one with Forth follows in the same child."""
    tree = stock_like_forth.write_tree(tmp_path / "tree")
    disk = images.standard_disk(tmp_path / "disk.img", images.make_ufs(tree, tmp_path / "part", 4 << 20))
    assert children(disk, tmp_path / "vmm") == ["2", "4th"]
    assert children(disk, tmp_path / "vmm") == ["1", "4th"]
    lua = stock_disk.make_disk(tmp_path)
    assert children(lua, tmp_path / "vmm") == ["2", "lua"]
    assert children(lua, tmp_path / "vmm") == ["1", "lua"]


_COUNT_CHILDREN = """
import os, sys
os.environ["BHYVE_VMM_DIR"] = sys.argv[2]
from bhyveload.api import Options, VirtualMachine, load, open_disk
from bhyveload.confined import run
children, Child = [], run.Child
run.Child = lambda *words: children.append(words) or Child(*words)
with VirtualMachine.create("vm", 64 << 20) as vm:
    report = load(vm, [open_disk(sys.argv[1])], options=Options(batch=True))
print(len(children), report.interpreter)
"""


def test_a_package_that_was_put_off_is_whole() -> None:
    code = """
import sys
from bhyveload.need import put_off
put_off("lz4"), put_off("lz4.block")
from lz4.block._block import compress
print("lz4.version" in sys.modules)
import lz4, lz4.block
print(lz4.block.compress is compress, lz4.__version__ == lz4.version.version, "lz4.version" in sys.modules)
"""
    pytest.importorskip("lz4")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True", "True"]


def test_zstd_is_had_without_its_package() -> None:
    code = """
import sys
before = "enum" in sys.modules
from bhyveload.image import zstd
print(before == ("enum" in sys.modules))
if sys.version_info >= (3, 14):
    from compression import zstd as whole
else:
    from backports import zstd as whole
packed = whole.compress(bytes(1 << 24), options={whole.CompressionParameter.window_log: 24})
print(zstd.WINDOW_LOG_MAX == whole.DecompressionParameter.window_log_max, whole.ZstdError is zstd.ZstdError)
print(len(whole.decompress(packed)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *rest = done.stdout.splitlines()
    assert first == "True" or sys.version_info >= (3, 14)
    assert rest == ["True True", str(1 << 24)]
