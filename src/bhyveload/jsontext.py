"""JSON by the C half of Python's json; the module itself costs 15 ms at start.

The text that is written is pure ASCII with every control character escaped: guest-controlled names may be in it and
terminals show it.  A byte NN of a name that is no UTF-8 is the character U+10FFNN in all our documents.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(0x20), 0x7F)}
_ESCAPES.update({ord('"'): '\\"', ord("\\"): "\\\\", 8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"})
_MAX_DEPTH = 100
_UNDECODABLE = 0xDC00  # and the byte, from 0x80 on: surrogateescape
_STANDS_FOR = 0x10FF80  # up to 0x10FFFF: the same bytes in a document
_SPACE = " \t\n\r"


def dumps(value: object, indent: int | None = None) -> str:
    """JSON text of None, bool, int, float, str, list, tuple and dict with str keys, nested up to 100 deep.

    ``indent``: spaces a level; None: all on one line.  Raises TypeError for other types, ValueError for NaN, infinity
    and too deep nesting: mistakes of the caller, no guest can cause them.
    """
    return _text(value, "" if indent is None else "\n", " " * (indent or 0), 0)


def compact(value: object) -> str:
    """``dumps`` on one line, of a value that is known to be of JSON's types (it has passed a shape): by the C half
    of Python's json, four times as fast."""
    text = "".join(_encode(value, 0))
    # what is escaped otherwise there
    return dumps(value) if "\x7f" in text or "\\ud" in text else text


def _other(value: object) -> NoReturn:
    raise TypeError(f"JSON has no {type(value).__name__}")


_encode = make_encoder(None, _other, encode_basestring_ascii, None, ": ", ", ", False, False, False)


def _text(value: object, newline: str, step: str, depth: int) -> str:
    if isinstance(value, str):
        return _string(value)
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        if value - value != 0:
            raise ValueError(f"JSON has no {value}")
        return float.__repr__(value)
    if depth == _MAX_DEPTH:
        raise ValueError(f"JSON value nested more than {_MAX_DEPTH} deep")
    inner = newline + step * (depth + 1) if newline else ""
    outer = newline + step * depth if newline else ""
    separator = "," + inner if newline else ", "
    if isinstance(value, (list, tuple)):
        items = [_text(item, newline, step, depth + 1) for item in value]
        return f"[{inner}{separator.join(items)}{outer}]" if items else "[]"
    if isinstance(value, dict):
        items = [f"{_key(key)}: {_text(item, newline, step, depth + 1)}" for key, item in value.items()]
        return f"{{{inner}{separator.join(items)}{outer}}}" if items else "{}"
    raise TypeError(f"JSON has no {type(value).__name__}")


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"JSON names are strings, not {type(key).__name__}")
    return _string(key)


def _string(text: str) -> str:
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    text = text.translate(_ESCAPES)
    if not text.isascii():
        text = "".join(char if char < "\x80" else _escape(ord(char)) for char in text)
    return f'"{text}"'


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"JSON has no {text}")


class _Scanning:
    """json.JSONDecoder's settings, as make_scanner wants them."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int = float, int
    parse_constant = staticmethod(_no_constant)
    memo: dict[str, str] = {}


_SETTINGS: Any = _Scanning()
_scan = make_scanner(_SETTINGS)


def loads(data: bytes) -> Any:
    """The value in ``data``, UTF-8.  Raises ValueError: not JSON; RecursionError: nested too deep."""
    text = data.decode().strip(_SPACE)
    try:
        value, end = _scan(text, 0)
    except StopIteration as stop:
        raise ValueError(f"no value begins at {stop.value}") from None
    if end != len(text):
        raise ValueError(f"more behind its end at {end}")
    return value


def restored(value: object) -> object:
    """What ``loads`` gave of a document of ours, with the bytes of names that are no UTF-8 as Python has them
    (surrogateescape)."""
    if isinstance(value, str):
        if value.isascii():
            return value
        return "".join(chr(_UNDECODABLE | ord(char) & 0xFF) if ord(char) >= _STANDS_FOR else char for char in value)
    if isinstance(value, list):
        return [restored(item) for item in value]
    if isinstance(value, dict):
        return {restored(key): restored(item) for key, item in value.items()}
    return value


def _escape(code: int) -> str:
    """\\uXXXX, a surrogate pair above the basic plane.

    Strict readers refuse lone surrogates: what Python has for the byte NN that is no UTF-8 becomes U+10FFNN, a
    character for private use; any other one U+FFFD.
    """
    if 0xD800 <= code < 0xE000:
        code = _STANDS_FOR | (code & 0x7F) if _UNDECODABLE | 0x80 <= code <= _UNDECODABLE | 0xFF else 0xFFFD
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 | code >> 10:04x}\\u{0xDC00 | code & 0x3FF:04x}"
