"""Names that a guest chose, on the way to a terminal, into JSON, into QEMU's command line: none may act there.

XSA-198 is the model: pygrub handed what a guest had written to a program that took it for its own.
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from bhyveload import api, loading
from bhyveload.cli.messages import report_error
from bhyveload.errors import BhyveloadError, LoaderError, ReportError
from bhyveload.handoff.qemu.drives import option_value
from bhyveload.loader.state import Options
from bhyveload.vm.store import VirtualMachine
from support.end_to_end import program
from support.forged_reports import LOADED
from support.golden import kernel_of_a_record
from support.images import MIB, make_ufs, standard_disk

EVIL = "\x1b]0;pwned\x07\x1b[2J\x9b31m\r\n\x00\x7f,=%n$(id)`id`;|&'\"\\"
IN_NAMES = EVIL.replace("\0", "").replace("/", "")
SHOWN = "\\x1b]0;pwned\\x07"


@pytest.fixture(scope="module")
def evil_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guest that names everything it can so: kernel, module, variables, arguments."""
    folder = tmp_path_factory.mktemp("evil")
    kernel = kernel_of_a_record()
    boot = folder / "tree" / "boot"
    for path in (boot / "kernel", boot / "lua", boot / IN_NAMES):
        path.mkdir(parents=True)
    for path in (boot / "kernel" / "kernel", boot / IN_NAMES / IN_NAMES):
        path.write_bytes(kernel)
    name = "".join(f"\\{byte}" if byte < 48 or byte > 122 else chr(byte) for byte in IN_NAMES.encode("latin-1"))
    name = "".join(f"\\{byte:03d}" for byte in IN_NAMES.encode("utf-8", "surrogateescape"))
    (boot / "lua" / "loader.lua").write_text(
        f'local evil = "{name}"\n'
        'loader.setenv("kern." .. evil, evil)\n'
        'loader.setenv("kernelname.evil", evil)\n'
        'loader.command("load", "/boot/" .. evil .. "/" .. evil, evil)\n'
        'loader.command("boot")\n'
    )
    return standard_disk(folder / "disk.img", make_ufs(folder / "tree", folder / "fs", 8 * MIB))


def make_blank(beside: Path) -> Path:
    """A disk without anything to boot."""
    path = beside.with_name("blank.img")
    path.write_bytes(bytes(MIB))
    return path


def harmless(output: bytes, what: str) -> None:
    assert output.isascii(), what
    bad = [byte for byte in output if (byte < 32 and byte not in b"\t\n") or byte == 127]
    assert not bad, (what, output)


@pytest.mark.parametrize("option", ["--dry-run", "--json", "--list-variables"])
def test_what_bhyveload_prints(evil_disk: Path, option: str) -> None:
    done = program("bhyveload", "--batch", option, "-d", evil_disk, "guest", check=0)
    harmless(done.out, option)
    if option == "--json":
        report = done.json
        assert any("pwned" in file["name"] for file in report["files"])
        assert any("pwned" in name for name in report["environment"])
    else:
        assert SHOWN.encode() in done.out
        lines = done.out.decode().splitlines()
        assert not any(line.startswith("\\n") for line in lines)
        assert sum("pwned" in line for line in lines) >= 2


def test_what_bhyveload_says_when_it_fails(evil_disk: Path) -> None:
    command = "load /boot/" + IN_NAMES.replace(" ", "")
    done = program("bhyveload", "--batch", "--loader-command", command, "-d", make_blank(evil_disk), "guest")
    assert done.status != 0
    harmless(done.err, "an error")
    assert done.err.count(b"\n") == 1


def test_the_console_gets_it_as_it_is(evil_disk: Path) -> None:
    """The guest's own console is the one place: bhyve and every terminal program behind it show it so, too."""
    done = program("bhyveload", "--batch", "-d", evil_disk, "guest", check=0)
    assert b"\x1b]0;pwned\x07" in done.out
    harmless(done.err, "standard error")


def test_state_and_the_other_programs(evil_disk: Path, vmm_directory: Path) -> None:
    program("bhyveload", "--batch", "-d", evil_disk, "guest", check=0)
    text = (vmm_directory / "guest" / "state.json").read_bytes()
    harmless(text, "state.json")
    assert text.count(b"\n") == 1
    assert "pwned" in json.loads(text)["loaded"]["files"][0]["name"]
    for words in (["--list"], ["--vm=guest", "--get-all"], ["--vm=guest", "--json"]):
        harmless(program("bhyvectl", *words).out, str(words))
    done = program("bhyverun", "--dry-run", "guest", check=0)
    harmless(done.out, "QEMU's command")
    assert b"pwned" not in done.out


@pytest.mark.parametrize("words", [["info"], ["info", "--json"], ["ls", "-lR"]])
def test_bhyvedisk(evil_disk: Path, words: list[str]) -> None:
    """checksum's lines are for sha256sum -c, which wants names as they are; they are escaped on a terminal."""
    done = program("bhyvedisk", *words, evil_disk)
    harmless(done.out, str(words))
    harmless(done.err, str(words))


def test_the_user_s_own_names_reach_qemu_as_one_word(tmp_path: Path, evil_disk: Path) -> None:
    """Commas of a path are doubled in option lists, and the printed command is quoted for a shell."""
    folder = tmp_path / "a,file=x b'$(id)"
    folder.mkdir()
    disk = folder / "disk,if=none.img"
    os.link(evil_disk, disk) if evil_disk.stat().st_dev == folder.stat().st_dev else disk.write_bytes(
        evil_disk.read_bytes()
    )
    program("bhyveload", "--batch", "-d", disk, "guest", check=0)
    done = program("bhyverun", "--dry-run", "guest", check=0)
    words = shlex.split(done.out.decode())
    holding = [word for word in words if "disk,,if=none.img" in word or "disk,if=none.img" in word]
    assert len(holding) == 1
    assert str(disk).replace(",", ",,") in holding[0] or json.loads(holding[0])["file"]["filename"] == str(disk)
    assert option_value("a,b") == "a,,b"


def test_a_report_says_nothing_that_is_the_parent_s_to_say(
    monkeypatch: pytest.MonkeyPatch, vmm_directory: Path
) -> None:
    """Another VM's name, other disks, flags: dropped.  Another register: refused."""
    vcpu: dict[str, Any] = {"registers": {"rip": 1}, "selectors": {}, "descriptors": {}}
    report = {**LOADED, "end": "exec", "vcpu": vcpu, "schema": 7, "vm": "other", "disks": [{"path": "/etc/shadow"}]}
    monkeypatch.setattr(loading, "run_loader", lambda *_, **__: report)
    with VirtualMachine.create("guest", MIB) as vm:
        api.load(vm, options=Options(batch=True))
    loaded = json.loads((vmm_directory / "guest" / "state.json").read_text())["loaded"]
    assert (loaded["schema"], loaded["vm"], loaded["disks"]) == (1, "guest", [])
    vcpu["registers"]["../../x"] = 1
    with VirtualMachine.create("guest", MIB) as vm, pytest.raises(ReportError, match=r"usable 'vcpu\.registers'"):
        api.load(vm, options=Options(batch=True))


def test_an_error_s_text_cannot_forge_a_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:

    def fail(*_: object, **__: object) -> None:
        raise LoaderError("first\nsecond" + EVIL, "hint\r" + EVIL)

    monkeypatch.setattr(loading, "run_loader", fail)
    with VirtualMachine.create("guest", MIB) as vm, pytest.raises(BhyveloadError) as caught:
        api.load(vm, options=Options(batch=True))
    report_error("bhyveload", caught.value)
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    harmless(error.encode(), "an error")
