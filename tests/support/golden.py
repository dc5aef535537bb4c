"""The golden records: what FreeBSD's own loader left in a guest (tests/data/golden/README.md), and whether we leave the
same."""

from __future__ import annotations

import os
import re
import shlex
import struct
import sys

from bhyveload.image.raw import RawImage
from support import harness
from support.descriptors import OwnDisk
from support.places import DATA

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GOLDEN = DATA / "golden"
MIB = 1 << 20
SECTOR = 512
# The rest of the stack page is what the real loader's C stack held
STACK_PAGE_REST = (0x100C, 0x2000)
I386_STACK_PAGE_REST = (0x1000, 0x1FDC)
I386_MODULEP = 0x1FF8
I386_GDT = (0x3000, 0x3020)
# struct keybuf: only the number of keys, 0, was set by the real loader
KEYBUF_SIZE = 33028


class Record:
    """One recorded run: ``version`` "13.2" or "current"."""

    def __init__(self, version: str, name: str) -> None:
        self.version = version
        self.name = name
        self.folder = GOLDEN / version / name
        self.run = (self.folder / "run.txt").read_text(encoding="latin-1")
        self.console = (self.folder / "console.txt").read_bytes()
        self.memory_size = int(self._fields("memory")[0].removesuffix(" MiB")) * MIB
        self.interpreter = re.findall(r"^loader: userboot_(\w+)\.so", self.run)[0]
        self.keys = unquote(self._fields("keys")[0])
        self.environment = [text.encode("latin-1") for text in self._fields("environment") if text]
        self.calls = [line for line in self.run.splitlines() if re.match(r"set(reg|msr|cr|gdt) |exec ", line)]

    def _fields(self, name: str) -> list[str]:
        return re.findall(rf"^{name}: ?(.*)$", self.run, re.M)

    def memory(self) -> bytes:
        """Guest memory from 0 to kernend."""
        return zstd.decompress((self.folder / "memory.zst").read_bytes())

    def disks(self) -> list[RawImage]:
        return [memory_disk(zstd.decompress((self.folder / f"{name}.zst").read_bytes())) for name in self.names]

    def written(self) -> dict[tuple[str, int], bytes]:
        """(disk, sector number) -> what the real loader wrote there."""
        return {
            (name, int(number)): bytes.fromhex(content)
            for name in self.names
            if (path := self.folder / f"{name}.after.sectors").exists()
            for number, content in (line.split() for line in path.read_text().splitlines())
        }

    @property
    def names(self) -> list[str]:
        return self._fields("disks")[0].split()

    @property
    def ignored(self) -> list[tuple[int, int]]:
        """Address ranges that differ by nature: what was on the real loader's stack and heap, and the 32-bit guest's
        descriptors, which bhyveload writes after the moment of the record."""
        if self.name != "i386":
            return [STACK_PAGE_REST]
        memory = self.memory()
        (modulep,) = struct.unpack_from("<I", memory, I386_MODULEP)
        keys = memory.index(struct.pack("<II", 0x800D, KEYBUF_SIZE), modulep) + 8
        return [I386_STACK_PAGE_REST, I386_GDT, (keys + 4, keys + KEYBUF_SIZE)]


def records(*names: str, interpreter: str | None = None) -> list[tuple[str, str]]:
    """(version, name) of every record, or of those called one of ``names``, or of that interpreter's.

    The Forth loader was started directly: its disks do not say that they want it.
    """
    found = sorted(
        (path.parent.name, path.name)
        for path in GOLDEN.glob("*/*")
        if path.is_dir() and (not names or path.name in names)
    )
    return [one for one in found if interpreter in (None, Record(*one).interpreter)]


def memory_disk(content: bytes) -> RawImage:
    """A writable disk that lives in memory."""
    fd = os.memfd_create("disk")
    os.ftruncate(fd, len(content))
    for at in range(0, len(content), MIB):
        piece = content[at : at + MIB]
        if piece.count(0) != len(piece):  # a hole stays one: memory is short when all tests run
            os.pwrite(fd, piece, at)
    return OwnDisk(fd, "disk.img", read_only=False)


def unquote(text: str) -> bytes:
    """bash's %q: 'plain' or $'with escapes'."""
    if text.startswith("$'"):
        return text[2:-1].encode("latin-1").decode("unicode_escape").encode("latin-1")
    return "".join(shlex.split(text)).encode("latin-1")


def changed_sectors(record: Record, disks: list[RawImage]) -> dict[tuple[str, int], bytes]:
    """(disk, sector number) -> content, of every sector of ``disks`` that is not as it was before the run."""
    changed = {}
    for name, before, after in zip(record.names, record.disks(), disks, strict=True):
        for start in range(0, before.size, MIB):
            length = min(MIB, before.size - start)
            old, new = before.read(start, length), after.read(start, length)
            if old == new:
                continue
            for at in range(0, length, SECTOR):
                if old[at : at + SECTOR] != new[at : at + SECTOR]:
                    changed[name, (start + at) // SECTOR] = bytes(new[at : at + SECTOR])
    return changed


def replay(record: Record, disks: list[RawImage] | None = None) -> harness.Outcome:
    """Our loader on the record's disks, keys and variables."""
    used = record.disks() if disks is None else disks
    try:
        return harness.run(
            used,
            record.keys,
            environment=record.environment,
            memory=record.memory_size,
            current=record.version == "current",
            interpreter=record.interpreter,
        )
    finally:
        for disk in used if disks is None else ():
            disk.close()


def differences(ours: bytes, recorded: bytes, ignored: list[tuple[int, int]]) -> list[str]:
    """Where two memories differ, page by page, outside the ignored ranges."""
    for first, last in ignored:
        ours = ours[:first] + recorded[first:last] + ours[last:]
    found = []
    for page in range(0, len(recorded), 4096):
        a, b = ours[page : page + 4096], recorded[page : page + 4096]
        if a != b:
            at = next(index for index in range(len(b)) if a[index : index + 1] != b[index : index + 1])
            found.append(f"{page + at:#x}: {a[at : at + 16].hex()} is not {b[at : at + 16].hex()}")
    return found


def kernel_of_a_record() -> bytes:
    """The kernel of the record ``plain``."""
    from bhyveload.fs import ufs
    from bhyveload.partition.slices import PARTWILD, SLICEWILD, open_slice

    disk = Record("current", "plain").disks()[0]
    fs = ufs.probe(open_slice(disk, SLICEWILD, PARTWILD).device, lambda _: None)
    node = fs.lookup(b"/boot/kernel/kernel")
    return b"".join(map(bytes, fs.open(node).read(0, fs.stat(node).size)))
