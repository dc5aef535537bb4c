"""Definitions that are run often become Python functions.

A thread that is a structure of IF, BEGIN, DO and CASE as ficl's compiler leaves it is written out as Python text: the
data stack's top in local variables, small words in their callers, locals as Python's.  What is not such a structure, or
takes its caller's return address, or may have to wait for another line, goes on being run from blocks (thread.py).
The text is made of numbers and of names of our own only.
"""

from __future__ import annotations

from bhyveload.loader.interpreter.forth import word_names
from bhyveload.loader.interpreter.forth.ficl_format import (
    ARENA_SIZE,
    CELL,
    CELL_MAX,
    CELL_MIN,
    CONSTANT_WORD,
    CREATED_WORD,
    EXIT_INNER,
    FICL_DEFAULT_STACK,
    PAGE,
    VARIABLE_WORD,
)
from bhyveload.loader.interpreter.forth.throws import Failure
from bhyveload.loader.interpreter.forth.translate_words import BINARY, COMPARE, SHUFFLE, UNARY
from bhyveload.loader.interpreter.forth.word_names import names
from bhyveload.loader.interpreter.forth.words_stack import signed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bhyveload.loader.interpreter.forth.dictionary import Word
    from bhyveload.loader.interpreter.forth.machine import Machine

HOT = 16
_MAX_WORDS = 400  # of one function, with all that is written out in it
_MAX_INLINE = 24
_MAX_DEPTH = 8
_LAST = ARENA_SIZE - CELL
_RETURN = EXIT_INNER + 8  # the return address of words called from functions; nothing goes on there
_ENDS = ("(;)", "(exit)")
_BRANCHES = ("(branch)", "(branch0)", "(of)", "(loop)", "(+loop)")
# What each word does to the height of the return stack, and how much it needs there
_RETURN_STACK = {
    ">r": (1, 0),
    "r>": (-1, 1),
    "r@": (0, 1),
    "2>r": (2, 0),
    "2r>": (-2, 2),
    "2r@": (0, 2),
    "i": (0, 3),
    "i'": (0, 3),
    "j": (0, 6),
    "k": (0, 9),
    "unloop": (-3, 3),
}


class Untranslatable(Exception):
    """The definition is run from its blocks."""


class _Step:
    """One word of a thread: its place, what lies behind it, and where it may branch to."""

    __slots__ = ("at", "operand", "target", "word")

    def __init__(self, at: int, word: Word, operand: int, target: int) -> None:
        self.at = at
        self.word = word
        self.operand = operand
        self.target = target


class _Loop:
    """An open loop: the steps at its head and behind it; DO's has three cells on the return stack."""

    __slots__ = ("counted", "exit", "head")

    def __init__(self, head: int, exit_: int, counted: bool) -> None:
        self.head = head
        self.exit = exit_
        self.counted = counted


