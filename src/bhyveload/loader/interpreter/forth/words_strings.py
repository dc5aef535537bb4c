"""Words on strings in memory: comparing, copying, SPRINTF (stand/ficl/words.c, stand/ficl/softwords/softcore.fr)."""

from __future__ import annotations

from bhyveload.loader.interpreter.forth.dictionary import hash_of
from bhyveload.loader.interpreter.forth.ficl_format import CELL_MASK, PAGE
from bhyveload.loader.interpreter.forth.throws import Failure
from bhyveload.loader.interpreter.forth.words_stack import signed, to_int
from bhyveload.loader.interpreter.forth.words_text import to_text, unsigned_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.interpreter.forth.machine import ForthMachine

    Run = Callable[[], None]

_FLIP = bytes(byte ^ 0x80 for byte in range(256))  # characters are signed
_MAX_FORMAT = 1 << 16
_SHORT = 4096


def string_words(machine: ForthMachine) -> dict[str, Run]:
    s, arena, mem = machine.stack, machine.arena, machine.mem
    push, pop = s.append, s.pop

    def pop_string() -> bytes:
        size = pop()
        return arena.read(pop(), size)

    def compare(insensitive: bool) -> Run:
        def run() -> None:
            if len(s) < 4:
                raise IndexError
            right_size, right_at, left_size, left_at = pop(), pop(), pop(), pop()
            if left_at >= PAGE and right_at >= PAGE and 0 < left_size <= _SHORT and 0 < right_size <= _SHORT:
                left, right = mem[left_at : left_at + left_size], mem[right_at : right_at + right_size]
                if len(left) < left_size or len(right) < right_size:
                    arena.check(max(left_at, right_at), _SHORT)
            else:
                right, left = arena.read(right_at, right_size), arena.read(left_at, left_size)
            if insensitive:
                left, right = left.lower(), right.lower()
            if left == right:
                push(0)
                return
            if not (left.isascii() and right.isascii()):
                left, right = left.translate(_FLIP), right.translate(_FLIP)
            push(-1 if left < right else 1)

        return run

    def hash_() -> None:
        text = pop_string()
        push(hash_of(text.partition(b"\0")[0], len(text)) if text else 0)

    def strdup() -> None:
        """( addr len -- addr' len 0 | 0 0 -1 )"""
        size = pop()
        source = pop()
        address = arena.allocate(size + 1)
        if not address:
            s.extend((0, 0, -1))  # ALLOCATE's address stays
            return
        arena.write(address, arena.read(source, size))
        s.extend((address, size, 0))

    def strcat() -> None:
        """( a1 u1 a2 u2 -- a1 u1+u2 )"""
        size, source = pop(), pop()
        have, to = pop(), pop()
        arena.write(to + have, arena.read(source, size))
        s.extend((to, signed(have + size)))

    def strcpy() -> None:
        """( a1 u1 a2 u2 -- a1 u2 )"""
        size, source = pop(), pop()
        pop()
        to = pop()
        arena.write(to, arena.read(source, size))
        s.extend((to, size))

    def sprintf() -> None:
        room, start = to_int(pop()), pop()
        size = to_int(pop())
        text = arena.read(pop(), size)
        if size > _MAX_FORMAT:
            raise Failure("Error: format too long")
        to = start
        fits = True
        at = 0
        while at < size:
            wanted = 0
            zeros = False
            if text[at] != 0x25:
                piece = text[at : at + 1]
                wanted = 1
            else:
                at += 1
                zeros = text[at : at + 1] == b"0"
                at += zeros
                digits = at
                while text[at : at + 1].isdigit():
                    at += 1
                if at > digits:
                    wanted = to_int(int(text[digits:at][:18]))
                elif text[at : at + 1] == b"*":
                    wanted = to_int(pop())
                    at += 1
                if at >= size:
                    break
                kind = text[at : at + 1].lower()
                if kind == b"s":
                    length = to_int(pop())
                    piece = arena.read(pop(), length)
                elif kind in (b"d", b"u", b"x"):
                    number = to_int(pop())
                    base = 16 if kind == b"x" else 10
                    written = to_text(number, 10) if kind == b"d" else unsigned_text(number, base)
                    piece = written.encode()
                else:
                    continue  # this character is met again, as text or as the beginning of a field
            if fits:
                wanted = wanted or len(piece)
                if wanted > room:
                    fits = False
                    wanted = room
                piece = (b"0" if zeros else b" ") * max(0, wanted - len(piece)) + piece
                arena.write(to, piece)
                to += len(piece)
                room -= len(piece)
            at += 1
        s.extend((start, to - start, -1 if fits else 0))

    def xemit() -> None:
        """The UTF-8 of a code point."""
        code = pop() & CELL_MASK
        if code < 0x80:
            s.append(code)
            emit()
            return
        parts: list[int] = []
        limit = 0x3F
        while code > limit:
            parts.append(0x80 | (code & 0x3F))
            code >>= 6
            limit >>= 1
        machine.write(bytes((((limit ^ 0x7F) << 1 | code) & 0xFF, *reversed(parts))).decode("latin-1"))

    def emit() -> None:
        byte = pop() & 0xFF
        if byte:
            machine.write(chr(byte))

    return {
        "compare": compare(False),
        "compare-insensitive": compare(True),
        "hash": hash_,
        "strdup": strdup,
        "strcat": strcat,
        "strcpy": strcpy,
        "sprintf": sprintf,
        "xemit": xemit,
    }
