"""From the cells of a definition to blocks of Python functions (the inner interpreter of stand/ficl/vm.c, and the
run-time words of stand/ficl/words.c that read what lies behind them in the thread).

A block is a run of words up to the next branch.  Its ``ops`` are called one after the other, its ``end`` says which
block comes next; None is the end of the definition.  Blocks are built when they are first reached, from any address.
"""

from __future__ import annotations

from bhyveload.loader.interpreter.forth import word_names
from bhyveload.loader.interpreter.forth.ficl_format import (
    CELL,
    CREATED_WORD,
    DOES_WORD,
    EXIT_INNER,
    FICL_DEFAULT_STACK,
    HEAP,
    INTERP,
    PAGE,
)
from bhyveload.loader.interpreter.forth.restart import Restart
from bhyveload.loader.interpreter.forth.throws import Failure, InnerExit, Jump, OutOfText
from bhyveload.loader.interpreter.forth.word_names import names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.interpreter.forth.dictionary import Word
    from bhyveload.loader.interpreter.forth.machine import ForthMachine

    Op = Callable[[], None]

_BLOCK_LIMIT = 64  # words: a thread that is entered at every cell costs no more than so much for each
RESTARTABLE = frozenset(names(word_names.RESTARTABLE))


class Block:
    __slots__ = ("end", "ops")

    def __init__(self, ops: tuple[Op, ...], end: Callable[[], Block] | None) -> None:
        self.ops = ops
        self.end = end


