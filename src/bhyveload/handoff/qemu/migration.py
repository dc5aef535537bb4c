"""A guest's devices out of QEMU and into another one: migration to a descriptor, with guest memory left where it is.

Guest memory is a file that both map (capability x-ignore-shared): the first one for all to see, the second one
privately, so that a restored guest reads pages of that file and has its own of those that it writes to.
Source: QEMU's qapi/migration.json.
"""

from __future__ import annotations

from bhyveload.errors import HandoffError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bhyveload.handoff.qemu.qmp import Qmp

    Step = Callable[[int, int], None]

_COMMANDS = (
    "stop",
    "migrate-set-capabilities",
    "migrate-set-parameters",
    "getfd",
    "migrate",
    "migrate-incoming",
    "query-migrate",
)
_NAME = "saved"
_UNLIMITED = 1 << 40  # bytes a second: a file takes what it can, QEMU's own limit is for networks


class Saving:
    """Stop the guest and write its devices to the descriptor ``fd``; then ``done`` is called with "", or with a reason
    why they cannot be: the guest then runs on.  ``whole``: with its memory; ``step`` is told the bytes of it that are
    done and those in all, when ``ask`` has been called."""

    def __init__(
        self, qmp: Qmp, fd: int, done: Callable[[str], None], whole: bool = False, step: Step | None = None
    ) -> None:
        self._qmp = qmp
        self._done = done
        self._step = step
        self.over = False
        qmp.send("stop")
        qmp.send("migrate-set-capabilities", capabilities=_capabilities(whole))
        if whole:
            qmp.send("migrate-set-parameters", **{"max-bandwidth": _UNLIMITED})
        qmp.send_descriptor(_NAME, fd)
        qmp.send("migrate", uri=f"fd:{_NAME}")

    def ask(self) -> None:
        """Have QEMU say how far it is, if somebody wants to know."""
        if self._step is not None and not self.over:
            self._qmp.send("query-migrate")

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
            self._answered(message.get("return"))

    def _answered(self, answer: object) -> None:
        told = answer if isinstance(answer, dict) else {}
        if told.get("status") not in ("setup", "active", "device", "completed"):
            self._end(str(told.get("error-desc") or "its state cannot be written")[:200])
            return
        memory = told.get("ram")
        total, left = (memory.get("total"), memory.get("remaining")) if isinstance(memory, dict) else (None, None)
        if self._step is not None and isinstance(total, int) and isinstance(left, int) and 0 <= left <= total:
            self._step(total - left, total)

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
