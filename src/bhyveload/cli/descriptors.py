"""The descriptors 0, 1 and 2."""

from __future__ import annotations

import os
import sys


def occupy_standard_descriptors() -> None:
    """Keep the numbers 0, 1 and 2 from being given to other files where the caller closed them.

    Else the next file to be opened, a guest's disk, would get such a number, and what is meant for the user be written
    into it.  Reading 0 and writing 1 and 2 goes on failing (EBADF): the descriptors are open for the opposite.  Before
    the imports, because libffi (ctypes) keeps a file open from 3.5 on.
    """
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDONLY if fd else os.O_WRONLY)  # the lowest number that is free: fd itself
            assert null == fd
            setattr(sys, name, os.fdopen(fd, mode, closefd=False))
