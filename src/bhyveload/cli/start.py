"""How the programs start, and how bhyveload ends, as fast as that can be: the installed programs call this.

Collecting garbage while modules are imported finds none, and this process makes little: its children, who see a guest's
bytes, collect theirs.  The end of an interpreter takes everything apart that the end of the process frees anyway.
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


def bhyveload() -> NoReturn:
    """The program bhyveload(8)."""
    occupy_standard_descriptors()
    # Ctrl-C among the imports: nothing to undo, nothing to show
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    gc.disable()
    from bhyveload.cli import bundle

    recorder = None if bundle.use() or sys.dont_write_bytecode else bundle.record()
    from bhyveload.cli.bhyveload import main

    first = len(recorder.ready) if recorder is not None else 0

    status = main()
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (1, 2, 15))  # all is done, whatever arrives now
    if recorder is not None and not status:
        bundle.keep(recorder, first)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass  # main has told of it
    os._exit(status)


def bhyverun() -> int:
    """The program bhyverun(8)."""
    occupy_standard_descriptors()
    from bhyveload.cli.bhyverun import main

    return main()


def bhyve() -> int:
    """The program bhyve(8)."""
    occupy_standard_descriptors()
    from bhyveload.cli.bhyve import main

    return main()


def bhyvectl() -> int:
    """The program bhyvectl(8)."""
    occupy_standard_descriptors()
    from bhyveload.cli.bhyvectl import main

    return main()


def bhyvedisk() -> int:
    """The program bhyvedisk(8)."""
    occupy_standard_descriptors()
    from bhyveload.cli.bhyvedisk import main

    return main()
