"""A guest that a userboot object left, run: its report from inside, and the comparison with the built-in loader."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support.end_to_end import bhyveload, check_guest, load, memory_file, needs_gcc, needs_qemu, read_memory, run_guest
from support.userboot_testing import build, encoded_calls

pytestmark = [needs_qemu, needs_gcc]


@pytest.fixture
def object_words(tmp_path: Path, probe_disk: Path) -> list[str | Path]:
    """-l and -h for an object that leaves what the built-in loader left, and nothing of that load."""
    report = load("-d", probe_disk, "-m", "128M", "-e", "from=outside")
    host = tmp_path / "host"
    host.mkdir()
    (host / "memory").write_bytes(read_memory(0, report["kernend"]))
    (host / "calls").write_bytes(encoded_calls(report["calls"]))
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "userboot.so").write_bytes(build(tmp_path, source="replay.c"))
    for file in memory_file().parent.iterdir():
        file.unlink()
    return ["-l", tmp_path / "userboot.so", "-h", host]


def test_the_guest_runs(object_words: list[str | Path], tmp_path: Path, probe_disk: Path, probe_kernel: Path) -> None:
    built_in = json.loads((tmp_path / "report.json").read_text())
    report = load("-d", probe_disk, "-m", "128M", *object_words)
    assert report["loader"] == str(tmp_path / "userboot.so")
    for name in ("calls", "entry", "environment", "howto", "kernend", "modulep", "memory", "vcpu", "disks", "loaddev"):
        assert report[name] == built_in[name], name
    assert [file["address"] for file in report["files"]] == [file["address"] for file in built_in["files"]]
    assert set(report) == set(built_in), "both reports have the same members"
    check_guest(run_guest(), report, probe_kernel)


def test_the_comparison_of_a_guest_that_boots_by_itself(
    object_words: list[str | Path], tmp_path: Path, probe_disk: Path
) -> None:
    words: list[str | Path] = ["--cross-check", "-d", probe_disk, "-m", "128M", "-e", "from=outside"]
    done = bhyveload(*words, *object_words, check=3)
    # the record was made with --batch, which sets no prompt and puts back what --cross-check leaves
    lines = done.out.decode().splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("variable")] == [
        "variable beastie_disable",
        "variable interpret",
        "variable prompt",
    ]
    assert all(re.match(r"variable|guest page .* \(environment\)", line) for line in lines)
