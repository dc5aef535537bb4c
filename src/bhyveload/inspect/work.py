"""What the confined child of bhyvedisk does with one request."""

from __future__ import annotations

import os

from bhyveload.inspect.commands import Guest
from bhyveload.inspect.output import Output, OutputFailed
from bhyveload.inspect.volumes import DiskVolumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    from bhyveload.device import Device

    class Request(Protocol):
        """cli.bhyvedisk.Request."""

        command: str
        path: str
        partition: str
        dataset: str
        doubtful: bool
        flags: set[str]


def prepare(command: str) -> None:
    """Import what ``command`` needs beyond this module.  Call before the process is confined."""
    if command == "info":
        import bhyveload.inspect.survey
        import bhyveload.jsontext  # noqa: F401
    elif command == "checksum":
        import hashlib

        hashlib.sha256(b"")  # OpenSSL looks for its algorithms at the first use


def work(request: Request, disks: Sequence[Device], output: Output, warn: Callable[[str], None]) -> dict[str, Any]:
    """Carry it out: data to ``output``, words to ``warn``.

    The report: "damage" how much could not be read, "mode" of a file that was copied, "output" the host's errno when
    the descriptor took no more, "no disk" when the last disk, if ``doubtful``, has nothing on it.
    Raises UsageError, InputError, PartitionError, FileSystemError, ImageError.
    """
    try:
        report = _carry_out(request, disks, output, warn)
        output.flush()
    except OutputFailed as error:
        return {"output": error.errno}
    except BaseException:
        try:
            output.flush()  # what was found before it went wrong
        except OutputFailed:
            pass
        raise
    return report


def _carry_out(
    request: Request, images: Sequence[Device], output: Output, warn: Callable[[str], None]
) -> dict[str, Any]:
    disks = DiskVolumes(images)
    if request.doubtful and disks.is_empty(len(images) - 1):
        return {"no disk": True}
    if request.command == "info":
        _info(images, disks, output, "json" in request.flags)
        return {}
    device, fs = disks.file_system(request.partition, request.dataset)
    guest = Guest(device, fs, output, warn, sum(image.size for image in images))
    path = os.fsencode(request.path)
    report: dict[str, Any] = {}
    if request.command == "ls":
        guest.list(path or b"/", "l" in request.flags, "R" in request.flags)
    elif request.command == "checksum":
        guest.checksum(path or b"/")
    else:
        report["mode"] = guest.cat(path)
    report["damage"] = guest.damage
    return report


def _info(images: Sequence[Device], disks: DiskVolumes, output: Output, json: bool) -> None:
    from bhyveload.inspect.listing import printable
    from bhyveload.inspect.survey import describe, survey
    from bhyveload.jsontext import dumps

    facts = survey(images, disks)
    for line in (dumps(facts, indent=2),) if json else map(printable, describe(facts)):
        output.line(line)
