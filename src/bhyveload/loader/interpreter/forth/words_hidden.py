"""The words of the wordlist HIDDEN: parts of ORDER, of the words for locals and of [IF] (stand/ficl/softwords).

WORDS shows them when HIDE has put that list first, and SEE of a definition with locals that begin as zero.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.interpreter.forth.machine import ForthMachine

    Run = Callable[[], None]

ZERO = "zero"
_DELIMITERS = {b"|": 1, b"--": 2, b"}": 3, b"": 4}


def hidden_words(machine: ForthMachine, list_wid: Run) -> list[tuple[str, Run | None]]:
    """(name, what it does) of each, in the order in which ficl defines them; None is the constant 0."""
    s, arena = machine.stack, machine.arena

    def text() -> bytes:
        """The string on the stack, which stays.  Raises IndexError, Failure."""
        return arena.read(s[-2], s[-1])

    def is_one_of(*wanted: bytes) -> Run:
        """( addr len -- addr len flag ), without regard to case."""

        def run() -> None:
            s.append(-1 if text().lower() in wanted else 0)

        return run

    def was(wanted: bytes) -> Run:
        """( addr len -- flag )"""

        def run() -> None:
            found = text() == wanted
            s[-2:] = [-1 if found else 0]

        return run

    def without_prefix() -> None:
        """( addr len -- addr len flag ): a name for two cells, without its 2: and with true."""
        if arena.read(s[-2], 2) != b"2:":
            s.append(0)
            return
        s[-2:] = [s[-2] + 2, s[-1] - 2, -1]

    def delimiter() -> None:
        """( addr len -- state | addr len 0 )"""
        state = _DELIMITERS.get(text())
        if state is None:
            s.append(0)
        else:
            s[-2:] = [state]

    return [
        ("list-wid", list_wid),
        (ZERO, None),
        ("?--", is_one_of(b"--")),
        ("?}", is_one_of(b"}")),
        ("?|", is_one_of(b"|")),
        ("?2loc", without_prefix),
        ("?delim", delimiter),
        (ZERO, None),
        ("?--", was(b"--")),
        ("?}}", was(b"}}")),
        ("?[if]", is_one_of(b"[if]")),
        ("?[else]", is_one_of(b"[else]")),
        ("?[then]", is_one_of(b"[then]", b"[endif]")),
    ]
