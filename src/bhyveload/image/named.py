"""A disk as the user names it: ``PATH[,format=FORMAT][,backing][,ro]``.

The words are read from the end and only as long as they are of these; everything before them is the path, commas and
all.  A file that has the whole text for its name is that file.
"""

from __future__ import annotations

import os

from bhyveload.errors import UsageError
from bhyveload.image.magic import COMPRESSIONS, FORMATS, RAW

_SPELLINGS = {"vpc": "vhd", "img": RAW}
SAYABLE = (RAW, *FORMATS, *COMPRESSIONS)


class NamedDisk:
    """``format``: the user's word for what the file is, or ""; ``backing``: names of backing files in it are followed;
    ``read_only``: never write to it."""

    __slots__ = ("backing", "format", "path", "read_only")

    def __init__(self, path: str, format: str = "", backing: bool = False, read_only: bool = False) -> None:
        self.path = path
        self.format = format
        self.backing = backing
        self.read_only = read_only


def named_disk(text: str) -> NamedDisk:
    """What ``text`` names.  Raises UsageError: a format that is not known."""
    disk = NamedDisk(text)
    if "," not in text or os.path.lexists(text):
        return disk
    while True:
        path, comma, word = disk.path.rpartition(",")
        if not comma:
            return disk
        if word.startswith("format="):
            form = word[len("format=") :].lower()
            form = _SPELLINGS.get(form, form)
            if form not in SAYABLE:
                raise UsageError(f"{path}: the format '{form}' is not known", f"formats: {', '.join(SAYABLE)}")
            disk.format = disk.format or form
        elif word == "backing":
            disk.backing = True
        elif word == "ro":
            disk.read_only = True
        else:
            return disk
        disk.path = path
