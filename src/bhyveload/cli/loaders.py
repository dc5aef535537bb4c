"""What bhyveload's -l, --loader-dir and --cross-check mean (docs/userboot.md)."""

from __future__ import annotations

import os
import sys

from bhyveload.errors import HostError
from bhyveload.printable import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.cross_check import CrossCheck
    from bhyveload.userboot.search import Loaders


def open_loader(path: str) -> int:
    """-l: opened at once, as bhyveload(8) does.  Raises HostError."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from None


def check_directory(path: str) -> str:
    """--loader-dir: must be a directory.  Raises HostError."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", "--loader-dir takes a directory of userboot*.so") from None
    return path


def chosen_loaders(fd: int, name: str, directory: str) -> Loaders | None:
    """What the options say about userboot objects; None: nothing.  Raises InputError."""
    if fd < 0 and not directory:
        return None
    from bhyveload.userboot.search import Loaders, read_loader

    if fd >= 0:
        return Loaders(explicit=read_loader(fd, name))
    return Loaders((directory,), always=True)


def print_cross_check(result: CrossCheck, as_json: bool) -> int:
    """Print the comparison; the exit status."""
    from bhyveload.cross_check import EXIT_DIFFERENT

    if as_json:
        from bhyveload.jsontext import dumps

        value = {
            "schema": 1,
            "equal": not result.differences,
            "reordered": result.reordered,
            "differences": result.differences,
            "loads": [report.as_dict() for report in result.reports],
        }
        sys.stdout.write(dumps(value, indent=2) + "\n")
    else:
        one, other = ("the built-in loader" if r.loader == "built-in" else r.loader for r in result.reports)
        same = f"{one} and {other} leave the same guest"
        lines = result.differences or [f"{same} but for the order of the modules" if result.reordered else same]
        sys.stdout.write("".join(f"{escape(line)}\n" for line in lines))
    return EXIT_DIFFERENT if result.differences else 0
