"""Definitions that are run often become Python functions.

A thread that is a structure of IF, BEGIN, DO and CASE as ficl's compiler leaves it is written out as Python text: the
data stack's top in local variables, small words in their callers, locals as Python's.  What is not such a structure, or
takes its caller's return address, or may have to wait for another line, goes on being run from blocks (thread.py).
The text is made of numbers and of names of our own only.
"""

from __future__ import annotations

from bhyveload.loader.interpreter.forth import word_names
from bhyveload.loader.interpreter.forth.ficl_format import CELL, EXIT_INNER
from bhyveload.loader.interpreter.forth.function_writer import FunctionWriter
from bhyveload.loader.interpreter.forth.steps import BRANCHES, MAX_WORDS, RETURN_STACK, Step, Untranslatable
from bhyveload.loader.interpreter.forth.throws import Failure
from bhyveload.loader.interpreter.forth.word_names import names
from bhyveload.loader.interpreter.forth.words_stack import signed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bhyveload.loader.interpreter.forth.dictionary import Word
    from bhyveload.loader.interpreter.forth.machine import ForthMachine

HOT = 8  # calls of a definition before it is worth translating
_RETURN = EXIT_INNER + 8  # the return address of words called from functions; nothing goes on there


class Translator:
    """Translates the definitions of one machine."""

    def __init__(self, machine: ForthMachine) -> None:
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
            writer = FunctionWriter(self, word)
            code = compile(writer.text(), f"<forth {word.xt:#x}>", "exec")
        except (Untranslatable, Failure, SyntaxError, RecursionError):
            return  # also what Python finds nested too deeply
        scope = {**self._names, **writer.names}
        exec(code, scope)
        word.native = scope["word"]
        self._translated.append(word)

    def steps(self, entry: int) -> list[Step]:
        """The words of a thread up to its (;).  Raises Untranslatable."""
        machine = self.machine
        words, mem, fetch = machine.dictionary.words, machine.mem, machine.arena.fetch
        steps: list[Step] = []
        at = entry
        while len(steps) < MAX_WORDS:
            word = words.get(fetch(at))
            if word is None:
                break
            start = at
            at += CELL
            operand = target = 0
            kind = word.kind
            word.bound = True
            if kind in BRANCHES:
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
            steps.append(Step(start, word, operand, target))
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
            change, needed = RETURN_STACK.get(kind, (0, 0))
            if height < needed or (step.word.entry and not self.steady(step.word)):
                return False
            height += change
            if kind in BRANCHES or kind == "(?do)":
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
