"""How QEMU comes by files: as descriptors that we opened, never by a path that it opens itself.

``RunFiles`` is for a run: each file is one of QEMU's fd sets and is called /dev/fdset/N.  ``Paths`` is for printing
a command that somebody else will run: there a file is called by its path.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from bhyveload.errors import HandoffError
from bhyveload.handoff.qemu.overlay import temporary_overlay
from bhyveload.libc import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack
    from typing import Protocol

    class QemuFiles(Protocol):
        """What names a file in QEMU's arguments."""

        def file(self, path: str, read_only: bool, direct: bool = False) -> tuple[str, bool]:
            """What QEMU calls the file ``path``, and whether it is a device.  ``direct``: past the host's cache.

            Raises HandoffError.
            """
            ...

        def overlay(self, path: str) -> str:
            """What QEMU calls the qcow2 image ``path``, which is put on top of a disk.  Raises HandoffError."""
            ...

        def temporary(self, size: int, below: tuple[str, str] = ("", "")) -> str:
            """What QEMU calls a new, empty qcow2 image for a disk of ``size`` bytes; "" where there is none to be had.

            ``below``: path and format of what it stands on, for its header.  Raises HandoffError.
            """
            ...

        def tap(self, interface: str) -> str:
            """What attaches a network card to the host's ``interface``, behind -netdev tap.  Raises HandoffError."""
            ...

        def terminal(self, path: str) -> str:
            """What QEMU calls the terminal device ``path``.  Raises OSError (ENOTTY: it is none)."""
            ...

        def listener(self, host: str, port: int) -> str:
            """Where a -chardev socket listens for TCP.  Raises OSError."""
            ...

        def unix_listener(self, path: str) -> str:
            """Where a -chardev socket listens on the Unix socket ``path``.  Raises OSError (EADDRINUSE)."""
            ...

        def memory(self, size: int) -> str:
            """A protocol driver and its options: ``size`` bytes that begin as zeros and are gone after the run."""
            ...

        def secret(self, text: str) -> str:
            """Where a -object secret finds ``text``."""
            ...


_GONE = "give the guest's disk with --disk, or --no-disk"


class Paths:
    """For printing.  Nothing is opened."""

    def file(self, path: str, read_only: bool, direct: bool = False) -> tuple[str, bool]:
        try:
            mode = os.stat(path).st_mode
        except (OSError, ValueError) as error:
            raise _not_opened(path, error) from None
        return path, _is_device(mode)

    def overlay(self, path: str) -> str:
        return path  # a run would make it

    def temporary(self, size: int, below: tuple[str, str] = ("", "")) -> str:
        return ""

    def tap(self, interface: str) -> str:
        return f"ifname={interface},script=no,downscript=no"

    def terminal(self, path: str) -> str:
        return path

    def listener(self, host: str, port: int) -> str:
        return f"host={host},port={port}"

    def unix_listener(self, path: str) -> str:
        return f"path={path.replace(',', ',,')}"

    def memory(self, size: int) -> str:
        return f"null-co,file.size={size},file.read-zeroes=on"

    def secret(self, text: str) -> str:
        return "file=PASSWORD-FILE"


class RunFiles:
    """For a run.  ``given`` are the descriptors that QEMU inherits; they are closed with ``opened``.

    ``names``: what the user calls the files that QEMU calls /dev/fdset/N; ``temporaries``: descriptors of the temporary
    images, in order, which stay open until ``kept`` is closed."""

    def __init__(self, opened: ExitStack, kept: ExitStack | None = None) -> None:
        self._opened = opened
        self._kept = kept
        self.temporaries: list[int] = []
        self._sets = 0
        self.given: list[int] = []
        self.names: dict[str, str] = {}
        self.arguments: list[str] = []  # for QEMU's command line, in front of what uses them

    def file(self, path: str, read_only: bool, direct: bool = False) -> tuple[str, bool]:
        flags = os.O_RDONLY if read_only else os.O_RDWR
        if (
            direct
        ):  # QEMU looks for a descriptor with the flags that it would open the file with: since 9.1 also this one
            flags |= os.O_DIRECT
        try:
            fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except (OSError, ValueError) as error:
            raise _not_opened(path, error) from None
        self._opened.callback(os.close, fd)
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise HandoffError(f"{path}: neither a regular file nor a block device", _GONE)
        name = self.descriptor(fd)
        self.names[name] = path
        return name, _is_device(mode)

    def overlay(self, path: str) -> str:
        return self.file(path, False)[0]

    def temporary(self, size: int, below: tuple[str, str] = ("", "")) -> str:
        fd = temporary_overlay(size, *below)
        self._opened.callback(os.close, fd)
        if self._kept is not None:
            kept = os.dup(fd)
            self._kept.callback(os.close, kept)
            self.temporaries.append(kept)
        return self.descriptor(fd)

    def tap(self, interface: str) -> str:
        from bhyveload.handoff.qemu.tap import open_tap

        return f"fd={self.keep(open_tap(interface))}"

    def terminal(self, path: str) -> str:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        self._opened.callback(os.close, fd)
        if not os.isatty(fd):
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY), path)
        return self.descriptor(fd)

    def listener(self, host: str, port: int) -> str:
        from bhyveload.handoff.qemu.listening import listening

        return f"fd={self.keep(listening(host, port))}"

    def unix_listener(self, path: str) -> str:
        from bhyveload.handoff.qemu.listening import listening_at

        return f"fd={self.keep(listening_at(path))}"

    def memory(self, size: int) -> str:
        fd = os.memfd_create("disk", os.MFD_CLOEXEC)
        self._opened.callback(os.close, fd)
        os.ftruncate(fd, size)
        return f"file,file.filename={self.descriptor(fd)}"

    def secret(self, text: str) -> str:
        fd = self.keep(os.memfd_create("secret", os.MFD_CLOEXEC))
        write_all(fd, os.fsencode(text))
        return f"file=/proc/self/fd/{fd}"

    def keep(self, fd: int) -> int:
        """QEMU inherits ``fd`` by its number; it is ours to close."""
        self._opened.callback(os.close, fd)
        self.given.append(fd)
        return fd

    def descriptor(self, fd: int) -> str:
        """What QEMU calls the file that is open as ``fd``, which must stay open until QEMU has been started."""
        self._sets += 1
        self.given.append(fd)
        self.arguments += ["-add-fd", f"fd={fd},set={self._sets}"]
        return f"/dev/fdset/{self._sets}"


@contextlib.contextmanager
def lent(fd: int, identity: tuple[int, int] | None, back: bool) -> Iterator[None]:
    """Let the other user, whom root's QEMU becomes, open the memory file: by its group, in a folder that is root's.
    Not ``back``: others are being started with the same file."""
    if identity is None:
        yield
        return
    status = os.fstat(fd)
    os.fchown(fd, -1, identity[1])
    os.fchmod(fd, 0o660)
    try:
        yield
    finally:
        if back:
            os.fchmod(fd, status.st_mode & 0o777)
            os.fchown(fd, -1, status.st_gid)


def _is_device(mode: int) -> bool:
    return stat.S_ISBLK(mode) or stat.S_ISCHR(mode)


def _not_opened(path: str, error: Exception) -> HandoffError:
    reason = error.strerror if isinstance(error, OSError) else "not a path"
    denied = isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    return HandoffError(f"{path}: {reason}", "load the VM again, or give the disk as read-only" if denied else _GONE)
