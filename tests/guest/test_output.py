"""A command's output between its markers, however the stream is cut; prompts, panics, checksums: functions of bytes."""

from __future__ import annotations

import re
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.guest import prompts, typed
from bhyveload.guest.checksum import cksum
from bhyveload.guest.output import CommandOutput
from bhyveload.guest.watch import Watch

MARKERS = typed.Markers(b"0123456789abcdef", 7)
SYSLOG = b"Nov 30 10:00:00 freebsd login[700]: ROOT LOGIN (root) ON ttyu0\r\n"
KERNEL = b"usb0: <a device> at usbus0\r\n"


def through(stream: bytes, cuts: list[int], clean: bool = True) -> tuple[int | None, bytes]:
    """Status and output when the stream comes in the pieces that ``cuts`` make of it."""
    output = CommandOutput(MARKERS, clean)
    text, at = b"", 0
    for cut in [*sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]:
        text += output.feed(stream[at:cut])
        at = cut
    return output.status, text


def framed(text: bytes, status: int, newline: bytes = b"\n") -> bytes:
    begin = MARKERS.begin.replace(b"\n", newline)
    return b"late noise\r\n" + begin + text + MARKERS.end + b"%d>" % status + newline


@given(st.binary(max_size=300), st.integers(0, 255), st.lists(st.integers(0, 400), max_size=30))
def test_every_byte_passes_however_it_is_cut(text: bytes, status: int, cuts: list[int]) -> None:
    assert through(framed(text, status), cuts) == (status, text)


@given(st.lists(st.sampled_from([b"<", b"<0123", MARKERS.end, MARKERS.begin, b"7>", b"\r\n", b"a"]), max_size=20))
def test_what_looks_like_a_marker_is_output(parts: list[bytes]) -> None:
    text = b"".join(parts)
    if not re.search(re.escape(MARKERS.end) + rb"\d", text):
        assert through(framed(text, 3), list(range(0, 400, 3))) == (3, text)


@given(st.lists(st.sampled_from([SYSLOG, KERNEL, b"a line\n", b"dos: line\n", b"\xff\x00\n"]), max_size=10), st.data())
def test_whole_lines_of_noise_are_dropped(lines: list[bytes], data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, 900), max_size=20))
    expected = b"".join(line for line in lines if line not in (SYSLOG, KERNEL))
    assert through(framed(b"".join(lines), 0), cuts) == (0, expected)


@given(st.lists(st.sampled_from([b"a", b"\n", b"b\r", b"\xe4"]), max_size=40), st.lists(st.integers(0, 200)))
def test_a_terminal_that_makes_cr_lf(parts: list[bytes], cuts: list[int]) -> None:
    text = b"".join(parts)
    if b"\r\n" not in text:
        sent = framed(text.replace(b"\n", b"\r\n"), 9, b"\r\n")
        assert through(sent, cuts, clean=False) == (9, text)


def test_a_hundred_megabytes_in_little_memory() -> None:
    output = CommandOutput(MARKERS)
    output.feed(MARKERS.begin)
    piece = b"0123456789abcdef" * 4096 + b"<"
    total = sum(len(output.feed(piece)) for _ in range(1600))
    assert total + 600 > 1600 * len(piece)
    assert len(output._pending) < 600
    output.feed(MARKERS.end + b"0>")
    assert output.status == 0


def test_the_beginning_of_a_line_is_given_out_after_a_while() -> None:
    output = CommandOutput(MARKERS)
    assert output.feed(MARKERS.begin + b"Password") == b""
    assert output.idle() == b"Password"
    assert output.feed(b" please\n" + MARKERS.end + b"1>") == b" please\n"


def test_a_torn_beginning_loses_the_output_and_not_the_status() -> None:
    output = CommandOutput(MARKERS)
    assert output.feed(MARKERS.begin[:9] + KERNEL + MARKERS.begin[9:] + b"text" + MARKERS.end + b"4>") == b""
    assert (output.status, output.torn) == (4, True)


@pytest.mark.parametrize(
    ("tail", "kind"),
    [
        (b"\r\nFreeBSD/amd64 (freebsd) (ttyu0)\r\n\r\nlogin: ", prompts.LOGIN),
        (b"login: root\r\nPassword:", prompts.PASSWORD),
        (b"Enter full pathname of shell or RETURN for /bin/sh: ", prompts.SHELL_PATH),
        (b"\r\n# ", prompts.SHELL),
        (b"\r\nroot@freebsd:~ # ", prompts.SHELL),
        (b"\r\n\x1b[1mroot@freebsd\x1b[0m:~ # ", prompts.SHELL),
        (b"\r\nfreebsd% ", prompts.SHELL),
        (b"\r\n$ ", prompts.SHELL),
        (b"\r\nmountroot> ", ""),
        (b"db> ", ""),
        (b"Loading kernel...\r\n", ""),
        (b"", ""),
    ],
)
def test_prompts(tail: bytes, kind: str) -> None:
    assert prompts.waits_for(tail) == kind


