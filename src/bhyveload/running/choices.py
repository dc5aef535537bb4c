"""How a run is attended, as its user chose: where the console is, the key for commands, what is done meanwhile."""

from __future__ import annotations

from bhyveload.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.handoff.backend import Session
    from bhyveload.running.eyes import Eyes
    from bhyveload.saved.saving import Keeper

STDIO, NONE, PTY = "stdio", "none", "pty"
UNIX, TCP = "unix:", "tcp:"
_LOOPBACK = "127.0.0.1"
_CTRL = 0x1F


class Choices:
    """How a run is attended.  ``console``: as consoles.py has it; ``log``: a file, or ""; ``escape``: the key in front
    of commands for the run, b"" for none; ``timeout`` in seconds; ``running`` is called once the guest runs; ``work``
    is done in the guest before its end is waited for; ``eyes`` are on its console; ``keeper`` saves it."""

    __slots__ = ("console", "escape", "eyes", "keeper", "log", "running", "timeout", "work")

    def __init__(
        self,
        console: str = STDIO,
        log: str = "",
        escape: bytes = b"\1",
        timeout: float | None = None,
        running: Callable[[], None] | None = None,
        work: Callable[[Session], None] | None = None,
        eyes: Eyes | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self.console = console
        self.log = log
        self.escape = escape
        self.timeout = timeout
        self.running = running
        self.work = work
        self.eyes = eyes
        self.keeper = keeper


def check_console(kind: str) -> str:
    """``kind`` itself.  Raises UsageError."""
    if kind.startswith(TCP):
        tcp_address(kind)
    elif not kind or kind == UNIX:
        raise UsageError(f"--console {kind}: must be stdio, pty, unix:PATH, tcp:[HOST:]PORT, a file or none")
    return kind


def tcp_address(kind: str) -> tuple[str, int]:
    """Host and port of ``kind``.  Raises UsageError."""
    host, _, port = kind[len(TCP) :].rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16):
        raise UsageError(f"--console {kind}: '{port}' is no port number", "as in tcp:127.0.0.1:4555")
    return host.strip("[]") or _LOOPBACK, int(port)


def key_name(key: bytes) -> str:
    return f"Ctrl-{chr(key[0] | 0x40)}" if key[0] < 0x20 else key.decode("ascii", "replace")


def parse_key(text: str) -> bytes:
    """The key that ``text`` names: a character, ``^A``, ``Ctrl-A``.  b"" for "none", and for what is no key."""
    if text == "none":
        return b""
    for prefix in ("^", "Ctrl-", "ctrl-", "C-"):
        if text.startswith(prefix) and len(text) == len(prefix) + 1 and "@" <= text[-1].upper() <= "_":
            return bytes([ord(text[-1].upper()) & _CTRL])
    return text.encode("ascii") if len(text) == 1 and text.isascii() and text.isprintable() else b""
