"""What is shown is what as many single calls show."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bhyveload.loader.console import LoaderConsole


def shown(divisor: int, calls: list[tuple[int, int]]) -> list[bytes]:
    """libsa's twiddle() written down once more: a call counts as often as its own divisor says, of those
    twiddle_divisor counts, and each of those shows the next of four."""
    seen: list[bytes] = []
    host: Any = SimpleNamespace(console=SimpleNamespace(write=seen.append))
    environment: Any = SimpleNamespace()
    console = LoaderConsole(host, environment, "current")
    console._divisor = divisor
    for caller_divisor, times in calls:
        console.twiddle(caller_divisor, times)
    return seen


def by_hand(divisor: int, calls: list[tuple[int, int]]) -> list[bytes]:
    seen: list[bytes] = []
    called = counted = 0
    for caller_divisor, times in calls:
        for _ in range(times):
            called += 1
            if called % caller_divisor == 0:
                counted += 1
                if divisor < 2 or counted % divisor == 0:
                    seen.append(b"|/-\\"[len(seen) % 4 : len(seen) % 4 + 1] + b"\b")
    return seen


@given(
    st.sampled_from((0, 1, 3, 16)), st.lists(st.tuples(st.sampled_from((1, 4, 16)), st.integers(0, 70)), max_size=40)
)
def test_many_twiddles_at_once(divisor: int, calls: list[tuple[int, int]]) -> None:
    assert shown(divisor, calls) == by_hand(divisor, calls)
