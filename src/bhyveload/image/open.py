"""Open a guest's disk, whatever it comes in.

A raw image is opened and mapped, and none of the other modules is imported.  Everything else goes through
image/disk.py, where a confined child looks at the file before the loader's child does.
"""

from __future__ import annotations

from bhyveload.image.magic import RAW, detect
from bhyveload.image.raw import open_raw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.image.cache import Progress
    from bhyveload.image.disk import ImageDisk
    from bhyveload.image.raw import RawImage
    from bhyveload.sandbox import Sandbox

    Disk = RawImage | ImageDisk


def open_disk(
    path: str,
    *,
    read_only: bool = False,
    allow_backing: bool = False,
    progress: Progress | None = None,
    sandbox: Sandbox | bool = True,
) -> Disk:
    """The disk in ``path``: a RawImage, or an ImageDisk, which is only read.

    ``read_only``: never write to it.  ``allow_backing``: follow the names of backing files in qcow2 images.
    ``progress`` is told when the file has to be unpacked.  ``sandbox``: how the children that look at the file are
    confined; True: with all that this host offers.

    Raises InputError (cannot be opened), ImageError (damaged, of a kind that is not read, names other files),
    HostError (no room to unpack it), SandboxError, LoaderCrashed.
    """
    return disk_in(open_raw(path, read_only), allow_backing=allow_backing, progress=progress, sandbox=sandbox)


def disk_in(
    file: RawImage, *, allow_backing: bool = False, progress: Progress | None = None, sandbox: Sandbox | bool = True
) -> Disk:
    """The disk in a file that is open already: ``file`` itself if it is raw, else it is closed.  As open_disk()."""
    try:
        if detect(file, file.name) == RAW:
            return file
    except BaseException:
        file.close()
        raise
    path, writable = file.name, not file.read_only
    file.close()
    from bhyveload.image.disk import Opener

    return Opener(allow_backing, progress, sandbox).open(path, writable)
