"""What others wrote - guests, files, programs - as text that neither steers a terminal nor forges a line."""

from __future__ import annotations


def escape(text: str) -> str:
    """``text`` as printable ASCII: every other byte of it as \\xNN."""
    if text.isascii() and text.isprintable():
        return text
    return escape_bytes(text.encode("utf-8", "surrogateescape" if _encodable(text) else "backslashreplace"))


def escape_bytes(data: bytes, backslash: bool = False) -> str:
    """``data`` as printable ASCII: every other byte as \\xNN; ``backslash``: that one, too, so that bytes can be had
    back from it."""
    text = data.decode("latin-1")
    if text.isascii() and text.isprintable() and not (backslash and "\\" in text):
        return text
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and not (backslash and byte == 0x5C) else f"\\x{byte:02x}" for byte in data
    )


def mask(text: str | bytes, keep: str = "") -> str:
    """``text`` with a "?" for each character that is not printable nor in ``keep``.  Bytes are UTF-8."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else "?" for char in text)


def _encodable(text: str) -> bool:
    return not any("\ud800" <= char < "\udc80" or "\udcff" < char <= "\udfff" for char in text)
