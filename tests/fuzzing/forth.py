"""Targets: lines of Forth, as typed and as scripts.

A script may take as long as it likes, so the words that go round in circles or wait are left out of what is tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bhyveload.need import load_all
from fuzzing import Run, Target
from fuzzing.devices import BytesDevice
from fuzzing.loading import a_loader, with_files
from support.places import ROOT

_ENDLESS = (
    *("again", "until", "repeat", "loop", "+loop", "goto", "delay", "ms", "key", "key?", "accept", "spaces", "dump"),
    *("autoboot", "read", "more", "pager", "seconds", "read-line", "fkey"),
)
_LINES = 50
_TOKEN = re.compile(rb"[^ \t\n\v\f\r]+")


def _forth() -> Run:
    load_all()
    from bhyveload.loader.interpreter.forth.interpreter import ForthInterpreter

    never = {word.encode() for word in _ENDLESS}

    def harmless(match: re.Match[bytes]) -> bytes:
        return b"drop" if match[0].lower() in never else match[0]

    def run(data: bytes) -> None:
        lines = _TOKEN.sub(harmless, data)
        loader = a_loader()
        with_files(loader, {"/boot/s.4th": BytesDevice(lines)})
        loader.interpreter = ForthInterpreter(loader)
        for line in lines.split(b"\n")[:_LINES]:
            loader.interpreter.run(line.decode("latin-1")[:255])
        loader.interpreter.include("/boot/s.4th")

    return run


def _forth_seeds() -> Iterator[bytes]:
    yield from (
        b'1 2 + . s" abc" type cr .s',
        b": x dup 0> if 1- recurse then ; 20 x .",
        b": y { a b | c -- d } a b + to c c ; 1 2 y . see y",
        b"create t 8 cells allot 5 t 3 cells + ! t 3 cells + @ .",
        b": z ['] y catch . ; z : k create , does> @ ; 3 k three three .",
        b"vocabulary v also v definitions : w 1 ; previous order only forth",
        b"marker m 100 allocate drop dup 5 65 fill 5 type m [if] 1 [else] 2 [then] .",
        b": c case 1 of 2 endof 3 of 4 endof 5 swap endcase ; 3 c . hex ff . decimal",
        b'<# 0 0 #s 65 hold #> type : q 10 0 do i . leave loop ; s" 1 ." evaluate',
        b'set a=b\nshow a\ns" a" getenv type\n1 0 / -1 @ 5 throw postpone ; [compile] if',
    )
    for path in sorted((ROOT / "tests" / "data" / "forth" / "boot").iterdir()):
        yield path.read_bytes()[:2000]


TARGETS = [Target("forth", _forth, _forth_seeds, rounds=150, size=2000)]
