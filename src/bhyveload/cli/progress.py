"""Tell the user that an image is being unpacked: a line that counts on a terminal, one line elsewhere."""

from __future__ import annotations

import os
import time

from bhyveload.cli.messages import escape, warn

_INTERVAL = 0.2  # seconds


class UnpackProgress:
    """A Progress (image/cache.py) on standard error."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._line = ""
        self._next = 0.0
        try:
            self._terminal = os.isatty(2)
        except OSError:
            self._terminal = False

    def begin(self, name: str, folder: str) -> None:
        text = f"{name}: unpacking it into {folder}, once"
        if self._terminal:
            self._line = f"{self._program}: {escape(text)}"
        else:
            warn(self._program, text)

    def step(self, done: int, total: int) -> None:
        """In the child, which may write to standard error and nothing else."""
        now = time.monotonic()
        if self._line and now >= self._next:
            self._next = now + _INTERVAL
            _say(f"\r{self._line}: {done * 100 // total:3d} %")

    def end(self) -> None:
        if self._line:
            _say(f"\r{self._line}\x1b[K\n")
            self._line = ""


def _say(text: str) -> None:
    try:
        os.write(2, text.encode("ascii", "replace"))
    except OSError:
        pass  # nobody listens
