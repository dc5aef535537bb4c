"""What the confined child of bhyvedisk does with one request."""

from __future__ import annotations

import os

from bhyveload.inspect.commands import GuestFiles
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

        @property
        def drawn(self) -> bool: ...


def prepare(command: str) -> None:
    """Import what ``command`` needs beyond this module.  Call before the process is confined."""
    if command == "info":
        import bhyveload.inspect.layout
        import bhyveload.inspect.survey
        import bhyveload.jsontext  # noqa: F401 - to have them
    elif command == "checksum":
        import hashlib

        hashlib.sha256(b"")  # OpenSSL looks for its algorithms at the first use


def work(request: Request, disks: Sequence[Device], output: Output, warn: Callable[[str], None]) -> dict[str, Any]:
    """Carry it out: data to ``output``, words to ``warn``.

    The report: "layout" of disks that are to be drawn, "damage" how much could not be read, "mode" of a file that was
    copied, "output" the host's errno when the descriptor took no more, "no disk" when the last disk, if ``doubtful``,
    has nothing on it.
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
        return _info(images, disks, output, request)
    device, fs = disks.file_system(request.partition, request.dataset)
    guest = GuestFiles(device, fs, output, warn, sum(image.size for image in images))
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


def _info(images: Sequence[Device], disks: DiskVolumes, output: Output, request: Request) -> dict[str, Any]:
    """The facts as text, as JSON, or as a layout in the report: the parent draws it."""
    from bhyveload.inspect.layout import layout
    from bhyveload.inspect.survey import describe, survey
    from bhyveload.jsontext import dumps
    from bhyveload.printable import escape

    facts = survey(images, disks)
    if "json" in request.flags:
        output.line(dumps(facts, indent=2))
    elif not request.drawn:
        for line in map(escape, describe(facts)):
            output.line(line)
    return {"layout": layout(disks, facts)} if request.drawn else {}
