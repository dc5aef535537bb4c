"""A guest that reboots is loaded again, as it was loaded first: its disk may hold another kernel by now."""

from __future__ import annotations

import os
import sys
import time

from bhyveload.errors import HandoffError
from bhyveload.vm.store import VirtualMachine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

A_MINUTE = 60.0
MOST = 10  # reboots within it


class Restarts:
    """Counts them: a guest that never gets anywhere must not go round for ever."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def another(self, name: str) -> None:
        """Raises HandoffError: too many of them within a minute."""
        now = time.monotonic()
        self._times = [*(at for at in self._times if now - at < A_MINUTE), now]
        if len(self._times) > MOST:
            raise HandoffError(
                f"{name}: rebooted {len(self._times)} times within a minute", "run it without --restart and look why"
            )


def load_again(name: str, state: Mapping[str, Any]) -> None:
    """Run bhyveload with the words and in the folder that ``state`` (a parsed state.json) keeps.

    Raises HandoffError: they are not there, or the load fails; VmNotFound: somebody has destroyed the VM meanwhile, who
    does not want it back.
    """
    import subprocess

    VirtualMachine.open(name, lock=False).close()
    load = state.get("load")
    words = load.get("command") if isinstance(load, dict) else None
    folder = load.get("folder") if isinstance(load, dict) else None
    if not isinstance(words, list) or not all(isinstance(word, str) and "\0" not in word for word in words):
        raise HandoffError(f"{name}: the VM does not say how it was loaded", "load it with bhyveload, not by a library")
    if not isinstance(folder, str) or not os.path.isdir(folder):
        raise HandoffError(f"{name}: the folder that it was loaded in is gone", "load it again yourself")
    try:
        done = subprocess.run([sys.executable, "-m", "bhyveload.cli.bhyveload", *words], cwd=folder, check=False)
    except OSError as error:
        raise HandoffError(f"{name}: cannot be loaded again: {error.strerror}") from None
    if done.returncode:
        raise HandoffError(f"{name}: could not be loaded again (bhyveload's exit status {done.returncode})")
