"""What the image readers refuse, and in which words: damaged, unknown, encrypted, standing on other files."""

from __future__ import annotations

import errno
import gc
import os
import struct
from collections.abc import Callable
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from bhyveload.errors import BhyveloadError, ImageError, InputError, ReportError
from bhyveload.image.open import open_disk
from support.confined import forge
from support.image_testing import (
    MIB,
    as_raw,
    convert,
    create,
    fix_vhd,
    fix_vhdx,
    read_all,
    require,
    run_tool,
    sample_disk,
)

SAMPLE = sample_disk(2 * MIB, seed=5)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    path.write_bytes(SAMPLE)
    return path


def refused(path: Path, kind: type[BhyveloadError] = ImageError, allow_backing: bool = False) -> str:
    """The message and hint with which the image is refused, when it is opened or when it is read."""
    with pytest.raises(kind) as caught:
        read_all(path, allow_backing)
    assert caught.value.message.startswith(str(path.parent)), "the message says which file"
    assert str(caught.value).isprintable()
    return f"{caught.value.message} ({caught.value.hint})"


def patched(image: Path, offset: int, data: bytes, fix: Callable[[bytes], bytes] = bytes) -> Path:
    content = bytearray(image.read_bytes())
    content[offset : offset + len(data)] = data
    image.write_bytes(fix(bytes(content)))
    return image


def be(form: str, *values: int) -> bytes:
    return struct.pack(">" + form, *values)


# qcow2


@pytest.mark.parametrize(
    ("offset", "data", "message"),
    [
        (4, be("I", 1), "this is a QCOW (version 1) image, which is not read (qemu-img convert -O qcow2"),
        (4, be("I", 4), "qcow2 version 4 is unknown"),
        (20, be("I", 8), "cluster_bits is 8"),
        (20, be("I", 22), "cluster_bits is 22"),
        (24, be("Q", 1 << 63), "the disk's size is"),
        (24, be("Q", 1 << 40), "is too small for 1099511627776 bytes"),
        (32, be("I", 1), "is encrypted (method 1)"),
        (32, be("I", 2), "is encrypted (method 2)"),
        (36, be("I", 0), "an L1 table of 0 entries is too small"),
        (36, be("I", 1 << 30), "the L1 table has 1073741824 entries"),
        (40, be("Q", 12345), "is not that of a cluster"),
        (40, be("Q", 1 << 40), "the L1 table (8 bytes) is outside the file"),
        (72, be("Q", 2), "marked corrupt"),
        (72, be("Q", 4), "keeps its data in an external file"),
        (72, be("Q", 1 << 5), "features that are unknown here: bit 5"),
        (72, be("Q", 3 << 62), "features that are unknown here: bit 62, bit 63"),
        (100, be("I", 12), "the header's length is 12"),
        (104, be("B", 2), "compression type 2 is unknown"),
        (8, be("QI", 1 << 40, 10), "the backing file's name (10 bytes) is outside the file"),
        (8, be("QI", 512, 5000), "the backing file's name has 5000 bytes"),
    ],
)
def test_qcow2_headers(raw: Path, tmp_path: Path, offset: int, data: bytes, message: str) -> None:
    image = convert(raw, tmp_path / "disk", "qcow2")
    assert message in refused(patched(image, offset, data))


def test_unknown_qcow2_features_by_their_names(raw: Path, tmp_path: Path) -> None:
    image = convert(raw, tmp_path / "disk", "qcow2")
    content = image.read_bytes()
    row = content.index(b"dirty bit") - 2  # the feature name table's row of bit 0
    patched(image, row, bytes((0, 9)) + b"time travel\0")
    assert "unknown here: time travel" in refused(patched(image, 72, be("Q", 1 << 9)))


def test_extended_l2_needs_large_clusters(raw: Path, tmp_path: Path) -> None:
    image = convert(raw, tmp_path / "disk", "qcow2", "cluster_size=4k")
    assert "too few for extended L2 entries" in refused(patched(image, 72, be("Q", 1 << 4)))


