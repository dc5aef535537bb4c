"""Our loader on the pools of the fixtures says and writes what FreeBSD's own loader said and wrote, byte for byte."""

from __future__ import annotations

import pytest

from bhyveload.image.raw import RawImage
from support import harness
from support.zfs_pools import Record, disk, pread, record_names, writable_disk

MIB = 1 << 20


def changed_bytes(name: str, after: RawImage) -> list[int]:
    before = disk(name)
    found = []
    for start in range(0, after.size, MIB):
        length = min(MIB, after.size - start)
        old, new = pread(before, start, length), pread(after, start, length)
        if old != new:
            found += [start + at for at in range(length) if old[at] != new[at]]
    return found


@pytest.mark.parametrize("name", record_names())
def test_same_as_freebsd(name: str) -> None:
    record = Record(name)
    disks = [writable_disk(part) for part in record.disks]
    outcome = harness.run(disks, record.keys, environment=record.environment, memory=256 << 20)
    assert outcome.console == record.console
    assert (outcome.end, outcome.code) == ("exit", 1)
    changed = [(unit, at) for unit, part in enumerate(record.disks) for at in changed_bytes(part, disks[unit])]
    assert len(changed) == record.changed
    for unit, at in changed:
        assert any(unit == disk_ and start <= at < start + length for disk_, start, length in record.writes)
