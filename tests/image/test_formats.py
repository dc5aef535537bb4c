"""The image formats against qemu-img: every format and subformat reads as the raw disk it was made of."""

from __future__ import annotations

import json
import random
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bhyveload.errors import FileSystemError, ImageError
from bhyveload.freebsd_errno import EIO, EROFS
from bhyveload.image.open import open_disk
from bhyveload.image.qcow2 import Qcow2Image
from bhyveload.image.raw import open_raw
from support.image_testing import (
    MIB,
    as_raw,
    compare_reads,
    convert,
    create,
    mapped,
    qemu_io,
    read_all,
    require,
    run_tool,
    sample_disk,
)

SAMPLE = sample_disk()
FORMATS = [
    ("qcow2", "", ""),
    ("qcow2", "compat=0.10", ""),
    ("qcow2", "compat=0.10", "-c"),
    ("qcow2", "cluster_size=512", ""),
    ("qcow2", "cluster_size=512,compat=0.10", "-c"),
    ("qcow2", "cluster_size=4k,refcount_bits=64", ""),
    ("qcow2", "cluster_size=2M", ""),
    ("qcow2", "cluster_size=2M", "-c"),
    ("qcow2", "", "-c"),
    ("qcow2", "compression_type=zstd", "-c"),
    ("qcow2", "compression_type=zstd,cluster_size=2M", "-c"),
    ("qcow2", "extended_l2=on,cluster_size=16k", ""),
    ("qcow2", "extended_l2=on,cluster_size=128k", "-c"),
    ("qcow2", "preallocation=metadata", ""),
    ("qcow2", "preallocation=full,cluster_size=8k", ""),
    ("qcow2", "lazy_refcounts=on", ""),
    ("vmdk", "", ""),
    ("vmdk", "compat6=on", ""),
    ("vmdk", "zeroed_grain=on", ""),
    ("vmdk", "subformat=monolithicFlat", ""),
    ("vmdk", "subformat=twoGbMaxExtentSparse", ""),
    ("vmdk", "subformat=twoGbMaxExtentFlat", ""),
    ("vmdk", "subformat=streamOptimized", ""),
    ("vpc", "", ""),
    ("vpc", "force_size=on", ""),
    ("vpc", "subformat=fixed", ""),
    ("vpc", "subformat=fixed,force_size=on", ""),
    ("vhdx", "", ""),
    ("vhdx", "block_size=1M", ""),
    ("vhdx", "block_size=32M,block_state_zero=off", ""),
    ("vhdx", "subformat=fixed", ""),
    ("vhdx", "log_size=4M", ""),
]
NAMES = {"vpc": "vhd"}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    path.write_bytes(SAMPLE)
    return path


@pytest.mark.parametrize(("form", "options", "flag"), FORMATS)
def test_every_format_reads_as_its_raw_disk(raw: Path, tmp_path: Path, form: str, options: str, flag: str) -> None:
    image = convert(raw, tmp_path / "disk", form, options, *([flag] if flag else []))
    before = image.read_bytes()
    disk = open_disk(str(image), sandbox=False)
    assert getattr(disk, "format", "raw") == NAMES.get(form, form)
    assert (disk.sector_size, disk.read_only) == (512, True)
    compare_reads(disk, SAMPLE)
    for offset, length in ((-1, 1), (0, -1), (disk.size, 1), (disk.size - 1, 2), (1 << 70, 1), (0, 1 << 70)):
        with pytest.raises(FileSystemError) as caught:
            disk.read(offset, length)
        assert caught.value.errno == EIO
    with pytest.raises(FileSystemError, match="only read") as caught:
        disk.write(0, b"x")
    assert caught.value.errno == EROFS
    disk.close()
    assert image.read_bytes() == before


