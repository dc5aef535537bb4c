"""A short run of every fuzz target with fixed seeds, and everything that longer runs ever found (tests/data/fuzz)."""

from __future__ import annotations

import os
import random
import resource
import traceback
from collections.abc import Callable
from itertools import islice

import pytest

from fuzzing import LIMIT_MEMORY, check_in_time, targets
from fuzzing.mutate import inputs
from support.places import DATA

FINDS = DATA / "fuzz"
TARGETS = targets()


def in_a_child(action: Callable[[], None]) -> None:
    """A parser that crashes must not take the tests along; what it raised is raised here, as text."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            action()
            status = 0
        except BaseException:
            os.write(writing, traceback.format_exc()[-60_000:].encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        text = file.read().decode("utf-8", "replace")
    status = os.waitpid(pid, 0)[1]
    assert status == 0, text or f"the parser died, wait status {status}"


@pytest.mark.parametrize("name", TARGETS)
def test_short_run(name: str) -> None:
    target = TARGETS[name]

    def work() -> None:
        run = target.prepare()
        before = _peak_memory()
        generator = random.Random(f"bhyveload {name}")
        for data in islice(inputs(list(target.seeds()), generator, target.size), target.rounds):
            check_in_time(run, data)
        assert _peak_memory() - before < LIMIT_MEMORY

    in_a_child(work)


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def finds() -> list[tuple[str, str]]:
    return sorted((path.parent.name, path.name) for path in FINDS.glob("*/*"))


@pytest.mark.parametrize(("name", "find"), finds())
def test_find(name: str, find: str) -> None:
    data = (FINDS / name / find).read_bytes()
    in_a_child(lambda: check_in_time(TARGETS[name].prepare(), data))


def test_a_broken_parser_is_noticed() -> None:
    """The invariant can be broken: by an error of Python's, by time."""

    def broken(data: bytes) -> None:
        raise IndexError(len(data))

    def endless(data: bytes) -> None:
        while True:
            pass

    with pytest.raises(AssertionError, match="IndexError: 3"):
        in_a_child(lambda: check_in_time(broken, b"abc"))
    with pytest.raises(AssertionError, match="TookTooLong: 3 bytes: 616263"):
        in_a_child(lambda: check_in_time(endless, b"abc", 0.1))
