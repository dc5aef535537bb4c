"""Guest memory as userboot's archsw functions see it (stand/userboot/userboot/copy.c, stand/common/misc.c).

The real copyin and copyout ignore what the host answers: writing outside low memory does nothing.  That stays so for
addresses that no memory size could make right (2 GiB and above); memory that is merely too small is refused by the
loader before (``refuse_if_too_small``).
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError, KernelError
from bhyveload.freebsd_errno import EIO, ENOMEM
from bhyveload.host.callbacks import GUEST_ADDRESS_MASK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from struct import Struct

    from bhyveload.device import Buffer
    from bhyveload.host.interface import GuestCopy
    from bhyveload.loader.files.open_file import OpenFile

ADDRESS_SPACE = 1 << 64
WORD_MASK = ADDRESS_SPACE - 1
PAGE_SIZE = 4096
MIB = 1 << 20
BOOT_MAP_END = 1 << 30  # the page tables a kernel starts with map the first GiB (elf64_exec)
REACH = GUEST_ADDRESS_MASK + 1  # guest addresses that copyin can name
_STEP = 32  # MiB; memory sizes are suggested in multiples of it
_MAX_STRING = 4096
_CHUNK = 16384
_BLOCK = 4 * MIB


def round_up(value: int, step: int) -> int:
    return (value + step - 1) // step * step


def copyin(guest: GuestCopy, data: Buffer, gpa: int) -> None:
    """archsw.arch_copyin."""
    try:
        guest.copyin(data, gpa)
    except FileSystemError:
        pass  # as the original, which does not look at the result


def zero(guest: GuestCopy, gpa: int, size: int) -> None:
    """kern_bzero."""
    try:
        guest.zero(gpa, size)
    except FileSystemError:
        pass


def copyout(guest: GuestCopy, gpa: int, size: int) -> bytes:
    """archsw.arch_copyout; zeros from outside guest memory.  ``size`` must be bounded by the caller."""
    try:
        return guest.copyout(gpa, size)
    except FileSystemError:
        return bytes(size)


def string(guest: GuestCopy, gpa: int) -> bytes:
    """strdupout: the bytes up to a NUL.  Raises KernelError(EIO) when there is none within 4096 bytes."""
    low, _ = guest.getmem()
    start = gpa & GUEST_ADDRESS_MASK
    text, end, _ = copyout(guest, start, max(1, min(_MAX_STRING, low - start))).partition(b"\0")
    if not end:
        raise KernelError(EIO, f"a string at guest address {gpa:#x} has no end")
    return text


class GuestReader:
    """Many small reads of guest memory that does not change meanwhile, as copyout and ``string``."""

    __slots__ = ("_chunks", "_guest", "_low")

    def __init__(self, guest: GuestCopy) -> None:
        self._guest = guest
        self._low, _ = guest.getmem()
        self._chunks: dict[int, bytes] = {}

    def _chunk(self, number: int) -> bytes:
        data = self._chunks.get(number)
        if data is None:
            start = number * _CHUNK
            size = max(0, min(_CHUNK, self._low - start))
            data = self._chunks[number] = copyout(self._guest, start, size)
        return data

    def read(self, gpa: int, size: int) -> bytes:
        number, at = divmod(gpa & GUEST_ADDRESS_MASK, _CHUNK)
        data = self._chunk(number)[at : at + size]
        return data if len(data) == size else copyout(self._guest, gpa, size)

    def block(self, gpa: int, size: int) -> bytes | None:
        """``size`` bytes at once; None for more than 4 MiB and for what is not wholly in low memory."""
        start = gpa & GUEST_ADDRESS_MASK
        return copyout(self._guest, start, size) if size <= _BLOCK and start + size <= self._low else None

    def unpack(self, layout: Struct, gpa: int) -> tuple[int, ...]:
        """The integers of a structure."""
        number, at = divmod(gpa & GUEST_ADDRESS_MASK, _CHUNK)
        data = self._chunks.get(number) or self._chunk(number)
        if at + layout.size <= len(data):
            return layout.unpack_from(data, at)
        return layout.unpack(copyout(self._guest, gpa, layout.size))

    def string(self, gpa: int) -> bytes:
        """Raises KernelError(EIO) as ``string`` does."""
        number, at = divmod(gpa & GUEST_ADDRESS_MASK, _CHUNK)
        data = self._chunk(number)
        end = data.find(b"\0", at, at + _MAX_STRING)
        return data[at:end] if end >= 0 else string(self._guest, gpa)


def pread(file: OpenFile, offset: int, size: int) -> bytes | None:
    """alloc_pread: exactly ``size`` bytes (which the caller bounds) at ``offset``; None when they are not there."""
    try:
        file.lseek(signed(offset))
        data = file.read(size)
    except FileSystemError:
        return None
    return data if len(data) == size else None


def read_into(guest: GuestCopy, file: OpenFile, gpa: int, size: int) -> int:
    """archsw.arch_readin: how many of ``size`` bytes were read to ``gpa``; -1 for an error."""
    known = file.file.size
    if known >= 0:
        size = min(size, max(0, known - file.tell))
    low, _ = guest.getmem()
    try:
        if (gpa & GUEST_ADDRESS_MASK) + size <= low:
            return file.readin(gpa, size)
        done = 0
        while done < size and (data := file.read(min(PAGE_SIZE, size - done))):
            copyin(guest, data, gpa + done)
            done += len(data)
        return done
    except FileSystemError:
        return -1


def kern_pread(guest: GuestCopy, file: OpenFile, gpa: int, size: int, offset: int) -> bool:
    """Read exactly ``size`` bytes at ``offset`` of the file to ``gpa``; False when that fails."""
    try:
        file.lseek(signed(offset))
    except FileSystemError:
        return False
    return read_into(guest, file, gpa, size) == size


def signed(value: int) -> int:
    """An unsigned 64-bit number as off_t."""
    return value - ADDRESS_SPACE if value >> 63 else value


def refuse_if_too_small(guest: GuestCopy, what: str, end: int, extra: int = 0) -> None:
    """Raise KernelError(ENOMEM), saying how much is needed, unless [0, end) lies in low memory.

    ``extra`` bytes are going to follow (symbols, environment): they only count for the size that is suggested.
    """
    low, _ = guest.getmem()
    if end <= low:
        return
    need = round_up(end + extra, MIB) // MIB
    if end > BOOT_MAP_END:
        raise KernelError(ENOMEM, f"{what} needs {need} MiB, but a kernel starts with the first 1024 MiB mapped")
    raise KernelError(
        ENOMEM, f"{what} needs {need} MiB, the VM has {low // MIB} MiB", f"use -m {round_up(need, _STEP)}M"
    )
