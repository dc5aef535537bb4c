"""Tools: WORDS, SEE, FORGET, MARKER, DUMP and the environment queries (stand/ficl/tools.c, stand/ficl/softwords)."""

from __future__ import annotations

from bhyveload.loader.interpreter.forth.dictionary import Word, key_of
from bhyveload.loader.interpreter.forth.ficl_format import (
    BASE,
    CELL,
    CELL_MASK,
    COLON_WORD,
    CONSTANT_WORD,
    CREATED_WORD,
    DOES_WORD,
    FICL_DEFAULT_ENV,
    FICL_DEFAULT_STACK,
    FICL_DEFAULT_VOCS,
    FICL_MAX_LOCALS,
    FICL_ROBUST,
    FICL_STRING_MAX,
    FICL_VER_MAJOR,
    FICL_VER_MINOR,
    FW_COMPILE,
    FW_IMMEDIATE,
    MARKER_WORD,
    SLASH_DUMP,
    USER_WORD,
    VARIABLE_WORD,
    nPAD,
)
from bhyveload.loader.interpreter.forth.throws import Failure
from bhyveload.loader.interpreter.forth.words_memory import base_of
from bhyveload.loader.interpreter.forth.words_stack import signed, to_int
from bhyveload.loader.interpreter.forth.words_text import to_text, unsigned_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.interpreter.forth.machine import ForthMachine

    Run = Callable[[], None]

_COLUMN = 8
_LINE = 70
_PAGE = 23
_MAX_SEE = 4096  # cells
_UNSIGNED = 0xFFFFFFFF
_ENVIRONMENT: dict[str, tuple[int, ...]] = {
    "/counted-string": (FICL_STRING_MAX,),
    "/hold": (nPAD,),
    "/pad": (nPAD,),
    "address-unit-bits": (8,),
    "core": (-1,),
    "core-ext": (0,),
    "floored": (0,),
    "max-char": (255,),
    "max-d": (0xFFFFFFFF, 0x7FFFFFFF),
    "max-n": (0x7FFFFFFF,),
    "max-u": (0xFFFFFFFF,),
    "max-ud": (0xFFFFFFFF, 0xFFFFFFFF),
    "return-stack-cells": (FICL_DEFAULT_STACK,),
    "stack-cells": (FICL_DEFAULT_STACK,),
    "exception": (-1,),
    "exception-ext": (-1,),
    "locals": (-1,),
    "locals-ext": (-1,),
    "#locals": (FICL_MAX_LOCALS,),
    "memory-alloc": (-1,),
    "search-order": (-1,),
    "search-order-ext": (-1,),
    "wordlists": (FICL_DEFAULT_VOCS,),
    "tools": (-1,),
    "tools-ext": (0,),
    "ficl-version": (FICL_VER_MINOR, FICL_VER_MAJOR),
    "ficl-robust": (FICL_ROBUST,),
}


