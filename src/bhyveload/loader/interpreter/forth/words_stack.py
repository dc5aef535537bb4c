"""Words on numbers: the stacks, arithmetic, comparison (stand/ficl/words.c, stand/ficl/math64.c).

An empty stack shows as an IndexError, which the machine reports as ficl's "stack underflow".
"""

from __future__ import annotations

from bhyveload.loader.interpreter.forth.ficl_format import (
    CELL,
    CELL_BITS,
    CELL_MASK,
    CELL_MAX,
    CELL_MIN,
    FICL_DEFAULT_STACK,
)
from bhyveload.loader.interpreter.forth.throws import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.interpreter.forth.machine import ForthMachine

    Run = Callable[[], None]

_BIAS = 1 << 63
_HALF = 32  # bits of a cell
_HALF_MASK = (1 << _HALF) - 1


def signed(value: int) -> int:
    """``value`` as a cell: its low 64 bits, signed."""
    return ((value + _BIAS) & CELL_MASK) - _BIAS


def to_int(value: int) -> int:
    """``value`` as a C int."""
    return ((value + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


def long_product(x: int, y: int) -> int:
    """ficlLongMul of unsigned cells (stand/ficl/amd64/sysdep.c): a double cell, but 64 bits are all that is multiplied,
    and the low cell has only 32 of them; the others are in the high one."""
    product = x * y & CELL_MASK
    return (product >> _HALF) << CELL_BITS | (product & _HALF_MASK)


def unsigned_division(dividend: int, divisor: int) -> tuple[int, int]:
    """ficlLongDiv (stand/ficl/amd64/sysdep.c) of an unsigned double cell: (quotient, remainder).

    It takes its high cell for bits 32 to 63, and sets them in the low one, before it divides 64 bits.  Raises Failure
    where the processor would trap.
    """
    if divisor == 0:
        raise Failure("Error: division by zero")
    return divmod((dividend >> CELL_BITS << _HALF & CELL_MASK) | (dividend & CELL_MASK), divisor)


def symmetric_division(dividend: int, divisor: int) -> tuple[int, int]:
    """m64SymmetricDivI: rounded towards zero; (quotient, remainder)."""
    quotient, remainder = unsigned_division(abs(dividend), abs(divisor))
    if (dividend < 0) != (divisor < 0):
        quotient = -quotient
    return signed(quotient), signed(-remainder if dividend < 0 else remainder)


def floored_division(dividend: int, divisor: int) -> tuple[int, int]:
    """m64FlooredDivI: (quotient, remainder)."""
    quotient, remainder = unsigned_division(abs(dividend), abs(divisor))
    if (dividend < 0) != (divisor < 0):
        quotient = -quotient
        if remainder:
            quotient -= 1
            remainder = abs(divisor) - remainder
    return signed(quotient), signed(-remainder if divisor < 0 else remainder)


def signed_product(x: int, y: int) -> int:
    """m64MulI: a signed double cell."""
    product = long_product(abs(x), abs(y))
    return product if (x < 0) == (y < 0) else -product


def stack_words(machine: ForthMachine) -> dict[str, Run]:
    """DUP and friends, and those of the return stack."""
    s, r = machine.stack, machine.rstack
    push, pop = s.append, s.pop

    def two_drop() -> None:
        pop()
        pop()

    def dup() -> None:
        push(s[-1])

    def two_dup() -> None:
        s.extend((s[-2], s[-1]))

    def over() -> None:
        push(s[-2])

    def two_over() -> None:
        s.extend((s[-4], s[-3]))

    def pick() -> None:
        cell = pop()
        index = to_int(cell)
        if index == -1:  # what lies above the stack is the index itself
            push(cell)
            return
        if index < 0:
            raise Failure("Error: stack overflow")  # ficl reads what lies above the stack
        push(s[-1 - index])

    def question_dup() -> None:
        if s[-1]:
            push(s[-1])

    def roll() -> None:
        index = max(0, to_int(pop()))
        push(pop(-1 - index))

    def minus_roll() -> None:
        index = max(0, to_int(pop()))
        if index >= len(s):
            raise IndexError
        s.insert(len(s) - 1 - index, pop())

    def rot() -> None:
        push(pop(-3))

    def minus_rot() -> None:
        if len(s) < 3:
            raise IndexError
        s.insert(-2, pop())

    def swap() -> None:
        s[-1], s[-2] = s[-2], s[-1]

    def two_swap() -> None:
        s[-4], s[-3], s[-2], s[-1] = s[-2], s[-1], s[-4], s[-3]

    def depth() -> None:
        push(len(s))

    def nip() -> None:
        top = pop()
        s[-1] = top

    def tuck() -> None:
        s[-1], s[-2] = s[-2], s[-1]
        push(s[-2])

    def to_r() -> None:
        if len(r) >= FICL_DEFAULT_STACK:
            raise Failure("Error: return stack overflow")
        r.append(pop())

    def r_from() -> None:
        push(r.pop())

    def r_fetch() -> None:
        push(r[-1])

    def two_to_r() -> None:
        if len(r) > FICL_DEFAULT_STACK - 2:
            raise Failure("Error: return stack overflow")
        top = pop()
        r.extend((pop(), top))

    def two_r_from() -> None:
        top = r.pop()
        s.extend((r.pop(), top))

    def two_r_fetch() -> None:
        s.extend((r[-2], r[-1]))

    def unloop() -> None:
        r[-3]
        del r[-3:]

    def index_i() -> None:
        push(r[-1])

    def limit_i() -> None:
        push(r[-2])

    def index_j() -> None:
        push(r[-4])

    def index_k() -> None:
        push(r[-7])

    return {
        "depth": depth,
        "drop": pop,  # type: ignore[dict-item]  # what it gives is dropped
        "2drop": two_drop,
        "dup": dup,
        "2dup": two_dup,
        "over": over,
        "2over": two_over,
        "pick": pick,
        "?dup": question_dup,
        "roll": roll,
        "-roll": minus_roll,
        "rot": rot,
        "-rot": minus_rot,
        "swap": swap,
        "2swap": two_swap,
        "nip": nip,
        "tuck": tuck,
        "empty": s.clear,
        ">r": to_r,
        "r>": r_from,
        "r@": r_fetch,
        "2>r": two_to_r,
        "2r>": two_r_from,
        "2r@": two_r_fetch,
        "unloop": unloop,
        "i": index_i,
        "i'": limit_i,
        "j": index_j,
        "k": index_k,
    }


def arithmetic_words(machine: ForthMachine) -> dict[str, Run]:
    """Signed cells, doubles, shifts."""
    s = machine.stack
    push, pop = s.append, s.pop

    def add() -> None:
        other = pop()
        value = s[-1] + other
        s[-1] = value if CELL_MIN <= value <= CELL_MAX else signed(value)

    def sub() -> None:
        other = pop()
        value = s[-1] - other
        s[-1] = value if CELL_MIN <= value <= CELL_MAX else signed(value)

    def mul() -> None:
        other = pop()
        value = s[-1] * other
        s[-1] = value if CELL_MIN <= value <= CELL_MAX else signed(value)

    def negate() -> None:
        s[-1] = signed(-s[-1])

    def absolute() -> None:
        if s[-1] < 0:
            s[-1] = signed(-s[-1])

    def divide() -> None:
        divisor = pop()
        if divisor == -1 and s[-1] == CELL_MIN:
            raise Failure("Error: division overflow")
        s[-1] = symmetric_division(s[-1], divisor)[0]

    def modulo() -> None:
        divisor = pop()
        s[-1] = symmetric_division(s[-1], divisor)[1]

    def slash_mod() -> None:
        divisor = pop()
        quotient, s[-1] = symmetric_division(s[-1], divisor)
        push(quotient)

    def mul_div() -> None:
        divisor, y = pop(), pop()
        s[-1] = symmetric_division(signed_product(s[-1], y), divisor)[0]

    def mul_div_mod() -> None:
        divisor, y = pop(), pop()
        quotient, s[-1] = symmetric_division(signed_product(s[-1], y), divisor)
        push(quotient)

    def one_plus() -> None:
        s[-1] = signed(s[-1] + 1)

    def one_minus() -> None:
        s[-1] = signed(s[-1] - 1)

    def two_mul() -> None:
        s[-1] = signed(s[-1] * 2)

    def two_div() -> None:
        s[-1] >>= 1

    def cells() -> None:
        s[-1] = signed(s[-1] * CELL)

    def cell_plus() -> None:
        s[-1] = signed(s[-1] + CELL)

    def cell_minus() -> None:
        s[-1] = signed(s[-1] - CELL)

    def chars() -> None:
        """A character is an address unit."""

    def maximum() -> None:
        other = pop()
        s[-1] = max(s[-1], other)

    def minimum() -> None:
        other = pop()
        s[-1] = min(s[-1], other)

    def lshift() -> None:
        count = pop() & 63
        s[-1] = signed(s[-1] << count)

    def rshift() -> None:
        count = pop() & 63
        s[-1] = signed((s[-1] & CELL_MASK) >> count)

    def double(value: int) -> None:
        """Push a double cell, the high half on top."""
        s.extend((signed(value), signed(value >> 64)))

    def pop_double() -> int:
        high, low = pop(), pop()
        return (high << 64) | (low & CELL_MASK)

    def s_to_d() -> None:
        push(-1 if s[-1] < 0 else 0)

    def m_star() -> None:
        double(signed_product(pop(), pop()))

    def um_star() -> None:
        double(long_product(pop() & CELL_MASK, pop() & CELL_MASK))

    def um_slash_mod() -> None:
        divisor = pop() & CELL_MASK
        quotient, remainder = unsigned_division(pop_double() & ((1 << 128) - 1), divisor)
        s.extend((signed(remainder), signed(quotient)))

    def fm_slash_mod() -> None:
        divisor = pop()
        quotient, remainder = floored_division(pop_double(), divisor)
        s.extend((remainder, quotient))

    def sm_slash_rem() -> None:
        divisor = pop()
        quotient, remainder = symmetric_division(pop_double(), divisor)
        s.extend((remainder, quotient))

    def dnegate() -> None:
        double(-pop_double())

    return {
        "+": add,
        "-": sub,
        "*": mul,
        "/": divide,
        "mod": modulo,
        "/mod": slash_mod,
        "*/": mul_div,
        "*/mod": mul_div_mod,
        "negate": negate,
        "abs": absolute,
        "1+": one_plus,
        "1-": one_minus,
        "2*": two_mul,
        "2/": two_div,
        "cells": cells,
        "cell+": cell_plus,
        "cell-": cell_minus,
        "chars": chars,
        "char+": one_plus,
        "max": maximum,
        "min": minimum,
        "lshift": lshift,
        "rshift": rshift,
        "s>d": s_to_d,
        "m*": m_star,
        "um*": um_star,
        "um/mod": um_slash_mod,
        "fm/mod": fm_slash_mod,
        "sm/rem": sm_slash_rem,
        "dnegate": dnegate,
    }


def logic_words(machine: ForthMachine) -> dict[str, Run]:
    """Comparisons and bits; true is -1."""
    s = machine.stack
    pop = s.pop

    def zero_equals() -> None:
        s[-1] = 0 if s[-1] else -1

    def zero_less() -> None:
        s[-1] = -1 if s[-1] < 0 else 0

    def zero_greater() -> None:
        s[-1] = -1 if s[-1] > 0 else 0

    def zero_not_equals() -> None:
        s[-1] = -1 if s[-1] else 0

    def equals() -> None:
        other = pop()
        s[-1] = -1 if s[-1] == other else 0

    def not_equals() -> None:
        other = pop()
        s[-1] = -1 if s[-1] != other else 0

    def less() -> None:
        other = pop()
        s[-1] = -1 if s[-1] < other else 0

    def greater() -> None:
        other = pop()
        s[-1] = -1 if s[-1] > other else 0

    def u_less() -> None:
        other = pop() & CELL_MASK
        s[-1] = -1 if s[-1] & CELL_MASK < other else 0

    def u_greater() -> None:
        other = pop() & CELL_MASK
        s[-1] = -1 if s[-1] & CELL_MASK > other else 0

    def bit_and() -> None:
        other = pop()
        s[-1] &= other

    def bit_or() -> None:
        other = pop()
        s[-1] |= other

    def bit_xor() -> None:
        other = pop()
        s[-1] ^= other

    def invert() -> None:
        s[-1] = ~s[-1]

    def within() -> None:
        high, low = pop(), pop()
        s[-1] = -1 if (s[-1] - low) & CELL_MASK < (high - low) & CELL_MASK else 0

    return {
        "0=": zero_equals,
        "0<": zero_less,
        "0>": zero_greater,
        "0<>": zero_not_equals,
        "=": equals,
        "<>": not_equals,
        "<": less,
        ">": greater,
        "u<": u_less,
        "u>": u_greater,
        "and": bit_and,
        "or": bit_or,
        "xor": bit_xor,
        "invert": invert,
        "within": within,
    }
