"""What translate.py knows about single words: stack shuffles, arithmetic, comparisons, as Python has them."""

from __future__ import annotations

# name -> (how many of the top are taken, which of them come back, counted from the deepest)
SHUFFLE: dict[str, tuple[int, tuple[int, ...]]] = {
    "drop": (1, ()),
    "2drop": (2, ()),
    "dup": (1, (0, 0)),
    "2dup": (2, (0, 1, 0, 1)),
    "over": (2, (0, 1, 0)),
    "2over": (4, (0, 1, 2, 3, 0, 1)),
    "swap": (2, (1, 0)),
    "2swap": (4, (2, 3, 0, 1)),
    "rot": (3, (1, 2, 0)),
    "-rot": (3, (2, 0, 1)),
    "nip": (2, (1,)),
    "tuck": (2, (1, 0, 1)),
    "chars": (0, ()),
}
UNARY = {"1+": 1, "1-": -1, "char+": 1, "cell+": 8, "cell-": -8}  # what is added
BINARY = {"+": "+", "-": "-", "*": "*", "and": "&", "or": "|", "xor": "^"}
COMPARE = {"=": "==", "<>": "!=", "<": "<", ">": ">"}
