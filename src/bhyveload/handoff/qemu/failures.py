"""Why QEMU did not start, or ended by itself, in words for the user."""

from __future__ import annotations

import errno
import re

from bhyveload.errors import HandoffError
from bhyveload.handoff.qemu.command import PROGRAM
from bhyveload.printable import mask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_DENIED = ("Permission denied", "Operation not permitted")
_BOX_HINT = "QEMU is confined: give it files with --disk and the like; --no-sandbox lets it open them by name"
_KVM_HINT = "who is in the group kvm may use it; without --accel the guest runs, slowly"
_IN_USE = re.compile(r"Is another process using the image \[(.*)\]\?")


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
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    reason = lines[-1] if lines else (f"ended with status {status}" if status >= 0 else f"died by signal {-status}")
    reason = mask(reason)
    if not reason.startswith(PROGRAM):
        reason = f"{PROGRAM}: {reason}"
    return HandoffError(reason, _hint(reason, confined))


def _hint(reason: str, confined: bool) -> str:
    if not reason.endswith(_DENIED):
        return ""
    if "initialize kvm" in reason:
        return _KVM_HINT
    return _BOX_HINT if confined else ""
