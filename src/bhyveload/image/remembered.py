"""What a disk image was when it was first seen, kept where no guest can write.

A guest owns every byte of its raw disk: at the next load it could look like an image of another format, with names of
the host's files in it.  So a disk that was raw stays raw until the user says otherwise.  The word is kept in an
extended attribute of the file (user.bhyveload.format); where there are none, in the user's state folder, under the
device and inode of the file:

    $XDG_STATE_HOME/bhyveload/formats/DEVICE-INODE      (~/.local/state where that is not set)
"""

from __future__ import annotations

import os
import stat

from bhyveload.errors import ImageError
from bhyveload.image.magic import COMPRESSIONS, RAW, detect
from bhyveload.libc import write_all
from bhyveload.new_file import NewFile, private_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.image.raw import RawImage

ATTRIBUTE = "user.bhyveload.format"
_LONGEST = 16
_FIRST_BYTES_ARE_THE_GUESTS = (RAW, "vhd")  # a fixed VHD is a raw disk with a footer behind it


def format_of(file: RawImage, said: str = "", keep: bool = True) -> str:
    """What ``file`` is: as the user says, else as it was when it was first seen, else as it looks.

    A guest owns the bytes of its raw disk, so what was raw stays raw: with ``keep`` that is remembered; where it cannot
    be, the file is ``forgotten``.  The same for a VHD: the first bytes of a fixed one are the guest's.
    Raises ImageError.
    """
    if said:
        form = said
    elif file.medium is not None:
        return RAW  # a character device: its number is not the same after a reboot, so nothing can be remembered of it
    else:
        known = recall(file)
        try:
            form = detect(file, file.name)
        except ImageError as error:
            if known in _FIRST_BYTES_ARE_THE_GUESTS:  # what helps with such a file is not the guest's to say either
                as_it_was = f"-d {file.name},format={known} takes it as it was"
                raise ImageError(f"{error.message}, and was a {known} disk before", as_it_was) from None
            raise
        if known in _FIRST_BYTES_ARE_THE_GUESTS and form not in (RAW, known):
            raise ImageError(
                f"{file.name}: was a {known} disk before, and looks like {form} now: its guest may have written that",
                f"format={known} behind its name takes it as it was, format={form} as it looks: "
                f"-d {file.name},format={known}",
            )
        if known == form:
            return form
    if keep and not file.read_only and form not in COMPRESSIONS:
        file.forgotten = not remember(file, form) and not said and form in _FIRST_BYTES_ARE_THE_GUESTS
    return form


def forgotten_warning(name: str, form: str) -> str:
    """What to tell the user of a disk that is ``forgotten``."""
    return (
        f"{name}: that it is a {form} disk cannot be remembered (no extended attribute, no state folder): its guest "
        f"could make it another one; -d {name},format={form} says it"
    )


def recall(file: RawImage) -> str:
    """The format that ``file`` was remembered to have, or ""."""
    try:
        return os.getxattr(file.descriptor, ATTRIBUTE).decode("ascii", "replace")
    except (OSError, AttributeError):
        pass  # none there, or none to be had; FreeBSD's Python has no such function
    path = _path(file)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW) if path else -1
    except OSError:
        return ""
    if fd < 0:
        return ""
    try:
        return os.read(fd, _LONGEST).decode("ascii", "replace").strip()
    finally:
        os.close(fd)


def remember(file: RawImage, form: str) -> bool:
    """Keep that ``file`` is a ``form``; whether that was possible."""
    try:
        os.setxattr(file.descriptor, ATTRIBUTE, form.encode())
        return True
    except (OSError, AttributeError):
        pass
    path = _path(file)
    if not path:
        return False
    folder = os.path.dirname(path)
    try:
        private_folder(folder, exist_ok=True)
        status = os.lstat(folder)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return False
        with NewFile(path) as new:
            write_all(new.fd, form.encode())
            new.place()
    except OSError:
        return False
    return True


def _path(file: RawImage) -> str:
    """Where the word is kept outside the file; "" where the user has no such folder."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):  # the specification: a relative one is to be ignored
        home = os.environ.get("HOME", "")
        if not os.path.isabs(home):
            return ""
        base = os.path.join(home, ".local", "state")
    status = os.fstat(file.descriptor)
    key = f"block-{status.st_rdev:x}" if stat.S_ISBLK(status.st_mode) else f"{status.st_dev:x}-{status.st_ino:x}"
    return os.path.join(base, "bhyveload", "formats", key)
