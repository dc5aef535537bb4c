"""The one protocol of everything that sectors are read from: images, partitions, what lies over them.

For type checkers only: nothing imports this at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

Buffer = bytes | memoryview


class Device(Protocol):
    """``size`` bytes that can be read anywhere; ``name`` for messages.

    ``sector_size``: what a loader is told; ``read_only``: whether ``write`` refuses.
    """

    name: str
    size: int
    sector_size: int
    read_only: bool

    def read(self, offset: int, length: int) -> Buffer:
        """Exactly ``length`` bytes: a memoryview of the mapped image where there is one (raw files), bytes otherwise.

        Raises FileSystemError(EIO) when the range does not lie in the device or the host cannot read it, ImageError
        when the container is damaged there.
        """
        ...

    def write(self, offset: int, data: Buffer) -> None:
        """Overwrite in place.  Raises FileSystemError: EROFS when the device is read-only, EIO otherwise."""
        ...

    def descriptors(self) -> Sequence[int]:
        """What it reads and writes through, however many layers below: a confined process may keep these."""
        ...

    def describe(self) -> dict[str, Any]:
        """The entry in state.json of the image that it is, or is a part of (docs/state-json.md, "disks").

        ``path`` (as it was given: a confined child cannot ask where that is from), ``format``, ``size``, ``read_only``,
        ``sector_size`` and, where there is something to say, ``compression``, ``snapshot`` and ``backing``.
        """
        ...

    def close(self) -> None:
        """Let go of what it owns: an image its file, a part of a device nothing.  Calling it again does nothing."""
        ...
