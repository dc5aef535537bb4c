"""Damaged images of every kind, thousands of them: our own errors, within bounds of time and memory.

Each batch runs in a child of its own with limits on its memory (64 MiB over what it has) and its processor time, so
that a mutant which asks for too much fails the test instead of the machine.
"""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.confined.confinement import Subject
from bhyveload.confined.deadline import FOREVER
from bhyveload.confined.run import run
from bhyveload.device import Device
from bhyveload.errors import BhyveloadError, ImageError
from bhyveload.image import zstd  # noqa: F401  (imported before the limits are set)
from bhyveload.image.container import Container
from bhyveload.image.magic import detect, media_sector_size
from bhyveload.image.qcow2 import Qcow2Image
from bhyveload.image.vhd import VhdImage
from bhyveload.image.vhdx import VhdxImage
from bhyveload.image.vmdk import VmdkImage
from bhyveload.image.vmdk_descriptor import Descriptor
from bhyveload.image.xz import NoIndex, XzImage
from support.confined import ANYTHING
from support.image_testing import (
    MIB,
    BytesDevice,
    convert,
    fix_vhd,
    fix_vhdx,
    fix_xz,
    mutants,
    outcome,
    require,
    run_tool,
    sample_disk,
)

MEMORY = 64 * MIB
SECONDS = 2.0
Build = Callable[[Device], Device]


def qcow2(device: Device) -> Device:
    return Qcow2Image(device, "mutant", lambda _name, _form: BytesDevice(b"below" * 1000))


def vmdk(device: Device) -> Device:
    return VmdkImage(device, "mutant", lambda names: [BytesDevice(bytes(MIB)) for _ in names])


def vhd(device: Device) -> Device:
    return VhdImage(device, "mutant")


def vhdx(device: Device) -> Device:
    return VhdxImage(device, "mutant")


def xz(device: Device) -> Device:
    try:
        return XzImage(device, "mutant")
    except NoIndex:
        raise ImageError("mutant: has to be unpacked") from None


def batch(build: Build, contents: Sequence[bytes], fix: Callable[[bytes], bytes]) -> Counter[str]:
    """Outcome -> how often, and "slowest": milliseconds of processor time."""

    def work(_leave: object) -> dict[str, int]:
        with open("/proc/self/statm", "rb") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (200, 200))  # an endless loop
        counts: Counter[str] = Counter()
        slowest = 0.0
        for number, content in enumerate(contents):
            begin = time.process_time()
            counts[outcome(build, fix(content) if number % 2 else content, number)] += 1
            slowest = max(slowest, time.process_time() - begin)
        return {**counts, "slowest": int(slowest * 1000)}

    return Counter(run(work, Subject("the reader", None), FOREVER, ANYTHING))


def as_is(content: bytes) -> bytes:
    return content


