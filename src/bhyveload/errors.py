"""The whole error tree.  One class per thing a caller would handle, one message per reason.

    BhyveloadError
     ├── UsageError            the command line or an argument is wrong                         EX_USAGE    64
     ├── DataError             bytes from a guest are not what they claim to be                 EX_DATAERR  65
     │    ├── ImageError       a disk image's container (qcow2, vmdk, ...) is damaged or unknown
     │    ├── PartitionError   a partition table is damaged, or the named partition is absent
     │    ├── FileSystemError  a file system said no; ``errno`` is FreeBSD's number
     │    │    ├── NoFileSystem  there is none of that kind
     │    │    ├── PathError   too many symbolic links, names too long
     │    │    └── Unsupported it is whole, and uses something that is not supported
     │    ├── KernelError      a kernel or module cannot be loaded; ``errno`` is FreeBSD's number
     │    ├── MemoryAccessError a guest address lies outside guest memory
     │    └── ReportError      what the confined child sent back is malformed
     ├── InputError            a file the user named cannot be opened or read                   EX_NOINPUT  66
     ├── LoaderError           the loader gave up, its own words are the message                            1
     ├── LoaderCrashed         the child that ran the loader died or was stopped                EX_SOFTWARE 70
     ├── HostError             the host's operating system refused something                    EX_OSERR    71
     ├── VmError               something about a named VM
     │    ├── VmNotFound       no VM of that name                                               EX_NOINPUT  66
     │    ├── VmBusy           another process uses it                                          EX_TEMPFAIL 75
     │    ├── VmNotLoaded      it exists but holds no loaded guest                              EX_NOINPUT  66
     │    ├── VmNameError      the name cannot be a VM's name                                   EX_USAGE    64
     │    ├── VmMemoryError    that memory size cannot be a VM's memory                                      1
     │    ├── VmStateError     its state file is damaged                                        EX_DATAERR  65
     │    └── VmStorageError   the store cannot be written (full file system, ...)              EX_IOERR    74
     ├── HandoffError          the loaded VM cannot be given to the hypervisor                               4
     ├── GuestError            a guest cannot be worked in by its console                           125
     │    ├── GuestTimedOut    a command, or the way to a shell, took too long                       124
     │    └── GuestEnded       the guest ended, panicked or lost its shell meanwhile                 126
     ├── BhyveError            bhyve(8) would say no in these words                                   4, 64 ...
     └── SandboxError          the confinement that was asked for is not to be had              EX_NOPERM   77

``str(error)`` is one line: what, where, why.  ``hint`` is what the user can do about it (or empty).
``exit_status`` is what a program ends with (sysexits(3) where it fits).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

EX_USAGE = 64
EX_DATAERR = 65
EX_NOINPUT = 66
EX_SOFTWARE = 70
EX_OSERR = 71
EX_IOERR = 74
EX_TEMPFAIL = 75
EX_NOPERM = 77


class BhyveloadError(Exception):
    """Root of the tree: catching it catches everything this package raises on purpose."""

    exit_status = EX_SOFTWARE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """For pickle: exceptions are made again from ``args`` alone otherwise, which is the message (a process pool
        whose worker raises one with more would wait for ever)."""
        return _again, (type(self), *self.args), vars(self)


def _again(kind: type[BhyveloadError], *words: object) -> BhyveloadError:
    return kind.__new__(kind, *words)  # its attributes follow


class UsageError(BhyveloadError):
    """The command line, or an argument of a library call, is wrong."""

    exit_status = EX_USAGE


class DataError(BhyveloadError):
    """Bytes from a guest are not what they claim to be."""

    exit_status = EX_DATAERR


class ImageError(DataError):
    """A disk image's container is damaged, truncated or of an unknown kind."""


class PartitionError(DataError):
    """A partition table is damaged or lacks the named partition."""


