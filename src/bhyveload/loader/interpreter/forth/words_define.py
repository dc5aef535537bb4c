"""Words that define words: colon, constants, CREATE, VALUE, locals, users, MARKER's parts (stand/ficl/words.c)."""

from __future__ import annotations

from bhyveload.loader.interpreter.forth.dictionary import Word, key_of
from bhyveload.loader.interpreter.forth.ficl_format import (
    CELL,
    COLON_WORD,
    COMPILE,
    CONSTANT_WORD,
    CREATED_WORD,
    DICT_INCREASE,
    DICT_THRESHOLD,
    FICL_MAX_LOCALS,
    FICL_USER_CELLS,
    FW_COMPILE,
    FW_COMPIMMED,
    FW_IMMEDIATE,
    FW_ISOBJECT,
    INTERPRET,
    LOCAL_WORD,
    NUSER,
    STATE,
    TWO_CONSTANT_WORD,
    TWO_LOCAL_WORD,
    USER,
    USER_WORD,
    VARIABLE_WORD,
    WORD_SIZE,
)
from bhyveload.loader.interpreter.forth.thread import get_local, set_local
from bhyveload.loader.interpreter.forth.throws import Failure, Throw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.interpreter.forth.machine import ForthMachine
    from bhyveload.loader.interpreter.forth.words_compile import Compiler

    Run = Callable[[], None]


def push_cell(machine: ForthMachine, address: int) -> Run:
    """What a constant does: push the cell at ``address``."""
    push, cells, index = machine.stack.append, machine.cells, address >> 3

    def run() -> None:
        push(cells[index])

    return run


def push_number(machine: ForthMachine, number: int) -> Run:
    """What a variable does: push its address."""
    push = machine.stack.append

    def run() -> None:
        push(number)

    return run


def make_constant(machine: ForthMachine, name: bytes, value: int, flags: int = 0) -> Word:
    word = machine.dictionary.create(name, CONSTANT_WORD, flags)
    word.run = push_cell(machine, word.param)
    machine.dictionary.append(value)
    return word


