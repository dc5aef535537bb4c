"""What must be otherwise in a compiled chunk (ldump.c and lopcodes.h of Lua 5.4) to behave as in the loader.

* Calls of library functions that a function ends with (`return tonumber(x)`).  In C such a function leaves its caller's
  frame alone (luaD_pretailcall in ldo.c): what it complains about names the caller's line.  Ours are Lua functions, in
  whose place no frame is left.  So such calls become ordinary ones.
* Divisions.  The loader's Lua has 64-bit integers for floats (stand/liblua/luaconf.h), so a quotient of numbers is cut
  to a whole number: a function that the numbers' metatable has under __gc, which is of no use there, does it.
"""

from __future__ import annotations

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.interpreter.lua_sandbox import Result

_HEADER = b"\x1bLua\x54\x00\x19\x93\r\n\x1a\n\x04\x08\x08" + (0x5678).to_bytes(8, "little")
_BEHIND_HEADER = len(_HEADER) + 8 + 1  # a float, the number of upvalues
_FLOAT, _INTEGER, _SHORT, _LONG = 0x13, 0x03, 0x04, 0x14  # kinds of constants that are longer than their tag

_MOVE, _GETTABUP, _GETFIELD, _SELF, _DIVK, _DIV, _MMBIN = 0, 11, 14, 20, 27, 39, 46
_JMP, _CALL, _TAILCALL, _FORLOOP, _FORPREP, _TFORPREP, _TFORLOOP, _EXTRAARG = 56, 68, 69, 73, 74, 75, 77, 82
_DIVISIONS = (_DIVK, _DIV)
_SHIFT_A, _SHIFT_B, _SHIFT_BX, _SHIFT_C = 7, 16, 15, 24
_BIAS_SJ, _MAX_SJ, _MAX_BX = (1 << 24) - 1, (1 << 25) - 1, (1 << 17) - 1
_TM_GC = 2
_MAX_STACK = 250
_MAX_INSTRUCTIONS = 1 << 17  # of a function that divides; a longer one has Lua's own quotients
_MAX_LOOKS = 1 << 20  # at instructions of a chunk, for what is called last: then calls are left as they are

_ABSLINEINFO = 0x80
_LINES_WITHOUT_BASE = 100  # MAXIWTHABS is 128, 120 in older ones

_OPCODE = bytes(byte & 0x7F for byte in range(256))
_INSTRUCTION = Struct("<4B")
_GLOBALS = frozenset(
    b"tonumber tostring print printc load loadfile dofile pcall xpcall warn getmetatable".split(b" "),
)
_TABLES = frozenset((b"loader", b"io", b"lfs", b"pager", b"string", b"package"))


class _NoRoom(Exception):
    """A function has no room for what is to be inserted."""


def as_in_the_loader(dumped: str) -> str:
    """The chunk (latin-1) with such calls and divisions; unchanged when it is of another Lua."""
    data = dumped.encode("latin-1")
    if not data.startswith(_HEADER):
        return dumped
    chunk = _Chunk(data)
    try:
        chunk.function()
    except _NoRoom:
        return dumped
    return chunk.result().decode("latin-1")


PRIMITIVES: dict[str, Callable[..., Result]] = {"as_in_the_loader": as_in_the_loader}


def _packed(value: int) -> bytes:
    """dumpSize: seven bits a byte, the last one marked."""
    out = [value & 0x7F | 0x80]
    while value := value >> 7:
        out.append(value & 0x7F)
    return bytes(reversed(out))


def _instruction(opcode: int, a: int, b: int = 0, c: int = 0) -> int:
    return opcode | a << _SHIFT_A | b << _SHIFT_B | c << _SHIFT_C


def _jump(distance: int) -> int:
    if not 0 <= distance + _BIAS_SJ <= _MAX_SJ:
        raise _NoRoom
    return _JMP | distance + _BIAS_SJ << _SHIFT_A


