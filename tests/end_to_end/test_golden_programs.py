"""The golden records once more, by the program that people type: console on standard output, keys on standard input."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support.end_to_end import bhyveload
from support.golden import Record, differences, records
from support.ufs_images import decompress


@pytest.mark.parametrize(("version", "name"), records(interpreter="lua"))
def test_same_as_freebsd(version: str, name: str, tmp_path: Path) -> None:
    record = Record(version, name)
    words: list[str | Path] = ["--compat", version, "-m", f"{record.memory_size >> 20}M"]
    for text in record.environment:
        words += ["-e", text.decode("latin-1")]
    for disk in record.names:
        (tmp_path / disk).write_bytes(decompress(record.folder / f"{disk}.zst"))
        words += ["-d", tmp_path / disk]
    done = bhyveload(*words, "vm", keys=record.keys, check=0)
    assert done.out == record.console
    vm = Path(os.environ["BHYVE_VMM_DIR"]) / "vm"
    recorded = record.memory()
    with (vm / "memory").open("rb") as file:
        assert differences(file.read(len(recorded)), recorded, record.ignored) == []
    state = json.loads((vm / "state.json").read_text())
    assert state["loaded"]["calls"] == record.calls
    entry = next(line for line in record.calls if line.startswith("exec "))
    assert entry.split("rip=")[1].startswith(f"{state['vcpus'][0]['registers']['rip']:#x}")
    for (disk, sector), content in record.written().items():
        with (tmp_path / disk).open("rb") as file:
            file.seek(sector * 512)
            assert file.read(512) == content