def defining_words(compiler: Compiler) -> dict[str, Run]:
    machine, stack, dictionary = compiler.machine, compiler.stack, compiler.dictionary
    cells = machine.cells
    pop = stack.pop

    def grow() -> None:
        dictionary.grow(cells[DICT_THRESHOLD >> 3] & ((1 << 64) - 1), cells[DICT_INCREASE >> 3])

    def begin(name: bytes) -> Word:
        word = dictionary.create(name, COLON_WORD, smudged=True)
        word.entry = word.param
        cells[STATE >> 3] = COMPILE
        return word

    def colon() -> None:
        name = machine.parse_name()
        grow()
        begin(name)
        stack.append(machine.tags["colon"])
        machine.number_of_locals = 0

    def colon_noname() -> None:
        stack.extend((begin(b"").xt, machine.tags["colon"]))

    def end_locals() -> None:
        if machine.number_of_locals:
            machine.locals.clear()
            compiler.compile("(unlink)")
        machine.number_of_locals = 0

    def semicolon() -> None:
        compiler.match("colon")
        end_locals()
        compiler.compile("(;)")
        cells[STATE >> 3] = INTERPRET
        word = dictionary.newest
        if word is not None and word.entry in machine.blocks:
            machine.forget()  # it was run before it was complete
        dictionary.unsmudge()

    def does() -> None:
        end_locals()
        compiler.compile("(does>)")

    def constant() -> None:
        name = machine.parse_name()
        make_constant(machine, name, pop())

    def two_constant() -> None:
        name = machine.parse_name()
        high = pop()
        low = pop()
        word = dictionary.create(name, TWO_CONSTANT_WORD)
        low_run, high_run = push_cell(machine, word.param), push_cell(machine, word.param + CELL)

        def run() -> None:
            low_run()
            high_run()

        word.run = run
        dictionary.append(low)
        dictionary.append(high)

    def variable(count: int) -> Run:
        def define() -> None:
            word = dictionary.create(machine.parse_name(), VARIABLE_WORD)
            word.run = push_number(machine, word.param)
            dictionary.allot(count * CELL)

        return define

    def create() -> None:
        name = machine.parse_name()
        grow()
        word = dictionary.create(name, CREATED_WORD)
        word.run = push_number(machine, word.param + CELL)
        dictionary.append(0)

    def user_at(name: bytes, index: int) -> None:
        if not 0 <= index < FICL_USER_CELLS:
            raise Failure("Error - out of user space")
        word = dictionary.create(name, USER_WORD)
        word.run = push_number(machine, USER + index * CELL)
        dictionary.append(index)

    def user_numbered() -> None:
        """The primitive: ( index "name" -- )"""
        name = machine.parse_name()
        user_at(name, pop())

    def user() -> None:
        name = machine.parse_name()
        index = cells[NUSER >> 3]
        user_at(name, index)
        cells[NUSER >> 3] = index + 1

    def to() -> None:
        name = machine.parse_name()
        compiling = cells[STATE >> 3] == COMPILE
        if machine.number_of_locals and compiling:
            local = machine.locals.get(key_of(name))
            if local is not None:
                compiler.compile("(toLocal)" if local.kind == LOCAL_WORD else "(to2Local)")
                compiler.append(local.xt)
                return
        word = dictionary.lookup(name)
        if word is None:
            raise Failure(f"{name.decode('latin-1')} not found")
        if compiling:
            compiler.literal(word.param)
            compiler.compile("!")
        else:
            cells[word.param >> 3] = pop()

    def set_flag(flag: int) -> Run:
        def run() -> None:
            word = dictionary.newest
            assert word is not None
            dictionary.set_flags(word, word.flags | flag)

        return run

    def to_body() -> None:
        stack[-1] = dictionary.word_at(stack[-1]).param + CELL

    def from_body() -> None:
        stack[-1] -= WORD_SIZE

    def to_name() -> None:
        word = dictionary.word_at(pop())
        stack.extend((word.where, word.length))

    def last_word() -> None:
        assert dictionary.newest is not None
        stack.append(dictionary.newest.xt)

    def is_object() -> None:
        word = dictionary.words.get(stack[-1])
        stack[-1] = -1 if word is not None and word.flags & FW_ISOBJECT else 0

    return {
        ":": colon,
        ":noname": colon_noname,
        ";": semicolon,
        "does>": does,
        "constant": constant,
        "value": constant,
        "2constant": two_constant,
        "variable": variable(1),
        "2variable": variable(2),
        "create": create,
        "(user-number)": user_numbered,
        "user": user,
        "to": to,
        "immediate": set_flag(FW_IMMEDIATE),
        "compile-only": set_flag(FW_COMPILE),
        "objectify": set_flag(FW_ISOBJECT),
        "?object": is_object,
        ">body": to_body,
        "body>": from_body,
        ">name": to_name,
        "last-word": last_word,
    }


