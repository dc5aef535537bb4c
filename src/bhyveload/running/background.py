"""Going into the background: the shell gets its prompt back when the guest runs, or the reason why it does not."""

from __future__ import annotations

import _signal
import os

from bhyveload.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_READY = b"\0"  # no message has such a byte


def go_into_background() -> Callable[[], None]:
    """Fork; only the child returns, in a session of its own, with what to call when all is well.

    Until then its messages reach the user; afterwards nobody hears them.  The parent waits for that and ends with 0, or
    with the child's own exit status when it ends before.  Raises HostError.
    """
    try:
        reading, writing = os.pipe()
    except OSError as error:
        raise HostError(f"--daemon: {error.strerror}") from None
    try:
        child = os.fork()
    except OSError as error:
        os.close(reading)
        os.close(writing)
        raise HostError(f"--daemon: {error.strerror}") from None
    if child:
        os.close(writing)
        os._exit(_wait(child, reading))
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(writing, 2)
    os.close(null)
    os.close(reading)
    os.close(writing)

    def ready() -> None:
        os.write(2, _READY)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 2)
        os.close(nothing)

    return ready


def _wait(child: int, reading: int) -> int:
    while True:
        try:
            data = os.read(reading, 4096)
        except KeyboardInterrupt:
            os.kill(child, _signal.SIGINT)  # it has a session of its own: the terminal's Ctrl-C is ours alone
            continue
        words, ready, _ = data.partition(_READY)
        try:
            os.write(2, words)
        except OSError:
            pass  # closed, or full: the run does not depend on it
        if ready:
            return 0
        if not data:
            break
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) & 0xFF


def tell_service_manager(text: str = "READY=1") -> None:
    """sd_notify(3): a unit of Type=notify knows that the guest runs."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    import socket

    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.connect("\0" + address[1:] if address[0] == "@" else address)
            notify.send(text.encode())
    except OSError:
        pass  # nobody there who wants to know


def write_pid_file(path: str) -> None:
    """Our process id in ``path``.  Raises HostError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, f"{os.getpid()}\n".encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise HostError(f"--pid-file {path}: {error.strerror}") from None
