"""What is in a tar stream that a guest wrote: every number checked.  Confined children read it (listing.py).

Python's own reader is for archives that one trusts (before 3.11.4 it has no filters, before 3.13.6 it turns back at a
negative size for ever).  Formats: POSIX ustar and pax with libarchive's and GNU's sparse files, GNU's long names.
Sources: POSIX pax(1), libarchive's tar(5), GNU tar's manual ("Storing Sparse Files").
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from bhyveload.errors import GuestError, HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
PATH_MAX = 4096
APPARENT_MAX = 1 << 42  # bytes of a file with its holes
PIECES_MAX = 1 << 18  # of a sparse file
TIME_MAX = 1 << 33
_HEADER_MAX = 1 << 20  # bytes of the pax headers and long names in front of an entry
_DEPTH_MAX = 128
REGULAR, HARD_LINK, SYMLINK, FOLDER = "file", "hard link", "symbolic link", "folder"
_KINDS = {b"0": REGULAR, b"\0": REGULAR, b"7": REGULAR, b"1": HARD_LINK, b"2": SYMLINK, b"5": FOLDER}
_OTHERS = {b"3": "character device", b"4": "block device", b"6": "pipe"}
_UNKNOWN = "something unknown"
KINDS = frozenset([*_KINDS.values(), *_OTHERS.values(), _UNKNOWN])


class ArchiveEntry(NamedTuple):
    """``parts``: its path; ``pieces``: (place in the file, place on the disk, bytes); ``size`` with its holes;
    ``at``: where the next header is."""

    kind: str
    parts: tuple[bytes, ...]
    mode: int
    modified: int
    size: int
    target: bytes
    pieces: tuple[tuple[int, int, int], ...]
    at: int


class Archive:
    """The stream in the first ``size`` bytes of ``fd``."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self._size = fd, size

    def read(self, at: int, length: int) -> bytes:
        """Raises GuestError, HostError."""
        if at + length > self._size:
            raise damaged("it ends too early")
        data = bytearray()
        try:
            while len(data) < length:
                piece = os.pread(self._fd, length - len(data), at + len(data))
                if not piece:
                    raise damaged("it ends too early")
                data += piece
        except OSError as error:
            raise HostError(f"the guest's folder: {error.strerror}") from None
        return bytes(data)

    def entries(self, at: int = 0) -> Iterator[ArchiveEntry]:
        """Those from the header at byte ``at`` on.  Raises GuestError, HostError."""
        headers = 0
        more: dict[bytes, bytes] = {}
        while True:
            header = self.read(at, BLOCK)
            if not any(header):
                if at == 0:
                    raise damaged("there is none")
                return
            _check_sum(header)
            kind, size = header[156:157], _number(header[124:136])
            at += BLOCK
            if kind in b"xgLK":
                data = self._extension(at, size)
                at += _padded(size)
                headers += BLOCK + len(data)
                if headers > _HEADER_MAX:
                    raise damaged("headers without end")
                if kind == b"x":
                    more |= _pax(data)
                elif kind != b"g":
                    more[b"path" if kind == b"L" else b"linkpath"] = data.rstrip(b"\0")
                continue
            entry = self._entry(header, kind, more, at)
            more, headers = {}, 0
            at = entry.at
            yield entry

    def _extension(self, at: int, size: int) -> bytes:
        if size > _HEADER_MAX:
            raise damaged(f"a header of {size} bytes")
        return self.read(at, size)

    def _entry(self, header: bytes, kind: bytes, more: dict[bytes, bytes], at: int) -> ArchiveEntry:
        size = _decimal(more, b"size", _number(header[124:136]))
        name = more.get(b"GNU.sparse.name") or more.get(b"path") or _name(header)
        word = _KINDS.get(kind) or _OTHERS.get(kind, _UNKNOWN)
        stored = size if word == REGULAR else 0
        end = at + _padded(stored)
        if end > self._size:
            raise damaged(f"{shown(name)}: a file of {size} bytes")
        pieces: tuple[tuple[int, int, int], ...] = ((0, at, stored),) if stored else ()
        full = stored
        if b"GNU.sparse.major" in more and word == REGULAR:
            pieces, full = self._sparse(more, at, stored)
        return ArchiveEntry(
            word,
            path_parts(name),
            _number(header[100:108]) & 0o777,
            _time(more.get(b"mtime", b"").partition(b".")[0], header[136:148]),
            full,
            more.get(b"linkpath") or header[157:257].partition(b"\0")[0],
            pieces,
            end,
        )

    def _sparse(self, more: dict[bytes, bytes], at: int, stored: int) -> tuple[tuple[tuple[int, int, int], ...], int]:
        """GNU's version 1.0, which libarchive writes: a map of decimal lines in front of the data."""
        if (more[b"GNU.sparse.major"], more.get(b"GNU.sparse.minor")) != (b"1", b"0"):
            raise damaged("a sparse file of an unknown version")
        full = _decimal(more, b"GNU.sparse.realsize", -1)
        lines = self._lines(at, stored)
        count = _line(next(lines)[0])
        if not 0 <= full <= APPARENT_MAX or count > PIECES_MAX:
            raise damaged("a sparse file's size")
        pieces, used, position = [], 0, 0
        end_of_map = 0
        for _ in range(count):
            offset, length = _line(next(lines)[0]), 0
            text, end_of_map = next(lines)
            length = _line(text)
            if offset < position or offset + length > full:
                raise damaged("a sparse file's map")
            pieces.append((offset, used, length))
            used += length
            position = offset + length
        if not count:
            end_of_map = 1
        start = at + _padded(end_of_map)
        if _padded(end_of_map) + used > stored:
            raise damaged("a sparse file's map")
        return tuple((offset, start + place, length) for offset, place, length in pieces), full

    def _lines(self, at: int, stored: int) -> Iterator[tuple[bytes, int]]:
        """The lines of a sparse file's map, each with the bytes up to its end."""
        done, rest = 0, b""
        while done < stored:
            block = self.read(at + done, min(BLOCK, stored - done))
            begin = done - len(rest)
            rest += block
            done += len(block)
            while (end := rest.find(b"\n")) >= 0:
                begin += end + 1
                yield rest[:end], begin
                rest = rest[end + 1 :]
            if len(rest) > BLOCK:
                break
        raise damaged("a sparse file's map")


