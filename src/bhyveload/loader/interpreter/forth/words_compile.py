"""Words that compile: control structures, literals, strings, POSTPONE (stand/ficl/words.c).

While a definition is compiled, the data stack holds addresses to patch and, above each, a tag: the address of the name
of the structure that must be closed.
"""

from __future__ import annotations

from bhyveload.loader.interpreter.forth.ficl_format import (
    CELL,
    COMPILE,
    FICL_STRING_MAX,
    FW_IMMEDIATE,
    INTERPRET,
    STATE,
    VM_ABORTQ,
)
from bhyveload.loader.interpreter.forth.throws import Failure, Throw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.interpreter.forth.machine import ForthMachine

    Run = Callable[[], None]

_QUOTE = 0x22


class Compiler:
    """Compiles into the dictionary of one machine; ``xt_of`` holds the run-time words."""

    def __init__(self, machine: ForthMachine) -> None:
        self.machine = machine
        self.dictionary = machine.dictionary
        self.append = machine.dictionary.append
        self.stack = machine.stack
        self.xt_of: dict[str, int] = {}

    def compile(self, name: str) -> None:
        """The run-time word ``name``."""
        self.append(self.xt_of[name])

    def compile_found(self, name: str) -> None:
        """ficlLookup: the word that has the name now, which may be a script's own."""
        word = self.dictionary.lookup(name.encode())
        self.append(self.xt_of[name] if word is None else word.xt)

    def literal(self, value: int) -> None:
        self.append(self.xt_of["(literal)"])
        self.append(value)

    def string(self, text: bytes, kind: str) -> None:
        """A string literal in the thread."""
        self.compile(kind)
        self.dictionary.here = self.dictionary.append_string(text[:FICL_STRING_MAX])
        self.dictionary.align()

    # Structures

    def mark(self, tag: str) -> None:
        """markBranch: HERE, to be a target or to be patched."""
        self.stack.extend((self.dictionary.here, self.machine.tags[tag]))

    def match(self, tag: str) -> None:
        """matchControlTag.  Raises Failure when another structure is open."""
        address = self.stack.pop()
        if address != self.machine.tags[tag]:
            raise Failure(f'Error -- unmatched control structure "{tag}"')

    def patch(self, address: int) -> None:
        """Make the branch at ``address`` go to HERE."""
        self.machine.arena.store(address, (self.dictionary.here - address) // CELL)

    def back(self, tag: str) -> None:
        """resolveBackBranch: a branch to where the structure began."""
        self.match(tag)
        self.append((self.stack.pop() - self.dictionary.here) // CELL)

    def forward(self, tag: str) -> None:
        """resolveForwardBranch."""
        self.match(tag)
        self.patch(self.stack.pop())

    def absolute(self, tag: str) -> None:
        """resolveAbsBranch: where LEAVE goes."""
        if self.stack.pop() != self.machine.tags[tag]:
            self.machine.write(f"Warning -- Unmatched control word: {tag}\n")
        self.machine.arena.store(self.stack.pop(), self.dictionary.here)


def structure_words(compiler: Compiler) -> dict[str, Run]:
    """IF, BEGIN, DO, CASE and what belongs to them."""
    machine, stack = compiler.machine, compiler.stack
    tags = machine.tags

    def if_() -> None:
        compiler.compile("(branch0)")
        compiler.mark("origin")
        compiler.append(1)

    def else_() -> None:
        compiler.compile("(branch)")
        compiler.match("origin")
        address = stack.pop()
        compiler.mark("origin")
        compiler.append(1)
        compiler.patch(address)

    def then() -> None:
        compiler.forward("origin")

    def begin() -> None:
        compiler.mark("target")

    def until() -> None:
        compiler.compile("(branch0)")
        compiler.back("target")

    def while_() -> None:
        compiler.compile("(branch0)")
        compiler.mark("origin")
        stack[-4], stack[-3], stack[-2], stack[-1] = stack[-2], stack[-1], stack[-4], stack[-3]
        compiler.append(1)

    def repeat() -> None:
        compiler.compile("(branch)")
        compiler.back("target")
        compiler.forward("origin")

    def again() -> None:
        compiler.compile("(branch)")
        compiler.back("target")

    def begin_loop(kind: str) -> Run:
        def do() -> None:
            compiler.compile(kind)
            compiler.mark("leave")
            compiler.append(0)
            compiler.mark("do")

        return do

    def end_loop(kind: str) -> Run:
        def loop() -> None:
            compiler.compile(kind)
            compiler.back("do")
            compiler.absolute("leave")

        return loop

    def case() -> None:
        stack.extend((0, tags["case"]))

    def after_fallthrough() -> int:
        """The branch of a FALLTHROUGH that is open, else 0."""
        if stack[-1] != tags["fallthrough"]:
            return 0
        stack.pop()
        return stack.pop()

    def of() -> None:
        fixup = after_fallthrough()
        compiler.match("case")
        stack.append(tags["case"])
        compiler.compile("(of)")
        compiler.mark("of")
        compiler.append(2)
        if fixup:
            compiler.patch(fixup)

    def endof() -> None:
        if len(stack) < 4:
            raise IndexError
        compiler.match("of")
        address = stack.pop()
        compiler.match("case")
        count = stack.pop()
        compiler.compile("(branch)")
        stack.extend((compiler.dictionary.here, count + 1, tags["case"]))
        compiler.append(2)
        compiler.patch(address)

    def fallthrough() -> None:
        if len(stack) < 4:
            raise IndexError
        compiler.match("of")
        address = stack.pop()
        compiler.match("case")
        stack.append(tags["case"])
        compiler.compile("(branch)")
        stack.extend((compiler.dictionary.here, tags["fallthrough"]))
        compiler.append(2)
        compiler.patch(address)

    def endcase() -> None:
        fixup = after_fallthrough()
        compiler.match("case")
        count = stack.pop()
        if not 0 <= count <= len(stack):
            raise IndexError
        compiler.compile("drop")
        if fixup:
            compiler.patch(fixup)
        for _ in range(count):
            compiler.patch(stack.pop())

    return {
        "if": if_,
        "else": else_,
        "then": then,
        "endif": then,
        "begin": begin,
        "until": until,
        "while": while_,
        "repeat": repeat,
        "again": again,
        "do": begin_loop("(do)"),
        "?do": begin_loop("(?do)"),
        "loop": end_loop("(loop)"),
        "+loop": end_loop("(+loop)"),
        "case": case,
        "of": of,
        "endof": endof,
        "fallthrough": fallthrough,
        "endcase": endcase,
    }


def literal_words(compiler: Compiler) -> dict[str, Run]:
    """LITERAL, POSTPONE, quotes: what puts things into the definition that is compiled."""
    machine, stack, dictionary = compiler.machine, compiler.stack, compiler.dictionary
    cells = machine.cells

    def compiling() -> bool:
        return cells[STATE >> 3] != INTERPRET

    def tick() -> None:
        name = machine.parse_name()
        word = dictionary.lookup(name)
        if word is None:
            raise Failure(f"{name.decode('latin-1')} not found")
        stack.append(word.xt)

    def literal() -> None:
        compiler.compile("(literal)")
        compiler.append(stack.pop())

    def two_literal() -> None:
        compiler.compile("(2literal)")
        compiler.append(stack.pop())
        compiler.append(stack.pop())

    def bracket_tick() -> None:
        tick()
        literal()

    def char() -> None:
        first = machine.parse_name()[0]
        stack.append(first - 256 if first > 127 else first)

    def bracket_char() -> None:
        char()
        literal()

    def postpone() -> None:
        tick()
        word = dictionary.words[stack[-1]]
        if word.flags & FW_IMMEDIATE:
            compiler.append(stack.pop())
        else:
            literal()
            compiler.compile_found(",")

    def string_quote() -> None:
        text = machine.parse(_QUOTE)[0][:FICL_STRING_MAX]
        if compiling():
            compiler.string(text, '(.")')
        else:
            dictionary.append_string(text)
            stack.extend((dictionary.here + 1, len(text)))

    def counted_quote() -> None:
        text = machine.parse(_QUOTE)[0][:FICL_STRING_MAX]
        if compiling():
            compiler.string(text, '(c")')
        else:
            dictionary.append_string(text)
            stack.append(dictionary.here)
            dictionary.here += len(text) + 1

    def dot_quote() -> None:
        compiler.string(machine.parse(_QUOTE)[0], '(.")')
        compiler.compile_found("type")

    def abort_quote() -> None:
        """ABORT": print the text and throw when there is a flag."""
        text = machine.parse(_QUOTE)[0]
        if not compiling():
            if stack.pop():
                machine.write(text.partition(b"\0")[0].decode("latin-1") + "\n")
                raise Throw(VM_ABORTQ)
            return
        compiler.compile("(branch0)")
        address = dictionary.here
        compiler.append(1)
        compiler.string(text, '(.")')
        compiler.compile_found("type")
        compiler.compile("cr")
        compiler.literal(VM_ABORTQ)
        compiler.compile("throw")
        compiler.patch(address)

    def sliteral() -> None:
        size = stack.pop()
        text = machine.arena.read(stack.pop(), size)
        if len(text) > FICL_STRING_MAX:
            raise Failure("Error: string too long")  # ficl writes a count that wraps
        compiler.string(text, '(.")')

    def left_bracket() -> None:
        cells[STATE >> 3] = INTERPRET

    def right_bracket() -> None:
        cells[STATE >> 3] = COMPILE

    def recurse() -> None:
        assert dictionary.newest is not None
        compiler.append(dictionary.newest.xt)

    def exit_() -> None:
        if machine.number_of_locals:
            compiler.compile("(unlink)")
        compiler.compile("(exit)")

    return {
        "'": tick,
        "[']": bracket_tick,
        "literal": literal,
        "2literal": two_literal,
        "char": char,
        "[char]": bracket_char,
        "postpone": postpone,
        's"': string_quote,
        'c"': counted_quote,
        '."': dot_quote,
        'abort"': abort_quote,
        "sliteral": sliteral,
        "[": left_bracket,
        "]": right_bracket,
        "recurse": recurse,
        "exit": exit_,
    }
