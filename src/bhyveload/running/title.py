"""setproctitle(3) for Linux: what ps(1) and pgrep(1) show of a process.

The kernel shows what stands in the memory where it put the arguments.  When their last byte is not zero any more it
takes the text up to the first zero for a title (fs/proc/base.c:get_mm_proctitle), also where that is among the
environment's variables, which stand behind.
"""

from __future__ import annotations

import ctypes
import os

_COMM_MAX = 15
_ARG_START = 47  # fields of /proc/PID/stat, from 0: arguments, then variables, start and end of each
_TITLE_MAX = 4095  # a page with the zero behind it


def set_title(program: str, title: str) -> None:
    """Call this process ``title`` and its command ``program``.  Where that cannot be done it keeps its name."""
    try:
        with open("/proc/self/comm", "wb") as file:
            file.write(os.fsencode(program)[:_COMM_MAX])
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()  # from field 3 on
        start, end, variables, limit = map(int, fields[_ARG_START - 2 : _ARG_START + 2])
    except (OSError, ValueError):
        return
    text = os.fsencode(title)
    if not start or len(text) > _TITLE_MAX:
        return
    if end - start >= len(text) + 2:
        ctypes.memmove(start, text.ljust(end - start - 1, b"\0") + b"\1", end - start)
    elif variables == end and limit - start > len(text):
        for name, value in os.environb.items():
            os.putenv(name, value)  # somewhere else
        ctypes.memmove(start, text + b"\0", len(text) + 1)
