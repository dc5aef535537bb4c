"""Descriptors in tests: the limit of a process counts those of all tests that ran in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from bhyveload.image.raw import RawImage


class OwnDisk(RawImage):
    """A disk that is closed when nobody needs it: it may hold a hundred megabytes of memory."""

    __slots__ = ()

    def __del__(self) -> None:
        try:
            self.close()
        except OSError:
            pass  # in a child that confined itself


@contextmanager
def closed_at_the_end() -> Iterator[None]:
    """Close what a program that runs within a test leaves open, as the end of its process would."""
    before = _open()
    try:
        yield
    finally:
        for fd in _open() - before:
            os.close(fd)


def _open() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}
