"""Names that are no UTF-8, and names of any language, in everything a program may read: each kind of JSON document for
parsers that refuse lone surrogates, the list of VMs through a pipe as bhyvectl(8) shows it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import stock_like
from support.end_to_end import PROGRAMS, bhyveload, program
from support.images import make_ufs, standard_disk
from support.places import ROOT
from support.zfs_pools import disk as fixture
from support.zfs_pools import pread

RAW = os.fsdecode(b"v\xffm\xc3\xbc")
STANDS_FOR = "v\U0010ffffm\u00fc"  # docs/bhyvedisk-json.md, docs/state-json.md: a byte NN that is no UTF-8 is U+10FFNN


def strict(data: bytes) -> Any:
    """As a parser takes it that knows the standard only (RFC 8259): ASCII here, no NaN, every string is Unicode."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs)
        return dict(pairs)

    value = json.loads(data.decode("ascii"), parse_constant=refuse, object_pairs_hook=unique)
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guest with a kernel, a preload, a boot script's variable, and a disk's file, whose names are no UTF-8."""
    folder = tmp_path_factory.mktemp("odd")
    script = (
        b'loader.setenv("odd_\\255", "value \\255\\200")\n'
        b'loader.perform("load /boot/k\\255/kernel")\nloader.perform("load -t r\\255w /boot/n\\255me")\n'
        b'loader.perform("boot")\n'
    )
    tree = stock_like.write_tree(folder / "tree", "new", size=0)
    (tree / "boot" / "lua" / "loader.lua").write_bytes(script)
    os.makedirs(os.fsencode(tree) + b"/boot/k\xff")
    os.link(tree / "boot" / "kernel" / "kernel", os.fsencode(tree) + b"/boot/k\xff/kernel")
    Path(os.fsdecode(os.fsencode(tree) + b"/boot/n\xffme")).write_text("raw")
    return standard_disk(folder / RAW, make_ufs(tree, folder / "ufs", 4 << 20))


def documents(disk: Path, name: str) -> dict[str, Callable[[], bytes]]:
    """Kind -> how to get one: every program's --json."""
    pool = fixture("bootenv.0")
    copy = disk.parent / "pool\udcff"
    if not copy.exists():
        copy.write_bytes(pread(pool, 0, pool.size))
    return {
        "report": lambda: bhyveload("--batch", "--json", "-d", disk, name, check=0).out,
        "dry run": lambda: bhyveload("--batch", "--dry-run", "--json", "-d", disk, name, check=0).out,
        "boot environments": lambda: bhyveload("--list-boot-envs", "--json", "-d", copy, check=0).out,
        "machines": lambda: program("bhyvectl", "--list", "--json", check=0).out,
        "state": lambda: program("bhyvectl", f"--vm={name}", "--json", check=0).out,
        "what is on the disks": lambda: program("bhyvedisk", "--json", "info", disk, check=0).out,
    }


def test_every_kind_of_document(disk: Path, vmm_directory: Path) -> None:
    found = {kind: strict(get()) for kind, get in documents(disk, "vm\u00fc").items()}
    report = found["report"]
    odd = "\xff"  # docs/report-json.md: a character a byte
    assert [file["name"] for file in report["files"]] == [f"/boot/k{odd}/kernel", f"/boot/n{odd}me"]
    assert report["environment"][f"odd_{odd}"] == f"value {odd}\xc8"
    assert found["state"]["loaded"]["files"] == report["files"]
    assert [machine["name"] for machine in found["machines"]["machines"]] == ["vm\u00fc"]
    assert STANDS_FOR in json.dumps(found["what is on the disks"], ensure_ascii=False)
    (state,) = vmm_directory.glob("*/state.json")
    assert strict(state.read_bytes()) == found["state"]


def test_the_manuals_loop_finds_every_machine(disk: Path, vmm_directory: Path) -> None:
    """The line of EXAMPLES as it stands there, in a shell."""
    names = ["guest", "vm\u00fc", " blanks ", "back\\slash", "-d", "*"]
    for name in names:
        bhyveload("--batch", "-m", "64M", "-d", disk, "--", name, check=0)
    page = (ROOT / "man" / "bhyvectl.8").read_text()
    found = re.search(r"^\.Dl (bhyvectl --list \| .*done)$", page, re.M)
    assert found
    loop = found[1].replace(r"\(dq", '"').replace(r"\(aq", "'").replace("\\-", "-").replace(r"\&", "")
    path = f"{PROGRAMS}:{os.environ['PATH']}"
    before = {os.fsdecode(entry.name) for entry in os.scandir(vmm_directory)}
    assert before == set(names)
    done = subprocess.run(["sh", "-c", loop], env={**os.environ, "PATH": path}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert list(vmm_directory.iterdir()) == []
