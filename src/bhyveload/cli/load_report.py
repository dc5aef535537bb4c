"""What bhyveload(8) says of a load when it is asked to: of one that worked its report, of one that did not the way."""

from __future__ import annotations

import sys

from bhyveload.cli.messages import report_error, warn
from bhyveload.inspect.sizes import human_size
from bhyveload.jsontext import dumps
from bhyveload.printable import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from bhyveload.errors import LoaderError
    from bhyveload.report import LoadReport


def print_report(report: LoadReport, json: bool, variables: bool) -> None:
    """As JSON, as the kernel's variables, or as what would be loaded."""
    if json:
        sys.stdout.write(dumps(report.as_dict(), indent=2) + "\n")
    elif variables:
        write_lines(f"{name}={value}" for name, value in report.environment.items())
    else:
        write_lines(_described(report))


def write_lines(lines: Iterable[str]) -> None:
    """To standard output, escaped."""
    sys.stdout.write("".join(f"{escape(line)}\n" for line in lines))


def _described(report: LoadReport) -> Iterator[str]:
    """The dry run's text: what would be loaded from where, with which variables."""
    yield f"from {report.currdev} ({report.filesystem or 'no file system'}), scripts: {report.interpreter}"
    for file in report.files:
        args = f" args: {file.args}" if file.args else ""
        yield f"{file.address:#x} +{file.size:#x} {file.name} ({file.type}){args}"
    yield f"entry {report.entry:#x}, howto {report.howto:#x}, ends at {report.kernend:#x}"
    for name, value in report.environment.items():
        yield f"{name}={value}"


def print_explanation(program: str, error: LoaderError, json: bool) -> int:
    """The error, and behind it the way to it: as lines on standard error, or as JSON.  The exit status."""
    told = error.explanation or {}
    status = report_error(program, error)
    if json:
        failure = {"schema": 1, "error": "LoaderError", "message": error.message, "hint": error.hint}
        sys.stdout.write(dumps({**failure, "explanation": told}, indent=2) + "\n")
    else:
        for line in _explained(told):
            warn(program, f"| {line}")
    return status


def _explained(told: Mapping[str, Any]) -> Iterator[str]:
    for disk in told["disks"]:
        table = disk["error"] or f"partition table: {disk['table']}"
        yield f"{disk['name']}: {disk['path']}, {human_size(disk['size'])}, {table}"
        for part in disk["partitions"]:
            chosen = " <- the loader's choice" if part["name"] == told["device"] else ""
            yield f"  {part['name']} ({part['type']}): {part['file_system'] or part['why']}{chosen}"
    for pool in told["pools"]:
        yield f"pool {pool['name']}: {pool['error'] or 'usable'}"
    scripts = f", scripts: {told['interpreter']}" if told["interpreter"] else ""
    yield f"booted from: {told['device'] or 'nothing'} ({told['file_system'] or 'no file system'}{scripts})"
    if told["looked_for"]:
        yield "looked for (a file, too, with .gz, .bz2, .zst or .xz behind its name):"
    for file in told["looked_for"]:
        yield f"  {file['path']}: {'found' if file['found'] else file['why']}"
    for name in told["near"]:
        yield f"there is: {name}"
    for name in told["elsewhere"]:
        yield f"bootable, too: --boot-device {name}"
