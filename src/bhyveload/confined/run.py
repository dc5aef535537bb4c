"""Have a confined child do a piece of work: the one way in which anything here looks at a guest's bytes."""

from __future__ import annotations

from bhyveload import need
from bhyveload.confined.child import Child
from bhyveload.confined.reports import NEED
from bhyveload.confined.shape import Misfit
from bhyveload.errors import ReportError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bhyveload.confined.child import Leave, Report
    from bhyveload.confined.confinement import Subject
    from bhyveload.confined.deadline import Deadline
    from bhyveload.confined.shape import Shape


def run(
    work: Callable[[Leave], Report],
    subject: Subject,
    deadline: Deadline,
    shape: Shape,
    *,
    prepare: Callable[[], object] | None = None,
    again: Callable[[], object] | None = None,
) -> Any:
    """What ``work`` reports from a child that is confined to ``subject``, checked against ``shape``.

    A child that lacks modules (need.py) ends, this process imports them and starts another: ``work`` runs as often as
    it takes, all of it within ``deadline``.  ``prepare`` runs in each child before it is confined, ``again`` in this
    process before each child but the first.  The console of ``subject`` does not show again what it has shown.
    Raises the BhyveloadError that the child reported, ReportError, LoaderCrashed (signal, time out, silence),
    HostError (no process).
    """
    turn = -1
    while (turn := turn + 1) < len(need.GROUPS) + 2:  # what is imported may declare more
        if turn and again is not None:
            again()
        report = Child(work, subject, prepare).report(deadline)
        if "need" not in report:
            if subject.console is not None:
                subject.console.skip(0)
            return fitting(report, shape, subject.name)
        wanted = fitting(report, NEED, subject.name)
        name = wanted["need"]
        if name not in need.GROUPS and name != need.EVERYTHING:
            break
        need.load(name)
        if subject.console is not None:
            subject.console.skip(wanted["shown"])
    raise ReportError(f"{subject.name} asked for a module that does not exist, or again for one that it had")


def fitting(report: object, shape: Shape, name: str) -> Any:
    """``report`` as ``shape`` has it.  Raises ReportError."""
    try:
        return shape.check(report)
    except Misfit as misfit:
        raise ReportError(f"{name}'s report lacks a usable '{misfit.where}'") from None