def test_qcow2_tables(raw: Path, tmp_path: Path) -> None:
    def image() -> tuple[Path, int, int]:
        path = convert(raw, tmp_path / "disk", "qcow2", "extended_l2=on")
        content = path.read_bytes()
        (l1,) = struct.unpack_from(">Q", content, 40)
        (l2,) = struct.unpack_from(">Q", content, l1)
        return path, l1, l2 & 0x00FFFFFFFFFFFE00

    path, l1, l2 = image()
    assert "an L2 table does not lie at a cluster's start" in refused(patched(path, l1, be("Q", 0x10200)))
    path, l1, l2 = image()
    assert "an L2 table (" in refused(patched(path, l1, be("Q", 1 << 50)))
    path, l1, l2 = image()
    assert "is both allocated and zero" in refused(patched(path, l2 + 8, be("Q", 1 << 32 | 1)))
    path, l1, l2 = image()
    patched(path, l2 + 8, be("Q", 1))
    assert "a cluster does not lie at a multiple of the cluster size" in refused(patched(path, l2, be("Q", 0x10200)))
    path, l1, l2 = image()
    patched(path, l2 + 8, be("Q", 1))
    assert "the file is cut short" in refused(patched(path, l2, be("Q", 1 << 45)))


def test_damaged_compressed_clusters(raw: Path, tmp_path: Path) -> None:
    for options in ("", "compression_type=zstd"):
        image = convert(raw, tmp_path / "disk", "qcow2", options, "-c")
        assert "at byte" in refused(patched(image, 0x50000, b"\xff" * 300_000))
    image = convert(raw, tmp_path / "disk", "qcow2", "", "-c")
    content = image.read_bytes()
    (l1,) = struct.unpack_from(">Q", content, 40)
    l2 = struct.unpack_from(">Q", content, l1)[0] & 0x00FFFFFFFFFFFE00
    assert "a compressed cluster is outside the file" in refused(patched(image, l2, be("Q", 1 << 62 | 1 << 50)))


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.93])
@pytest.mark.parametrize("form", ["qcow2", "vmdk", "vpc", "vhdx"])
def test_cut_short(raw: Path, tmp_path: Path, form: str, keep: float) -> None:
    image = convert(raw, tmp_path / "disk", form, "block_size=1M" if form == "vhdx" else "")
    os.truncate(image, int(image.stat().st_size * keep))
    assert "at byte" in refused(image)


def test_encrypted_by_qemu_img(tmp_path: Path) -> None:
    require("qemu-img")
    image = tmp_path / "disk"
    options = "encrypt.format=aes,encrypt.key-secret=s"  # making LUKS needs an idle machine, it measures its own speed
    run_tool("qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o", options, image, "1M")
    assert "is encrypted (method 1)" in refused(image)


def test_external_data_file(tmp_path: Path) -> None:
    image = create(tmp_path / "disk", "qcow2", MIB, f"data_file={tmp_path / 'data'}")
    assert "keeps its data in an external file" in refused(image)


def test_a_guest_that_was_killed_leaves_the_dirty_bit(raw: Path, tmp_path: Path) -> None:
    """Reference counts are wrong then, nothing else: it is read as QEMU reads it, before and after it was repaired."""
    image = convert(raw, tmp_path / "disk", "qcow2", "lazy_refcounts=on")
    require("qemu-io")
    with pytest.raises(CalledProcessError):
        run_tool("qemu-io", "-c", "write -P 1 0 64k", "-c", "abort", image)
    assert image.read_bytes()[79] == 1
    expected = b"\1" * 65536 + SAMPLE[65536:]
    assert read_all(image) == as_raw(image, "qcow2", tmp_path / "again") == expected
    run_tool("qemu-img", "check", "-q", "-r", "all", image)
    assert image.read_bytes()[79] == 0
    assert read_all(image) == expected


# Backing files


def test_backing_files_are_not_followed_unasked(raw: Path, tmp_path: Path) -> None:
    image = create(tmp_path / "top", "qcow2", None, "", "-b", raw, "-F", "raw")
    assert "which is not followed (--allow-backing" in refused(image)
    assert read_all(image, allow_backing=True) == SAMPLE


