"""The files of a guest's tar stream, in a folder of the host's: every name walked, nothing outside touched."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Protocol

from bhyveload.errors import HostError
from bhyveload.guest.archive import FOLDER, HARD_LINK, PATH_MAX, REGULAR, SYMLINK, damaged, path_parts, shown
from bhyveload.libc import pwrite_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bhyveload.guest.archive import ArchiveEntry

_ENTRIES_MAX = 1_000_000
_APPARENT_MAX = 1 << 42  # bytes of all files with their holes
_PIECES_MAX = 1 << 20  # of all sparse files
_COPY = 1 << 20
_LEFT_OUT_MAX = 1000


class ArchiveStream(Protocol):
    """A stream: what is in it, and its bytes.  Both raise GuestError, HostError."""

    def entries(self) -> Iterator[ArchiveEntry]: ...

    def read(self, at: int, length: int) -> bytes: ...


def extract(archive: ArchiveStream, folder: str, step: Callable[[int, int], None] | None = None) -> list[str]:
    """The stream as files in ``folder``, which is made if it is not there.  They are ours, with their permissions and
    times; no link leads out of the folder.  Returned is what was left out, and why; ``step``: bytes done, in all.

    Raises GuestError (a stream that no tar writes), HostError.
    """
    left_out: list[str] = []
    count = apparent = pieces = done = 0
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{folder}: {error.strerror}") from None
    times: list[tuple[tuple[bytes, ...], int, int]] = []
    try:
        total = sum(sum(length for _, _, length in entry.pieces) for entry in archive.entries()) if step else 0
        for entry in archive.entries():
            count += 1
            apparent += entry.size
            pieces += max(0, len(entry.pieces) - 1)
            if count > _ENTRIES_MAX:
                raise damaged(f"it has more than {_ENTRIES_MAX} entries")
            if apparent > _APPARENT_MAX:
                raise damaged("its files are too large")
            if pieces > _PIECES_MAX:
                raise damaged(f"sparse files of more than {_PIECES_MAX} pieces")
            reason = _put(archive, root, entry)
            if reason and len(left_out) < _LEFT_OUT_MAX:
                left_out.append(f"{shown(b'/'.join(entry.parts))}: {reason}")
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


def _put(archive: ArchiveStream, root: int, entry: ArchiveEntry) -> str:
    """One entry below ``root``; why it is left out, or ""."""
    if entry.kind not in (REGULAR, HARD_LINK, SYMLINK, FOLDER):
        return f"a {entry.kind}"
    if entry.kind == SYMLINK and not _stays_inside(entry):
        return f"a link out of the folder, to {shown(entry.target)}"
    if not entry.parts:
        return "" if entry.kind == FOLDER else f"a {entry.kind} in place of the folder"
    try:
        parent = _walk(root, entry.parts[:-1])
        try:
            _make(archive, root, parent, entry)
        finally:
            os.close(parent)
    except OSError as error:
        raise HostError(f"{shown(b'/'.join(entry.parts))}: {error.strerror}") from None
    return ""


def _make(archive: ArchiveStream, root: int, parent: int, entry: ArchiveEntry) -> None:
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
        parts = path_parts(entry.target)
        if not parts:
            raise damaged("a hard link to nothing")
        other = _walk(root, parts[:-1], make=False)
        try:
            if not stat.S_ISREG(os.lstat(parts[-1], dir_fd=other).st_mode):
                raise damaged(f"{shown(name)}: a hard link to no file")
            os.link(parts[-1], name, src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(other)
        return
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    try:
        _copy(archive, entry, fd)
        os.fchmod(fd, entry.mode)
        os.utime(fd, (entry.modified, entry.modified))
    finally:
        os.close(fd)


def _copy(archive: ArchiveStream, entry: ArchiveEntry, fd: int) -> None:
    """An entry's bytes into a new file."""
    for offset, place, length in entry.pieces:
        for done in range(0, length, _COPY):
            pwrite_all(fd, archive.read(place + done, min(_COPY, length - done)), offset + done)
    os.ftruncate(fd, entry.size)


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
    if not target or target.startswith(b"/") or b"\0" in target or len(target) > PATH_MAX:
        return False
    words = [word for word in target.split(b"/") if word not in (b"", b".")]
    up = next((index for index, word in enumerate(words) if word != b".."), len(words))
    return up < len(entry.parts) and b".." not in words[up:]
