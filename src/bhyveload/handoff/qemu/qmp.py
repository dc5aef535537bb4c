"""QEMU's machine protocol, as much as a hand-off needs: commands out, replies and events in, one JSON object a line.

The other end is the process that runs a hostile guest: a line has a bound, and what is not an object is an error.
Source: QEMU's docs/interop/qmp-spec.
"""

from __future__ import annotations

import struct
from _socket import SCM_RIGHTS, SOL_SOCKET

from bhyveload.errors import HandoffError
from bhyveload.jsontext import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket
    from collections.abc import Iterator
    from typing import Any

_LINE_MAX = 1 << 20
_RECEIVE = 1 << 16


class Qmp:
    """One connection.  ``socket`` is non-blocking; call ``receive`` when it is readable."""

    __slots__ = ("_buffer", "closed", "socket")

    def __init__(self, connection: Socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.closed = False
        self._buffer = b""

    def send(self, command: str, **arguments: object) -> None:
        """Send a command; its reply carries ``command`` as "id".  That QEMU is gone is no error, it will be noticed."""
        message: dict[str, object] = {"execute": command, "id": command}
        if arguments:
            message["arguments"] = arguments
        try:
            self.socket.sendall(dumps(message).encode() + b"\n")
        except OSError:
            self.closed = True

    def send_descriptor(self, fd: int, command: str, **arguments: object) -> None:
        """Send a command that takes a descriptor, "getfd" or "add-fd", with ``fd``."""
        message = {"execute": command, "id": command, "arguments": arguments}
        try:
            self.socket.sendmsg([dumps(message).encode() + b"\n"], [(SOL_SOCKET, SCM_RIGHTS, struct.pack("=i", fd))])
        except OSError:
            self.closed = True

    def receive(self) -> Iterator[dict[str, Any]]:
        """The complete messages that have arrived.  Raises HandoffError on what is not QMP."""
        try:
            data = self.socket.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > _LINE_MAX:
            raise HandoffError("QEMU sent an endless line")
        for line in lines:
            if line.strip():
                yield _parse(line)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        message = loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise HandoffError("QEMU sent something that is not QMP")
    return message


def version_of(greeting: dict[str, Any]) -> str:
    """QMP's greeting has QEMU's version: {"QMP": {"version": {"qemu": {"major": 7, ...}}}}."""
    try:
        qemu = greeting["QMP"]["version"]["qemu"]
        return ".".join(str(int(qemu[part])) for part in ("major", "minor", "micro"))
    except (KeyError, TypeError, ValueError, OverflowError):  # the last: of 1e999
        return ""
