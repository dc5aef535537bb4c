"""docs/library.md: its examples run, in order, as one program; and the names that it promises are there."""

from __future__ import annotations

import copy
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bhyveload
from bhyveload import (
    BhyveloadError,
    FileSystemError,
    KernelError,
    LoadReport,
    Options,
    ScratchMachine,
    UsageError,
    VirtualMachine,
    api,
    load,
    open_disk,
)
from bhyveload.report import LoadedFile, LoadedModule
from support.qemu import missing_qemu

PAGE = Path(__file__).parents[1] / "docs" / "library.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.M | re.S)
MIB = 1 << 20


@pytest.fixture(scope="module")
def report(probe_disk: Path) -> LoadReport:
    disk = open_disk(str(probe_disk))
    with ScratchMachine("report", 64 * MIB) as machine:
        return load(machine, [disk], ["name=łódź", b"raw=\xff"], options=Options(batch=True))


def test_the_examples_run(
    probe_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(probe_disk, tmp_path / "disk.img")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    assert len(EXAMPLES) >= 5
    for example in EXAMPLES:
        if "import run" in example and missing_qemu():
            continue
        exec(compile(example, str(PAGE), "exec"), names)
    assert "/boot/kernel/kernel" in capfd.readouterr().out


def test_every_name_of_the_page_is_there() -> None:
    for name in api.__all__:
        assert getattr(bhyveload, name) is getattr(api, name), name
    with pytest.raises(AttributeError):
        bhyveload.nothing  # noqa: B018
    named = set(re.findall(r"`(\w+)", PAGE.read_text().partition("## Load")[0]))
    assert {name for name in named if name[0].isupper()} <= set(api.__all__)


def test_star_and_completion() -> None:
    """At Python's prompt: ``from bhyveload import *``, and the tabulator behind ``bhyveload.``."""
    names: dict[str, object] = {}
    exec("from bhyveload import *", names)
    assert names.keys() - {"__builtins__"} == set(bhyveload.__all__) == set(api.__all__)
    assert set(bhyveload.__all__) <= set(dir(bhyveload))


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, bhyveload; print([name for name in sys.modules if name.startswith('bhyveload.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_report_is_a_value(report: LoadReport) -> None:
    for again in (copy.copy(report), copy.deepcopy(report), pickle.loads(pickle.dumps(report))):
        assert again == report and again is not report and hash(again) == hash(report)
        assert again.as_dict() == report.as_dict()
    assert LoadReport(report.as_dict()) == report
    assert report.kernel is not None and report.files[0] == report.kernel
    assert isinstance(report.files[0], LoadedFile)
    assert "kernel" in repr(report)
    for value, name in ((report, "vm"), (report.kernel, "size")):
        with pytest.raises(AttributeError, match="frozen"):
            setattr(value, name, 0)
        with pytest.raises(AttributeError, match="frozen"):
            delattr(value, name)
    environment: Any = report.environment
    for method in ("clear", "update", "popitem"):
        with pytest.raises(TypeError, match="frozen"):
            getattr(environment, method)()
    with pytest.raises(TypeError, match="frozen"):
        environment["a"] = "b"
    copied = report.as_dict()
    copied["environment"]["x"] = "y"
    assert "x" not in report.environment
    module = LoadedModule("a", 1)
    assert module != LoadedModule("a", 2) and pickle.loads(pickle.dumps(module)) == module
    with pytest.raises(AttributeError):
        report.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_variables_arrive_byte_for_byte(report: LoadReport) -> None:
    assert report.environment["name"].encode("latin-1").decode() == "łódź"
    assert report.environment["raw"] == "\xff"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"compat": "13.1"}, "'13.1'"),
        ({"environment": ["a=b\0c"]}, "NUL byte"),
        ({"environment": "a=b"}, "one text"),
        ({"disks": ["disk.img"]}, "'disk.img' is a name"),
        ({"disks": [Path("disk.img")]}, "'disk.img' is a name"),
    ],
)
def test_what_is_mistyped_is_said(arguments: dict[str, Any], words: str) -> None:
    with ScratchMachine("none", 64 * MIB) as machine, pytest.raises(UsageError, match=words):
        load(machine, **arguments)


