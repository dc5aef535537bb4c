"""Forth that means harm, or is just wrong: every line ends, with an error line where it cannot be done, and the prompt
goes on.  Where ficl would read or write foreign memory, this one has its bounds (docs/forth.md)."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from bhyveload.host.directory import open_host_directory
from bhyveload.loader.interpreter.forth import word_names
from support import harness
from support.forth_runs import typed

OUTSIDE = "outside of memory"
NO_WORD = "is not a word"
NO_LIST = "is not a wordlist"
STACK = "Error: stack underflow"
RETURN = "Error: return stack overflow"

LINES = {
    # memory
    "-1 @": OUTSIDE,
    "0 @": OUTSIDE,
    "-1 c@": OUTSIDE,
    "3 -1 !": OUTSIDE,
    "-8 2@": OUTSIDE,
    "1 2 -9 2!": OUTSIDE,
    "1 -1 +!": OUTSIDE,
    "-1 w@": OUTSIDE,
    "1 -1 c!": OUTSIDE,
    "hex 7fffffffffffffff @": OUTSIDE,
    "1 -8000000000000000 c!": OUTSIDE,
    "pad here 100000000 move": OUTSIDE,
    "pad pad 1+ -1 move": OUTSIDE,
    "-1 pad 5 move": OUTSIDE,
    "pad -1 0 fill": OUTSIDE,
    "pad 1000000000000 erase": OUTSIDE,
    "0 1000000000 type": OUTSIDE,
    "pad -1 type": OUTSIDE,
    "pad 1000000000 dump": OUTSIDE,
    "-1 count": OUTSIDE,
    "-1 strlen": OUTSIDE,
    "pad 1000000000000 pad 1000000000000 compare": OUTSIDE,
    "pad 10 pad -1 compare": OUTSIDE,
    "0 0 -1 10 >number": OUTSIDE,
    "-1 find": OUTSIDE,
    "-1 1000 sfind": OUTSIDE,
    "-1 -1 getenv": OUTSIDE,
    'pad 1000000000000 s" a" setenv': OUTSIDE,
    "-1 -1 evaluate": OUTSIDE,
    "10000000 allot": "Error: dictionary full",
    "hex 7fffff00 allot": "Error: dictionary full",
    "1000000000 ficl-wordlist": "Error: dictionary full",
    "1 free": "which was not allocated",
    "pad free": "which was not allocated",
    "-1 100 resize": "which was not allocated",
    "10 allocate drop dup free . free": "0 Error: free of",
    "-1 allocate . .": "1 0 ",
    "100000000 allocate . .": "1 0 ",
    # words and word lists that are none
    "0 execute": NO_WORD,
    "-1 execute": NO_WORD,
    "pad execute": NO_WORD,
    "here catch": NO_WORD,
    "123456 >body": NO_WORD,
    "-1 >name": NO_WORD,
    "0 set-current": NO_LIST,
    "0 1 set-order": NO_LIST,
    's" dup" -1 search-wordlist': NO_LIST,
    "1 2 3 1000000 set-order": "set-order error: list would be too large",
    # stacks
    "drop": STACK,
    "2swap": STACK,
    "100000 pick": STACK,
    "1 100000 roll": STACK,
    "1 2 3 . . . .": "3 2 1 Error: stack underflow",
    ": q begin 1 again ; q": "Error: stack overflow",
    ": q begin 1 >r again ; q": RETURN,
    ": r recurse ; r": RETURN,
    ": r 1 recurse drop ; r": RETURN,
    ': z s" z" evaluate 1 ; z': RETURN,
    "source evaluate": RETURN,
    ": x create does> + ; x y y": STACK,
    ": x create does> begin 1 again ; x y y": "Error: stack overflow",
    ": q r> drop ; q": "no definition at",
    ": q 5 >r ; q": "no definition at",
    ": q r> r> r> r> r> drop ; q": STACK,
    ": x unloop ; x": STACK,
    ": x 10 0 do unloop loop ; x": STACK,
    ": a 1 throw ; : b ['] a catch throw ; : c ['] b catch throw ; c": "",
    "also also also also also also also also also also also also also also also also also also": "overflow",
    ": x { a b c d e f g h i j k l m n o p q r s } a ;": "Error: out of local space",
    # the input
    "-5 >in !": "outside of the input",
    "100000 >in !": "outside of the input",
    ">in 0 >in !": "Error: stack overflow",
    # arithmetic
    "1 0 /": "Error: division by zero",
    "1 0 /mod": "Error: division by zero",
    "1 2 0 */": "Error: division by zero",
    "1 1 0 fm/mod": "Error: division by zero",
    "hex -8000000000000000 -1 /": "Error: division overflow",
    ": b 0 base ! 12 . ; b": "is no number base",
    ": b 37 base ! 1200 . ; b": "is no number base",
    # the compiler
    ": x then ;": "unmatched control structure",
    ": x repeat ;": "unmatched control structure",
    ": x loop ;": "unmatched control structure",
    ": x [ pad ] again ; x": "unmatched control structure",
    ": x [ -1 ] compile, ;": "unmatched control structure",
    "forget nothing": "nothing not found",
    "marker m : x ; m x": "x not found",
    # the machine's own
    "0 0 ccall": "there are no C functions to call",
    "0 inb .": "255 ",
    "-1 pad 10 fread .": "-1 ",
    "-1 fclose 1000 fclose": "",
    "include /none": "no such file or directory",
    "include /boot": "invalid argument",
    "-1 -1 -1 3 load": "no filename specified",
    "wordlist set-current : x ;": "",
}


@pytest.mark.parametrize("line", LINES)
def test_a_line(tmp_path: Path, line: str) -> None:
    answer, after, last = typed(tmp_path, line, "decimal only forth definitions", "12345 .")
    assert LINES[line] in answer
    assert "not found" not in after
    assert last.startswith("12345 ")


def test_forget_of_what_runs(tmp_path: Path) -> None:
    answers = typed(tmp_path, "marker gone : x gone 1 2 + . ; x", ": y 7 ; y .", "x")
    assert answers[1].startswith("7 ")
    assert answers[2].startswith("x not found")


def test_threads_written_by_hand(tmp_path: Path) -> None:
    """Cells in place of a definition's body that are no words."""
    answers = typed(tmp_path, ": x 1 . ; 5 ' x cell+ cell+ cell+ ! x", "here 1 cells allot 0 over ! execute", "12345 .")
    assert answers[-1].startswith("12345 ")