def path_parts(name: bytes) -> tuple[bytes, ...]:
    """Raises GuestError: a path that leads elsewhere."""
    if name.startswith(b"/") or b"\0" in name or len(name) > PATH_MAX:
        raise damaged(f"the path {shown(name)}")
    parts = tuple(word for word in name.split(b"/") if word not in (b"", b"."))
    if b".." in parts or len(parts) > _DEPTH_MAX or any(len(part) > 255 for part in parts):
        raise damaged(f"the path {shown(name)}")
    return parts


def _name(header: bytes) -> bytes:
    name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _check_sum(header: bytes) -> None:
    if sum(header[:148]) + 8 * 0x20 + sum(header[156:]) != _number(header[148:156]):
        raise damaged("a header's checksum")


def _number(field: bytes) -> int:
    """Octal, or base 256 behind a high bit; never negative."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40 or value >> 63:
            raise damaged("a number")
        return value
    text = field.strip(b"\0 ")
    if not text:
        return 0
    if text.strip(b"01234567"):
        raise damaged("a number")
    return int(text, 8)


def _time(text: bytes, field: bytes) -> int:
    """Seconds since 1970, as pax or the header has them; what is before that, or far behind us, is not kept so."""
    if text.isdigit() and len(text) < 12:
        return min(int(text), TIME_MAX)
    return 0 if text.startswith(b"-") or field[0] & 0xC0 == 0xC0 else min(_number(field), TIME_MAX)


def _decimal(more: dict[bytes, bytes], name: bytes, default: int) -> int:
    return _line(more[name]) if name in more else default


def _line(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise damaged("a number")
    return int(text)


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Records ``LENGTH NAME=VALUE\\n``."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        if space <= at:
            raise damaged("a header's record")
        length = _line(data[at:space])
        record = data[space + 1 : at + length]
        name, equals, value = record.partition(b"=")
        if at + length > len(data) or not equals or not value.endswith(b"\n"):
            raise damaged("a header's record")
        found[name] = value[:-1]
        at += length
    return found


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def shown(name: bytes) -> str:
    return os.fsdecode(name[:200])


def damaged(what: str) -> GuestError:
    return GuestError(f"what the guest wrote is no folder that can be taken: {what}", "does its tar(1) work?")
