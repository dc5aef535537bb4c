"""Writes a thread that is a structure of IF, BEGIN, DO and CASE, as ficl's compiler leaves it, as a Python function."""

from __future__ import annotations

from bhyveload.loader.interpreter.forth.ficl_format import (
    CELL,
    CELL_MAX,
    CONSTANT_WORD,
    CREATED_WORD,
    FICL_DEFAULT_STACK,
    VARIABLE_WORD,
)
from bhyveload.loader.interpreter.forth.function_text import FunctionText
from bhyveload.loader.interpreter.forth.steps import (
    BRANCHES,
    MAX_WORDS,
    RETURN_STACK,
    Step,
    Untranslatable,
)
from bhyveload.loader.interpreter.forth.translate_words import (
    BINARY,
    COMPARE,
    SHUFFLE,
    UNARY,
    binary,
    compare_zero,
    memory,
    unary,
    within,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bhyveload.loader.interpreter.forth.dictionary import Word
    from bhyveload.loader.interpreter.forth.translate import Translator

_MAX_INLINE = 4
_MAX_DEPTH = 8
_ENDS = ("(;)", "(exit)")


class _Loop:
    """An open loop: the steps at its head and behind it; DO's has three cells on the return stack."""

    __slots__ = ("counted", "exit", "head")

    def __init__(self, head: int, exit_: int, counted: bool) -> None:
        self.head = head
        self.exit = exit_
        self.counted = counted


class FunctionWriter:
    """Writes one function: structures, return stack, locals, calls."""

    def __init__(self, translator: Translator, word: Word) -> None:
        self._translator = translator
        self._machine = translator.machine
        self._text = FunctionText()
        self.names: dict[str, Any] = {}  # what the text needs beside the translator's own
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
            self._text.items.append(self._word.xt + 40)
        steps = self._translator.steps(self._word.entry)
        self._range(steps, 0, len(steps), None)
        return "\n".join(self._text.lines) + "\n"

    # Structure

    def _range(self, steps: list[Step], first: int, last: int, loop: _Loop | None, open_: int = -1) -> bool:
        """Write ``steps[first:last]``; whether control comes out at their end.  ``open_``: the loop whose head is
        first is being written.  Raises Untranslatable."""
        index = {step.at: number for number, step in enumerate(steps)}
        at = first
        while at < last:
            if at != open_:
                back = self._loop_end(steps, index, at, last)
                if back >= 0:
                    self._text.flush()
                    self._text.line("while True:")
                    self._text.indent += 1
                    counted = steps[back].word.kind in ("(loop)", "(+loop)")
                    inner = _Loop(at, back + 1, counted)
                    height = self._height
                    self._range(steps, at, back + 1, inner, at)
                    self._text.line(f"if len(s) > {FICL_DEFAULT_STACK}: overflow()")
                    self._text.indent -= 1
                    self._height = height - (3 if counted else 0)
                    at = back + 1
                    continue
            step = steps[at]
            kind = step.word.kind
            self._words += 1
            if self._words > MAX_WORDS:
                raise Untranslatable
            if kind in _ENDS:
                if kind == "(;)" and self._depth:
                    return True
                if self._height or self._depth:
                    raise Untranslatable
                self._text.flush()
                self._text.line("return")
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
                self._text.flush()
                self._text.line("del r[-3:]")
                self._text.line("break")
                return False
            self._step(step)
            at += 1
        return True

    def _loop_end(self, steps: list[Step], index: dict[int, int], head: int, last: int) -> int:
        """The last step that branches back to ``head``, -1: none."""
        for number in range(last - 1, head - 1, -1):
            step = steps[number]
            if step.word.kind in BRANCHES and index.get(step.target, -1) == head:
                return number
        return -1

    def _jump(self, to: int, at: int, last: int, loop: _Loop | None) -> bool:
        """An unconditional branch."""
        self._text.flush()
        if loop is not None and to == loop.head:
            if at + 1 == loop.exit:
                return True  # the loop's end
            self._text.line(f"if len(s) > {FICL_DEFAULT_STACK}: overflow()")
            self._text.line("continue")
            return False
        if loop is not None and to == loop.exit and not loop.counted:
            self._text.line("break")
            return False
        if to == last == at + 1:
            return True
        raise Untranslatable

    def _conditional(self, steps: list[Step], index: dict[int, int], at: int, last: int, loop: _Loop | None) -> int:
        """IF, OF, ?DO, WHILE, UNTIL: write what they govern; the step behind it."""
        step = steps[at]
        kind = step.word.kind
        to = index.get(step.target, -1)
        if kind == "(?do)":
            start, limit = self._text.pop(), self._text.pop()
            self._text.flush()
            truth = f"{start} != {limit}"
        elif kind == "(of)":
            wanted = self._text.pop()
            self._text.need(1)
            have = self._text.value(self._text.items.pop())
            self._text.flush()
            truth = f"{wanted} == {have}"
        else:
            truth = self._text.truth(self._text.pop_item())
            self._text.flush()
        if loop is not None and kind == "(branch0)":
            if to == loop.head:
                self._text.line(f"if {truth}: break" if at + 1 == loop.exit else f"if not ({truth}): continue")
                return at + 1
            if to == loop.exit and not loop.counted:
                self._text.line(f"if not ({truth}): break")
                return at + 1
        if not at < to <= last:
            raise Untranslatable
        end, other = to, 0
        before = steps[to - 1]
        if before.word.kind == "(branch)" and to - 1 > at and kind != "(?do)":
            beyond = index.get(before.target, -1)
            if to < beyond <= last:
                end, other = to - 1, beyond
        self._text.line(f"if {truth}:")
        self._text.indent += 1
        height, frame = self._height, self._frame
        if kind == "(?do)":
            self._text.line(f"r.extend(({step.target}, {limit}, {start}))")
            self._text.line(f"if len(r) > {FICL_DEFAULT_STACK}: full()")
            self._height += 3
        else:
            self._text.line("pass")
        falls = self._range(steps, at + 1, end, loop)
        self._text.flush()
        self._text.indent -= 1
        after = (self._height, self._frame) if falls else None
        self._height, self._frame = height, frame
        if other or kind == "(of)":
            self._text.line("else:")
            self._text.indent += 1
            if kind == "(of)":
                self._text.line(f"push({have})")
            else:
                self._text.line("pass")
            if other and self._range(steps, to, other, loop):
                if after not in (None, (self._height, self._frame)):
                    raise Untranslatable
                after = self._height, self._frame
            self._text.flush()
            self._text.indent -= 1
        elif after not in (None, (height, frame)):
            raise Untranslatable
        self._height, self._frame = after or (height, frame)
        return other or to

    def _count_loop(self, step: Step, at: int, loop: _Loop | None) -> None:
        """LOOP and +LOOP, at the end of what they repeat."""
        if loop is None or not loop.counted or at + 1 != loop.exit:
            raise Untranslatable
        if step.word.kind == "(loop)":
            self._text.flush()
            name = self._text.assign("r[-1] + 1")
            self._text.line(f"if {name} >= r[-2] or {name} > {CELL_MAX}:")
        else:
            change = self._text.pop()
            self._text.flush()
            name = self._text.assign(f"signed(r[-1] + {change})")
            self._text.line(f"if {name} < r[-2] if {change} < 0 else {name} >= r[-2]:")
        self._text.line("    del r[-3:]")
        self._text.line("    break")
        self._text.line(f"r[-1] = {name}")

    # Single words

    def _step(self, step: Step) -> None:
        word = step.word
        kind = word.kind
        if kind in SHUFFLE:
            count, order = SHUFFLE[kind]
            self._text.need(count)
            top = self._text.items[len(self._text.items) - count :] if count else []
            self._text.items[len(self._text.items) - count :] = [top[number] for number in order]
        elif kind == "(literal)":
            self._text.items.append(step.operand)
        elif kind == "(2literal)":
            fetch = self._machine.arena.fetch
            self._text.items += [fetch(step.operand + CELL), fetch(step.operand)]
        elif kind == '(.")':
            self._text.items += [step.operand + 1, self._machine.mem[step.operand]]
        elif kind in (VARIABLE_WORD, CREATED_WORD):
            self._text.items.append(word.param + (CELL if kind == CREATED_WORD else 0))
        elif kind == CONSTANT_WORD:
            self._text.items.append(self._text.assign(f"cells[{word.param >> 3}]"))
        elif kind in UNARY:
            unary(self._text, kind)
        elif kind in BINARY:
            binary(self._text, kind)
        elif kind in COMPARE:
            right, left = self._text.pop(), self._text.pop()
            self._text.condition(f"{left} {COMPARE[kind]} {right}")
        elif kind in ("0=", "0<>", "0<", "0>"):
            compare_zero(self._text, kind)
        elif kind == "within":
            within(self._text)
        elif kind in ("@", "c@", "!", "c!"):
            memory(self._text, kind)
        elif kind in RETURN_STACK:
            self._return_stack(word)
        elif kind == "(do)":
            start, limit = self._text.pop(), self._text.pop()
            self._text.line(f"r.extend(({step.target}, {limit}, {start}))")
            self._text.line(f"if len(r) > {FICL_DEFAULT_STACK}: full()")
            self._height += 3
        elif not self._local(step):
            self._call(word)

    def _return_stack(self, word: Word) -> None:
        kind = word.kind
        change, needed = RETURN_STACK[kind]
        if self._height < needed or (self._frame is not None and self._height + change < self._frame[1]):
            raise Untranslatable
        if kind == ">r":
            self._text.line(f"rpush({self._text.pop()})")
            self._text.line(f"if len(r) > {FICL_DEFAULT_STACK}: full()")
        elif kind == "r>":
            self._text.items.append(self._text.assign("rpop()"))
        elif kind in ("r@", "i", "i'", "j", "k"):
            self._text.items.append(
                self._text.assign(f"r[{ {'i': -1, 'r@': -1}.get(kind) or {'j': -4, 'k': -7}.get(kind, -2) }]")
            )
        else:
            self._call_run(word)
        self._height += change

    def _local(self, step: Step) -> bool:
        """Locals: variables of the function.  False: the step is something else."""
        kind = step.word.kind
        if kind == "(link)":
            if self._frame is not None or not 0 <= step.operand <= 32:
                raise Untranslatable
            self._text.count += 1
            self._frame = f"l{self._text.count}_", self._height
            names = [f"{self._frame[0]}{number}" for number in range(step.operand)]
            if names:
                self._text.line(" = ".join(names) + " = 0")
            return True
        if kind == "(unlink)":
            if self._frame is None:
                raise Untranslatable
            above = self._height - self._frame[1]
            if above:
                self._text.line(f"del r[-{above}:]")
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
                self._text.items += [self._text.assign(f"{prefix}{first + cell}") for cell in range(1 + wide)]
            else:
                for cell in reversed(range(1 + wide)):
                    self._text.line(f"{prefix}{first + cell} = {self._text.pop()}")
            return True
        return False

    # Calls

    def _call(self, word: Word) -> None:
        if word.kind in ("execute", "catch"):
            self._text.flush()
            self._text.line(f"{word.kind}()")
        elif not word.entry:
            self._call_run(word)
        else:
            if not self._translator.steady(word):
                raise Untranslatable
            if word.does:
                self._text.items.append(word.xt + 40)
            if not self._inline(word):
                if word.does:
                    self._text.items.pop()  # its caller pushes it
                self._text.flush()
                name = f"c{word.xt}"
                self.names[name] = self._translator.caller(word)
                self._text.line(f"{name}()")

    def _call_run(self, word: Word) -> None:
        self._text.flush()
        name = f"w{word.xt}"
        self.names[name] = word.run
        self._text.line(f"{name}()")

    def _inline(self, word: Word) -> bool:
        """Write a small word's own text here; False: it is better called."""
        if self._depth >= _MAX_DEPTH or word is self._word:
            return False
        steps = self._translator.steps(word.entry)
        kinds = [step.word.kind for step in steps]
        if (
            len(steps) > _MAX_INLINE
            or self._words > MAX_WORDS // 2
            or "(exit)" in kinds
            or any(step.word is word for step in steps)
        ):
            return False
        if any(kind in BRANCHES or kind in ("(?do)", "(do)", "leave") for kind in kinds):
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
