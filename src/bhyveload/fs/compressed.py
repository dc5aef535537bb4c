"""Compressed files seen decompressed: libsa's gzip and bzip2 file systems, and the same for xz and zstd.

Sources: stand/libsa/gzipfs.c, bzipfs.c (docs/errata.md, "Compressed files").  The view is a File of unknown size
(-1).  Seeking forward decompresses and discards, seeking backward starts again from the front.

libsa reads the compressed file in 2048-byte pieces, just when the decompressor has used up the last one, and reads it
again after a backward seek: these reads show on the console as twiddles.  Here the last KEEP bytes that came out are
kept; going back within them only repeats the reads.  For that the decompressor is fed up to each place where a piece
can end, in the first pass (pieces counted from the file's start) as in later ones (counted from where gzip's header
ends), and how much had come out there is noted.
"""

from __future__ import annotations

import zlib
from _bz2 import BZ2Decompressor  # the C halves of bz2 and lzma: a third of the modules' import time
from _lzma import FORMAT_XZ, LZMADecompressor, LZMAError

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EFTYPE, EINVAL, EIO, EROFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from bhyveload.device import Buffer
    from bhyveload.fs.interface import File

    class Engine(Protocol):
        """zlib's, bz2's, lzma's or zstd's decompressor object."""

        @property
        def eof(self) -> bool: ...

        @property
        def unused_data(self) -> bytes: ...

        def decompress(self, data: bytes, max_length: int) -> bytes: ...


Z_BUFSIZE = 2048  # gzipfs.c; BZ_BUFSIZE in bzipfs.c is the same
DISCARD = 16  # bytes a forward seek reads at once
STEP = 1 << 20  # bytes decompressed at once, so that a bomb is noticed in time
BLOCK = 256 << 10  # decompressed data is kept in blocks of this size
KEEP = 32 << 20  # bytes of decompressed data kept: a kernel's symbols lie this near to its section headers
LIMIT = 1 << 30  # bytes of decompressed data: what a kernel finds mapped when it starts
HELD = 160 << 20  # bytes that may come out of one piece of bzip2 before anybody has asked for them; zeros are free
IDLE = 64 << 20  # bytes that may go in and have nothing come out
SPARE_STREAMS, STREAM_SIZE = 1000, 4096  # streams in one file: so many, and one for each of these bytes that came out
XZ_MEMORY = 256 << 20  # of the xz decoder: `xz -9` takes 65 MiB

GZIP_MAGIC = b"\x1f\x8b"
Z_DEFLATED = 8
HEAD_CRC, EXTRA_FIELD, ORIG_NAME, COMMENT, RESERVED = 0x02, 0x04, 0x08, 0x10, 0xE0


_ZERO_BLOCK = bytes(BLOCK)


class _TooLarge(Exception):
    """More comes out than may be kept, or again and again."""


class _Format:
    """What one format adds: its engine, the words for its errors, whether members may follow each other."""

    __slots__ = ("engine", "errors", "failure", "members", "reader")

    def __init__(
        self,
        engine: Callable[[], Any],
        errors: tuple[type[Exception], ...],
        reader: str,
        failure: Callable[[Exception], str],
        members: bool,
    ) -> None:
        self.engine = engine
        self.errors = errors
        self.reader = reader  # the name of libsa's read function, for its messages
        self.failure = failure
        self.members = members


def _zlib_message(error: Exception) -> str:
    """zlib's own text: Python says "Error -3 while decompressing data: TEXT"."""
    return "inflate: " + (str(error).partition(": ")[2] or "(null)")


_GZIP = _Format(lambda: zlib.decompressobj(-zlib.MAX_WBITS), (zlib.error,), "zf_read", _zlib_message, False)
_BZIP2 = _Format(
    BZ2Decompressor, (OSError, EOFError), "bzf_read", lambda _: "bzf_read: BZ2_bzDecompress returned -4", False
)
_XZ = _Format(
    lambda: LZMADecompressor(FORMAT_XZ, XZ_MEMORY), (LZMAError, EOFError), "xz_read", lambda e: f"xz: {e}", True
)


