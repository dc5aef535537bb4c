"""A tar stream that a guest wrote: every number checked, every name walked, nothing outside of the target touched.

Python's own reader is for archives that one trusts (before 3.11.4 it has no filters, before 3.13.6 it turns back at a
negative size for ever).  Formats: POSIX ustar and pax with libarchive's and GNU's sparse files, GNU's long names.
Sources: POSIX pax(1), libarchive's tar(5), GNU tar's manual ("Storing Sparse Files").
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from bhyveload.errors import GuestError, HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK = 512
_ENTRIES_MAX = 1_000_000
_HEADER_MAX = 1 << 20  # bytes of the pax headers and long names in front of an entry
_PATH_MAX = 4096
_DEPTH_MAX = 128
_APPARENT_MAX = 1 << 42  # bytes of all files with their holes
_PIECES_MAX = 1 << 20  # of all sparse files
_COPY = 1 << 20
_TIME_MAX = 1 << 33
_LEFT_OUT_MAX = 1000
REGULAR, HARD_LINK, SYMLINK, FOLDER = "file", "hard link", "symbolic link", "folder"
_KINDS = {b"0": REGULAR, b"\0": REGULAR, b"7": REGULAR, b"1": HARD_LINK, b"2": SYMLINK, b"5": FOLDER}
_OTHERS = {b"3": "character device", b"4": "block device", b"6": "pipe"}


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
            raise _damaged("it ends too early")
        data = bytearray()
        try:
            while len(data) < length:
                piece = os.pread(self._fd, length - len(data), at + len(data))
                if not piece:
                    raise _damaged("it ends too early")
                data += piece
        except OSError as error:
            raise HostError(f"the guest's folder: {error.strerror}") from None
        return bytes(data)

    def entries(self) -> Iterator[ArchiveEntry]:
        """Raises GuestError, HostError."""
        at = headers = pieces = 0
        more: dict[bytes, bytes] = {}
        for _ in range(_ENTRIES_MAX):
            header = self.read(at, BLOCK)
            if not any(header):
                if at == 0:
                    raise _damaged("there is none")
                return
            _check_sum(header)
            kind, size = header[156:157], _number(header[124:136])
            at += BLOCK
            if kind in b"xgLK":
                data = self._extension(at, size)
                at += _padded(size)
                headers += len(data)
                if headers > _HEADER_MAX:
                    raise _damaged("headers without end")
                if kind == b"x":
                    more |= _pax(data)
                elif kind != b"g":
                    more[b"path" if kind == b"L" else b"linkpath"] = data.rstrip(b"\0")
                continue
            entry = self._entry(header, kind, more, at)
            more, headers = {}, 0
            at = entry.at
            pieces += max(0, len(entry.pieces) - 1)
            if pieces > _PIECES_MAX:
                raise _damaged(f"sparse files of more than {_PIECES_MAX} pieces")
            yield entry
        raise _damaged(f"it has more than {_ENTRIES_MAX} entries")

    def _extension(self, at: int, size: int) -> bytes:
        if size > _HEADER_MAX:
            raise _damaged(f"a header of {size} bytes")
        return self.read(at, size)

    def _entry(self, header: bytes, kind: bytes, more: dict[bytes, bytes], at: int) -> ArchiveEntry:
        size = _decimal(more, b"size", _number(header[124:136]))
        name = more.get(b"GNU.sparse.name") or more.get(b"path") or _name(header)
        word = _KINDS.get(kind) or _OTHERS.get(kind, "something unknown")
        stored = size if word == REGULAR else 0
        end = at + _padded(stored)
        if end > self._size:
            raise _damaged(f"{_shown(name)}: a file of {size} bytes")
        pieces: tuple[tuple[int, int, int], ...] = ((0, at, stored),) if stored else ()
        full = stored
        if b"GNU.sparse.major" in more and word == REGULAR:
            pieces, full = self._sparse(more, at, stored)
        return ArchiveEntry(
            word,
            _parts(name),
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
            raise _damaged("a sparse file of an unknown version")
        full = _decimal(more, b"GNU.sparse.realsize", -1)
        lines = self._lines(at, stored)
        count = _line(next(lines)[0])
        if not 0 <= full <= _APPARENT_MAX or count > _PIECES_MAX:
            raise _damaged("a sparse file's size")
        pieces, used, position = [], 0, 0
        end_of_map = 0
        for _ in range(count):
            offset, length = _line(next(lines)[0]), 0
            text, end_of_map = next(lines)
            length = _line(text)
            if offset < position or offset + length > full:
                raise _damaged("a sparse file's map")
            pieces.append((offset, used, length))
            used += length
            position = offset + length
        if not count:
            end_of_map = 1
        start = at + _padded(end_of_map)
        if _padded(end_of_map) + used > stored:
            raise _damaged("a sparse file's map")
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
        raise _damaged("a sparse file's map")

    def copy(self, entry: ArchiveEntry, fd: int) -> None:
        """An entry's bytes into a new file.  Raises GuestError, HostError."""
        for offset, place, length in entry.pieces:
            done = 0
            while done < length:
                data = self.read(place + done, min(_COPY, length - done))
                written = 0
                while written < len(data):
                    written += os.pwrite(fd, data[written:], offset + done + written)
                done += len(data)
        os.ftruncate(fd, entry.size)


