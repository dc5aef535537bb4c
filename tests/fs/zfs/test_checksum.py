"""Checksums against published vectors, against other implementations, and against their plain definitions."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.fs.zfs import blkptr, checksum, fletcher
from bhyveload.fs.zfs import zfs_format as zf
from bhyveload.fs.zfs.blake3_python import blake3_keyed, blake3_plain
from bhyveload.fs.zfs.blkptr import Salt
from bhyveload.fs.zfs.edonr import edonr_512, edonr_salted, salted_state
from bhyveload.fs.zfs.skein import keyed_state, skein_512

MASK = (1 << 64) - 1
BLAKE3_KEY = b"whats the Elvish word for friend"
DOWN = bytes(range(255, -1, -1))


@pytest.mark.parametrize(
    ("message", "digest"),
    [  # "The Skein Hash Function Family" 1.3, appendix C.2; the last one is of the SHA-3 known-answer tests
        (DOWN[:1], "71b7bce6fe6452227b9ced6014249e5bf9a9754c3ad618ccc4e0aae16b316cc8"),
        (DOWN[:64], "45863ba3be0c4dfc27e75d358496f4ac9a736a505d9313b42b2f5eada79fc17f"),
        (DOWN[:128], "91cca510c263c4ddd010530a33073309628631f308747e1bcbaa90e451cab92e"),
        (b"abc", "8f5dd9ec798152668e35129496b029a960c9a9b88662f7f9482f110b31f9f938"),
    ],
)
def test_skein_512(message: bytes, digest: str) -> None:
    assert skein_512(keyed_state(b"", 512), message, 64).hex().startswith(digest)


def test_edonr_512() -> None:
    """OpenZFS's checksum test program."""
    longer = (
        b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqr"
        b"lmnopqrsmnopqrstnopqrstu"
    )
    assert edonr_512(b"abc").hex() == (
        "1b14db155f1d406594b8cef70a4362ec6b5de6a5daf50ec999e987c19d3049e2"
        "de5977bb05b1bb220050a1ea5b46a9f1740acafbf6b45032adc90c628372c22b"
    )
    assert edonr_512(longer).hex() == (
        "5351070dc51c3b2baca5a60d0252ccb4e4921a96fe5a69e76dad48fd21a0845a"
        "d57f880b3e4a907bc503151842bb949e1cba7439a6409a34b8436cb46921583c"
    )


def test_edonr_salt_comes_before_the_data() -> None:
    salt = bytes(range(32))
    first = edonr_512(salt)
    whole = first + edonr_512(first) + b"data" * 100
    assert edonr_salted(salted_state(salt), b"data" * 100) == edonr_512(whole)[:32]


def test_blake3() -> None:
    """The official test vectors, and the package where it is installed."""
    assert blake3_plain(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert blake3_keyed(BLAKE3_KEY, b"").hex() == "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26"
    blake3 = pytest.importorskip("blake3", reason="the package blake3 is not installed")
    for length in (1, 63, 64, 65, 1023, 1024, 1025, 2048, 3072, 5 * 1024 + 7, 31 * 1024, 40000):
        data = bytes(at % 251 for at in range(length))
        assert blake3_keyed(BLAKE3_KEY, data) == blake3.blake3(data, key=BLAKE3_KEY).digest()


def test_sha512_256() -> None:
    """FIPS 180-4's example."""
    words = checksum.compute(zf.ZIO_CHECKSUM_SHA512, b"abc", Salt(), False)
    assert words is not None
    assert struct.pack("<4Q", *words).hex() == "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23"


def test_sha256() -> None:
    words = checksum.compute(zf.ZIO_CHECKSUM_SHA256, b"abc", Salt(), False)
    assert words is not None
    assert struct.pack(">4Q", *words).hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def fletcher_4(data: bytes, order: str = "<") -> tuple[int, ...]:
    a = b = c = d = 0
    for (word,) in struct.iter_unpack(order + "I", data):
        a += word
        b += a
        c += b
        d += c
    return a & MASK, b & MASK, c & MASK, d & MASK


def fletcher_2(data: bytes, order: str = "<") -> tuple[int, ...]:
    a0 = a1 = b0 = b1 = 0
    for even, odd in struct.iter_unpack(order + "2Q", data):
        a0 += even
        a1 += odd
        b0 += a0
        b1 += a1
    return a0 & MASK, a1 & MASK, b0 & MASK, b1 & MASK


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=600))
def test_fletcher_as_defined(data: bytes) -> None:
    fletcher.prepare()
    four = data[: len(data) // 4 * 4]
    sixteen = data[: len(data) // 16 * 16]
    assert fletcher.fletcher_4_native(four) == fletcher_4(four)
    assert fletcher._fletcher_4_python(four, "I") == fletcher_4(four)
    assert fletcher.fletcher_4_byteswap(four) == fletcher_4(four, ">")
    assert fletcher.fletcher_2_native(sixteen) == fletcher_2(sixteen)
    assert fletcher.fletcher_2_byteswap(sixteen) == fletcher_2(sixteen, ">")


def test_fletcher_of_large_words_and_of_views() -> None:
    """Sums wrap at 2^64; a view at an odd address and a read-only one are taken as they are."""
    data = b"\xff" * 200_004
    assert fletcher.fletcher_4_native(data) == fletcher_4(data)
    view = memoryview(bytes(range(256)) * 5)[3:1003]
    assert fletcher.fletcher_4_native(view) == fletcher_4(bytes(view))


@given(st.lists(st.integers(0, MASK), min_size=16, max_size=16).map(tuple))
def test_block_pointer_fields(words: tuple[int, ...]) -> None:
    """Every field as the picture in sys/cddl/boot/zfs/zfsimpl.h places it."""
    bp = blkptr.decode(struct.pack("<16Q", *words))
    prop = words[6]

    def bits(low: int, length: int) -> int:
        return prop >> low & ((1 << length) - 1)

    assert (bp.compress, bp.checksum, bp.type, bp.level) == (bits(32, 7), bits(40, 8), bits(48, 8), bits(56, 5))
    assert bp.embedded == bool(bits(39, 1))
    assert bp.encrypted == bool(bits(61, 1))
    assert bp.big_endian == (not bits(63, 1))
    if bp.embedded:
        assert (bp.lsize, bp.psize) == (bits(0, 25) + 1, bits(25, 7) + 1)
        payload = struct.pack("<14Q", *words[:6], *words[7:10], *words[11:16])
        assert bp.payload() == payload[: min(bp.psize, 112)]
        return
    assert (bp.lsize, bp.psize) == ((bits(0, 16) + 1) * 512, (bits(16, 16) + 1) * 512)
    places = [(words[2 * number], words[2 * number + 1]) for number in range(3)]
    assert [(dva.vdev, dva.offset, dva.gang) for dva in bp.dvas] == [
        (first >> 32, (second & ((1 << 63) - 1)) * 512, bool(second >> 63))
        for first, second in places
        if first or second
    ]
    assert bp.is_hole == (not words[0] and not words[1])
    assert bp.physical_birth == (words[9] or words[10])