@pytest.mark.parametrize("size", [512, 513, 65536 - 512, 65536, 65537, 3 * MIB + 700, 4 * MIB])
@pytest.mark.parametrize("form", ["qcow2", "vmdk", "vpc", "vhdx"])
def test_odd_sizes(tmp_path: Path, form: str, size: int) -> None:
    content = sample_disk(4 * MIB, seed=size)[-size:]
    path = tmp_path / "raw"
    path.write_bytes(content)
    disk = open_disk(str(convert(path, tmp_path / "disk", form)), sandbox=False)
    compare_reads(disk, content, reads=20)


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_read_of_any_format(raw: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    form, options = data.draw(
        st.sampled_from(
            [
                ("qcow2", "cluster_size=512"),
                ("qcow2", "extended_l2=on,cluster_size=16k"),
                ("vmdk", "subformat=streamOptimized"),
                ("vmdk", "subformat=monolithicFlat"),
                ("vpc", ""),
                ("vhdx", "block_size=1M"),
            ]
        )
    )
    image = tmp_path_factory.getbasetemp() / f"any-{form}-{options.replace('=', '')}"
    if not image.exists():
        convert(raw, image, form, options)
    disk = open_disk(str(image), sandbox=False)
    expected = SAMPLE.ljust(disk.size, b"\0")
    for _ in range(10):
        offset = data.draw(st.integers(0, disk.size))
        length = data.draw(st.integers(0, min(disk.size - offset, 70_000)))
        assert disk.read(offset, length) == expected[offset : offset + length]
    disk.close()


# Images as guests leave them, not fresh from qemu-img


def test_written_discarded_and_zeroed_qcow2(raw: Path, tmp_path: Path) -> None:
    image = convert(raw, tmp_path / "disk", "qcow2", "cluster_size=4k")
    run_tool("qemu-img", "snapshot", "-c", "before", image)
    qemu_io(
        image,
        "qcow2",
        "write -P 3 1000 70000",
        "write -z 200000 100000",
        "write -zu 400k 64k",
        "discard 1M 256k",
        "write -c -P 9 2M 4k",
        "write -P 5 4M 1",
    )
    expected = as_raw(image, "qcow2", tmp_path / "again")
    assert expected != SAMPLE
    assert read_all(image) == expected


def test_subclusters_over_a_backing_file(raw: Path, tmp_path: Path) -> None:
    image = create(
        tmp_path / "top", "qcow2", 8 * MIB, "extended_l2=on,cluster_size=64k", "-b", raw, "-F", "raw"
    )  # longer than the disk below
    qemu_io(image, "qcow2", "write -P 3 1000 700", "write -P 4 130k 2k", "write -z 70k 8k", "write -P 6 7M 3000")
    expected = as_raw(image, "qcow2", tmp_path / "again")
    assert len(expected) == 8 * MIB and expected[1100:1200] == b"\3" * 100
    assert read_all(image, allow_backing=True) == expected


def test_a_chain_of_backing_files(raw: Path, tmp_path: Path) -> None:
    bottom = convert(raw, tmp_path / "bottom.vmdk", "vmdk")
    middle = create(tmp_path / "middle", "qcow2", None, "", "-b", bottom.name, "-F", "vmdk")
    qemu_io(middle, "qcow2", "write -P 1 1M 64k", "write -P 1 3M 64k")
    (tmp_path / "below").mkdir()
    top = create(tmp_path / "below" / "top", "qcow2", 4 * MIB, "", "-b", "../middle", "-F", "qcow2")
    qemu_io(top, "qcow2", "write -P 2 1M 4k", "write -z 2M 64k")
    disk = open_disk(str(top), allow_backing=True, sandbox=False)
    expected = as_raw(top, "qcow2", tmp_path / "again")
    compare_reads(disk, expected)
    described = disk.describe()
    assert described["backing"] == [
        {"path": str(middle), "format": "qcow2"},
        {"path": str(bottom), "format": "vmdk"},
    ]


def test_a_backing_file_behind_a_link_and_up(raw: Path, tmp_path: Path) -> None:
    """As QEMU finds it: ``..`` is the parent of what the link names."""
    (tmp_path / "far" / "folder").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/folder")
    (tmp_path / "bottom").write_bytes(bytes(raw.stat().st_size))
    (tmp_path / "far" / "bottom").write_bytes(raw.read_bytes())
    create(tmp_path / "far" / "folder" / "top", "qcow2", None, "", "-b", "../bottom", "-F", "raw")
    top = tmp_path / "link" / "top"
    expected = as_raw(top, "qcow2", tmp_path / "again")
    assert expected == raw.read_bytes()
    assert read_all(top, allow_backing=True) == expected


def test_a_backing_format_in_the_image_counts(raw: Path, tmp_path: Path) -> None:
    """A raw disk whose guest made it look like qcow2 stays raw when the image on top says so."""
    bottom = tmp_path / "bottom"
    bottom.write_bytes(convert(raw, tmp_path / "inner", "qcow2").read_bytes())
    top = create(tmp_path / "top", "qcow2", None, "", "-b", bottom, "-F", "raw")
    assert read_all(top, allow_backing=True)[: bottom.stat().st_size] == bottom.read_bytes()


@pytest.mark.parametrize(
    ("form", "options", "size"),
    [
        ("qcow2", "", 1 << 50),
        ("qcow2", "cluster_size=2M", (1 << 60) + 512),
        ("vmdk", "", 1 << 42),
        ("vpc", "force_size=on", 2040 << 30),
        ("vhdx", "", 64 << 40),
        ("vhdx", "block_size=1M", 1 << 40),
    ],
)
def test_disks_beyond_any_file(tmp_path: Path, form: str, options: str, size: int) -> None:
    """64-bit offsets: data at the far end of a disk much larger than its file."""
    image = create(tmp_path / "disk", form, size, options)
    far = size - 3 * MIB - 512
    qemu_io(image, form, f"write -P 7 {far} 1M", f"write -P 8 {far + MIB} 512")
    disk = open_disk(str(image), sandbox=False)
    assert disk.size == size
    assert bytes(disk.read(far - 512, MIB + 2048)) == bytes(512) + b"\7" * MIB + b"\x08" * 512 + bytes(1024)
    assert bytes(disk.read(size // 2, 4096)) == bytes(4096)


def test_split_sparse_and_flat_extents(tmp_path: Path) -> None:
    """Several files of 2 GiB, holes where nothing is: reads across the border between two."""
    for kind in ("twoGbMaxExtentSparse", "twoGbMaxExtentFlat"):
        folder = tmp_path / kind
        folder.mkdir()
        image = create(folder / "disk.vmdk", "vmdk", 5 << 30, f"subformat={kind}")
        border = 2 << 30
        qemu_io(image, "vmdk", f"write -P 1 {border - 4096} 4096", f"write -P 2 {border} 4096", "write -P 3 4G 512")
        disk = open_disk(str(image), sandbox=False)
        assert disk.size == 5 << 30
        assert bytes(disk.read(border - 8192, 16384)) == bytes(4096) + b"\1" * 4096 + b"\2" * 4096 + bytes(4096)
        assert bytes(disk.read(4 << 30, 1024)) == b"\3" * 512 + bytes(512)
        disk.close()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("qcow2", "cluster_size=4k"),
        ("qcow2", "extended_l2=on,cluster_size=32k"),
        ("qcow2", "compat=0.10,cluster_size=1k"),
        ("vmdk", "zeroed_grain=on"),
        ("vpc", "force_size=on"),
        ("vhdx", "block_size=1M"),
    ],
)
def test_whatever_a_guest_does_to_its_disk(raw: Path, tmp_path: Path, form: str, options: str, seed: int) -> None:
    """Writes, zeroes and discards anywhere, on top of a fresh image or of a backing file: as QEMU reads it again."""
    chance = random.Random(f"{form} {options} {seed}")
    if form == "qcow2" and seed % 2:
        image = create(tmp_path / "disk", form, 6 * MIB, options, "-b", raw, "-F", "raw")
    else:
        image = convert(raw, tmp_path / "disk", form, options)
    commands = []
    for _ in range(25):
        offset, length = chance.randrange(4 * MIB), chance.choice((1, 512, 5000, 65536, chance.randrange(1, 500_000)))
        offset, length = (offset, length) if form == "qcow2" else (offset // 512 * 512, (length + 511) // 512 * 512)
        kind = chance.choice(("write -P 7", "write -P 9", "write -P 11", "write -z", "write -zu", "discard"))
        commands.append(f"{kind} {offset} {length}")
    qemu_io(image, form, *commands)
    expected = as_raw(image, form, tmp_path / "again")
    assert expected.count(7) > 1000
    assert read_all(image, allow_backing=True) == expected


def test_a_stream_with_a_footer(raw: Path, tmp_path: Path) -> None:
    """VMware writes streams without going back: the header that counts stands at the end, behind a marker."""
    image = convert(raw, tmp_path / "disk", "vmdk", "subformat=streamOptimized")
    content = bytearray(image.read_bytes())
    header = bytes(content[:512])
    content[56:64] = b"\xff" * 8
    content += struct.pack("<QII", 1, 0, 3).ljust(512, b"\0") + header + bytes(512)
    image.write_bytes(content)
    assert as_raw(image, "vmdk", tmp_path / "again") == SAMPLE
    assert read_all(image) == SAMPLE
    image.write_bytes(content[:-512])
    with pytest.raises(ImageError, match="no footer at the end of the stream"):
        read_all(image)


def test_what_qemu_leaves_of_a_longer_descriptor(raw: Path, tmp_path: Path) -> None:
    """It writes a CID of fewer digits over an older one, a zero byte behind the text, and that is all."""
    image = convert(raw, tmp_path / "disk", "vmdk", "subformat=monolithicSparse")
    content = image.read_bytes()
    start = content.index(b"# Disk DescriptorFile")
    before, behind = content[start : content.index(b"\0", start)].split(b"\nCID=")
    shorter = before + b"\nCID=5" + behind[behind.index(b"\n") :] + b"\0"
    image.write_bytes(content[:start] + shorter + content[start + len(shorter) :])
    assert as_raw(image, "vmdk", tmp_path / "again") == SAMPLE
    assert read_all(image) == SAMPLE


def test_contiguous_clusters_are_one_piece_of_the_mapped_file(raw: Path, tmp_path: Path) -> None:
    """What makes loading fast: no copy, no work a cluster."""
    image = convert(raw, tmp_path / "disk", "qcow2", "preallocation=full")
    disk = Qcow2Image(mapped(open_raw(str(image), read_only=True)), "disk")
    piece = disk.read(65536 + 100, 3 * MIB)
    assert isinstance(piece, memoryview)
    assert piece == SAMPLE[65536 + 100 :][: 3 * MIB]
    assert type(piece.obj).__name__ == "mmap"


def test_vhdx_with_large_sectors(raw: Path, tmp_path: Path) -> None:
    """qemu-img makes only sectors of 512 bytes: the image says 4096, and the block table is laid out for that."""
    image = convert(raw, tmp_path / "disk", "vhdx")
    content = bytearray(image.read_bytes())
    item = bytes.fromhex("1dbf41816fa90947ba47f233a8faab5f")  # Logical Sector Size, a GUID in its mixed order
    entry = content.index(item)
    metadata = entry // MIB * MIB
    place = metadata + int.from_bytes(content[entry + 16 : entry + 20], "little")
    assert content[place : place + 4] == (512).to_bytes(4, "little")
    content[place : place + 4] = (4096).to_bytes(4, "little")
    image.write_bytes(content)
    with pytest.raises(ImageError, match="the disk's size is"):
        read_all(image)  # not a whole number of such sectors
    whole = tmp_path / "whole"
    whole.write_bytes(SAMPLE[: 4 * MIB])
    image = convert(whole, tmp_path / "disk", "vhdx")
    content = bytearray(image.read_bytes())
    content[place : place + 4] = (4096).to_bytes(4, "little")
    image.write_bytes(content)
    assert read_all(image) == SAMPLE[: 4 * MIB]


def test_qemu_img_agrees_about_what_it_is(raw: Path, tmp_path: Path) -> None:
    """Detection by content, whatever the name says."""
    require("qemu-img")
    for form in ("qcow2", "vmdk", "vpc", "vhdx"):
        image = convert(raw, tmp_path / f"{form}.img", form)  # a file that was one kind is not taken for another
        answer = subprocess.run(["qemu-img", "info", "--output=json", image], capture_output=True, check=True)
        assert json.loads(answer.stdout)["format"] == form
        disk = open_disk(str(image), sandbox=False)
        assert getattr(disk, "format", "raw") == NAMES.get(form, form)