class _Chunk:
    """A dumped chunk on its way from the first function to the last."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.changed = bytearray(data)  # what keeps its length
        self.edits: list[tuple[int, int, bytes]] = []  # (from, to, what is there instead), ascending
        self.at = _BEHIND_HEADER
        self.looks = _MAX_LOOKS

    def result(self) -> bytes:
        parts: list[bytes | bytearray] = []
        copied = 0
        for start, end, new in self.edits:
            parts += [self.changed[copied:start], new]
            copied = end
        return b"".join([*parts, self.changed[copied:]])

    def size(self) -> int:
        byte = self.data[self.at]
        self.at += 1
        value = byte & 0x7F
        while byte < 0x80:
            byte = self.data[self.at]
            self.at += 1
            value = value << 7 | byte & 0x7F
        return value

    def skip(self, width: int) -> None:
        """A list of things of ``width`` bytes."""
        count = self.size()
        self.at += width * count

    def skip_sizes(self, count: int) -> None:
        data, at = self.data, self.at
        while count:
            count -= data[at] >> 7
            at += 1
        self.at = at

    def string(self) -> bytes:
        length = self.size() - 1
        if length < 0:
            return b""
        start = self.at
        self.at += length
        return self.data[start : self.at]

    def function(self) -> None:
        self.string()  # source
        line = self.size()
        self.skip_sizes(1)  # its last line
        stack = self.at + 2  # behind the parameters, and whether there are more
        self.at += 3
        before = self.at
        count = self.size()
        code = self.at
        self.at += 4 * count
        opcodes = self.data[code : self.at : 4].translate(_OPCODE)
        behind = self.at
        names = self.constants()
        index = opcodes.find(_TAILCALL)
        while index >= 0:
            if self._calls_library(code, index, names):
                self._make_ordinary(code + 4 * index)
            index = opcodes.find(_TAILCALL, index + 1)
        moved: list[int] = []
        if _DIV in opcodes or _DIVK in opcodes:
            register = self.data[stack]
            if register > _MAX_STACK or count > _MAX_INSTRUCTIONS:
                raise _NoRoom
            moved, instructions = self._with_cut_quotients(code, count, register)
            self.edits.append((stack, stack + 1, bytes([register + 1])))
            words = b"".join([word.to_bytes(4, "little") for word in instructions])
            self.edits.append((before, behind, _packed(len(instructions)) + words))
        self.skip(3)  # upvalues
        for _ in range(self.size()):
            self.function()
        self._debug(line, moved)

    def _debug(self, line: int, moved: list[int]) -> None:
        """Lines, local variables, upvalues' names.  ``moved``: where the instructions are now, if elsewhere."""
        before = self.at
        count = self.size()
        deltas = self.data[self.at : self.at + count]
        self.at += count
        bases = {self.size(): self.size() for _ in range(self.size())}
        if moved and count:
            self.edits.append((before, self.at, _lines(line, deltas, bases, moved)))
        for _ in range(self.size()):
            self.string()
            before = self.at
            if moved:
                start, end = self.size(), self.size()
                self.edits.append((before, self.at, _packed(moved[start]) + _packed(moved[end])))
            else:
                self.skip_sizes(2)
        for _ in range(self.size()):
            self.string()

    def constants(self) -> list[bytes]:
        """The constants that are strings, b"" in place of the others."""
        data = self.data
        found = []
        count = self.size()
        at = self.at
        for _ in range(count):
            kind = data[at]
            length = 0
            if kind == _SHORT and (byte := data[at + 1]) & 0x80:
                length = (byte & 0x7F) - 1
                at += 2
            elif kind in (_SHORT, _LONG):
                self.at = at + 1
                length = self.size() - 1
                at = self.at
            else:
                at += 9 if kind in (_FLOAT, _INTEGER) else 1
            found.append(data[at : at + length])
            at += length
        self.at = at
        return found

    # Calls of the library

    def _calls_library(self, code: int, index: int, names: list[bytes]) -> bool:
        """Whether what the register of a call was loaded from is a library, by name."""
        opcode, table, name = self._loaded(code, index, self._fields(code, index)[1], names)
        if opcode == _GETTABUP:
            return name in _GLOBALS
        if opcode == _SELF:
            return name == b"format"
        if opcode != _GETFIELD:
            return False
        opcode, _, name = self._loaded(code, table, self._fields(code, table)[2], names)
        return opcode == _GETTABUP and name in _TABLES

    def _loaded(self, code: int, index: int, register: int, names: list[bytes]) -> tuple[int, int, bytes]:
        """The last instruction before ``index`` that is about ``register``: (opcode, its index, the constant)."""
        for before in range(index - 1, max(-1, index - 1 - self.looks), -1):
            self.looks -= 1
            opcode, a, _, c = self._fields(code, before)
            if a == register and opcode not in (_JMP, _EXTRAARG):
                return opcode, before, names[c] if opcode in (_GETTABUP, _GETFIELD, _SELF) and c < len(names) else b""
        return -1, 0, b""

    def _fields(self, code: int, index: int) -> tuple[int, int, int, int]:
        """opcode, A, B, C."""
        low, middle, b, c = _INSTRUCTION.unpack_from(self.data, code + 4 * index)
        return low & 0x7F, low >> 7 | (middle & 0x7F) << 1, b, c

    def _make_ordinary(self, place: int) -> None:
        """OP_TAILCALL A B becomes OP_CALL A B with all results, which the OP_RETURN behind it returns."""
        self.changed[place] = self.changed[place] & 0x80 | _CALL
        self.changed[place + 1] &= 0x7F
        self.changed[place + 3] = 0

    # Divisions

    def _with_cut_quotients(self, code: int, count: int, register: int) -> tuple[list[int], list[int]]:
        """(where each instruction is now, all instructions), with a ``register`` that nobody used.

        A division skips the instruction behind it, a call of a metamethod, when both are numbers.  An OP_MMBIN leaves
        its result in the register of the instruction before it; errors name variables by what was loaded before it.
        """
        old = list(memoryview(bytes(self.changed[code : code + 4 * count])).cast("I"))
        again = _instruction(_MOVE, register, register)
        cut = _instruction(_MMBIN, register, register, _TM_GC)
        moved: list[int] = []
        new: list[int] = []
        index = 0
        while index < count:
            word = old[index]
            moved.append(len(new))
            if word & 0x7F not in _DIVISIONS:
                new.append(word)
                index += 1
                continue
            target = word >> _SHIFT_A & 0xFF
            divide = word & ~(0xFF << _SHIFT_A) | register << _SHIFT_A
            new += [divide, _jump(3), again, cut, _jump(2), again, old[index + 1]]
            moved.append(len(new) - 1)
            new.append(_instruction(_MOVE, target, register))
            index += 2
        moved.append(len(new))
        for index, word in enumerate(old):
            new[moved[index]] = _aimed(word, index, moved) if word & 0x7F in _JUMPS else new[moved[index]]
        return moved, new


