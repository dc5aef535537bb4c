"""Numbers of one and two cells, their divisions and their text against Python's, by hypothesis: what the standard says
of each word, in a few lines; of products and double cells, what FreeBSD's sources for amd64 make of them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.loader.interpreter.forth import translate
from support.forth_runs import typed

BITS = 64
MASK = (1 << BITS) - 1
MIN, MAX = -(1 << BITS - 1), (1 << BITS - 1) - 1
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
EDGES = [0, 1, -1, 2, -2, MIN, MAX, MIN + 1, MAX - 1, 1 << 32, -(1 << 32)]
Line = tuple[str, str]  # what is typed, what is printed

cells = st.integers(MIN, MAX) | st.sampled_from(EDGES) | st.integers(-100, 100)
bases = st.integers(2, 36)


def signed(number: int) -> int:
    return (number - MIN & MASK) + MIN


def symmetric(number: int, divisor: int) -> tuple[int, int]:
    """Quotient towards zero, remainder with the sign of the number (SM/REM)."""
    quotient = abs(number) // abs(divisor)
    quotient = quotient if (number < 0) == (divisor < 0) else -quotient
    return quotient, number - quotient * divisor


def product(a: int, b: int) -> int:
    """A double cell of which the low one has 32 bits, and both together 64 (ficlLongMul in stand/ficl/amd64/sysdep.c,
    with the sign that m64MulI gives it)."""
    size = abs(a) * abs(b) & MASK
    halves = (size >> 32 << BITS) + (size & 0xFFFFFFFF)
    return halves if (a < 0) == (b < 0) else -halves


def divided(number: int) -> int:
    """What ficlLongDiv there divides: 64 bits, of which the high cell gives those from the 32nd on."""
    size = abs(number)
    joined = size >> BITS << 32 & MASK | size & MASK
    return -joined if number < 0 else joined


def text(number: int, base: int) -> str:
    if number < 0:
        return "-" + text(-number, base)
    digits = ""
    while number or not digits:
        number, digit = divmod(number, base)
        digits = DIGITS[digit] + digits
    return digits


def double(number: int) -> str:
    """Two cells as they are typed, the high one on top."""
    return f"{signed(number)} {signed(number >> BITS)}"


def check(hot: int, lines: list[Line]) -> None:
    """Each line at the prompt and twice in a definition of its own prints what is wanted."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(translate, "HOT", hot)
        asked = [line for code, _ in lines for line in (code, f": t {code} ; t space t")]
        shown = [" ".join(answer.split()) for answer in typed(Path(folder), *asked)]
        wanted = [answer for _, once in lines for answer in (once, f"{once} {once}")]
        assert shown == wanted, [line for line in zip(asked, wanted, shown, strict=True) if line[1] != line[2]]


def several(lines: st.SearchStrategy[Line | None]) -> st.SearchStrategy[list[Line]]:
    """Lines that the standard defines (the others are None)."""
    return st.lists(lines, min_size=5, max_size=25).map(lambda many: [line for line in many if line is not None])


def _single(a: int, b: int, c: int, word: str) -> Line | None:
    code = f"{a} {b} {word}"
    if word in ("/mod", "/", "mod", "*/", "*/mod"):
        number, divisor = (divided(product(a, b)), c) if word[0] == "*" else (a, b)
        if not divisor:
            return None
        quotient, rest = symmetric(number, divisor)
        if signed(quotient) != quotient:
            return None  # no quotient that the standard defines
        if word[0] == "*":
            code = f"{a} {b} {c} {word}"
        results = {"/mod": (quotient, rest), "*/mod": (quotient, rest), "mod": (rest,)}.get(word, (quotient,))
        return code + " ." * len(results), " ".join(map(str, results))
    if word == "within":
        return f"{a} {b} {c} within .", str(-((a - b & MASK) < (c - b & MASK)))
    shift = b % BITS
    if word == "lshift":
        return f"{a} {shift} lshift .", str(signed(a << shift))
    return f"{a} {shift} rshift .", str(signed((a & MASK) >> shift))


def _double(a: int, b: int, divisor: int, word: str) -> Line | None:
    if word == "m*":
        return f"{a} {b} m* swap . .", double(product(a, b))
    if word == "um*":
        return f"{a} {b} um* swap . .", double(product(a & MASK, b & MASK))
    if word == "dnegate":
        return f"{a} {b} dnegate swap . .", double(-((b << BITS) + (a & MASK)))
    if word == "s>d":
        return f"{a} s>d swap . .", double(a)
    if not divisor:
        return None
    if word == "um/mod":
        divisor &= MASK
        number = (a & MASK) * divisor + (b & MASK) % divisor
        quotient, rest = divmod(divided(number), divisor)
    else:
        number = a * divisor + b % divisor
        divide = divmod if word == "fm/mod" else symmetric
        quotient, rest = divide(divided(number), divisor)
    return f"{double(number)} {signed(divisor)} {word} . .", f"{signed(quotient)} {signed(rest)}"


def _picture(a: int, b: int, base: int, word: str) -> Line:
    number = ((b & MASK) << BITS) + (a & MASK)
    setting = f"{base} base !"
    if word == "double":
        return f"{double(number)} {setting} <# #s #> type decimal", text(number, base)
    if word == "sign":
        minus = "-" if a & 1 << 31 else ""  # an int: stand/ficl/words.c sign()
        wanted = minus + text(abs(a), base)
        return f"{a} {setting} dup abs 0 <# #s rot sign #> type decimal", wanted
    if word == "hold":
        digits = text(number, base).rjust(3, "0")
        code = f"46 {double(number)} {setting} <# # # rot hold #s #> type decimal"
        return code, digits[:-2] + "." + digits[-2:]
    if word == "u.":
        return f"{a} {setting} u. decimal", text(a & MASK, base)
    # stand/ficl/vm.c ltoa(): only in base 10 a number has a sign (ltoa)
    return f"{a} {setting} . decimal", text(a if base == 10 else a & MASK, base)


WORDS = {
    _single: ["/mod", "/", "mod", "*/", "*/mod", "within", "lshift", "rshift"],
    _double: ["m*", "um*", "dnegate", "s>d", "um/mod", "fm/mod", "sm/rem"],
}


@pytest.mark.parametrize("hot", [1, 16], ids=["functions", "blocks"])
@settings(max_examples=10, deadline=None)
@given(lines=several(st.builds(_single, cells, cells, cells, st.sampled_from(WORDS[_single]))))
def test_single_cells(hot: int, lines: list[Line]) -> None:
    check(hot, lines)


@pytest.mark.parametrize("hot", [1, 16], ids=["functions", "blocks"])
@settings(max_examples=10, deadline=None)
@given(lines=several(st.builds(_double, cells, cells, cells, st.sampled_from(WORDS[_double]))))
def test_double_cells(hot: int, lines: list[Line]) -> None:
    check(hot, lines)


@pytest.mark.parametrize("hot", [1, 16], ids=["functions", "blocks"])
@settings(max_examples=10, deadline=None)
@given(lines=several(st.builds(_picture, cells, cells, bases, st.sampled_from(["double", "sign", "hold", "u.", "."]))))
def test_numbers_as_text(hot: int, lines: list[Line]) -> None:
    check(hot, lines)