def local_words(compiler: Compiler) -> dict[str, Run]:
    """Locals: (local) makes one, LOCALS|, { and {{ read their names from the line (stand/ficl/softwords)."""
    machine, stack, dictionary = compiler.machine, compiler.stack, compiler.dictionary
    cells = machine.cells

    def compile_access(index: int, wide: bool, two: str, one: str, first: tuple[str, str]) -> None:
        """The word that reaches a local of two cells, of one, or one of the ``first`` two, which have their own."""
        if index < len(first) and not wide:
            compiler.compile(first[index])
            return
        compiler.compile(two if wide else one)
        compiler.append(index)

    def use(index: int, wide: bool) -> Run:
        """What the name of a local does."""

        def run() -> None:
            if cells[STATE >> 3] == INTERPRET:
                for cell in range(index, index + 1 + wide):
                    get_local(machine, cell)()
            else:
                compile_access(index, wide, "(@2local)", "(@local)", ("(@local0)", "(@local1)"))

        return run

    def add(name: bytes, wide: bool = False) -> None:
        """localParen and twoLocalParen: a further local, or, with an empty name, the end of them."""
        count = machine.number_of_locals
        if not name:
            if count:
                machine.arena.store(machine.locals_mark, count)
            return
        if count >= FICL_MAX_LOCALS:
            raise Failure("Error: out of local space")
        word = Word(count, name, FW_COMPIMMED, TWO_LOCAL_WORD if wide else LOCAL_WORD, 0)
        word.run = use(count, wide)
        machine.locals[word.key] = word
        if count == 0:
            compiler.compile("(link)")
            machine.locals_mark = dictionary.here
            compiler.append(0)
        compile_access(count, wide, "(to2Local)", "(toLocal)", ("(toLocal0)", "(toLocal1)"))
        machine.number_of_locals = count + 1 + wide

    def local_paren(wide: bool) -> Run:
        def run() -> None:
            size = stack.pop()
            add(machine.arena.read(stack.pop(), size), wide)

        return run

    def one_local(wide: bool) -> Run:
        """LOCAL and 2LOCAL."""

        def run() -> None:
            add(machine.parse(0x20, skip=True)[0], wide)

        return run

    def no_more() -> None:
        add(b"")

    def abort_quote(text: str) -> Throw:
        machine.write(text + "\n")
        return Throw(-2)

    def locals_bar() -> None:
        while True:
            name = machine.parse(0x20, skip=True)[0]
            if not name:
                raise abort_quote("where's the delimiter??")
            if name == b"|":
                break
            add(name)
        add(b"")

    def split(name: bytes) -> tuple[bytes, bool]:
        """A name with the prefix 2: is a local of two cells."""
        return (name[2:], True) if name.startswith(b"2:") else (name, False)

    def zero(name: bytes) -> None:
        name, wide = split(name)
        for _ in range(1 + wide):
            compiler.append(compiler.xt_of["zero"])
        add(name, wide)

    def brace() -> None:
        """{ a b | c -- comment }: a and b from the stack, c zero."""
        names: list[bytes] = []
        while (name := machine.parse_word()[0]) not in (b"|", b"--", b"}", b""):
            names.append(name)
        for one in reversed(names):
            add(*split(one))
        if name == b"|":
            while (name := machine.parse_word()[0]) not in (b"|", b"--", b"}", b""):
                zero(name)
        add(b"")
        if name == b"--":
            while (name := machine.parse_word()[0]) not in (b"}", b""):
                pass
        if name != b"}":
            raise abort_quote("syntax error in { } local line")

    def double_brace() -> None:
        """{{ a b -- c }}: a and b from the stack, c zero."""
        names: list[bytes] = []
        while (name := machine.parse_word()[0]) not in (b"--", b"}}"):
            if not name:
                raise abort_quote("Error: out of text without seeing }}")
            names.append(name)
        for one in reversed(names):
            add(one)
        if name == b"--":
            while (name := machine.parse_word()[0]) != b"}}":
                if not name:
                    raise abort_quote("Error: out of text without seeing }}")
                compiler.append(compiler.xt_of["zero"])
                add(name)
        add(b"")

    def unlink() -> None:
        if not 0 < machine.frame <= len(machine.rstack):
            raise Failure("Error: no locals to leave")
        del machine.rstack[machine.frame :]
        machine.frame = machine.rstack.pop()

    return {
        "(unlink)": unlink,
        "(@local0)": get_local(machine, 0),
        "(@local1)": get_local(machine, 1),
        "(toLocal0)": set_local(machine, 0),
        "(toLocal1)": set_local(machine, 1),
        "(local)": local_paren(False),
        "(2local)": local_paren(True),
        "local": one_local(False),
        "2local": one_local(True),
        "end-locals": no_more,
        "locals|": locals_bar,
        "{": brace,
        "{{": double_brace,
    }
