"""bhyveload --cross-check: the built-in loader against guests that FreeBSD's own loader left (tests/data/golden).

We have no userboot.so of FreeBSD here, but what it left: a loader object that copies a record into the guest stands in.
"""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bhyveload.compat import loader_version
from bhyveload.confined.run import run
from bhyveload.cross_check import CrossCheck, cross_check
from bhyveload.errors import LoaderCrashed, LoaderError, UsageError
from bhyveload.host.directory import open_host_directory
from bhyveload.image.overlay import Overlay
from bhyveload.userboot.search import LoaderObject, Loaders
from support.golden import Record, memory_disk, records
from support.places import DATA
from support.userboot_testing import build, encoded_calls


@pytest.fixture(scope="module")
def replayer(tmp_path_factory: pytest.TempPathFactory) -> Loaders:
    data = build(tmp_path_factory.mktemp("replay"), source="replay.c")
    return Loaders(explicit=LoaderObject("userboot_lua.so", data))


def recorded(record: Record, folder: Path, memory: bytes | None = None) -> None:
    """The host directory that replay.c reads."""
    (folder / "memory").write_bytes(record.memory() if memory is None else memory)
    (folder / "calls").write_bytes(encoded_calls(record.calls))


def check(record: Record, folder: Path, loaders: Loaders) -> list[str]:
    return both(record, folder, loaders).differences


def both(record: Record, folder: Path, loaders: Loaders) -> CrossCheck:
    return cross_check(
        record.memory_size,
        record.disks(),
        record.environment,
        loaders=loaders,
        host_directory=open_host_directory(str(folder)),
        keys=record.keys,
        compat=loader_version(record.version) if record.version else None,
        timeout=60,
    )


@pytest.mark.parametrize(("version", "name"), records(interpreter="lua"))
def test_the_built_in_loader_leaves_what_freebsds_left(
    version: str, name: str, tmp_path: Path, replayer: Loaders
) -> None:
    record = Record(version, name)
    recorded(record, tmp_path)
    assert check(record, tmp_path, replayer) == []


@pytest.mark.parametrize("name", ["lld-13", "lld-18", "lld-18-relr"])
def test_objects_of_freebsds_tool_chain(name: str, tmp_path: Path) -> None:
    """The same loader object, compiled by clang and linked by ld.lld as FreeBSD does (tests/data/userboot_lld)."""
    data = (DATA / "userboot_lld" / f"{name}.so").read_bytes()
    assert data[7] == 9, "FreeBSD's"
    record = Record("13.2", "plain")
    recorded(record, tmp_path)
    assert check(record, tmp_path, Loaders(explicit=LoaderObject(name, data))) == []


@pytest.mark.parametrize("version", ["13.2", "current"])
def test_another_order_of_the_modules_is_no_difference(version: str, tmp_path: Path, replayer: Loaders) -> None:
    """The guest's Lua asks for them in the order of its pairs(): what FreeBSD's loader left is another run of it."""
    record = Record(version, "modules")
    recorded(record, tmp_path)
    commands = record.keys.splitlines(keepends=True)
    commands[1:4] = commands[3], commands[2], commands[1]
    record.keys = b"".join(commands)
    done = both(record, tmp_path, replayer)
    assert (done.differences, done.reordered) == ([], True)
    # what differs in them is found all the same
    memory = record.memory()
    memory = memory[:0x404010] + bytes([memory[0x404010] ^ 1]) + memory[0x404011:]
    recorded(record, tmp_path, memory)
    (line,) = both(record, tmp_path, replayer).differences
    assert "beta.ko" in line and "1 of " in line


def test_differences_are_said_in_words(tmp_path: Path, replayer: Loaders) -> None:
    record = Record("13.2", "modules")
    memory = bytearray(record.memory())
    at = memory.index(b"kern.hz=100")
    memory[at : at + 11] = b"kern.hz=999"
    memory[0x200800] ^= 0xFF
    recorded(record, tmp_path, bytes(memory))
    lines = check(record, tmp_path, replayer)
    assert 'variable kern.hz: "100" with the built-in loader, "999" with userboot_lua.so' in lines
    assert any(line.startswith("/boot/kernel/kernel: 1 of ") and "+0x800" in line for line in lines)
    assert any(line.startswith("guest page 0x200000 (/boot/kernel/kernel): 1 byte") for line in lines)
    assert any("(environment): 3 bytes differ" in line for line in lines)


@pytest.mark.parametrize(("version", "revision"), [("13.2", b"1.2"), ("current", b"3.0")])
def test_the_built_in_loader_behaves_as_the_objects_version(version: str, revision: bytes, tmp_path: Path) -> None:
    """The objects of the record's version say so in their banner."""
    record = Record(version, "x-many-raw")
    recorded(record, tmp_path)
    data = build(tmp_path, source="replay.c") + b"FreeBSD/amd64 User boot lua, Revision " + revision + b"\n"
    loaders = Loaders(explicit=LoaderObject("userboot_lua.so", data))
    record.version = ""
    assert check(record, tmp_path, loaders) == []


