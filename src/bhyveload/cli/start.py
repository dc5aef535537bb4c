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
    # Ctrl-C among the imports: nothing to undo, nothing to show
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    gc.disable()
    from bhyveload.cli.bhyveload import main

    gc.freeze()
    gc.enable()
    status = main()
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (1, 2, 15))  # all is done, whatever arrives now
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass  # main has told of it
    os._exit(status)