def extract(archive: Archive, folder: str, step: Callable[[int, int], None] | None = None) -> list[str]:
    """The stream as files in ``folder``, which is made if it is not there.  They are ours, with their permissions and
    times; no link leads out of the folder.  Returned is what was left out, and why; ``step``: bytes done, in all.

    Raises GuestError (a stream that no tar writes), HostError.
    """
    left_out: list[str] = []
    apparent = 0
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{folder}: {error.strerror}") from None
    times: list[tuple[tuple[bytes, ...], int, int]] = []
    done = 0
    try:
        total = sum(sum(length for _, _, length in entry.pieces) for entry in archive.entries()) if step else 0
        for entry in archive.entries():
            apparent += entry.size
            if apparent > _APPARENT_MAX:
                raise _damaged("its files are too large")
            reason = _put(archive, root, entry)
            if reason and len(left_out) < _LEFT_OUT_MAX:
                left_out.append(f"{_shown(b'/'.join(entry.parts))}: {reason}")
            if entry.kind == FOLDER and not reason:
                times.append((entry.parts, entry.mode, entry.modified))
            done += sum(length for _, _, length in entry.pieces)
            if step is not None:
                step(done, total)
        for parts, mode, modified in reversed(times):
            _finish_folder(root, parts, mode, modified)
    finally:
        os.close(root)
    return left_out


def _put(archive: Archive, root: int, entry: ArchiveEntry) -> str:
    """One entry below ``root``; why it is left out, or ""."""
    if entry.kind not in (REGULAR, HARD_LINK, SYMLINK, FOLDER):
        return f"a {entry.kind}"
    if entry.kind == SYMLINK and not _stays_inside(entry):
        return f"a link out of the folder, to {_shown(entry.target)}"
    if not entry.parts:
        return "" if entry.kind == FOLDER else f"a {entry.kind} in place of the folder"
    try:
        parent = _walk(root, entry.parts[:-1])
        try:
            _make(archive, root, parent, entry)
        finally:
            os.close(parent)
    except OSError as error:
        raise HostError(f"{_shown(b'/'.join(entry.parts))}: {error.strerror}") from None
    return ""


