"""Images other than raw ones: who opens what.

    parent   opens the file and compares its first bytes (magic.py); imports the format's module
      child  confined: parses the headers; answers with the disk's size, or with the names of the files it needs
    parent   decides about each name: extents of a VMDK image must lie beside it, backing files of a qcow2 image
             must have been allowed; opens them, read-only; asks a new child until nothing is missing
    parent   makes an ImageDisk: the opened files, what is in them and the size the child found
      child  (the loader's) builds the readers from it at the first read

So no name in an image is ever followed by a process that reads guest bytes, and no guest byte is parsed by a process
that can open files.  A .xz file in blocks is read as it is; other compressed files are unpacked into the cache
(cache.py) by a child that has two descriptors and nothing else.
"""

from __future__ import annotations

import errno
import os
import stat

from bhyveload.absolute_path import absolute_path
from bhyveload.confined.confinement import Subject
from bhyveload.confined.deadline import FOREVER, SURVEY_SECONDS
from bhyveload.confined.reports import IMAGE, IN_BLOCKS, MAX_DISK
from bhyveload.confined.run import run
from bhyveload.errors import FileSystemError, ImageError, InputError, ReportError
from bhyveload.image.container import SECTOR_SIZE, ReadOnlyImage
from bhyveload.image.magic import COMPRESSIONS, FORMATS, RAW, detect, media_sector_size
from bhyveload.image.raw import RawImage, open_raw
from bhyveload.image.remembered import format_of
from bhyveload.image.stack import BACKING, FilesWanted, Layer, build, load_format
from bhyveload.image.vmdk_format import DESCRIPTOR_MAGIC, MAX_EXTENTS
from bhyveload.sandbox import Sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bhyveload.confined.deadline import Deadline
    from bhyveload.confined.shape import Shape
    from bhyveload.device import Buffer, Device
    from bhyveload.image.progress import Progress

MAX_CHAIN = 16  # backing files, one on top of the other
READER = "a disk image's reader"
_IS_A_LINK = (errno.ELOOP, errno.EMLINK)  # open(2) with O_NOFOLLOW: Linux's and POSIX's word, FreeBSD's
_QEMU_NAMES = {"vpc": "vhd"}  # formats as qemu-img writes them into a qcow2 image


class ImageDisk(ReadOnlyImage):
    """A Device (device.py) that is built at its first read.

    ``format`` as in state.json; ``compression`` "" or one of magic.COMPRESSIONS; ``writable``: the file may be written,
    if not by the loader; ``snapshot``: nothing can overwrite data in it; ``backing``: (path, format), topmost first;
    ``forgotten`` as a RawImage's.
    """

    def __init__(self, name: str, layer: Layer, table: dict[tuple[str, str], Layer], facts: dict[str, Any]) -> None:
        super().__init__(name)
        self.path = absolute_path(name)  # the current folder may be another one later
        self.forgotten = False
        self.files = [layer.file, *(other.file for other in table.values())]
        self.sources.extend(self.files)
        self._layer = layer
        self._table = table
        self._device: Device | None = None
        self.format = layer.form
        self.size: int = facts["size"]
        self.media_sector_size: int = facts["sector_size"]
        self.compression: str = facts["compression"]
        self.snapshot: bool = facts["snapshot"]
        self.writable: bool = facts["writable"]
        self.backing: list[tuple[str, str]] = facts["backing"]

    def read(self, offset: int, length: int) -> Buffer:
        """Raises FileSystemError(EIO) outside the disk, ImageError where the image is damaged."""
        device = self._device
        if device is None:
            device = self._device = self._build()
        return device.read(offset, length)

    def _build(self) -> Device:
        try:
            device = build(self._layer, self._table)
        except FilesWanted:
            raise ImageError(f"{self.name}: changed while it was opened") from None
        if device.size != self.size:
            raise ImageError(f"{self.name}: changed while it was opened")
        return device

    @property
    def kind(self) -> str:
        """In words: "qcow2", "qcow2.xz", "xz" (a raw one in it)."""
        return ".".join(word for word in (self.format, self.compression) if word and word != RAW)

    def describe(self) -> dict[str, Any]:
        """The disk's entry in state.json (docs/state-json.md)."""
        entry: dict[str, Any] = {
            "path": self.path,
            "format": self.format,
            "size": self.size,
            "read_only": not self.writable,
            "sector_size": self.media_sector_size,
        }
        if self.compression:
            entry["compression"] = self.compression
        if self.snapshot:
            entry["snapshot"] = True
        if self.backing:
            entry["backing"] = [{"path": path, "format": form} for path, form in self.backing]
        return entry

    def close(self) -> None:
        self._device = None
        super().close()


