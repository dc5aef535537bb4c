"""bhyvectl --list: what there is and what it does.  In a pipe a name a line, as it is; on a terminal a table."""

from __future__ import annotations

import sys
import time

from bhyveload.jsontext import dumps
from bhyveload.printable import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SCHEMA = 1
_HEADINGS = ("NAME", "STATE", "PID", "SINCE", "MEMORY", "CONSOLE", "DISKS")


def as_json() -> str:
    """docs/bhyvectl-json.md."""
    from bhyveload.running.machines import survey  # sockets and the like: not for a list of names

    return dumps({"schema": SCHEMA, "machines": survey()}, indent=2) + "\n"


def as_text(terminal: bool | None = None) -> str:
    """``terminal``: whether people read it; None: whether standard output is one."""
    if terminal is None:
        terminal = sys.stdout.isatty()
    if not terminal:
        from bhyveload.vm.directory import list_machines

        return "".join(f"{name}\n" for name in list_machines())
    from bhyveload.running.machines import survey

    rows = [_HEADINGS, *(_row(machine) for machine in survey())]
    if len(rows) == 1:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )


def _row(machine: dict[str, Any]) -> tuple[str, ...]:
    memory = machine["memory"]
    since = machine["since"]
    return (
        escape(machine["name"]),
        machine["state"],
        str(machine["pid"] or "-"),
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since)) if isinstance(since, int) else "-",
        f"{(memory['low'] + memory['high']) >> 20}M" if memory else "-",
        escape(str(machine["console"] or "-")),
        " ".join(escape(disk["path"]) for disk in machine["disks"]) or "-",
    )
