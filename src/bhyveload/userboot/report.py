"""How a userboot object's run ended, as the same values that the built-in loader reports (docs/state-json.md)."""

from __future__ import annotations

import time

from bhyveload.host.ends import report_of
from bhyveload.userboot.handover import Handover, read_handover, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from bhyveload.host.callbacks import LoaderCallbacks
    from bhyveload.userboot.run import Prepared


def run_userboot(
    prepared: Prepared,
    host: LoaderCallbacks,
    leave: Callable[[dict[str, Any]], object],
    failure: Callable[[BaseException], object],
) -> NoReturn:
    """Run a prepared object and give ``leave`` its report, or ``failure`` the error; neither may return.

    The report has "end": "exec" (with files, environment, addresses as loader/report.py gives them, and "vcpu"), "exit"
    (with "code") or "swap" (with "interpreter").  With confined/child.py: ``run_userboot(prepared, host, leave,
    leave.failure)``.
    """
    started = time.perf_counter_ns()

    def ended(end: BaseException) -> None:
        try:
            report = _outcome(end, host, started)
        except BaseException as error:
            failure(error)
        else:
            leave(report)

    prepared.run(len(host.disks), ended)


def _outcome(end: BaseException, host: LoaderCallbacks, started: int) -> dict[str, Any]:
    def ready() -> dict[str, Any]:
        timings = {"loader": time.perf_counter_ns() - started}
        return {**describe(host), "vcpu": host.vcpu.as_dict(), "timings": timings}

    hint = "let the guest boot by itself, with autoboot_delay in its loader.conf, or type `boot`"
    return report_of(end, ready, hint)


def describe(host: LoaderCallbacks) -> dict[str, Any]:
    """What the object left in guest memory: it says nothing itself, so this is read from what it handed over."""
    handover = read_handover(host.memory, host.vcpu)
    environment = dict(handover.environment)
    files = _files(handover)
    return {
        "interpreter": environment.get("script.lang", ""),
        "compat": "",
        "currdev": environment.get("currdev", ""),
        "loaddev": environment.get("loaddev", ""),
        "partition": None,
        "filesystem": "",
        "howto": handover.files[0].number("HOWTO") if handover.files else 0,
        "entry": host.vcpu.registers.get("rip", 0),
        "files": files,
        "kernel": files[0] if files else None,
        "environment": environment,
        "calls": host.calls,
        "notes": handover.faults,
        "modulep": handover.modulep,
        "kernend": handover.kernend,
    }


def _files(handover: Handover) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = []
    for file in handover.files:
        address, size = file.extent()
        kind, arguments = (text(file.payload(record) or b"") for record in ("TYPE", "ARGS"))
        files.append(
            {"name": file.name, "type": kind, "args": arguments, "address": address, "size": size, "modules": []}
        )
    return files
