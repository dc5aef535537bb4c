"""Which userboot object to run: names asked for by a guest, confined to the directories of loaders.

Upstream looks in /boot for userboot.so, after a swap for userboot_<interpreter>.so (cb_swap_interpreter).  The
interpreter's name comes from the guest's disk.
"""

from __future__ import annotations

import os

from bhyveload.errors import FileSystemError, HostError, InputError, LoaderError
from bhyveload.freebsd_errno import EINVAL, ENOENT, ENOTCAPABLE, strerror
from bhyveload.fs.stat import S_IFMT, S_IFREG
from bhyveload.host.directory import open_host_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhyveload.host.interface import HostFile

DEFAULT_NAME = "userboot.so"
MAX_LOADER_SIZE = 64 << 20
MAX_INTERPRETER = 16
DIRECTORIES = ("/usr/local/share/bhyveload", "/usr/share/bhyveload")
FREEBSD_DIRECTORIES = ("/boot",)
_REASONS = {ENOTCAPABLE: "leads out of its directory", EINVAL: "neither a file nor a folder"}
_ALLOWED = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def default_directories() -> tuple[str, ...]:
    """Where userboot objects are looked for without --loader-dir: FreeBSD's own place; elsewhere the user's data
    directory (XDG Base Directory Specification), then where packages go."""
    if os.uname().sysname == "FreeBSD":
        return FREEBSD_DIRECTORIES
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return (f"{home}/bhyveload", *DIRECTORIES) if os.path.isabs(home) else DIRECTORIES


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
    if not interpreter:
        return LoaderError("guest failed to request an interpreter")
    possible = len(interpreter) <= MAX_INTERPRETER and _ALLOWED.issuperset(interpreter)
    wanted = f"userboot_{interpreter.decode('ascii')}.so" if possible else "a loader that cannot exist"
    return LoaderError(
        "requested loader interpreter does not match guest userboot",
        f"the guest's scripts want {wanted}: name another with -l, or none",
    )


class LoaderObject:
    """A userboot object's file: where it was found, and its bytes."""

    __slots__ = ("data", "path")

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        self.data = data


class Loaders:
    """Where userboot objects come from.

    ``explicit``: the one that -l named; no other ever runs.  ``directories``: where userboot.so and userboot_*.so are
    looked for; ``always``: begin with their userboot.so, where there is one, and not with the built-in loader.
    """

    __slots__ = ("_always", "_directories", "_explicit")

    def __init__(
        self, directories: Sequence[str] = (), explicit: LoaderObject | None = None, always: bool = False
    ) -> None:
        self._directories = directories
        self._explicit = explicit
        self._always = always

    def first(self) -> LoaderObject | None:
        """What to begin with; None: the built-in loader.  Raises InputError when it cannot be read."""
        if self._explicit is not None or not self._always:
            return self._explicit
        return find_loader(self._directories)

    def places(self) -> str:
        """The directories, in words."""
        return " or ".join(self._directories) or "a directory given with --loader-dir"

    def for_interpreter(self, name: bytes) -> LoaderObject | None:
        """The object for the interpreter that a guest asked for, None when there is none.

        Raises LoaderError: -l was given, or no interpreter can have such a name; InputError.
        """
        if self._explicit is not None:
            raise refuse_swap(name)
        return find_loader(self._directories, name)


def find_loader(directories: Sequence[str], interpreter: bytes | None = None) -> LoaderObject | None:
    """The loader for ``interpreter`` in the first of ``directories`` that has it, None when none has.

    Each directory is opened and the name looked up beneath it, as bhyveload(8) does with /boot: a symbolic link there
    may not lead out.  Raises LoaderError for a name a guest may not ask for, InputError for a loader that cannot be
    read.
    """
    name = loader_name(interpreter)
    for directory in directories:
        try:
            folder = open_host_directory(directory)
        except HostError:
            continue
        try:
            file = folder.open(name.encode())
        except FileSystemError as error:
            if error.errno == ENOENT:
                continue
            reason = _REASONS.get(error.errno) or strerror(error.errno)
            raise InputError(f"{directory}/{name}: {reason}") from None
        finally:
            folder.close()
        return LoaderObject(f"{directory}/{name}", _content(file, f"{directory}/{name}"))
    return None


def _content(file: HostFile, path: str) -> bytes:
    if file.is_directory:
        raise InputError(f"{path}: not a regular file")
    _check_size(path, file.size)
    parts: list[bytes] = []
    size = 0
    while size <= MAX_LOADER_SIZE:
        try:
            part = file.read(1 << 20)
        except FileSystemError as error:
            raise InputError(f"{path}: {error.message.rpartition(': ')[2]}") from None
        if not part:
            break
        parts.append(part)
        size += len(part)
    file.close()
    _check_size(path, size)
    return b"".join(parts)


def read_loader(fd: int, path: str) -> LoaderObject:
    """The loader that -l named and that is open as ``fd``.  Raises InputError."""
    try:
        found = os.fstat(fd)
        if found.st_mode & S_IFMT != S_IFREG:
            raise InputError(f"{path}: not a regular file")
        _check_size(path, found.st_size)
        return LoaderObject(path, os.pread(fd, MAX_LOADER_SIZE, 0))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _check_size(path: str, size: int) -> None:
    if size > MAX_LOADER_SIZE:
        raise InputError(f"{path}: {size >> 20} MiB is too large for a loader object")
