"""Open a guest's disk, whatever it comes in.

A raw image is opened and mapped, and none of the other modules is imported.  Everything else goes through
image/disk.py, where a confined child looks at the file before the loader's child does.
"""

from __future__ import annotations

import os

from bhyveload.confined.deadline import FOREVER
from bhyveload.image.magic import RAW
from bhyveload.image.raw import open_raw
from bhyveload.image.remembered import format_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from bhyveload.confined.deadline import Deadline
    from bhyveload.image.disk import ImageDisk
    from bhyveload.image.progress import Progress
    from bhyveload.image.raw import RawImage
    from bhyveload.sandbox import Sandbox

    Disk: TypeAlias = RawImage | ImageDisk


def open_disk(
    path: str | os.PathLike[str],
    *,
    read_only: bool = False,
    format: str = "",
    allow_backing: bool = False,
    progress: Progress | None = None,
    sandbox: Sandbox | bool = True,
    deadline: Deadline = FOREVER,
) -> Disk:
    """The disk in ``path``: a RawImage, or an ImageDisk, which is only read.

    ``read_only``: never write to it.  ``format``: what the file is (image/named.py); "": found out once, and remembered
    for a file that a guest may write.  ``allow_backing``: follow the names of backing files in qcow2 images.
    ``progress`` is told when the file has to be unpacked.  ``sandbox``: how the children that look at the file are
    confined; True: with all that this host offers.  ``deadline`` for all of it, unpacking included; looking at the file
    takes a minute at most.

    Raises InputError (cannot be opened), ImageError (damaged, of a kind that is not read, names other files, was raw
    and looks otherwise now), HostError (no room to unpack it), SandboxError, LoaderCrashed.
    """
    file = open_raw(os.fspath(path), read_only)
    return disk_in(
        file, format=format, allow_backing=allow_backing, progress=progress, sandbox=sandbox, deadline=deadline
    )


def disk_in(
    file: RawImage,
    *,
    format: str = "",
    allow_backing: bool = False,
    progress: Progress | None = None,
    sandbox: Sandbox | bool = True,
    deadline: Deadline = FOREVER,
    keep: bool = True,
) -> Disk:
    """The disk in a file that is open already: ``file`` itself if it is raw, else it is closed.

    ``keep``: remember its format.  As open_disk().
    """
    try:
        form = format_of(file, format, keep)
        if form == RAW:
            return file
    except BaseException:
        file.close()
        raise
    from bhyveload.image.disk import Opener

    disk = Opener(allow_backing, progress, sandbox, deadline).open(file, form)
    disk.forgotten = file.forgotten
    return disk
