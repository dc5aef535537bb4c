"""How a confined child reports to its parent: JSON text, ASCII only.

The child runs guest code, so the parent takes nothing for granted.  What is in a report has to fit its shape
(shape.py); here are the bounds that hold for all: 16 MiB, 2**20 values, no fractions.  The text is read and written by
the C half of Python's json; the module itself costs 15 ms at start, the report of a kernel with 700 modules 8 ms where
Python reads it.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_encoder, make_scanner

from bhyveload.errors import ReportError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

MAX_SIZE = 16 << 20
MAX_VALUES = 1 << 20


def _no_type(value: object) -> NoReturn:
    raise TypeError(f"a report cannot hold a {type(value).__name__}")


def _no_number(text: str) -> NoReturn:
    raise ReportError(f"malformed report: {text[:40]!a} is no whole number")


class _Reading:
    """json.JSONDecoder's settings, as make_scanner wants them."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = parse_constant = staticmethod(_no_number)
    parse_int = int
    memo: dict[str, str] = {}


_encode = make_encoder(None, _no_type, encode_basestring_ascii, None, ":", ",", False, False, False)
_SETTINGS: Any = _Reading()
_scan = make_scanner(_SETTINGS)


def encode(value: object) -> bytes:
    """The report's bytes.  Text may hold what surrogateescape makes of bytes that are no UTF-8; tuples become lists.

    Raises ReportError: larger than 16 MiB; TypeError: no such type.
    """
    data = "".join(_encode(value, 0)).encode("ascii")
    if len(data) > MAX_SIZE:
        raise ReportError(f"report of {len(data)} bytes is larger than {MAX_SIZE >> 20} MiB")
    return data


def decode(data: bytes, limit: int = MAX_SIZE) -> Any:
    """The value in ``data``, which came from a process that may lie.  Raises ReportError on anything malformed."""
    if len(data) > limit:
        raise ReportError(f"report of {len(data)} bytes, more than {limit} are not read")
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise ReportError(f"malformed report: more than {MAX_VALUES} values")
    try:
        text = data.decode("ascii")
        value, end = _scan(text, 0)
    except StopIteration as stop:
        raise ReportError(f"malformed report at byte {stop.value}: no value begins here") from None
    except ValueError as error:  # json's own, a byte that is no ASCII, a number of thousands of digits
        raise ReportError(f"malformed report: {error}") from None
    except RecursionError:
        raise ReportError("malformed report: nested too deep") from None
    if end != len(text):
        raise ReportError(f"malformed report at byte {end}: more behind its end")
    return value