def test_backing_files_that_are_not_opened(raw: Path, tmp_path: Path) -> None:
    image = create(tmp_path / "top", "qcow2", MIB, "", "-u", "-b", tmp_path / "gone", "-F", "raw")
    assert "No such file" in refused(image, InputError, allow_backing=True)
    create(image, "qcow2", MIB, "", "-u", "-b", "nbd://127.0.0.1/disk", "-F", "raw")
    assert "is not a plain file" in refused(image, allow_backing=True)
    create(image, "qcow2", MIB, "", "-u", "-b", 'json:{"driver":"null-co"}', "-F", "raw")
    assert "is not a plain file" in refused(image, allow_backing=True)
    create(image, "qcow2", MIB, "", "-u", "-b", raw, "-F", "qed")
    assert "of the format 'qed', which is not read" in refused(image, allow_backing=True)
    packed = tmp_path / "packed.gz"
    packed.write_bytes(b"\x1f\x8b\x08" + bytes(1000))
    create(image, "qcow2", MIB, "", "-u", "-b", packed, "-F", "raw")
    assert read_all(image, allow_backing=True).startswith(b"\x1f\x8b\x08")  # the image says so
    extension = image.read_bytes().index(be("I", 0xE2792ACA))
    patched(image, extension, be("I", 0x12345678))  # images of older programs do not say
    assert "a compressed backing file" in refused(image, allow_backing=True)


def test_chains_end(tmp_path: Path) -> None:
    image = create(tmp_path / "loop", "qcow2", MIB, "", "-u", "-b", "l00p", "-F", "qcow2")
    patched(image, image.read_bytes().index(b"l00p"), b"loop")
    assert "stands on it in turn" in refused(image, allow_backing=True)
    previous = create(tmp_path / "0", "qcow2", MIB)
    for number in range(1, 18):
        previous = create(tmp_path / str(number), "qcow2", MIB, "", "-u", "-b", previous, "-F", "qcow2")
    assert "stands on more than 16 other files" in refused(previous, allow_backing=True)
    assert read_all(tmp_path / "16", allow_backing=True) == bytes(MIB)


# VMDK


@pytest.mark.parametrize(
    ("offset", "data", "message"),
    [
        (0, b"COWD", "an ESX sparse file (COWD) is not read"),
        (4, struct.pack("<I", 4), "VMDK version 4 is unknown"),
        (12, struct.pack("<Q", 0), "the capacity is 0 sectors"),
        (12, struct.pack("<Q", 1 << 60), "the capacity is"),
        (12, struct.pack("<Q", 1 << 50), "a grain directory of"),
        (12, struct.pack("<Q", 1 << 40), "the grain directory ("),
        (20, struct.pack("<Q", 100), "the grain size is 100 sectors"),
        (20, struct.pack("<Q", 1 << 40), "the grain size is"),
        (44, struct.pack("<I", 0), "a grain table has 0 entries"),
        (44, struct.pack("<I", 513), "a grain table has 513 entries"),
        (56, struct.pack("<Q", 1 << 50), "the grain directory (4 bytes) is outside the file"),
        (56, b"\xff" * 8, "no footer at the end of the stream"),
        (73, b"\r\n \n", "the file was transferred as text"),
    ],
)
def test_vmdk_headers(raw: Path, tmp_path: Path, offset: int, data: bytes, message: str) -> None:
    image = convert(raw, tmp_path / "disk", "vmdk")
    assert message in refused(patched(image, offset, data))


def test_vmdk_streams(raw: Path, tmp_path: Path) -> None:
    image = convert(raw, tmp_path / "disk", "vmdk", "subformat=streamOptimized")
    assert "compression 9 is unknown" in refused(patched(image, 77, b"\x09\0"))
    image = convert(raw, tmp_path / "disk", "vmdk", "subformat=streamOptimized")
    content = image.read_bytes()
    grain = content.index(b"\x78", 0x10000)  # zlib's first byte, behind a marker of 12 bytes
    assert "at byte" in refused(patched(image, grain, b"\xff" * 100))
    image.write_bytes(content)
    assert "a compressed grain of" in refused(patched(image, grain - 4, b"\xff\xff\xff\x7f"))


