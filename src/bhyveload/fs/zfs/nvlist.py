"""XDR nvlists: the configuration in labels and in the MOS, and the boot environment block (stand/libsa/zfs/nvlist.c).

A list is kept as its pairs in stored order, each with the "decoded size" word it was stored with, so that encoding an
unchanged list gives the bytes that were read, as libsa's in-place edits do (stand/libsa/zfs/nvlist.c).
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EINVAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

DATA_TYPE_UNKNOWN = 0
DATA_TYPE_BOOLEAN = 1
DATA_TYPE_BYTE = 2
DATA_TYPE_INT16 = 3
DATA_TYPE_UINT16 = 4
DATA_TYPE_INT32 = 5
DATA_TYPE_UINT32 = 6
DATA_TYPE_INT64 = 7
DATA_TYPE_UINT64 = 8
DATA_TYPE_STRING = 9
DATA_TYPE_BYTE_ARRAY = 10
DATA_TYPE_INT16_ARRAY = 11
DATA_TYPE_UINT16_ARRAY = 12
DATA_TYPE_INT32_ARRAY = 13
DATA_TYPE_UINT32_ARRAY = 14
DATA_TYPE_INT64_ARRAY = 15
DATA_TYPE_UINT64_ARRAY = 16
DATA_TYPE_STRING_ARRAY = 17
DATA_TYPE_HRTIME = 18
DATA_TYPE_NVLIST = 19
DATA_TYPE_NVLIST_ARRAY = 20
DATA_TYPE_BOOLEAN_VALUE = 21
DATA_TYPE_INT8 = 22
DATA_TYPE_UINT8 = 23
DATA_TYPE_BOOLEAN_ARRAY = 24
DATA_TYPE_INT8_ARRAY = 25
DATA_TYPE_UINT8_ARRAY = 26

NV_UNIQUE_NAME = 1
NV_ENCODE_XDR = 1

_MAX_DEPTH = 8
_MAX_PAIRS = 1 << 16
"""In one stream, all nested lists together: a label or MOS configuration has some thousand."""

_U32 = Struct(">I")
_I32 = Struct(">i")
_U64 = Struct(">Q")
_I64 = Struct(">q")
_PAIR = Struct(">II")

# value in the stream and in memory (nvpair.h): (Struct, size of the value in memory)
_SCALARS = {
    DATA_TYPE_BYTE: (_U32, 1),
    DATA_TYPE_INT16: (_I32, 2),
    DATA_TYPE_UINT16: (_U32, 2),
    DATA_TYPE_INT32: (_I32, 4),
    DATA_TYPE_UINT32: (_U32, 4),
    DATA_TYPE_INT64: (_I64, 8),
    DATA_TYPE_UINT64: (_U64, 8),
    DATA_TYPE_HRTIME: (_I64, 8),
    DATA_TYPE_BOOLEAN_VALUE: (_U32, 4),
    DATA_TYPE_INT8: (_I32, 1),
    DATA_TYPE_UINT8: (_U32, 1),
}
_ARRAYS = {
    DATA_TYPE_INT16_ARRAY: "i",
    DATA_TYPE_UINT16_ARRAY: "I",
    DATA_TYPE_INT32_ARRAY: "i",
    DATA_TYPE_UINT32_ARRAY: "I",
    DATA_TYPE_INT64_ARRAY: "q",
    DATA_TYPE_UINT64_ARRAY: "Q",
    DATA_TYPE_BOOLEAN_ARRAY: "I",
    DATA_TYPE_INT8_ARRAY: "i",
    DATA_TYPE_UINT8_ARRAY: "I",
}


def _damaged(reason: str) -> FileSystemError:
    return FileSystemError(EINVAL, f"ZFS nvlist is damaged: {reason}")


class Pair:
    """A name, a DATA_TYPE_* and a value: int, bytes (strings), NvList, or a list of one of these; None for booleans.

    ``decoded_size`` is the stored in-memory size (not used for anything but giving it back)."""

    __slots__ = ("decoded_size", "name", "type", "value")

    def __init__(self, name: bytes, type: int, value: Any, decoded_size: int = 0) -> None:
        self.name = name
        self.type = type
        self.value = value
        self.decoded_size = decoded_size


class NvList:
    """Pairs in stored order.  Lookups give the first pair of that name and type, as nvlist_find does."""

    __slots__ = ("flag", "pairs", "version")

    def __init__(self, pairs: list[Pair] | None = None, flag: int = NV_UNIQUE_NAME, version: int = 0) -> None:
        self.pairs = [] if pairs is None else pairs
        self.flag = flag
        self.version = version

    def find(self, name: bytes, type: int) -> Any:
        """The value of the first pair of that name and type; None when there is none."""
        for pair in self.pairs:
            if pair.type == type and pair.name == name:
                return pair.value
        return None

    def uint64(self, name: bytes, default: int | None = None) -> int | None:
        value: int | None = self.find(name, DATA_TYPE_UINT64)
        return default if value is None else value

    def string(self, name: bytes) -> bytes | None:
        value: bytes | None = self.find(name, DATA_TYPE_STRING)
        return value

    def nvlist(self, name: bytes) -> NvList | None:
        value: NvList | None = self.find(name, DATA_TYPE_NVLIST)
        return value

    def nvlists(self, name: bytes) -> list[NvList]:
        value: list[NvList] | None = self.find(name, DATA_TYPE_NVLIST_ARRAY)
        return value or []

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def pair(self, name: bytes) -> Pair | None:
        """The first pair of that name, whatever its type (nvpair_find)."""
        for pair in self.pairs:
            if pair.name == name:
                return pair
        return None

    def set(self, name: bytes, type: int, value: Any) -> None:
        """Append a pair; an old one of the same name and type goes (nvlist_add_common, NV_UNIQUE_NAME)."""
        self.remove(name, type)
        self.pairs.append(Pair(name, type, value))

    def remove(self, name: bytes, type: int = DATA_TYPE_UNKNOWN) -> bool:
        """Remove the first pair of that name (and type, unless DATA_TYPE_UNKNOWN); whether there was one."""
        for index, pair in enumerate(self.pairs):
            if pair.name == name and type in (DATA_TYPE_UNKNOWN, pair.type):
                del self.pairs[index]
                return True
        return False


class _Reader:
    """A position in the stream; everything read is checked against its end."""

    __slots__ = ("data", "end", "pairs", "position")

    def __init__(self, data: bytes, position: int) -> None:
        self.data = data
        self.position = position
        self.end = len(data)
        self.pairs = 0

    def u32(self) -> int:
        value: int = _U32.unpack_from(self.data, self.position)[0]
        self.position += 4
        return value

    def take(self, length: int) -> bytes:
        start = self.position
        if length > self.end - start:
            raise _damaged(f"{length} bytes at {start} reach past its end")
        self.position = start + (length + 3 & ~3)
        return self.data[start : start + length]


def decode(data: bytes) -> NvList:
    """The list in a stream with its 4-byte header.  Raises FileSystemError (EINVAL): not XDR, or damaged."""
    return decode_prefix(data)[0]


def decode_prefix(data: bytes) -> tuple[NvList, int]:
    """The same, and how many bytes it takes."""
    if len(data) < 12 or data[0] != NV_ENCODE_XDR:
        raise _damaged("it is not an XDR stream")
    reader = _Reader(data, 4)
    try:
        return _decode_list(reader, 0), reader.position
    except (StructError, ValueError, OverflowError) as error:
        raise _damaged("it ends too early") from error


def _decode_list(reader: _Reader, depth: int) -> NvList:
    if depth > _MAX_DEPTH:
        raise _damaged(f"lists nested deeper than {_MAX_DEPTH}")
    version = reader.u32()
    flag = reader.u32()
    if depth == 0 and (version != 0 or flag != NV_UNIQUE_NAME):
        raise _damaged(f"version {version}, flag {flag:#x}")
    result = NvList([], flag, version)
    while True:
        start = reader.position
        encoded, decoded = _PAIR.unpack_from(reader.data, start)
        if not encoded or not decoded:
            reader.position = start + 8
            return result
        reader.pairs += 1
        if encoded < 20 or start + encoded > reader.end or reader.pairs > _MAX_PAIRS:
            raise _damaged(f"the pair at {start} has the length {encoded}")
        reader.position = start + 8
        name = reader.take(reader.u32())
        type = reader.u32()
        nelem = reader.u32()
        result.pairs.append(Pair(name, type, _decode_value(reader, type, nelem, start + encoded, depth), decoded))
        reader.position = start + encoded


def _decode_value(reader: _Reader, type: int, nelem: int, end: int, depth: int) -> Any:
    if type in _SCALARS:
        return _SCALARS[type][0].unpack_from(reader.data, reader.position)[0]
    if type == DATA_TYPE_STRING:
        return reader.take(reader.u32())
    if type == DATA_TYPE_NVLIST:
        return _decode_list(reader, depth + 1)
    if type == DATA_TYPE_NVLIST_ARRAY:
        if nelem > (end - reader.position) // 16:
            raise _damaged(f"an array of {nelem} lists")
        return [_decode_list(reader, depth + 1) for _ in range(nelem)]
    if type in _ARRAYS:
        count = reader.u32()
        array = Struct(f">{min(count, end - reader.position)}{_ARRAYS[type]}")
        if array.size > end - reader.position:
            raise _damaged(f"an array of {count} numbers")
        return list(array.unpack_from(reader.data, reader.position))
    if type == DATA_TYPE_STRING_ARRAY:
        if nelem > (end - reader.position) // 4:
            raise _damaged(f"an array of {nelem} strings")
        return [reader.take(reader.u32()) for _ in range(nelem)]
    if type == DATA_TYPE_BYTE_ARRAY:
        return reader.take(min(nelem, end - reader.position))
    return reader.data[reader.position : end]


def encode(nvlist: NvList) -> bytes:
    """The stream with its 4-byte header (XDR, little-endian writer), as nvlist_export leaves it."""
    return bytes((NV_ENCODE_XDR, 1, 0, 0)) + _encode_list(nvlist)


def _encode_list(nvlist: NvList) -> bytes:
    parts = [_PAIR.pack(nvlist.version, nvlist.flag)]
    for pair in nvlist.pairs:
        value, decoded = _encode_value(pair)
        body = _encode_string(pair.name) + _PAIR.pack(pair.type, _nelem(pair)) + value
        parts.append(_PAIR.pack(len(body) + 8, pair.decoded_size or _align8(16 + len(pair.name) + 1) + decoded))
        parts.append(body)
    parts.append(bytes(8))
    return b"".join(parts)


def _align8(size: int) -> int:
    return size + 7 & ~7


def _nelem(pair: Pair) -> int:
    if pair.type == DATA_TYPE_BOOLEAN:
        return 0
    if pair.type == DATA_TYPE_BYTE_ARRAY or isinstance(pair.value, list):
        return len(pair.value)
    return 1


def _encode_string(text: bytes) -> bytes:
    return _U32.pack(len(text)) + text + bytes(-len(text) % 4)


def _encode_value(pair: Pair) -> tuple[bytes, int]:
    """The value as stored, and its size in memory."""
    value = pair.value
    if pair.type in _SCALARS:
        layout, size = _SCALARS[pair.type]
        return layout.pack(value), _align8(size)
    if pair.type == DATA_TYPE_STRING:
        return _encode_string(value), _align8(len(value) + 1)
    if pair.type == DATA_TYPE_NVLIST:
        return _encode_list(value), 24
    if pair.type == DATA_TYPE_NVLIST_ARRAY:
        return b"".join(map(_encode_list, value)), len(value) * (24 + 8)
    if pair.type in _ARRAYS:
        code = _ARRAYS[pair.type]
        return _U32.pack(len(value)) + Struct(f">{len(value)}{code}").pack(*value), _align8(len(value) * 8)
    if pair.type == DATA_TYPE_STRING_ARRAY:
        return b"".join(map(_encode_string, value)), sum(len(text) + 9 for text in value)
    raw = bytes(value or b"")
    return raw + bytes(-len(raw) % 4), _align8(len(raw))
