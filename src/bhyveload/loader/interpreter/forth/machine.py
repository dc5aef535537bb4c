"""The virtual machine: stacks, the text it reads, running words, CATCH and the end of a line
(stand/ficl/vm.c, stand/ficl/ficl.c ficlExecC, stand/ficl/words.c interpret and ficlCatch).

A definition is a thread of cells in the arena, as in ficl.  Before it runs, thread.py turns it into blocks of Python
functions.  A word that calls another pushes its return address as a real cell and calls ``run``, which returns the
address that the callee's end popped: nearly always the same, and otherwise (R> games, lines that go on after a
restart) execution goes on at the address that was popped.
"""

from __future__ import annotations

from bhyveload.loader.interpreter.forth import translate
from bhyveload.loader.interpreter.forth.arena import Arena
from bhyveload.loader.interpreter.forth.dictionary import Dictionary, Word
from bhyveload.loader.interpreter.forth.ficl_format import (
    BASE,
    COMPILE,
    EXIT_INNER,
    FICL_DEFAULT_STACK,
    FW_COMPILE,
    FW_IMMEDIATE,
    INPUT,
    INPUT_SIZE,
    INTERP,
    PAD,
    SOURCE_ID,
    STATE,
    TAG_NAMES,
    TAGS,
    TO_IN,
    VM_END,
    VM_ERREXIT,
    VM_INNEREXIT,
    VM_OUTOFTEXT,
    VM_QUIT,
    VM_RESTART,
    VM_START,
    VM_USEREXIT,
)
from bhyveload.loader.interpreter.forth.restart import Restart
from bhyveload.loader.interpreter.forth.throws import Failure, InnerExit, Jump, OutOfText, Throw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.interpreter.forth.dictionary import Wordlist
    from bhyveload.loader.interpreter.forth.thread import Block

    ParseStep = Callable[[bytes, int], bool]

SPACES = b"\t\n\v\f\r"
_FLATTEN = bytes(32 if code in SPACES else code for code in range(256))
_UNDERFLOW = "Error: stack underflow"
_OVERFLOW = "Error: stack overflow"
_RETURN_OVERFLOW = "Error: return stack overflow"


