"""Fuzz targets: one a parser, each a function of bytes.

The invariant is the same everywhere: whatever the bytes, a parser returns or raises this package's own errors, within
LIMIT_SECONDS of processor time and LIMIT_MEMORY beyond what it began with.  tools/fuzz.py runs the targets for as long
as one likes, guided by coverage; tests/fuzzing/test_fuzz.py runs each a fixed number of times with fixed seeds, and
replays what was ever found (tests/data/fuzz).
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from bhyveload.errors import BhyveloadError
from bhyveload.host.callbacks import LoaderEnd
from bhyveload.need import ModulesNeeded

LIMIT_SECONDS = 2.0
LIMIT_MEMORY = 256 << 20

Run = Callable[[bytes], object]
Seeds = Callable[[], Iterator[bytes]]


class Target:
    """``prepare`` makes the function (imports, base images); ``seeds`` yields inputs to begin with; ``rounds``: how
    many inputs the short run in `make test` tries; ``size``: the longest input."""

    def __init__(
        self, name: str, prepare: Callable[[], Run], seeds: Seeds, rounds: int = 300, size: int = 4096
    ) -> None:
        self.name = name
        self.prepare = prepare
        self.seeds = seeds
        self.rounds = rounds
        self.size = size


class TookTooLong(BaseException):
    """One input kept the parser busy for more than LIMIT_SECONDS."""


def check(run: Run, data: bytes) -> None:
    """Run one input.  Raises what breaks the invariant."""
    try:
        run(data)
    except (BhyveloadError, LoaderEnd, ModulesNeeded):
        pass


def check_in_time(run: Run, data: bytes, seconds: float = LIMIT_SECONDS) -> None:
    """The same with a limit of time: raises TookTooLong."""
    before = watch()
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        check(run, data)
    except TookTooLong:
        raise TookTooLong(f"{len(data)} bytes: {data[:64].hex()}...") from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def watch() -> Any:
    """From now on an ITIMER_VIRTUAL that runs out raises TookTooLong; the handler of before."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise TookTooLong

    return signal.signal(signal.SIGVTALRM, too_long)


def targets() -> dict[str, Target]:
    """Every target by name."""
    from fuzzing import archives, bhyve, borders, disks, forth, loading, running, texts

    modules = (disks, forth, loading, texts, borders, bhyve, running, archives)
    return {target.name: target for module in modules for target in module.TARGETS}
