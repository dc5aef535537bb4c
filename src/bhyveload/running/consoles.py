"""Where the guest's console is: ``stdio``, ``pty``, ``unix:PATH``, ``tcp:[HOST:]PORT``, a device or file, ``none``."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import termios
import tty

from bhyveload.errors import HostError
from bhyveload.handoff.qemu.listening import is_served
from bhyveload.running.choices import NONE, PTY, TCP, UNIX, tcp_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.handoff.backend import Session


def open_console(kind: str, session: Session, closing: contextlib.ExitStack) -> str:
    """Attach what ``kind`` names (all but stdio) to the console of ``session``; what to call it, for people.

    ``closing`` undoes it.  Raises HostError.
    """
    try:
        if kind == NONE:
            return NONE
        if kind == PTY:
            return _pseudo_terminal(session, closing)
        if kind.startswith(UNIX):
            return _listen(session, closing, kind, _unix_socket(kind[len(UNIX) :], closing))
        if kind.startswith(TCP):
            return _listen(session, closing, kind, _tcp_socket(kind))
        return _file(kind, session, closing)
    except OSError as error:
        raise HostError(f"--console {kind}: {error.strerror or error}") from None


def open_log(path: str, session: Session, closing: contextlib.ExitStack, tell: Callable[[str], None]) -> None:
    """Append all that the guest says to the file ``path``; ``tell`` hears when it no longer can.  Raises HostError."""
    try:
        fd = _appending(path)
    except OSError as error:
        raise HostError(f"--log {path}: {error.strerror}") from None
    closing.callback(os.close, fd)
    port = session.console.attach(-1, fd, patient=True)
    port.failed = lambda reason: tell(f"--log {path}: {reason}: nothing more is written there")


def _pseudo_terminal(session: Session, closing: contextlib.ExitStack) -> str:
    master, slave = os.openpty()
    closing.callback(os.close, master)
    closing.callback(os.close, slave)  # kept open: without anybody there, the other end would be hung up
    tty.setraw(slave, termios.TCSANOW)
    os.set_blocking(master, False)
    session.console.attach(master, master)
    return os.ttyname(slave)


def _file(path: str, session: Session, closing: contextlib.ExitStack) -> str:
    """A terminal or the like speaks and listens; any other file only gets what the guest says."""
    from bhyveload.host.nmdm import is_nmdm, terminal_of

    if is_nmdm(path):
        path = terminal_of(path)
    device = False
    with contextlib.suppress(OSError):
        device = stat.S_ISCHR(os.stat(path).st_mode)
    if device:
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        if os.isatty(fd):
            tty.setraw(fd, termios.TCSANOW)
        session.console.attach(fd, fd)
    else:
        fd = _appending(path)
        session.console.attach(-1, fd, patient=True)
    closing.callback(os.close, fd)
    return path


def _appending(path: str) -> int:
    """A FIFO that nobody reads is an error (ENXIO): open(2) would wait for its reader, whatever else happens.  Raises
    OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    fd = os.open(path, flags, 0o600)
    os.set_blocking(fd, True)
    return fd


def _unix_socket(path: str, closing: contextlib.ExitStack) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise HostError(f"--console unix:{path}: a file of that name is there already")
        if is_served(path):
            raise HostError(f"--console unix:{path}: another program listens there", "is it a running guest's?")
        os.unlink(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        listening.bind(path)
    except BaseException:
        listening.close()
        raise
    finally:
        os.umask(mask)
    closing.callback(_remove, path)
    return listening


def _tcp_socket(kind: str) -> socket.socket:
    host, port = tcp_address(kind)
    listening = socket.socket(
        socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC
    )
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except BaseException:
        listening.close()
        raise
    return listening


def _listen(session: Session, closing: contextlib.ExitStack, kind: str, listening: socket.socket) -> str:
    closing.callback(listening.close)
    listening.setblocking(False)
    listening.listen(4)
    session.loop.watch(listening.fileno(), _accepting(session, listening))
    closing.callback(session.loop.forget, listening.fileno())
    if listening.family == socket.AF_UNIX:
        return kind
    host, port = listening.getsockname()[:2]
    return f"tcp:{host}:{port}"


def _accepting(session: Session, listening: socket.socket) -> Callable[[], None]:
    def accept() -> None:
        try:
            client, _ = listening.accept()
        except OSError:
            return
        client.setblocking(False)
        session.console.attach(client.fileno(), client.fileno(), released=client.close, recent=True)

    return accept


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
