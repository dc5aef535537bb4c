"""Signals to the program that runs a guest, as bhyve(8) takes them."""

from __future__ import annotations

import _signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from signal import _HANDLER
    from types import FrameType

    from bhyveload.handoff.backend import Session

_ENDING = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGQUIT, _signal.SIGUSR1, _signal.SIGUSR2)


class Signals:
    """SIGTERM presses the guest's power button; a second one, or another signal, stops the run.

    ``interrupted``: there was a SIGINT.  ``continued`` is called on SIGCONT.
    """

    def __init__(self, continued: Callable[[], None] | None = None) -> None:
        self.interrupted = False
        self._continued = continued
        self._session: Session | None = None
        self._pending = 0
        self._old: list[tuple[int, _HANDLER]] = []

    def attach(self, session: Session) -> None:
        """From now on they are about ``session``."""
        self._session = session
        if self._pending:
            session.stop()

    def __enter__(self) -> Signals:
        for number in _ENDING:
            self._old.append((number, _signal.signal(number, self._arrived)))
        if self._continued is not None:
            self._old.append((_signal.SIGCONT, _signal.signal(_signal.SIGCONT, self._go_on)))
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old:
            _signal.signal(number, handler)

    @property
    def ended(self) -> bool:
        """Whether one of them has asked for the end of the run."""
        return self._pending > 0

    def _go_on(self, _number: int, _frame: FrameType | None) -> None:
        if self._continued is not None:
            self._continued()

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        self._pending += 1
        self.interrupted = self.interrupted or number == _signal.SIGINT
        if self._session is None:
            return
        if number == _signal.SIGTERM and self._pending == 1:
            self._session.power_button()
        else:
            self._session.stop()
