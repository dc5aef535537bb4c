"""What every emulation is given when bhyve(8) starts, and how it says that it cannot (pci_emul.c:init_pci)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from bhyveload.errors import BhyveError

if TYPE_CHECKING:
    from bhyveload.bhyve.config import Config
    from bhyveload.compat import LoaderVersion


class Start:
    """One start: what its emulations need to know of it."""

    def __init__(self, config: Config, name: str, compat: LoaderVersion) -> None:
        self.config = config
        self.name = name
        self.compat = compat
        self.stdio_taken = False

    def failed(self, *lines: str, number: int = errno.EINVAL, hint: str = "") -> BhyveError:
        """The emulation's own ``lines`` and init_pci's last word, as BhyveError."""
        return failed_start(self.compat, os.strerror(number), *lines, hint=hint)


def failed_start(compat: LoaderVersion, reason: str, *lines: str, hint: str = "") -> BhyveError:
    """A device could not be set up: the emulation's own ``lines``, then init_pci's with errno's text ``reason``."""
    head = "Device" if compat == "current" else "device"
    return BhyveError(f"{head} emulation initialization error: {reason}", bare=True, before=lines, hint=hint)