_JUMPS = frozenset((_JMP, _FORLOOP, _FORPREP, _TFORPREP, _TFORLOOP))


def _aimed(word: int, index: int, moved: list[int]) -> int:
    """A jump of the old code, at ``index``, to the same instruction as before."""
    opcode, here = word & 0x7F, moved[index] + 1
    if opcode == _JMP:
        return _jump(moved[index + 1 + (word >> _SHIFT_A) - _BIAS_SJ] - here)
    distance = word >> _SHIFT_BX
    if opcode in (_FORLOOP, _TFORLOOP):
        distance = here - moved[index + 1 - distance]
    else:
        more = 1 if opcode == _FORPREP else 0
        distance = moved[index + 1 + distance + more] - here - more
    if not 0 <= distance <= _MAX_BX:
        raise _NoRoom
    return word & (1 << _SHIFT_BX) - 1 | distance << _SHIFT_BX


def _lines(first: int, deltas: bytes, bases: dict[int, int], moved: list[int]) -> bytes:
    """lineinfo and abslineinfo of the longer code; ``first`` is the function's first line."""
    lines: list[int] = []
    line = first
    for index, delta in enumerate(deltas):
        line = bases[index] if delta == _ABSLINEINFO else line + (delta ^ 0x80) - 0x80
        lines += [line] * (moved[index + 1] - moved[index])
    return _encoded_lines(lines, first)


def _encoded_lines(lines: list[int], line: int) -> bytes:
    deltas = bytearray()
    bases: list[int] = []
    since = 0
    for index, now in enumerate(lines):
        delta = now - line
        if -0x80 < delta < 0x80 and since < _LINES_WITHOUT_BASE:
            deltas.append(delta & 0xFF)
            since += 1
        else:
            deltas.append(_ABSLINEINFO)
            bases += [index, now]
            since = 0
        line = now
    return b"".join([_packed(len(deltas)), deltas, _packed(len(bases) // 2), *map(_packed, bases)])
