"""Why QEMU did not start, or ended by itself, in words for the user."""

from __future__ import annotations

import errno
import re
from itertools import pairwise

from bhyveload.errors import HandoffError
from bhyveload.handoff.qemu.command import PROGRAM
from bhyveload.printable import mask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DENIED = ("Permission denied", "Operation not permitted")
_BOX_HINT = "QEMU is confined: give it files with --disk and the like; --no-sandbox lets it open them by name"
_KVM_HINT = "who is in the group kvm may use it; without --accel the guest runs, slowly"
_FORWARD = re.compile(r"Could not set up host forwarding rule '((tcp|udp):([\d.]*):(\d{1,5})-[\d.:]*)'")
_HINTS = {
    "X2APIC API support": (
        "processors have room for 255 ids: fewer sockets, cores or threads, or powers of 2 of cores and threads"
    ),
    "locking memory failed": (
        "the guest was loaded with -S: raise this user's limit (ulimit -l), or load it without -S; root's needs"
        " CAP_SYS_RESOURCE, which containers take away"
    ),
}
_NODE = re.compile(r'node-name(?:=|": ?")([\w.]+)')
_FILE = re.compile(r"/dev/fdset/\d+")
_IN_USE = re.compile(r"Is another process using the image \[(.*)\]\?")


def files_of_nodes(command: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    """What the user calls the topmost file of each block node that QEMU's ``command`` makes."""
    found = {}
    for option, value in pairwise(command):
        node, file = _NODE.search(value), _FILE.search(value)
        if option == "-blockdev" and node and file and file[0] in names:
            found[node[1]] = names[file[0]]
    return found


def cannot_start(error: OSError) -> HandoffError:
    """What the host said when QEMU was to be started."""
    hint = ""
    if error.errno == errno.EAGAIN:
        hint = "too many processes run already"
    elif error.errno in (errno.EACCES, errno.EPERM):
        hint = "--no-sandbox runs it with all your rights"
    return HandoffError(f"{PROGRAM}: {error.strerror}", hint)


def failure(status: int, messages: str, names: Mapping[str, str], confined: bool) -> HandoffError:
    """QEMU ended with ``status`` (negative: by a signal) after it wrote ``messages``; its own words are all there is to
    tell reasons apart.  ``names``: what the user calls QEMU's files."""
    used = _IN_USE.search(messages)
    if used:
        return HandoffError(f"{names.get(used[1], used[1])}: is in use by another program", "is it a running guest's?")
    forward = _FORWARD.search(messages)
    if forward:
        return _not_forwarded(*forward.groups())
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    reason = lines[-1] if lines else (f"ended with status {status}" if status >= 0 else f"died by signal {-status}")
    reason = mask(reason)
    if not reason.startswith(PROGRAM):
        reason = f"{PROGRAM}: {reason}"
    return HandoffError(reason, _hint(reason, confined))


def _not_forwarded(rule: str, protocol: str, address: str, port: str) -> HandoffError:
    """QEMU does not say why: the host is asked once more."""
    import socket

    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC) as asking:
        try:
            asking.bind((address, int(port)))
        except (OSError, OverflowError) as error:
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            hint = "another program has the port, perhaps another guest's QEMU: choose another one" if taken else ""
            return HandoffError(f"hostfwd={rule}: {getattr(error, 'strerror', None) or error}", hint)
    return HandoffError(f"hostfwd={rule}: QEMU could not listen there", "try again, or choose another port")


def _hint(reason: str, confined: bool) -> str:
    for words, hint in _HINTS.items():
        if words in reason:
            return hint
    if not reason.endswith(_DENIED):
        return ""
    if "initialize kvm" in reason:
        return _KVM_HINT
    return _BOX_HINT if confined else ""
