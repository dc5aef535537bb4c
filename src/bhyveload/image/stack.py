"""A disk out of the files that hold it: decompression, container, backing files.  For the process that may parse.

What has been opened is found in a table.  A file that is not there yet is asked for with FilesWanted: only who started
this process may open files, and decides whether it wants to (image/disk.py).
"""

from __future__ import annotations

import sys

from bhyveload.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bhyveload.device import Device
    from bhyveload.image.raw import RawImage

    # (path of the file that names it, name) -> the file
    Table = Mapping[tuple[str, str], "Layer"]

BACKING = "backing"
EXTENT = "extent"
_MODULES = {
    "qcow2": ("bhyveload.image.qcow2", "Qcow2Image"),
    "vmdk": ("bhyveload.image.vmdk", "VmdkImage"),
    "vhd": ("bhyveload.image.vhd", "VhdImage"),
    "vhdx": ("bhyveload.image.vhdx", "VhdxImage"),
    "xz": ("bhyveload.image.xz", "XzImage"),
}


class FilesWanted(Exception):
    """``kind``: BACKING or EXTENT; ``of``: path of the file that names them; ``form``: of a backing file, or ""."""

    def __init__(self, kind: str, of: str, names: Sequence[str], form: str = "") -> None:
        super().__init__(names)
        self.kind = kind
        self.of = of
        self.names = list(names)
        self.form = form


class Layer:
    """One opened file: ``form`` is what it holds; ``in_blocks``: it is .xz and read without unpacking."""

    __slots__ = ("file", "form", "in_blocks", "path")

    def __init__(self, file: RawImage, path: str, form: str, in_blocks: bool = False) -> None:
        self.file = file
        self.path = path
        self.form = form
        self.in_blocks = in_blocks


def load_format(form: str) -> None:
    """Import what reads ``form``, before the process is confined.  Raises ImageError when this Python cannot."""
    if form in _MODULES:
        try:
            __import__(_MODULES[form][0])
        except ImportError as error:  # a Python built without zlib or lzma
            raise ImageError(
                f"this Python cannot read {form} images: {error}", "use another one, or unpack it"
            ) from None


def build(layer: Layer, table: Table) -> Device:
    """The disk in ``layer``.  Raises ImageError, FilesWanted."""
    source: Device = layer.file
    if layer.in_blocks:
        source = _reader("xz")(source, layer.path)
    if layer.form == "qcow2":

        def open_backing(name: str, form: str) -> Device:
            below = table.get((layer.path, name))
            if below is None:
                raise FilesWanted(BACKING, layer.path, [name], form)
            return build(below, table)

        return _reader("qcow2")(source, layer.path, open_backing)
    if layer.form == "vmdk":

        def open_extents(names: Sequence[str]) -> list[Device]:
            parts = [table.get((layer.path, name)) for name in names]
            missing = [name for name, part in zip(names, parts, strict=True) if part is None]
            if missing:
                raise FilesWanted(EXTENT, layer.path, missing)
            return [part.file for part in parts if part is not None]

        return _reader("vmdk")(source, layer.path, open_extents)
    if layer.form in _MODULES:
        return _reader(layer.form)(source, layer.path)
    return source


def _reader(form: str) -> Callable[..., Device]:
    name, kind = _MODULES[form]
    module = sys.modules.get(name)
    if module is None:
        raise ImageError(f"the reader of {form} images has not been loaded")
    reader: Callable[..., Device] = getattr(module, kind)
    return reader
