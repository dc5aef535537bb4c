"""JSON text out.  The json module costs 15 ms at start; writing needs none of it.

The text is pure ASCII with every control character escaped: guest-controlled names may be in it and terminals show it.
"""

from __future__ import annotations

_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(0x20), 0x7F)}
_ESCAPES.update({ord('"'): '\\"', ord("\\"): "\\\\", 8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"})
_MAX_DEPTH = 100


def dumps(value: object, indent: int | None = None) -> str:
    """JSON text of None, bool, int, float, str, list, tuple and dict with str keys, nested up to 100 deep.

    ``indent``: spaces a level; None: all on one line.  Raises TypeError for other types, ValueError for NaN, infinity
    and too deep nesting: mistakes of the caller, no guest can cause them.
    """
    return _text(value, "" if indent is None else "\n", " " * (indent or 0), 0)


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


def _escape(code: int) -> str:
    """\\uXXXX, a surrogate pair above the basic plane.  Lone surrogates (undecodable bytes) stay what they are."""
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 | code >> 10:04x}\\u{0xDC00 | code & 0x3FF:04x}"
