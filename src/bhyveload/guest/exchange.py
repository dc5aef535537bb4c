"""Folders into a guest and out of it: tar streams on a disk that both sides read, one way at a time.

The disk is a sparse file without a name here and one more virtio disk there, past whose buffers nothing goes: FreeBSD's
disks are character devices.  The guest finds it by a word in its first sectors, whatever its number.
"""

from __future__ import annotations

import os

from bhyveload.errors import GuestError, HostError, InputError, UsageError
from bhyveload.guest import typed
from bhyveload.guest.extract import extract
from bhyveload.guest.listing import ConfinedArchive

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Callable
    from typing import Any

    Step = Callable[[int, int], None]  # bytes done, bytes in all

COPY_LIMIT = 8 << 30  # bytes of a folder, if nothing else is said: the disk is sparse
LIMIT_MAX = 1 << 40
_UNIT = 1 << 20
_RECORDS = 256  # sectors that tar reads and writes at once
DEVICES = b"/dev/vtbd[0-9] /dev/vtbd[0-9][0-9]"


class Exchange:
    """The disk, in an open file ``fd`` that nobody else knows; it is ours to close.  ``limit``: bytes that a folder may
    have, headers included; rounded up to a MiB."""

    def __init__(self, fd: int, limit: int = COPY_LIMIT) -> None:
        """Raises UsageError."""
        if not _UNIT <= limit <= LIMIT_MAX:
            raise UsageError(f"a limit of {limit} bytes for copied folders: must be 1M to {LIMIT_MAX >> 40}T")
        self.limit = -(-limit // _UNIT) * _UNIT
        self._fd = fd
        self.clear()

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def path(self) -> str:
        """Who is to have the disk opens it by this, while this process has it open."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def clear(self) -> None:
        """Zeros, and the host's room given back."""
        os.ftruncate(self._fd, 0)
        os.ftruncate(self._fd, self.limit)

    def pack(self, folder: str, word: str, step: Step | None = None) -> None:
        """The tree below ``folder`` onto the disk, as root's; sockets, pipes and devices are left out.

        Raises InputError: it cannot be read; UsageError: it is too large.
        """
        import tarfile  # most guests are given no folder

        if not os.path.isdir(folder):
            raise InputError(f"{folder}: {'not a folder' if os.path.exists(folder) else 'no such folder'}")
        total = tree_size(folder) if step is not None else 0
        sink: Any = _Sink(self._fd, self.limit, folder, lambda done: step(done, max(done, total)) if step else None)

        kinds = (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)

        def owned(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            return info if info.type in kinds else None

        self.clear()
        try:
            with tarfile.open(
                fileobj=sink,
                mode="w|",
                format=tarfile.PAX_FORMAT,
                bufsize=1 << 20,
                pax_headers={"comment": word},
                encoding="utf-8",
                errors="surrogateescape",
            ) as archive:
                archive.add(os.path.join(folder, ""), arcname=".", filter=owned)  # itself, were it a link
        except OSError as error:
            where = f"{error.filename}: " if isinstance(error.filename, str) else f"{folder}: "
            raise InputError(f"{where}{error.strerror or error}") from None

    def offer(self, word: str) -> None:
        """An empty disk that a guest finds by ``word``."""
        self.clear()
        os.pwrite(self._fd, word.encode(), 0)

    def unpack(self, folder: str, step: Step | None = None) -> list[str]:
        """What the guest has written, into ``folder``; what was left out and why.  Raises GuestError, HostError,
        LoaderCrashed, ReportError."""
        return extract(ConfinedArchive(self._fd, self.limit), folder, step)


def finding(word: str, command: bytes, devices: bytes | None = None) -> bytes:
    """sh: run ``command`` with the disk as $_d."""
    return (
        b"for _d in " + (devices or DEVICES) + b"; do "
        b'if dd if="$_d" bs=1024 count=1 2>/dev/null | LC_ALL=C grep -q ' + word.encode() + b"; then "
        + command
        + b"; exit; fi; done; echo 'the disk for folders is not there: is virtio_blk in the kernel, and who logs in"
        b" root?' >&2; exit 1"
    )  # fmt: skip


def take_in(word: str, place: bytes) -> bytes:
    """sh: the folder on the disk becomes ``place``."""
    where = typed.quoted(place)
    return finding(word, b'mkdir -p %s && tar -xpf "$_d" -b %d -C %s' % (where, _RECORDS, where))


def give_out(word: str, place: bytes) -> bytes:
    """sh: the folder ``place`` onto the disk."""
    return finding(word, b'tar -cf "$_d" -b %d -C %s .' % (_RECORDS, typed.quoted(place)))


def mounted(tag: bytes, place: bytes) -> bytes:
    """sh: a shared folder (virtio 9p) mounted.  Source: share/man/man4/p9fs.4."""
    where = typed.quoted(place)
    return (
        b"kldload -n virtio_p9fs 2>/dev/null; mkdir -p "
        + where
        + b" && mount -t p9fs "
        + typed.quoted(tag)
        + b" "
        + where
    )


def tree_size(folder: str) -> int:
    """Bytes of the files below ``folder``, for progress: what cannot be read counts nothing."""
    total, folders = 0, [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total


class _Sink:
    """Where tarfile writes: the disk, up to its end."""

    def __init__(self, fd: int, limit: int, folder: str, step: Callable[[int], None]) -> None:
        self._fd, self._limit, self._folder, self._step = fd, limit, folder, step
        self._done = 0

    def write(self, data: bytes) -> int:
        if self._done + len(data) > self._limit:
            raise UsageError(
                f"{self._folder}: is more than the {self._limit >> 20} MiB that may be copied", "--copy-limit SIZE"
            )
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], self._done + written)
        except OSError as error:
            raise HostError(f"{self._folder}: on its way into the guest: {error.strerror}") from None
        self._done += len(data)
        self._step(self._done)
        return len(data)


def check_place(path: str | bytes | os.PathLike[str]) -> bytes:
    """A folder of the guest's.  Raises UsageError."""
    name = os.fsencode(path)
    if not name or b"\0" in name or b"\n" in name:
        raise UsageError(f"{os.fsdecode(name)}: cannot be the name of a folder in the guest")
    return b"./" + name if name.startswith(b"-") else name


def no_disk() -> GuestError:
    return GuestError("the guest has no disk for folders", "start it with one: copy_limit=")