def test_a_disk_that_is_closed(probe_disk: Path) -> None:
    disk = open_disk(str(probe_disk))
    disk.close()
    with ScratchMachine("none", 64 * MIB) as machine, pytest.raises(UsageError, match="is closed"):
        load(machine, [disk])


def test_paths_are_names(probe_disk: Path) -> None:
    disk = open_disk(probe_disk)
    with ScratchMachine("path", 64 * MIB) as machine:
        assert load(machine, [disk], options=Options(batch=True)).kernel is not None
    disk.close()
    vm = bhyveload.load_image(probe_disk, 64 * MIB)
    vm.destroy()


def error_classes(root: type[BhyveloadError] = BhyveloadError) -> list[type[BhyveloadError]]:
    return [root, *(kind for below in root.__subclasses__() for kind in error_classes(below))]


@pytest.mark.parametrize("kind", error_classes())
def test_errors_go_from_process_to_process(kind: type[BhyveloadError]) -> None:
    """As multiprocessing sends them."""
    numbered = issubclass(kind, FileSystemError | KernelError)
    error = kind(5, "what", "hint") if numbered else kind("what", hint="hint")  # type: ignore[arg-type, call-arg]
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and str(again) == "what" and again.hint == "hint"
    assert vars(again) == vars(error) and again.exit_status == error.exit_status


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"timeout": "5"}, "timeout: must be a number of seconds, or None, not '5'"),
        ({"environment": {"a": "b"}}, "environment: must be a list of NAME=VALUE texts"),
        ({"environment": [1]}, "environment: must be a list of NAME=VALUE texts"),
    ],
)
def test_what_is_of_another_kind_is_said(arguments: dict[str, Any], words: str) -> None:
    with ScratchMachine("none", 64 * MIB) as machine, pytest.raises(TypeError, match=re.escape(words)):
        load(machine, **arguments)


def test_one_disk_is_no_list(probe_disk: Path) -> None:
    disk = open_disk(probe_disk)
    with ScratchMachine("none", 64 * MIB) as machine, pytest.raises(TypeError, match="disks: is one disk"):
        load(machine, disk)  # type: ignore[arg-type]
    disk.close()


def test_machines_are_no_texts() -> None:
    for refused in (
        lambda: load("vm"),  # type: ignore[arg-type]
        lambda: api.run("vm"),  # type: ignore[arg-type]
        lambda: VirtualMachine.create("vm", "64M"),  # type: ignore[arg-type]
        lambda: VirtualMachine.create("vm", 64e6),  # type: ignore[arg-type]
        lambda: VirtualMachine.create(5, 64 * MIB),  # type: ignore[arg-type]
        lambda: ScratchMachine("vm", "64M"),  # type: ignore[arg-type]
        lambda: bhyveload.load_image("nowhere.img", 64 * MIB, timeout="5"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=r"must be|is a text"):
            refused()


def test_a_disk_is_where_it_was_opened(probe_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever folder is the current one when it is loaded from."""
    (tmp_path / "here").mkdir()
    shutil.copy(probe_disk, tmp_path / "here" / "disk.img")
    subprocess.run(["gzip", "-k", "disk.img"], cwd=tmp_path / "here", check=True)
    monkeypatch.chdir(tmp_path / "here")
    disks = [open_disk("disk.img"), open_disk("./disk.img.gz")]
    monkeypatch.chdir(tmp_path)
    with ScratchMachine("moved", 64 * MIB) as machine:
        told = load(machine, disks, options=Options(batch=True)).disks
    assert [disk["path"] for disk in told] == [str(tmp_path / "here" / name) for name in ("disk.img", "disk.img.gz")]
    for disk in disks:
        disk.close()
