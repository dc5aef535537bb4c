"""nmdm(4) for Linux: pairs of terminals that are wired to each other, kept over a guest's reboots.

    bhyveload -c /dev/nmdm0A, then bhyve -l com1,/dev/nmdm0A  <-->  cu -l /dev/nmdm0B

A pair is made when its first end is asked for, as FreeBSD's driver does.  A small process (nmdm_helper.py) of its own
session owns two pseudo-terminals and copies between them; it holds a lock on DIRECTORY/nmdmX.lock while it lives.
DIRECTORY/nmdmXA and nmdmXB are links to the terminals; root gets the same links in /dev.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys

from bhyveload.errors import HostError
from bhyveload.new_file import private_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PREFIX = "nmdm"
_NAME_LIMIT = 128
_HELPER_LOCK, _HELPER_READY = 3, 4  # descriptors
_ANSWER_MAX = 4096


def is_nmdm(path: str) -> bool:
    """``path`` names an end of a pair: /dev/nmdm, any text, A or B.  Not so a device that is there (FreeBSD's own)."""
    folder, name = os.path.split(path)
    named = folder in ("", "/dev") and name.startswith(_PREFIX) and len(name) > len(_PREFIX) and name[-1] in "AB"
    return named and (os.path.islink(path) or not os.path.exists(path))


def device_of(path: str) -> str:
    """The device to open for ``path``: an end's terminal, or itself.  Raises HostError as ``terminal_of``."""
    return terminal_of(path) if is_nmdm(path) else path


def directory() -> str:
    """Where the ends are: $BHYVE_NMDM_DIR, or /dev/shm/nmdm-<uid>."""
    return _chosen() or f"/dev/shm/nmdm-{os.geteuid()}"


def _chosen() -> str:
    return os.environ.get("BHYVE_NMDM_DIR") or ""


def terminal_of(path: str) -> str:
    """The terminal that the end ``path`` is, its pair made if there is none yet.

    Raises HostError: the name is too long, the directory is not ours or cannot be made, the helper does not start.
    """
    name = os.path.basename(path)
    if len(os.fsencode(name)) > _NAME_LIMIT or not name.isprintable():
        raise HostError(f"{path}: not a name for a null modem", f"at most {_NAME_LIMIT} printable characters")
    place = _private_directory()
    lock = _open_lock(os.path.join(place, f"{name[:-1]}.lock"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            return _find(place, name, lock)
        finally:
            os.close(lock)
    try:
        _start(place, name[:-1], lock)
    finally:
        os.close(lock)  # the helper has it now
    return _target(os.path.join(place, name))


def other_end(path: str) -> str:
    """Where a user finds the other end of ``path``."""
    name = os.path.basename(path)
    other = name[:-1] + ("B" if name[-1] == "A" else "A")
    in_dev = f"/dev/{other}"
    return (
        in_dev if os.path.islink(in_dev) and not os.environ.get("BHYVE_NMDM_DIR") else os.path.join(directory(), other)
    )


def _private_directory() -> str:
    place = os.path.abspath(directory())
    try:
        private_folder(place, exist_ok=True)
        info = os.lstat(place)
    except OSError as error:
        raise HostError(f"{place}: {error.strerror}", "point BHYVE_NMDM_DIR to a directory of your own") from None
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise HostError(
            f"{place}: not used for null modems: others could write to it", "point BHYVE_NMDM_DIR to one of your own"
        )
    return place


def _open_lock(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", "point BHYVE_NMDM_DIR to a directory of your own") from None


def _find(place: str, name: str, lock: int) -> str:
    """A helper lives, or is being started by another process: its links, as soon as it has made them."""
    import select

    for _ in range(100):
        terminal = _target(os.path.join(place, name), missing_ok=True)
        if terminal and os.path.exists(terminal):
            return terminal
        select.select((), (), (), 0.05)
    try:
        holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
    except OSError:
        holder = ""
    hint = f"end process {holder} and try again" if holder.isdecimal() else "try again"
    raise HostError(f"{os.path.join(place, name)} has vanished", hint)


def _target(link: str, missing_ok: bool = False) -> str:
    try:
        return os.readlink(link)
    except OSError as error:
        if missing_ok:
            return ""
        raise HostError(f"{link}: {error.strerror}") from None


def _start(place: str, pair: str, lock: int) -> None:
    """Start the helper and wait until its links are there."""
    helper = os.path.join(os.path.dirname(__file__), "nmdm_helper.py")
    links = [place]
    if os.geteuid() == 0 and not _chosen():
        links.append("/dev")
    ready, theirs = os.pipe()
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
        *_moved(lock, theirs),
    ]
    try:
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", helper, pair, *links],
            os.environ,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
        )
    except OSError as error:
        os.close(ready)
        raise HostError(f"{sys.executable}: {error.strerror}") from None
    finally:
        os.close(theirs)
    answer = b""
    with os.fdopen(ready, "rb", buffering=0) as pipe:
        while (data := pipe.read(_ANSWER_MAX)) and len(answer) < _ANSWER_MAX:
            answer += data
    if answer != b"ready\n":
        reason = answer.decode("utf-8", "replace").strip()
        raise HostError(f"null modem {pair}: {reason or 'the process that should keep it ended at once'}")


def _moved(lock: int, ready: int) -> list[tuple[Any, ...]]:
    """The two descriptors to the helper's numbers, whichever numbers they have here."""
    free = max(lock, ready, _HELPER_READY) + 1
    return [
        (os.POSIX_SPAWN_DUP2, lock, free),
        (os.POSIX_SPAWN_DUP2, ready, free + 1),
        (os.POSIX_SPAWN_DUP2, free, _HELPER_LOCK),
        (os.POSIX_SPAWN_DUP2, free + 1, _HELPER_READY),
        (os.POSIX_SPAWN_CLOSE, free),
        (os.POSIX_SPAWN_CLOSE, free + 1),
    ]
