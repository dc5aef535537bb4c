"""Tell the user how far something is: a line that counts on a terminal, plain lines elsewhere and on dumb ones."""

from __future__ import annotations

import os
import time

from bhyveload.cli.messages import warn
from bhyveload.printable import escape

_INTERVAL = 0.2  # seconds
_SETTLED = 1.0  # seconds after which a rate says something
_LARGE = 256 << 20  # bytes of a copy that is worth a line where nothing can be redrawn
_MIB = 1 << 20


class Meter:
    """``text`` and how far it is: ``bhyverun: text:  37 %, 85 MiB/s, 0:12 left``."""

    def __init__(self, program: str, text: str) -> None:
        self._line = f"{program}: {escape(text)}"
        self._began = time.monotonic()
        self._next = 0.0
        self._shown = False

    def step(self, done: int, total: int) -> None:
        """Nothing but a write(2): a confined child calls it, too."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _INTERVAL
            self._shown = True
            _say(f"\r{self._line}: {progress_text(done, total, now - self._began)}\x1b[K")

    def end(self, stays: bool) -> None:
        """``stays``: the line without its figures."""
        if self._shown or stays:
            _say(f"\r{self._line}\x1b[K\n" if stays else "\r\x1b[K")


class UnpackProgress:
    """A Progress (image/cache.py) on standard error."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._meter: Meter | None = None

    def begin(self, name: str, folder: str) -> None:
        text = f"{name}: unpacking it into {folder}, once"
        if can_redraw():
            self._meter = Meter(self._program, text)
        else:
            warn(self._program, text)

    def step(self, done: int, total: int) -> None:
        """In the child, which may write to standard error and nothing else."""
        if self._meter is not None:
            self._meter.step(done, total)

    def end(self) -> None:
        if self._meter is not None:
            self._meter.end(stays=True)
            self._meter = None


class CopyProgress:
    """Something that may be over at once: on a terminal a line that goes again, elsewhere one when much is to be
    copied."""

    def __init__(self, program: str, text: str) -> None:
        self._program, self._text = program, text
        self._meter = Meter(program, text) if can_redraw() else None
        self._told = False

    def step(self, done: int, total: int) -> None:
        if self._meter is not None:
            self._meter.step(done, total)
        elif total >= _LARGE and not self._told:
            self._told = True
            warn(self._program, f"{self._text}: {total // _MIB} MiB")

    def end(self) -> None:
        if self._meter is not None:
            self._meter.end(stays=False)


def can_redraw() -> bool:
    """Whether standard error is a terminal that can rewrite a line.  There are no colours for NO_COLOR to forbid."""
    try:
        return os.isatty(2) and os.environ.get("TERM") != "dumb"
    except OSError:
        return False


def progress_text(done: int, total: int, seconds: float) -> str:
    """How far, how fast (MiB a second), how long yet (minutes and seconds, as the rate has been so far)."""
    text = f"{done * 100 // total if total else 100:3d} %"
    if seconds < _SETTLED or not done:
        return text
    rate = done / seconds
    left = round(max(0, total - done) / rate)
    return f"{text}, {rate / _MIB:.1f} MiB/s, {left // 60}:{left % 60:02d} left"


def _say(text: str) -> None:
    try:
        os.write(2, text.encode("ascii", "replace"))
    except OSError:
        pass  # nobody listens
