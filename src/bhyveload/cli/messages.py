"""How the programs talk: ``program: what happened (what to do)``, one line, whatever a guest put into it."""

from __future__ import annotations

import _signal
import os
import sys

from bhyveload.cli.descriptors import occupy_standard_descriptors
from bhyveload.errors import EX_IOERR, EX_OSERR, EX_SOFTWARE, BhyveloadError
from bhyveload.printable import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


def program_name(default: str) -> str:
    """The name in front of messages: argv[0] without its directory, as getprogname(3)."""
    return os.path.basename(sys.argv[0]) or default


def warn(program: str, text: str) -> None:
    """One line on standard error, as ``say``."""
    say(f"{program}: {escape(text)}\n")


def say(text: str) -> None:
    """``text`` as it is on standard error.  That nobody can hear it is no error."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (ValueError, AttributeError):
        pass  # closed, or not there at all (None)
    except OSError:
        _discard(2)  # full, or a broken pipe


def report_error(program: str, error: BaseException) -> int:
    """Tell the user about ``error``; the exit status to end with.

    Our own errors are their message and hint.  An interrupt and a reader that went away need no words.  Anything else
    is a defect of this program; $BHYVELOAD_DEBUG shows where.
    """
    if isinstance(error, BhyveloadError):
        warn(program, f"{error.message} ({error.hint})" if error.hint else error.message)
        return error.exit_status
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return EXIT_BROKEN_PIPE
    if isinstance(error, OSError):
        where = f"{error.filename}: " if isinstance(error.filename, str) else ""
        if isinstance(error, FileNotFoundError) and error.filename is None:
            where = "the current folder: "  # getcwd(2), the one call that misses a file without a name
        warn(program, f"{where}{error.strerror or error}")
        return EX_IOERR
    if isinstance(error, MemoryError):
        warn(program, "the host gives this process no more memory (ulimit -v, a cgroup's limit)")
        return EX_OSERR
    if os.environ.get("BHYVELOAD_DEBUG"):
        sys.excepthook(type(error), error, error.__traceback__)
    if isinstance(error, ImportError):
        warn(program, f"the installation is incomplete, or cannot be read: {error}")
        return EX_SOFTWARE
    warn(program, f"internal error: {type(error).__name__}: {error} (please report it; BHYVELOAD_DEBUG=1 shows more)")
    return EX_SOFTWARE


def run(program: str, body: Callable[[], int], *, dies_of_interrupts: bool = False) -> int:
    """A program's whole life: ``body``'s exit status, or its error reported.  Standard output is always flushed.

    ``dies_of_interrupts``: SIGINT ends it as it ends a C program, by the signal, which is what a shell's loop looks at.
    """
    occupy_standard_descriptors()
    if dies_of_interrupts:
        if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
            _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    elif _signal.getsignal(_signal.SIGINT) == _signal.SIG_DFL:  # start.py's
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="surrogateescape")  # files' names as they are, which need not be text
    try:
        status = body()
    except (Exception, KeyboardInterrupt) as error:
        status = report_error(program, error)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _discard(1)
        error.filename = "standard output"
        status = status or report_error(program, error)
    return status


def _discard(fd: int) -> None:
    """Nobody takes what is still buffered for ``fd``: spare the user a second failure when the interpreter ends."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, fd)
        os.close(null)
    except OSError:
        pass
