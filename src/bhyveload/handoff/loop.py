"""What a run waits for: descriptors, and who is called when they are ready.  For one thread."""

from __future__ import annotations

import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Callback = Callable[[], None]

_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


class Loop:
    """``watch`` descriptors, then let it ``turn``.  Callbacks may watch and forget any of them."""

    __slots__ = ("_callbacks", "_later", "_poll", "each_turn")

    def __init__(self) -> None:
        self._poll = select.poll()
        self._later: list[tuple[float, Callback]] = []
        self.each_turn: list[Callback] = []  # called once a turn, whatever happens
        self._callbacks: dict[int, tuple[Callback | None, Callback | None]] = {}

    def watch(self, fd: int, on_read: Callback | None = None, on_write: Callback | None = None) -> None:
        """Call these when ``fd`` can be read or has come to its end, or can be written; they replace earlier ones."""
        events = (select.POLLIN if on_read else 0) | (select.POLLOUT if on_write else 0)
        if not events:
            self.forget(fd)
            return
        self._poll.register(fd, events)
        self._callbacks[fd] = on_read, on_write

    def forget(self, fd: int) -> None:
        """Call nobody for ``fd`` any more; it may be closed then."""
        if self._callbacks.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def watches(self, fd: int) -> bool:
        return fd in self._callbacks

    def later(self, seconds: float, call: Callback) -> None:
        """Call ``call`` in a turn that ends ``seconds`` from now or later."""
        self._later.append((time.monotonic() + seconds, call))

    def turn(self, seconds: float) -> None:
        """Wait ``seconds`` at most for something to happen, and call for everything that has."""
        for call in list(self.each_turn):
            call()
        if self._later:
            seconds = min(seconds, min(when for when, _ in self._later) - time.monotonic())
        for fd, events in self._poll.poll(max(0.0, seconds) * 1000):
            on_read, on_write = self._callbacks.get(fd, (None, None))
            if on_read is not None and events & _READABLE:
                on_read()
            on_write = self._callbacks.get(fd, (None, None))[1]
            if on_write is not None and events & ~select.POLLIN:
                on_write()
        if self._later:
            now = time.monotonic()
            due = [call for when, call in self._later if when <= now]
            self._later = [(when, call) for when, call in self._later if when > now]
            for call in due:
                call()
