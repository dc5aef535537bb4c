"""Confine a child process (confined/child.py) to what a loader was given: the sandbox in the words of the host seam."""

from __future__ import annotations

from bhyveload import need

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhyveload.confined.child import Leave
    from bhyveload.device import Device
    from bhyveload.host.interface import Console, HostDirectory
    from bhyveload.sandbox import Sandbox
    from bhyveload.vm.interface import Memory


def confine(
    sandbox: Sandbox,
    leave: Leave,
    console: Console | None = None,
    memory: Memory | None = None,
    disks: Sequence[Device] = (),
    host_directory: HostDirectory | None = None,
    others: Sequence[int] = (),
) -> None:
    """Confine this process to these and its report.  ``others``: further descriptors.

    Everything must be opened, mapped and imported by now.  A late import is an internal error from here on, or
    ModulesNeeded where it goes through need.need().
    Raises SandboxError.
    """
    descriptors = [2, leave.descriptor, *others]
    for name in ("in_fd", "out_fd"):
        descriptors.append(getattr(console, name, -1))
    if memory is not None:
        descriptors += memory.descriptors()
    for disk in disks:
        descriptors += disk.descriptors()
    sandbox.enter(descriptors, getattr(host_directory, "fd", -1))
    need.confine()
