"""What a guest's tar stream holds, as confined children read it, a batch of entries each."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from bhyveload.confined.confinement import Subject
from bhyveload.confined.deadline import READ_SECONDS, Deadline
from bhyveload.confined.run import run as run_confined
from bhyveload.confined.shape import Fields, Flag, Number, Sequence, Text
from bhyveload.guest.archive import (
    APPARENT_MAX,
    KINDS,
    PATH_MAX,
    PIECES_MAX,
    TIME_MAX,
    Archive,
    ArchiveEntry,
    damaged,
    path_parts,
)
from bhyveload.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bhyveload.confined.child import Leave

_BATCH = 1000  # entries
_ROOM = 4 << 20  # characters of a report, to which one entry more may come
_READER = "the reader of the guest's folder"
_ENTRY = Fields(
    {
        "kind": Text(words=KINDS),
        "path": Text(PATH_MAX),
        "mode": Number(0, 0o777),
        "modified": Number(0, TIME_MAX),
        "size": Number(0, APPARENT_MAX),
        "target": Text(PATH_MAX + 1),
        "pieces": Sequence(Number(0, APPARENT_MAX), 3 * PIECES_MAX),
        "at": Number(),
    }
)
_REPORT = Fields({"entries": Sequence(_ENTRY, _BATCH), "more": Flag()})


class ConfinedArchive:
    """The stream in the first ``size`` bytes of ``fd``, for extract.py: no process but a confined one looks at its
    headers."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._archive = Archive(fd, size)
        self.read = self._archive.read

    def entries(self) -> Iterator[ArchiveEntry]:
        """Raises GuestError, HostError, LoaderCrashed, ReportError."""
        deadline = Deadline(READ_SECONDS)
        at, more = 0, True
        subject = Subject(_READER, Sandbox(), others=(self._fd,))
        while more:
            report = run_confined(partial(_batch, self._archive, at), subject, deadline, _REPORT)
            for row in report["entries"]:
                yield _entry(row)
            more = report["more"]
            if more:
                if not report["entries"] or report["entries"][-1]["at"] <= at:
                    raise damaged("it does not go on")
                at = report["entries"][-1]["at"]


def _batch(archive: Archive, at: int, _leave: Leave) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    room = _ROOM
    for entry in archive.entries(at):
        if len(rows) == _BATCH or room <= 0:
            return {"entries": rows, "more": True}
        path, target = b"/".join(entry.parts), entry.target[: PATH_MAX + 1]
        rows.append(
            {
                "kind": entry.kind,
                "path": path.decode("latin-1"),
                "mode": entry.mode,
                "modified": entry.modified,
                "size": entry.size,
                "target": target.decode("latin-1"),
                "pieces": [number for piece in entry.pieces for number in piece],
                "at": entry.at,
            }
        )
        room -= 200 + 6 * (len(path) + len(target)) + 42 * len(entry.pieces)
    return {"entries": rows, "more": False}


def _entry(row: dict[str, Any]) -> ArchiveEntry:
    """What a child says, which may be in a guest's hands.  Raises GuestError."""
    numbers = row["pieces"]
    pieces = tuple(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=False))
    if any(offset + length > row["size"] for offset, _, length in pieces):
        raise damaged("a file's pieces")
    path, target = (row[name].encode("latin-1", "replace") for name in ("path", "target"))
    return ArchiveEntry(
        row["kind"], path_parts(path), row["mode"], row["modified"], row["size"], target, pieces, row["at"]
    )
