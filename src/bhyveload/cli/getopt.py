"""getopt(3) as POSIX has it, plus long options.  The standard library's getopt costs 13 ms of imports (gettext, re).

FreeBSD's programs act on their options from left to right and stop at the first wrong one, so ``Getopt`` is walked
like getopt(3) itself: what stands in front of a wrong option has already been acted on when the error comes.
"""

from __future__ import annotations

from bhyveload.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_NO_LONG_OPTIONS: dict[str, str] = {}


class Getopt:
    """Iterates over (option, argument or None); afterwards ``operands`` are the words behind the options.

    ``words``: the command line without the program's name.  ``short``: getopt(3)'s string, "CSd:".
    ``long``: a long option's name, of which a unique beginning will do -> what is yielded for it, with ":" behind it
    when an argument follows (``{"memory": "m:", "batch": "batch"}``): a synonym yields its letter.  Long options'
    arguments are the next word or stand behind "="; with "?" behind it, one may stand behind "=".

    Iterating raises UsageError in getopt's words: illegal option, missing argument, argument that is not wanted.
    """

    __slots__ = ("_long", "_short", "_words", "operands")

    def __init__(self, words: Sequence[str], short: str, long: Mapping[str, str] | None = None) -> None:
        self._words = list(words)
        self._short = short
        self._long = _NO_LONG_OPTIONS if long is None else long
        self.operands: list[str] = []

    def __iter__(self) -> Iterator[tuple[str, str | None]]:
        words = self.operands = self._words[:]
        while words and len(words[0]) > 1 and words[0][0] == "-":
            word = words.pop(0)
            if word == "--":
                return
            if word[1] == "-":
                yield self._long_option(word[2:])
                continue
            letters = word[1:]
            while letters:
                letter, letters = letters[0], letters[1:]
                place = self._short.find(letter)
                if place < 0 or letter == ":":
                    raise UsageError(f"illegal option -- {letter}")
                if self._short[place + 1 : place + 2] != ":":
                    yield letter, None
                    continue
                yield letter, letters or self._next_word(letter)
                break

    def _long_option(self, text: str) -> tuple[str, str | None]:
        name, equals, argument = text.partition("=")
        option = self._long.get(name) or self._abbreviated(name)
        if option.endswith("?"):
            return option[:-1], argument if equals else None
        if not option.endswith(":"):
            if equals:
                raise UsageError(f"option doesn't take an argument -- {name}")
            return option, None
        return option[:-1], argument if equals else self._next_word(name)

    def _abbreviated(self, name: str) -> str:
        """What the only long option that begins with ``name`` yields, as getopt_long(3) has it.  Raises UsageError."""
        found = {yielded for word, yielded in self._long.items() if word.startswith(name)} if name else set()
        if len(found) != 1:
            raise UsageError(f"{'ambiguous' if found else 'illegal'} option -- {name}")
        return found.pop()

    def _next_word(self, option: str) -> str:
        if not self.operands:
            raise UsageError(f"option requires an argument -- {option}")
        return self.operands.pop(0)


def getopt(
    words: Sequence[str], short: str, long: Mapping[str, str] | None = None
) -> tuple[list[tuple[str, str | None]], list[str]]:
    """All options of a command line at once, and its operands: for programs that do not act while they parse."""
    options = Getopt(words, short, long)
    return list(options), options.operands


def number_of(text: str, least: int, most: int) -> int | None:
    """An option's argument that is a whole number: ASCII digits and nothing else, and so in every program here.  None:
    it is none, or not within ``least`` and ``most``."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and least <= int(text) <= most):
        return None
    return int(text)


def timeout_of(text: str) -> float:
    """--timeout's argument in seconds: digits, with a fraction or without.

    Raises UsageError: it is no such number, or not within (0, 1e9).
    """
    whole, point, fraction = text.partition(".")
    if number_of(whole, 0, 999_999_999) is None or (point and not (fraction.isascii() and fraction.isdigit())):
        value = 0.0
    else:
        value = float(text)
    if value <= 0:
        raise UsageError(f"--timeout wants a number of seconds, not '{text}'")
    return value
