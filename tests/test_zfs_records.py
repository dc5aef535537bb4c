"""Our loader on the pools of the fixtures says and writes what FreeBSD's own loader said and wrote, byte for byte."""

from __future__ import annotations

import pytest

import harness
import zfs_pools
from bhyveload.image.raw import RawImage
from zfs_pools import Record, disk, record_names


def changed_bytes(name: str, after: RawImage) -> list[int]:
    before, now = zfs_pools.content(name), bytes(after.read(0, after.size))
    if before == now:
        return []
    found = []
    for start in range(0, len(now), 4096):
        old, new = before[start : start + 4096], now[start : start + 4096]
        if old != new:
            found += [start + at for at in range(len(new)) if old[at] != new[at]]
    return found


@pytest.mark.parametrize("name", record_names())
def test_same_as_freebsd(name: str) -> None:
    record = Record(name)
    disks = [disk(part) for part in record.disks]
    outcome = harness.run(disks, record.keys, environment=record.environment, memory=256 << 20)
    assert outcome.console == record.console
    assert (outcome.end, outcome.code) == ("exit", 1)
    changed = [(unit, at) for unit, part in enumerate(record.disks) for at in changed_bytes(part, disks[unit])]
    assert len(changed) == record.changed
    for unit, at in changed:
        assert any(unit == disk_ and start <= at < start + length for disk_, start, length in record.writes)
