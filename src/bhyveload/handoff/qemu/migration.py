"""A guest's devices out of QEMU and into another one: migration to a descriptor, with guest memory left where it is.

Guest memory is a file that both map (capability x-ignore-shared): the first one for all to see, the second one
privately, so that a restored guest reads pages of that file and has its own of those that it writes to.
Source: QEMU's qapi/migration.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bhyveload.errors import HandoffError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bhyveload.handoff.qemu.qmp import Qmp

_COMMANDS = ("stop", "migrate-set-capabilities", "getfd", "migrate", "migrate-incoming", "query-migrate")
_NAME = "saved"


class Saving:
    """Stop the guest and write its devices to the descriptor ``fd``; then ``done`` is called with "", or with a reason
    why they cannot be: the guest then runs on.  ``whole``: with its memory."""

    def __init__(self, qmp: Qmp, fd: int, done: Callable[[str], None], whole: bool = False) -> None:
        self._qmp = qmp
        self._done = done
        self.over = False
        qmp.send("stop")
        qmp.send("migrate-set-capabilities", capabilities=_capabilities(whole))
        qmp.send_descriptor(_NAME, fd)
        qmp.send("migrate", uri=f"fd:{_NAME}")

    def hear(self, message: dict[str, Any]) -> None:
        if self.over:
            return
        status = _status(message)
        if reason := _refused(message):
            self._end(reason)
        elif status == "completed":
            self._end("")
        elif status == "failed":
            self._qmp.send("query-migrate")
        elif message.get("id") == "query-migrate":
            answer = message.get("return")
            told = answer.get("error-desc") if isinstance(answer, dict) else None
            self._end(str(told or "its state cannot be written")[:200])

    def _end(self, reason: str) -> None:
        self.over = True
        if reason:
            self._qmp.send("cont")
        self._done(reason)


class Restoring:
    """Have a QEMU that waits (-incoming defer) read its devices from its own descriptor ``fd``, then call ``ready``."""

    def __init__(self, qmp: Qmp, fd: int, ready: Callable[[], None], whole: bool = False) -> None:
        self._ready = ready
        self.over = False
        qmp.send("migrate-set-capabilities", capabilities=_capabilities(whole))
        qmp.send("migrate-incoming", uri=f"fd:{fd}")

    def hear(self, message: dict[str, Any]) -> None:
        """Raises HandoffError: QEMU does not take it."""
        if self.over:
            return
        status = _status(message)
        if reason := _refused(message) or ("it is damaged" if status == "failed" else ""):
            raise HandoffError(f"QEMU does not take the saved guest: {reason}", "save it again")
        if status == "completed":
            self.over = True
            self._ready()


def _capabilities(whole: bool) -> list[dict[str, Any]]:
    return [
        {"capability": "events", "state": True},
        {"capability": "x-ignore-shared", "state": not whole},
    ]


def _status(message: dict[str, Any]) -> str:
    data = message.get("data") if message.get("event") == "MIGRATION" else None
    return str(data.get("status")) if isinstance(data, dict) else ""


def _refused(message: dict[str, Any]) -> str:
    error = message.get("error") if message.get("id") in _COMMANDS else None
    return str(error.get("desc"))[:200] if isinstance(error, dict) else ""
