"""libsa's getopt(3) for builtin commands (stand/libsa/getopt.c): it prints its complaints without a program name.

docs/errata.md, "Option letters".
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.state import Loader


def options(
    loader: Loader, argv: list[str], letters: str, ends: Callable[[str, str], bool] | None = None
) -> tuple[list[tuple[str, str]], list[str]] | None:
    """(options with their arguments, the words behind them); None after a complaint, which ends a command with OK
    (docs/errata.md, "Option letters").

    ``ends``: whether an option with its argument is one at which the command stops: None, too, and nothing behind it is
    complained about.
    """
    found: list[tuple[str, str]] = []
    index = 1
    while index < len(argv):
        word = argv[index]
        if len(word) < 2 or word[0] != "-":
            break
        index += 1
        if word[1] == "-":
            break  # what follows the dashes counts as little as they do
        at = 1
        while at < len(word):
            letter = word[at]
            at += 1
            if letter == "-":  # ends the options; the word, though some of it was taken, is the first behind them
                return found, argv[index - 1 :]
            place = letters.find(letter)
            if place < 0 or letter == ":":
                loader.print(f"illegal option -- {letter}\n")
                return None
            argument = ""
            takes_argument = letters[place + 1 : place + 2] == ":"
            if takes_argument and at < len(word):
                argument, at = word[at:], len(word)
            elif takes_argument and index < len(argv):
                argument = argv[index]
                index += 1
            elif takes_argument:
                loader.print(f"option requires an argument -- {letter}\n")
                return None
            found.append((letter, argument))
            if ends is not None and ends(letter, argument):
                return None
    return found, argv[index:]
