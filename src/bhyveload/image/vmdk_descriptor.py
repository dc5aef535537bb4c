"""The text part of a VMDK image: what kind it is, and of which files it consists."""

from __future__ import annotations

from bhyveload.image.vmdk_format import DESCRIPTOR_MAGIC, MAX_EXTENTS, NO_PARENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.errors import ImageError
    from bhyveload.image.container import Container

_READ_KINDS = {"FLAT": "FLAT", "VMFS": "FLAT", "SPARSE": "SPARSE", "ZERO": "ZERO"}
_ACCESSES = ("RW", "RDONLY", "NOACCESS")
# What VMware's programs, VirtualBox and qemu-img write.  changeTrackPath and the like name files: not understood.
_SETTINGS = (
    "version",
    "encoding",
    "cid",
    "parentcid",
    "isnativesnapshot",
    "createtype",
    "parentfilenamehint",
)
_DATABASE = "ddb."
_MAX_SECTORS = 1 << 54
_MAX_LINES = 1 << 12
_CID_DIGITS = 8


class Descriptor:
    """``extents``: (FLAT, SPARSE or ZERO; sectors; file name; first sector in the file), in the order of the disk.

    Every line must be one of those that are known, and lines end with a line feed alone: what this reader passed over,
    another one could follow.
    """

    __slots__ = ("_file", "extents", "kind", "parent")

    def __init__(self, file: Container, text: bytes) -> None:
        """Raises ImageError."""
        self._file = file
        self.extents: list[tuple[str, int, str, int]] = []
        self.kind = ""
        self.parent = ""
        text, _, rest = text.partition(b"\0")
        if not text.startswith(DESCRIPTOR_MAGIC):
            raise file.refused("the VMDK image's descriptor is not one")
        # QEMU writes a new CID into the text that is there (block/vmdk.c:vmdk_write_cid); where that has fewer digits
        # than the old one, the last bytes of the old text stay behind the end of the new one.
        stale = rest.strip(b"\0")
        if stale and not (len(stale) < _CID_DIGITS and text.endswith(stale)):
            raise file.refused("the VMDK image's descriptor goes on behind its end")
        lines = text.split(b"\n", _MAX_LINES)
        if len(lines) > _MAX_LINES:
            raise file.refused(f"the VMDK image's descriptor has more than {_MAX_LINES} lines")
        for line in lines:
            self._line(line.decode("utf-8", "surrogateescape").rstrip(" "))

    def _line(self, line: str) -> None:
        if not line or line.startswith("#"):
            if not _is_text(line):
                raise self._not_understood(line)
            return
        name, equals, value = line.partition("=")
        if line.partition(" ")[0] in _ACCESSES:
            self._extent(line)
        elif equals and _is_text(line):
            self._setting(line, name.rstrip(" "), value.lstrip(" "))
        else:
            raise self._not_understood(line)

    def _setting(self, line: str, name: str, value: str) -> None:
        name = name.lower()
        known = name in _SETTINGS or (name.startswith(_DATABASE) and name.replace(".", "").replace("_", "").isalnum())
        quoted = len(value) >= 2 and value[0] == value[-1] == '"'
        value = value[1:-1] if quoted else value
        if not known or '"' in value or (" " in value and not quoted):
            raise self._not_understood(line)
        if name == "createtype":
            self.kind = value
        elif name == "parentcid" and value.lower() != NO_PARENT:
            self.parent = self.parent or f"CID {value[:16]}"
        elif name == "parentfilenamehint":
            self.parent = value[:256]

    def _not_understood(self, line: str) -> ImageError:
        return self._file.refused(
            f"the VMDK descriptor has a line that is not understood: {line[:200]!a}",
            "qemu-img convert may make a raw image of it; only if you trust where it comes from",
        )

    def _extent(self, line: str) -> None:
        """``RW 4192256 SPARSE "disk-s001.vmdk"``, with the first sector in the file behind a flat one's name."""
        front, quote, rest = line.partition('"')
        name, closing, back = rest.rpartition('"')
        words = front.split(" ")
        if quote and words[-1:] == [""]:
            words.pop()
        if len(words) != 3 or not _is_text(line) or (quote and (not closing or '"' in name)):
            raise self._not_understood(line)
        access, length, kind = words
        sectors = _number(length)
        start = _number(back[1:] if back.startswith(" ") else back and "?") if back else 0
        if access == "NOACCESS":
            raise self._file.refused(f"an extent of the VMDK image must not be accessed: {line[:200]!a}")
        if kind not in _READ_KINDS:
            raise self._file.refused(
                f"VMDK extents of the kind {kind[:20]!a} are not read", "qemu-img convert may make a raw image of it"
            )
        if not 0 < sectors < _MAX_SECTORS or not 0 <= start < _MAX_SECTORS or (kind == "ZERO") == bool(quote):
            raise self._file.refused(f"the VMDK descriptor has an extent that makes no sense: {line[:200]!a}")
        if len(self.extents) == MAX_EXTENTS:
            raise self._file.refused(
                f"the VMDK image has more than {MAX_EXTENTS} extents", "qemu-img convert joins them"
            )
        self.extents.append((_READ_KINDS[kind], sectors, name, start))

    def check_kind(self) -> None:
        """Raises ImageError for what stands on another image."""
        if self.parent:
            raise self._file.refused(
                f"the VMDK image is a snapshot of another one ({self.parent!a}), which is not followed",
                "qemu-img convert makes one image of both",
            )

    def file_names(self) -> list[str]:
        """Each file once."""
        return list(dict.fromkeys(name for kind, _, name, _ in self.extents if kind != "ZERO"))


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1


def _is_text(line: str) -> bool:
    """No control characters, no line ends other than the line feed that is gone."""
    return all(char >= " " and char != "\x7f" and not "\x80" <= char <= "\x9f" for char in line) and not any(
        char in line for char in "\u2028\u2029"
    )
