"""Reading blocks through block pointers: copies, gangs, embedded data, decompression (zio_read).

Source: zio_read and zio_read_gang of stand/libsa/zfs/zfsimpl.c.  Blocks that were read are remembered; a block read
again from memory is counted as the reads of devices that libsa, which remembers nothing, would make, and what libsa
would say of its copies that cannot be read is said again.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError, Unsupported
from bhyveload.freebsd_errno import EINVAL, EIO

from . import blkptr, checksum
from . import zfs_format as zf
from .decompress import compression_name, decompress, supported_by_loader
from .meanwhile import Meanwhile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.compat import LoaderVersion

    from .blkptr import BlockPointer
    from .label import Reads
    from .vdev import Vdev

    Buffer = bytes | memoryview

CACHE_BYTES = 8 << 20
_MAX_GANG_DEPTH = 8
_GANG_READS = 4096  # reads within gang blocks that lead to nothing: each level may ask for nine more


class BlockReader:
    """Reads a pool's blocks.  ``strict`` is the loader version whose limits hold ("13.2", "current") or None."""

    __slots__ = (
        "_cache",
        "_cached",
        "_gang_reads",
        "_said",
        "printer",
        "reads",
        "salt",
        "silent",
        "spoken",
        "strict",
        "top_vdevs",
    )

    def __init__(
        self, top_vdevs: dict[int, Vdev], reads: Reads, printer: Callable[[str], None], strict: LoaderVersion | None
    ) -> None:
        self.top_vdevs = top_vdevs
        self.reads = reads
        self.printer = printer
        self.strict = strict
        self.salt = blkptr.Salt()
        self.silent = False
        self.spoken = 0  # lines of libsa's so far
        self._said: list[tuple[int, str]] = []  # of the block that is read now: reads.total, line
        self._cache: dict[bytes, tuple[Buffer, list[tuple[int, str]], int]] = {}
        self._cached = 0
        self._gang_reads = 0  # within gangs, less those that a block may need

    def read(self, stored: bytes, keep: bool = True) -> Buffer:
        """The block of ``lsize`` bytes that a stored block pointer (128 bytes, no hole) names; ``keep``: it may be
        asked for again.

        Raises FileSystemError (the last copy's; EOPNOTSUPP: its device is missing): no copy can be read; the loader's
        words go to the printer."""
        cache = self._cache
        entry = cache.pop(stored, None)
        if entry is not None:
            cache[stored] = entry
            data, events, calls = entry
            for before, line in events:
                self.reads.count(before)
                self.say(line)
            self.reads.count(calls)
            return data
        before = self.reads.total
        said, self._said = self._said, []
        try:
            data = self.read_bp(blkptr.decode(stored))
            if keep:
                self._remember(stored, data, before)
        finally:
            self._said = said
        return data

    def forget(self) -> None:
        """Read blocks anew: what is there to read them from has changed."""
        self._cache.clear()
        self._cached = 0

    def say(self, line: str) -> None:
        """A line of libsa's, unless it would not read now."""
        if self.silent:
            return
        self.spoken += 1
        self._said.append((self.reads.total, line))
        if not self.reads.paused:
            self.printer(line)

    def _remember(self, stored: bytes, data: Buffer, before: int) -> None:
        size = len(data)
        if size > CACHE_BYTES // 2:
            return
        events = []
        for total, line in self._said:
            events.append((total - before, line))
            before = total
        cache = self._cache
        cache[stored] = (data, events, self.reads.total - before)
        self._cached += size
        while self._cached > CACHE_BYTES:
            oldest = next(iter(cache))
            self._cached -= len(cache.pop(oldest)[0])

    def read_bp(self, bp: BlockPointer, depth: int = 0) -> Buffer:
        """The same for a decoded block pointer, nothing remembered."""
        if bp.embedded:
            return self._embedded(bp)
        if bp.lsize > zf.SPA_MAXBLOCKSIZE or bp.psize > zf.SPA_MAXBLOCKSIZE:
            raise FileSystemError(EIO, f"ZFS: a block of {max(bp.lsize, bp.psize)} bytes")
        if depth:
            self._gang_reads += 1
            if self._gang_reads > _GANG_READS:
                raise FileSystemError(EIO, "ZFS: gang blocks lead to nothing, again and again: damaged pool")
        error = FileSystemError(EIO, "ZFS: the block pointer is empty")
        for dva in bp.dvas:
            vdev = self.top_vdevs.get(dva.vdev)
            if vdev is None:
                words = f"ZFS: a block lies on the device {dva.vdev}, which is unknown"
                error = FileSystemError(error.errno, words)  # without a word, and the copy before it counts
                continue
            try:
                data = self._gang(bp, depth) if dva.gang else self._plain(bp, vdev, dva.offset)
            except FileSystemError as failure:
                error = failure
                self.say(f"zio_read error: {failure.errno}")
                continue
            try:
                return self._decompressed(bp, data)
            except FileSystemError as failure:
                error = failure
        self.say("ZFS: i/o error - all block copies unavailable")
        kind = Unsupported if isinstance(error, Unsupported) else FileSystemError
        raise kind(error.errno, f"ZFS: all copies of a block are unavailable: {error.message}", error.hint)

    def _plain(self, bp: BlockPointer, vdev: Vdev, offset: int) -> Buffer:
        size = bp.psize
        if vdev.type == "raidz":
            size = size + (1 << vdev.ashift) - 1 & -(1 << vdev.ashift)
        if self.strict is None or _loader_verifies(bp.checksum, self.strict):
            return vdev.read(offset, size, bp.psize, lambda data: checksum.verify(bp, data, self.salt))[: bp.psize]
        try:
            vdev.read(offset, size, bp.psize, lambda _: False)
        except FileSystemError as error:
            number = error.errno if vdev.type == "raidz" else EINVAL
            words = f"ZFS: the loader lacks checksum {checksum.checksum_name(bp.checksum)}"
            raise FileSystemError(number, words) from error
        raise FileSystemError(EINVAL, "ZFS: a block that could not be verified")

    def _decompressed(self, bp: BlockPointer, data: Buffer) -> Buffer:
        if bp.compress == zf.ZIO_COMPRESS_OFF:
            return data
        if not supported_by_loader(bp.compress, self.strict):
            message = f"ZFS: unsupported compression algorithm {compression_name(bp.compress)}"
            self.say(message)
            raise FileSystemError(EIO, message)
        return decompress(bp.compress, data, bp.lsize)

    def _embedded(self, bp: BlockPointer) -> Buffer:
        if bp.checksum != zf.BP_EMBEDDED_TYPE_DATA:
            raise FileSystemError(EIO, f"ZFS: an embedded block pointer of type {bp.checksum}")
        if bp.lsize > zf.SPA_MAXBLOCKSIZE or bp.psize > zf.BPE_PAYLOAD_SIZE:
            raise FileSystemError(EIO, f"ZFS: an embedded block pointer of {bp.psize} bytes for {bp.lsize}")
        try:
            data = self._decompressed(bp, bp.payload())
        except FileSystemError as error:
            self.say(f"ZFS: i/o error - unable to decompress block pointer data, error {error.errno}")
            raise
        return bytes(data).ljust(bp.lsize, b"\0")

    def _gang(self, bp: BlockPointer, depth: int) -> Buffer:
        """The members' stored bytes in order, verified as a whole by the outer pointer.

        Raises FileSystemError (EIO), whatever the reason (zio_read_gang)."""
        if depth >= _MAX_GANG_DEPTH:
            raise FileSystemError(EIO, "ZFS: gang blocks nested too deep")
        try:
            return self._gang_members(bp, self._gang_header(bp, depth), depth)
        except FileSystemError as error:
            raise FileSystemError(EIO, error.message, error.hint) from error

    def _gang_members(self, bp: BlockPointer, header: Buffer, depth: int) -> Buffer:
        count = (len(header) - zf.ZIO_ECK_SIZE) // zf.BLKPTR_SIZE
        parts: list[Buffer] = []
        length = 0
        for index in range(count):
            member = blkptr.decode(header, index * zf.BLKPTR_SIZE)
            if member.is_hole:
                continue
            if length + member.psize > bp.psize:
                raise FileSystemError(EIO, "ZFS: a gang block's members are longer than the block")
            part = self.read_bp(member, depth + 1)
            parts.append(part[: member.psize])
            length += member.psize
        data = b"".join(map(bytes, parts))
        if len(data) != bp.psize or not checksum.verify(bp, data, self.salt):
            raise FileSystemError(EIO, "ZFS: wrong checksum of a gang block")
        if not depth:  # so many reads can be what the block needs
            self._gang_reads = max(0, self._gang_reads - 3 * (bp.psize >> zf.SPA_MINBLOCKSHIFT) - 3)
        return data

    def _gang_header(self, bp: BlockPointer, depth: int) -> Buffer:
        size = zf.SPA_GANGBLOCKSIZE
        if self.strict != "13.2":
            shifts = [self.top_vdevs[dva.vdev].ashift for dva in bp.dvas if dva.vdev in self.top_vdevs]
            size = max(size, 1 << min(max(min(shifts), 9), 16)) if shifts else size
        if size > zf.SPA_GANGBLOCKSIZE:
            try:
                with Meanwhile(self, silent=True):
                    return self.read_bp(bp.gang_header(size), depth + 1)
            except FileSystemError:
                pass  # written before the pool's headers grew
        return self.read_bp(bp.gang_header(zf.SPA_GANGBLOCKSIZE), depth + 1)


def _loader_verifies(number: int, strict: LoaderVersion) -> bool:
    """Whether that version's loader has the checksum (zio_checksum_table)."""
    return zf.ZIO_CHECKSUM_OFF <= number <= zf.ZIO_CHECKSUM_SKEIN or (
        number == zf.ZIO_CHECKSUM_BLAKE3 and strict != "13.2"
    )
