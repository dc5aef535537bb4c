"""The ls command (stand/common/ls.c; docs/errata.md, "Words of the loader")."""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import ENOTDIR, strerror
from bhyveload.fs.stat import S_IFDIR, S_IFMT
from bhyveload.libc import to_int
from bhyveload.loader.commands.options import options
from bhyveload.loader.state import CMD_OK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.loader.files.open_file import OpenFile
    from bhyveload.loader.state import Loader

_TYPES = "?fc?d?b? ?l?s?w"
_LINE = 127  # each line is built in 128 bytes: longer names are cut and lose their newline


def ls(loader: Loader, argv: list[str]) -> int:
    parsed = options(loader, argv, "l")
    if parsed is None:
        return CMD_OK
    letters, words = parsed
    verbose = bool(letters)
    path = words[0] if words else ""
    try:
        found = loader.files.stat(path)
        if found.mode & S_IFMT != S_IFDIR:
            loader.print(_line(_type(0, found.mode), found.size, path, verbose))
            return CMD_OK
    except FileSystemError:
        pass  # the folder's own open says why
    opened = _open_folder(loader, path)
    if isinstance(opened, int):
        return opened
    folder, path = opened
    console = loader.console
    console.pager_open()
    if not console.pager_output(path + "\n"):
        _list(loader, folder, path, verbose)
    console.pager_close()
    return CMD_OK


def _open_folder(loader: Loader, path: str) -> tuple[OpenFile, str] | int:
    """ls_getdir: (folder, its path as shown), or the result of a failing ls."""
    try:
        _, name = loader.files.parse(path)
    except FileSystemError:
        return loader.fail_with(f"bad path '{path}'")
    if not name:
        path += "/"
    try:
        folder = loader.files.open(path)
    except FileSystemError as error:
        return loader.fail_with(f"open '{path}' failed: {strerror(error.errno)}")
    try:
        found = folder.stat()
    except FileSystemError as error:
        return loader.fail_with(f"stat failed: {strerror(error.errno)}")
    if found.mode & S_IFMT != S_IFDIR:
        return loader.fail_with(f"{path}: {strerror(ENOTDIR)}")
    return folder, path


def _list(loader: Loader, folder: OpenFile, path: str, verbose: bool) -> None:
    while True:
        try:
            entry = folder.readdir()
        except FileSystemError:
            return  # libsa takes any error for the end
        if entry is None:
            return
        _, kind, raw = entry
        name = raw.decode("latin-1")
        if name in (".", ".."):
            continue
        mode = size = 0
        if kind == 0 or verbose:
            try:
                found = loader.files.stat(f"{path}/{name}")
                mode, size = found.mode, found.size
            except FileSystemError:
                pass  # a dangling link, say: shown with size 0
        if loader.console.pager_output(_line(_type(kind, mode), size, name, verbose)[:_LINE]):
            return


def _type(kind: int, mode: int) -> str:
    index = kind or mode >> 12
    return _TYPES[index] if index < len(_TYPES) else "?"


def _line(kind: str, size: int, name: str, verbose: bool) -> str:
    return f" {kind} {to_int(size):8d} {name}\n" if verbose else f" {kind}  {name}\n"