class ForthMachine:
    """One virtual machine with its system.

    ``write`` prints text.  ``complaint``: the last error's text.  ``frame``: where the locals of the running word begin
    on the return stack.  ``hot``: how often a definition is run before it becomes a function.  ``parse_steps`` are
    asked in turn about a token (its text and address) that is no word.
    """

    __slots__ = (
        "_flat",
        "_pending",
        "_size",
        "_source",
        "arena",
        "blocks",
        "build",
        "cells",
        "complaint",
        "dictionary",
        "frame",
        "hot",
        "locals",
        "locals_mark",
        "mem",
        "number_of_locals",
        "parse_steps",
        "restarted",
        "rstack",
        "stack",
        "tags",
        "tib",
        "translator",
        "write",
    )

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write
        self.complaint = ""
        self.arena = Arena()
        self.mem = self.arena.mem
        self.cells = self.arena.cells
        self.blocks: dict[int, Block] = {}
        self.dictionary = Dictionary(self.arena, self.forget)
        self.build: Callable[[int], Block] = _no_builder
        self.stack: list[int] = []
        self.rstack: list[int] = []
        self.hot = translate.HOT
        self.translator = translate.Translator(self)
        self.frame = 0
        self.locals: dict[bytes, Word] = {}
        self.number_of_locals = 0
        self.locals_mark = 0
        self.parse_steps: list[ParseStep | Word] = []
        self.restarted = False
        self._pending: tuple[Word, int] | None = None
        self.tib = 0
        self._size = 0
        self._source = self._flat = b""
        self.cells[BASE >> 3] = 10
        self.tags: dict[str, int] = {}
        at = TAGS
        for name in TAG_NAMES:
            self.tags[name] = at
            self.mem[at : at + len(name) + 1] = name.encode() + b"\0"
            at += 16

    def forget(self) -> None:
        """Memory of definitions may be used anew: what was made of it is gone."""
        self.blocks.clear()
        self.translator.forget()

    # Running threads

    def run(self, at: int) -> int:
        """Execute from ``at`` until an EXIT of that level; the return address that it popped."""
        get = self.blocks.get
        stack, rstack = self.stack, self.rstack
        block = get(at) or self.build(at)
        while True:
            try:
                while True:
                    for op in block.ops:
                        op()
                    if len(stack) > FICL_DEFAULT_STACK:
                        raise Failure(_OVERFLOW)
                    end = block.end
                    if end is None:
                        return rstack.pop()
                    block = end()
            except Jump as jump:
                block = get(jump.to) or self.build(jump.to)

    def execute(self, word: Word, ret: int) -> None:
        """Run a word; ``ret``: where execution goes on behind it.  Raises Jump, Throw."""
        entry = word.entry
        if not entry:
            word.run()
            return
        if word.native is not None:
            word.native()
            return
        word.heat += 1
        if word.heat == self.hot:
            self.translator.translate(word)
        rstack = self.rstack
        if len(rstack) >= FICL_DEFAULT_STACK:
            raise Failure(_RETURN_OVERFLOW)
        if word.does:
            self.stack.append(word.xt + 40)
        rstack.append(ret)
        popped = self.run(entry)
        if popped != ret:
            raise Jump(popped)

    def catch(self, word: Word, ret: int) -> None:
        """CATCH: run the word, push 0 or what it threw with everything as it was before."""
        stack, rstack = self.stack, self.rstack
        saved_stack, saved_rstack, frame = stack[:], rstack[:], self.frame
        text = self._text()
        variables = self.mem[VM_START:VM_END]
        if len(rstack) >= FICL_DEFAULT_STACK:
            raise Failure(_RETURN_OVERFLOW)
        rstack.append(ret)
        try:
            try:
                self.execute(word, EXIT_INNER)
            except Jump as jump:
                self._resume(jump.to, EXIT_INNER)
        except InnerExit:
            pass
        except (Throw, IndexError, RecursionError) as error:
            code = self.code_of(error)
            depth = len(saved_stack)
            stack[depth:] = []
            stack += saved_stack[len(stack) :]
            rstack[:] = saved_rstack
            self.frame = frame
            self.mem[VM_START:VM_END] = variables
            self._set_text(text)
            self._pending = None
            stack.append(code)
            return
        if rstack:
            rstack.pop()
        stack.append(0)

    def _resume(self, at: int, until: int) -> None:
        while at != until:
            at = self.run(at)

    def code_of(self, error: Exception) -> int:
        """The code that ``error`` throws; prints the text of an error of the interpreter's."""
        if isinstance(error, Throw) and not isinstance(error, Failure):
            return error.code
        if isinstance(error, Failure):
            self.complaint = error.text
        else:
            self.complaint = _UNDERFLOW if isinstance(error, IndexError) else _RETURN_OVERFLOW
        self.write(self.complaint + "\n")
        return VM_ERREXIT

    # Text

    def _text(self) -> tuple[int, int, bytes, bytes, int]:
        return self.tib, self._size, self._source, self._flat, self.cells[TO_IN >> 3]

    def _set_text(self, text: tuple[int, int, bytes, bytes, int]) -> None:
        self.tib, self._size, self._source, self._flat, self.cells[TO_IN >> 3] = text

    @property
    def source_size(self) -> int:
        return self._size

    def position(self) -> int:
        """>IN.  Raises Failure when a script has moved it out of the text."""
        at = self.cells[TO_IN >> 3]
        if not 0 <= at <= self._size:
            raise Failure("Error: >in outside of the input")
        return at

    def parse_word(self) -> tuple[bytes, int]:
        """vmGetWord0: the next word between blanks and its address; empty at the end of the text."""
        cells, flat, size = self.cells, self._flat, self._size
        at = cells[TO_IN >> 3]
        if not 0 <= at <= size:
            raise Failure("Error: >in outside of the input")
        while at < size and flat[at] == 32:
            at += 1
        end = flat.find(b" ", at)
        if end < 0:
            end = cells[TO_IN >> 3] = size
        else:
            cells[TO_IN >> 3] = end + 1
        return self._source[at:end], self.tib + at

    def parse_name(self) -> bytes:
        """vmGetWord: the next word.  Raises Restart at the end of the text."""
        name = self.parse_word()[0]
        if not name:
            raise Restart
        return name

    def parse(self, delimiter: int, skip: bool = False) -> tuple[bytes, int]:
        """vmParseStringEx: the text up to the delimiter or the end of the line, and its address."""
        at = self.position()
        source, size = self._source, self._size
        if skip:
            while at < size and source[at] == delimiter:
                at += 1
        end = source.find(delimiter, at)
        if end < 0:
            end = size
        for newline in (10, 13):
            stop = source.find(newline, at, end)
            if stop >= 0:
                end = stop
        self.cells[TO_IN >> 3] = end + 1 if end < size and source[end] == delimiter else end
        return source[at:end], self.tib + at

    def rest(self) -> tuple[bytes, int]:
        """The text that was not read yet, and its address."""
        at = self.position()
        return self._source[at:], self.tib + at

    def skip(self, count: int) -> None:
        self.cells[TO_IN >> 3] += count

    def bind(self, address: int, size: int) -> None:
        """vmPushTib: read from this memory.  Raises Failure."""
        self._source = self.arena.read(address, size)
        self._flat = self._source.translate(_FLATTEN)
        self.tib = address
        self._size = size
        self.cells[TO_IN >> 3] = 0

    # The outer interpreter

    def interpret_line(self) -> None:
        """Run the words of the text to its end.  Raises Throw."""
        cells, flat, source, size = self.cells, self._flat, self._source, self._size
        dictionary, stack, find = self.dictionary, self.stack, self.dictionary.lookup
        state = STATE >> 3
        to_in = TO_IN >> 3
        while True:
            at = cells[to_in]
            if not 0 <= at <= size:
                raise Failure("Error: >in outside of the input")
            while at < size and flat[at] == 32:
                at += 1
            if at == size:
                cells[to_in] = size
                return
            end = flat.find(b" ", at)
            if end < 0:
                end = cells[to_in] = size
            else:
                cells[to_in] = end + 1
            token = source[at:end]
            if len(stack) > FICL_DEFAULT_STACK:
                raise Failure(_OVERFLOW)
            word = None
            if self.number_of_locals:
                word = self.locals.get(token.lower())
            if word is None:
                word = find(token)
            if word is None:
                self._parse_steps(token, self.tib + at)
            elif cells[state] == COMPILE and not word.flags & FW_IMMEDIATE:
                dictionary.append(word.xt)
            elif word.flags & FW_COMPILE and cells[state] != COMPILE:
                raise Failure("Error: Compile only!")
            else:
                self.execute_here(word)
                if len(stack) > FICL_DEFAULT_STACK:
                    raise Failure(_OVERFLOW)

    def execute_here(self, word: Word) -> None:
        """Run a word of the text to its end."""
        try:
            self.execute(word, INTERP)
        except Jump as jump:
            self._resume(jump.to, INTERP)
        except Restart as restart:
            if restart.word is None:
                restart.word, restart.ip = word, INTERP
            raise

    def interpret_token(self) -> None:
        """The word INTERPRET: one word of the text.  Raises OutOfText at its end, and Throw."""
        token, address = self.parse_word()
        if not token:
            raise OutOfText
        if not self.interpret(token):
            self._parse_steps(token, address)

    def interpret(self, token: bytes) -> bool:
        """ficlParseWord: do what the word ``token`` means in this state; False when there is none."""
        word = self.locals.get(token.lower()) if self.number_of_locals else None
        if word is None:
            word = self.dictionary.lookup(token)
        if word is None:
            return False
        compiling = self.cells[STATE >> 3] == COMPILE
        if compiling and not word.flags & FW_IMMEDIATE:
            self.dictionary.append(word.xt)
        elif word.flags & FW_COMPILE and not compiling:
            raise Failure("Error: Compile only!")
        else:
            self.execute_here(word)
        return True

    def _parse_steps(self, token: bytes, address: int) -> None:
        for step in self.parse_steps:
            if isinstance(step, Word):
                self.stack += (address, len(token))
                self.execute_here(step)
                if self.stack.pop():
                    return
            elif step(token, address):
                return
        raise Failure(f"{token.decode('latin-1')} not found")

    def run_line(self, text: bytes) -> int:
        """Interpret a line that was typed (ficlExec); the code with which it ended."""
        text = text.partition(b"\0")[0][: INPUT_SIZE - 1]
        self.mem[INPUT : INPUT + len(text) + 1] = text + b"\0"
        return self.execute_text(INPUT, len(text))

    def execute_text(self, address: int, size: int) -> int:
        """ficlExecC: interpret the text in memory; VM_OUTOFTEXT at its end, or the code that ended it before.

        After a code that is an error, stacks are empty, the search order is FORTH alone and the state interprets.
        """
        rstack = self.rstack
        text = self._text()
        try:
            if len(rstack) >= FICL_DEFAULT_STACK:
                raise Failure(_RETURN_OVERFLOW)
            self.bind(address, size)
            if self._pending is not None:
                self._restart(*self._pending)
            else:
                rstack.append(0)
                self.interpret_line()
                raise OutOfText
        except (Throw, IndexError, RecursionError) as error:
            if isinstance(error, Restart):
                if error.word is not None:
                    self._pending = (error.word, error.ip)
                return VM_OUTOFTEXT
            return self._ended(self.code_of(error))
        finally:
            self._set_text(text)
        return VM_OUTOFTEXT

    def _restart(self, word: Word, ip: int) -> None:
        """Go on with a line: run the word that needed more text once more, then what follows it."""
        self.restarted = True
        self._pending = None
        try:
            self.execute(word, ip)
        except Jump as jump:
            ip = jump.to
        except Restart as restart:
            if restart.word is None:
                restart.word, restart.ip = word, ip
            raise
        finally:
            self.restarted = False
        while True:
            ip = self.run(ip)

    def execute_nested(self, address: int, size: int) -> int:
        """execute_text for a text within a text: when it ends in want of more, the one around it goes on, and what the
        next line runs again is no more than INTERPRET."""
        depth, frame = len(self.rstack), self.frame
        code = self.execute_text(address, size)
        if self._pending is not None:
            self._pending = None
            del self.rstack[depth:]
            self.frame = frame
        return code

    def _ended(self, code: int) -> int:
        if code == VM_OUTOFTEXT:
            if self.rstack:
                self.rstack.pop()
        elif code not in (VM_USEREXIT, VM_INNEREXIT, VM_RESTART):
            if self.cells[STATE >> 3] == COMPILE:
                self.dictionary.abort_definition()
                self.locals.clear()
            if code != VM_QUIT:
                self.dictionary.reset_order()
                self.stack.clear()
                self.cells[BASE >> 3] = 10
            self._quit()
        return code

    def _quit(self) -> None:
        """vmQuit."""
        self.rstack.clear()
        self.frame = 0
        self._pending = None
        self.cells[STATE >> 3] = 0
        self.mem[PAD] = 0
        self.cells[SOURCE_ID >> 3] = 0

    def find_wordlist(self, name: bytes) -> Wordlist | None:
        """The wordlist that the constant ``name`` gives."""
        word = self.dictionary.lookup(name)
        return None if word is None else self.dictionary.wordlists.get(self.cells[word.param >> 3])


def _no_builder(at: int) -> Block:
    raise Failure("Error: threads cannot be run yet")
