"""A running guest to work in: ``Guest`` logs in on the console, runs commands, and brings files in and out."""

from __future__ import annotations

import contextlib
import os
import time

from bhyveload.errors import GuestEnded, GuestError, GuestTimedOut, UsageError
from bhyveload.guest import prompts, typed
from bhyveload.guest.checksum import cksum
from bhyveload.guest.exchange import check_place, give_out, mounted, no_disk, take_in
from bhyveload.guest.output import CommandOutput
from bhyveload.guest.watch import Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.guest.exchange import Exchange, Step
    from bhyveload.handoff.backend import Session
    from bhyveload.handoff.outcome import RunResult

PATIENCE = 600.0  # seconds for the way to a shell: emulated machines boot slowly
SAVE_SECONDS = 300.0
FILE_MAX = 64 << 20  # bytes of a file by the console
OUTPUT_MAX = 256 << 20  # bytes of output that are kept

_SETTLED = 0.4  # seconds without a word, and what looks like a shell's prompt is one
_NUDGE = 10.0  # seconds without a word after which Return is pressed
_HIDDEN = 3.0
_HELLO = 2.0  # seconds between greetings to a new shell
_HELLOS = 15
_LOGINS = 3
_QUIET = 0.2  # seconds after which the beginning of a line is given out
_LOST = 2.0  # seconds that a login prompt must stand to mean that the shell has gone
_INTERRUPT = 5.0
_BLOCK = 4  # lines that are typed before the guest has to answer
_TRIES = 3
_TAIL = 4096
_STEP = 0.1
_BANNER = b"/amd64 (", b"/i386 ("  # getty's "im" capability: FreeBSD/amd64 (host) (ttyu0)


class Finished:
    """A command's end: its exit ``status`` and its ``output`` (standard output and error, as the guest wrote them;
    empty when it went to somebody else)."""

    __slots__ = ("output", "status")

    def __init__(self, status: int, output: bytes) -> None:
        self.status = status
        self.output = output

    @property
    def text(self) -> str:
        return self.output.decode("utf-8", "replace")


