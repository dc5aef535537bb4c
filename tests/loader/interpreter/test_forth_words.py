"""Every word that the engine has is used by some test: here, in the recorded sessions, in the probes, in our scripts.

What is expected here is what ANS Forth or ficl's own documentation says of the word (docs/forth.md has what differs).
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest

from bhyveload.errors import LoaderCrashed
from bhyveload.host.directory import open_host_directory
from bhyveload.loader.commands.table import LISTING
from bhyveload.loader.interpreter.forth import word_names
from support import harness
from support.forth_runs import run_forth, typed
from support.places import DATA

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FORTH = DATA / "forth"
FILES = {"boot/text": "line one\nline two\n", "boot/a.4th": ": from-a 77 . ;\nfrom-a\n", "boot/dir/only": "x"}

# What is typed -> what is printed, without blanks at the end
ANSWERS = {
    # input
    ": rest source >in @ tuck - -rot + swap type ; rest 5 .": "5 .5",
    "source-id .": "0",
    "create b 20 allot : a b 5 accept ; a hello . b 5 type": "5 hello",
    "create e 10 allot e 5 expect hello span @ . e 5 type": "5 hello",
    ": f tib> type ; f the rest": "the rest",
    "5 interpret . 7 .": "5 7",
    "% 1 .": "1",
    "$ 1 .": "1 .\n1",
    "16 __tempbase ff .": "255",
    # numbers and strings
    "1 0 dnegate . .": "-1 -1",
    "0 0 dnegate . .": "0 0",
    "5 6 u.r 5 3 u.r": "     5   5",
    's" 12a" drop 0 0 rot 1- convert drop . .': "0 12",
    's" 12" ?number . .': "1 12",
    's" zz" ?number .': "0",
    '5 s" v=%d." pad 30 sprintf drop type': "v=5.",
    '255 s" %x;" pad 30 sprintf drop type': "FF;",
    '7 s" %5d|" pad 30 sprintf drop type': "    7|",
    '7 s" toolong%d" pad 3 sprintf nip nip .': "0",
    's" abcd" hash s" abcd" hash = . s" abcd" hash s" abce" hash = .': "-1 0",
    'create n 4 allot s" abc" n swap move 0 n 3 + c! n strlen .': "3",
    'create s 20 allot s 9 s" ab" strcpy type': "ab",
    's" abc" strdup . type': "0 abc",
    'create s 20 allot s 0 s" ab" strcat s" cd" strcat type': "abcd",
    "65 xemit 233 xemit 8364 xemit": "A\xc3\xa9\xe2\x82\xac",
    # stand/ficl/amd64/sysdep.c: ficlLongMul gives 32 bits to the low cell, ficlLongDiv takes the high one for the bits
    # above the 32nd
    "1000000 1000000 um* . .": "232 3567587328",
    "-1000000 1000000 m* . .": "-233 -3567587328",
    "0 1 2 um/mod . .": "2147483648 0",
    "0 5 2 fm/mod . .": "10737418240 0",
    "1 -1 3 sm/rem . .": "-6148914691236517205 0",
    "4294967296 4294967296 7 */ .": "0",
    # m64Mac multiplies by that, too
    '0 0 s" 12345678901" >number 2drop . .': "2 3755744309",
    '0 0 s" 12345678901" >number 2drop <# #s #> type': "36893488151174847541",
    # words.c pick() hands a cell to stackPick's int; the index itself lies above the stack
    "7 8 4294967296 pick . . .": "8 8 7",
    "1 -1 pick . .": "-1 1",
    # softcore.fr: 0 ?do space loop
    "1 . -5 spaces 2 .": "1  2",
    # words.c ficlThrow() pops unchecked: some address, for which nothing is printed
    "throw 1 .": "",
    # words.c looks `type` and `,` up when ." and postpone compile
    ': type 2drop 88 emit ; : t ." hi" ; t': "X",
    ': type 2drop 88 emit ; : t 1 abort" hi" ; t': "X",
    ": , drop 99 . ; : t postpone dup ; t": "99",
    # softcore.fr strdup: allocate's 0 is below the flags
    "0 9000000000000000 strdup . . .": "-1 0 0",
    # words.c dotParen() puts its text together in the pad
    ".( hello) pad 5 type": "hellohello",
    # dict.c dictAllot() takes an int
    "here 4294967304 allot here swap - .": "8",
    # memory
    "65 pad c! pad 1 type": "A",
    "create q 8 allot q 8 255 fill 7 q q! q q@ . q @ .": "7 -4294967289",
    "create w 8 allot w 8 255 fill 258 w w! w w@ . w c@ .": "258 2",
    "16 cell- .": "8",
    "user a user b b a - .": "8",
    "7 nUser drop .": "7",
    "here heap? swap here 8 allot heap? nip nip - 1 = .": "-1",
    "create y y body> ' y = .": "-1",
    # control and definitions
    ": f case 1 of 10 fallthrough 2 of 20 endof 99 swap endcase . ; 2 f 3 f": "20 99",
    ": f case 1 of 1 . fallthrough 2 of 2 . endof 9 . endcase ; 1 f 2 f 3 f": "1 2 2 9",
    ": f 1 if 2 . endif ; f": "2",
    "0 [if] 1 . [endif] 2 .": "2",
    ": f 3 0 do i' . loop ; f": "3 3 3",
    ": f [ ' dup ] literal compile, ; immediate : g f ; 3 g . .": "3 3",
    ": f ; compile-only f": "Error: Compile only!",
    "1 2 empty depth .": "0",
    # words about words
    "' dup >name type": "dup",
    ": g ; last-word >name type": "g",
    ": aa 1 ; : bb 2 ; forget aa bb": "bb not found",
    "see dup": "dup is a primitive",
    "' dup see-xt": "dup is a primitive",
    ": f 1 + ; see f": ": f\n   0   literal 1 (0x1)\n   2   +\n;",
    ": f 1 ; debug f": ": f\n   0   literal 1 (0x1)\n;",
    "' dup ?object .": "0",
    "5 objectify .": "5",
    "on-step": "S: (Stack Empty)",
    "parse-order": "Parse steps:\nlookup\n?prefix\n?number",
    ".ver": "ficl Version 3.03",
    # softcore.fr .4: two digits in whatever base, of the bytes that /dump has left
    "create d 65 c, 200 c, 7 c, 0 c, 3 /dump ! d .4 d - .": "65 00 07    4",
    "create d 65 c, 1 /dump ! hex d .4 drop decimal /dump @ .": "41          -3",
    "create d 65 c, 66 c, 2 /dump ! d .chars -1 /dump ! d .chars": "ABA",
    # word lists
    "forth-wordlist get-current = .": "-1",
    "forth-wordlist >search search> forth-wordlist = .": "-1",
    "forth-wordlist 1 set-order 5 .": "5",
    "10 ficl-wordlist wid-get-name nip .": "0",
    "create nm 110 c, 109 c, 0 c, 5 ficl-wordlist dup nm wid-set-name wid-get-name type": "nm",
    'wordlist constant w forth-wordlist w wid-set-super s" dup" w search-wordlist nip .': "-1",
    "5 ficl-named-wordlist nn nn wid-get-name type": "nn",
    "10 ficl-vocabulary vv also vv order": "Search:\n   vv\n   forth-wordlist\n\nCompile: forth-wordlist",
    "wordlist get-current swap ficl-set-current get-current <> .": "-1",
    "hidden wid-get-name type": "hidden",
    "hide : hq 5 . ; set-current hq previous hq": "5 hq not found",
    # softcore.fr, jhlocal.fr, ficllocal.fr, ifbrack.fr: what they leave in HIDDEN
    "hide forth-wordlist list-wid": "forth-wordlist",
    'hide s" [ENDIF]" ?[then] . type s" [if]" ?[if] . type s" x" ?[else] . type': "-1 [ENDIF]-1 [if]0 x",
    'hide s" }}" ?}} . s" --" ?-- . s" x" ?-- .': "-1 -1 0",
    'hide s" 2:ab" ?2loc . type s" ab" ?2loc . type': "-1 ab0 ab",
    'hide s" }" ?delim . s" |" ?delim . s" --" ?delim . s" " ?delim . s" x" ?delim . type': "3 1 2 4 0 x",
    'hide s" |" ?| . type s" |" ?} . type zero .': "-1 |0 |0",
    ": f { a | b -- } a b ; see f": (
        ": f\n   0   (link)\n   1   2 ( 0x2 )\n   2   (toLocal0)\n   3   zero\n   4   (toLocal1)\n   5   (@local0)\n"
        "   6   (@local1)\n   7   (unlink)\n;"
    ),
    's" five" environment? . 5 env-constant five s" five" environment? . .': "0 -1 5",
    '1 2 env-2constant two s" two" environment? . . .': "-1 1 2",
    # locals
    ": f {{ a b -- }} a . b . ; 1 2 f": "1 2",
    ": f local a local b a b end-locals . . ; 5 6 f": "5 6",
    ": f 2local a a . . end-locals ; 1 2 f": "2 1",
    # the loader's
    's" /boot/text" 0 fopen dup 5 0 fseek . dup pad 3 fread drop fclose pad 3 type': "5 one",
    's" /boot/text" 0 fopen dup isdir? . fclose': "0",
    's" /boot/dir" 0 fopen dup isdir? . fclose': "-1",
    ': all 0 begin over freaddir while 2drop 1+ repeat nip . ; s" /boot/dir" 0 fopen all': "3",
    's" /boot/a.4th" 0 fopen dup fload fclose': "77",
    "create o 4 allot create b 65 c, 66 c, 67 c, b 1048576 3 copyin 1048576 o 3 copyout o 3 type": "ABC",
    's" nosuch" s" t" findfile .': "0",
    's" zz" uuid-from-string .': "0",
    's" 12345678-1234-5678-9abc-123456789abc" uuid-from-string dup @ hex u. decimal uuid-to-string .': (
        "5678123412345678 -1"
    ),
    "isvirtualized? .": "0",
    "0 0 ccall": "Error: there are no C functions to call",
    "1 1 outb 1 inb .": "255",
}
GRAPHICS = {
    "1 2 fb-setpixel depth .": "0",
    "1 2 3 4 5 fb-line depth .": "0",
    "1 2 3 4 5 6 7 fb-bezier depth .": "0",
    "1 2 3 4 5 fb-drawrect depth .": "0",
    "1 2 3 4 term-drawrect depth .": "0",
    's" x" 2>r 0 1 2 3 4 2r> fb-putimage . depth .': "Error: Compile only!",
    ': f 0 1 2 3 4 s" x" fb-putimage . depth . ; f': "0 0",
    ': f 0 1 2 3 4 s" x" term-putimage . depth . ; f': "0 0",
}
# Words that other words compile or that show much: used by name here, by what compiles them everywhere
INTERNAL = """
(link) (unlink) doLocal (@local) (toLocal) (@local0) (toLocal0) (@local1) (toLocal1) (local) (@2local) (to2Local)
(2local) (user) (create) (exit) (;) (literal) (2literal) (.") (c") (branch0) (branch) (do) (does>) (?do) (loop) (+loop)
(of) (variable) (constant) (parse-step) exit-inner lookup ?prefix add-parse-step step-break debug-xt forget-wid
do-vocabulary brand-wordlist /dump .4 .chars .line dump .env r.s
"""


def answers(folder: Path, table: dict[str, str], current: bool) -> dict[str, str]:
    lines = [line for text in table for line in (f"marker -t {text}", "abort", "-t only forth definitions decimal")]
    shown = typed(folder, *lines, files=FILES, current=current)[::3]
    return {text: answer.rstrip() for text, answer in zip(table, shown, strict=True)}


def test_a_text_in_a_text_leaves_the_next_line_alone(tmp_path: Path) -> None:
    """ficl.c ficlExecC(): what ran last, and runs again with the next line, is INTERPRET."""
    asked = ('s" char" evaluate 5 .', "6 .", "% char", "7 .")
    assert typed(tmp_path, *asked) == ["5 ", "6 ", "", "7 "]


def test_what_softwords_leave_in_hidden(tmp_path: Path) -> None:
    """stand/ficl/softwords: softcore.fr, jhlocal.fr, ficllocal.fr and ifbrack.fr, one behind the other."""
    (answer,) = typed(tmp_path, "hide words")
    assert answer.splitlines()[:2] == [
        "?[then] ?[else] ?[if]   ?}}     ?--     zero    ?delim  ?2loc   ?|      ",
        "?}      ?--     zero    list-wid        ",
    ]
    assert "Dictionary: 13 words, " in answer


@pytest.mark.parametrize("current", [True, False], ids=["current", "13.2"])
def test_what_each_word_prints(tmp_path: Path, current: bool) -> None:
    assert answers(tmp_path, ANSWERS, current) == ANSWERS


def test_drawing_does_nothing(tmp_path: Path) -> None:
    """Only the older loader has these words."""
    assert answers(tmp_path / "old", GRAPHICS, False) == GRAPHICS
    assert answers(tmp_path / "new", {"fb-setpixel": ""}, True) == {"fb-setpixel": "fb-setpixel not found"}


def test_a_word_that_reads_the_next_line(tmp_path: Path) -> None:
    assert typed(tmp_path, ": f refill . ; f", "1 .") == ["", "-1 1 "]


def test_bye_leaves_nowhere_to_go(tmp_path: Path) -> None:
    """stand/common/interp_forth.c bf_run: VM_USEREXIT is a panic."""
    outcome = run_forth(b"bye\nx", host_directory=open_host_directory(str(tmp_path)))
    assert outcome.text.endswith("Rebooting...\n")
    assert "No where to leave to!\npanic: interpreter exit\n" in outcome.text


@pytest.mark.parametrize("word", INTERNAL.split())
def test_words_within_words_have_their_names(tmp_path: Path, word: str) -> None:
    assert typed(tmp_path, f"' {word} >name type", "12345 .") == [word, "12345 "]


def _used() -> set[str]:
    """Every token of a line that some test compares with what it has to print."""
    core = ast.parse((Path(__file__).parent / "test_forth_core.py").read_text())
    texts = [node.value for node in ast.walk(core) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    texts += [*ANSWERS, *GRAPHICS, INTERNAL, ": f refill . ; f bye"]
    sessions = json.loads(zstd.decompress((FORTH / "sessions.json.zst").read_bytes()))
    texts += [record["keys"] for record in sessions.values()]
    texts += [(path / "keys.txt").read_text("latin-1") for path in (DATA / "probes").glob("forth-*")]
    texts += [path.read_text() for path in (FORTH / "boot").iterdir()]
    return {token for text in texts for token in text.lower().split()}


def test_every_word_is_used() -> None:
    lists = ("CORE", "PREFIX", "PLATFORM", "GRAPHICS", "PORTS", "PARSE_STEPS", "SOFT")
    names = {name.lower() for text in lists for name in word_names.names(getattr(word_names, text))}
    assert names - _used() == set()


def test_every_command_is_a_word(tmp_path: Path) -> None:
    """Twice: as it is in `builtins`, and as the immediate word that calls it (stand/common/interp_forth.c bf_init)."""
    names = [name for name, _ in LISTING]
    wrapped = typed(tmp_path, *(f"bl word {name} find . drop" for name in names))
    assert set(wrapped) == {"1 "}
    raw = [f'only forth also builtins search> s" {name}" rot search-wordlist nip .' for name in names]
    assert set(typed(tmp_path, *raw)) == {"-1 "}


# What FreeBSD's scripts use beyond what they define themselves: as they use it


STOCK = {
    ": f 1 2 3 4 2 -roll ; f . . . .": "3 2 4 1",
    "-9 2/ . 9 2 / . -9 4 mod . 5 2* .": "-5 4 -1 10",
    "5 0< . -5 0< . 5 0<> . 0 0<> .": "0 -1 -1 0",
    ":noname 6 . ; dup >body drop execute": "6",
    's" 0042" 0 0 2swap >number nip . drop .': "0 42",
    "-5 abs . 1 2 tuck . . . 12 10 xor .": "5 2 1 2 6",
    "1 cell+ . 2 cells . 3 chars . 4 char+ .": "9 16 3 5",
    "create c 3 c, 97 c, 98 c, 99 c, c count type": "abc",
    "-1 60 rshift . 1 4 lshift .": "15 16",
    "3 spaces 1 . 10 0 3 um/mod . .": "   1 3 1",
    ": f 3 begin dup . 1- dup 0= until drop ; f": "3 2 1",
    ": f [ 7 ] literal . ; f": "7",
    "1 2 3 2 pick . 2drop drop get-current forth-wordlist = .": "1 -1",
    "dictthreshold @ 256 dictthreshold ! dictthreshold @ . dictthreshold !": "256",
    "dictincrease @ 2048 dictincrease ! dictincrease @ . dictincrease !": "2048",
    ': f s" foo" s" a=b" drop 3 type 2drop ; f': "a=b",
    ": f 1 local n n 1+ to n n . end-locals ; f": "2",
    's" FreeBSD_version" environment? . 1000000 > .': "-1 -1",
    's" arch-i386" environment? .': "0",
}


@pytest.mark.parametrize("current", [True, False], ids=["current", "13.2"])
def test_as_the_stock_scripts_use_them(tmp_path: Path, current: bool) -> None:
    assert answers(tmp_path, STOCK, current) == STOCK


# Without an end


@pytest.mark.parametrize(
    "endless",
    [
        ": x begin again ; x",
        ": x begin 46 emit again ; x",
        ": x 1 0 do 0 +loop ; x",
        ": x begin ['] throw catch drop 0 again ; x",
        ': x begin s" 1 drop" evaluate again ; x',
        ": x 9223372036854775807 spaces ; x",
        ': x begin s" a" s" a" setenv again ; x',
        ": x 0 1 do i 10 > if 0 else 1 then +loop ; x : y 20 0 do 0 +loop ; y",
    ],
)
def test_endless_scripts_are_ended(tmp_path: Path, endless: str) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "loader.rc").write_text(endless + "\n")
    with pytest.raises(LoaderCrashed, match=r"did not finish in 0\.7 seconds"):
        harness.run([], b"", interpreter="4th", host_directory=open_host_directory(str(tmp_path)), timeout=0.7)
