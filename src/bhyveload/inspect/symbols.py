"""Where the symbols of a guest's kernel are, on the guest's disks: for whoever debugs it.

FreeBSD strips the debug information of kernels into kernel.debug and names that in the section .gnu_debuglink
(sys/conf/kern.post.mk); the distribution set kernel-dbg puts it below /usr/lib/debug.  Looked for where gdb looks (its
manual, "Separate Debug Files"), and as kernel.full and kernel.symbols beside the kernel, as builds have left it.
"""

from __future__ import annotations

from bhyveload.boot_formats.elf_format import ELF64, ELFMAG, SH_NAME, SH_OFFSET, SH_SIZE, ElfHeader
from bhyveload.errors import FileSystemError
from bhyveload.fs.stat import S_IFMT, S_IFREG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bhyveload.fs.interface import DiskFile, DiskFileSystem
    from bhyveload.inspect.volumes import DiskVolumes

_MAX_SECTIONS = 1000
_MAX_NAMES = 1 << 20  # bytes of section names
_MAX_LINK = 4096
_MAX_NAME = 255
_USUAL = b"kernel.debug"


def find_symbols(disks: DiskVolumes, device: str, kernel: bytes) -> dict[str, Any]:
    """As SYMBOLS (confined/reports.py) has it: of the kernel at path ``kernel`` on ``device`` ("disk0p2:").

    "debug": the path of the separate file, "" where there is none; "crc" of it, where the kernel says; "whole": the
    kernel has its debug information itself.
    Raises PartitionError, UsageError: there is no such device; FileSystemError: it or the kernel cannot be read.
    """
    name = device.removesuffix(":")
    zfs = name.startswith("zfs:")
    _, fs = disks.file_system("" if zfs else name, name.removeprefix("zfs:") if zfs else "")
    sections = _sections(fs.open(fs.lookup(kernel)))
    link, crc = _debug_link(sections.get(b".gnu_debuglink", b""))
    candidates = _candidates(kernel, link)
    found = next((path for path in candidates if _is_file(fs, path)), b"")
    return {
        "debug": found.decode("latin-1"),
        "crc": crc if found.endswith(b"/" + link) else None,
        "whole": b".debug_info" in sections,
        "looked_for": [path.decode("latin-1") for path in candidates],
    }


def _candidates(kernel: bytes, link: bytes) -> list[bytes]:
    folder = kernel.rpartition(b"/")[0]
    places = [folder + b"/" + link, folder + b"/.debug/" + link, b"/usr/lib/debug" + folder + b"/" + link]
    return [*places, folder + b"/kernel.full", folder + b"/kernel.symbols"]


def _debug_link(content: bytes) -> tuple[bytes, int | None]:
    """(file name, its CRC-32); the usual name where the section does not say.  The name is the guest's: no path."""
    name, end, _ = content.partition(b"\0")
    at = -(-(len(name) + 1) // 4) * 4
    if not end or not 0 < len(name) <= _MAX_NAME or b"/" in name or name in (b".", b"..") or len(content) < at + 4:
        return _USUAL, None
    return name, int.from_bytes(content[at : at + 4], "little")


def _sections(file: DiskFile) -> dict[bytes, bytes]:
    """The first bytes of each section by its name; none of a file that is no ELF of 64 bits."""
    raw = _read(file, 0, ELF64.ehdr.size)
    if len(raw) < ELF64.ehdr.size or raw[:5] != ELFMAG + bytes([ELF64.ei_class]):
        return {}
    header = ElfHeader(ELF64, raw)
    count = min(header.e_shnum, _MAX_SECTIONS)
    table = _read(file, header.e_shoff, count * ELF64.shdr.size)
    if header.e_shentsize != ELF64.shdr.size or len(table) < count * ELF64.shdr.size or header.e_shstrndx >= count:
        return {}
    sections = list(ELF64.shdr.iter_unpack(table))
    strings = sections[header.e_shstrndx]
    names = _read(file, strings[SH_OFFSET], min(strings[SH_SIZE], _MAX_NAMES))
    found: dict[bytes, bytes] = {}
    for section in sections:
        name = names[section[SH_NAME] : section[SH_NAME] + 64].partition(b"\0")[0]
        if name in (b".gnu_debuglink", b".debug_info"):
            found[name] = _read(file, section[SH_OFFSET], min(section[SH_SIZE], _MAX_LINK))
    return found


def _read(file: DiskFile, offset: int, length: int) -> bytes:
    return b"".join(file.read(offset, length)) if 0 <= offset < file.size else b""


def _is_file(fs: DiskFileSystem, path: bytes) -> bool:
    try:
        return fs.stat(fs.lookup(path)).mode & S_IFMT == S_IFREG
    except FileSystemError:
        return False
