"""FreeBSD's own hypervisor: the bhyve(8) command line for a VM that bhyveload has loaded into /dev/vmm.

Nothing is handed over there: the VM is in the kernel, bhyve(8) finds memory and registers in it.
"""

from __future__ import annotations

from bhyveload.errors import HandoffError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhyveload.handoff.disks import Disk

PROGRAM = "bhyve"
_FIRST_DISK_SLOT = 3
_LPC_SLOT = 31


def bhyve_command(
    name: str,
    memory_size: int,
    disks: Sequence[Disk],
    *,
    cpus: int = 1,
    tap: str | None = None,
    wired: bool = False,
    incore: bool = False,
    extra: Sequence[str] = (),
) -> list[str]:
    """The command that runs the VM ``name`` of ``memory_size`` bytes with its console on standard input and output.

    ``tap``: the host's network interface for the guest.  Raises HandoffError for what bhyve(8) cannot have.
    """
    command = [PROGRAM, "-A", "-H", "-P", "-c", str(cpus), "-m", f"{memory_size}B"]
    if wired:
        command.append("-S")
    if incore:
        command.append("-C")
    command += ["-s", "0,hostbridge", "-s", "1,virtio-rnd"]
    if tap is not None:
        command += ["-s", f"2,virtio-net,{tap}"]
    if _FIRST_DISK_SLOT + len(disks) > _LPC_SLOT:
        raise HandoffError(f"{len(disks)} disks: bhyve(8) has room for {_LPC_SLOT - _FIRST_DISK_SLOT}")
    for slot, disk in enumerate(disks, _FIRST_DISK_SLOT):
        if disk.format != "raw" or disk.compression:
            kind = f"compressed with {disk.compression}" if disk.compression else f"of format {disk.format}"
            raise HandoffError(f"{disk.path}: bhyve(8) cannot use a disk image {kind}")
        if "," in disk.path:
            raise HandoffError(f"{disk.path}: bhyve(8) cannot use a path with a comma in it")
        size = "" if disk.sector_size == 512 else f",sectorsize={disk.sector_size}"
        command += ["-s", f"{slot},virtio-blk,{disk.path}{',ro' if disk.read_only else ''}{size}"]
    return [*command, "-s", f"{_LPC_SLOT},lpc", "-l", "com1,stdio", *extra, name]
