"""Preloaded files, and the environment and module information that a kernel finds behind them.

Sources: stand/common/{module,modinfo}.c, stand/userboot/userboot/{bootinfo32,bootinfo64,biossmap}.c.
"""

from __future__ import annotations

from bhyveload.boot_formats.modinfo_format import (
    BASE_MEMORY,
    EXTENDED_MEMORY,
    HIGH_MEMORY,
    KEYBUF_SIZE,
    MODINFO_ADDR,
    MODINFO_ARGS,
    MODINFO_END,
    MODINFO_METADATA,
    MODINFO_NAME,
    MODINFO_SIZE,
    MODINFO_TYPE,
    MODINFOMD_ENVP,
    MODINFOMD_HOWTO,
    MODINFOMD_KERNEND,
    MODINFOMD_KEYBUF,
    MODINFOMD_NOCOPY,
    MODINFOMD_SMAP,
    RECORD,
    SMAP_ENTRY,
    SMAP_TYPE_MEMORY,
    U32,
    U64,
)
from bhyveload.errors import KernelError
from bhyveload.freebsd_errno import ENOMEM
from bhyveload.loader.kernel.guest import BOOT_MAP_END, MIB, PAGE_SIZE, REACH, refuse_if_too_small, round_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhyveload.compat import LoaderVersion
    from bhyveload.host.interface import GuestCopy
    from bhyveload.loader.environment import Environment
    from bhyveload.loader.kernel.preloaded import PreloadedFile


def find_file(
    files: Sequence[PreloadedFile], name: str | None = None, type_: str | None = None
) -> PreloadedFile | None:
    """file_findfile: the first loaded file of that name and type; None matches all."""
    for file in files:
        if (name is None or file.name == name) and (type_ is None or file.type == type_):
            return file
    return None


class Placement:
    """Where things ended up, as guest physical addresses."""

    __slots__ = ("envp", "kernend", "modulep")

    def __init__(self, envp: int, modulep: int, kernend: int) -> None:
        self.envp = envp
        self.modulep = modulep
        self.kernend = kernend


def build(
    guest: GuestCopy, files: Sequence[PreloadedFile], kernel: PreloadedFile, environment: bytes, howto: int, wide: bool
) -> Placement:
    """bi_load64 (``wide``) and the common part of bi_load32: put ``environment`` (environment_block) and module
    information behind ``files``, one of which is ``kernel``.

    Raises KernelError(ENOMEM) when they, or a preloaded file, do not fit.
    """
    end = 0
    for file in files:
        file_end = file.addr + file.size
        if file_end > REACH:
            raise KernelError(
                ENOMEM, f"{file.name} lies at {file.addr:#x} to {file_end:#x}: a loader reaches the first 2 GiB only"
            )
        end = max(end, file_end)
    envp = round_up(end, PAGE_SIZE)
    modulep = round_up(envp + len(environment), PAGE_SIZE)
    without = kernel.metadata
    # userboot's 32-bit path hands over its GELI keys, of which it never has any
    keys = [] if wide else [(MODINFOMD_KEYBUF, bytes(KEYBUF_SIZE))]
    kernel.metadata = [
        *keys,
        (MODINFOMD_SMAP, smap(*guest.getmem())),
        (MODINFOMD_KERNEND, bytes(8)),
        (MODINFOMD_ENVP, U64.pack(envp)),
        (MODINFOMD_HOWTO, U32.pack(howto & 0xFFFFFFFF)),
        *without,
    ]
    align = 8 if wide else 4
    kernend = round_up(modulep + sum(_room(record, align) for record in records(files, wide)), PAGE_SIZE)
    try:
        _refuse_unbootable(guest, kernel, kernend)
    except KernelError:
        kernel.metadata = without
        raise
    kernel.metadata[len(keys) + 1] = MODINFOMD_KERNEND, U64.pack(kernend)
    guest.copyin(environment, envp)
    _copy_records(guest, modulep, records(files, wide), align)
    return Placement(envp, modulep, kernend)


def environment_block(environment: Environment, version: LoaderVersion) -> bytes:
    """bi_copyenv, md_copyenv: name=value NUL in order of names, one more NUL behind the last."""
    parts = [
        f"{variable.name}={variable.value or ''}\0"
        for variable in environment.sorted()
        if variable.kenv or version != "current"
    ]
    return ("".join(parts) + "\0").encode("latin-1", "replace")


def smap(low: int, high: int) -> bytes:
    """bios_addsmapdata's memory map, made from the two memory sizes."""
    entries = [(0, BASE_MEMORY), (EXTENDED_MEMORY, low - EXTENDED_MEMORY)]
    if high:
        entries.append((HIGH_MEMORY, high))
    return b"".join(SMAP_ENTRY.pack(base, size & (1 << 64) - 1, SMAP_TYPE_MEMORY) for base, size in entries)


def _refuse_unbootable(guest: GuestCopy, kernel: PreloadedFile, kernend: int) -> None:
    if kernend > BOOT_MAP_END:
        raise KernelError(
            ENOMEM,
            f"{kernel.name} and what is loaded with it end at {round_up(kernend, MIB) // MIB} MiB, "
            "but a kernel starts with the first 1024 MiB mapped",
            "load less",
        )
    refuse_if_too_small(guest, f"kernel {kernel.name} with its modules and variables", kernend)


def records(files: Sequence[PreloadedFile], wide: bool) -> list[bytes]:
    """bi_copymodules64, md_copymodules: every record with its header and without padding, the terminator last."""
    found: list[bytes] = []

    def add(type_: int, payload: bytes) -> None:
        found.append(RECORD.pack(type_, len(payload)) + payload)

    for file in files:
        add(MODINFO_NAME, file.name.encode("latin-1", "replace") + b"\0")
        add(MODINFO_TYPE, file.type.encode("latin-1", "replace") + b"\0")
        if file.args is not None:
            add(MODINFO_ARGS, file.args.encode("latin-1", "replace") + b"\0")
        add(MODINFO_ADDR, U64.pack(file.addr) if wide else U32.pack(file.addr & 0xFFFFFFFF))
        add(MODINFO_SIZE, U64.pack(file.size))  # 8 bytes for 32-bit kernels too: the loader's own size_t
        for type_, data in file.metadata:
            if not type_ & MODINFOMD_NOCOPY:
                add(MODINFO_METADATA | type_, data)
    found.append(RECORD.pack(MODINFO_END, 0))
    return found


def _room(record: bytes, align: int) -> int:
    return RECORD.size + round_up(len(record) - RECORD.size, align)


def _copy_records(guest: GuestCopy, at: int, found: list[bytes], align: int) -> None:
    """Copy records in; padding is not written, it keeps what memory held before."""
    run: list[bytes] = []  # neighbours without padding between them
    size = 0
    for record in found:
        run.append(record)
        size += len(record)
        room = _room(record, align)
        if room != len(record):
            guest.copyin_pieces(run, size, at)
            at += size - len(record) + room
            run, size = [], 0
    guest.copyin_pieces(run, size, at)
