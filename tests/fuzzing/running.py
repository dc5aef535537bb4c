"""Targets around a guest that runs: what it says on its console, what its QEMU answers, what clients of its control
socket ask, what the folder of a saved guest claims."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

from bhyveload.guest import prompts
from bhyveload.guest.output import CommandOutput
from bhyveload.guest.typed import Markers
from bhyveload.guest.watch import LAST_LINES, Watch
from bhyveload.handoff.qemu.migration import Restoring, Saving
from bhyveload.handoff.qemu.qmp import Qmp
from bhyveload.handoff.qemu.session import QemuSession
from bhyveload.running.control import ControlSocket, Runner
from bhyveload.saved.format import header_text, parse_header
from fuzzing import Run, Target

# saved.json


def _saved() -> Run:
    def run(data: bytes) -> None:
        saved = parse_header(data, "saved.json")
        assert parse_header(header_text(saved), "saved.json") == saved
        for disk in saved.disks:
            for layer in disk.layers:
                assert isinstance(layer.difference(), str)

    return run


def _saved_seeds() -> Iterator[bytes]:
    layer = {"path": "/no/such", "format": "raw", "device": 1, "inode": 2, "size": 512, "modified": 3}
    header: dict[str, Any] = {
        "schema": 1,
        "qemu": "7.2.0",
        "accel": "tcg",
        "processor": "max",
        "cpus": 1,
        "memory": 64 << 20,
        "flags": {"wired": False, "incore": True},
        "net": ["none", "virtio-net-pci"],
        "disks": [{"read_only": False, "sector_size": 512, "size": 512, "layers": [layer, layer]}],
        "sizes": {"memory": 64 << 20, "devices": 5, "kernel": 7},
        "exchange": 8 << 20,
        "shell": True,
    }
    parse_header(json.dumps(header).encode(), "the seed")
    yield json.dumps(header).encode()
    yield json.dumps({**header, "net": ["user", "e1000"], "disks": [], "schema": 1.0}).encode()


# The guest's console


def _console() -> Run:
    """The first byte: how many bytes come at a time."""
    markers = Markers(b"k", 1)

    def run(data: bytes) -> None:
        step, said = (data[0] % 61 or 4096, data[1:]) if data else (1, b"")
        watch = Watch([re.compile(rb"o+ps"), re.compile(rb"done$")])
        for clean in (False, True):
            output, got = CommandOutput(markers, clean), b""
            for at in range(0, len(said), step):
                piece = said[at : at + step]
                got += output.feed(piece)
                if not at % 7:
                    got += output.idle()
                if clean:
                    watch.feed(piece)
                    prompts.waits_for(said[: at + step])
            if not clean and output.status is not None and not output.torn:
                whole = CommandOutput(markers, clean)
                assert (whole.feed(said), whole.status) == (got, output.status)
        assert watch.trouble.isprintable() and len(watch.last_lines) <= LAST_LINES
        assert all(line.isprintable() for line in watch.last_lines)
        prompts.hidden_login(said)
        prompts.refused(said)

    return run


def _console_seeds() -> Iterator[bytes]:
    yield b"\x05noise\r\n<k-1:begin>\r\nline\r\n<k-1:end\r\n<k-1:end:0>\r\n"
    yield b"\x00<k-1:begin>\nJan  1 00:00:00 host syslogd: x\r\npid 1 (x), uid 0: exited\r\nda0: x\r\n<k-1:end:255>"
    yield b"\x03login: Password for root: Login incorrect\r\nmountroot> \x1b[2J\x1b]0;t\x07# "
    yield b"\x09panic: oops\r\ncpuid = 1\r\nKDB: stack backtrace:\r\ndb> "


# QEMU's answers


@dataclasses.dataclass
class _Wire:
    """A socket whose other end has said ``data``."""

    data: bytes

    def setblocking(self, flag: bool) -> None:
        pass

    def recv(self, size: int) -> bytes:
        return self.data

    def sendall(self, data: bytes) -> None:
        assert json.loads(data)

    send = sendmsg = lambda self, *arguments: len(arguments[0])


class _Lent:
    def close(self) -> None:
        pass


def _session(qmp: Qmp, how: int) -> Any:
    """A session as it is while QEMU answers; ``how``: what it waits for."""
    session: Any = object.__new__(QemuSession)
    session.__dict__.update(
        _qmp=qmp,
        _lent=_Lent(),
        _outcome="",
        _ended_by_us=False,
        _failed=False,
        _halted_at=None,
        _hold=("", "VNC_CONNECTED", "RESUME")[how % 3],
        _pins={0: {0}} if how & 4 else {},
        _incoming="",
        _wanted="7.2.0",
        _whole=False,
        _attempts=1,
        _move=None,
        _running=False,
        _when_running=[],
        _when_ready=[],
        _failures={},
        _disks={},
        _command=[],
        _names={},
        _unheard=[lambda: None],
        _dumped=None,
        version="",
        _process=type("Process", (), {"pid": -1}),
    )
    if how & 8:
        session._incoming = "fd:3"
    elif how & 16:
        session._move = Saving(qmp, 0, lambda reason: None)
    elif how & 32:
        session._move = Restoring(qmp, "fd:3", lambda: None)
    if how & 64:
        session._dumped = lambda reason: None
    return session


def _qmp() -> Run:
    """The first byte: what the session waits for."""

    def run(data: bytes) -> None:
        wire: Any = _Wire(data[1:])
        qmp = Qmp(wire)
        session = _session(qmp, data[0] if data else 0)
        for message in qmp.receive():
            session._message(message)
        assert isinstance(session.version, str)

    return run


def _qmp_seeds() -> Iterator[bytes]:
    greeting = b'{"QMP":{"version":{"qemu":{"major":7,"minor":2,"micro":0}}}}\n'
    registers = "RIP=0 RFL=2 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=1\\nES =0\\nCS =8\\nport.[0x0604] = 0x1"
    for how in (0, 1, 2, 4, 8, 16, 32, 64):
        yield bytes((how,)) + greeting + b'{"id":"cont","return":{}}\n{"event":"SHUTDOWN","data":{"reason":"x"}}\n'
    yield b"\4" + greeting + b'{"id":"query-cpus-fast","return":[{"cpu-index":0,"thread-id":1}]}\n'
    yield b"\1" + greeting + b'{"id":"query-vnc","return":{"clients":[1]}}\n{"event":"VNC_CONNECTED"}\n'
    yield b"\0" + f'{{"id":"human-monitor-command","return":"{registers}"}}\n'.encode() * 2
    yield (
        b"\x50"
        + b'{"event":"MIGRATION","data":{"status":"failed"}}\n{"id":"query-migrate","return":{"error-desc":"x"}}\n'
    )
    yield b"\x60" + b'{"id":"dump-guest-memory","error":{"desc":"x"}}\n{"id":"migrate","error":{"desc":"x"}}\n'


# The control socket, both ends


class _Console:
    def attach(self, *arguments: object, **more: object) -> None:
        pass

    def type(self, data: bytes) -> None:
        assert isinstance(data, bytes)


class _Loop:
    def forget(self, fd: int) -> None:
        pass


class _Run:
    """A run that does what it is told, by doing nothing."""

    pid = 0
    loop, console = _Loop(), _Console()

    def power_button(self) -> None:
        pass

    power_off = reset = power_button

    def stop(self, outcome: str) -> None:
        pass

    def dump(self, *arguments: object) -> bool:
        raise AssertionError("a file was made")


class _Client(_Wire):
    answer = b""

    def close(self) -> None:
        pass

    def recv(self, size: int) -> bytes:
        piece, self.data = self.data[:size], self.data[size:]
        return piece

    def settimeout(self, seconds: float) -> None:
        pass

    def send(self, data: bytes) -> int:
        self.answer += data
        return len(data)


def _control() -> Run:
    def run(data: bytes) -> None:
        if b"dump" in data or b"\\u" in data:  # the path is the user's own word
            return
        client: Any = _Client(data)
        control: Any = object.__new__(ControlSocket)
        clients = {5: (client, bytearray())}
        control.__dict__.update(_session=_Run(), _facts={"pid": 1}, _clients=clients, _save=None, _elsewhere="")
        while 5 in control._clients and client.data:
            control._hear(5)
        for line in client.answer.splitlines():
            assert isinstance(json.loads(line)["ok"], bool)
        answered: Any = _Client(data)
        assert Runner(answered).ask("info")["ok"] is True

    return run


def _control_seeds() -> Iterator[bytes]:
    for command in ("info", "power-button", "power-off", "reset", "destroy", "stats", "console", "save"):
        yield json.dumps({"command": command}).encode() + b"\n"
    yield b'{"ok": true, "pid": 5}\n{"ok": false, "error": "x"}\n'
    yield b'{"command": ["info"]}\n' * 3


TARGETS = [
    Target("saved", _saved, _saved_seeds, rounds=1000, size=1500),
    Target("console", _console, _console_seeds, rounds=1000, size=1500),
    Target("qmp", _qmp, _qmp_seeds, rounds=1000, size=1500),
    Target("control", _control, _control_seeds, rounds=1000, size=5000),
]
