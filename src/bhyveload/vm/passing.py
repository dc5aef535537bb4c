"""VMs that live for one run: their names, and what is left of them when that run was killed."""

from __future__ import annotations

import os

from bhyveload.errors import VmError
from bhyveload.vm.directory import list_machines
from bhyveload.vm.store import destroy_machine

_PREFIX = "guest"
_RANDOM = 4  # bytes


def passing_name() -> str:
    """A name that nobody has: guest-PID-RANDOM."""
    return f"{_PREFIX}-{os.getpid()}-{os.urandom(_RANDOM).hex()}"


def is_passing(name: str) -> bool:
    """Whether ``name`` is one of ``passing_name``'s."""
    prefix, _, rest = name.partition("-")
    pid, _, word = rest.partition("-")
    return prefix == _PREFIX and pid.isdecimal() and len(word) == 2 * _RANDOM and not word.strip("0123456789abcdef")


def remove_abandoned(directory: str | None = None) -> None:
    """Remove the VMs of one run whose run is over: nobody holds their lock.  What cannot be removed stays.

    Raises VmStorageError: the directory of VMs cannot be used.
    """
    for name in list_machines(directory):
        if is_passing(name):
            try:
                destroy_machine(name, directory)
            except VmError:  # in use; removed by another one meanwhile; a folder of somebody else's
                pass