@given(st.binary(max_size=600))
def test_any_bytes_on_a_console(data: bytes) -> None:
    prompts.waits_for(data)
    prompts.hidden_login(data)
    watch = Watch()
    watch.feed(data)
    assert all(line.isprintable() for line in watch.last_lines)


@given(st.binary(max_size=3000).filter(lambda data: b"\0" not in data))
@settings(max_examples=20, deadline=None)
def test_the_hosts_printf_makes_the_same_bytes(data: bytes) -> None:
    pieces = typed.pieces(data)
    assert all(len(piece) <= typed.LINE and piece.isascii() and b"'" not in piece for piece in pieces)
    script = b"".join(b"printf %b '" + piece + b"'\n" for piece in pieces)
    assert subprocess.run(["sh"], input=script, capture_output=True, check=True).stdout == data


@given(st.binary(max_size=3000))
@settings(max_examples=20, deadline=None)
def test_the_hosts_printf_writes_the_same_file(data: bytes) -> None:
    lines = typed.keep(data, b"/dev/stdout")
    assert all(len(line) < 255 and line.count(b"\n") == 1 for line in lines)
    assert subprocess.run(["sh"], input=b"".join(lines), stdout=subprocess.PIPE, check=True).stdout == data


@pytest.mark.parametrize("data", [b"", b"a", b"hello\n" * 999, bytes(range(256)) * 300])
def test_cksum(data: bytes) -> None:
    done = subprocess.run(["cksum"], input=data, capture_output=True, check=True)
    assert done.stdout.split() == [b"%d" % cksum(data), b"%d" % len(data)]


def test_a_panic_is_one_by_what_follows() -> None:
    watch = Watch()
    watch.feed(
        b"$ dmesg | grep panic\r\npanic: ffs_valloc: dup alloc\r\nwas all\r\nand\r\nthat\r\nwas\r\ncpuid = 0\r\n"
    )
    assert watch.trouble == ""
    watch.feed(b"panic: ffs_valloc: dup al")
    watch.feed(b"loc\r\ncpuid = 0\r\ntime = 1\r\n")
    assert watch.trouble == "the kernel panicked: ffs_valloc: dup alloc"


def test_a_panic_in_the_middle_of_a_commands_line() -> None:
    """vpanic() begins no line of its own."""
    watch = Watch()
    watch.feed(b"compiling 7 of 9panic: vm_fault\r\ncpuid = 1\r\ntime = 1700000000\r\nKDB: stack backtrace:\r\n")
    assert watch.trouble == "the kernel panicked: vm_fault"


@pytest.mark.parametrize(
    "proof",
    [
        b"cpuid = 0\r\n",
        b"time = 1700000000\r\n",
        b"KDB: stack backtrace:\r\n",
        b"KDB: enter: panic\r\n[ thread pid 0 tid 100000 ]\r\ndb> ",
        b"Uptime: 3s\r\n",
        b"Automatic reboot in 15 seconds - press a key on the console to abort\r\n",
    ],
)
def test_what_proves_a_panic(proof: bytes) -> None:
    """Of every kernel: with and without SMP, KDB, the time."""
    watch = Watch()
    watch.feed(b"panic: no init\r\n" + proof)
    assert watch.trouble == "the kernel panicked: no init"


def test_a_panicked_kernel_that_waits_for_a_key() -> None:
    watch = Watch()
    asks = b"--> Press a key on the console to reboot,\r\n--> or switch off the system now.\r\n"
    watch.feed(asks)
    assert watch.asks == ""
    watch.feed(b"panic: no init\r\nUptime: 3s\r\n" + asks)
    assert watch.asks == "key"
    watch.feed(b"Rebooting...\r\n")
    assert watch.asks == ""


def test_prompts_of_a_kernel() -> None:
    for asks in ("mountroot", "db"):
        watch = Watch()
        watch.feed(b"text\r\n" + asks.encode() + b"> ")
        assert watch.asks == asks
        watch.feed(b"x\r\n")
        assert (watch.asks, watch.trouble) == ("", "")


def test_the_last_twenty_lines() -> None:
    watch = Watch()
    watch.feed(b"".join(b"line %d\r\n" % number for number in range(1000)))
    watch.feed(b"\x1b[2Jend")
    assert watch.last_lines == [*(f"line {number}" for number in range(981, 1000)), "end"]
