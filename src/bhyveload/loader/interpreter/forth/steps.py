"""What a thread is made of, as translate.py looks at it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.loader.interpreter.forth.dictionary import Word

MAX_WORDS = 400  # of one function, with all that is written out in it
BRANCHES = ("(branch)", "(branch0)", "(of)", "(loop)", "(+loop)")
# What each word does to the height of the return stack, and how much it needs there
RETURN_STACK = {
    ">r": (1, 0),
    "r>": (-1, 1),
    "r@": (0, 1),
    "2>r": (2, 0),
    "2r>": (-2, 2),
    "2r@": (0, 2),
    "i": (0, 3),
    "i'": (0, 3),
    "j": (0, 6),
    "k": (0, 9),
    "unloop": (-3, 3),
}


class Untranslatable(Exception):
    """The definition is run from its blocks."""


class Step:
    """One word of a thread: its place, what lies behind it, and where it may branch to."""

    __slots__ = ("at", "operand", "target", "word")

    def __init__(self, at: int, word: Word, operand: int, target: int) -> None:
        self.at = at
        self.word = word
        self.operand = operand
        self.target = target