class CompressedFile:
    """A decompressed view of ``file`` (fs/interface.py File)."""

    size = -1

    def __init__(
        self, file: File, form: _Format, output: Callable[[str], object], limit: int, start: int, ahead: bytes
    ) -> None:
        """``start``: where the compressed stream begins; ``ahead``: what was already read from there on."""
        self._file = file
        self._format = form
        self._print = output
        self._limit = limit
        self._start = start
        self._engine: Engine = form.engine()
        self._blocks: dict[int, bytes] = {}  # number -> what came out there; the oldest are dropped
        self._dropped = 0  # blocks
        self._held = 0  # bytes in blocks that are not zero
        self._tail = bytearray()  # what came out behind the last full block
        self._streams = 0  # that began, in all
        self._spent = 0  # bytes that came out in all, in this pass and those before
        self._needed = 0  # nothing before this offset is going to be read next
        self._consumed = start  # offset in the file up to which the engine was fed
        self._came_out = {start: 0}  # offset of a possible end of a piece -> what had come out there
        self._end: int | None = None  # offset at which the stream ended, or broke
        self._failure = ""  # how it broke
        self._between = False  # a member ended, another may follow
        self._position = 0  # zlib's total_out
        self._next = start + len(ahead)  # offset of the next piece in this pass
        self._feed(ahead)

    def read(self, offset: int, length: int) -> list[Buffer]:
        """lseek and read.  Raises FileSystemError: EINVAL, EIO (truncated, corrupt, over the limit)."""
        if offset < 0 or length < 0:
            raise FileSystemError(EINVAL, f"{self._format.reader}: {length} bytes at {offset}")
        if offset < self._position:
            self._position = 0
            self._next = self._start
            if offset < self._dropped * BLOCK:
                self._restart()
        self._needed = offset
        if self._reach(offset) < offset:
            self._seek_failed()
            return []
        start = self._position = offset
        self._position = self._reach(start + length)
        if self._position < start + length:
            self._read_failed(self._position == start)
        return self._pieces(start, self._position)

    def write(self, offset: int, data: Buffer) -> int:
        raise FileSystemError(EROFS, f"{self._format.reader}: compressed files cannot be written")

    @property
    def _out(self) -> int:
        """How much has come out."""
        return (self._dropped + len(self._blocks)) * BLOCK + len(self._tail)

    def _pieces(self, start: int, end: int) -> list[Buffer]:
        """What came out at [start, end)."""
        pieces: list[Buffer] = []
        while start < end:
            number, at = divmod(start, BLOCK)
            block = self._blocks.get(number)
            size = min(end - start, BLOCK - at)
            pieces.append(bytes(self._tail[at : at + size]) if block is None else memoryview(block)[at : at + size])
            start += size
        return pieces

    def _keep(self, part: bytes) -> None:
        """Note what came out, and drop what is old and not needed next."""
        self._tail += part
        full = len(self._tail) // BLOCK
        if full:
            number = self._dropped + len(self._blocks)
            for index in range(full):
                block = bytes(memoryview(self._tail)[index * BLOCK : (index + 1) * BLOCK])
                if block == _ZERO_BLOCK:
                    block = _ZERO_BLOCK
                else:
                    self._held += BLOCK
                self._blocks[number + index] = block
            del self._tail[: full * BLOCK]
        while len(self._blocks) > KEEP // BLOCK and (self._dropped + 1) * BLOCK <= self._needed:
            if self._blocks.pop(self._dropped) is not _ZERO_BLOCK:
                self._held -= BLOCK
            self._dropped += 1

    def _restart(self) -> None:
        """Decompress again from the front."""
        self._engine = self._format.engine()
        self._blocks.clear()
        self._dropped = self._held = 0
        self._tail.clear()
        self._consumed = self._start
        self._came_out = {self._start: 0}
        self._end = None
        self._failure = ""
        self._between = False

    def _reach(self, target: int) -> int:
        """Read pieces until ``target`` bytes have come out in this pass; how far it got."""
        while self._came_out.get(self._next, target) < target:
            if self._end is not None and self._next >= self._end:
                break
            piece = b"".join(self._file.read(self._next, Z_BUFSIZE))
            if not piece:
                break
            self._next += len(piece)
            if self._next > self._consumed:
                self._feed(piece[self._consumed - self._next :])
        return min(target, self._out)

    def _seek_failed(self) -> None:
        """A forward seek ended early: at the stream's end that is where it stays, else it is an error."""
        steps = 1 if (self._out - self._position) % DISCARD == 0 else 2
        self._position = self._out
        for _ in range(steps - 1):
            self._read_failed(False)
        self._read_failed(True)

    def _read_failed(self, empty: bool) -> None:
        """zf_read came short: say why unless the stream is over.  ``empty``: nothing was read."""
        if self._failure:
            self._print(self._failure + "\n")
            raise FileSystemError(EIO, self._failure)
        if self._end is None and not self._between:
            self._print(f"{self._format.reader}: unexpected EOF\n")
            if empty:
                raise FileSystemError(EIO, f"{self._format.reader}: unexpected EOF")

    def _feed(self, data: bytes) -> None:
        """Decompress ``data``, which lies at ``_consumed``, noting what came out at each possible end of a piece."""
        skew = self._start % Z_BUFSIZE
        while data and self._end is None:
            here = self._consumed
            size = min(Z_BUFSIZE - here % Z_BUFSIZE, Z_BUFSIZE - (here - skew) % Z_BUFSIZE, len(data))
            self._decompress(data[:size])
            self._consumed += size
            if self._end is None and self._consumed - self._start > self._out + IDLE:
                self._break(f"{self._format.reader}: nothing comes out of {IDLE >> 20} MiB", self._consumed)
            self._came_out[self._consumed] = self._out
            data = data[size:]
        if data:
            self._consumed += len(data)
            self._came_out[self._consumed] = self._out

    def _decompress(self, data: bytes) -> None:
        end = self._consumed + len(data)
        while data:
            if self._between:
                data = data.lstrip(b"\0")  # xz pads between streams
                if not data:
                    return
                self._streams += 1
                if self._streams > SPARE_STREAMS + self._spent // STREAM_SIZE:
                    self._break(f"{self._format.reader}: {self._streams} streams with next to nothing in them", end)
                    return
                self._engine = self._format.engine()
                self._between = False
            saved = self._engine.copy() if isinstance(self._engine, _INFLATE) else None
            try:
                self._drain(self._engine, data)
            except _TooLarge as error:
                self._break(str(error), end)
                return
            except self._format.errors as error:
                self._break(self._format.failure(error), end)
                if saved is not None:
                    self._salvage(saved, data)
                return
            if not self._engine.eof:
                return
            data = self._engine.unused_data
            if not self._format.members:
                self._end = end - len(data)
                return
            self._between = True

    def _break(self, failure: str, end: int) -> None:
        """Nothing more comes out, and why; ``end``: what of the file has been used up."""
        self._failure = failure
        self._end = end

    def _drain(self, engine: Engine, data: bytes) -> None:
        """Everything that comes out for ``data``.  Raises the engine's errors, _TooLarge."""
        while True:
            part = engine.decompress(data, STEP)
            self._keep(part)
            self._spent += len(part)
            if self._out > self._limit:
                raise _TooLarge(f"{self._format.reader}: decompresses to more than {self._limit} bytes")
            if self._spent > self._limit + self._limit // 2:
                raise _TooLarge(f"{self._format.reader}: is read from its beginning again too often")
            if self._held > HELD:
                raise _TooLarge(f"{self._format.reader}: {HELD} bytes and more come out of {Z_BUFSIZE}")
            # zlib keeps what it did not get to in unconsumed_tail, the others keep it themselves.
            data = getattr(engine, "unconsumed_tail", b"")
            if engine.eof or (not data and len(part) < STEP):
                return

    def _salvage(self, engine: Engine, data: bytes) -> None:
        """What comes out before the error in ``data``: libsa's reads up to there succeed."""
        try:
            for index in range(len(data)):
                self._drain(engine, data[index : index + 1])
        except (zlib.error, _TooLarge):
            return


