"""What a VM's last load needed besides what every load has: a hint of what the next one will (loading.py).

It stands at the end of state.json.  Only names of need.GROUPS are acted on, and only by importing them: a wrong one
costs milliseconds.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MEMBER = "needed"
_END = 4096  # bytes
_BEGINNING = b'"%s": [' % MEMBER.encode()


def recall(folder: str) -> Sequence[str] | None:
    """The names that state.json in ``folder`` ends with; None where it has none, or is not there."""
    try:
        fd = os.open(os.path.join(folder, "state.json"), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        data = os.pread(fd, _END, max(0, os.fstat(fd).st_size - _END))
    except OSError:
        return None
    finally:
        os.close(fd)
    _, found, rest = data.rpartition(_BEGINNING)
    if not found:
        return None
    names = rest.partition(b"]")[0].decode("ascii", "replace").split(", ")
    return [name.strip('"') for name in names]