class Queries:
    """What ENVIRONMENT? answers: cells by name, the newest last."""

    def __init__(self) -> None:
        self.names: dict[bytes, bytes] = {}
        self.values: dict[bytes, tuple[int, ...]] = {}
        for name, cells in _ENVIRONMENT.items():
            self.set(name.encode(), cells)

    def set(self, name: bytes, cells: tuple[int, ...]) -> None:
        """ficlSetEnv.  Raises Failure when there is no room."""
        key = key_of(name)
        if key not in self.values and self.cells_used + 9 > FICL_DEFAULT_ENV:
            raise Failure("Error: no room for an environment query")
        self.names.setdefault(key, name)
        self.values[key] = cells

    @property
    def cells_used(self) -> int:
        """What the environment's dictionary would take: its list, then name, header and parameters of each."""
        return 4 + sum((len(name) + 8) // 8 + 4 + len(self.values[key]) for key, name in self.names.items())


def tool_words(machine: ForthMachine, queries: Queries, getchar: Callable[[], int]) -> dict[str, Run]:
    s, dictionary, arena, write = machine.stack, machine.dictionary, machine.arena, machine.write
    cells = machine.cells
    push, pop = s.append, s.pop

    def words() -> None:
        if not dictionary.order:
            raise Failure("Error: search order is empty")
        line = ""
        lines = count = 0

        def flush(text: str) -> None:
            nonlocal lines
            lines += 1
            if lines > _PAGE:
                lines = 0
                write("--- Press Enter to continue ---")
                getchar()
                write("\r")
            write(text + "\n")

        for word in dictionary.order[-1].listed():
            count += 1
            line += word.name.decode("latin-1")
            if len(line) <= _LINE:
                line += " " * (_COLUMN - len(line) % _COLUMN)
            if len(line) > _LINE:
                flush(line)
                line = ""
        if line:
            write(line + "\n")
        used = dictionary.cells_used
        write(f"Dictionary: {count} words, {used} cells used of {dictionary.size} total\n")

    def list_environment() -> None:
        for name in reversed(queries.names.values()):
            write(name.decode("latin-1") + "\n")
        count = len(queries.names)
        write(f"Environment: {count} words, {queries.cells_used} cells used of {FICL_DEFAULT_ENV} total\n")

    def environment_query() -> None:
        size = pop() & 0xFF
        cells = queries.values.get(key_of(arena.read(pop(), size)))
        if cells is not None:
            s.extend(cells)
        push(0 if cells is None else -1)

    def env_constant(count: int) -> Run:
        def run() -> None:
            name = machine.parse_name()
            cells = tuple(pop() & _UNSIGNED for _ in range(count))
            queries.set(name, cells)

        return run

    def forget() -> None:
        name = machine.parse_name()
        word = dictionary.lookup(name)
        if word is None:
            raise Failure(f"{name.decode('latin-1')} not found")
        dictionary.move_to(word.where)
        dictionary.compile_list.forget(word.where)

    def forget_wid() -> None:
        dictionary.wordlist_at(pop()).forget(dictionary.here)

    def marker() -> None:
        name = machine.parse_name()
        current, order = dictionary.compile_list, dictionary.order
        word = dictionary.create(name, MARKER_WORD)
        for cell in (0, current.address, len(order), *(one.address for one in reversed(order))):
            dictionary.append(cell)

        def run() -> None:
            dictionary.move_to(word.where)
            dictionary.compile_list = current
            current.forget(dictionary.here)
            dictionary.set_order(order)
            for one in order:
                one.forget(dictionary.here)

        word.run = run

    def parse_order() -> None:
        write("Parse steps:\nlookup\n")
        for step in machine.parse_steps:
            name = step.name.decode("latin-1") if isinstance(step, Word) else f"?{step.__name__}"
            write(name + "\n")

    def add_parse_step() -> None:
        word = dictionary.words.get(pop())
        if word is not None and word.name and len(machine.parse_steps) < 8:
            machine.parse_steps.append(word)

    def dump() -> None:
        size = pop()
        arena.check(s[-1], max(0, size))
        write("\n")
        base = cells[BASE >> 3]
        cells[BASE >> 3] = 16
        for at in range(0, max(size, 1 if size else 0), 16):  # ?DO: also one line of a negative size
            cells[SLASH_DUMP >> 3] = min(16, size - at)
            write(f"{s[-1] & CELL_MASK:X}".rjust(8) + " : ")
            push(s[-1])
            dump_line()
            write("\n")
            s[-1] += 16
        pop()
        cells[BASE >> 3] = base

    def dump_group() -> None:
        """.4: four bytes by their last two digits, or blanks behind the last of /DUMP bytes; ( addr -- addr' )"""
        base = base_of(machine)
        for _ in range(4):
            left = cells[SLASH_DUMP >> 3] = signed(cells[SLASH_DUMP >> 3] - 1)
            if left < 0:
                write("   ")
            else:
                tens, ones = divmod(arena.read(s[-1], 1)[0], base)
                write(unsigned_text(tens % base, base) + unsigned_text(ones, base) + " ")
            s[-1] += 1

    def dump_characters() -> None:
        """.chars ( addr -- )"""
        size = cells[SLASH_DUMP >> 3]
        text = arena.read(pop(), 1 if size < 0 else size)
        write("".join(chr(byte) if 32 <= byte < 127 else "." for byte in text))

    def dump_line() -> None:
        """.line ( addr -- )"""
        start = s[-1]
        dump_group()
        write(" ")
        dump_group()
        write("- ")
        dump_group()
        write(" ")
        dump_group()
        s[-1] = start
        cells[SLASH_DUMP >> 3] = signed(cells[SLASH_DUMP >> 3] + 16)
        write(" ")
        dump_characters()

    def return_stack() -> None:
        if not machine.rstack:
            write("(Stack Empty) ")
        for value in machine.rstack[:]:
            write(to_text(value, base_of(machine)) + " ")

    def see() -> None:
        name = machine.parse_name()
        word = dictionary.lookup(name)
        if word is None:
            raise Failure(f"{name.decode('latin-1')} not found")
        _see(machine, word)

    def see_xt() -> None:
        _see(machine, dictionary.word_at(pop()))

    def debug_xt() -> None:
        """Shows the word and runs it; there is no stepping."""
        word = dictionary.word_at(pop())
        _see(machine, word)
        machine.execute_here(word)

    def debug() -> None:
        name = machine.parse_name()
        word = dictionary.lookup(name)
        if word is None:
            raise Failure(f"{name.decode('latin-1')} not found")
        push(word.xt)
        debug_xt()

    def step_break() -> None:
        raise Failure("Error: no word is being debugged")

    def on_step() -> None:
        write("S: " + ("".join(to_text(value, base_of(machine)) + " " for value in s) or "(Stack Empty) ") + "\n")

    return {
        "words": words,
        ".env": list_environment,
        "environment?": environment_query,
        "env-constant": env_constant(1),
        "env-2constant": env_constant(2),
        "forget": forget,
        "forget-wid": forget_wid,
        "marker": marker,
        "parse-order": parse_order,
        "add-parse-step": add_parse_step,
        "dump": dump,
        ".4": dump_group,
        ".chars": dump_characters,
        ".line": dump_line,
        "r.s": return_stack,
        "see": see,
        "see-xt": see_xt,
        "debug-xt": debug_xt,
        "debug": debug,
        "step-break": step_break,
        "on-step": on_step,
    }


def _hexadecimal(value: int) -> str:
    """%#lx"""
    return f"{value & CELL_MASK:#x}" if value else "0"


def _see(machine: ForthMachine, word: Word) -> None:
    """seeXT: what a word is, in words."""
    write, cells = machine.write, machine.cells
    name = word.name.decode("latin-1")
    first = cells[word.param >> 3]
    if word.kind == COLON_WORD:
        write(f": {name}\n")
        _see_thread(machine, word.param)
    elif word.kind == DOES_WORD:
        write("does>\n")
        _see_thread(machine, word.entry)
    elif word.kind == CREATED_WORD:
        write("create\n")
    elif word.kind == VARIABLE_WORD:
        write(f"variable = {first} ({_hexadecimal(first)})\n")
    elif word.kind == USER_WORD:
        write(f"user variable {first} ({_hexadecimal(first)})\n")
    else:
        if word.kind == CONSTANT_WORD:
            write(f"constant = {first} ({_hexadecimal(first)})\n")
        write(f"{name} is a primitive\n")
    if word.flags & FW_IMMEDIATE:
        write("immediate\n")
    if word.flags & FW_COMPILE:
        write("compile-only\n")


def _see_thread(machine: ForthMachine, start: int) -> None:
    """seeColon."""
    at = start
    for _ in range(_MAX_SEE):
        cell = machine.arena.fetch(at)
        word = machine.dictionary.words.get(cell)
        line = f" {(at - start) // CELL:3}   "
        at += CELL
        if word is None or not word.name:
            machine.write(f"{line}{cell} ( {_hexadecimal(cell)} )\n")
            continue
        if word.kind == "(;)":
            break
        operand = machine.arena.fetch(at)
        to = (at - start) // CELL + to_int(operand)
        leave = signed(operand - start) // CELL
        literal = machine.dictionary.words.get(operand)
        shown = word.name.decode("latin-1")
        if word.kind == "(literal)":
            if literal is not None and literal.name:
                shown = f"{literal.name.decode('latin-1')} ( {_hexadecimal(operand)} literal )"
            else:
                shown = f"literal {operand} ({_hexadecimal(operand)})"
        elif word.kind in ('(.")', '(c")'):
            text = machine.arena.read(at + 1, machine.mem[at])
            shown = f'{"s" if word.kind[1] == "." else "c"}" {text.decode("latin-1")}"'
            at = ((at + len(text) + 2 + 7) & ~7) - CELL
        elif word.kind == "(branch0)":
            shown = f"{'if / while' if operand > 0 else 'until'} (branch {to})"
        elif word.kind == "(branch)":
            shown = f"{ {0: 'repeat', 1: 'else'}.get(operand, 'endof') } (branch {to})"
        elif word.kind == "(of)":
            shown = f"of (branch {to})"
        elif word.kind in ("(do)", "(?do)"):
            shown = f"{word.kind[1:-1]} (leave {leave})"
        elif word.kind in ("(loop)", "(+loop)"):
            shown = f"{word.kind[1:-1]} (branch {to})"
        else:
            at -= CELL
        at += CELL
        machine.write(f"{line}{shown}\n")
    machine.write(";\n")
