"""The stub as a file that QEMU can be given."""

from __future__ import annotations

import os

from bhyveload.errors import HandoffError
from bhyveload.handoff.machine import loaded
from bhyveload.handoff.pvh.pvh_image import write_stub_elf
from bhyveload.handoff.pvh.stub import build_stub

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.handoff.machine import LoadedMachine


def stub_file(vm: LoadedMachine) -> int:
    """A file descriptor of an unnamed file that holds the stub's ELF image.  Raises HandoffError, VmNotLoaded."""
    stub = build_stub(*loaded(vm))
    try:
        fd = os.memfd_create("bhyverun stub", os.MFD_CLOEXEC)
    except OSError as error:
        raise HandoffError(f"the start-up stub: {error.strerror}") from None
    try:
        write_stub_elf(fd, stub)
    except OSError as error:
        os.close(fd)
        raise HandoffError(f"the start-up stub: {error.strerror}") from None
    except BaseException:
        os.close(fd)
        raise
    return fd
