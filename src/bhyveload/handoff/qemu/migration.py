"""A guest's devices out of QEMU and into another one: migration to a descriptor, with guest memory left where it is.

Guest memory is a file that both map (capability x-ignore-shared): the first one for all to see, the second one
privately, so that a restored guest reads pages of that file and has its own of those that it writes to.
Source: QEMU's qapi/migration.json.

A file is given as "fd:" to old versions and as "file:" to newer ones: 8.2 brought "file:", 9.1 called "fd:" of a file
deprecated, 11.1 refuses it.
"""

from __future__ import annotations

import os

from bhyveload.errors import HandoffError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bhyveload.handoff.qemu.files import RunFiles
    from bhyveload.handoff.qemu.qmp import Qmp

    Step = Callable[[int, int], None]

_COMMANDS = (
    "stop",
    "migrate-set-capabilities",
    "migrate-set-parameters",
    "getfd",
    "add-fd",
    "migrate",
    "migrate-incoming",
    "query-migrate",
)
_NAME = "saved"
_SET = 1 << 20  # no disk's: they are counted from 1 (files.py)
_BY_FILE = [9, 1]
_UNLIMITED = 1 << 40  # bytes a second: a file takes what it can, QEMU's own limit is for networks


class Saving:
    """Stop the guest and write its devices to the descriptor ``fd``; then ``done`` is called with "", or with a reason
    why they cannot be: the guest then runs on.  ``whole``: with its memory; ``step`` is told the bytes of it that are
    done and those in all, when ``ask`` has been called."""

    def __init__(
        self,
        qmp: Qmp,
        fd: int,
        done: Callable[[str], None],
        whole: bool = False,
        step: Step | None = None,
        version: str = "",
    ) -> None:
        """``version`` is QEMU's.  Raises OSError."""
        self._qmp = qmp
        self._done = done
        self._step = step
        self.over = False
        self._by_file = _by_file(version)
        given = os.open(_again(fd), os.O_WRONLY | os.O_CLOEXEC) if self._by_file else fd
        qmp.send("stop")
        qmp.send("migrate-set-capabilities", capabilities=_capabilities(whole))
        if whole:
            qmp.send("migrate-set-parameters", **{"max-bandwidth": _UNLIMITED})
        if self._by_file:
            qmp.send_descriptor(given, "add-fd", **{"fdset-id": _SET})
            os.close(given)
            qmp.send("migrate", uri=f"file:/dev/fdset/{_SET}")
        else:
            qmp.send_descriptor(given, "getfd", fdname=_NAME)
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
        if self._by_file:  # a later call must not find this one's
            self._qmp.send("remove-fd", **{"fdset-id": _SET})
        if reason:
            self._qmp.send("cont")
        self._done(reason)


def incoming(version: str, fd: int, files: RunFiles) -> str:
    """What a QEMU of ``version``, which is about to be started, calls the file that is open as ``fd``.  Raises
    HandoffError."""
    if _by_file(version):
        return f"file:{files.file(_again(fd), read_only=True)[0]}"
    return f"fd:{files.keep(os.dup(fd))}"


class Restoring:
    """Have a QEMU that waits (-incoming defer) read its devices from ``uri``, then call ``ready``."""

    def __init__(self, qmp: Qmp, uri: str, ready: Callable[[], None], whole: bool = False) -> None:
        self._ready = ready
        self.over = False
        qmp.send("migrate-set-capabilities", capabilities=_capabilities(whole))
        qmp.send("migrate-incoming", uri=uri)

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


def _by_file(version: str) -> bool:
    try:
        return [int(part) for part in version.split(".")[:2]] >= _BY_FILE
    except ValueError:  # a saved guest's file may say anything
        return False


def _again(fd: int) -> str:
    """By this name the file is opened once more, from its beginning: of a set QEMU takes a descriptor that has just
    the flags that it would open the file with."""
    return f"/proc/self/fd/{fd}"


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
