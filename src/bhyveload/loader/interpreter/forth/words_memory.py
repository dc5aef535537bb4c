"""Words on memory: fetching and storing, the data space, the heap (stand/ficl/words.c)."""

from __future__ import annotations

from bhyveload.loader.interpreter.forth.ficl_format import (
    ARENA_SIZE,
    BASE,
    CELL,
    DICT_INCREASE,
    DICT_THRESHOLD,
    NUSER,
    PAD,
    PAGE,
    SLASH_DUMP,
    SPAN,
    STATE,
    TO_IN,
)
from bhyveload.loader.interpreter.forth.throws import Failure
from bhyveload.loader.interpreter.forth.words_stack import signed, to_int

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.interpreter.forth.machine import ForthMachine

    Run = Callable[[], None]

_LAST = ARENA_SIZE - CELL


def memory_words(machine: ForthMachine) -> dict[str, Run]:
    s, arena, mem, cells = machine.stack, machine.arena, machine.mem, machine.cells
    push, pop = s.append, s.pop
    check = arena.check

    def fetch() -> None:
        address = s[-1]
        if address & 7 or not PAGE <= address <= _LAST:
            s[-1] = arena.fetch(address)
        else:
            s[-1] = cells[address >> 3]

    def store() -> None:
        address = pop()
        value = pop()
        if address & 7 or not PAGE <= address <= _LAST:
            arena.store(address, value)
        else:
            cells[address >> 3] = value

    def plus_store() -> None:
        address = pop()
        arena.store(address, signed(arena.fetch(address) + pop()))

    def two_fetch() -> None:
        address = pop()
        s.extend((arena.fetch(address + CELL), arena.fetch(address)))

    def two_store() -> None:
        address = pop()
        arena.store(address, pop())
        arena.store(address + CELL, pop())

    def c_fetch() -> None:
        address = s[-1]
        if not PAGE <= address < ARENA_SIZE:
            check(address, 1)
        s[-1] = mem[address]

    def c_store() -> None:
        address = pop()
        value = pop()
        if not PAGE <= address < ARENA_SIZE:
            check(address, 1)
        mem[address] = value & 0xFF

    def narrow(size: int) -> tuple[Run, Run]:
        """Fetch and store of ``size`` bytes, unsigned."""

        def narrow_fetch() -> None:
            s[-1] = int.from_bytes(arena.read(s[-1], size), "little")

        def narrow_store() -> None:
            address = pop()
            arena.write(address, (pop() & ((1 << 8 * size) - 1)).to_bytes(size, "little"))

        return narrow_fetch, narrow_store

    def fill() -> None:
        byte, size, address = pop() & 0xFF, pop(), pop()
        if size:
            check(address, size)
            mem[address : address + size] = bytes((byte,)) * size

    def erase() -> None:
        push(0)
        fill()

    def move() -> None:
        size, to, source = pop(), pop(), pop()
        if size:
            check(source, size)
            check(to, size)
            mem[to : to + size] = mem[source : source + size]

    w_fetch, w_store = narrow(2)
    q_fetch, q_store = narrow(4)
    return {
        "@": fetch,
        "!": store,
        "+!": plus_store,
        "2@": two_fetch,
        "2!": two_store,
        "c@": c_fetch,
        "c!": c_store,
        "w@": w_fetch,
        "w!": w_store,
        "q@": q_fetch,
        "q!": q_store,
        "fill": fill,
        "erase": erase,
        "move": move,
    }


def space_words(machine: ForthMachine) -> dict[str, Run]:
    """The dictionary's data space, the heap, and addresses of the machine's own cells."""
    s, arena, cells, dictionary = machine.stack, machine.arena, machine.cells, machine.dictionary
    push, pop = s.append, s.pop

    def comma() -> None:
        dictionary.append(pop())

    def c_comma() -> None:
        dictionary.append_byte(pop())

    def allot() -> None:
        dictionary.allot(to_int(pop()))  # dictAllot takes an int

    def here() -> None:
        push(dictionary.here)

    def aligned() -> None:
        s[-1] = signed((s[-1] + 7) & ~7)

    def heap_left() -> None:
        push(dictionary.cells_available)

    def allocate() -> None:
        address = arena.allocate(pop())
        s.extend((address, 0 if address else 1))

    def free() -> None:
        arena.free(pop())
        push(0)

    def resize() -> None:
        size, old = pop(), pop()
        new = arena.resize(old, size)
        s.extend((new, 0) if new else (old, 1))

    def address(of: int) -> Run:
        def give() -> None:
            push(of)

        return give

    def decimal() -> None:
        cells[BASE >> 3] = 10

    def hexadecimal() -> None:
        cells[BASE >> 3] = 16

    return {
        ",": comma,
        "compile,": comma,
        "c,": c_comma,
        "allot": allot,
        "here": here,
        "align": dictionary.align,
        "aligned": aligned,
        "heap?": heap_left,
        "allocate": allocate,
        "free": free,
        "resize": resize,
        "state": address(STATE),
        "base": address(BASE),
        ">in": address(TO_IN),
        "pad": address(PAD),
        "span": address(SPAN),
        "/dump": address(SLASH_DUMP),
        "nUser": address(NUSER),
        "dictthreshold": address(DICT_THRESHOLD),
        "dictincrease": address(DICT_INCREASE),
        "decimal": decimal,
        "hex": hexadecimal,
    }


def base_of(machine: ForthMachine) -> int:
    """The number base.  Raises Failure for one that is none."""
    base = machine.cells[BASE >> 3] & 0xFFFFFFFF
    if not 2 <= base <= 36:
        raise Failure(f"Error: {base} is no number base")
    return base
