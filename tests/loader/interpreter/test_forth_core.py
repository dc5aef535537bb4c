"""Each word of the core: what it does, its edges, its error; arithmetic against Python's."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from bhyveload.loader.interpreter.forth import translate
from support.forth_runs import typed

MIN, MAX = -(1 << 63), (1 << 63) - 1
UNDERFLOW = "Error: stack underflow"

# What is typed -> what is printed
ANSWERS = {
    # stack
    "1 2 swap . .": "1 2",
    "1 dup . .": "1 1",
    "1 2 over . . .": "1 2 1",
    "1 2 3 rot . . .": "1 3 2",
    "1 2 3 -rot . . .": "2 1 3",
    "1 2 nip . depth .": "2 0",
    "1 2 tuck . . .": "2 1 2",
    "0 ?dup . depth .": "0 0",
    "5 ?dup . .": "5 5",
    "1 2 2dup . . . .": "2 1 2 1",
    "1 2 3 4 2swap . . . .": "2 1 4 3",
    "1 2 3 4 2over . . . . . .": "2 1 4 3 2 1",
    "1 2 3 2drop . depth .": "1 0",
    "10 20 30 2 pick . 0 pick .": "10 30",
    "1 2 3 4 3 roll . . . .": "1 4 3 2",
    "1 2 3 2 -roll . . .": "2 1 3",
    "1 2 3 depth . . . .": "3 3 2 1",
    # arithmetic
    "7 3 + . 7 3 - . 7 3 * .": "10 4 21",
    "-7 2 / . -7 2 mod . 7 -2 / . 7 -2 mod .": "-3 -1 -3 1",
    "-7 2 /mod . .": "-3 -1",
    "10 7 3 */ . 10 7 3 */mod . .": "23 23 1",
    "9223372036854775807 1+ .": str(MIN),
    "-9223372036854775808 1- .": str(MAX),
    "9223372036854775807 2* .": "-2",
    "-1 2/ . -8 2/ .": "-1 -4",
    "5 negate . -5 abs . 0 negate .": "-5 5 0",
    "3 7 max . 3 7 min . -1 1 max .": "7 3 1",
    "-1 u.": "18446744073709551615",
    "1 2 < . 2 1 < . -1 1 < . -1 1 u< . 1 -1 u< .": "-1 0 -1 0 -1",
    "2 1 > . 2 1 u> . 1 1 = . 1 1 <> .": "-1 -1 -1 0",
    "0 0= . 5 0= . -5 0< . 0 0< . 5 0> . 0 0<> .": "-1 0 -1 0 -1 0",
    "12 10 and . 12 10 or . 12 10 xor . 0 invert .": "8 14 6 -1",
    "1 63 lshift . -1 60 rshift . 1 3 lshift .": f"{MIN} 15 8",
    "5 1 10 within . 10 1 10 within . 1 1 10 within .": "-1 0 -1",
    "7 s>d . . -7 s>d . .": "0 7 -1 -7",
    "3 4 m* . . -1 -1 um* . .": "0 12 0 1",
    "-7 s>d 2 fm/mod . . -7 s>d 2 sm/rem . .": "-4 1 -3 -1",
    "7 0 2 um/mod . .": "3 1",
    "1 cells . 1 cell+ . 3 chars . 3 char+ .": "8 9 3 4",
    "1 aligned . 8 aligned . 9 aligned .": "8 8 16",
    # memory
    "variable v 5 v ! v @ . 3 v +! v @ .": "5 8",
    "5 constant five five .": "5",
    "1 2 2constant two two . .": "2 1",
    "2variable w 1 2 w 2! w 2@ . .": "2 1",
    "7 value x x . 8 to x x .": "7 8",
    "create t 1 , 2 , t @ . t cell+ @ .": "1 2",
    "create c 65 c, 66 c, c 2 type": "AB",
    "here 3 cells allot here swap - .": "24",
    "here 1 c, here swap - . align here 7 and .": "1 0",
    "pad 5 char x fill pad 5 type": "xxxxx",
    'pad 8 erase s" hello" pad swap move pad 5 type': "hello",
    's" abcdef" drop 1+ 3 type': "bcd",
    'pad s" abc" 2 pick swap move pad pad 1+ 3 move pad 4 type drop': "aabc",
    "create h 0 , 258 h w! h c@ . h 1+ c@ . h w@ .": "2 1 258",
    # numbers as text
    "hex ff . decimal": "FF",
    "255 hex . decimal": "FF",
    "2 base ! 101 decimal .": "5",
    "<# 12345 0 # # # char . hold #s #> type": "12.345",
    "<# -5 dup abs 0 #s rot sign #> type": "-5",
    "5 3 .r 1 .": "",
    's" 123abc" 0 0 2swap >number . drop . .': "3 0 123",
    "0x1f . 0d12 . 0XA .": "31 12 10",
    # text
    "char A . : f [char] B . ; f": "65 66",
    's" hi" type space 2 spaces s" x" type': "hi   x",
    "bl emit 65 emit": " A",
    ".( shown)": "shown",
    ': f ." in a word" ; f': "in a word",
    ': f s" abc" s" abd" compare . s" abc" s" abc" compare . s" b" s" a" compare . ; f': "-1 0 1",
    ': f s" abc" s" ab" compare . s" ab" s" abc" compare . ; f': "1 -1",
    ': f s" ABC" s" abc" compare-insensitive . ; f': "0",
    'c" abc" count type': "abc",
    "parse-word abc type": "abc",
    "char ) parse one two) type": "one two",
    "bl word abc count type": "abc",
    "1 ( a comment ) 2 . .": "2 1",
    "1 . \\ 2 .": "1",
    's" 1 2 + ." evaluate': "3",
    "source type": "source type",
    # control
    ": f if 1 else 2 then . ; 0 f 1 f -1 f": "2 1 1",
    ": f 3 0 do i . loop ; f": "0 1 2",
    ": f 0 0 ?do i . loop 9 . ; f": "9",
    ": f 10 0 do i . 3 +loop ; f": "0 3 6 9",
    ": f 0 10 do i . -4 +loop ; f": "10 6 2",
    ": f 5 0 do i 3 = if leave then i . loop ; f": "0 1 2",
    ": f 2 0 do 2 0 do j . i . loop loop ; f": "0 0 0 1 1 0 1 1",
    ": f 5 0 do i 3 = if unloop exit then i . loop 9 . ; f": "0 1 2",
    ": f begin dup . 1- dup 0= until drop ; 3 f": "3 2 1",
    ": f begin dup while dup . 1- repeat drop ; 3 f": "3 2 1",
    ": f begin dup . 1- dup 0< if drop exit then again ; 2 f": "2 1 0",
    ": f case 1 of 10 endof 2 of 20 endof 99 swap endcase . ; 1 f 2 f 3 f": "10 20 99",
    ": f dup 1 > if dup 1- recurse * then ; 5 f .": "120",
    ": f 1 . exit 2 . ; f": "1",
    ": f >r 1 r@ . . r> . ; 5 f": "5 1 5",
    ": f 1 2 2>r 2r@ . . 2r> . . ; f": "2 1 2 1",
    # words that make words
    ": k create , does> @ ; 5 k five five .": "5",
    ": k create dup , does> @ + ; 5 k add 3 add . drop": "8",
    ":noname 5 . ; execute": "5",
    "' dup 5 swap execute . .": "5 5",
    ": f ['] dup execute ; 5 f . .": "5 5",
    "create y 5 , ' y >body @ .": "5",
    ": imm 5 . ; immediate : f imm ;": "5",
    ": f postpone if ; immediate : g f 1 . then ; 1 g 0 g 2 .": "1 2",
    ": f postpone dup ; immediate : g f . . ; 7 g": "7 7",
    ": f [ 2 3 + ] literal . ; f": "5",
    ": f [ 1 2 ] 2literal . . ; f": "2 1",
    ': f s" a string" ; f type': "a string",
    "state @ . : f [ state @ ] literal . ; f": "0 0",
    "1 [if] 2 . [else] 3 . [then] 0 [if] 4 . [else] 5 . [then]": "2 5",
    'marker m : q 1 ; m s" q" sfind .': "0",
    's" dup" sfind . drop': "-1",
    's" if" sfind . drop': "1",
    "bl word dup find . drop bl word zzz find . drop": "-1 0",
    # exceptions
    ": t 5 throw ; ' t catch .": "5",
    ": t 1 2 3 4 throw ; 9 ' t catch . .": "4 9",
    ": t 0 throw 7 ; ' t catch . .": "0 7",
    ": t abort ; ' t catch .": "-1",
    ': t 1 abort" why" ; \' t catch .': "why\n-2",
    # locals
    ": f { a b } a . b . ; 1 2 f": "1 2",
    ": f { a b | c -- d } a b + to c c ; 1 2 f .": "3",
    ": f locals| b a | a . b . ; 1 2 f": "1 2",
    ": f { a } 3 0 do a . loop ; 4 f": "4 4 4",
    # search order and heap
    "vocabulary v also v definitions : q 5 ; previous definitions also v q . only forth": "5",
    'wordlist constant w get-current w set-current : zz 8 ; set-current s" zz" w search-wordlist . execute .': "-1 8",
    "get-order . drop": "1",
    "100 allocate . dup 5 swap ! dup @ . free .": "0 5 0",
    "100 allocate drop dup 7 swap ! 1000 resize . dup @ . free .": "0 7 0",
    's" ficl-version" environment? . . .': "-1 3 3",
}
MISSING = """
drop dup swap over + - * / mod /mod ! @ c@ c! 1+ 1- negate abs invert and or xor = < > u< 0= 0< emit
. u. type execute rot nip tuck pick roll 2drop 2dup 2swap 2over lshift rshift min max m* um* cells
count move fill catch >body allot , c, evaluate within compare free allocate resize +! 2! 2@
spaces
"""


@pytest.fixture(params=[1, 16], ids=["functions", "blocks"])
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translate, "HOT", request.param)


@pytest.mark.usefixtures("both")
def test_words(tmp_path: Path) -> None:
    lines = list(ANSWERS)
    answers = typed(
        tmp_path, *(line for text in lines for line in (f"marker -t {text}", "abort", "-t only forth decimal"))
    )
    wrong = {
        line: (ANSWERS[line], answer)
        for line, answer in zip(lines, answers[::3], strict=True)
        if ANSWERS[line] not in answer or (ANSWERS[line] and "rror" in answer)
    }
    assert not wrong, "\n".join(map(str, wrong.items()))


@pytest.mark.parametrize("word", MISSING.split())
def test_what_a_word_takes_must_be_there(tmp_path: Path, word: str) -> None:
    answers = typed(tmp_path, word, f": t {word} ; t", "1 .")
    assert answers == [UNDERFLOW + "\n", UNDERFLOW + "\n", "1 "]


# Arithmetic against Python's


def wrapped(number: int) -> int:
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def unsigned(number: int) -> int:
    return number % (1 << 64)


def high_of_product(a: int, b: int) -> int:
    """m64MulI: the product of the absolute values, then the double cell negated."""
    size = unsigned(abs(a) * abs(b))
    halves = (size >> 32 << 64) + (size & 0xFFFFFFFF)
    return (halves if (a < 0) == (b < 0) else -halves) >> 64


BINARY: dict[str, Callable[[int, int], int | None]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: quotient(a, b) if b else None,
    "mod": lambda a, b: a - quotient(a, b) * b if b else None,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "min": min,
    "max": max,
    "<": lambda a, b: -(a < b),
    ">": lambda a, b: -(a > b),
    "u<": lambda a, b: -(unsigned(a) < unsigned(b)),
    "=": lambda a, b: -(a == b),
    "<>": lambda a, b: -(a != b),
    # stand/ficl/amd64/sysdep.c ficlLongMul(): 64 bits, their halves in two cells
    "um* nip": lambda a, b: unsigned(unsigned(a) * unsigned(b)) >> 32,
    "m* nip": high_of_product,
}
UNARY: dict[str, Callable[[int], int]] = {
    "1+": lambda a: a + 1,
    "1-": lambda a: a - 1,
    "2*": lambda a: a << 1,
    "2/": lambda a: a >> 1,
    "negate": lambda a: -a,
    "abs": abs,
    "invert": lambda a: ~a,
    "0=": lambda a: -(a == 0),
    "0<": lambda a: -(a < 0),
    "0>": lambda a: -(a > 0),
}


def numbers(source: random.Random) -> int:
    bits = source.choice((1, 3, 8, 31, 32, 62, 63))
    return source.choice((source.randrange(-(1 << bits), 1 << bits), MIN, MAX, 0, 1, -1))


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("seed", range(5))
def test_arithmetic(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    lines, wanted = [], []
    for number in range(60):
        a = numbers(source)
        text, value = [str(a)], a
        for _ in range(source.randrange(1, 5)):
            if source.random() < 0.4:
                word = source.choice(list(UNARY))
                text.append(word)
                value = wrapped(UNARY[word](value))
                continue
            word, b = source.choice(list(BINARY)), numbers(source)
            result = BINARY[word](value, b)
            if result is None or ((value, b) == (MIN, -1) and word in ("/", "mod")):
                continue
            text += [str(b), word]
            value = wrapped(result)
        lines.append(f": t{number} {' '.join(text)} ; t{number} . t{number} {' '.join(text)} = .")
        wanted.append(f"{value} -1 ")
    assert typed(tmp_path, *lines) == wanted


@pytest.mark.parametrize("seed", range(3))
def test_numbers_in_any_base(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    lines, wanted = [], []
    for _ in range(40):
        base, number = source.randrange(2, 37), abs(numbers(source)) % (1 << 63)
        text, rest = "", number
        while rest or not text:
            text, rest = digits[rest % base] + text, rest // base
        lines.append(f"{number} {base} base ! dup . 0 <# #s #> type decimal")
        wanted.append(f"{text} {text}")
    assert typed(tmp_path, *lines) == wanted