def test_the_other_versions_ways_are_seen(tmp_path: Path, replayer: Loaders) -> None:
    record = Record("current", "modules")
    recorded(record, tmp_path)
    record.version = "13.2"
    lines = check(record, tmp_path, replayer)
    assert any(line.startswith("modulep: ") for line in lines)


def test_nothing_is_written_to_the_disk() -> None:
    disk = memory_disk(bytes(range(256)) * 16)
    overlay = Overlay(disk)
    assert bytes(overlay.read(100, 50)) == bytes(disk.read(100, 50))
    overlay.write(510, b"changed")
    assert bytes(overlay.read(500, 30)) == bytes(disk.read(500, 10)) + b"changed" + bytes(disk.read(517, 13))
    assert bytes(overlay.read(513, 2)) == b"ng"
    assert bytes(overlay.read(2048, 512)) == bytes(disk.read(2048, 512))
    overlay.write(4095, b"!")
    assert bytes(overlay.read(0, 4096))[-1:] == b"!"
    assert bytes(disk.read(0, 4096)) == bytes(range(256)) * 16
    for offset in (-1, 4095, 5000):
        with pytest.raises(Exception, match="lie outside"):
            overlay.write(offset, b"xy")


def test_what_goes_wrong_names_the_loader(tmp_path: Path, replayer: Loaders) -> None:
    record = Record("13.2", "plain")
    with pytest.raises(LoaderError, match=r"userboot_lua\.so: the loader ended without starting a guest") as caught:
        check(record, tmp_path, replayer)
    assert caught.value.exit_status == 21
    for status in (0, 3):
        loaders = Loaders(explicit=LoaderObject("x.so", build(tmp_path, f'-DDO="exit{status}"')))
        with pytest.raises(LoaderError, match=r"x\.so: the loader ended") as caught:
            check(record, tmp_path, loaders)
        assert caught.value.exit_status == 1, "0 and 3 are for comparisons that were made"
    record.keys = b"quit\n"
    with pytest.raises(LoaderError, match="the built-in loader: the loader ended"):
        check(record, tmp_path, replayer)


def _quiet(real: Callable[..., Any]) -> Callable[..., Any]:
    """confined.run whose child does not print every stack when it crashes, as pytest makes it do."""

    def run_quietly(work: Callable[[Any], Any], *arguments: Any, **options: Any) -> Any:
        def quiet_work(leave: Any) -> Any:
            faulthandler.disable()
            return work(leave)

        return real(quiet_work, *arguments, **options)

    return run_quietly


def test_a_crash_of_the_object_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record("13.2", "plain")
    loaders = Loaders(explicit=LoaderObject("bad.so", build(tmp_path)))
    record.environment = [b"do=segv"]
    monkeypatch.setattr("bhyveload.loading.run_confined", _quiet(run))
    with pytest.raises(LoaderCrashed, match=r"bad\.so: the loader died by SIGSEGV"):
        check(record, tmp_path, loaders)


def test_there_has_to_be_an_object(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no userboot\.so in "):
        cross_check(64 << 20, loaders=Loaders([str(tmp_path)], always=True))


def bhyveload(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bhyveload.cli.bhyveload", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_program(tmp_path: Path, vmm_directory: Path) -> None:
    record = Record("13.2", "lua-scripts")
    recorded(record, tmp_path)
    (tmp_path / "userboot.so").write_bytes(build(tmp_path, source="replay.c"))
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(record.disks()[0].read(0, record.disks()[0].size)))
    before = disk.read_bytes()
    words = ["--cross-check", "-m", "128M", "-d", str(disk), "-h", str(tmp_path), "-l", str(tmp_path / "userboot.so")]
    result = bhyveload(*words, "--compat", "13.2", "-e", "from=outside")
    # The record was made without the variable that spares both loaders the menu
    assert result.stdout.splitlines()[0] == (
        'variable beastie_disable: "YES" with the built-in loader, not set with userboot.so'
    )
    assert result.returncode == 3
    assert result.stderr == ""
    as_json = json.loads(bhyveload(*words, "--compat", "13.2", "--json").stdout)
    assert as_json["equal"] is False
    assert [load["loader"] for load in as_json["loads"]] == ["built-in", str(tmp_path / "userboot.so")]
    assert 'variable from: not set with the built-in loader, "outside" with userboot.so' in as_json["differences"]
    assert disk.read_bytes() == before
    assert not vmm_directory.exists() or os.listdir(vmm_directory) == []
