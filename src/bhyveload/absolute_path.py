"""A file's name that leads to it from every folder."""

from __future__ import annotations

import os


def absolute_path(path: str) -> str:
    """``path`` from the root, without ``.`` and ``..``.

    With a ``..`` in it the folder is the one that the kernel finds (path_resolution(7)): behind a symbolic link ``..``
    is the parent of what the link names, and the text without both, os.path.abspath's, another file.  Raises
    FileNotFoundError: the current folder is gone.
    """
    if ".." not in path.split("/"):
        return os.path.abspath(path)
    folder, name = os.path.split(path)
    if name in ("", ".", ".."):
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(folder), name)