_INFLATE = type(zlib.decompressobj())


class _Header:
    """get_byte of gzipfs.c and bzipfs.c: bytes of a file's start, read in pieces.

    get_byte takes a read of nothing for a success: it then goes through its buffer once more, the zeros behind what was
    read included, and later reads go on from there (docs/errata.md, "Compressed files").
    """

    __slots__ = ("_ended", "_file", "data", "offset")

    def __init__(self, file: File) -> None:
        self._file = file
        self._ended = False
        self.data = b""
        self.offset = 0

    def take(self, count: int) -> bytes:
        """Raises FileSystemError(EFTYPE) where the file ends and what get_byte then goes through is used up."""
        while len(self.data) < self.offset + count:
            piece = b"" if self._ended else b"".join(self._file.read(len(self.data), Z_BUFSIZE))
            if not piece:
                if self._ended or len(self.data) >= Z_BUFSIZE:
                    raise FileSystemError(EFTYPE, "compressed file: the header is cut short")
                self._ended = True
                piece = self.data.ljust(Z_BUFSIZE, b"\0")
            self.data += piece
        taken = self.data[self.offset : self.offset + count]
        self.offset += count
        return taken

    def skip_text(self) -> None:
        while True:
            end = self.data.find(b"\0", self.offset)
            if end >= 0:
                self.offset = end + 1
                return
            if len(self.data) > 1 << 20:
                raise FileSystemError(EFTYPE, "gzip file: a name or comment of more than a megabyte")
            self.offset = len(self.data)
            self.take(1)
            self.offset -= 1


