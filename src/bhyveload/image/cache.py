"""Where decompressed images are kept, so that each is unpacked only once.

    $XDG_CACHE_HOME/bhyveload/KEY-NAME    (~/.cache where that is not set; /var/tmp/bhyveload-UID without either)

KEY is made of the compressed file's real path, size and time of modification: another file, another entry.  An entry
appears by rename(2) when it is whole.  While it grows it is KEY-NAME.part, locked: a second process waits and then
takes what the first one made; one that was killed leaves a .part that nobody locks, which the next one to unpack
anything removes.  The least recently used entries go when all together, growing ones included, take more than LIMIT on
the disk, and room is left for others.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from bhyveload.confined.child import Child
from bhyveload.confined.confinement import Subject
from bhyveload.confined.deadline import FOREVER, UNPACK_SECONDS
from bhyveload.confined.reports import BLOCKS, UNPACKED
from bhyveload.confined.run import fitting, run
from bhyveload.errors import HostError, ReportError
from bhyveload.image.raw import RawImage, open_raw
from bhyveload.image.unpack import MAX_SIZE, flatten, prepare, unpack, unpack_blocks
from bhyveload.new_file import private_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from bhyveload.confined.child import Leave
    from bhyveload.confined.deadline import Deadline
    from bhyveload.device import Device
    from bhyveload.image.progress import Progress
    from bhyveload.sandbox import Sandbox

    class OfFiles(Device, Protocol):
        """An image.disk.ImageDisk."""

        files: list[RawImage]


LIMIT = 64 << 30  # bytes on the disk
RESERVE = 256 << 20  # bytes that are left to others
MAX_WORKERS = 8
UNPACKER = "the unpacking process"
_MAX_NAME = 80
_FALLBACK = "/var/tmp/bhyveload"


class Silent:
    """A Progress that tells nobody."""

    def begin(self, name: str, folder: str) -> None:
        pass

    def step(self, done: int, total: int) -> None:
        pass

    def end(self) -> None:
        pass


def unpacked(
    source: RawImage,
    compression: str,
    progress: Progress | None = None,
    sandbox: Sandbox | None = None,
    deadline: Deadline = FOREVER,
) -> str:
    """The path of the decompressed ``source``, unpacked now if it is not there yet, within ``deadline`` or, where
    that is for ever, UNPACK_SECONDS.

    Raises ImageError (damaged), HostError (no cache directory, no room), LoaderCrashed.
    """
    folder = _folder()
    path = os.path.join(folder, _entry_name([source], compression))
    if _use(path):
        return path
    prepare(compression)
    _sweep(folder)
    part = _locked_part(path)
    try:
        if not _use(path):
            tell = progress or Silent()

            def fill(limit: int, room: int) -> int:
                end = deadline.or_else(UNPACK_SECONDS)
                return _decompress(source, compression, (part, folder, limit, room), tell, sandbox, end)

            _fill(part, path, source.name, fill, tell)
        else:
            _remove(path + ".part")  # made after another process had finished, and ours
    finally:
        os.close(part)
    _trim(folder, path)
    return path


def flattened(
    disk: OfFiles,
    progress: Progress | None = None,
    sandbox: Sandbox | None = None,
    deadline: Deadline = FOREVER,
) -> str:
    """The path of a raw image with the content of ``disk``, made now if it is not there yet, in time as unpacked().

    Raises ImageError (damaged), HostError (no cache directory, no room), LoaderCrashed.
    """
    folder = _folder()
    path = os.path.join(folder, _entry_name(disk.files, "flat"))
    if _use(path):
        return path
    _sweep(folder)
    part = _locked_part(path)
    try:
        if not _use(path):
            tell = progress or Silent()

            def fill(limit: int, room: int) -> int:
                def work(_: Leave) -> dict[str, int]:
                    return {"size": flatten(disk, (disk.name, folder), part, limit, room, tell.step)}

                subject = Subject(UNPACKER, sandbox, disks=[disk], others=[part])
                if run(work, subject, deadline.or_else(UNPACK_SECONDS), UNPACKED)["size"] != disk.size:
                    raise ReportError(f"{disk.name}: written out to a size that makes no sense")
                return disk.size

            _fill(part, path, disk.name, fill, tell)
        else:
            _remove(path + ".part")
    finally:
        os.close(part)
    _trim(folder, path)
    return path


def present(source: RawImage, compression: str) -> str:
    """The path of the decompressed ``source`` if it is there, else nothing."""
    name = _entry_name([source], compression)
    for folder in _candidates():
        if _is_ours(folder):
            path = os.path.join(folder, name)
            return path if _use(path) else ""
    return ""


def _candidates() -> list[str]:
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the specification: a relative one is to be ignored
        home = os.environ.get("HOME", "")
        base = os.path.join(home, ".cache") if os.path.isabs(home) else ""
    fallback = f"{_FALLBACK}-{os.getuid()}"
    return [os.path.join(base, "bhyveload"), fallback] if base else [fallback]


def _folder() -> str:
    """The cache directory, made if need be.  Raises HostError."""
    why = ""
    for folder in _candidates():
        try:
            private_folder(folder, exist_ok=True)
        except OSError as error:
            why = why or f"{folder}: {error.strerror}"
            continue
        if _is_ours(folder):
            return folder
        why = why or f"{folder}: must be a directory that only you can write"
    raise HostError(f"no place for unpacked images: {why}", "let XDG_CACHE_HOME name one")


def _is_ours(folder: str) -> bool:
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    return mine and os.access(folder, os.W_OK)


def _entry_name(sources: Sequence[RawImage], kind: str) -> str:
    """Of what was made of ``sources``, the first of which gives it its name."""
    import hashlib

    key = hashlib.sha256()
    for source in sources:
        path = os.path.realpath(source.name)
        status = os.fstat(source.descriptor)  # of what is read, whatever has that name by now
        key.update(b"%b\0%d\0%d" % (os.fsencode(path), status.st_size, status.st_mtime_ns))
    name = os.path.basename(os.path.realpath(sources[0].name))
    if name.lower().endswith("." + kind):
        name = name[: -len(kind) - 1]
    name = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "_" for char in name)
    return f"{key.hexdigest()[:32]}-{name[:_MAX_NAME]}{'.flat' if kind == 'flat' else ''}"


def _use(path: str) -> bool:
    """Whether the entry is there; marks it as used now."""
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
            return False
        os.utime(path)
    except OSError:
        return False
    return True


def _locked_part(path: str) -> int:
    """A descriptor of the file in which ``path`` grows, when nobody else works on it.

    It has a name, unlike new_file.py's: who wants the same image waits for it, and has it then.  Raises HostError."""
    part = path + ".part"
    try:
        while True:
            fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                mine, there = os.fstat(fd), os.stat(part)
                if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
                    return fd
            except FileNotFoundError:
                if os.path.exists(path):
                    return fd  # what another process has just finished
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
    except OSError as error:
        raise HostError(f"{part}: {error.strerror}", "let XDG_CACHE_HOME name another place") from None


