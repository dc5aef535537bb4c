"""Words on text: output, numbers as text, parsing (stand/ficl/words.c, stand/ficl/vm.c, stand/ficl/prefix.c)."""

from __future__ import annotations

from bhyveload.loader.interpreter.forth.ficl_format import (
    ARENA_SIZE,
    BASE,
    CELL_MASK,
    COMPILE,
    FICL_VER,
    FW_IMMEDIATE,
    PAD,
    SOURCE_ID,
    SPAN,
    STATE,
    TO_IN,
    VM_ABORT,
    VM_OUTOFTEXT,
    VM_QUIT,
    VM_USEREXIT,
    nPAD,
)
from bhyveload.loader.interpreter.forth.restart import Restart
from bhyveload.loader.interpreter.forth.throws import Failure, Throw
from bhyveload.loader.interpreter.forth.words_memory import base_of
from bhyveload.loader.interpreter.forth.words_stack import long_product, signed, to_int

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.interpreter.forth.machine import ForthMachine
    from bhyveload.loader.interpreter.forth.words_compile import Compiler

    Run = Callable[[], None]

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MAX_SPACES = 1 << 20
_HALF_MASK = (1 << 32) - 1
_STACK_POINTER = 0x1F00  # some address: no code that means anything


def to_text(value: int, base: int) -> str:
    """ltoa: signed in base 10, the bits of the cell in any other."""
    if base == 10:
        return str(value)
    return unsigned_text(value, base)


def unsigned_text(value: int, base: int) -> str:
    """ultoa."""
    value &= CELL_MASK
    if base == 10:
        return str(value)
    if base == 16:
        return f"{value:X}"
    digits: list[str] = []
    while True:
        value, digit = divmod(value, base)
        digits.append(_DIGITS[digit])
        if not value:
            return "".join(reversed(digits))


def parse_number(text: bytes, base: int) -> tuple[int, bool] | None:
    """ficlParseNumber: (value, with a decimal point at the end); None when it is no number."""
    negative = False
    if len(text) > 1 and text[0] in b"+-":
        negative = text[0] == 0x2D
        text = text[1:]
    point = text.endswith(b".")
    if point:
        text = text[:-1]
    text = text.partition(b"\0")[0]
    if not text.isalnum():
        return None
    value = 0
    if 2 <= base <= 36:
        if text[1:2].lower() in (b"x", b"o", b"b") and base in (16, 8, 2) and text[0] == 0x30:
            text = b"%c%b" % (text[1], text[1:])  # int() would take it for a prefix
        try:
            value = int(text, base)
        except ValueError:
            return None
    else:
        for char in text:
            digit = digit_of(char)
            if digit >= base:
                return None
            value = value * base + digit
    return signed(-value if negative else value), point


def digit_of(char: int) -> int:
    """The value of a digit as ficl reckons it, for other characters, too; negative for those below."""
    digit = char - 0x30
    if digit > 9:
        digit = (char | 0x20 if 0x41 <= char <= 0x5A else char) - 0x61 + 10
    return digit