def test_vmdk_snapshots(raw: Path, tmp_path: Path) -> None:
    base = convert(raw, tmp_path / "base.vmdk", "vmdk")
    image = create(tmp_path / "top.vmdk", "vmdk", None, "", "-b", base, "-F", "vmdk")
    assert "is a snapshot of another one" in refused(image, allow_backing=True)


def descriptor(path: Path, *extents: str, parent: str = "ffffffff", more: str = "") -> Path:
    lines = (
        "# Disk DescriptorFile",
        "version=1",
        "CID=1",
        f"parentCID={parent}",
        'createType="custom"',
        *extents,
        more,
    )
    path.write_text("\n".join(lines))
    return path


def test_vmdk_descriptors(tmp_path: Path) -> None:
    image = tmp_path / "d.vmdk"
    (tmp_path / "d-flat.vmdk").write_bytes(SAMPLE)
    flat = ('RW 100 FLAT "d-flat.vmdk" 8', "RW 5 ZERO", 'RDONLY 3 VMFS "d-flat.vmdk" 0')
    assert read_all(descriptor(image, *flat)) == (SAMPLE[4096 : 4096 + 51200] + bytes(5 * 512) + SAMPLE[:1536])
    for extent, message in (
        ('RW 100000 FLAT "d-flat.vmdk" 0', "do not fit into the file"),
        ('RW 100 FLAT "d-flat.vmdk" 5000', "do not fit into the file"),
        ('RW 100 SPARSE "d-flat.vmdk"', "no VMDK header"),
        ('RW 100 VMFSSPARSE "flat"', "VMDK extents of the kind 'VMFSSPARSE' are not read"),
        ('RW 100 SESPARSE "flat"', "of the kind 'SESPARSE'"),
        ('RW 100 VMFSRDM "flat"', "of the kind 'VMFSRDM'"),
        ('RW 100 FLAT "/dev/sda" 0', "is not a file beside it"),
        ('NOACCESS 100 FLAT "flat" 0', "must not be accessed"),
        ('RW 0 FLAT "flat" 0', "makes no sense"),
        ('RW -1 FLAT "flat" 0', "makes no sense"),
        ('RW 99999999999999999999999 FLAT "flat" 0', "makes no sense"),
        ("RW 100 FLAT flat 0", "not understood"),
        ("RW 100 FLAT", "makes no sense"),
        ("RW 100 ", "not understood"),
        ('RW\t8 FLAT "/any/file" 0', "not understood"),
        ('RW\v8 FLAT "/any/file" 0', "not understood"),
        ('RW  8 FLAT "d-flat.vmdk" 0', "not understood"),
        (' RW 8 FLAT "d-flat.vmdk" 0', "not understood"),
        ('rw 8 FLAT "d-flat.vmdk" 0', "not understood"),
        ('RW 8 FLAT "d-flat.vmdk" 0\r', "not understood"),
        ('# a comment\rRW 8 FLAT "/any/file" 0', "not understood"),
        ('# a comment\fRW 8 FLAT "/any/file" 0', "not understood"),
        ('# a comment\x0bRW 8 FLAT "/any/file" 0', "not understood"),
        ('# a comment\x85RW 8 FLAT "/any/file" 0', "not understood"),
        ('# a comment\u2028RW 8 FLAT "/any/file" 0', "not understood"),
        ('RW 8 FLAT "a" "b" 0', "not understood"),
        ('RW 8 FLAT "d-flat.vmdk" 0 partition', "makes no sense"),
        ('RW 8 FLAT "d-flat.vmdk"0', "makes no sense"),
        ('changeTrackPath="/any/file"', "not understood"),
        ('ddb.x = "a" RW 8 FLAT "/any/file" 0"', "not understood"),
        ("anything else", "not understood"),
        ('RW 1 ZERO\n\0RW 8 FLAT "/any/file" 0', "goes on behind its end"),
        ("RW 1 ZERO\n" + "# line\n" * 5000, "more than 4096 lines"),
        ("", "names no extents"),
        ("RW 1 ZERO\n" * 600, "more than 512 extents"),
        (f"RW {1 << 53} ZERO\n" * 5, "the disk's size is"),
    ):
        assert message in refused(descriptor(image, extent)), extent
    assert "is a snapshot" in refused(descriptor(image, "RW 1 ZERO", parent="1234abcd"))
    assert "is a snapshot" in refused(descriptor(image, "RW 1 ZERO", more='parentFileNameHint="base.vmdk"'))


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "below/secret", "..", ".", "", "..\\secret", "a/../secret"]
)
def test_extents_outside_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(SAMPLE)
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "secret").write_bytes(SAMPLE)
    image = descriptor(folder / "d.vmdk", f'RW 8 FLAT "{name}" 0')
    assert "is not a file beside it" in refused(image, allow_backing=True)


