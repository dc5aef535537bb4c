"""What a run makes of its console: it ends where the user's patterns say so, or where the kernel waits for nobody."""

from __future__ import annotations

from bhyveload.errors import UsageError
from bhyveload.handoff.outcome import HALTED, POWERED_OFF, REBOOTED, SEEN, STUCK, TRIPLE_FAULT, UNWANTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Sequence

    from bhyveload.guest.watch import Watch
    from bhyveload.handoff.backend import Session

_BY_ITSELF = (REBOOTED, POWERED_OFF, HALTED, TRIPLE_FAULT, STUCK)


class Eyes:
    """``expect``, ``fail_on``: regular expressions for a line of the console (bytes, UTF-8); either ends the run.
    ``alone``: a prompt of the kernel's ends it, too, when nobody can type."""

    def __init__(self, expect: Sequence[str] = (), fail_on: Sequence[str] = (), alone: bool = False) -> None:
        """Raises UsageError."""
        self._patterns = [compiled(text) for text in (*fail_on, *expect)]
        self._watch: Watch | None = None
        self._fail = len(fail_on)
        self._texts = (*fail_on, *expect)
        self._alone = alone

    @property
    def watch(self) -> Watch:
        """What they see.  Imported when QEMU has been started, and this program waits for it anyway."""
        if self._watch is None:
            from bhyveload.guest.watch import Watch

            self._watch = Watch(self._patterns)
        return self._watch

    def look_at(self, session: Session) -> None:
        watch = self.watch

        def hear(data: bytes) -> None:
            watch.feed(data)
            if watch.matched is not None:
                session.stop(self._seen(watch.matched))
            elif watch.asks and self._alone and not session.console.somebody_types:
                session.stop(STUCK)

        session.console.hear(hear)

    def _seen(self, matched: int) -> str:
        return UNWANTED if matched < self._fail else SEEN

    def outcome_of(self, outcome: str) -> str:
        """What a run comes to that ended with ``outcome``: a guest that says a line and ends at once is gone before its
        run can be ended for that line."""
        if self.watch.matched is None or outcome not in _BY_ITSELF:
            return outcome
        return self._seen(self.watch.matched)

    @property
    def expects(self) -> bool:
        return len(self._texts) > self._fail

    @property
    def matched(self) -> str:
        """The pattern that was seen, or ""."""
        return "" if self.watch.matched is None else self._texts[self.watch.matched]


def compiled(text: str) -> re.Pattern[bytes]:
    """Raises UsageError."""
    import re

    try:
        return re.compile(text.encode("utf-8", "surrogateescape"))
    except re.error as error:
        raise UsageError(f"'{text}' is no regular expression: {error}") from None
