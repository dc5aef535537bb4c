"""The console between a guest and those who listen to it: who gets what, who waits, who is dropped."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bhyveload.handoff.console import Escape, GuestConsole
from bhyveload.handoff.loop import Loop
from bhyveload.running.choices import key_name, parse_key


@pytest.fixture
def ends() -> Iterator[tuple[Loop, GuestConsole, socket.socket]]:
    """The console and the guest's side of it."""
    ours, guest = socket.socketpair()
    guest.setblocking(False)
    loop = Loop()
    console = GuestConsole(loop, ours)
    yield loop, console, guest
    console.close()
    guest.close()


def turn(loop: Loop, times: int = 8) -> None:
    for _ in range(times):
        loop.turn(0.005)


def pipe() -> tuple[int, int]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    return read, write


def test_everybody_hears_the_guest_and_may_type(ends: tuple[Loop, GuestConsole, socket.socket]) -> None:
    loop, console, guest = ends
    one, two = pipe(), pipe()
    keys = pipe()
    console.attach(keys[0], one[1], patient=True)
    console.attach(-1, two[1])
    guest.send(b"hello")
    os.write(keys[1], b"abc")
    turn(loop)
    assert (os.read(one[0], 100), os.read(two[0], 100), guest.recv(100)) == (b"hello", b"hello", b"abc")
    os.close(keys[1])  # nothing more is typed: the guest goes on
    turn(loop)
    guest.send(b"more")
    turn(loop)
    assert os.read(one[0], 100) == b"more"


def test_the_guest_waits_for_a_patient_listener(ends: tuple[Loop, GuestConsole, socket.socket]) -> None:
    loop, console, guest = ends
    read, write = pipe()
    console.attach(-1, write, patient=True)
    said = 0
    for _ in range(200):
        try:
            said += guest.send(b"x" * 65536)
        except BlockingIOError:
            break
        turn(loop, 3)
    else:
        raise AssertionError("the guest is never made to wait")
    heard = 0
    for _ in range(2000):
        turn(loop, 1)
        try:
            heard += len(os.read(read, 1 << 20))
        except BlockingIOError:
            if heard == said:
                break
    assert heard == said  # not a byte is lost


def test_others_that_do_not_keep_up(ends: tuple[Loop, GuestConsole, socket.socket]) -> None:
    """A client of a socket is dropped; a pseudo-terminal that nobody reads loses what is old."""
    loop, console, guest = ends
    released = []
    _, client = pipe()
    read, terminal = pipe()
    os.set_blocking(client, False)
    os.set_blocking(terminal, False)
    console.attach(-1, client, released=lambda: released.append(1))
    port = console.attach(-1, terminal)
    for number in range(300):
        guest.setblocking(True)
        guest.send(b"%04d" % number * 256)
        turn(loop, 2)
    turn(loop, 20)
    assert released == [1]
    assert len(port.pending) <= 1 << 16
    guest.setblocking(False)
    while True:
        try:
            text = os.read(read, 1 << 20)
        except BlockingIOError:
            break
        turn(loop, 2)
    assert text.endswith(b"0299")


def test_who_comes_late_hears_what_was_said_last(ends: tuple[Loop, GuestConsole, socket.socket]) -> None:
    loop, console, guest = ends
    guest.send(b"early words")
    turn(loop)
    read, write = pipe()
    console.attach(-1, write, recent=True)
    turn(loop)
    assert os.read(read, 100) == b"early words"


def test_the_guest_s_end(ends: tuple[Loop, GuestConsole, socket.socket]) -> None:
    loop, console, guest = ends
    read, write = pipe()
    console.attach(-1, write, patient=True)
    guest.send(b"last")
    guest.close()
    turn(loop)
    assert console.ended
    console.flush(lambda: False)
    assert os.read(read, 100) == b"last"
    console.type(b"nobody hears this")


def test_a_reader_that_went_away(ends: tuple[Loop, GuestConsole, socket.socket]) -> None:
    loop, console, guest = ends
    read, write = pipe()
    console.attach(-1, write, patient=True)
    os.close(read)
    guest.send(b"x")
    turn(loop)
    console.flush(lambda: False)  # does not wait for it


@given(st.binary(), st.lists(st.integers(0, 40)))
def test_an_escape_key_takes_its_commands_out(data: bytes, cuts: list[int]) -> None:
    """However the bytes arrive: a model of one loop over all of them."""
    done: list[bytes] = []
    escape = Escape(b"\1", {b"x": lambda: done.append(b"x")})
    out, at = b"", 0
    for cut in [*cuts, len(data)]:
        out += escape.filter(data[at : at + cut])
        at += cut
    expected, commands, armed = b"", 0, False
    for byte in data[:at]:
        if armed:
            armed = False
            if byte == 1:
                expected += b"\1"
            elif bytes([byte]).lower() == b"x":
                commands += 1
        elif byte == 1:
            armed = True
        else:
            expected += bytes([byte])
    assert (out, len(done)) == (expected, commands)


@pytest.mark.parametrize(
    ("text", "key", "name"),
    [
        ("Ctrl-A", b"\1", "Ctrl-A"),
        ("^]", b"\x1d", "Ctrl-]"),
        ("ctrl-a", b"\1", "Ctrl-A"),
        ("~", b"~", "~"),
        ("none", b"", ""),
        ("ab", b"", ""),
        ("", b"", ""),
        ("é", b"", ""),
    ],
)
def test_keys(text: str, key: bytes, name: str) -> None:
    assert parse_key(text) == key
    assert not key or key_name(key) == name


def test_timers() -> None:
    loop = Loop()
    called: list[int] = []
    loop.later(0.01, lambda: called.append(1))
    loop.later(60, lambda: called.append(2))
    for _ in range(10):
        loop.turn(0.01)
    assert called == [1]
