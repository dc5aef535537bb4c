"""Compressed files: content, error texts and the reads underneath, against a literal model of gzipfs.c."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import subprocess
import sys
import time
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EFTYPE, EINVAL, EIO, EROFS
from bhyveload.fs import compressed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.device import Buffer
    from bhyveload.fs.interface import File

GENERATOR = random.Random(1)
MIXED = b"".join(
    GENERATOR.choice((GENERATOR.randbytes(300), b"freebsd " * 40, bytes(700), b"kernel%d\n" % n)) for n in range(400)
)
OPENERS: dict[str, tuple[Callable[..., compressed.CompressedFile], Callable[[bytes], bytes]]] = {
    "gzip": (compressed.open_gzip, gzip.compress),
    "bzip2": (compressed.open_bzip2, bz2.compress),
    "xz": (compressed.open_xz, lzma.compress),
    "zstd": (compressed.open_zstd, zstd.compress),
}


class Raw:
    """A file in memory that remembers where it was read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.reads: list[int] = []

    def read(self, offset: int, length: int) -> list[Buffer]:
        assert length == 2048
        self.reads.append(offset)
        return [self.data[offset : offset + length]]

    def write(self, offset: int, data: Buffer) -> int:
        raise AssertionError("compressed files are never written")


def silent(text: str) -> None:
    raise AssertionError(f"unexpected output: {text!r}")


def joined(file: File, offset: int, length: int) -> bytes:
    return b"".join(file.read(offset, length))


class Model:
    """gzipfs.c line by line, without any cache: what the real loader does."""

    def __init__(self, raw: bytes, header: int) -> None:
        self.raw = raw
        self.header = header
        self.reads: list[int] = []
        self.printed: list[str] = []
        self.at = 0
        self.buffer = b""
        while self.at < header:
            self.fill()
        self.buffer = self.raw[header : self.at]
        self.reset()

    def reset(self) -> None:
        self.stream = zlib.decompressobj(-15)
        self.total_out = 0
        self.error = ""

    def fill(self) -> None:
        self.reads.append(self.at)
        self.buffer = self.raw[self.at : self.at + 2048]
        self.at += len(self.buffer)

    def read(self, size: int) -> bytes | None:
        out = b""
        while len(out) < size and not self.stream.eof:
            if not self.buffer:
                self.fill()
            if not self.buffer:
                self.printed.append("zf_read: unexpected EOF\n")
                return out or None
            if not self.error:
                try:
                    saved = self.stream.copy()
                    got = self.stream.decompress(self.buffer, size - len(out))
                except zlib.error as error:
                    self.error = str(error).partition(": ")[2]
                    for index in range(len(self.buffer)):  # what came out before: total_out counts it
                        try:
                            self.total_out += len(saved.decompress(self.buffer[index : index + 1]))
                        except zlib.error:
                            break
            if self.error:
                self.printed.append(f"inflate: {self.error}\n")
                return None
            out += got
            self.total_out += len(got)
            self.buffer = self.stream.unconsumed_tail
        return out

    def seek(self, target: int) -> bool:
        if target < self.total_out:
            self.at = self.header
            self.buffer = b""
            self.reset()
        while target > self.total_out:
            if self.read(min(16, target - self.total_out)) is None:
                return False
            if self.stream.eof:
                break
        return True

    def pread(self, offset: int, length: int) -> bytes | None:
        if not self.seek(offset) or self.total_out < offset:
            return b"" if self.stream.eof else None
        return self.read(length) if length else b""


