"""How a run can end, and bhyve(8)'s exit status for it (bhyve.8, EXIT STATUS)."""

from __future__ import annotations

REBOOTED, POWERED_OFF, HALTED, TRIPLE_FAULT = "rebooted", "powered off", "halted", "triple fault"
STOPPED, TIMED_OUT, DESTROYED = "stopped", "timed out", "destroyed"
SEEN, UNWANTED, STUCK, SAVED = "expected text seen", "unwanted text seen", "stuck", "saved"

# A run that the user stopped is a machine whose plug was pulled; one whose time is over ends as timeout(1) does.
EXIT_STATUS = {REBOOTED: 0, POWERED_OFF: 1, HALTED: 2, TRIPLE_FAULT: 3, STOPPED: 1, TIMED_OUT: 124, DESTROYED: 4}
EXIT_STATUS |= {SEEN: 0, UNWANTED: 3, STUCK: 3, SAVED: 0}


class RunResult:
    """How a run ended.  ``outcome`` is one of these, ``seconds`` the time since it was started,
    ``messages`` what the hypervisor said on its standard error."""

    __slots__ = ("messages", "outcome", "seconds")

    def __init__(self, outcome: str, seconds: float, messages: str) -> None:
        self.outcome = outcome
        self.seconds = seconds
        self.messages = messages

    @property
    def exit_status(self) -> int:
        return EXIT_STATUS[self.outcome]