def print_words(machine: ForthMachine) -> dict[str, Run]:
    """Output."""
    s, mem, write = machine.stack, machine.mem, machine.write
    pop = s.pop

    def show(text: str) -> None:
        """Numbers are put together in the pad, where they stay."""
        data = text.encode()
        mem[PAD : PAD + len(data) + 1] = data + b"\0"
        write(text)

    def dot() -> None:
        value = pop()
        show(to_text(value, base_of(machine)) + " ")

    def dot_hash() -> None:
        value = pop()
        show(to_text(value, base_of(machine)))

    def u_dot() -> None:
        value = pop()
        show(unsigned_text(value, base_of(machine)) + " ")

    def x_dot() -> None:
        show(unsigned_text(pop(), 16) + " ")

    def u_dot_r() -> None:
        width = pop()
        text = unsigned_text(pop(), base_of(machine))
        write(" " * max(0, min(width - len(text), _MAX_SPACES)) + text + " ")

    def question() -> None:
        s[-1] = machine.arena.fetch(s[-1])
        dot()

    def emit() -> None:
        byte = pop() & 0xFF
        mem[PAD] = byte
        mem[PAD + 1] = 0
        if byte:
            write(chr(byte))

    def cr() -> None:
        write("\n")

    def space() -> None:
        write(" ")

    def spaces() -> None:
        count = pop()
        if count < 0:
            count = 1  # 0 ?DO SPACE LOOP: LOOP looks only after it has counted
        while count > 0:  # a loop of its own: it must be possible to interrupt it
            write(" " * min(count, 1024))
            count -= 1024

    def type_() -> None:
        size = pop()
        address = pop()
        if size:
            write(machine.arena.read(address, size).partition(b"\0")[0].decode("latin-1"))

    def dot_paren() -> None:
        text = machine.rest()[0]
        end = text.find(b")")
        machine.skip(len(text) if end < 0 else end + 1)
        text = text if end < 0 else text[:end]
        held = text[: nPAD - 1]
        mem[PAD : PAD + len(held) + 1] = held + b"\0"
        write(text.partition(b"\0")[0].decode("latin-1"))

    def dot_s() -> None:
        if not s:
            write("(Stack Empty) ")
        base = base_of(machine)
        for value in s[:]:
            show(to_text(value, base))
            write(" ")

    def version() -> None:
        write(f"ficl Version {FICL_VER}\n")

    def hold_text() -> bytearray:
        """The pictured number so far: backwards, behind its count."""
        return bytearray(mem[PAD + 1 : PAD + 1 + mem[PAD]])

    def hold_char(char: int) -> None:
        count = mem[PAD]
        mem[PAD + 1 + count] = char & 0xFF
        mem[PAD] = (count + 1) & 0xFF

    def less_sharp() -> None:
        mem[PAD] = 0

    def pop_unsigned_double() -> int:
        high, low = pop(), pop()
        return (high & CELL_MASK) << 64 | (low & CELL_MASK)

    def digit(value: int) -> int:
        """Hold the last digit; the rest of the number."""
        value, rest = divmod(value, base_of(machine))
        hold_char(ord(_DIGITS[rest]))
        return value

    def sharp() -> None:
        value = digit(pop_unsigned_double())
        s.extend((signed(value), signed(value >> 64)))

    def sharp_s() -> None:
        value = pop_unsigned_double()
        while True:
            value = digit(value)
            if not value:
                break
        s.extend((0, 0))

    def sharp_greater() -> None:
        pop()
        pop()
        text = hold_text().partition(b"\0")[0]
        text.reverse()
        mem[PAD + 1 : PAD + 1 + len(text)] = bytes(text)
        mem[PAD + 1 + mem[PAD]] = 0
        s.extend((PAD + 1, mem[PAD]))

    def hold() -> None:
        hold_char(pop())

    def sign() -> None:
        if to_int(pop()) < 0:
            hold_char(0x2D)

    return {
        ".": dot,
        ".#": dot_hash,
        "u.": u_dot,
        "x.": x_dot,
        "u.r": u_dot_r,
        "?": question,
        "emit": emit,
        "cr": cr,
        "space": space,
        "spaces": spaces,
        "type": type_,
        ".(": dot_paren,
        ".s": dot_s,
        ".ver": version,
        "<#": less_sharp,
        "#": sharp,
        "#s": sharp_s,
        "#>": sharp_greater,
        "hold": hold,
        "sign": sign,
    }