def _fill(part: int, path: str, name: str, fill: Callable[[int, int], int], progress: Progress) -> None:
    """Have ``fill`` write the image ``name`` into ``part``: it is told the largest size and how many bytes it may
    write, and returns the disk's size."""
    folder = os.path.dirname(path)
    try:
        os.ftruncate(part, 0)
        limit = _grow(part)
        space = os.statvfs(folder)
        room = min(space.f_bavail * space.f_frsize - RESERVE, LIMIT)
        progress.begin(name, folder)
        try:
            size = fill(limit, room)
        finally:
            progress.end()
        os.ftruncate(part, size)
        os.rename(path + ".part", path)
    except OSError as error:
        _remove(path + ".part")
        raise HostError(f"{path}: {error.strerror}", "let XDG_CACHE_HOME name another place") from None
    except BaseException:
        _remove(path + ".part")
        raise


def _decompress(
    source: RawImage,
    compression: str,
    target: tuple[int, str, int, int],
    progress: Progress,
    sandbox: Sandbox | None,
    deadline: Deadline,
) -> int:
    """Have confined children decompress ``source``: one, or for a .xz file in blocks one a processor.  The disk's size.

    ``target``: descriptor, its folder, the largest size, bytes that may be written.
    """
    part, folder, limit, room = target
    names = source.name, folder
    subject = Subject(UNPACKER, sandbox, disks=[source], others=[part])

    def whole(_: Leave) -> dict[str, int]:
        return {"size": unpack(source, names, compression, part, limit, room, progress.step)}

    def start_share(number: int) -> Child:
        tell = progress.step if number == 0 else Silent().step  # they go on alike
        share = number, workers

        def work(_: Leave) -> dict[str, int]:
            return {"size": unpack_blocks(XzImage(source, source.name), names, part, limit, room, tell, share)}

        return Child(work, subject)

    workers = 0
    if compression == "xz":
        from bhyveload.image.xz import XzImage, blocks_of

        found = run(lambda _: {"blocks": blocks_of(source, source.name)}, subject, deadline, BLOCKS)["blocks"]
        workers = min(found, os.cpu_count() or 1, MAX_WORKERS)
    if workers > 1:
        children = [start_share(number) for number in range(workers)]
    else:
        children = [Child(whole, subject)]
    sizes = set()
    try:
        while children:
            sizes.add(fitting(children.pop(0).report(deadline), UNPACKED, UNPACKER)["size"])
    finally:
        for child in children:
            child.kill()
    size: int = sizes.pop()
    if sizes or size > limit:
        raise ReportError(f"{source.name}: unpacked to a size that makes no sense")
    return size


def _grow(part: int) -> int:
    """Make the file, all of it a hole, as large as a disk may be: the child must not change sizes."""
    size = MAX_SIZE
    while True:
        try:
            os.ftruncate(part, size)
        except OSError as error:
            if error.errno not in (errno.EFBIG, errno.EINVAL) or size < 1 << 30:
                raise
            size //= 2  # what this file system cannot have
        else:
            return size


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _entries(folder: str) -> list[tuple[int, int, str]]:
    """(time of last use, bytes on the disk, path) of each entry, growing ones too; what vanishes meanwhile is none."""
    entries = []
    try:
        for entry in os.scandir(folder):
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                entries.append((status.st_mtime_ns, status.st_blocks * 512, entry.path))
    except OSError:
        return []  # somebody else is at it; the next one will do it
    return entries


def _sweep(folder: str) -> None:
    """Remove what killed processes left growing: files that nobody locks."""
    for _, _, path in _entries(folder):
        if not path.endswith(".part"):
            continue
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        except OSError:
            pass  # somebody is at work on it
        finally:
            os.close(fd)


def _trim(folder: str, keep: str) -> None:
    """Remove the least recently used entries while all together are larger than LIMIT."""
    entries = _entries(folder)
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= LIMIT:
            break
        if path != keep and not path.endswith(".part"):
            _remove(path)
            total -= size


def open_unpacked(path: str, name: str) -> RawImage:
    """The entry at ``path``, read-only, under the compressed file's ``name``."""
    image = open_raw(path, read_only=True)
    image.name = name
    return image
