"""How the programs start and end, as fast as that can be: the installed programs call this.

Collecting garbage while modules are imported finds none; bhyveload's own process makes little afterwards, either: its
children, who see a guest's bytes, collect theirs.  The end of an interpreter takes everything apart that the end of the
process frees anyway.
"""

from __future__ import annotations

import _signal
import gc
import os
import sys

from bhyveload.cli.descriptors import occupy_standard_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_NO_ERROR = 3  # bhyve(8)'s exit statuses up to here tell how a guest ended


def bhyveload() -> NoReturn:
    """The program bhyveload(8)."""
    _run("bhyveload")


def bhyverun() -> NoReturn:
    """The program bhyverun(8)."""
    _run("bhyverun")


def bhyve() -> NoReturn:
    """The program bhyve(8)."""
    _run("bhyve")


def bhyvectl() -> NoReturn:
    """The program bhyvectl(8)."""
    _run("bhyvectl")


def bhyvedisk() -> NoReturn:
    """The program bhyvedisk(8)."""
    _run("bhyvedisk")


def _run(program: str) -> NoReturn:
    occupy_standard_descriptors()
    # Ctrl-C among the imports: nothing to undo, nothing to show
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    gc.disable()
    from bhyveload.cli import bundle

    recorder = None
    if not bundle.use(program) and not sys.dont_write_bytecode:
        recorder = bundle.record()
        bundle.bring_first(program)
    first = len(recorder.ready) if recorder is not None else 0
    __import__(f"bhyveload.cli.{program}")
    if program != "bhyveload":
        gc.freeze()
        gc.enable()

    status = sys.modules[f"bhyveload.cli.{program}"].main()
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (1, 2, 15))  # all is done, whatever arrives now
    if recorder is not None and status <= _NO_ERROR:
        bundle.keep(program, recorder, first)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass  # main has told of it
    os._exit(status)
