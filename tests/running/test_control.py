"""What the program that runs a guest answers on its way to an answer."""

from __future__ import annotations

import socket

import pytest

from bhyveload.errors import HostError
from bhyveload.running.control import Runner


def asked(answer: bytes) -> tuple[dict[str, object], list[tuple[int, int]]]:
    """The answer to a command and the steps to it."""
    ours, theirs = socket.socketpair()
    steps: list[tuple[int, int]] = []
    with theirs, Runner(ours) as runner:
        theirs.sendall(answer)
        return runner.ask("save", 5.0, lambda *step: steps.append(step)), steps


def test_steps_come_before_the_answer() -> None:
    assert asked(b'{"progress": [1, 4]}\n{"progress": [4, 4]}\n{"ok": true}\n') == ({"ok": True}, [(1, 4), (4, 4)])
    assert asked(b'{"ok": true}\n') == ({"ok": True}, [])


@pytest.mark.parametrize("progress", [b"[1]", b"[1, 2, 3]", b"null", b'["x", 1]', b"[null, 1]"])
def test_steps_that_are_none(progress: bytes) -> None:
    with pytest.raises(HostError, match="does not answer"):
        asked(b'{"progress": ' + progress + b'}\n{"ok": true}\n')


def test_a_program_that_goes_away_meanwhile() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b'{"progress": [1, 4]}\n')
    theirs.shutdown(socket.SHUT_WR)
    with theirs, Runner(ours) as runner, pytest.raises(HostError, match="it went away"):
        runner.ask("save", 5.0, lambda done, total: None)