def _make(archive: Archive, root: int, parent: int, entry: ArchiveEntry) -> None:
    name = entry.parts[-1]
    if entry.kind == FOLDER:
        os.close(_folder(parent, name))
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)
    if entry.kind == SYMLINK:
        os.symlink(entry.target, name, dir_fd=parent)
        return
    if entry.kind == HARD_LINK:
        parts = _parts(entry.target)
        if not parts:
            raise _damaged("a hard link to nothing")
        other = _walk(root, parts[:-1], make=False)
        try:
            if not stat.S_ISREG(os.lstat(parts[-1], dir_fd=other).st_mode):
                raise _damaged(f"{_shown(name)}: a hard link to no file")
            os.link(parts[-1], name, src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(other)
        return
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    try:
        archive.copy(entry, fd)
        os.fchmod(fd, entry.mode)
        os.utime(fd, (entry.modified, entry.modified))
    finally:
        os.close(fd)


def _walk(root: int, parts: tuple[bytes, ...], make: bool = True) -> int:
    """A descriptor of the folder ``parts`` below ``root``: no link is followed, what is missing is made."""
    fd = os.dup(root)
    for part in parts:
        try:
            below = _folder(fd, part) if make else _opened(fd, part)
        finally:
            os.close(fd)
        fd = below
    return fd


def _folder(parent: int, name: bytes) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    return _opened(parent, name)


def _opened(parent: int, name: bytes) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


def _finish_folder(root: int, parts: tuple[bytes, ...], mode: int, modified: int) -> None:
    """Its permissions come when all is in it."""
    if not parts:
        return
    with contextlib.suppress(OSError):
        fd = _walk(root, parts, make=False)
        try:
            os.fchmod(fd, mode)
            os.utime(fd, (modified, modified))
        finally:
            os.close(fd)


def _stays_inside(entry: ArchiveEntry) -> bool:
    """Whether a link leads to a place in the folder: upwards first, no further than to the folder, then down.  (A ".."
    behind a name might be behind another link.)"""
    target = entry.target
    if not target or target.startswith(b"/") or b"\0" in target or len(target) > _PATH_MAX:
        return False
    words = [word for word in target.split(b"/") if word not in (b"", b".")]
    up = next((index for index, word in enumerate(words) if word != b".."), len(words))
    return up < len(entry.parts) and b".." not in words[up:]


def _parts(name: bytes) -> tuple[bytes, ...]:
    """Raises GuestError: a path that leads elsewhere."""
    if name.startswith(b"/") or b"\0" in name or len(name) > _PATH_MAX:
        raise _damaged(f"the path {_shown(name)}")
    parts = tuple(word for word in name.split(b"/") if word not in (b"", b"."))
    if b".." in parts or len(parts) > _DEPTH_MAX or any(len(part) > 255 for part in parts):
        raise _damaged(f"the path {_shown(name)}")
    return parts


def _name(header: bytes) -> bytes:
    name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _check_sum(header: bytes) -> None:
    if sum(header[:148]) + 8 * 0x20 + sum(header[156:]) != _number(header[148:156]):
        raise _damaged("a header's checksum")


def _number(field: bytes) -> int:
    """Octal, or base 256 behind a high bit; never negative."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40 or value >> 63:
            raise _damaged("a number")
        return value
    text = field.strip(b"\0 ")
    if not text:
        return 0
    if text.strip(b"01234567"):
        raise _damaged("a number")
    return int(text, 8)


def _time(text: bytes, field: bytes) -> int:
    """Seconds since 1970, as pax or the header has them; what is before that, or far behind us, is not kept so."""
    if text.isdigit() and len(text) < 12:
        return min(int(text), _TIME_MAX)
    return 0 if text.startswith(b"-") or field[0] & 0xC0 == 0xC0 else min(_number(field), _TIME_MAX)


def _decimal(more: dict[bytes, bytes], name: bytes, default: int) -> int:
    return _line(more[name]) if name in more else default


def _line(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise _damaged("a number")
    return int(text)


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Records ``LENGTH NAME=VALUE\\n``."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        if space <= at:
            raise _damaged("a header's record")
        length = _line(data[at:space])
        record = data[space + 1 : at + length]
        name, equals, value = record.partition(b"=")
        if at + length > len(data) or not equals or not value.endswith(b"\n"):
            raise _damaged("a header's record")
        found[name] = value[:-1]
        at += length
    return found


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _shown(name: bytes) -> str:
    return os.fsdecode(name[:200])


def _damaged(what: str) -> GuestError:
    return GuestError(f"what the guest wrote is no folder that can be taken: {what}", "does its tar(1) work?")