class Translator:
    """Translates the definitions of one machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._restartable = frozenset(names(word_names.RESTARTABLE))
        self._steady: dict[int, bool] = {}
        self._translated: list[Word] = []
        stack, rstack, arena = machine.stack, machine.rstack, machine.arena
        word_at = machine.dictionary.word_at

        def execute() -> None:
            machine.execute(word_at(stack.pop()), _RETURN)

        def catch() -> None:
            machine.catch(word_at(stack.pop()), _RETURN)

        def overflow() -> None:
            raise Failure("Error: stack overflow")

        def full() -> None:
            raise Failure("Error: return stack overflow")

        self._names: dict[str, Any] = {
            "s": stack,
            "pop": stack.pop,
            "push": stack.append,
            "r": rstack,
            "rpop": rstack.pop,
            "rpush": rstack.append,
            "cells": machine.cells,
            "mem": machine.mem,
            "fetch": arena.fetch,
            "store": arena.store,
            "check": arena.check,
            "signed": signed,
            "execute": execute,
            "catch": catch,
            "overflow": overflow,
            "full": full,
            "__builtins__": {"len": len},
        }

    def translate(self, word: Word) -> None:
        """Give the word its function, when it can have one."""
        try:
            writer = _Writer(self, word)
            code = compile(writer.text(), f"<forth {word.xt:#x}>", "exec")
        except (Untranslatable, Failure, SyntaxError, RecursionError):
            return  # also what Python finds nested too deeply
        scope = {**self._names, **writer.names}
        exec(code, scope)
        word.native = scope["word"]
        self._translated.append(word)

    def steps(self, entry: int) -> list[_Step]:
        """The words of a thread up to its (;).  Raises Untranslatable."""
        machine = self.machine
        words, mem, fetch = machine.dictionary.words, machine.mem, machine.arena.fetch
        steps: list[_Step] = []
        at = entry
        while len(steps) < _MAX_WORDS:
            word = words.get(fetch(at))
            if word is None:
                break
            start = at
            at += CELL
            operand = target = 0
            kind = word.kind
            word.bound = True
            if kind in _BRANCHES:
                operand = fetch(at)
                target = at + operand * CELL
                at += CELL
            elif kind in ("(do)", "(?do)"):
                target = fetch(at)
                at += CELL
            elif kind in ('(.")', '(c")'):
                operand = at
                at = (at + mem[at] + 2 + 7) & ~7
            elif kind == "(2literal)":
                operand = at
                at += 2 * CELL
            elif kind in ("(literal)", "(link)", "(@local)", "(toLocal)", "(@2local)", "(to2Local)"):
                operand = fetch(at)
                at += CELL
            elif kind in ("(does>)", "exit-inner") or kind in self._restartable:
                break
            steps.append(_Step(start, word, operand, target))
            if kind == "(;)":
                return steps
        raise Untranslatable

    def steady(self, word: Word) -> bool:
        """Whether the word leaves return addresses alone and never waits for a line, nor does any that it calls."""
        known = self._steady.get(word.entry)
        if known is not None:
            return known
        self._steady[word.entry] = True  # while we look: it may call itself
        try:
            steady = self._leaves_return_addresses(word)
        except (Untranslatable, Failure, RecursionError):
            steady = False
        self._steady[word.entry] = steady
        return steady

    def _leaves_return_addresses(self, word: Word) -> bool:
        """Walk the thread with the height of the return stack, which each branch takes with it."""
        height: int | None = 0
        arriving: dict[int, int] = {}
        for step in self.steps(word.entry):
            kind = step.word.kind
            height = arriving.get(step.at, height)
            if height is None:
                continue  # nothing comes here
            change, needed = _RETURN_STACK.get(kind, (0, 0))
            if height < needed or (step.word.entry and not self.steady(step.word)):
                return False
            height += change
            if kind in _BRANCHES or kind == "(?do)":
                arriving.setdefault(step.target, height)
            if kind in ("(branch)", "(exit)", "leave"):
                height = None
            elif kind in ("(do)", "(?do)"):
                arriving.setdefault(step.target, height)
                height += 3
            elif kind in ("(loop)", "(+loop)"):
                height -= 3
        return True

    def forget(self) -> None:
        """Memory of words may be used anew: what was made of it is gone."""
        self._steady.clear()
        for word in self._translated:
            word.native = None
            word.heat = 0
        self._translated.clear()

    def caller(self, word: Word) -> Any:
        """A function that runs ``word`` from within another function."""
        machine = self.machine
        execute = machine.execute

        def call() -> None:
            native = word.native
            if native is not None:
                native()
            else:
                execute(word, _RETURN)

        return call


class _Writer:
    """Writes one function.

    ``items`` is the top of the data stack as it will be: numbers, names of variables, and conditions not yet made into
    flags.  What lies below is on the real stack.  A variable in ``wide`` may hold more than a cell.
    """

    def __init__(self, translator: Translator, word: Word) -> None:
        self._translator = translator
        self._machine = translator.machine
        self.names: dict[str, Any] = {}
        self._lines: list[str] = ["def word():"]
        self._indent = 1
        self._items: list[int | str] = []
        self._wide: set[str] = set()
        self._conditions: dict[str, str] = {}  # name -> the condition it stands for
        self._count = 0
        self._words = 0
        self._height = 0  # of the return stack above the return address
        self._frame: tuple[str, int] | None = None  # prefix of the locals, height below them
        self._depth = 0
        self._word = word

    def text(self) -> str:
        """The function's text.  Raises Untranslatable."""
        if not self._translator.steady(self._word):
            raise Untranslatable
        if self._word.does:
            self._items.append(self._word.xt + 40)
        steps = self._translator.steps(self._word.entry)
        self._range(steps, 0, len(steps), None)
        return "\n".join(self._lines) + "\n"

    # Lines and items

    def _line(self, text: str) -> None:
        self._lines.append("    " * self._indent + text)

    def _name(self) -> str:
        self._count += 1
        return f"t{self._count}"

    def _pop_item(self) -> int | str:
        if self._items:
            return self._items.pop()
        name = self._name()
        self._line(f"{name} = pop()")
        return name

    def _need(self, count: int) -> None:
        """Have the top ``count`` of the stack as items."""
        while len(self._items) < count:
            name = self._name()
            self._line(f"{name} = pop()")
            self._items.insert(0, name)

    def _value(self, item: int | str) -> str:
        """The item as text of a cell."""
        if isinstance(item, int):
            return str(item)
        if item in self._conditions:
            name = self._name()
            self._line(f"{name} = -1 if {self._conditions[item]} else 0")
            return name
        if item in self._wide:
            self._line(f"if not {CELL_MIN} <= {item} <= {CELL_MAX}: {item} = signed({item})")
            self._wide.discard(item)
        return item

    def _pop(self) -> str:
        return self._value(self._pop_item())

    def _truth(self, item: int | str) -> str:
        """The item as a condition."""
        if isinstance(item, str) and item in self._conditions:
            return self._conditions[item]
        return self._value(item)

    def _condition(self, text: str) -> None:
        name = self._name()
        self._conditions[name] = text
        self._items.append(name)

    def _assign(self, text: str, wide: bool = False) -> str:
        name = self._name()
        self._line(f"{name} = {text}")
        if wide:
            self._wide.add(name)
        return name

    def _flush(self) -> None:
        """Put all items on the real stack."""
        for item in self._items:
            self._line(f"push({self._value(item)})")
        self._items.clear()

    # Structure

    def _range(self, steps: list[_Step], first: int, last: int, loop: _Loop | None, open_: int = -1) -> bool:
        """Write ``steps[first:last]``; whether control comes out at their end.  ``open_``: the loop whose head is
        first is being written.  Raises Untranslatable."""
        index = {step.at: number for number, step in enumerate(steps)}
        at = first
        while at < last:
            if at != open_:
                back = self._loop_end(steps, index, at, last)
                if back >= 0:
                    self._flush()
                    self._line("while True:")
                    self._indent += 1
                    counted = steps[back].word.kind in ("(loop)", "(+loop)")
                    inner = _Loop(at, back + 1, counted)
                    height = self._height
                    self._range(steps, at, back + 1, inner, at)
                    self._line(f"if len(s) > {FICL_DEFAULT_STACK}: overflow()")
                    self._indent -= 1
                    self._height = height - (3 if counted else 0)
                    at = back + 1
                    continue
            step = steps[at]
            kind = step.word.kind
            self._words += 1
            if self._words > _MAX_WORDS:
                raise Untranslatable
            if kind in _ENDS:
                if kind == "(;)" and self._depth:
                    return True
                if self._height or self._depth:
                    raise Untranslatable
                self._flush()
                self._line("return")
                return False
            if kind in ("(do)", "(?do)") and self._loop_end(steps, index, at + 1, last) + 1 != index.get(
                step.target, -1
            ):
                raise Untranslatable
            if kind in ("(branch0)", "(of)", "(?do)"):
                at = self._conditional(steps, index, at, last, loop)
                continue
            if kind == "(branch)":
                return self._jump(index.get(step.target, -1), at, last, loop)
            if kind in ("(loop)", "(+loop)"):
                self._count_loop(step, at, loop)
                return True
            if kind == "leave":
                if loop is None or not loop.counted:
                    raise Untranslatable
                self._flush()
                self._line("del r[-3:]")
                self._line("break")
                return False
            self._step(step)
            at += 1
        return True

    def _loop_end(self, steps: list[_Step], index: dict[int, int], head: int, last: int) -> int:
        """The last step that branches back to ``head``, -1: none."""
        for number in range(last - 1, head - 1, -1):
            step = steps[number]
            if step.word.kind in _BRANCHES and index.get(step.target, -1) == head:
                return number
        return -1

    def _jump(self, to: int, at: int, last: int, loop: _Loop | None) -> bool:
        """An unconditional branch."""
        self._flush()
        if loop is not None and to == loop.head:
            if at + 1 == loop.exit:
                return True  # the loop's end
            self._line(f"if len(s) > {FICL_DEFAULT_STACK}: overflow()")
            self._line("continue")
            return False
        if loop is not None and to == loop.exit and not loop.counted:
            self._line("break")
            return False
        if to == last == at + 1:
            return True
        raise Untranslatable

    def _conditional(self, steps: list[_Step], index: dict[int, int], at: int, last: int, loop: _Loop | None) -> int:
        """IF, OF, ?DO, WHILE, UNTIL: write what they govern; the step behind it."""
        step = steps[at]
        kind = step.word.kind
        to = index.get(step.target, -1)
        if kind == "(?do)":
            start, limit = self._pop(), self._pop()
            self._flush()
            truth = f"{start} != {limit}"
        elif kind == "(of)":
            wanted = self._pop()
            self._need(1)
            have = self._value(self._items.pop())
            self._flush()
            truth = f"{wanted} == {have}"
        else:
            truth = self._truth(self._pop_item())
            self._flush()
        if loop is not None and kind == "(branch0)":
            if to == loop.head:
                self._line(f"if {truth}: break" if at + 1 == loop.exit else f"if not ({truth}): continue")
                return at + 1
            if to == loop.exit and not loop.counted:
                self._line(f"if not ({truth}): break")
                return at + 1
        if not at < to <= last:
            raise Untranslatable
        end, other = to, 0
        before = steps[to - 1]
        if before.word.kind == "(branch)" and to - 1 > at and kind != "(?do)":
            beyond = index.get(before.target, -1)
            if to < beyond <= last:
                end, other = to - 1, beyond
        self._line(f"if {truth}:")
        self._indent += 1
        height, frame = self._height, self._frame
        if kind == "(?do)":
            self._line(f"r.extend(({step.target}, {limit}, {start}))")
            self._line(f"if len(r) > {FICL_DEFAULT_STACK}: full()")
            self._height += 3
        else:
            self._line("pass")
        falls = self._range(steps, at + 1, end, loop)
        self._flush()
        self._indent -= 1
        after = (self._height, self._frame) if falls else None
        self._height, self._frame = height, frame
        if other or kind == "(of)":
            self._line("else:")
            self._indent += 1
            if kind == "(of)":
                self._line(f"push({have})")
            else:
                self._line("pass")
            if other and self._range(steps, to, other, loop):
                if after not in (None, (self._height, self._frame)):
                    raise Untranslatable
                after = self._height, self._frame
            self._flush()
            self._indent -= 1
        elif after not in (None, (height, frame)):
            raise Untranslatable
        self._height, self._frame = after or (height, frame)
        return other or to

    def _count_loop(self, step: _Step, at: int, loop: _Loop | None) -> None:
        """LOOP and +LOOP, at the end of what they repeat."""
        if loop is None or not loop.counted or at + 1 != loop.exit:
            raise Untranslatable
        if step.word.kind == "(loop)":
            self._flush()
            name = self._assign("r[-1] + 1")
            self._line(f"if {name} >= r[-2] or {name} > {CELL_MAX}:")
        else:
            change = self._pop()
            self._flush()
            name = self._assign(f"signed(r[-1] + {change})")
            self._line(f"if {name} < r[-2] if {change} < 0 else {name} >= r[-2]:")
        self._line("    del r[-3:]")
        self._line("    break")
        self._line(f"r[-1] = {name}")

    # Single words

    def _step(self, step: _Step) -> None:
        word = step.word
        kind = word.kind
        if kind in SHUFFLE:
            count, order = SHUFFLE[kind]
            self._need(count)
            top = self._items[len(self._items) - count :] if count else []
            self._items[len(self._items) - count :] = [top[number] for number in order]
        elif kind == "(literal)":
            self._items.append(step.operand)
        elif kind == "(2literal)":
            fetch = self._machine.arena.fetch
            self._items += [fetch(step.operand + CELL), fetch(step.operand)]
        elif kind == '(.")':
            self._items += [step.operand + 1, self._machine.mem[step.operand]]
        elif kind in (VARIABLE_WORD, CREATED_WORD):
            self._items.append(word.param + (CELL if kind == CREATED_WORD else 0))
        elif kind == CONSTANT_WORD:
            self._items.append(self._assign(f"cells[{word.param >> 3}]"))
        elif kind in UNARY:
            self._unary(kind)
        elif kind in BINARY:
            self._binary(kind)
        elif kind in COMPARE:
            right, left = self._pop(), self._pop()
            self._condition(f"{left} {COMPARE[kind]} {right}")
        elif kind in ("0=", "0<>", "0<", "0>"):
            self._compare_zero(kind)
        elif kind in ("@", "c@", "!", "c!"):
            self._memory(kind)
        elif kind in _RETURN_STACK:
            self._return_stack(word)
        elif kind == "(do)":
            start, limit = self._pop(), self._pop()
            self._line(f"r.extend(({step.target}, {limit}, {start}))")
            self._line(f"if len(r) > {FICL_DEFAULT_STACK}: full()")
            self._height += 3
        elif not self._local(step):
            self._call(word)

    def _unary(self, kind: str) -> None:
        item = self._pop_item()
        change = UNARY[kind]
        if isinstance(item, int):
            self._items.append(signed(item + change))
        elif change:
            self._items.append(self._assign(f"{self._value(item)} + {change}", wide=True))
        else:
            self._items.append(item)

    def _binary(self, kind: str) -> None:
        right, left = self._pop_item(), self._pop_item()
        both = (right, left)
        if kind in ("and", "or") and all(isinstance(item, str) and item in self._conditions for item in both):
            self._condition(f"({self._truth(left)}) {kind} ({self._truth(right)})")
            return
        text = f"{self._value(left)} {BINARY[kind]} {self._value(right)}"
        self._items.append(self._assign(text, wide=kind in ("+", "-", "*")))

    def _compare_zero(self, kind: str) -> None:
        item = self._pop_item()
        if kind == "0=":
            self._condition(f"not ({self._truth(item)})")
        elif kind == "0<>":
            self._condition(f"({self._truth(item)}) != 0" if item not in self._conditions else self._truth(item))
        else:
            self._condition(f"{self._value(item)} {kind[1]} 0")

    def _memory(self, kind: str) -> None:
        """A wide address is one outside of memory: its check says so."""
        item = self._pop_item()
        known = isinstance(item, int) and PAGE <= item <= _LAST
        address = str(item) if isinstance(item, int) or item in self._wide else self._value(item)
        if kind == "@":
            if known and not int(item) & 7:
                self._items.append(self._assign(f"cells[{int(item) >> 3}]"))
            else:
                inside = f"{PAGE} <= {address} <= {_LAST} and not {address} & 7"
                self._items.append(self._assign(f"cells[{address} >> 3] if {inside} else fetch({address})"))
        elif kind == "c@":
            if not known:
                self._line(f"if not {PAGE} <= {address} < {ARENA_SIZE}: check({address}, 1)")
            self._items.append(self._assign(f"mem[{address}]"))
        elif kind == "!":
            value = self._pop()
            if known and not int(item) & 7:
                self._line(f"cells[{int(item) >> 3}] = {value}")
            else:
                self._line(f"if {PAGE} <= {address} <= {_LAST} and not {address} & 7: cells[{address} >> 3] = {value}")
                self._line(f"else: store({address}, {value})")
        else:
            value = self._pop()
            if not known:
                self._line(f"if not {PAGE} <= {address} < {ARENA_SIZE}: check({address}, 1)")
            self._line(f"mem[{address}] = {value} & 255")

    def _return_stack(self, word: Word) -> None:
        kind = word.kind
        change, needed = _RETURN_STACK[kind]
        if self._height < needed or (self._frame is not None and self._height + change < self._frame[1]):
            raise Untranslatable
        if kind == ">r":
            self._line(f"rpush({self._pop()})")
            self._line(f"if len(r) > {FICL_DEFAULT_STACK}: full()")
        elif kind == "r>":
            self._items.append(self._assign("rpop()"))
        elif kind in ("r@", "i", "i'", "j", "k"):
            self._items.append(
                self._assign(f"r[{ {'i': -1, 'r@': -1}.get(kind) or {'j': -4, 'k': -7}.get(kind, -2) }]")
            )
        else:
            self._call_run(word)
        self._height += change

    def _local(self, step: _Step) -> bool:
        """Locals: variables of the function.  False: the step is something else."""
        kind = step.word.kind
        if kind == "(link)":
            if self._frame is not None or not 0 <= step.operand <= 32:
                raise Untranslatable
            self._count += 1
            self._frame = f"l{self._count}_", self._height
            names = [f"{self._frame[0]}{number}" for number in range(step.operand)]
            if names:
                self._line(" = ".join(names) + " = 0")
            return True
        if kind == "(unlink)":
            if self._frame is None:
                raise Untranslatable
            above = self._height - self._frame[1]
            if above:
                self._line(f"del r[-{above}:]")
            self._height = self._frame[1]
            self._frame = None
            return True
        places = {"(@local0)": 0, "(@local1)": 1, "(toLocal0)": 0, "(toLocal1)": 1}
        if kind in places or kind in ("(@local)", "(toLocal)", "(@2local)", "(to2Local)"):
            if self._frame is None:
                raise Untranslatable
            first = places.get(kind, step.operand)
            if not 0 <= first <= 32:
                raise Untranslatable
            prefix = self._frame[0]
            wide = "2" in kind
            if "@" in kind:
                self._items += [self._assign(f"{prefix}{first + cell}") for cell in range(1 + wide)]
            else:
                for cell in reversed(range(1 + wide)):
                    self._line(f"{prefix}{first + cell} = {self._pop()}")
            return True
        return False

    # Calls

    def _call(self, word: Word) -> None:
        if word.kind in ("execute", "catch"):
            self._flush()
            self._line(f"{word.kind}()")
        elif not word.entry:
            self._call_run(word)
        else:
            if not self._translator.steady(word):
                raise Untranslatable
            if word.does:
                self._items.append(word.xt + 40)
            if not self._inline(word):
                if word.does:
                    self._items.pop()  # its caller pushes it
                self._flush()
                name = f"c{word.xt}"
                self.names[name] = self._translator.caller(word)
                self._line(f"{name}()")

    def _call_run(self, word: Word) -> None:
        self._flush()
        name = f"w{word.xt}"
        self.names[name] = word.run
        self._line(f"{name}()")

    def _inline(self, word: Word) -> bool:
        """Write a small word's own text here; False: it is better called."""
        if self._depth >= _MAX_DEPTH or word is self._word:
            return False
        steps = self._translator.steps(word.entry)
        kinds = [step.word.kind for step in steps]
        if (
            len(steps) > _MAX_INLINE
            or self._words > _MAX_WORDS // 2
            or "(exit)" in kinds
            or any(step.word is word for step in steps)
        ):
            return False
        if any(kind in _BRANCHES or kind in ("(?do)", "(do)", "leave") for kind in kinds):
            return False
        frame, height = self._frame, self._height
        self._frame = None
        self._height = 0
        self._depth += 1
        self._range(steps, 0, len(steps), None)
        self._depth -= 1
        if self._height or self._frame is not None:
            raise Untranslatable
        self._frame, self._height = frame, height
        return True
