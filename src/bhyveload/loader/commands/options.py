"""libsa's getopt(3) for builtin commands (stand/libsa/getopt.c): it prints its complaints without a program name.

docs/errata.md, "Option letters".
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.loader.state import Loader


def options(loader: Loader, argv: list[str], letters: str) -> tuple[list[tuple[str, str]], list[str]] | None:
    """(options with their arguments, the words behind them); None after a complaint, which ends a command with OK
    (docs/errata.md, "Option letters")."""
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
            if letters[place + 1 : place + 2] != ":":
                found.append((letter, ""))
                continue
            if at < len(word):
                found.append((letter, word[at:]))
            elif index < len(argv):
                found.append((letter, argv[index]))
                index += 1
            else:
                loader.print(f"option requires an argument -- {letter}\n")
                return None
            break
    return found, argv[index:]