@pytest.mark.parametrize("kind", OPENERS)
def test_content(kind: str) -> None:
    opener, packer = OPENERS[kind]
    for data in (b"", b"x", MIXED, bytes(3_000_000)):
        view = opener(Raw(packer(data)), silent)
        assert view.size == -1
        assert joined(view, 0, len(data) + 100) == data
        assert joined(view, len(data) // 2, 1000) == data[len(data) // 2 :][:1000]
        assert joined(view, 0, 10) == data[:10]
        assert joined(view, len(data), 10) == b""
        assert joined(view, len(data) + 5000, 10) == b""


def test_gzip_of_the_gzip_program() -> None:
    try:
        packed = subprocess.run(["gzip", "-9c"], input=MIXED, stdout=subprocess.PIPE, check=True).stdout
    except FileNotFoundError:
        pytest.skip("the gzip program is not installed")
    assert joined(compressed.open_gzip(Raw(packed), silent), 0, 1 << 30) == MIXED


def test_gzip_headers() -> None:
    body = gzip.compress(MIXED)[10:]
    fixed = b"\x1f\x8b\x08%c\0\0\0\0\0\3"
    headers = [
        fixed % 1,
        fixed % 8 + b"kernel\0",
        fixed % 16 + b"c" * 5000 + b"\0",
        fixed % 4 + b"\x05\x00extra",
        fixed % 2 + b"hc",
        fixed % 0x1F + b"\xff\xff" + bytes(65535) + b"name\0comment\0hc",
    ]
    for header in headers:
        raw = Raw(header + body)
        view = compressed.open_gzip(raw, silent)
        assert raw.reads == list(range(0, len(header), 2048))
        assert joined(view, 0, 1 << 30) == MIXED
        assert joined(view, 5, 5) == MIXED[5:10]
        model = Model(raw.data, len(header))
        model.pread(0, 1 << 30)
        model.pread(5, 5)
        assert raw.reads == model.reads


@pytest.mark.parametrize("kind", OPENERS)
def test_bad_headers(kind: str) -> None:
    opener, packer = OPENERS[kind]
    good = packer(b"x")
    for data in (b"", good[:1], good[:2], b"\0" + good[1:], b"plain text", good[1:]):
        with pytest.raises(FileSystemError) as caught:
            opener(Raw(data), silent)
        assert caught.value.errno == EFTYPE
    if kind == "gzip":
        for data in (
            b"\x1f\x8b\x07" + good[3:],
            b"\x1f\x8b\x08\x20" + good[4:],
            b"\x1f\x8b\x08\x08" + b"n" * 3000,
            b"\x1f\x8b\x08\x04" + bytes(6) + b"\xff\xff",  # get_byte would go on behind its buffer
        ):
            with pytest.raises(FileSystemError) as caught:
                opener(Raw(data), silent)
            assert caught.value.errno == EFTYPE
    if kind == "bzip2":
        with pytest.raises(FileSystemError):
            opener(Raw(b"BZh0" + good[4:]), silent)


@pytest.mark.parametrize("size", range(3, 10))
def test_a_gzip_header_that_is_cut_short(size: int) -> None:
    """get_byte of gzipfs.c takes zf_fill's 0 for a success, which has set next_in to the buffer's start: what was read
    comes again, then the zeros of bzero.  Behind a header of ten bytes the inflation begins in the middle of that."""
    raw = gzip.compress(b"x", mtime=0)[:size]
    assert raw[3:4] in (b"", b"\0")  # flags: of three bytes the first, 0x1f, stands for them
    again = raw + raw.ljust(2048, b"\0")
    start = 16 if size == 3 else 10  # 0x1f: an extra field and two names, all empty, and two bytes of checksum
    printed: list[str] = []
    view = compressed.open_gzip(Raw(raw), printed.append)
    try:
        expected = zlib.decompressobj(-15).decompress(again[start:])
    except zlib.error as error:
        with pytest.raises(FileSystemError) as caught:
            view.read(0, 512)
        assert caught.value.errno == EIO
        assert printed == [f"inflate: {str(error).partition(': ')[2]}\n"]
    else:
        assert joined(view, 0, 512) == expected
        assert printed == []


def test_a_gzip_header_and_nothing_else() -> None:
    """All ten bytes are there: zf_read finds that nothing comes."""
    printed: list[str] = []
    view = compressed.open_gzip(Raw(gzip.compress(b"x")[:10]), printed.append)
    with pytest.raises(FileSystemError):
        view.read(0, 512)
    assert printed == ["zf_read: unexpected EOF\n"]


def test_only_the_first_gzip_member() -> None:
    """docs/errata.md, "Compressed files", and for bzip2; but all of them for the formats that FreeBSD does not know."""
    for kind, (opener, packer) in OPENERS.items():
        view = opener(Raw(packer(b"one") + packer(b"two") * 1000 + bytes(512)), silent)
        assert joined(view, 0, 1 << 20) == b"one" + b"two" * (1000 if kind in ("xz", "zstd") else 0), kind


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(MIXED) + 50), st.sampled_from([0, 1, 16, 512, 4096, 40000])), max_size=8),
    st.integers(0, 3000),
    st.sampled_from(["whole", "cut", "corrupt"]),
    st.integers(0, 2**32),
)
@example([(115828, 1), (0, 1)], 0, "whole", 0)
def test_like_gzipfs(places: list[tuple[int, int]], name: int, damage: str, seed: int) -> None:
    """Any sequence of seeks and reads: the same bytes, messages and errors as gzipfs.c.

    The reads underneath are the same but for the last one, and the last one before each way back: zlib may have taken
    in a piece's last byte while it still has output to give, and then the next piece is read at the next call, if it
    is read at all, not at this one.
    """
    raw = b"\x1f\x8b\x08\x08\0\0\0\0\0\3" + b"n" * name + b"\0"
    header = len(raw)
    raw += gzip.compress(MIXED, 6)[10:]
    generator = random.Random(seed)
    if damage == "cut":
        raw = raw[: generator.randrange(header, len(raw) - 8)]
    elif damage == "corrupt":
        at = generator.randrange(header, len(raw) - 8)
        raw = raw[:at] + bytes((raw[at] ^ 1 << generator.randrange(8),)) + raw[at + 1 :]
    file = Raw(raw)
    printed: list[str] = []
    view = compressed.open_gzip(file, printed.append)
    model = Model(raw, header)
    whole = len(zlib.decompressobj(-15).decompress(raw[header:])) if damage == "cut" else len(MIXED)
    behind = 0
    for offset, length in places:
        if damage == "cut" and whole - 300 < offset + length:
            break  # what zlib held back when its input ended is lost to gzipfs.c, not to us
        if offset < behind:
            file.reads.clear()
            model.reads.clear()
        behind = min(offset + length, len(MIXED))
        expected = model.pread(offset, length)
        try:
            got: bytes | None = joined(view, offset, length)
        except FileSystemError as error:
            assert error.errno == EIO
            got = None
        assert got == expected
        assert printed == model.printed
        if damage == "whole":
            assert file.reads[: len(model.reads)] == model.reads[: len(file.reads)]
            assert abs(len(file.reads) - len(model.reads)) <= 1
        if got is None:
            break


