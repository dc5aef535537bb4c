"""--expect and --fail-on."""

from __future__ import annotations

import pytest

from bhyveload.handoff.outcome import (
    DESTROYED,
    HALTED,
    POWERED_OFF,
    REBOOTED,
    SAVED,
    SEEN,
    STOPPED,
    TIMED_OUT,
    TRIPLE_FAULT,
    UNWANTED,
)
from bhyveload.running.eyes import Eyes


@pytest.mark.parametrize("outcome", [REBOOTED, POWERED_OFF, HALTED, TRIPLE_FAULT])
def test_a_guest_that_says_it_and_ends(outcome: str) -> None:
    eyes = Eyes(["good"], ["bad"])
    eyes.watch.feed(b"nothing yet\r\n")
    assert eyes.outcome_of(outcome) == outcome
    eyes.watch.feed(b"all good\r\n")
    assert eyes.outcome_of(outcome) == SEEN
    eyes = Eyes(["good"], ["bad"])
    eyes.watch.feed(b"bad\r\ngood\r\n")
    assert eyes.outcome_of(outcome) == UNWANTED


@pytest.mark.parametrize("outcome", [STOPPED, TIMED_OUT, DESTROYED, SAVED])
def test_who_ends_a_run_has_the_word(outcome: str) -> None:
    eyes = Eyes(["good"])
    eyes.watch.feed(b"good")
    assert eyes.outcome_of(outcome) == outcome
