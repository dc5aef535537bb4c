"""An eye on a console: panics, prompts that nobody answers, patterns of the user's; and the last lines for a report.

What a kernel shows, in this order: vpanic() "panic: TEXT" wherever the cursor is, "cpuid = N" where the kernel is SMP,
since FreeBSD 12 "time = N" (sys/kern/kern_shutdown.c); with KDB "KDB: stack backtrace:" and, where it enters the
debugger, "KDB: enter: panic" (sys/kern/subr_kdb.c:kdb_backtrace, kdb_enter); else kern_reboot() "Uptime: ", the dump
"Dumping ", shutdown_panic() "Automatic reboot in N seconds" or, told to wait, "--> or switch off the system now.".
A debugger asks with "db> " (sys/ddb/db_command.c:db_command_loop), a kernel without a root with a line break and
"mountroot> " (sys/kern/vfs_mountroot.c:parse_dir_ask).

None of it is seen while kern.consmute is set: that silences panics and the debugger, too, and takes their keys
(sys/kern/subr_prf.c:prf_putchar, sys/kern/kern_cons.c:cnputc, cngetc).
"""

from __future__ import annotations

import re
from collections import deque

from bhyveload.guest.prompts import plain
from bhyveload.printable import mask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LAST_LINES = 20
_LINE_MAX = 4096
_PANIC = re.compile(rb"panic: (.*)")
_PROOF = re.compile(rb"cpuid = \d|time = \d|KDB: |Uptime: |Automatic reboot in |Dumping ")
_PROOF_WITHIN = 4  # lines behind "panic: ": a program may print such a line, too
_ASKS = re.compile(rb"(mountroot|db)> ?\Z")
_WAITS = b"--> or switch off the system now."


class Watch:
    """``panicked``: the panic's text; ``asks``: "mountroot" or "db" while such a prompt is the last thing shown, "key"
    while a panicked kernel waits for one; ``matched``: the first of ``patterns`` that was seen in a line, by its index.
    """

    __slots__ = ("_candidate", "_left", "_line", "_lines", "_patterns", "asks", "matched", "panicked")

    def __init__(self, patterns: Sequence[re.Pattern[bytes]] = ()) -> None:
        self.panicked = ""
        self.asks = ""
        self.matched: int | None = None
        self._patterns = patterns
        self._lines: deque[bytes] = deque(maxlen=LAST_LINES)
        self._line = b""
        self._candidate = ""
        self._left = 0

    def feed(self, data: bytes) -> None:
        *whole, last = data.split(b"\n")
        if len(whole) > LAST_LINES and not (self._patterns or self._left or b"panic: " in data):
            self._line = b""
            whole = whole[-LAST_LINES:]
        for part in whole:
            self._end_of_line((self._line + part)[:_LINE_MAX].rstrip(b"\r"))
            self._line = b""
        self._line = (self._line + last)[-_LINE_MAX:]
        asked = _ASKS.match(plain(self._line.rpartition(b"\r")[2]))
        self.asks = asked[1].decode() if asked else self._waits_for_a_key()
        self._look_for_patterns(self._line)

    def _waits_for_a_key(self) -> str:
        return "key" if self.panicked and not self._line and self._lines and self._lines[-1] == _WAITS else ""

    def _end_of_line(self, line: bytes) -> None:
        self._lines.append(line)
        self._look_for_patterns(line)
        if self.panicked:
            return
        if self._left:
            self._left -= 1
            if _PROOF.match(line):
                self.panicked = self._candidate
        found = _PANIC.search(line)
        if found:
            self._candidate, self._left = _shown(found[1]) or "(no reason)", _PROOF_WITHIN

    def _look_for_patterns(self, line: bytes) -> None:
        if self.matched is None and self._patterns and line:
            text = plain(line)
            self.matched = next((index for index, one in enumerate(self._patterns) if one.search(text)), None)

    @property
    def trouble(self) -> str:
        """What is wrong with the guest, for people; "" for nothing."""
        if self.panicked:
            return f"the kernel panicked: {self.panicked}"
        if self.asks == "mountroot":
            return "the kernel found no root file system and asks for one"
        return "the kernel stopped in its debugger" if self.asks else ""

    @property
    def last_lines(self) -> list[str]:
        """What was shown last, a line each, without what steers terminals."""
        return [_shown(line) for line in [*self._lines, *filter(None, [self._line])][-LAST_LINES:]]


def _shown(line: bytes) -> str:
    return mask(plain(line)).rstrip("?")
