"""The guest's disks as QEMU gets them: every layer by format, every file as files.py gives it, nothing to find out.

QEMU would guess a format from first bytes that the guest may have written, and open whatever file a backing file's
name leads to.  So the driver is always given, and so is the chain of backing files, or that there is none.  A VMDK's
driver would follow the names in its descriptor: such a disk arrives here as the raw image that disks.py made of it.
"""

from __future__ import annotations

from bhyveload.absolute_path import absolute_path
from bhyveload.errors import HandoffError
from bhyveload.image.qcow2_format import HEADER_V2, HEADER_V3, INCOMPAT_DATA_FILE
from bhyveload.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from bhyveload.handoff.disks import Disk
    from bhyveload.handoff.qemu.files import QemuFiles

_DRIVERS = {"raw": "raw", "qcow2": "qcow2", "vhd": "vpc", "vhdx": "vhdx"}
# Each disk has a slot on the PCI bus of its own while there are enough; beyond, eight functions share one.  SeaBIOS
# takes 12 KiB for each at the top of low memory, where pvh/firmware.py has it kept free of guest data.
_OWN_SLOTS = 16
_FIRST_SHARED_SLOT = 8
MAX_DISKS = 60
# A write that fails is an error for the guest, as bhyve(8) has it.  QEMU would stop the guest where a disk of the host
# is full, for whoever is at its monitor: nobody.
ERRORS = "werror=report"


def option_value(value: str) -> str:
    """``value`` inside one of QEMU's option lists."""
    return value.replace(",", ",,")


def disk_arguments(number: int, disk: Disk, files: QemuFiles, count: int = 1) -> list[str]:
    """Disk ``number`` of ``count`` as a virtio disk.  Raises HandoffError when QEMU cannot have it."""
    if count > MAX_DISKS:
        raise HandoffError(f"{count} disks: QEMU's machine has room for {MAX_DISKS}", "choose some with --disk")
    node = f"disk{number}"
    device = f"virtio-blk-pci,drive={node},{ERRORS}"
    if count > _OWN_SLOTS:
        device += f",multifunction=on,addr={_FIRST_SHARED_SLOT + number // 8:#x}.{number % 8}"
    if disk.sector_size != 512:
        device += f",logical_block_size={disk.sector_size},physical_block_size={disk.sector_size}"
    return [*block_node(node, disk, files), "-device", device]


def block_node(node: str, disk: Disk, files: QemuFiles) -> list[str]:
    """What makes ``node`` the disk's content, for any device to use as its drive.  Raises HandoffError."""
    if disk.compression:
        raise HandoffError(f"{disk.path}: QEMU cannot use a file compressed with {disk.compression}", "unpack it")
    if disk.snapshot:
        return _with_temporary(node, disk, files)
    if disk.format == "raw" and not disk.overlay:
        name, protocol = _file(disk.path, disk.format, disk.read_only, files)
        read_only = "on" if disk.read_only else "off"
        options = (
            f"driver=raw,node-name={node},read-only={read_only},"
            f"file.driver={protocol},file.read-only={read_only},file.filename={option_value(name)}"
        )
        return ["-blockdev", options]
    if disk.overlay:
        below = _tree(disk.path, disk.format, True, disk.backing, files)
        return ["-blockdev", _json(disk, {"node-name": node, **_over(files.overlay(disk.overlay), below)})]
    tree = _tree(disk.path, disk.format, disk.read_only, disk.backing, files)
    return ["-blockdev", _json(disk, {"node-name": node, **tree})]


def _with_temporary(node: str, disk: Disk, files: QemuFiles) -> list[str]:
    """What the guest writes goes into a file that is gone at the end of the run."""
    below = _tree(disk.path, disk.format, True, disk.backing, files)
    top = files.temporary(disk.size, (absolute_path(disk.path), disk.format))
    if not top:
        return ["-drive", f"if=none,id={node},snapshot=on,file=json:{option_value(_json(disk, below))}"]
    return ["-blockdev", _json(disk, {"node-name": node, **_over(top, below)})]


def _over(overlay: str, below: dict[str, Any]) -> dict[str, Any]:
    file = {"driver": "file", "filename": overlay, "read-only": False}
    return {"driver": "qcow2", "read-only": False, "file": file, "backing": below}


def _tree(
    path: str, form: str, read_only: bool, backing: Sequence[tuple[str, str]], files: QemuFiles
) -> dict[str, Any]:
    name, protocol = _file(path, form, read_only, files)
    tree: dict[str, Any] = {
        "driver": _DRIVERS[form],
        "read-only": read_only,
        "file": {"driver": protocol, "filename": name, "read-only": read_only},
    }
    if form == "qcow2":
        _refuse_data_elsewhere(path)
        tree["backing"] = _tree(*backing[0], True, backing[1:], files) if backing else None
    return tree


def _refuse_data_elsewhere(path: str) -> None:
    """Raises HandoffError: the image names an external data file, which QEMU would open by that name.

    Such an image is not loaded; this one has become so since, which a guest can do that once had broken out of QEMU.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(HEADER_V2.size + HEADER_V3.size)
    except OSError:
        return  # whoever opens it says so
    if len(head) < HEADER_V2.size + HEADER_V3.size or HEADER_V2.unpack_from(head)[1] < 3:
        return
    if HEADER_V3.unpack_from(head, HEADER_V2.size)[0] & INCOMPAT_DATA_FILE:
        raise HandoffError(
            f"{path}: keeps its data in another file, which is not followed", "qemu-img convert joins them"
        )


def _file(path: str, form: str, read_only: bool, files: QemuFiles) -> tuple[str, str]:
    """QEMU's (file name, protocol)."""
    if form not in _DRIVERS:
        raise HandoffError(
            f"{path}: QEMU cannot use a disk image of format {form}",
            "unpack it, or convert it with qemu-img, and give it with --disk",
        )
    name, device = files.file(path, read_only)
    return name, "host_device" if device else "file"


def _json(disk: Disk, tree: dict[str, Any]) -> str:
    try:
        for path in (disk.path, disk.overlay, *(path for path, _ in disk.backing)):
            path.encode("utf-8")
    except UnicodeEncodeError:
        raise HandoffError(
            f"{disk.path}: QEMU cannot use a {disk.format} image with such a name", "give it a name in UTF-8"
        ) from None
    return dumps(tree)