class FileSystemError(DataError):
    """A file system refused; ``errno`` is FreeBSD's errno number (see freebsd_errno)."""

    def __init__(self, errno: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.errno = errno


class NoFileSystem(FileSystemError):
    """There is no file system of that kind.  Any other refusal is about one that is there."""


class PathError(FileSystemError):
    """A path cannot be followed: too many symbolic links, names that are too long.  More than its ``errno`` says."""


class Unsupported(FileSystemError):
    """It is whole, and made in a way that this reader, or FreeBSD's, does not take; the hint says what helps."""


class KernelError(DataError):
    """A kernel, module or preload cannot be loaded; ``errno`` is FreeBSD's errno number."""

    def __init__(self, errno: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.errno = errno


class MemoryAccessError(DataError):
    """A guest physical address range does not lie in guest memory."""


class ReportError(DataError):
    """The confined child's report is malformed (the child may be hostile)."""


class InputError(BhyveloadError):
    """A file that the user named cannot be opened or read."""

    exit_status = EX_NOINPUT


class LoaderError(BhyveloadError):
    """The loader ran and gave up; the message is its reason.

    ``explanation``: the way that it took (docs/explain-json.md), where that was asked for.
    """

    exit_status = 1
    explanation: Mapping[str, Any] | None = None

    def __init__(self, message: str, hint: str = "", exit_status: int = 1) -> None:
        super().__init__(message, hint)
        self.exit_status = exit_status


class LoaderCrashed(BhyveloadError):
    """The child process that ran the loader died by a signal, ran out of time or stopped without a report."""


class HostError(BhyveloadError):
    """The host's operating system refused a request."""

    exit_status = EX_OSERR


class VmError(BhyveloadError):
    """Something about a named VM."""

    exit_status = 1


class VmNotFound(VmError):
    """There is no VM of that name."""

    exit_status = EX_NOINPUT


class VmBusy(VmError):
    """Another process holds the VM's lock."""

    exit_status = EX_TEMPFAIL


class VmNotLoaded(VmError):
    """The VM exists but no guest is loaded in it."""

    exit_status = EX_NOINPUT


class VmNameError(VmError):
    """The text cannot be a VM's name."""

    exit_status = EX_USAGE


class VmMemoryError(VmError):
    """That number of bytes cannot be a VM's memory (vm_setup_memory's EINVAL)."""


class VmStateError(VmError):
    """state.json is damaged."""

    exit_status = EX_DATAERR


class VmStorageError(VmError):
    """The VM store cannot be written: full file system, missing rights, wrong owner."""

    exit_status = EX_IOERR


class HandoffError(BhyveloadError):
    """A loaded VM cannot be handed to the hypervisor (bhyve(8)'s exit status 4)."""

    exit_status = 4


class GuestError(BhyveloadError):
    """A guest cannot be worked in by its console: the login is refused, a file did not arrive."""

    exit_status = 125


class GuestTimedOut(GuestError):
    """A command, or the way to a shell, took longer than it was given."""

    exit_status = 124


class GuestEnded(GuestError):
    """The guest ended, its kernel panicked or its shell went away while it was worked in.

    ``lines``: what its console showed last.
    """

    exit_status = 126

    def __init__(self, message: str, hint: str = "", lines: Sequence[str] = ()) -> None:
        super().__init__(message, hint)
        self.lines = tuple(lines)


class BhyveError(BhyveloadError):
    """bhyve(8)'s own refusal, in its words and with its exit status.

    ``bare``: it stands without the program's name in front; ``before``: lines that come first, bare.
    """

    exit_status = 4

    def __init__(
        self, message: str, exit_status: int = 4, *, bare: bool = False, before: Sequence[str] = (), hint: str = ""
    ) -> None:
        super().__init__(message, hint)
        self.exit_status = exit_status
        self.bare = bare
        self.before = tuple(before)


class SandboxError(BhyveloadError):
    """The confinement that was asked for is not available."""

    exit_status = EX_NOPERM
