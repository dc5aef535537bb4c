"""A command's output between its markers: a stream in, the same stream without markers and noise out.

Bounded: only what may be the beginning of a marker, or of a line of noise, is held back.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.guest.typed import Markers

_STATUS_MAX = 5  # "255>" and room
_LINE_MAX = 400  # bytes of a line that noise is looked for in
# syslogd's lines on /dev/console (usr.sbin/syslogd/syslogd.c:fprintlog) and the kernel's own end in CR LF even where
# the terminal passes bytes on as they are: a command's own lines do not.
_NOISE = re.compile(
    rb"(?:<\d{1,3}>)?"
    rb"(?:[A-Z][a-z]{2} [ 123]\d \d\d:\d\d:\d\d \S+ \S.*|(?:[a-z][a-z_]*\d+|pid \d+[^:]*|arp|KLD [^:]+): .*)\r\n\Z",
    re.DOTALL,
)


class CommandOutput:
    """One command.  ``clean``: the terminal passes bytes on as they are; otherwise LF comes as CR LF."""

    __slots__ = ("_begun", "_clean", "_cr", "_line_start", "_markers", "_pending", "status", "torn")

    def __init__(self, markers: Markers, clean: bool = True) -> None:
        self.status: int | None = None
        self.torn = False  # the beginning was cut through by a message: what came before the end is not known
        self._markers = markers
        self._clean = clean
        self._pending = bytearray()
        self._begun = False
        self._cr = False
        self._line_start = True

    def feed(self, data: bytes) -> bytes:
        """What of the command's output is certain now.  ``status`` is there once its end has been seen."""
        if self.status is not None:
            return b""
        self._pending += data
        if not self._begun and not self._find_begin():
            return b""
        end = self._find_end()
        if end is not None:
            return self._text(end, final=True)
        ready = len(self._pending) - _may_begin(self._pending, self._markers.end)
        if self._clean:
            line = self._pending.rfind(b"\n", 0, ready) + 1
            if (line or self._line_start) and ready - line < _LINE_MAX:
                ready = line  # the rest may become noise
        return self._take(ready)

    def idle(self) -> bytes:
        """Nothing has come for a while: what was held back as a line's beginning is output."""
        if not self._begun or self.status is not None:
            return b""
        return self._take(len(self._pending) - _may_begin(self._pending, self._markers.end))

    def _take(self, length: int) -> bytes:
        ready = bytes(self._pending[:length])
        del self._pending[:length]
        return self._text(ready, final=False) if ready else b""

    def _find_begin(self) -> bool:
        """Until then all is noise: what was typed, and what came late from before."""
        begin = self._markers.begin[:-1]
        at = self._pending.find(begin)
        if at < 0:
            self.torn = self._find_end() is not None
            del self._pending[: max(0, len(self._pending) - len(begin) - len(self._markers.end) - _STATUS_MAX)]
            return False
        rest = self._pending[at + len(begin) :]
        newline = rest.find(b"\n")
        if newline < 0:
            return False
        self._pending = rest[newline + 1 :]
        self._begun = True
        return True

    def _find_end(self) -> bytes | None:
        """The output in front of the end marker; None: it is not there yet."""
        marker, start = self._markers.end, 0
        while (at := self._pending.find(marker, start)) >= 0:
            number = bytes(self._pending[at + len(marker) : at + len(marker) + _STATUS_MAX])
            digits, closed, _ = number.partition(b">")
            if closed and digits.isdigit() and int(digits) < 256:
                self.status = int(digits)
                return bytes(self._pending[:at])
            if not closed and len(number) < _STATUS_MAX and (digits.isdigit() or not digits):
                return None  # cut through by the end of what is there
            start = at + len(marker)
        return None

    def _text(self, data: bytes, final: bool) -> bytes:
        return self._without_noise(data) if self._clean else self._without_cr(data, final)

    def _without_cr(self, data: bytes, final: bool) -> bytes:
        if self._cr:
            data = b"\r" + data
        self._cr = not final and data.endswith(b"\r")
        return (data[:-1] if self._cr else data).replace(b"\r\n", b"\n")

    def _without_noise(self, data: bytes) -> bytes:
        """``data`` without whole lines of noise."""
        at_start, self._line_start = self._line_start, data.endswith(b"\n") if data else self._line_start
        if b"\r\n" not in data:
            return data
        first, *others = re.findall(rb"[^\n]*\n|[^\n]+", data)
        kept = [line for line in others if not _NOISE.match(line)]
        return b"".join(kept if at_start and _NOISE.match(first) else [first, *kept])


def _may_begin(data: bytearray, marker: bytes) -> int:
    """How many bytes at the end of ``data`` may be the beginning of an end marker, its status included."""
    longest = len(marker) + _STATUS_MAX
    at = data.find(b"<", max(0, len(data) - longest))
    while at >= 0:
        tail = bytes(data[at : at + len(marker)])
        if marker.startswith(tail):
            return len(data) - at
        at = data.find(b"<", at + 1)
    return 0
