"""What translate.py knows about single words: stack shuffles, arithmetic, comparisons, as Python has them."""

from __future__ import annotations

from bhyveload.loader.interpreter.forth.ficl_format import ARENA_SIZE, CELL, CELL_MASK, PAGE
from bhyveload.loader.interpreter.forth.words_stack import signed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.loader.interpreter.forth.function_text import FunctionText

_LAST = ARENA_SIZE - CELL
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


def unary(text: FunctionText, kind: str) -> None:
    item = text.pop_item()
    change = UNARY[kind]
    if isinstance(item, int):
        text.items.append(signed(item + change))
    elif change:
        text.items.append(text.assign(f"{text.value(item)} + {change}", wide=True))
    else:
        text.items.append(item)


def binary(text: FunctionText, kind: str) -> None:
    right, left = text.pop_item(), text.pop_item()
    both = (right, left)
    if kind in ("and", "or") and all(isinstance(item, str) and item in text.conditions for item in both):
        text.condition(f"({text.truth(left)}) {kind} ({text.truth(right)})")
        return
    whole = f"{text.value(left)} {BINARY[kind]} {text.value(right)}"
    text.items.append(text.assign(whole, wide=kind in ("+", "-", "*")))


def compare_zero(text: FunctionText, kind: str) -> None:
    item = text.pop_item()
    if kind == "0=":
        text.condition(f"not ({text.truth(item)})")
    elif kind == "0<>":
        text.condition(f"({text.truth(item)}) != 0" if item not in text.conditions else text.truth(item))
    else:
        text.condition(f"{text.value(item)} {kind[1]} 0")


def within(text: FunctionText) -> None:
    """( n low high -- flag ), in the arithmetic of unsigned cells."""
    high, low = text.pop(), text.pop()
    value = text.pop()
    text.condition(f"({value} - {low}) & {CELL_MASK} < ({high} - {low}) & {CELL_MASK}")


def memory(text: FunctionText, kind: str) -> None:
    """A wide address is one outside of memory: its check says so."""
    item = text.pop_item()
    known = isinstance(item, int) and PAGE <= item <= _LAST
    address = str(item) if isinstance(item, int) or item in text.wide else text.value(item)
    if kind == "@":
        if known and not int(item) & 7:
            text.items.append(text.assign(f"cells[{int(item) >> 3}]"))
        else:
            inside = f"{PAGE} <= {address} <= {_LAST} and not {address} & 7"
            text.items.append(text.assign(f"cells[{address} >> 3] if {inside} else fetch({address})"))
    elif kind == "c@":
        if not known:
            text.line(f"if not {PAGE} <= {address} < {ARENA_SIZE}: check({address}, 1)")
        text.items.append(text.assign(f"mem[{address}]"))
    elif kind == "!":
        value = text.pop()
        if known and not int(item) & 7:
            text.line(f"cells[{int(item) >> 3}] = {value}")
        else:
            text.line(f"if {PAGE} <= {address} <= {_LAST} and not {address} & 7: cells[{address} >> 3] = {value}")
            text.line(f"else: store({address}, {value})")
    else:
        value = text.pop()
        if not known:
            text.line(f"if not {PAGE} <= {address} < {ARENA_SIZE}: check({address}, 1)")
        text.line(f"mem[{address}] = {value} & 255")
