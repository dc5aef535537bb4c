"""What a load imports: starting is most of its cost (docs/architecture.md, "Imports")."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stock_like_forth
from support import images
from support.end_to_end import needs_qemu
from support.places import ROOT

BANNED = {
    *("dataclasses", "typing", "enum", "pathlib", "argparse", "re", "asyncio", "contextlib", "signal", "json"),
    *(
        "subprocess",
        "socket",
        "logging",
        "tempfile",
        "inspect",
        "getopt",
        "gettext",
        "ctypes",
        "hashlib",
        "importlib.util",
    ),
    *("shutil", "traceback", "random", "datetime", "decimal", "threading", "lupa", "lz4", "backports", "platform"),
}
LOAD = """
import sys
sys.argv = ["bhyveload", "--batch", "-d", {disk!r}, "vm"]
from bhyveload.cli.bhyveload import main
status = main()
sys.stdout.write("\\nMODULES " + " ".join(sorted(sys.modules)) + "\\n")
sys.exit(status)
"""


def modules_of(code: str, *options: str) -> set[str]:
    """The modules in a bare interpreter after ``code``, which prints them."""
    source = ROOT / "src"
    code = f"import sys; sys.path.insert(0, {str(source)!r})\n{code}"
    command = [sys.executable, "-I", *options, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split("MODULES ")[1].split())


def test_a_plain_load_imports_little(probe_disk: Path) -> None:
    modules = modules_of(LOAD.format(disk=str(probe_disk)), "-S")
    assert sorted(BANNED & modules) == []
    assert not {"bhyveload.loader.explanation", "bhyveload.loader.diagnosis", "bhyveload.cli.load_report"} & modules
    ours = {name for name in modules if name.startswith("bhyveload.")}
    assert "bhyveload.loader.kernel.elf" in ours
    # what Lua guests need is there before the first child (api.py), as far as lupa is installed: -S hides it
    late = ("interpreter.lua", "fs.zfs.pool", "iso9660", "userboot", "handoff", "qcow2", "diagnosis")
    assert [name for name in ours if name.startswith("bhyveload.inspect") or name.endswith(late)] == []


@pytest.mark.parametrize("program", ["bhyvectl"])
def test_a_look_at_a_vm_imports_little(probe_disk: Path, program: str) -> None:
    code = f"import sys; sys.argv = ['{program}', '--list']; from bhyveload.cli.{program} import main; main(); "
    code += "print('MODULES', *sys.modules)"
    assert sorted((BANNED - {"json"}) & modules_of(code, "-S")) == []


RUN = """
import sys
from bhyveload.cli import bhyveload
sys.argv = ["bhyveload", "--batch", "-d", {disk!r}, "vm"]
assert bhyveload.main() == 0
from bhyveload.handoff.qemu.process import Process
def start(self, program, *_):
    sys.stdout.write("\\nMODULES " + " ".join(sorted(sys.modules)) + "\\n")
    raise OSError(11, "not started")
Process.__init__ = start
from bhyveload.cli.bhyverun import main
sys.argv = ["bhyverun", "--accel", "tcg", "vm"]
main()
"""


@needs_qemu
def test_a_run_imports_little_before_qemu_is_started(probe_disk: Path) -> None:
    """Afterwards there is time: QEMU takes longer."""
    modules = modules_of(RUN.format(disk=str(probe_disk)), "-S")
    assert "bhyveload.handoff.qemu.session" in modules
    assert sorted((BANNED - {"contextlib"}) & modules) == []
    assert not {"bhyveload.saved.saving", "bhyveload.running.control", "bhyveload.handoff.kvm"} & modules


def test_a_module_is_imported_only_for_who_needs_it(probe_kernel: Path, tmp_path: Path) -> None:
    """A guest with Lua scripts brings lupa, and nothing else that was not asked for."""
    pytest.importorskip("lupa")
    tree = tmp_path / "tree"
    (tree / "boot" / "kernel").mkdir(parents=True)
    (tree / "boot" / "lua").mkdir()
    shutil.copy(probe_kernel, tree / "boot" / "kernel" / "kernel")
    (tree / "boot" / "lua" / "loader.lua").write_text('loader.perform("load /boot/kernel/kernel")\n')
    disk = images.standard_disk(tmp_path / "disk.img", images.make_ufs(tree, tmp_path / "part"))
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOAD.format(disk=str(disk))],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    modules = set(done.stdout.split("MODULES ")[1].split())
    assert "lupa.lua54" in modules
    assert not {"re", "contextlib", "enum", "lupa.version"} & modules, "lupa's own package code has run"
    assert not {"lz4", "backports.zstd", "bhyveload.fs.zfs.pool", "subprocess", "argparse", "dataclasses"} & modules


def test_forth_scripts_import_only_their_own(tmp_path: Path) -> None:
    tree = stock_like_forth.write_tree(tmp_path / "tree")
    disk = images.standard_disk(tmp_path / "disk.img", images.make_ufs(tree, tmp_path / "part", 4 << 20))
    modules = modules_of(LOAD.format(disk=str(disk)), "-S")
    assert "bhyveload.loader.interpreter.forth.interpreter" in modules
    assert sorted(BANNED & modules) == []
