"""Signals to bhyve(8): SIGTERM is the power button as often as it comes, the others end it as they end any program.

Callers tell by the status what happened: a signal must not look like a guest that powered off.
"""

from __future__ import annotations

import _signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from signal import _HANDLER
    from types import FrameType

    from bhyveload.handoff.backend import Session

_FATAL = (_signal.SIGINT, _signal.SIGHUP, _signal.SIGQUIT)


class BhyveSignals:
    """``fatal``: the signal that has ended the run, or 0.  ``continued`` is called on SIGCONT."""

    def __init__(self, continued: Callable[[], None]) -> None:
        self.fatal = 0
        self._continued = continued
        self._session: Session | None = None
        self._old: list[tuple[int, _HANDLER]] = []

    def attach(self, session: Session) -> None:
        """From now on they are about ``session``."""
        self._session = session
        if self.fatal:
            session.stop()

    def __enter__(self) -> BhyveSignals:
        handlers: dict[int, Callable[[int, FrameType | None], None]] = dict.fromkeys(_FATAL, self._end)
        handlers |= {_signal.SIGTERM: self._button, _signal.SIGCONT: self._go_on}
        for number, handler in handlers.items():
            old = _signal.getsignal(number)
            if old != _signal.SIG_IGN or number == _signal.SIGTERM:  # nohup, a shell's background job
                self._old.append((number, _signal.signal(number, handler)))
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old:
            _signal.signal(number, handler)

    def _button(self, number: int, frame: FrameType | None) -> None:
        """Before the guest listens for its power button, bhyve dies of it (amd64/pm.c)."""
        if self._session is None:
            self._end(number, frame)
        else:
            self._session.power_button(lambda: self._end(number, frame))

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self.fatal = self.fatal or number
        if self._session is not None:
            self._session.stop()

    def _go_on(self, _number: int, _frame: FrameType | None) -> None:
        self._continued()
