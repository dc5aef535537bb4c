"""The ZFS boot environments on a guest's disks, listed without booting anything (bhyveload --list-boot-envs)."""

from __future__ import annotations

from bhyveload.confined.child import run_child
from bhyveload.confined.confinement import confine
from bhyveload.errors import ReportError
from bhyveload.need import GROUPS
from bhyveload.need import load as load_module
from bhyveload.sandbox import Sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from bhyveload.confined.child import Leave
    from bhyveload.device import Device


def list_boot_environments(
    disks: Sequence[Device], *, sandbox: Sandbox | bool = True, timeout: float | None = None
) -> dict[str, Any]:
    """ "pools": each with "name" and "boot_environments" (fs/zfs/facts.py), or "error" and "hint" where it cannot be
    used.  A confined child reads the disks; nothing is written to them.

    Raises ReportError, LoaderCrashed, SandboxError."""
    load_module("bhyveload.fs.zfs.facts")
    from bhyveload.fs.zfs.facts import boot_environments
    from bhyveload.inspect.volumes import Disks

    if sandbox is True:
        sandbox = Sandbox()

    def work(leave: Leave) -> dict[str, Any]:
        if isinstance(sandbox, Sandbox):
            confine(sandbox, leave, disks=disks)
        found = Disks(disks).pools
        pools: list[dict[str, Any]] = []
        if found is not None:
            pools += [{"name": pool.name, "boot_environments": boot_environments(pool)} for pool in found.pools]
            pools += [{"name": name, "error": error.message, "hint": error.hint} for name, error in found.dropped]
        return {"pools": pools}

    for _ in range(len(GROUPS) + 1):
        report = run_child(work, lambda: None, timeout)
        if report.get("need") not in GROUPS:
            break
        load_module(report["need"])
    if not isinstance(report.get("pools"), list):
        raise ReportError("the list of boot environments lacks its pools")
    return {"pools": report["pools"]}


def lines(listing: dict[str, Any]) -> Iterator[str]:
    """As bectl(8) lists them: R marks what boots always, T what boots once."""
    import time

    rows = [("BE", "Active", "Created")]
    try:
        for pool in listing["pools"]:
            for environment in pool.get("boot_environments", ()):
                active = ("R" if environment["bootfs"] else "") + ("T" if environment["boot_once"] else "")
                created = time.strftime("%Y-%m-%d %H:%M", time.gmtime(min(int(environment["created"]), 1 << 37)))
                rows.append((str(environment["name"]), active or "-", created))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise ReportError("the list of boot environments is malformed") from None
    width = max(len(row[0]) for row in rows)
    for name, active, created in rows:
        yield f"{name:{width}}  {active:6}  {created}"
