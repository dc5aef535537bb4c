"""Guest memory, register calls and console of whole runs equal those of FreeBSD's own loader, byte for byte."""

from __future__ import annotations

import pytest

from golden import Record, differences, records, replay


@pytest.mark.parametrize(("version", "name"), records())
def test_same_as_freebsd(version: str, name: str) -> None:
    record = Record(version, name)
    outcome = replay(record)
    assert outcome.console == record.console
    assert outcome.end == "exec"
    recorded = record.memory()
    assert differences(outcome.memory.read(0, len(recorded)), recorded, record.ignored) == []
    assert outcome.report["calls"] == record.calls
