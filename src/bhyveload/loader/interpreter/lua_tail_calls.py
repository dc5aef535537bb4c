"""Calls of library functions that a Lua function ends with (`return tonumber(x)`).

In C a library function that is called so leaves its caller's frame alone (luaD_pretailcall in ldo.c): what it
complains about names the caller's line.  Ours are Lua functions, in whose place no frame is left.  So such calls become
ordinary ones, in the compiled chunk as string.dump shows it (lopcodes.h, ldump.c of Lua 5.4).
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
_GETTABUP, _GETFIELD, _SELF, _JMP, _CALL, _TAILCALL, _EXTRAARG = 11, 14, 20, 56, 68, 69, 82
_OPCODE = bytes(byte & 0x7F for byte in range(256))
_INSTRUCTION = Struct("<4B")
_GLOBALS = frozenset(
    (b"tonumber", b"tostring", b"print", b"printc", b"load", b"loadfile", b"dofile", b"pcall", b"xpcall", b"warn")
)
_TABLES = frozenset((b"loader", b"io", b"lfs", b"pager", b"string", b"package"))


def keep_callers(dumped: str) -> str:
    """The chunk (latin-1) with those calls replaced; unchanged when it is of another Lua."""
    data = dumped.encode("latin-1")
    if not data.startswith(_HEADER):
        return dumped
    chunk = _Chunk(data)
    chunk.function()
    return chunk.changed.decode("latin-1")


PRIMITIVES: dict[str, Callable[..., Result]] = {"keep_callers": keep_callers}


class _Chunk:
    """A dumped chunk on its way from the first function to the last; ``changed`` is the copy."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.changed = bytearray(data)
        self.at = _BEHIND_HEADER

    def size(self) -> int:
        """dumpSize: seven bits a byte, the last one marked."""
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
        length = max(0, self.size() - 1)
        self.at += length
        return self.data[self.at - length : self.at]

    def function(self) -> None:
        self.string()  # source
        self.skip_sizes(2)  # its lines
        self.at += 3  # parameters, whether there are more, stack
        code = self.at + 1
        while self.data[code - 1] < 0x80:
            code += 1
        self.skip(4)
        opcodes = self.data[code : self.at : 4].translate(_OPCODE)
        names = self.constants()
        index = opcodes.find(_TAILCALL)
        while index >= 0:
            if self._calls_library(code, index, names):
                self._make_ordinary(code + 4 * index)
            index = opcodes.find(_TAILCALL, index + 1)
        self.skip(3)  # upvalues
        for _ in range(self.size()):
            self.function()
        self.skip(1)  # lines
        self.skip_sizes(2 * self.size())  # lines of some instructions
        for _ in range(self.size()):  # local variables
            self.string()
            self.skip_sizes(2)
        for _ in range(self.size()):  # upvalues' names
            self.string()

    def constants(self) -> list[bytes]:
        """The constants that are strings, b"" in place of the others."""
        data = self.data
        found = []
        for _ in range(self.size()):
            kind = data[self.at]
            self.at += 1
            if kind in (_SHORT, _LONG):
                found.append(self.string())
                continue
            if kind in (_FLOAT, _INTEGER):
                self.at += 8
            found.append(b"")
        return found

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
        for before in range(index - 1, -1, -1):
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
