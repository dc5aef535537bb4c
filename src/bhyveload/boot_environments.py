"""The ZFS boot environments on a guest's disks, listed without booting anything (bhyveload --list-boot-envs)."""

from __future__ import annotations

from bhyveload.confined.confinement import Subject
from bhyveload.confined.deadline import SURVEY_SECONDS, deadline_of
from bhyveload.confined.reports import POOLS
from bhyveload.confined.run import run
from bhyveload.need import load as load_module
from bhyveload.sandbox import Sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from bhyveload.confined.child import Leave
    from bhyveload.confined.deadline import Deadline
    from bhyveload.device import Device


def list_boot_environments(
    disks: Sequence[Device], *, sandbox: Sandbox | bool = True, timeout: float | Deadline | None = None
) -> dict[str, Any]:
    """ "pools": each with "name" and "boot_environments" (fs/zfs/facts.py), or "error" and "hint" where it cannot be
    used.  A confined child reads the disks; nothing is written to them.

    Raises ReportError, LoaderCrashed, SandboxError.
    """
    from bhyveload.inspect.volumes import ZFS_FACTS, DiskVolumes

    load_module(ZFS_FACTS)
    from bhyveload.fs.zfs.facts import boot_environments

    if sandbox is True:
        sandbox = Sandbox()

    def work(_: Leave) -> dict[str, Any]:
        found = DiskVolumes(disks).pools
        pools: list[dict[str, Any]] = []
        if found is not None:
            read = found.readable
            pools += [{"name": pool.name, "boot_environments": boot_environments(pool)} for pool in read.pools]
            pools += [{"name": name, "error": error.message, "hint": error.hint} for name, error in read.dropped]
        return {"pools": pools}

    subject = Subject("the boot environments' reader", sandbox or None, disks=disks)
    listing: dict[str, Any] = run(work, subject, deadline_of(timeout).or_else(SURVEY_SECONDS), POOLS)
    return listing


def lines(listing: dict[str, Any]) -> Iterator[str]:
    """As bectl(8) lists them: R marks what boots always, T what boots once."""
    import time

    rows = [("BE", "Active", "Created")]
    for pool in listing["pools"]:
        for environment in pool.get("boot_environments", ()):
            active = ("R" if environment["bootfs"] else "") + ("T" if environment["boot_once"] else "")
            created = time.strftime("%Y-%m-%d %H:%M", time.gmtime(min(environment["created"], 1 << 37)))
            rows.append((environment["name"], active or "-", created))
    width = max(len(row[0]) for row in rows)
    for name, active, created in rows:
        yield f"{name:{width}}  {active:6}  {created}"
