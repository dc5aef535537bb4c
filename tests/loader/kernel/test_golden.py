"""Guest memory, register calls, console and written sectors of whole runs equal those of FreeBSD's own loader."""

from __future__ import annotations

import pytest

from support.golden import Record, changed_sectors, differences, records, replay


@pytest.mark.parametrize(("version", "name"), records())
def test_same_as_freebsd(version: str, name: str) -> None:
    record = Record(version, name)
    disks = record.disks()
    outcome = replay(record, disks)
    assert outcome.console == record.console
    assert outcome.end == "exec"
    recorded = record.memory()
    assert differences(outcome.memory.read(0, len(recorded)), recorded, record.ignored) == []
    assert outcome.report["calls"] == record.calls
    assert changed_sectors(record, disks) == record.written()
