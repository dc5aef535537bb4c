"""Open a guest's disk, whatever it comes in.

A raw image is opened and mapped, and none of the other modules is imported.  Everything else goes through
image/disk.py, where a confined child looks at the file before the loader's child does.
"""

from __future__ import annotations

from bhyveload.image.magic import RAW, detect
from bhyveload.image.raw import open_raw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.image.cache import Progress
    from bhyveload.image.disk import ImageDisk
    from bhyveload.image.raw import RawImage


def open_disk(
    path: str,
    *,
    allow_backing: bool = False,
    progress: Progress | None = None,
    sandbox: Callable[[], None] | None = None,
) -> RawImage | ImageDisk:
    """The disk in ``path``: a RawImage, or an ImageDisk that is only read.

    ``allow_backing``: follow the names of backing files in qcow2 images.  ``progress`` is told when the file has to be
    unpacked.  ``sandbox`` confines the children that look at the file.

    Raises InputError (cannot be opened), ImageError (damaged, of a kind that is not read, names other files),
    HostError (no room to unpack it), LoaderCrashed.
    """
    file = open_raw(path)
    try:
        form = detect(file, path)
        if form == RAW:
            return file
    except BaseException:
        file.close()
        raise
    writable = not file.read_only
    file.close()
    from bhyveload.image.disk import Opener

    return Opener(allow_backing, progress, sandbox).open(path, writable)