def open_gzip(file: File, output: Callable[[str], object], limit: int = LIMIT) -> CompressedFile:
    """zf_open on an open ``.gz`` file: its first member.  ``output`` gets libsa's error lines, with newline.

    More than ``limit`` bytes are an error when they are read.  Raises FileSystemError: EFTYPE (no gzip header), what
    ``file`` raises.
    """
    header = _Header(file)
    if header.take(2) != GZIP_MAGIC:
        raise FileSystemError(EFTYPE, "gzip file: no gzip magic number")
    method, flags = header.take(2)
    if method != Z_DEFLATED or flags & RESERVED:
        raise FileSystemError(EFTYPE, f"gzip file: method {method}, flags {flags:#x} are unknown")
    header.take(6)
    if flags & EXTRA_FIELD:
        header.take(int.from_bytes(header.take(2), "little"))
    for flag in (ORIG_NAME, COMMENT):
        if flags & flag:
            header.skip_text()
    if flags & HEAD_CRC:
        header.take(2)
    return CompressedFile(file, _GZIP, output, limit, header.offset, header.data[header.offset :])


def open_bzip2(file: File, output: Callable[[str], object], limit: int = LIMIT) -> CompressedFile:
    """bzf_open on an open ``.bz2`` file: its first stream.  Parameters and errors as open_gzip."""
    header = _Header(file)
    if header.take(3) != b"BZh" or not b"1" <= header.take(1) <= b"9":
        raise FileSystemError(EFTYPE, "bzip2 file: no bzip2 magic number")
    return CompressedFile(file, _BZIP2, output, limit, 0, header.data)


def open_xz(file: File, output: Callable[[str], object], limit: int = LIMIT) -> CompressedFile:
    """The same for an ``.xz`` file, which FreeBSD's loader does not know.  Parameters and errors as open_gzip."""
    header = _Header(file)
    if header.take(6) != b"\xfd7zXZ\0":
        raise FileSystemError(EFTYPE, "xz file: no xz magic number")
    return CompressedFile(file, _XZ, output, limit, 0, header.data)


def open_zstd(file: File, output: Callable[[str], object], limit: int = LIMIT) -> CompressedFile:
    """The same for a ``.zst`` file, which FreeBSD's loader does not know.  Parameters and errors as open_gzip.

    The zstd module takes milliseconds to import, so it is imported here: a process that confines itself imports
    bhyveload.image.zstd before.
    """
    from bhyveload.image.zstd import ZstdDecompressor, ZstdError

    header = _Header(file)
    if header.take(4) != b"\x28\xb5\x2f\xfd":
        raise FileSystemError(EFTYPE, "zstd file: no zstd magic number")
    form = _Format(ZstdDecompressor, (ZstdError, EOFError), "zst_read", lambda e: f"zstd: {e}", True)
    return CompressedFile(file, form, output, limit, 0, header.data)
