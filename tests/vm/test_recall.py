"""What a load needed is told to the next one by the end of state.json."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bhyveload.vm.recall import MEMBER, recall
from bhyveload.vm.registers import Registers
from bhyveload.vm.store import VirtualMachine

MEMORY = 1 << 20


def commit(**extra: object) -> None:
    with VirtualMachine.create("vm", MEMORY) as vm:
        vm.commit([Registers()], {"environment": {"long": "x" * 10_000}}, extra)


def test_the_next_load_is_told() -> None:
    with VirtualMachine.create("vm", MEMORY) as vm:
        assert vm.recall() is None
    commit(flags={}, **{MEMBER: ["one", "two"]})
    with VirtualMachine.create("vm", MEMORY) as vm:
        assert vm.recall() == ["one", "two"]


def test_a_load_that_told_nothing() -> None:
    commit(flags={})
    with VirtualMachine.create("vm", MEMORY) as vm:
        assert vm.recall() is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b"", None),
        (b"{}", None),
        (b'{"needed": [', [""]),
        (b'{"needed": []}', [""]),
        (b'{"needed": ["a"], "needed": ["b", "c"]}\n', ["b", "c"]),
        (b'{"needed": ["\xff\x00"]}', ["\ufffd\0"]),
        (b'{"needed": ["a"]}' + b" " * 5000, None),
    ],
)
def test_whatever_is_there(tmp_path: Path, text: bytes, names: list[str] | None) -> None:
    """Names that mean nothing are nobody's module (api.py looks for them in need.GROUPS)."""
    (tmp_path / "state.json").write_bytes(text)
    assert recall(str(tmp_path)) == names


def test_what_is_no_file(tmp_path: Path) -> None:
    assert recall(str(tmp_path / "none")) is None
    os.mkfifo(tmp_path / "state.json")
    assert recall(str(tmp_path)) is None
    (tmp_path / "state.json").unlink()
    (tmp_path / "state.json").symlink_to("/proc/self/environ")
    assert recall(str(tmp_path)) is None