@pytest.mark.parametrize(
    ("form", "options", "flag", "structures", "build", "fix", "count"),
    [
        ("qcow2", "cluster_size=4k", "", [(0, 112), (112, 400), (8192, 512), (12288, 4096)], qcow2, as_is, 700),
        ("qcow2", "extended_l2=on,cluster_size=16k", "", [(0, 112), (32768, 8), (49152, 8192)], qcow2, as_is, 500),
        ("qcow2", "cluster_size=4k", "-c", [(0, 112), (12288, 2000), (16384, 60000)], qcow2, as_is, 700),
        ("qcow2", "compression_type=zstd", "-c", [(0, 112), (262144, 128), (327680, 60000)], qcow2, as_is, 500),
        ("vmdk", "", "", [(0, 79), (512, 400), (10752, 512)], vmdk, as_is, 700),
        (
            "vmdk",
            "subformat=streamOptimized",
            "",
            [(0, 79), (512, 400), (10752, 512), (65536, 30000)],
            vmdk,
            as_is,
            700,
        ),
        ("vmdk", "subformat=monolithicFlat", "", [(0, 330)], vmdk, as_is, 700),
        ("vpc", "", "", [(0, 85), (512, 40), (1536, 16)], vhd, fix_vhd, 1000),
        ("vpc", "subformat=fixed", "", [(-512, 85)], vhd, fix_vhd, 500),
        ("vhdx", "block_size=1M", "", [(65536, 80), (131072, 80), (196608, 80), (2 * MIB, 320)], vhdx, fix_vhdx, 120),
        ("vhdx", "block_size=1M", "", [(2 * MIB, 320), (2 * MIB + 65536, 64), (3 * MIB, 32)], vhdx, as_is, 150),
    ],
)
def test_mutants(
    tmp_path: Path,
    form: str,
    options: str,
    flag: str,
    structures: list[tuple[int, int]],
    build: Build,
    fix: Callable[[bytes], bytes],
    count: int,
) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(sample_disk(MIB // 2, seed=3))
    content = convert(raw, tmp_path / "disk", form, options, *([flag] if flag else [])).read_bytes()
    places = [(at if at >= 0 else len(content) + at, length) for at, length in structures]
    places = [(at, min(length, len(content) - at)) for at, length in places if at < len(content)]
    counts = batch(build, mutants(content, places, count, seed=7), fix)
    slowest = counts.pop("slowest")
    assert slowest < SECONDS * 1000
    assert sum(counts.values()) == count
    assert set(counts) <= {"read", "ImageError", "FileSystemError"}
    assert counts["ImageError"] > count // 20, "the mutants hardly hurt: the structures are elsewhere"


def test_mutants_of_xz(tmp_path: Path) -> None:
    require("xz")
    raw = tmp_path / "raw"
    raw.write_bytes(sample_disk(MIB // 2, seed=3))
    run_tool("xz", "-k", "-1", "--block-size=64KiB", raw)
    content = (tmp_path / "raw.xz").read_bytes()
    tail = len(content) - 100
    counts = batch(xz, mutants(content, [(0, 12), (12, 200), (tail, 100), (5000, 3000)], 1000, seed=7), fix_xz)
    slowest = counts.pop("slowest")
    assert slowest < SECONDS * 1000
    assert set(counts) <= {"read", "ImageError"}
    assert counts["ImageError"] > 100


BOMBS = {
    # a disk of 2^62 bytes whose L1 table is 32 MiB of the file's 4 KiB
    "qcow2": b"QFI\xfb" + bytes.fromhex("00000002 0000000000000000 00000000 00000010 4000000000000000 00000000")
    + bytes.fromhex("00400000 0000000000001000") + bytes(4096),
    "vhd": b"conectix" + bytes(504) + b"cxsparse" + bytes(1016),
    "vhdx": b"vhdxfile" + bytes(1 << 19),
}  # fmt: skip


@pytest.mark.parametrize("form", BOMBS)
def test_what_claims_to_be_huge(form: str) -> None:
    build = {"qcow2": qcow2, "vhd": vhd, "vhdx": vhdx}[form]
    counts = batch(build, [BOMBS[form]] * 2, as_is)
    assert counts["ImageError"] == 2


@given(st.sampled_from([b"QFI\xfb\0\0\0\3", b"KDMV\1\0\0\0", b"conectix", b"vhdxfile", b""]), st.binary(max_size=2000))
@settings(max_examples=300, deadline=None)
def test_any_bytes_at_all(magic: bytes, rest: bytes) -> None:
    device = BytesDevice(magic + rest)
    for build in (qcow2, vmdk, vhd, vhdx, xz):
        try:
            disk = build(device)
            disk.read(0, min(disk.size, 4096))
        except BhyveloadError as error:
            assert error.message.isprintable()
    try:
        assert isinstance(detect(device, "any"), str)
    except ImageError:
        pass
    assert media_sector_size(device.size, device.read) in (512, 4096)


WORDS = [
    "RW",
    "RDONLY",
    "1",
    "99",
    "-3",
    "FLAT",
    "SPARSE",
    "ZERO",
    '"a"',
    '"',
    "0",
    "\n",
    "parentCID=1",
    "x=",
    "=",
    "\0",
]


@given(st.text(max_size=400) | st.lists(st.sampled_from(WORDS)).map(" ".join))
@settings(max_examples=300, deadline=None)
def test_any_descriptor(text: str) -> None:
    data = b"# Disk DescriptorFile\n" + text.encode("utf-8", "surrogateescape")
    try:
        descriptor = Descriptor(Container(BytesDevice(data), "any"), data)
    except ImageError as error:
        assert error.message.isprintable()
        return
    for kind, sectors, name, start in descriptor.extents:
        assert kind in ("FLAT", "SPARSE", "ZERO") and sectors > 0 and start >= 0 and "\0" not in name