def parse_words(compiler: Compiler) -> dict[str, Run]:
    """Words that read the text, and those that look names up."""
    machine, s, cells, dictionary = compiler.machine, compiler.stack, compiler.machine.cells, compiler.dictionary
    arena, mem = machine.arena, machine.mem
    push, pop = s.append, s.pop

    def backslash() -> None:
        text = machine.rest()[0]
        ends = [at for at in (text.find(b"\n"), text.find(b"\r")) if at >= 0]
        if not ends:
            machine.skip(len(text))
            return
        end = min(ends)
        other = text[end + 1 : end + 2]
        machine.skip(end + (2 if other in (b"\r", b"\n") and other != text[end : end + 1] else 1))

    def paren() -> None:
        machine.parse(0x29)

    def parse() -> None:
        text, address = machine.parse(pop() & 0xFF)
        s.extend((address, len(text)))

    def parse_word() -> None:
        text, address = machine.parse_word()
        s.extend((address, len(text)))

    def word() -> None:
        text = machine.parse(pop() & 0xFF, skip=True)[0][: nPAD - 1]
        mem[PAD : PAD + len(text) + 3] = b"%c%b \0" % (len(text), text)
        push(PAD)

    def source() -> None:
        s.extend((machine.tib, machine.source_size))

    def source_id() -> None:
        push(cells[SOURCE_ID >> 3])

    def refill() -> None:
        if cells[SOURCE_ID >> 3] == -1:
            push(0)
            return
        if not machine.restarted:
            raise Restart
        push(-1)

    def accept() -> None:
        text = machine.rest()[0]
        if len(s) < 2:
            raise IndexError
        if not text:
            raise Restart
        size = pop() & CELL_MASK
        text = text[:size]
        arena.write(pop(), text)
        machine.skip(len(text))
        push(len(text))

    def expect() -> None:
        accept()
        cells[SPAN >> 3] = pop()

    def evaluate() -> None:
        size = pop()
        address = pop()
        saved = cells[SOURCE_ID >> 3]
        cells[SOURCE_ID >> 3] = -1
        if size < 0:
            size = len(arena.string(address))
        code = machine.execute_nested(address, size)
        cells[SOURCE_ID >> 3] = saved
        if code != VM_OUTOFTEXT:
            raise Throw(code)

    def throw() -> None:
        if not s:  # unchecked: it pops what lies below the stack, its own pointer
            raise Throw(_STACK_POINTER)
        code = to_int(pop())
        if code:
            raise Throw(code)

    def abort() -> None:
        raise Throw(VM_ABORT)

    def quit_() -> None:
        raise Throw(VM_QUIT)

    def bye() -> None:
        raise Throw(VM_USEREXIT)

    def find_name(name: bytes, otherwise: int) -> None:
        found = dictionary.lookup(name)
        if found is None:
            s.extend((otherwise, 0))
        else:
            s.extend((found.xt, 1 if found.flags & FW_IMMEDIATE else -1))

    def find() -> None:
        address = pop()
        arena.check(address, 1)
        find_name(arena.read(address + 1, mem[address]), address)

    def sfind() -> None:
        size = pop()
        find_name(arena.read(pop(), size), 0)

    def count() -> None:
        address = pop()
        arena.check(address, 1)
        s.extend((address + 1, mem[address]))

    def strlen() -> None:
        s[-1] = len(arena.string(s[-1]))

    def number(text: bytes, address: int) -> bool:
        """The parse step ?number: push the number, or compile it."""
        found = parse_number(text, cells[BASE >> 3] & 0xFFFFFFFF)
        if found is None:
            return False
        value, point = found
        if point:
            push(0)
        if cells[STATE >> 3] == COMPILE:
            compiler.literal(value)
        else:
            push(value)
        return True

    def prefix(text: bytes, address: int) -> bool:
        """The parse step ?prefix: a word of the list <prefixes> with which the text begins reads the rest of it."""
        prefixes = machine.find_wordlist(b"<prefixes>")
        if prefixes is None:
            return False
        lower = text.lower()
        for found in reversed(prefixes.history):
            if lower.startswith(found.key):
                cells[TO_IN >> 3] = address + found.length - machine.tib
                machine.execute_here(found)
                return True
        return False

    def in_base(base: int) -> None:
        """tempBase: the next word as a number of that base."""
        text, address = machine.parse_word()
        saved = cells[BASE >> 3]
        cells[BASE >> 3] = base
        if not number(text, address):
            raise Failure(f"{text.decode('latin-1')} not recognized")
        cells[BASE >> 3] = saved

    def question_number() -> None:
        size = pop()
        address = pop()
        push(1 if number(arena.read(address, size), address) else 0)

    def question_prefix() -> None:
        size = pop()
        address = pop()
        push(-1 if prefix(arena.read(address, size), address) else 0)

    def lookup() -> None:
        size = pop()
        push(-1 if machine.interpret(arena.read(pop(), size)) else 0)

    def temp_base() -> None:
        in_base(pop())

    def prefix_hex() -> None:
        in_base(16)

    def prefix_decimal() -> None:
        in_base(10)

    def to_number() -> None:
        """m64Mac puts the digits together: 32 bits of the number in each of the two cells."""
        size, address = pop() & CELL_MASK, pop()
        high, low = pop() & CELL_MASK, pop() & CELL_MASK
        base = cells[BASE >> 3] & CELL_MASK
        text = arena.read(address, size)
        used = 0
        for char in text:
            digit = digit_of(char)
            if not 0 <= digit < base or char > 0x7F:
                break
            product = long_product(low, base)
            high = (product >> 64) + (high * base & _HALF_MASK)
            low = (product & CELL_MASK) + digit
            used += 1
        s.extend((signed(low), signed(high), address + used, size - used))

    def convert() -> None:
        s[-1] = signed(s[-1] + 1)
        push(65535)
        address = s[-2]
        s[-1] = min(65535, max(0, ARENA_SIZE - address)) if address > 0 else 0
        to_number()
        pop()

    machine.parse_steps += [prefix, number]
    return {
        "\\": backslash,
        "(": paren,
        "parse": parse,
        "parse-word": parse_word,
        "word": word,
        "source": source,
        "source-id": source_id,
        "refill": refill,
        "accept": accept,
        "expect": expect,
        "evaluate": evaluate,
        "throw": throw,
        "abort": abort,
        "quit": quit_,
        "bye": bye,
        "find": find,
        "sfind": sfind,
        "count": count,
        "strlen": strlen,
        "?number": question_number,
        "?prefix": question_prefix,
        "lookup": lookup,
        "__tempbase": temp_base,
        "0x": prefix_hex,
        "0d": prefix_decimal,
        ">number": to_number,
        "convert": convert,
    }