def test_extents_that_are_links_or_no_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SAMPLE)
    os.symlink("secret", tmp_path / "d-link.vmdk")
    os.mkfifo(tmp_path / "d-fifo.vmdk")
    image = tmp_path / "d.vmdk"
    assert "is a symbolic link" in refused(descriptor(image, 'RW 8 FLAT "d-link.vmdk" 0'))
    assert "not a regular file" in refused(descriptor(image, 'RW 8 FLAT "d-fifo.vmdk" 0'))
    assert "No such file" in refused(descriptor(image, 'RW 8 FLAT "d-gone.vmdk" 0'), InputError)


def test_an_extent_that_is_a_link_on_freebsd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """open(2) says EMLINK there."""
    plain = os.open

    def opening(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_NOFOLLOW and path == "d-link.vmdk":
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        return plain(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", opening)
    assert "is a symbolic link" in refused(descriptor(tmp_path / "d.vmdk", 'RW 8 FLAT "d-link.vmdk" 0'))


@pytest.mark.parametrize("name", [".bashrc", "other.vmdk", "d.vmdk", "d-.vmdk", "d-a.b.vmdk", "d-flat", "e-flat.vmdk"])
def test_extents_with_a_name_of_their_own(tmp_path: Path, name: str) -> None:
    """A neighbour in the same folder is nobody's extent unless it is called like the descriptor."""
    (tmp_path / name).write_bytes(SAMPLE)
    image = descriptor(tmp_path / "d.vmdk", f'RW 8 FLAT "{name}" 0')
    assert "does not have its name" in refused(image)


def test_a_descriptor_inside_of_an_image_names_nothing(raw: Path, tmp_path: Path) -> None:
    image = convert(raw, tmp_path / "disk.vmdk", "vmdk")
    content = image.read_bytes()
    start = content.index(b"RW ")
    line = b'RW 8 FLAT "/etc/passwd" 0\n'
    image.write_bytes(content[:start] + line + content[start + len(line) :])
    assert "not understood" in refused(image) or "names other files" in refused(image)


def test_a_guest_cannot_turn_its_disk_into_a_list_of_others(tmp_path: Path) -> None:
    """A raw disk that begins with a descriptor, written by its guest, stays a raw disk."""
    (tmp_path / "other.img").write_bytes(SAMPLE)
    text = descriptor(tmp_path / "text", 'RW 8 FLAT "other.img" 0').read_bytes()
    disk = tmp_path / "disk.img"
    disk.write_bytes(text.ljust(2 * MIB, b"\0"))
    assert read_all(disk) == disk.read_bytes()


@pytest.mark.parametrize(
    ("form", "answer"),
    [
        ("vmdk", {"want": "extent", "of": "/etc/x", "names": ["passwd"], "form": ""}),
        ("vmdk", {"want": "extent", "of": None, "names": ["passwd"], "form": ""}),
        ("vmdk", {"want": "backing", "of": "IMAGE", "names": ["/etc/passwd"], "form": "raw"}),
        ("qcow2", {"want": "extent", "of": "IMAGE", "names": ["neighbour"], "form": ""}),
        ("vhdx", {"want": "extent", "of": "IMAGE", "names": ["neighbour"], "form": ""}),
        ("vmdk", {"want": "extent", "of": "IMAGE", "names": [], "form": ""}),
        ("vmdk", {"want": "extent", "of": "IMAGE", "names": ["neighbour"] * 2, "form": ""}),
        ("vmdk", {"want": "extent", "of": "IMAGE", "names": ["neighbour\0"], "form": ""}),
        ("vmdk", {"want": "extent", "of": "IMAGE", "names": ["x"] * 1000, "form": ""}),
        ("vmdk", {"want": "extent", "of": "IMAGE", "names": [3], "form": ""}),
        ("vmdk", {"want": "extent", "of": "IMAGE", "names": "neighbour", "form": ""}),
        ("qcow2", {"want": "backing", "of": "IMAGE", "names": ["neighbour"], "form": 3}),
        ("qcow2", {}),
        ("qcow2", {"size": -1}),
        ("qcow2", {"size": "1"}),
        ("qcow2", {"size": 1 << 63}),
    ],
)
def test_a_child_that_lies(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, answer: dict[str, object]
) -> None:
    """A hostile image has taken over the process that looks at it: no file is opened for it that must not be."""
    image = convert(raw, tmp_path / "image", form)
    (tmp_path / "neighbour").write_bytes(SAMPLE)
    forged = {key: str(image) if value == "IMAGE" else value for key, value in answer.items()}
    forge(monkeypatch, forged)
    opened = []
    real_open = os.open

    def watched(path: str, *rest: int) -> int:
        if not str(path).startswith(os.environ["XDG_STATE_HOME"]):
            opened.append(path)
        return real_open(path, *rest)

    monkeypatch.setattr(os, "open", watched)
    with pytest.raises(ReportError):
        open_disk(str(image), allow_backing=True, sandbox=False)
    assert set(opened) <= {str(image), str(tmp_path / "neighbour")}
    assert form == "vmdk" or str(tmp_path / "neighbour") not in opened


# VHD


@pytest.mark.parametrize(
    ("offset", "data", "message"),
    [
        (12, be("I", 0x00020000), "VHD version 0x20000 is unknown"),
        (48, be("Q", 1 << 60), "bytes for a disk of"),
        (60, be("I", 4), "a differencing VHD image"),
        (60, be("I", 9), "VHD disk type 9"),
        (16, be("Q", 1 << 60), "the VHD's dynamic disk header (1024 bytes) is outside the file"),
        (16, be("Q", 2048), "no dynamic disk header"),
        (512 + 16, be("Q", 1 << 60), "the block allocation table ("),
        (512 + 24, be("I", 0x00050000), "dynamic disk header version"),
        (512 + 28, be("I", 0), "0 blocks of 2097152 bytes"),
        (512 + 28, be("I", 1 << 31), "blocks of 2097152 bytes"),
        (512 + 32, be("I", 0), "the block size is 0"),
        (512 + 32, be("I", 3 << 20), "the block size is 3145728"),
        (512 + 32, be("I", 1 << 30), "the block size is 1073741824"),
        (1536, be("I", 1 << 31), "the file is cut short"),
    ],
)
def test_vhd_headers(raw: Path, tmp_path: Path, offset: int, data: bytes, message: str) -> None:
    image = convert(raw, tmp_path / "disk", "vpc")
    assert message in refused(patched(image, offset, data, fix_vhd))


def test_vhd_checksums(raw: Path, tmp_path: Path) -> None:
    image = convert(raw, tmp_path / "disk", "vpc")
    assert "the VHD footer's checksum is wrong" in refused(patched(image, 70, b"x"))
    image = convert(raw, tmp_path / "disk", "vpc")
    assert "the dynamic disk header's checksum is wrong" in refused(patched(image, 512 + 700, b"x"))
    image = convert(raw, tmp_path / "disk", "vpc", "subformat=fixed")
    assert "the VHD footer's checksum is wrong" in refused(patched(image, image.stat().st_size - 100, b"x"))
    image = convert(raw, tmp_path / "disk", "vpc", "subformat=fixed")
    os.truncate(image, image.stat().st_size - 512)
    assert read_all(image).startswith(SAMPLE)  # without its footer, it is a raw disk


def test_a_fixed_vhd_larger_than_its_file(raw: Path, tmp_path: Path) -> None:
    image = convert(raw, tmp_path / "disk", "vpc", "subformat=fixed")
    size = image.stat().st_size
    assert "the file is cut short" in refused(patched(image, size - 512 + 48, be("Q", size), fix_vhd))


# VHDX


@pytest.mark.parametrize(
    ("where", "offset", "data", "message"),
    [
        ("head", 64, be("H", 0x100), "VHDX log version 1 is unknown"),
        ("head", 66, be("H", 0x200), "VHDX version 2 is unknown"),
        ("head", 0, b"tail", "neither VHDX header is sound"),
        ("regi", 0, b"rege", "neither VHDX region table is sound"),
        ("regi", 8, struct.pack("<I", 5000), "neither VHDX region table is sound"),
        ("regi", 8, struct.pack("<I", 1), "lacks the block allocation table or the metadata"),
        ("regi", 16, b"0123456789abcdef" + bytes(12) + b"\1", "needs a region that is unknown"),
    ],
)
def test_vhdx_headers(raw: Path, tmp_path: Path, where: str, offset: int, data: bytes, message: str) -> None:
    image = convert(raw, tmp_path / "disk", "vhdx")
    for place in (64 << 10, 128 << 10) if where == "head" else (192 << 10, 256 << 10):
        patched(image, place + offset, data, fix_vhdx)
    assert message in refused(image)


def test_vhdx_copies_stand_in_for_each_other(raw: Path, tmp_path: Path) -> None:
    for places in ((64 << 10, 192 << 10), (128 << 10, 256 << 10)):
        image = convert(raw, tmp_path / "disk", "vhdx")
        for place in places:
            patched(image, place + 20, b"damaged")
        assert read_all(image) == SAMPLE


def metadata_item(content: bytes, guid: str) -> tuple[int, int]:
    """(where the item's table entry is, where the item itself is)."""
    entry = content.index(bytes.fromhex(guid), MIB)
    return entry, entry // MIB * MIB + int.from_bytes(content[entry + 16 : entry + 20], "little")


PARAMETERS = "3767a1ca36fa434db3b633f0aa44e76b"
DISK_SIZE = "2442a52f1bcd7648b2115dbed83bf4b8"
SECTOR_SIZE = "1dbf41816fa90947ba47f233a8faab5f"


@pytest.mark.parametrize(
    ("item", "data", "message"),
    [
        (PARAMETERS, struct.pack("<II", 3 << 20, 0), "the block size is 3145728"),
        (PARAMETERS, struct.pack("<II", 1 << 19, 0), "the block size is 524288"),
        (PARAMETERS, struct.pack("<II", 1 << 20, 2), "a differencing VHDX image"),
        (DISK_SIZE, struct.pack("<Q", 1 << 60), "the disk's size is"),
        (DISK_SIZE, struct.pack("<Q", 1000), "the disk's size is 1000"),
        (DISK_SIZE, struct.pack("<Q", 60 << 40), "a block allocation table of"),
        (SECTOR_SIZE, struct.pack("<I", 1024), "sectors of 1024 bytes"),
    ],
)
def test_vhdx_metadata(raw: Path, tmp_path: Path, item: str, data: bytes, message: str) -> None:
    image = convert(raw, tmp_path / "disk", "vhdx")
    _, place = metadata_item(image.read_bytes(), item)
    assert message in refused(patched(image, place, data))


def test_vhdx_metadata_table(raw: Path, tmp_path: Path) -> None:
    image = convert(raw, tmp_path / "disk", "vhdx")
    entry, _ = metadata_item(image.read_bytes(), PARAMETERS)
    table = entry // MIB * MIB
    content = image.read_bytes()
    for offset, data, message in (
        (table, b"METADATA", "no VHDX metadata table"),
        (table + 10, struct.pack("<H", 5000), "no VHDX metadata table"),
        (entry + 16, struct.pack("<I", 1 << 31), "is outside its region"),
        (entry, b"0123456789abcdef", "needs metadata that is unknown"),
        (entry + 20, struct.pack("<I", 3), "lack the block size"),
    ):
        image.write_bytes(content)
        assert message in refused(patched(image, offset, data)), message


@pytest.mark.parametrize(
    ("entry", "message"),
    [(7, "is half there"), (4, "has state 4"), (5, "has state 5"), (6 | 1 << 40, "the file is cut short")],
)
def test_vhdx_blocks(raw: Path, tmp_path: Path, entry: int, message: str) -> None:
    image = convert(raw, tmp_path / "disk", "vhdx")
    content = image.read_bytes()
    region = content.index(bytes.fromhex("6677c22d23f600429d64115e9bfd4a08"))
    table = int.from_bytes(content[region + 16 : region + 24], "little")
    assert message in refused(patched(image, table, struct.pack("<Q", entry)))


# Everything else


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (b"QED\0" + bytes(600), "a QED image", "qemu-img convert"),
        (b"PK\3\4" + bytes(600), "a ZIP archive", "unzip {}"),
        (bytes(257) + b"ustar" + bytes(600), "a tar archive", "tar -xf {}"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(600), "a 7-Zip archive", "7z x {}"),
        (b"\x04\x22\x4d\x18" + bytes(600), "compressed with lz4", "lz4 -dk {}"),
        (b"LZIP" + bytes(600), "compressed with lzip", "lzip -dk {}"),
        (b"\x1f\x9d\x90" + bytes(600), "compressed with compress", "gzip -dk {}"),
        (b"#!/bin/sh\n#V2.0 Format\n" + bytes(600), "compressed with mkuzip(8)", "uzip"),
        (b"LUKS\xba\xbe\0\2" + bytes(600), "an encrypted (LUKS) volume", "cryptsetup"),
    ],
)
def test_kinds_that_are_known_but_not_read(tmp_path: Path, content: bytes, message: str, hint: str) -> None:
    image = tmp_path / "disk"
    image.write_bytes(content)
    answer = refused(image)
    assert message in answer and hint.format(image) in answer


