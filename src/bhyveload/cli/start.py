"""How bhyveload starts and ends, in milliseconds saved: what setup installs as the program calls this.

Collecting garbage while modules are imported finds none, and afterwards there is no need to look at them again.  The
end of an interpreter takes everything apart that the end of the process frees anyway.
"""

from __future__ import annotations

import _signal
import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def bhyveload() -> NoReturn:
    """The program bhyveload(8)."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(
            _signal.SIGINT, _signal.SIG_DFL
        )  # Ctrl-C while modules are imported: nothing to undo, or to show
    gc.disable()
    from bhyveload.cli.bhyveload import main

    gc.freeze()
    gc.enable()
    status = main()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass  # main has told of it
    os._exit(status)
