"""What is typed into a guest's sh(1): printable ASCII in short lines, whatever the command is.

The shell is ``sh +i -s``: it takes its commands from the terminal and shows no prompt, edits no line, ends at no
interrupt.  A command is data for it: its bytes go into a variable, piece by piece, and printf's %b makes bytes of them.
Markers are typed in two halves, so that the echo of a line is not taken for its output.
"""

from __future__ import annotations

LINE = 200  # characters of data in a line: the terminal's line buffer holds 255 at least (MAX_CANON)
_PLAIN = frozenset(b'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 !"#$%&()*+,-./:;<=>?@[]^_`{|}~')
_ARGUMENT = [bytes([byte]) if byte in _PLAIN else b"\\0%03o" % byte for byte in range(256)]
_FORMAT = [bytes([byte]) if byte in _PLAIN - set(b"%-") else b"\\%03o" % byte for byte in range(256)]
_FORMAT[ord("%")] = b"%%"

SHELL = b"exec /bin/sh +i -s\r"
LEAVE = b"stty echo opost ixon 2>/dev/null; exit\n"


def pieces(data: bytes, spelling: list[bytes] = _ARGUMENT) -> list[bytes]:
    """``data`` as arguments of printf's %b, for single quotes, none longer than LINE."""
    found: list[bytes] = []
    line = bytearray()
    for byte in data:
        spelt = spelling[byte]
        if len(line) + len(spelt) > LINE:
            found.append(bytes(line))
            line.clear()
        line += spelt
    if line or not found:
        found.append(bytes(line))
    return found


class Markers:
    """The words between which output stands, for one command.  ``key``: a word that the guest cannot know before;
    ``number`` of the command."""

    __slots__ = ("begin", "end", "key", "number")

    def __init__(self, key: bytes, number: int) -> None:
        self.key, self.number = key, number
        self.begin = b"<%s-%d:begin>\n" % (key, number)
        self.end = b"<%s-%d:end:" % (key, number)  # the status and ">" follow

    def say_begin(self) -> bytes:
        return b"printf '%%s%%s\\n' '<%s-%d' ':begin>'" % (self.key, self.number)

    def say_end(self, status: bytes) -> bytes:
        return b"printf '%%s%%s%%s>\\n' '<%s-%d' ':end:' %s" % (self.key, self.number, status)


def hello(markers: Markers) -> bytes:
    """Make the shell and its terminal quiet, then show both markers: bytes are passed on as they are, an interrupt
    ends a command and not the shell.

    The kernel is not told to be quiet: kern.consmute would hide its panic, too (watch.py).
    """
    return (
        b"trap : INT; stty -echo -opost -ixon 2>/dev/null; PS1= PS2=\n"
        + markers.say_begin()
        + b"; "
        + markers.say_end(b"0")
        + b"\n"
    )


def run(command: bytes, markers: Markers) -> bytes:
    """The lines that run ``command`` in a sh of its own, without standard input, and show its exit status.

    The end is shown twice: a message of the kernel's may cut through one of them.
    """
    lines = [b"_c="]
    lines += [b"_c=$_c'" + piece + b"'" for piece in pieces(command)]
    end = markers.say_end(b"$_s")
    lines.append(markers.say_begin() + b'; /bin/sh -c "$(printf %b "$_c")" </dev/null; _s=$?; ' + end)
    lines.append(end)
    return b"\n".join(lines) + b"\n"


def keep(data: bytes, target: bytes) -> list[bytes]:
    """The lines that append ``data`` to the file ``target``, each short.

    They are printf's formats: an argument of %b ends at its first NUL (usr.bin/printf/printf.c:printf_doformat)."""
    return [b"printf '%s' >>%s\n" % (piece, target) for piece in pieces(data, _FORMAT)]


def quoted(name: bytes) -> bytes:
    """``name`` as one word for sh."""
    return b"'" + name.replace(b"'", b"'\\''") + b"'"
