"""The text part of a VMDK image: what kind it is, and of which files it consists."""

from __future__ import annotations

from bhyveload.image.vmdk_format import DESCRIPTOR_MAGIC, MAX_EXTENTS, NO_PARENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.image.container import Container

_READ_KINDS = {"FLAT": "FLAT", "VMFS": "FLAT", "SPARSE": "SPARSE", "ZERO": "ZERO"}
_MAX_SECTORS = 1 << 54


class Descriptor:
    """``extents``: (FLAT, SPARSE or ZERO; sectors; file name; first sector in the file), in the order of the disk."""

    __slots__ = ("_file", "extents", "kind", "parent")

    def __init__(self, file: Container, text: bytes) -> None:
        """Raises ImageError."""
        self._file = file
        self.extents: list[tuple[str, int, str, int]] = []
        self.kind = ""
        self.parent = ""
        text = text.partition(b"\0")[0]
        if not text.startswith(DESCRIPTOR_MAGIC):
            raise file.refused("the VMDK image's descriptor is not one")
        for line in text.decode("utf-8", "surrogateescape").splitlines():
            line = line.strip()
            name, equals, value = line.partition("=")
            if line.startswith(("RW ", "RDONLY ", "NOACCESS ")):
                self._extent(line)
            elif equals:
                self._setting(name.strip().lower(), value.strip().strip('"'))

    def _setting(self, name: str, value: str) -> None:
        if name == "createtype":
            self.kind = value
        elif name == "parentcid" and value.lower() != NO_PARENT:
            self.parent = self.parent or f"CID {value[:16]}"
        elif name == "parentfilenamehint":
            self.parent = value[:256]

    def _extent(self, line: str) -> None:
        """``RW 4192256 SPARSE "disk-s001.vmdk"``, with the first sector in the file behind a flat one's name."""
        front, _, rest = line.partition('"')
        name, quote, back = rest.rpartition('"')
        words = front.split()
        kind = words[2] if len(words) == 3 else ""
        sectors = _number(words[1]) if len(words) == 3 else -1
        start = _number(back.strip() or "0")
        if words[0] == "NOACCESS":
            raise self._file.refused(f"an extent of the VMDK image must not be accessed: {line[:200]!a}")
        if kind not in _READ_KINDS:
            raise self._file.refused(
                f"VMDK extents of the kind {kind[:20]!a} are not read", "qemu-img convert may make a raw image of it"
            )
        if not 0 < sectors < _MAX_SECTORS or not 0 <= start < _MAX_SECTORS or (kind != "ZERO" and not quote):
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
