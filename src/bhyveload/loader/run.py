"""One run of the built-in loader over the host callbacks: what the child process does."""

from __future__ import annotations

import time

from bhyveload import need
from bhyveload.bootable import FIRST_INTERPRETER
from bhyveload.errors import LoaderError
from bhyveload.host.callbacks import LoaderEnd
from bhyveload.host.ends import report_of
from bhyveload.loader.batch import lock_variables
from bhyveload.loader.interpreter.table import INTERPRETERS
from bhyveload.loader.main import loader_main
from bhyveload.loader.report import describe
from bhyveload.loader.state import Loader
from bhyveload.need import OnDemand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from bhyveload.compat import LoaderVersion
    from bhyveload.confined.child import Leave
    from bhyveload.host.callbacks import LoaderCallbacks
    from bhyveload.loader import explanation
    from bhyveload.loader.state import Options
else:
    explanation = OnDemand("bhyveload.loader.explanation")


def run_loader(
    host: LoaderCallbacks,
    interpreter: str = FIRST_INTERPRETER,
    version: LoaderVersion = "current",
    options: Options | None = None,
    leave: Leave | None = None,
    *,
    swaps: bool = False,
) -> dict[str, Any]:
    """Run the built-in loader; how it ended.

    The result has "end": "exec" (with the report of loader/report.py and "vcpu"), "exit" (with "code") or "swap" (with
    "interpreter").  ``leave``: where given, called with the result instead of returning, from wherever the loader is
    (a guest's Lua cannot hold it back).  ``swaps``: where the guest's scripts are for another interpreter that is built
    in, that one goes on here, once: a loader that finds so has touched nothing of the machine yet.
    Raises LoaderError at the end of input and when --batch cannot boot.
    """
    started = time.perf_counter_ns()
    result = _run(host, interpreter, version, options, leave, started)
    if swaps and result["end"] == "swap" and result["interpreter"] in INTERPRETERS:
        return _run(host, result["interpreter"], version, options, leave, started)
    return result


def _run(
    host: LoaderCallbacks,
    interpreter: str,
    version: LoaderVersion,
    options: Options | None,
    leave: Leave | None,
    started: int,
) -> dict[str, Any]:
    loader = Loader(host, version, options)
    if loader.options.explain:
        explanation.begin(loader)

    def ready() -> dict[str, Any]:
        result = describe(loader, interpreter)
        result["vcpu"] = host.vcpu.as_dict()
        loader.stage("")
        result["timings"] = {**loader.timings, "loader": time.perf_counter_ns() - started}
        result["needed"] = need.used()
        return result

    def outcome(end: BaseException) -> dict[str, Any]:
        return report_of(end, ready, "use --batch to boot without a prompt")

    def leave_now(end: BaseException) -> NoReturn:
        assert leave is not None
        try:
            try:
                result = outcome(end)
            except LoaderError as error:
                raise _explained(loader, error) from None
        except BaseException as error:
            leave.failure(error)
        leave(result)

    if leave is not None:
        loader.leave = leave_now
    lock_variables(loader, interpreter)
    try:
        loader_main(loader, interpreter)
    except LoaderEnd as end:
        try:
            return outcome(end)
        except LoaderError as error:
            raise _explained(loader, error) from None
    except LoaderError as error:
        raise _explained(loader, error) from None


def _explained(loader: Loader, error: LoaderError) -> LoaderError:
    if loader.options.explain and error.explanation is None:
        error.explanation = explanation.explanation(loader)
    return error