def test_allocation_ends(tmp_path: Path) -> None:
    """All of the heap, then none; memory of the process stays in its bounds."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answers = typed(
        tmp_path, ": all 0 begin 100000 allocate nip 0= while 1+ repeat ; all 50 > .", "8 allocate nip . 1 ."
    )
    assert answers[0].startswith("-1 ")
    assert answers[1].endswith("1 ")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_scripts_that_include_themselves(tmp_path: Path) -> None:
    answers = typed(tmp_path, "include /boot/self.4th", "12345 .", files={"boot/self.4th": "include /boot/self.4th\n"})
    assert answers[0] != ""
    assert answers[1].startswith("12345 ")


def test_evaluations_in_catches(tmp_path: Path) -> None:
    """Python's own stack has its end, too."""
    line = ': deep s" [\'] deep catch drop" evaluate ; deep 1 .'
    assert typed(tmp_path, line, "12345 .")[1].startswith("12345 ")


def test_long_scripts(tmp_path: Path) -> None:
    """Lines longer than the line buffer, NULs, no newline at the end."""
    text = "1 . " * 2000 + "\n2 .\0rubbish\n3 ."
    answers = typed(tmp_path, "include /boot/long.4th", files={"boot/long.4th": text})
    assert answers[0].rstrip().endswith("2 3")


def test_variables_have_their_bound(tmp_path: Path) -> None:
    names = ": name { n } n s>d <# #s [char] v hold #> ;"
    answers = typed(
        tmp_path,
        names,
        "60000 allocate drop dup 60000 65 fill : all 1000 0 do dup 60000 i name setenv loop ;",
        "all",
        "1 .",
    )
    assert answers[2:] == ["Error: out of memory\n", "1 "]


def test_all_words_are_there(tmp_path: Path) -> None:
    names = word_names.names(word_names.CORE + word_names.PLATFORM + word_names.PORTS + word_names.SOFT)
    answers = typed(tmp_path, *(f"bl word {name} find . drop" for name in names))
    assert [name for name, answer in zip(names, answers, strict=True) if answer not in ("1 ", "-1 ")] == []


@pytest.mark.parametrize("marker", ["lua", "simp"])
def test_from_forth_to_another(tmp_path: Path, marker: str) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "loader").write_bytes(f"$Interpreter:{marker}".encode() + bytes(1))
    outcome = harness.run([], b"", interpreter="4th", host_directory=open_host_directory(str(tmp_path)))
    assert (outcome.end, outcome.report["interpreter"]) == ("swap", marker)