@pytest.mark.parametrize("kind", OPENERS)
def test_truncated_and_corrupt(kind: str) -> None:
    opener, packer = OPENERS[kind]
    noise = random.Random(2).randbytes(1_000_000).hex().encode()
    packed = packer(noise)
    printed: list[str] = []
    view = opener(Raw(packed[: len(packed) // 2]), printed.append)
    first = joined(view, 0, len(noise))
    assert first
    assert noise.startswith(first)
    with pytest.raises(FileSystemError) as caught:
        view.read(len(first), 10)
    assert caught.value.errno == EIO
    reader = {"gzip": "zf_read", "bzip2": "bzf_read", "xz": "xz_read", "zstd": "zst_read"}[kind]
    assert printed == [f"{reader}: unexpected EOF\n"] * 2
    if kind in ("gzip", "zstd"):
        return  # no check sums on the way: whether damage shows depends on where it is (test_like_gzipfs)
    printed.clear()
    broken = bytearray(packed)
    broken[len(packed) // 2 : len(packed) // 2 + 5000] = b"\xff" * 5000
    view = opener(Raw(bytes(broken)), printed.append)
    with pytest.raises(FileSystemError) as caught:
        for offset in range(0, len(noise) + 8192, 4096):
            view.read(offset, 4096)
    assert caught.value.errno == EIO
    assert len(printed) == 1
    assert joined(view, 0, 100) == noise[:100]


def test_messages_of_the_real_loader() -> None:
    """Golden probe `compressed`: k3 and k5."""
    printed: list[str] = []
    view = compressed.open_gzip(Raw(b"\x1f\x8b\x08\0\0\0\0\0\0\3" + b"\0" * 8), printed.append)
    with pytest.raises(FileSystemError):
        view.read(0, 4096)
    with pytest.raises(FileSystemError):
        view.read(0, 4096)
    assert printed == ["inflate: invalid stored block lengths\n"] * 2


@pytest.mark.parametrize("kind", OPENERS)
def test_bombs(kind: str) -> None:
    opener, packer = OPENERS[kind]
    started = time.monotonic()
    packed = packer(bytes(64 << 20))
    packing = time.monotonic() - started
    printed: list[str] = []
    view = opener(Raw(packed), printed.append, limit=1 << 20)
    with pytest.raises(FileSystemError) as caught:
        view.read(32 << 20, 1)
    assert caught.value.errno == EIO
    assert "more than 1048576 bytes" in printed[0]
    assert view._out <= 3 << 20
    assert time.monotonic() - started - packing < 2


def test_refusals() -> None:
    view = compressed.open_gzip(Raw(gzip.compress(b"x")), silent)
    for offset, length in ((-1, 1), (1, -1)):
        with pytest.raises(FileSystemError) as caught:
            view.read(offset, length)
        assert caught.value.errno == EINVAL
    with pytest.raises(FileSystemError) as caught:
        view.write(0, b"x")
    assert caught.value.errno == EROFS


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(OPENERS)), st.data())
def test_mutants(kind: str, data: st.DataObject) -> None:
    opener, packer = OPENERS[kind]
    raw = bytearray(packer(MIXED[:20000]))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(1, len(raw))) :]
    try:
        view = opener(Raw(bytes(raw)), lambda text: None, limit=1 << 22)
        for offset in (0, 30000, 100, 5000):
            view.read(offset, 50000)
    except FileSystemError as error:
        assert error.errno in (EFTYPE, EIO)


@pytest.mark.parametrize("kind", OPENERS)
def test_only_the_last_part_is_kept(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long file in steps needs no more than KEEP; what was dropped is decompressed again when it is asked for."""
    monkeypatch.setattr(compressed, "KEEP", 1 << 20)
    opener, packer = OPENERS[kind]
    data = b"".join(b"%07d\n" % number for number in range(1_000_000))
    view = opener(Raw(packer(data)), silent)
    for offset in range(0, len(data), 300_000):
        assert joined(view, offset, 300_000) == data[offset : offset + 300_000]
        assert len(view._blocks) * compressed.BLOCK <= 2 << 20
    for offset in (len(data) - 400_000, 10, 5_000_000, 4_999_000, 7_900_000, 0):
        assert joined(view, offset, 70_000) == data[offset : offset + 70_000]
    assert joined(view, 0, len(data)) == data
