"""Every recorded session at the Forth prompt (tests/data/forth), byte for byte."""

from __future__ import annotations

import json
import sys

import pytest

from bhyveload.loader.interpreter.forth import translate
from bhyveload.need import load_all
from support.forth_runs import run_forth
from support.golden import memory_disk
from support.places import DATA

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FORTH = DATA / "forth"
SHARES = 4


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("version", ["13.2", "current"])
def test_sessions(version: str, share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    load_all()
    if share % 2:
        monkeypatch.setattr(translate, "HOT", 1)  # every definition as a Python function, from its first call on
    sessions = json.loads(zstd.decompress((FORTH / "sessions.json.zst").read_bytes()))
    disk = memory_disk(zstd.decompress((FORTH / "forth.img.zst").read_bytes()))
    try:
        for seed in sorted(sessions, key=int)[share::SHARES]:
            record = sessions[seed]
            outcome = run_forth(record["keys"].encode("latin-1"), [disk], current=version == "current")
            assert outcome.console.decode("latin-1") == record[version], f"session {seed}"
    finally:
        disk.close()
