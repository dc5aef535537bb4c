"""A child in a guest's hands reports what it likes: an error in one line or a sound result, whoever asked for it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bhyveload import api, loading
from bhyveload.boot_environments import lines, list_boot_environments
from bhyveload.cli import bhyvedisk, bhyveload
from bhyveload.confined import reports as shapes
from bhyveload.confined import wire
from bhyveload.confined.child import understand
from bhyveload.confined.confinement import Subject
from bhyveload.confined.deadline import Deadline
from bhyveload.confined.run import fitting, run
from bhyveload.cross_check import cross_check
from bhyveload.errors import BhyveloadError, LoaderCrashed, LoaderError, ReportError
from bhyveload.image.open import open_disk
from bhyveload.image.raw import open_raw
from bhyveload.jsontext import dumps
from bhyveload.loader.state import Options
from bhyveload.userboot.search import LoaderObject, Loaders
from bhyveload.vm.registers import Registers
from bhyveload.vm.store import VirtualMachine
from support import forged_reports as reports
from support.confined import forge
from support.descriptors import closed_at_the_end

MIB = 1 << 20
SUBJECT = Subject("the loader", None)
many = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
KINDS = (
    (shapes.LOADER, reports.LOADER),
    (shapes.IMAGE, reports.IMAGE),
    (shapes.IN_BLOCKS, reports.PACKED[:2]),
    (shapes.BLOCKS, reports.PACKED[2:3]),
    (shapes.UNPACKED, reports.PACKED[3:]),
    (shapes.LOOKED, reports.LOOKED),
    (shapes.POOLS, reports.POOLS),
)


def good_words(error: BhyveloadError) -> None:
    assert error.exit_status not in (0, None)
    assert "internal error" not in error.message


@pytest.mark.parametrize(("shape", "good"), KINDS)
def test_good_reports_pass_and_stay_what_they_are(shape: Any, good: tuple[dict[str, Any], ...]) -> None:
    for report in good:
        checked = fitting(report, shape, "the loader")
        assert {name: checked[name] for name in report} == report
        assert fitting(checked, shape, "the loader") == checked


@settings(max_examples=1000, deadline=None)
@given(data=st.data())
def test_a_shape_passes_nothing_on_that_it_would_not_pass_again(data: st.DataObject) -> None:
    shape, good = data.draw(st.sampled_from(KINDS))
    report = data.draw(reports.forged(good))
    try:
        checked = fitting(report, shape, "the loader")
    except ReportError as error:
        assert error.message.startswith("the loader's report lacks a usable '")
    else:
        assert fitting(checked, shape, "the loader") == checked
        assert wire.decode(wire.encode(checked)) == checked


def _encoded(value: object) -> bytes:
    try:
        return wire.encode(value)
    except ReportError:
        return b""


@settings(max_examples=500, deadline=None)
@given(data=st.binary(max_size=300) | reports.values.map(_encoded), status=st.integers(0, 255))
def test_any_bytes(data: bytes, status: int) -> None:
    try:
        report = understand(data, status << 8, SUBJECT)
    except BhyveloadError as error:
        good_words(error)
    else:
        assert isinstance(report, dict)


@pytest.mark.parametrize(
    ("report", "member"),
    [
        ({"end": "exec"}, "interpreter"),
        ({"end": []}, "end"),
        ({"end": "boot"}, "end"),
        ({}, "end"),
        ({"end": "exit", "code": True}, "code"),
        ({"end": "exit", "code": 1 << 70}, "code"),
        ({"end": "swap", "interpreter": ["lua"]}, "interpreter"),
        ({"need": ["bhyveload.fs.zfs"]}, "need"),
        ({"need": {"a": 1}}, "need"),
        ({"need": "bhyveload.fs.zfs", "shown": 1 << 40}, "shown"),
        ({"need": "bhyveload.fs.zfs", "shown": True}, "shown"),
    ],
)
def test_what_a_refusal_says(
    report: dict[str, Any], member: str, monkeypatch: pytest.MonkeyPatch, vmm_directory: Path
) -> None:
    forge(monkeypatch, report)
    with VirtualMachine.create("guest", MIB) as vm, pytest.raises(ReportError) as caught:
        api.load(vm, options=Options(batch=True))
    assert caught.value.message == f"the loader's report lacks a usable '{member}'"


@pytest.mark.parametrize("name", ["os", "bhyveload.api", "", "bhyveload.fs.zfs\0"])
def test_no_other_module_is_imported(name: str, monkeypatch: pytest.MonkeyPatch, vmm_directory: Path) -> None:
    forge(monkeypatch, {"need": name, "shown": 0})
    with VirtualMachine.create("guest", MIB) as vm, pytest.raises(ReportError, match="a module that does not exist"):
        api.load(vm, options=Options(batch=True))


def test_a_module_asked_for_again_and_again_ends(monkeypatch: pytest.MonkeyPatch, vmm_directory: Path) -> None:
    forge(monkeypatch, reports.NEED)
    with VirtualMachine.create("guest", MIB) as vm, pytest.raises(ReportError, match="or again for one that it had"):
        api.load(vm, options=Options(batch=True))


@many
@given(report=reports.forged(reports.LOADER))
def test_a_loader_s_report(report: Any, vmm_directory: Path) -> None:
    """The old guest stays, or the new one can be opened; nothing else."""
    with VirtualMachine.create("guest", MIB) as vm:
        vm.commit([Registers()], {"old": 1})
    with pytest.MonkeyPatch.context() as monkeypatch:
        forge(monkeypatch, report)
        try:
            with VirtualMachine.create("guest", MIB) as vm:
                loaded = api.load(vm, options=Options(batch=True))
            dumps(loaded.as_dict())
        except BhyveloadError as error:
            good_words(error)
            loaded = None
    with VirtualMachine.open("guest", require_loaded=True) as vm:
        assert vm.state is not None
        assert (vm.state["loaded"] == {"old": 1}) == (loaded is None)
        json.loads(dumps(vm.state))


@settings(many, max_examples=60)
@given(first=reports.forged(reports.LOADER), second=reports.forged(reports.LOADER))
def test_two_reports_for_a_comparison(first: Any, second: Any) -> None:
    loaders = Loaders(explicit=LoaderObject("some.so", b"FreeBSD/x86 User boot, Revision 1.2"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        forge(monkeypatch, first, second)
        try:
            dumps(cross_check(MIB, loaders=loaders).differences)
        except BhyveloadError as error:
            good_words(error)
            assert error.exit_status != 3


@many
@given(report=reports.forged(reports.LOOKED), command=st.sampled_from(["ls", "info", "cat", "cp"]))
def test_a_disk_reader_s_report(report: Any, command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    words = {"cat": ["/file"], "cp": ["/file", str(tmp_path / "copy")]}.get(command, [])
    with pytest.MonkeyPatch.context() as monkeypatch, closed_at_the_end():
        forge(monkeypatch, report)
        monkeypatch.setattr(sys, "argv", ["bhyvedisk", command, str(disk), *words])
        status = bhyvedisk.main()
    error = capfd.readouterr().err
    assert "internal error" not in error
    assert 0 <= status < 256
    assert error.count("\n") == (1 if status and error else 0)


@many
@given(report=reports.forged(reports.POOLS), as_json=st.booleans())
def test_a_list_of_boot_environments(
    report: Any, as_json: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(4096))
    with pytest.MonkeyPatch.context() as monkeypatch, closed_at_the_end():
        forge(monkeypatch, report)
        try:
            listing = list_boot_environments([open_raw(str(path))])
            list(lines(listing))
        except BhyveloadError as error:
            good_words(error)
        words = ["bhyveload", "--list-boot-envs", "-d", str(path), *(["--json"] if as_json else [])]
        monkeypatch.setattr(sys, "argv", words)
        status = bhyveload.main()
    said = capfd.readouterr()
    assert "internal error" not in said.err
    assert 0 <= status < 256
    assert said.out.isascii()


@many
@given(
    first=reports.forged((*reports.IMAGE, *reports.PACKED)),
    second=reports.forged((*reports.IMAGE, *reports.PACKED)),
    magic=st.sampled_from([b"QFI\xfb", b"KDMV", b"vhdxfile", b"conectix", b"\xfd7zXZ\0", b"\x1f\x8b\x08"]),
    allowed=st.booleans(),
)
def test_an_image_reader_s_report(
    first: Any, second: Any, magic: bytes, allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "image"
    image.write_bytes(magic.ljust(65536, b"\0"))
    (tmp_path / "neighbour").write_bytes(bytes(4096))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    told = [_with_path(report, str(image)) for report in (first, second)]
    with pytest.MonkeyPatch.context() as patch:
        forge(patch, *told)
        try:
            disk = open_disk(str(image), allow_backing=allowed)
        except BhyveloadError as error:
            good_words(error)
        else:
            assert 0 <= disk.size < 1 << 62
            json.loads(dumps(disk.describe() if hasattr(disk, "describe") else {}))
            disk.close()


def _with_path(report: Any, path: str) -> Any:
    return {**report, "of": path} if isinstance(report, dict) and report.get("of") == "IMAGE" else report


@pytest.mark.parametrize("code", [0, 256, -256, 1 << 40])
def test_a_run_that_loaded_nothing_is_no_success(
    code: int, monkeypatch: pytest.MonkeyPatch, vmm_directory: Path
) -> None:
    """Else `bhyveload && bhyverun` would run the guest that was there before."""
    forge(monkeypatch, {"end": "exit", "code": code})
    with VirtualMachine.create("guest", MIB) as vm, pytest.raises(LoaderError) as caught:
        api.load(vm, options=Options(batch=True))
    assert caught.value.exit_status == 1
    forge(monkeypatch, {**reports.ERROR, "exit_status": 0})
    with VirtualMachine.create("guest", MIB) as vm, pytest.raises(ReportError, match="usable 'exit_status'"):
        api.load(vm, options=Options(batch=True))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("near", ["x"] * 13),
        ("near", ["x" * 513]),
        ("looked_for", [{"path": "/", "found": "yes", "why": ""}]),
        ("disks", [{}]),
        ("pools", [{"name": "x", "error": 7}]),
        ("device", None),
    ],
)
def test_an_explanation_of_another_shape(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch, vmm_directory: Path
) -> None:
    told: dict[str, object] = {"device": "", "file_system": "", "interpreter": ""}
    told |= {part: [] for part in ("disks", "pools", "looked_for", "near", "elsewhere")}
    forge(monkeypatch, {**reports.ERROR, "explanation": told})
    with VirtualMachine.create("guest", MIB) as vm, pytest.raises(LoaderError) as caught:
        api.load(vm, options=Options(batch=True))
    assert caught.value.explanation == told
    forge(monkeypatch, {**reports.ERROR, "explanation": {**told, name: value}})
    with VirtualMachine.create("guest", MIB) as vm, pytest.raises(ReportError, match="usable 'explanation"):
        api.load(vm, options=Options(batch=True))


def test_a_child_that_makes_memory_longer(monkeypatch: pytest.MonkeyPatch, vmm_directory: Path) -> None:
    def grow(host: Any, *_: object, **__: object) -> dict[str, Any]:
        os.pwrite(host.memory.fd, b"x", 2 * MIB)
        return reports.LOADED

    monkeypatch.setattr(loading, "run_loader", grow)
    with VirtualMachine.create("guest", MIB) as vm, pytest.raises(BhyveloadError, match="memory: 2097153 bytes"):
        api.load(vm, options=Options(batch=True))
    assert not (vmm_directory / "guest").exists()


@pytest.mark.parametrize("seconds", [2147484, 999999999, 4e18])
def test_a_deadline_in_a_far_future(seconds: float) -> None:
    """poll(2) takes milliseconds in an int."""
    assert run(lambda _: {"size": 5}, SUBJECT, Deadline(seconds), shapes.UNPACKED) == {"size": 5}


def test_one_deadline_for_all_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that ends in time because it lacks a module does not get the whole time again."""
    import time

    def work(_: object) -> dict[str, Any]:
        time.sleep(0.2)
        return dict(reports.NEED)

    began = time.monotonic()
    with pytest.raises(LoaderCrashed, match=r"the loader did not finish in 0\.5 seconds"):
        run(work, SUBJECT, Deadline(0.5), shapes.LOADER)
    assert time.monotonic() - began < 5