def open_image(
    path: str,
    form: str,
    *,
    allow_backing: bool = False,
    progress: Progress | None = None,
    deadline: Deadline = FOREVER,
) -> ImageDisk:
    """The disk in ``path``, which is known to be a ``form`` and not raw; only to be read.  Raises as open_disk()."""
    return Opener(allow_backing, progress, True, deadline).open(open_raw(path, read_only=True), form)


class Opener:
    """The parent's part.  One object opens one disk."""

    def __init__(
        self, allow_backing: bool, progress: Progress | None, sandbox: Sandbox | bool, deadline: Deadline
    ) -> None:
        """Raises SandboxError."""
        self._deadline = deadline
        self._allow_backing = allow_backing
        self._progress = progress
        self._sandbox = Sandbox() if sandbox is True else sandbox or None
        self._table: dict[tuple[str, str], Layer] = {}
        self._backing: list[tuple[str, str]] = []
        self._files: list[RawImage] = []

    def open(self, file: RawImage, form: str) -> ImageDisk:
        """The disk in ``file``, which is a ``form``; it is closed.  Raises as open_disk()."""
        path, writable, identity = file.name, not file.read_only, _identity(file)
        file.close()
        try:
            return self._open(path, form, writable, identity)
        except BaseException:
            for opened in self._files:
                opened.close()
            raise

    def _open(self, path: str, form: str, writable: bool, identity: tuple[int, int]) -> ImageDisk:
        file = self._file(path)
        if _identity(file) != identity:
            raise ImageError(f"{path}: changed while it was opened")
        layer, compression = Layer(file, path, form), ""
        if form in COMPRESSIONS:
            layer, compression = self._decompressed(file, path, form), form
        while True:
            load_format(layer.form)
            if layer.form == "qcow2":
                _prepare_zstd(layer)
            answer = self._ask(lambda: _survey(layer, self._table), IMAGE)
            if "want" not in answer:
                break
            self._fetch(answer, layer)
        if "size" not in answer:
            raise ReportError(f"{READER} gave no size")
        facts = {
            "size": answer["size"],
            "sector_size": 4096 if answer["sector_size"] == 4096 else SECTOR_SIZE,
            "snapshot": bool(compression) or layer.form == "vmdk",  # QEMU gets a raw copy of those
            "compression": compression,
            "writable": writable and not compression,
            "backing": self._backing,
        }
        return ImageDisk(path, layer, self._table, facts)

    def _file(self, path: str) -> RawImage:
        file = open_raw(path, read_only=True)
        self._files.append(file)
        return file

    def _ask(self, question: Callable[[], dict[str, Any]], shape: Shape) -> dict[str, Any]:
        """What a confined child finds out."""
        subject = Subject(READER, self._sandbox, disks=self._files)
        answer: dict[str, Any] = run(lambda _: question(), subject, self._deadline.or_else(SURVEY_SECONDS), shape)
        return answer

    def _decompressed(self, file: RawImage, path: str, compression: str) -> Layer:
        from bhyveload.image import cache

        if compression == "xz" and not cache.present(file, "xz"):
            load_format("xz")
            answer = self._ask(lambda: _survey_xz(file, path), IN_BLOCKS)
            if answer["in_blocks"]:
                return Layer(file, path, _inner(answer["form"], path), in_blocks=True)
        unpacked = cache.unpacked(file, compression, self._progress, self._sandbox, self._deadline)
        inside = cache.open_unpacked(unpacked, path)
        self._files.append(inside)
        return Layer(inside, path, _inner(detect(inside, path), path))

    def _fetch(self, answer: dict[str, Any], top: Layer) -> None:
        """Open the files that a child asks for, or say why not.  The child may be hostile: it can ask for anything."""
        kind, of, names, form = (answer[field] for field in ("want", "of", "names", "form"))
        above = next((layer for layer in (top, *self._table.values()) if layer.path == of), None)
        if above is None or above.form != ("qcow2" if kind == BACKING else "vmdk"):
            raise ReportError(f"{READER} asked for files on behalf of one that has none")
        if not 0 < len(names) <= MAX_EXTENTS:
            raise ReportError(f"{READER} asked for files in a way that makes no sense")
        for name in names:
            if "\0" in name or (above.path, name) in self._table:
                raise ReportError(f"{READER} asked for a file without a name, or again")
            if kind == BACKING:
                self._table[above.path, name] = self._backing_file(above.path, name, form)
            else:
                self._table[above.path, name] = self._extent(above, name)

    def _extent(self, above: Layer, name: str) -> Layer:
        """A file that a VMDK's descriptor names: one of its own, in its folder, and only to be read."""
        of = above.path
        if bytes(above.file.read(0, min(above.file.size, len(DESCRIPTOR_MAGIC)))) != DESCRIPTOR_MAGIC:
            raise ReportError("a disk image's reader asked for the extents of a file that is no descriptor")
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise ImageError(
                f"{of}: its extent {name!a} is not a file beside it, and is not opened",
                "VMDK extents must lie in the folder of their descriptor",
            )
        if not _is_own_extent(os.path.basename(of), name):
            root, suffix = os.path.splitext(os.path.basename(of))
            raise ImageError(
                f"{of}: its extent {name!a} does not have its name, and is not opened",
                f"the files of a VMDK image are called like it: {root}-flat{suffix}, {root}-s001{suffix}",
            )
        path = os.path.join(os.path.dirname(of), name)
        file = _beside(of, name, path)
        self._files.append(file)
        return Layer(file, path, RAW)

    def _backing_file(self, of: str, name: str, form: str) -> Layer:
        if not self._allow_backing:
            raise ImageError(
                f"{of}: stands on another file, {name!a}, which is not followed",
                "--allow-backing follows backing files; only use it on images whose names you trust",
            )
        if len(self._backing) == MAX_CHAIN:
            raise ImageError(f"{of}: stands on more than {MAX_CHAIN} other files", "qemu-img rebase shortens the chain")
        name = name.removeprefix("file:")
        if not name or ":" in name.partition("/")[0]:
            raise ImageError(f"{of}: its backing file {name!a} is not a plain file, and is not opened")
        path = absolute_path(os.path.join(os.path.dirname(of), name))
        try:
            file = self._file(path)
        except InputError as error:
            raise InputError(f"{of}: its backing file: {error.message}") from None
        if len({_identity(file) for file in self._files}) < len(self._files):
            raise ImageError(f"{of}: its backing file {name!a} stands on it in turn")
        form = _QEMU_NAMES.get(form, form)
        if form and form not in (RAW, *FORMATS):
            raise ImageError(f"{of}: its backing file is of the format {form!a}, which is not read")
        form = form or format_of(file)
        if form in COMPRESSIONS:
            raise ImageError(f"{path}: a compressed backing file is not read", "unpack it first")
        load_format(form)
        self._backing.append((path, form))
        layer = Layer(file, path, form)
        if form == "qcow2":
            _prepare_zstd(layer)
        return layer