@pytest.mark.parametrize("start", [b"\x5d\0\0\0\0", b"\x5d\0\0\x80\0" + bytes(8) + b"\1", b"BZh9", b"\x5d\0\0\x80"])
def test_what_only_begins_alike_is_a_raw_disk(tmp_path: Path, start: bytes) -> None:
    image = tmp_path / "disk"
    image.write_bytes(start.ljust(MIB, b"\0"))
    assert read_all(image) == image.read_bytes()


@pytest.mark.parametrize("form", ["vdi", "qed", "parallels"])
def test_and_qemu_img_s_own_of_these_kinds(tmp_path: Path, form: str) -> None:
    assert "which is not read" in refused(create(tmp_path / "disk", form, MIB))


def test_archives_of_tar(raw: Path, tmp_path: Path) -> None:
    """FreeBSD's images for Google's cloud are .tar.gz; an OVA is a tar archive with a VMDK in it."""
    require("tar")
    run_tool("tar", "-C", raw.parent, "-cf", tmp_path / "disk.ova", raw.name)
    assert "is a tar archive" in refused(tmp_path / "disk.ova")


def test_a_raw_disk_needs_none_of_the_readers(raw: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from bhyveload.image.open import open_disk; open_disk(sys.argv[1]);"
        "print(*[name for name in sys.modules if name.startswith('bhyveload.image.')])"
    )
    words = [sys.executable, "-c", code, str(raw)]
    loaded = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert sorted(loaded) == [f"bhyveload.image.{name}" for name in ("magic", "open", "raw", "remembered")]


def test_no_descriptor_is_left_open(raw: Path, tmp_path: Path) -> None:
    good = convert(raw, tmp_path / "good", "vmdk", "subformat=monolithicFlat")
    bad = patched(convert(raw, tmp_path / "bad", "qcow2"), 72, be("Q", 2))
    gc.collect()  # what earlier tests left open is closed now, not in between
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        open_disk(str(good), sandbox=False).close()
        with pytest.raises(ImageError):
            open_disk(str(bad), sandbox=False)
    assert len(os.listdir("/proc/self/fd")) <= before