class Guest:
    """A guest that runs in ``session``, worked in as ``user``.  Use it in a ``with``; it ends there.

    The first command waits for the guest's boot: for a login prompt, or for a shell that is there already (single-user
    mode).  ``closing``: what is closed at the end; ``exchange``: the disk for folders, if it has one.
    Raises (all methods) GuestEnded, GuestTimedOut, GuestError.
    """

    def __init__(
        self,
        session: Session,
        *,
        user: str = "root",
        password: str = "",
        patience: float = PATIENCE,
        exchange: Exchange | None = None,
        shell: bool = False,
        save: Callable[[Callable[[str], None]], None] | None = None,
    ) -> None:
        """``shell``: a guest was saved with the shell of another Guest's, which waits without a prompt; ``save``: what
        saves it, and then calls what it is given with "" or a reason."""
        for word in (user, password):
            if not word.isprintable() or len(word.encode()) > 128:
                raise UsageError("a user's name and password are printable, and 128 bytes long at most")
        self.session = session
        self.watch = Watch()
        self.exchange = exchange
        self._shell = shell
        self._save = save
        self._runs = not shell  # before it runs it hears nothing
        self._user, self._password = user.encode(), password.encode()
        self._patience = patience
        self.closing = contextlib.ExitStack()
        self._key = os.urandom(8).hex().encode()
        self._number = 0
        self._clean = False
        self._ready = False
        self._tail = b""
        self._heard_at = time.monotonic()
        self._output: CommandOutput | None = None
        self._sink: Callable[[bytes], None] = _nowhere
        session.console.hear(self._hear)
        if shell:
            session.on_running(self._may_type)

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Pull the plug."""
        if not self.session.over:
            self.session.stop()
        self.session.close()
        self.closing.close()

    def power_off(self, timeout: float = 120.0) -> RunResult:
        """Press the power button and wait until the guest is off, its file systems clean; after ``timeout`` seconds the
        plug is pulled."""
        self.session.power_button()
        self._turn(lambda: False, time.monotonic() + timeout, watched=False)
        if not self.session.over:
            self.session.stop()
        return self.session.wait()

    def run(
        self,
        command: str | bytes,
        *,
        timeout: float | None = None,
        out: Callable[[bytes], None] | None = None,
    ) -> Finished:
        """Run ``command`` in a sh(1) of its own, with no standard input.

        ``timeout`` in seconds, the boot included where this is the first command; then the command is interrupted and
        GuestTimedOut raised: the guest can be used further if it heeds that.  ``out`` gets the output as it comes;
        without it the output is in what is returned.
        """
        data = os.fsencode(command) if isinstance(command, str) else command
        if b"\0" in data:
            raise UsageError("a command with a NUL byte in it")
        deadline = None if timeout is None else time.monotonic() + timeout
        self.log_in(deadline)
        kept = bytearray()

        def keep(text: bytes) -> None:
            if len(kept) + len(text) > OUTPUT_MAX:
                raise GuestError(f"the command says more than {OUTPUT_MAX >> 20} MiB", "take it as it comes: out=")
            kept.extend(text)

        lines = typed.run(data, markers := self._markers()).splitlines(keepends=True)
        self._type(lines[:-2], deadline)
        status = self._finish(b"".join(lines[-2:]), markers, out or keep, deadline)
        return Finished(status, bytes(kept))

    def put(
        self, data: bytes, path: str | bytes | os.PathLike[str], *, mode: int = 0o644, timeout: float | None = None
    ) -> None:
        """Write ``data`` to the file ``path`` of the guest, by way of one beside it; its checksum is compared there."""
        if len(data) > FILE_MAX:
            raise UsageError(f"{len(data)} bytes are too many for the console", "share a folder, or give a disk")
        deadline = None if timeout is None else time.monotonic() + timeout
        self.log_in(deadline)
        name = _file_name(path)
        beside = name + b".%s-%d" % (self._key, self._number)
        target = typed.quoted(name)
        variable = b"$_f"
        for _ in range(_TRIES):
            lines = [b"_c=\n", *(b"_c=$_c'" + piece + b"'\n" for piece in typed.pieces(beside))]
            self._type([*lines, b'_f=$(printf %b "$_c"); printf "" >"' + variable + b'"\n'], deadline)
            self._type(typed.keep(data, b'"' + variable + b'"'), deadline)
            sum_of = self._short(b"cksum <" + typed.quoted(beside), deadline)
            if sum_of.status == 0 and sum_of.output.split()[:2] == _sum(data):
                move = b"chmod %o %s && mv -f %s %s" % (mode & 0o7777, *(typed.quoted(beside),) * 2, target)
                done = self._short(move, deadline)
                if done.status:
                    raise GuestError(f"{_shown(path)}: {_reason(done)}")
                return
            if sum_of.status:
                raise GuestError(f"{_shown(path)}: cannot be written in the guest: {_reason(sum_of)}")
        self._short(b"rm -f " + typed.quoted(beside), deadline)
        raise GuestError(f"{_shown(path)}: did not arrive whole in {_TRIES} attempts", "messages disturb it")

    def get(self, path: str | bytes | os.PathLike[str], *, timeout: float | None = None) -> bytes:
        """The bytes of the file ``path`` of the guest, compared with its checksum there."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self.log_in(deadline)
        name = typed.quoted(_file_name(path))
        for _ in range(_TRIES):
            size = self._short(b"wc -c <" + name, deadline)
            number = size.output.strip()
            if size.status or not number.isdigit():
                raise GuestError(f"{_shown(path)}: cannot be read in the guest: {_reason(size)}")
            if len(number) > 12 or int(number) > FILE_MAX:
                raise GuestError(f"{_shown(path)}: too large for the console", "share a folder, or give a disk")
            if self._clean:
                data = self._short(b"cat " + name, deadline).output
            else:  # the terminal changes what passes
                words = self._short(b"od -An -v -tx1 " + name, deadline).output.split()
                data = bytes(int(word, 16) for word in words if len(word) == 2 and word.isalnum() and word.isascii())
            sum_of = self._short(b"cksum <" + name, deadline)
            if sum_of.output.split()[:2] == _sum(data):
                return data
        raise GuestError(f"{_shown(path)}: did not arrive whole in {_TRIES} attempts", "does it change meanwhile?")

    def put_tree(
        self,
        folder: str | os.PathLike[str],
        path: str | bytes | os.PathLike[str],
        *,
        timeout: float | None = None,
        step: Step | None = None,
    ) -> None:
        """The files below ``folder`` of the host into the folder ``path`` of the guest, as root's; ``step`` is told the
        bytes done and those in all.  Raises InputError, UsageError (too large), too."""
        place, word = check_place(path), self._word()
        exchange = self._exchange()
        deadline = None if timeout is None else time.monotonic() + timeout
        exchange.pack(os.fspath(folder), word, step)
        self._carry(take_in(word, place), place, deadline)

    def get_tree(
        self,
        path: str | bytes | os.PathLike[str],
        folder: str | os.PathLike[str],
        *,
        timeout: float | None = None,
        step: Step | None = None,
    ) -> list[str]:
        """The files below the folder ``path`` of the guest into ``folder`` of the host, which is made if need be.

        No file comes to lie outside of it, and no link leads out of it; what has been left out for that, or is no file,
        is returned: a line each.  Raises HostError, too."""
        place, word = check_place(path), self._word()
        exchange = self._exchange()
        deadline = None if timeout is None else time.monotonic() + timeout
        exchange.offer(word)
        self._carry(give_out(word, place), place, deadline)
        try:
            return exchange.unpack(os.fspath(folder), step)
        finally:
            exchange.clear()

    def mount(self, tag: str, path: str | bytes | os.PathLike[str], *, timeout: float | None = None) -> None:
        """Mount the host's folder that is shared as ``tag`` (9p) at ``path``."""
        place = check_place(path)
        done = self.run(mounted(os.fsencode(tag), place), timeout=timeout)
        if done.status:
            raise GuestError(
                f"{_shown(path)}: the guest cannot mount the share {tag}: {_reason(done)}",
                "p9fs is in FreeBSD 15 and later; --copy-in works with all",
            )

    def save(self, timeout: float = SAVE_SECONDS) -> None:
        """Keep the guest as it is now, at its shell, in the folder that ``start`` was given (``save_to``).

        The run ends; ``restore`` starts clones of it.  Raises UsageError, too."""
        if self._save is None:
            raise UsageError("the guest was not started to be saved", "start(vm, save_to=FOLDER)")
        deadline = time.monotonic() + timeout
        self.log_in(deadline)
        answers: list[str] = []
        self._save(answers.append)
        while not answers and not self.session.over and time.monotonic() < deadline:
            self.session.turn(_STEP)
        if not answers:
            raise GuestTimedOut("the guest is not saved: it takes too long")
        if answers[0]:
            raise GuestError(f"the guest is not saved: {answers[0]}")
        self.session.wait()

    def leave(self, timeout: float | None = None) -> None:
        """End the shell and let the console be as it was: most likely it then asks for a login."""
        self.log_in(None if timeout is None else time.monotonic() + timeout)
        self.session.console.type(typed.LEAVE)
        self._ready = self._shell = False

    def _exchange(self) -> Exchange:
        if self.exchange is None:
            raise no_disk()
        return self.exchange

    def _word(self) -> str:
        self._number += 1
        return f"bhyveload-{self._key.decode()}-{self._number}"

    def _carry(self, command: bytes, place: bytes, deadline: float | None) -> None:
        done = self._short(command, deadline)
        if done.status:
            reason = next(iter(done.text.strip().splitlines()), f"exit status {done.status}")
            raise GuestError(f"{_shown(place)}: in the guest: {reason}")

    def log_in(self, deadline: float | None = None) -> None:
        """Be at a shell that waits for commands; at once where that has been reached before."""
        if self._ready:
            return
        limit = time.monotonic() + self._patience
        limit = limit if deadline is None else min(limit, deadline)
        sent = ""
        logins = hellos = 0
        greet_at = 0.0
        markers = self._markers() if self._shell else None
        while not (self._output is not None and self._output.status == 0):
            now = time.monotonic()
            if now >= limit:
                raise GuestTimedOut(self._no_shell(sent), "the guest's console must be its first serial port")
            quiet = now - self._heard_at
            kind = prompts.waits_for(self._tail)
            if sent in (prompts.LOGIN, prompts.PASSWORD) and prompts.refused(self._tail):
                raise GuestError(f"the guest refuses the login of {self._user.decode()}", "--login, --password-file")
            if kind == prompts.LOGIN:
                logins += 1
                if logins > _LOGINS:
                    raise GuestError(f"the login of {self._user.decode()} leads to no shell", "--login NAME")
                self._output, markers, self._shell = None, None, False
                sent = self._answer(kind, self._user)
            elif kind == prompts.PASSWORD:
                sent = self._answer(kind, self._password)
            elif kind == prompts.SHELL_PATH:
                sent = self._answer(kind, b"")
            elif kind == prompts.SHELL and quiet >= _SETTLED and markers is None:
                markers = self._markers()
                self._answer(kind, typed.SHELL[:-1])
                sent, hellos, greet_at = kind, 0, now + _SETTLED
            elif markers is not None and now >= greet_at and self._runs:
                if hellos >= _HELLOS:
                    raise GuestError("the guest's shell does not answer", "it must be a sh(1)")
                hellos += 1
                markers = self._markers()
                self._output, self._sink = CommandOutput(markers, clean=False), _nowhere
                self.session.console.type(typed.hello(markers))
                greet_at = now + _HELLO
            elif (quiet >= _HIDDEN and prompts.hidden_login(self._tail)) or (quiet >= _NUDGE and sent):
                self._answer(kind, b"")
            self._turn(self._has_news, min(limit, now + _STEP))
        assert markers is not None
        self._clean = markers.begin in self._tail
        self._output = None
        self._ready = True

    def _may_type(self) -> None:
        self._runs = True

    def _has_news(self) -> bool:
        """Whether the shell has answered, or may be greeted now."""
        if self._output is None:
            return self._shell and self._runs
        return self._output.status == 0

    def _answer(self, kind: str, data: bytes) -> str:
        """Press some keys and Return, and look at what comes then."""
        self._tail = b""
        self._heard_at = time.monotonic()
        self.session.console.type(data + b"\r")
        return kind

    def _no_shell(self, sent: str) -> str:
        lines = self.watch.last_lines
        said = f"; it says last: {lines[-1]}" if lines else "; it says nothing"
        return f"the guest came to no {'shell' if sent else 'login prompt'} in time{said}"

    def _markers(self) -> typed.Markers:
        self._number += 1
        return typed.Markers(self._key, self._number)

    def _type(self, lines: list[bytes], deadline: float | None) -> None:
        """Lines without output, in blocks: a terminal drops what comes when its buffer is full."""
        for start in range(0, len(lines), _BLOCK):
            markers = self._markers()
            block = b"".join(lines[start : start + _BLOCK])
            ask = markers.say_begin() + b"; " + markers.say_end(b"0") + b"\n"
            self._finish(block + ask, markers, _nowhere, deadline)

    def _short(self, command: bytes, deadline: float | None) -> Finished:
        left = None if deadline is None else max(0.001, deadline - time.monotonic())
        return self.run(command, timeout=left)

    def _finish(
        self, keys: bytes, markers: typed.Markers, sink: Callable[[bytes], None], deadline: float | None
    ) -> int:
        """Type ``keys``; the status that stands in the end marker, what comes before it goes to ``sink``."""
        output = self._output = CommandOutput(markers, self._clean)
        self._sink = sink
        self._tail = b""
        self.session.console.type(keys)
        try:
            if not self._turn(lambda: output.status is not None, deadline):
                self._interrupt(output)
                raise GuestTimedOut("the command took too long")
        finally:
            self._output = None
        assert output.status is not None
        if output.torn:
            raise GuestError(
                f"a message of the kernel's cut through the command's output (its exit status is {output.status})"
            )
        return output.status

    def _interrupt(self, output: CommandOutput) -> None:
        """Ctrl-C; a shell that does not come back is not used again."""
        self._sink = _nowhere
        self.session.console.type(b"\3")
        self._ready = self._turn(lambda: output.status is not None, time.monotonic() + _INTERRUPT)

    def _turn(self, done: Callable[[], bool], deadline: float | None, watched: bool = True) -> bool:
        """Let the guest run until ``done``; False: not before ``deadline``.  Raises GuestEnded."""
        while not done():
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return False
            if self.session.over:
                if not watched:
                    return True
                outcome = self.session.wait().outcome
                if done():
                    return True
                why = f": {self.watch.trouble}" if self.watch.trouble else ""
                raise GuestEnded(f"the guest ended ({outcome}){why}", lines=self._last_lines())
            if watched and self.watch.trouble:
                self._settle()
                raise GuestEnded(self.watch.trouble, lines=self._last_lines())
            quiet = now - self._heard_at
            if self._output is not None:
                if quiet >= _QUIET:
                    self._give(self._output.idle())
                if self._ready and quiet >= _LOST and self._shell_has_gone():
                    raise GuestEnded("the guest's shell ended", lines=self._last_lines())
            self.session.turn(_STEP if deadline is None else min(_STEP, deadline - now))
        return True

    def _last_lines(self) -> list[str]:
        key = self._key.decode()
        return [line for line in self.watch.last_lines if key not in line]

    def _settle(self) -> None:
        """A panic has more to say than its first lines."""
        until = time.monotonic() + 1.0
        while time.monotonic() < until and not self.session.over:
            self.session.turn(_STEP)

    def _shell_has_gone(self) -> bool:
        kind = prompts.waits_for(self._tail)
        return kind == prompts.SHELL_PATH or (kind == prompts.LOGIN and any(word in self._tail for word in _BANNER))

    def _hear(self, data: bytes) -> None:
        self._heard_at = time.monotonic()
        self._tail = (self._tail + data)[-_TAIL:]
        self.watch.feed(data)
        if self._output is not None:
            self._give(self._output.feed(data))

    def _give(self, text: bytes) -> None:
        if text:
            self._sink(text)


def _nowhere(_text: bytes) -> None:
    pass


def _sum(data: bytes) -> list[bytes]:
    return [b"%d" % cksum(data), b"%d" % len(data)]


def _file_name(path: str | bytes | os.PathLike[str]) -> bytes:
    name = os.fsencode(path)
    if not name or b"\0" in name or b"\n" in name:
        raise UsageError(f"{_shown(path)}: cannot be the name of a file in the guest")
    return b"./" + name if name.startswith(b"-") else name


def _shown(path: str | bytes | os.PathLike[str]) -> str:
    return os.fsdecode(path)


def _reason(done: Finished) -> str:
    lines = done.text.strip().splitlines()
    return lines[-1] if lines else f"exit status {done.status}"
