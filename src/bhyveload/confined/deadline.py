"""How long a piece of work may take, shared by all the processes that do it."""

from __future__ import annotations

import time


class Deadline:
    """``seconds`` from now on; None: for ever.  Raises TypeError: they are no number."""

    __slots__ = ("_end", "seconds")

    def __init__(self, seconds: float | None = None) -> None:
        if seconds is not None and not isinstance(seconds, int | float):
            raise TypeError(f"timeout: must be a number of seconds, or None, not {seconds!r}")
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds that are left, 0 when there are none; None: for ever."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def or_else(self, seconds: float) -> Deadline:
        """This one; where it is for ever, one of ``seconds`` from now."""
        return Deadline(seconds) if self.seconds is None else self


def deadline_of(timeout: float | Deadline | None) -> Deadline:
    """A deadline as it is, seconds from now on."""
    return timeout if isinstance(timeout, Deadline) else Deadline(timeout)


FOREVER = Deadline()
UNPACK_SECONDS = 4 * 3600.0  # for 64 GiB, the most that the cache takes, at 5 MB/s
READ_SECONDS = UNPACK_SECONDS  # for files that the user wants of a disk
SURVEY_SECONDS = 60.0  # for looking at what is there, unless the user says otherwise