class Builder:
    """Builds the blocks of one machine."""

    def __init__(self, machine: ForthMachine) -> None:
        self.machine = machine
        self._cells = machine.cells
        self._inline = {
            "(literal)": self._literal,
            "(2literal)": self._two_literal,
            '(.")': self._string,
            '(c")': self._counted_string,
            "(do)": self._do,
            "(link)": self._link,
            "(@local)": self._get_local,
            "(toLocal)": self._set_local,
            "(@2local)": self._get_two_local,
            "(to2Local)": self._set_two_local,
            "execute": self._execute,
            "catch": self._catch,
        }
        self._ends = {
            "(branch)": self._branch,
            "(branch0)": self._branch0,
            "(of)": self._of,
            "(?do)": self._question_do,
            "(loop)": self._loop,
            "(+loop)": self._plus_loop,
            "leave": self._leave,
        }

    def build(self, at: int) -> Block:
        """The block that begins at ``at``.  Raises Failure when that is no thread."""
        machine = self.machine
        start = at
        ops: list[Op] = []
        end: Callable[[], Block] | None = None
        if at == EXIT_INNER:
            return Block((_inner_exit,), None)
        if at == INTERP:
            return Block((machine.interpret_line, _out_of_text), None)
        while True:
            word = machine.dictionary.words.get(self.operand(at))
            at += CELL
            if word is None:
                ops.append(_no_word(at - CELL))
                break
            kind = word.kind
            word.bound = True
            if kind in ("(;)", "(exit)"):
                break
            if kind == "(does>)":
                ops.append(self._does(at))
                break
            ender = self._ends.get(kind)
            if ender is not None:
                op, end = ender(at)
                if op is not None:
                    ops.append(op)
                break
            inline = self._inline.get(kind)
            if inline is not None:
                op, at = inline(at)
                ops.append(op)
            else:
                ops.append(self._call(word, at))
            if len(ops) >= _BLOCK_LIMIT:
                end = self._go(at)
                break
        block = machine.blocks[start] = Block(tuple(ops), end)
        return block

    def operand(self, at: int) -> int:
        """The cell of a thread at ``at``.  Raises Failure for what is no memory of definitions."""
        if at & 7 or not PAGE <= at <= len(self._cells) * CELL - CELL:
            raise Failure(f"Error: no definition at {at & 0xFFFFFFFFFFFFFFFF:#x}")
        return self._cells[at >> 3]

    def _go(self, to: int) -> Callable[[], Block]:
        get, build = self.machine.blocks.get, self.build

        def go() -> Block:
            return get(to) or build(to)

        return go

    # Words

    def _call(self, word: Word, ret: int) -> Op:
        machine = self.machine
        if word.entry:
            return self._call_thread(word, ret)
        if word.kind in RESTARTABLE:
            run = word.run

            def restartable() -> None:
                try:
                    run()
                except Restart as restart:
                    if restart.word is None:
                        restart.word, restart.ip = word, ret
                    raise

            return restartable
        if word.kind == CREATED_WORD:
            return _push(machine, word.xt + 40)
        return word.run

    def _call_thread(self, word: Word, ret: int) -> Op:
        rstack, run, entry = self.machine.rstack, self.machine.run, word.entry
        push_return, push = rstack.append, self.machine.stack.append
        translate, hot = self.machine.translator.translate, self.machine.hot
        does, data = word.does, word.xt + 40

        def call() -> None:
            native = word.native
            if native is not None:
                native()
                return
            word.heat += 1
            if word.heat == hot:
                translate(word)
            if len(rstack) >= FICL_DEFAULT_STACK:
                raise Failure("Error: return stack overflow")
            if does:
                push(data)
            push_return(ret)
            popped = run(entry)
            if popped != ret:
                raise Jump(popped)

        return call

    def _execute(self, ret: int) -> tuple[Op, int]:
        machine = self.machine
        pop, word_at, execute = machine.stack.pop, machine.dictionary.word_at, machine.execute

        def op() -> None:
            word = word_at(pop())
            try:
                execute(word, ret)
            except Restart as restart:
                if restart.word is None:
                    restart.word, restart.ip = word, ret
                raise

        return op, ret

    def _catch(self, ret: int) -> tuple[Op, int]:
        machine = self.machine
        pop, word_at, catch = machine.stack.pop, machine.dictionary.word_at, machine.catch

        def op() -> None:
            catch(word_at(pop()), ret)

        return op, ret

    # Literals

    def _literal(self, at: int) -> tuple[Op, int]:
        return _push(self.machine, self.operand(at)), at + CELL

    def _two_literal(self, at: int) -> tuple[Op, int]:
        stack = self.machine.stack
        pair = self.operand(at + CELL), self.operand(at)

        def op() -> None:
            stack.extend(pair)

        return op, at + 2 * CELL

    def _string(self, at: int) -> tuple[Op, int]:
        self.operand(at)
        stack = self.machine.stack
        count = self.machine.mem[at]
        pair = at + 1, count

        def op() -> None:
            stack.extend(pair)

        return op, (at + count + 2 + 7) & ~7

    def _counted_string(self, at: int) -> tuple[Op, int]:
        self.operand(at)
        return _push(self.machine, at), (at + self.machine.mem[at] + 2 + 7) & ~7

    # Branches: (what to do first, which block is next)

    def _target(self, at: int) -> int:
        """Where the branch goes whose distance is at ``at``, in cells as a C int."""
        distance = (self.operand(at) + (1 << 31)) & 0xFFFFFFFF
        return at + (distance - (1 << 31)) * CELL

    def _branch(self, at: int) -> tuple[Op | None, Callable[[], Block]]:
        return None, self._go(self._target(at))

    def _branch0(self, at: int) -> tuple[Op | None, Callable[[], Block]]:
        get, build, pop = self.machine.blocks.get, self.build, self.machine.stack.pop
        to, behind = self._target(at), at + CELL

        def end() -> Block:
            at = behind if pop() else to
            return get(at) or build(at)

        return None, end

    def _of(self, at: int) -> tuple[Op | None, Callable[[], Block]]:
        get, build, stack = self.machine.blocks.get, self.build, self.machine.stack
        to, behind = self._target(at), at + CELL

        def end() -> Block:
            if stack.pop() == stack[-1]:
                stack.pop()
                return get(behind) or build(behind)
            return get(to) or build(to)

        return None, end

    def _do(self, at: int) -> tuple[Op, int]:
        rstack, pop = self.machine.rstack, self.machine.stack.pop
        leave = self.operand(at)

        def op() -> None:
            index = pop()
            limit = pop()
            if len(rstack) > FICL_DEFAULT_STACK - 3:
                raise Failure("Error: return stack overflow")
            rstack.extend((leave, limit, index))

        return op, at + CELL

    def _question_do(self, at: int) -> tuple[Op | None, Callable[[], Block]]:
        get, build = self.machine.blocks.get, self.build
        rstack, pop = self.machine.rstack, self.machine.stack.pop
        leave, behind = self.operand(at), at + CELL

        def end() -> Block:
            index = pop()
            limit = pop()
            if index == limit:
                return get(leave) or build(leave)
            if len(rstack) > FICL_DEFAULT_STACK - 3:
                raise Failure("Error: return stack overflow")
            rstack.extend((leave, limit, index))
            return get(behind) or build(behind)

        return None, end

    def _loop(self, at: int) -> tuple[Op | None, Callable[[], Block]]:
        get, build, rstack = self.machine.blocks.get, self.build, self.machine.rstack
        to, behind = self._target(at), at + CELL

        def end() -> Block:
            index = rstack[-1] + 1
            if index >= rstack[-2] or index > 0x7FFFFFFFFFFFFFFF:
                del rstack[-3:]
                return get(behind) or build(behind)
            rstack[-1] = index
            return get(to) or build(to)

        return None, end

    def _plus_loop(self, at: int) -> tuple[Op | None, Callable[[], Block]]:
        get, build, rstack, pop = self.machine.blocks.get, self.build, self.machine.rstack, self.machine.stack.pop
        to, behind = self._target(at), at + CELL

        def end() -> Block:
            step = pop()
            index = ((rstack[-1] + step + 0x8000000000000000) & 0xFFFFFFFFFFFFFFFF) - 0x8000000000000000
            if index < rstack[-2] if step < 0 else index >= rstack[-2]:
                del rstack[-3:]
                return get(behind) or build(behind)
            rstack[-1] = index
            return get(to) or build(to)

        return None, end

    def _leave(self, at: int) -> tuple[Op | None, Callable[[], Block]]:
        get, build, rstack = self.machine.blocks.get, self.build, self.machine.rstack

        def end() -> Block:
            to = rstack[-3]
            del rstack[-3:]
            return get(to) or build(to)

        return None, end

    def _does(self, at: int) -> Op:
        """(does>): the newest word's run-time behaviour is what follows."""
        machine = self.machine

        def op() -> None:
            word = machine.dictionary.newest
            assert word is not None
            word.entry, word.does, word.kind = at, True, DOES_WORD
            machine.cells[word.param >> 3] = at
            if word.bound:
                machine.forget()

        return op

    # Locals

    def _link(self, at: int) -> tuple[Op, int]:
        machine = self.machine
        rstack = machine.rstack
        count = max(0, min(self.operand(at), FICL_DEFAULT_STACK))
        room = [0] * count

        def op() -> None:
            if len(rstack) >= FICL_DEFAULT_STACK - count:
                raise Failure("Error: return stack overflow")
            rstack.append(machine.frame)
            machine.frame = len(rstack)
            rstack.extend(room)

        return op, at + CELL

    def _local_index(self, at: int) -> int:
        index = self.operand(at)
        if not 0 <= index < HEAP:
            raise Failure(f"Error: no local number {index}")
        return index

    def _get_local(self, at: int) -> tuple[Op, int]:
        return get_local(self.machine, self._local_index(at)), at + CELL

    def _set_local(self, at: int) -> tuple[Op, int]:
        return set_local(self.machine, self._local_index(at)), at + CELL

    def _get_two_local(self, at: int) -> tuple[Op, int]:
        machine, index = self.machine, self._local_index(at)
        rstack, push = machine.rstack, machine.stack.append

        def op() -> None:
            frame = machine.frame + index
            push(rstack[frame])
            push(rstack[frame + 1])

        return op, at + CELL

    def _set_two_local(self, at: int) -> tuple[Op, int]:
        machine, index = self.machine, self._local_index(at)
        rstack, pop = machine.rstack, machine.stack.pop

        def op() -> None:
            frame = machine.frame + index
            rstack[frame + 1] = pop()
            rstack[frame] = pop()

        return op, at + CELL


def get_local(machine: ForthMachine, index: int) -> Op:
    """(@local)"""
    rstack, push = machine.rstack, machine.stack.append

    def op() -> None:
        push(rstack[machine.frame + index])

    return op


def set_local(machine: ForthMachine, index: int) -> Op:
    """(toLocal)"""
    rstack, pop = machine.rstack, machine.stack.pop

    def op() -> None:
        rstack[machine.frame + index] = pop()

    return op


def _push(machine: ForthMachine, value: int) -> Op:
    push = machine.stack.append

    def op() -> None:
        push(value)

    return op


def _no_word(at: int) -> Op:
    def op() -> None:
        raise Failure(f"Error: no word at {at & 0xFFFFFFFFFFFFFFFF:#x}")

    return op


def _inner_exit() -> None:
    raise InnerExit


def _out_of_text() -> None:
    raise OutOfText
