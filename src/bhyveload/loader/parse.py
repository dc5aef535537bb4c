"""Splitting a command line into words: backslashes, quotes, variables (stand/common/interp_{parse,backslash}.c;
docs/errata.md, "Quotes and expansion")."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.compat import LoaderVersion
    from bhyveload.loader.environment import Environment

PARSE_BUFSIZE = 1024
MAXARGS = 20
_SPACE = " \t\n\v\f\r"
_ESCAPES = {"b": "\b", "f": "\f", "r": "\r", "n": "\n", "s": " ", "t": "\t", "v": "\v"}
_OCTAL = "01234567"
_HEX = "0123456789abcdefABCDEF"


class ParseError(Exception):
    """The line cannot be split; ``reason`` is one of the keys of LINES."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# "fail at line N": the line of interp_parse.c, 13.2's and the newer loader's (which lost three lines above them)
LINES = {
    "escape": 113,
    "quote": 118,
    "dquote": 125,
    "insert": 133,
    "plain": 145,
    "variable": 159,
    "open": 180,
    "last": 184,
}
_CURRENT_SHIFT = -3


def failure_line(reason: str, version: LoaderVersion) -> int:
    """The number in the loader's message for ``reason``."""
    return LINES[reason] + (_CURRENT_SHIFT if version == "current" else 0)


def backslash(text: str) -> str:
    """First pass: turn escapes into characters; `\\'`, `\\"` and `\\$` keep their backslash for the second pass."""
    out: list[str] = []
    at = 0
    while at < len(text):
        char = text[at]
        at += 1
        if char != "\\":
            out.append(char)
            continue
        if at == len(text):
            out.append("\\")
            break
        char = text[at]
        if char in "'\"$":
            out.append("\\")
            continue  # the character itself is copied by the next turn
        at += 1
        if char in _ESCAPES:
            out.append(_ESCAPES[char])
        elif char == "z":
            continue
        elif char in "0123" and (digits := _run(text, at, _OCTAL, 2)) == 2:
            out.append(chr(int(text[at - 1 : at + 2], 8)))
            at += digits
        elif char == "0" and text[at : at + 1] in ("x", "X") and (digits := _run(text, at + 1, _HEX, 2)):
            out.append(chr(int(text[at + 1 : at + 1 + digits], 16)))
            at += 1 + digits
        else:
            out.append(char)
    return "".join(out)


def _run(text: str, at: int, allowed: str, most: int) -> int:
    count = 0
    while count < most and text[at + count : at + count + 1] and text[at + count] in allowed:
        count += 1
    return count


def parse(line: str, environment: Environment) -> list[str]:
    """The words of ``line``: at most 20, of at most 1023 characters.  Raises ParseError."""
    text = backslash(line.partition("\0")[0]).partition("\0")[0]
    words: list[str] = []
    word: list[str] = []
    size = 0
    quote = dquote = False
    at = 0
    while at < len(text):
        char = text[at]
        if char == "\\" and at + 1 < len(text):
            size = _append(word, text[at + 1], size, "escape")
            at += 2
        elif char == "'":
            quote = not quote
            if dquote:
                size = _append(word, char, size, "quote")
            at += 1
        elif char == '"':
            dquote = not dquote
            if quote:
                size = _append(word, char, size, "dquote")
            at += 1
        elif char in _SPACE and not quote and not dquote:
            if size:
                _insert(words, word, "insert")
                word, size = [], 0
            while at < len(text) and text[at] in _SPACE:
                at += 1
        elif char == "$" and not quote:
            if at + 1 + (text[at + 1 : at + 2] in ("{", "(")) >= len(text):
                word, size = [], 0  # the line ends in a dollar sign: its last word is not taken
                break
            value, at = _variable(text, at + 1, environment)
            if value:
                value = value[: PARSE_BUFSIZE - (size + 1)]
                word.append(value)
                size += len(value)
        else:
            size = _append(word, char, size, "plain")
            at += 1
    if quote or dquote:
        raise ParseError("open")
    if size:
        _insert(words, word, "last")
    return words


def _append(word: list[str], char: str, size: int, reason: str) -> int:
    if size == PARSE_BUFSIZE - 1:
        raise ParseError(reason)
    word.append(char)
    return size + 1


def _insert(words: list[str], word: list[str], reason: str) -> None:
    if len(words) >= MAXARGS:
        raise ParseError(reason)
    words.append("".join(word))


def _variable(text: str, at: int, environment: Environment) -> tuple[str, int]:
    """(value, index behind) of the variable named at ``at`` (behind the dollar sign)."""
    closing = {"{": "}", "(": ")"}.get(text[at : at + 1])
    if closing:
        end = text.find(closing, at + 1)
        if end < 0:
            raise ParseError("variable")
        return environment.get(text[at + 1 : end]) or "", end + 1
    end = at
    while end < len(text) and text[end] not in _SPACE:
        end += 1
    return environment.get(text[at:end]) or "", end
