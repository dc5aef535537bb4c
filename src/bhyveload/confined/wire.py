"""How a confined child reports to its parent.  The child runs guest code, so the parent takes nothing for granted.

A value is one of

    n                   None
    t  f                True, False
    i<decimal>e         int, canonical, at most 300 bits (91 digits)
    s<length>:<bytes>   str, UTF-8 with surrogateescape
    b<length>:<bytes>   bytes
    l<value>...e        list
    d<s...><value>...e  dict with distinct str keys

nested at most 32 deep, at most 2**20 values, at most 16 MiB.
"""

from __future__ import annotations

from bhyveload.errors import ReportError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_SIZE = 16 << 20
MAX_DEPTH = 32
MAX_VALUES = 1 << 20
MAX_BITS = 300
MAX_DIGITS = 91  # of 300 bits
_LENGTH_DIGITS = 8
_CONSTANTS: dict[bytes, bool | None] = {b"n": None, b"t": True, b"f": False}


def encode(value: object) -> bytes:
    """The report's bytes.  Raises ReportError: too large, too deep, too many values; TypeError: no such type."""
    pieces: list[bytes] = []
    _encode(value, pieces, 0)
    data = b"".join(pieces)
    if len(data) > MAX_SIZE:
        raise ReportError(f"report of {len(data)} bytes is larger than {MAX_SIZE >> 20} MiB")
    return data


def _encode(value: object, pieces: list[bytes], depth: int) -> None:
    if value is None:
        pieces.append(b"n")
    elif value is True:
        pieces.append(b"t")
    elif value is False:
        pieces.append(b"f")
    elif isinstance(value, int):
        if value.bit_length() > MAX_BITS:
            raise ReportError(f"report holds an integer of {value.bit_length()} bits")
        pieces.append(b"i%de" % value)
    elif isinstance(value, str):
        try:
            data = value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise ReportError("report holds text that is no Unicode") from None
        pieces.append(b"s%d:" % len(data))
        pieces.append(data)
    elif isinstance(value, bytes):
        pieces.append(b"b%d:" % len(value))
        pieces.append(value)
    elif not isinstance(value, (list, tuple, dict)):
        raise TypeError(f"a report cannot hold a {type(value).__name__}")
    elif depth == MAX_DEPTH:
        raise ReportError(f"report is nested more than {MAX_DEPTH} deep")
    elif isinstance(value, dict):
        pieces.append(b"d")
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a report's names are strings, not {type(key).__name__}")
            _encode(key, pieces, depth)
            _encode(item, pieces, depth + 1)
        pieces.append(b"e")
    else:
        pieces.append(b"l")
        for item in value:
            _encode(item, pieces, depth + 1)
        pieces.append(b"e")
    if len(pieces) > 4 * MAX_VALUES:
        raise ReportError(f"report holds more than {MAX_VALUES} values")


def decode(data: bytes, limit: int = MAX_SIZE) -> Any:
    """The value in ``data``, which came from a process that may lie.  Raises ReportError on anything malformed."""
    if len(data) > limit:
        raise ReportError(f"report of {len(data)} bytes, more than {limit} are not read")
    reader = _Reader(data)
    value = reader.value(0)
    if reader.at != len(data):
        raise reader.malformed("more behind its end")
    return value


class _Reader:
    """A place in the bytes of a report."""

    __slots__ = ("_data", "_left", "at")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MAX_VALUES
        self.at = 0

    def malformed(self, what: str) -> ReportError:
        return ReportError(f"malformed report at byte {self.at}: {what}")

    def value(self, depth: int) -> Any:
        kind = self._data[self.at : self.at + 1]
        self._left -= 1
        if self._left < 0:
            raise self.malformed(f"more than {MAX_VALUES} values")
        self.at += 1
        if kind in _CONSTANTS:
            return _CONSTANTS[kind]
        if kind == b"i":
            return self._integer(b"e", MAX_DIGITS)
        if kind == b"s":
            return self._bytes().decode("utf-8", "surrogateescape")
        if kind == b"b":
            return self._bytes()
        if kind == b"l":
            return self._list(depth)
        if kind == b"d":
            return self._dict(depth)
        self.at -= 1
        raise self.malformed(f"no value begins with {kind!r}" if kind else "it ends too early")

    def _integer(self, end: bytes, digits: int) -> int:
        stop = self._data.find(end, self.at, self.at + digits + 2)
        text = self._data[self.at : stop] if stop >= 0 else b""
        magnitude = text[1:] if text[:1] == b"-" else text
        # canonical: ASCII digits, no leading zero, no minus zero
        if not magnitude.isdigit() or len(magnitude) > digits or (magnitude[:1] == b"0" and len(text) > 1):
            raise self.malformed("no number")
        self.at = stop + 1
        value = int(text)
        if value.bit_length() > MAX_BITS:
            raise self.malformed(f"an integer of {value.bit_length()} bits")
        return value

    def _bytes(self) -> bytes:
        length = self._integer(b":", _LENGTH_DIGITS)
        end = self.at + length
        if length < 0 or end > len(self._data):
            raise self.malformed("length outside the report")
        data = self._data[self.at : end]
        self.at = end
        return data

    def _nested(self, depth: int) -> None:
        if depth == MAX_DEPTH:
            raise self.malformed(f"nested more than {MAX_DEPTH} deep")

    def _at_end(self) -> bool:
        if self._data[self.at : self.at + 1] != b"e":
            return False
        self.at += 1
        return True

    def _list(self, depth: int) -> list[Any]:
        self._nested(depth)
        items = []
        while not self._at_end():
            items.append(self.value(depth + 1))
        return items

    def _dict(self, depth: int) -> dict[str, Any]:
        self._nested(depth)
        members: dict[str, Any] = {}
        while not self._at_end():
            key = self.value(depth + 1)
            if not isinstance(key, str):
                raise self.malformed("a name that is no string")
            if key in members:
                raise self.malformed("a name that comes twice")
            members[key] = self.value(depth + 1)
        return members