def _identity(file: RawImage) -> tuple[int, int]:
    status = os.fstat(file.descriptor)
    return status.st_dev, status.st_ino


def _is_own_extent(descriptor: str, name: str) -> bool:
    """Whether ``name`` is the descriptor's own with what programs put behind it: -flat, -s001, -f001, -000001-delta."""
    root, suffix = os.path.splitext(descriptor)
    if not name.startswith(root + "-") or not name.endswith(suffix):
        return False
    middle = name[len(root) + 1 : len(name) - len(suffix)]
    return 0 < len(middle) <= 32 and middle.isascii() and all(char.isalnum() or char == "-" for char in middle)


def _beside(of: str, name: str, path: str) -> RawImage:
    """The file ``name`` in the folder of ``of`` itself, not where a link leads to.  Raises InputError, ImageError."""
    folder = -1
    try:
        folder = os.open(os.path.dirname(of) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno in _IS_A_LINK:
            raise ImageError(f"{of}: its extent {name!a} is a symbolic link, and is not opened") from None
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from None
    finally:
        if folder >= 0:
            os.close(folder)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ImageError(f"{of}: its extent {name!a} is not a regular file, and is not opened")
        return RawImage(fd, path, read_only=True)
    except BaseException:
        os.close(fd)
        raise


def _survey(layer: Layer, table: dict[tuple[str, str], Layer]) -> dict[str, Any]:
    try:
        device = build(layer, table)
        if device.size > MAX_DISK:
            raise ImageError(f"{layer.path}: a disk of {device.size} bytes")
        return {
            "size": device.size,
            "sector_size": media_sector_size(device.size, device.read),
        }
    except FilesWanted as wanted:
        return {"want": wanted.kind, "of": wanted.of, "names": wanted.names, "form": wanted.form}
    except FileSystemError as error:
        raise ImageError(f"{layer.path}: {error.message}") from None


def _survey_xz(file: RawImage, path: str) -> dict[str, Any]:
    from bhyveload.image.xz import NoIndex, XzImage

    try:
        image = XzImage(file, path)
        return {"in_blocks": True, "form": detect(image, path)}
    except NoIndex:
        return {"in_blocks": False}


def _inner(form: str, path: str) -> str:
    if form not in (RAW, *FORMATS):
        raise ImageError(f"{path}: there is another compressed file in it", "unpack it first")
    return form


def _prepare_zstd(layer: Layer) -> None:
    """zstd is slow to import: only for images that say they use it, or that cannot be looked at here."""
    from bhyveload.image.qcow2_format import COMPRESSION_TYPE, COMPRESSION_ZSTD

    file = layer.file
    says = file.size > COMPRESSION_TYPE and file.read(COMPRESSION_TYPE, 1)[0] == COMPRESSION_ZSTD
    if layer.in_blocks or says:
        try:
            __import__("bhyveload.image.zstd")
        except ImportError:
            pass  # the reader says so if it needs it
