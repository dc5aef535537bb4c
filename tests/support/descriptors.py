"""What a program leaves open at its end, when it runs inside a test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def closed_at_the_end() -> Iterator[None]:
    """Close the descriptors that were opened within and are still open, as the end of a process would."""
    before = set(os.listdir("/proc/self/fd"))
    try:
        yield
    finally:
        for name in set(os.listdir("/proc/self/fd")) - before:
            with suppress(OSError):  # the listing's own is closed already
                os.close(int(name))
