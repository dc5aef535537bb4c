"""Which userboot object to run: names asked for by a guest, confined to the directories of loaders.

Upstream looks in /boot for userboot.so, after a swap for userboot_<interpreter>.so (spec/bhyveload.md 8).  The
interpreter's name comes from the guest's disk.
"""

from __future__ import annotations

import os

from bhyveload.errors import InputError, LoaderError
from bhyveload.fs.stat import S_IFMT, S_IFREG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_NAME = "userboot.so"
MAX_LOADER_SIZE = 64 << 20
MAX_INTERPRETER = 16
_ALLOWED = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def loader_name(interpreter: bytes | None) -> str:
    """File name of the loader for ``interpreter`` (None: the default loader).

    Raises LoaderError when the guest's name is empty, longer than 16 bytes or holds anything but letters, digits, `_`
    and `-`.
    """
    if interpreter is None:
        return DEFAULT_NAME
    if not interpreter:
        raise LoaderError("guest failed to request an interpreter")
    if len(interpreter) > MAX_INTERPRETER or not _ALLOWED.issuperset(interpreter):
        shown = ascii(interpreter[:64].decode("latin-1"))
        raise LoaderError(f"the guest asks for a loader interpreter with an impossible name: {shown}")
    return f"userboot_{interpreter.decode('ascii')}.so"


def refuse_swap(interpreter: bytes) -> LoaderError:
    """What bhyveload(8) says to a swap when -l named the loader."""
    shown = ascii(interpreter[:64].decode("latin-1"))[1:-1]
    return LoaderError(
        "requested loader interpreter does not match guest userboot"
        if interpreter
        else "guest failed to request an interpreter",
        f"the guest's scripts want userboot_{shown}.so: name that with -l, or no -l" if interpreter else "",
    )


def find_loader(directories: Sequence[str], interpreter: bytes | None = None) -> tuple[str, bytes]:
    """(path, content) of the loader for ``interpreter`` in the first of ``directories`` that has it.

    Each directory is opened and the name looked up beneath it.  Raises LoaderError for a name a guest may not ask for,
    InputError when no directory has it or it cannot be read.
    """
    name = loader_name(interpreter)
    for directory in directories:
        try:
            at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=at)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InputError(f"{directory}/{name}: {error.strerror}") from None
        finally:
            os.close(at)
        return f"{directory}/{name}", _read(fd, f"{directory}/{name}")
    raise InputError(
        f"no {name} in {', '.join(directories) or 'any directory'}",
        "copy FreeBSD's /boot/userboot*.so there, or use the built-in loader",
    )


def read_loader(path: str) -> bytes:
    """The content of the loader that -l named.  Raises InputError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    return _read(fd, path)


def _read(fd: int, path: str) -> bytes:
    try:
        found = os.fstat(fd)
        if found.st_mode & S_IFMT != S_IFREG:
            raise InputError(f"{path}: not a regular file")
        if found.st_size > MAX_LOADER_SIZE:
            raise InputError(f"{path}: {found.st_size >> 20} MiB is too large for a loader object")
        return os.pread(fd, MAX_LOADER_SIZE, 0)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    finally:
        os.close(fd)
