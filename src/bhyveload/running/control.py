"""The control socket of a running guest: DIRECTORY/NAME/control, owned by the program that runs it.

Whoever connects sends one line, a JSON object with the member "command", and gets one line back: {"ok": true, ...} or
{"ok": false, "error": text}.  The connection then stays open until the run ends, so that a client can wait for that;
after "console" it is the guest's console instead.  Commands: info, power-button, power-off, reset, inject-nmi, destroy,
stats, console, save (answered when the guest is saved, or goes on; "path": a new folder, if it was not started to be
saved; meanwhile there may be lines {"progress": [BYTES DONE, IN ALL]}); "dump" also has "path", a new file.

The socket has mode 0600 in a folder of mode 0700, and a client of another user (but root) is sent away.  One that a
killed program left behind refuses connections; the next run replaces it: it has the VM's lock.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time

from bhyveload.errors import HostError
from bhyveload.handoff.core import new_file
from bhyveload.handoff.outcome import DESTROYED
from bhyveload.jsontext import dumps, loads
from bhyveload.running.statistics import statistics

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from bhyveload.handoff.backend import Session

    Step = Callable[[int, int], None]  # bytes that are done, and those in all
    Save = Callable[[str, Callable[[str], None], Step], None]  # a folder, or "", and who is told

SOCKET = "control"
_LINE_MAX = 4096
_ANSWER_MAX = 1 << 20
_CLIENTS_MAX = 16
_PEER = struct.Struct("=iII")  # struct ucred: pid, uid, gid


class ControlSocket:
    """The runner's end.  ``facts`` are what "info" tells besides process ids and time."""

    def __init__(
        self,
        session: Session,
        folder: str,
        facts: Mapping[str, object],
        save: Save | None = None,
        elsewhere: str = "",
    ) -> None:
        """``save``: what saves the guest; ``elsewhere``: why its console is not to be had here.  Raises HostError."""
        self._save = save
        self._elsewhere = elsewhere
        self._session = session
        self._facts = {"pid": os.getpid(), "hypervisor": session.pid, "since": int(time.time()), **facts}
        self._folder = folder
        self._clients: dict[int, tuple[socket.socket, bytearray]] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with _short_path(folder) as path:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                mask = os.umask(0o177)
                try:
                    self._socket.bind(path)
                finally:
                    os.umask(mask)
            self._socket.listen(_CLIENTS_MAX)
        except OSError as error:
            self._socket.close()
            raise HostError(f"{folder}/{SOCKET}: {error.strerror}") from None
        session.loop.watch(self._socket.fileno(), self._accept)

    def __enter__(self) -> ControlSocket:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._folder, SOCKET))
        self._session.loop.forget(self._socket.fileno())
        self._socket.close()
        for fd in list(self._clients):
            self._drop(fd)

    def _accept(self) -> None:
        try:
            client, _ = self._socket.accept()
        except OSError:
            return
        peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        if _PEER.unpack(peer)[1] not in (0, os.geteuid()) or len(self._clients) >= _CLIENTS_MAX:
            client.close()
            return
        client.setblocking(False)
        fd = client.fileno()
        self._clients[fd] = client, bytearray()
        self._session.loop.watch(fd, lambda: self._hear(fd))

    def _hear(self, fd: int) -> None:
        client, heard = self._clients[fd]
        try:
            data = client.recv(_LINE_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        heard += data
        line, end, rest = bytes(heard).partition(b"\n")
        if end:
            heard.clear()
            self._answer(fd, client, line, rest)
        elif not data or len(heard) > _LINE_MAX:
            self._drop(fd)

    def _answer(self, fd: int, client: socket.socket, line: bytes, rest: bytes) -> None:
        try:
            request = loads(line)
        except (ValueError, RecursionError):
            request = None
        command = request.get("command") if isinstance(request, dict) else None
        if command == "dump" and isinstance(request, dict):
            self._dump(fd, client, request.get("path"))
            return
        handler = _COMMANDS.get(command) if isinstance(command, str) else None
        if command == "console" and self._elsewhere:
            self._say(client, {"ok": False, "error": self._elsewhere})
            return
        if command == "console":
            if self._say(client, {"ok": True}):
                self._hand_over(fd, client, rest)
            return
        if command == "save":
            self._begin_to_save(client, request.get("path", "") if isinstance(request, dict) else "")
            return
        answer = {"ok": False, "error": "not a command"} if handler is None else {"ok": True, **handler(self)}
        if not self._say(client, answer):
            self._drop(fd)

    def _dump(self, fd: int, client: socket.socket, path: object) -> None:
        """Answered when it is done; a client that has gone meanwhile is not."""
        target = -1
        try:
            if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
                raise HostError("dump: no path")
            target = new_file(path)

            def told(error: str) -> None:
                os.close(target)
                if error:
                    with contextlib.suppress(OSError):
                        os.unlink(path)
                if self._clients.get(fd, (None,))[0] is client:
                    self._say(client, {"ok": False, "error": f"--dump {path}: {error}"} if error else {"ok": True})

            if not self._session.dump(target, told):
                os.close(target)
                os.unlink(path)
                raise HostError("dump: the guest does not run yet, or is being dumped")
        except (HostError, OSError) as error:
            self._say(client, {"ok": False, "error": str(error)})

    def _begin_to_save(self, client: socket.socket, path: object) -> None:
        def done(reason: str) -> None:
            self._say(client, {"ok": not reason, "error": reason})

        def step(done: int, total: int) -> None:
            self._say(client, {"progress": [done, total]})

        if self._save is None or not isinstance(path, str) or "\0" in path:
            done("it cannot be saved")
        else:
            self._save(path, done, step)

    def _say(self, client: socket.socket, answer: dict[str, Any]) -> bool:
        text = dumps(answer).encode() + b"\n"
        try:
            return client.send(text) == len(text)
        except OSError:
            return False

    def _hand_over(self, fd: int, client: socket.socket, typed: bytes) -> None:
        """The client is one more listener of the console from now on."""
        self._session.loop.forget(fd)
        del self._clients[fd]
        self._session.console.attach(fd, fd, released=client.close, recent=True)
        if typed:
            self._session.console.type(typed)

    def _drop(self, fd: int) -> None:
        client, _ = self._clients.pop(fd)
        self._session.loop.forget(fd)
        client.close()

    def _info(self) -> dict[str, Any]:
        return self._facts

    def _power_button(self) -> dict[str, Any]:
        self._session.power_button()
        return {}

    def _power_off(self) -> dict[str, Any]:
        self._session.power_off()
        return {}

    def _reset(self) -> dict[str, Any]:
        self._session.reset()
        return {}

    def _inject_nmi(self) -> dict[str, Any]:
        self._session.inject_nmi()
        return {}

    def _destroy(self) -> dict[str, Any]:
        self._session.stop(DESTROYED)
        return {}

    def _statistics(self) -> dict[str, Any]:
        return statistics(self._session.pid)


_COMMANDS: dict[str, Callable[[ControlSocket], dict[str, Any]]] = {
    "info": ControlSocket._info,
    "power-button": ControlSocket._power_button,
    "power-off": ControlSocket._power_off,
    "reset": ControlSocket._reset,
    "inject-nmi": ControlSocket._inject_nmi,
    "destroy": ControlSocket._destroy,
    "stats": ControlSocket._statistics,
}


class Runner:
    """A client's connection to the program that runs a guest."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection

    def ask(self, command: str, timeout: float = 5.0, step: Step | None = None, **more: str) -> dict[str, Any]:
        """The answer to ``command``; ``step`` hears how far it is.  Raises HostError: there is none in ``timeout``
        seconds, or it is a refusal."""
        self.socket.settimeout(timeout)
        try:
            self.socket.sendall(dumps({"command": command, **more}).encode() + b"\n")
            answer = loads(self._line())
            while step is not None and isinstance(answer, dict) and "progress" in answer:
                done, total = answer["progress"]
                step(int(done), int(total))
                answer = loads(self._line())
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise HostError(f"the program that runs the guest does not answer: {error}") from None
        if not isinstance(answer, dict) or answer.get("ok") is not True:
            reason = answer.get("error") if isinstance(answer, dict) else None
            raise HostError(f"the program that runs the guest refuses: {str(reason)[:200]}")
        return answer

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):  # one byte at a time: what follows may be the console
            byte = self.socket.recv(1)
            if not byte or len(line) > _ANSWER_MAX:
                raise OSError(0, "it went away")
            line += byte
        return line

    def wait_for_the_end(self, timeout: float) -> bool:
        """Whether the run ends within ``timeout`` seconds."""
        self.socket.settimeout(timeout)
        try:
            while self.socket.recv(_LINE_MAX):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    @property
    def pid(self) -> int:
        """The process at the other end, as the kernel has it."""
        peer = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        return int(_PEER.unpack(peer)[0])

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def runner_of(folder: str) -> Runner | None:
    """Who runs the VM in ``folder``; None when nobody does."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(5.0)
    try:
        with _short_path(folder) as path:
            connection.connect(path)
    except OSError:  # none, or a stale one
        connection.close()
        return None
    return Runner(connection)


@contextlib.contextmanager
def _short_path(folder: str) -> Iterator[str]:
    """The socket's path by way of a descriptor: a VM's may be longer than the 107 bytes that an address holds."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)
