"""Guests on disks of every kind, from the command line: the same load as from the raw disk, and QEMU runs them."""

from __future__ import annotations

import json
import lzma
import os
import re
import shlex
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from guest.build import build_probe
from support import images, userboot_testing
from support.end_to_end import bhyveload, check_guest, load, needs_gcc, needs_qemu, program, run_guest
from support.image_testing import MIB, convert, create, require, run_tool

pytestmark = [needs_gcc]

# name -> (qemu-img's format, its options, what state.json says, whether what the guest writes is dropped)
KINDS = {
    "disk.qcow2": ("qcow2", "", "qcow2", False),
    "disk.vmdk": ("vmdk", "", "vmdk", True),
    "flat.vmdk": ("vmdk", "subformat=monolithicFlat", "vmdk", True),
    "stream.vmdk": ("vmdk", "subformat=streamOptimized", "vmdk", True),
    "disk.vhd": ("vpc", "", "vhd", False),
    "fixed.vhd": ("vpc", "subformat=fixed", "vhd", False),
    "disk.vhdx": ("vhdx", "", "vhdx", False),
}


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_probe(tmp_path_factory.mktemp("image-load"))


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory, kernel: Path) -> Path:
    tree = tmp_path_factory.mktemp("image-tree")
    (tree / "boot" / "kernel").mkdir(parents=True)
    shutil.copy(kernel, tree / "boot" / "kernel" / "kernel")
    (tree / "boot" / "loader.conf").write_text("")
    return tree


@pytest.fixture(scope="session")
def disk(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image-disk")
    return images.standard_disk(folder / "disk.raw", images.make_ufs(tree, folder / "ufs"))


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches"


def make(disk: Path, folder: Path, name: str) -> Path:
    form, options, _, _ = KINDS[name]
    return convert(disk, folder / name, form, options)


def essence(report: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on the image."""
    return {key: value for key, value in report.items() if key not in ("disks", "timings", "vm")}


@pytest.fixture(scope="session")
def raw_report(disk: Path) -> dict[str, Any]:
    done = bhyveload("--dry-run", "--batch", "--json", "-d", disk, check=0)
    return dict(done.json)


@pytest.mark.parametrize("name", KINDS)
def test_the_same_load_from_every_kind(disk: Path, raw_report: dict[str, Any], tmp_path: Path, name: str) -> None:
    image = make(disk, tmp_path, name)
    before = image.read_bytes()
    done = bhyveload("--batch", "--json", "-d", image, "vm", check=0)
    assert essence(done.json) == essence(raw_report)
    form, dropped = KINDS[name][2:]
    (entry,) = done.json["disks"]
    assert (entry["path"], entry["format"], entry["read_only"]) == (str(image), form, False)
    assert entry.get("snapshot", False) is dropped
    assert f"{image}: a {form} image is only read: the loader cannot save anything there" in done.messages
    assert image.read_bytes() == before


@pytest.mark.parametrize("name", ["raw", "qcow2", "vmdk", "vhd"])
def test_downloads_of_freebsd_load_straight(
    disk: Path, raw_report: dict[str, Any], tmp_path: Path, cache_home: Path, name: str
) -> None:
    """FreeBSD-*-amd64.raw.xz and its siblings, in blocks as release(7) makes them with xz -T0."""
    require("xz")
    image = tmp_path / f"FreeBSD-14.3-RELEASE-amd64.{name}"
    if name == "raw":
        shutil.copy(disk, image)
    else:
        make(disk, tmp_path, f"disk.{name}").rename(image)
    run_tool("xz", "-0", "--block-size=512KiB", image)
    done = bhyveload("--dry-run", "--batch", "--json", "-d", f"{image}.xz", check=0)
    assert essence(done.json) == essence(raw_report)
    (entry,) = done.json["disks"]
    assert (entry["path"], entry["format"], entry["compression"]) == (f"{image}.xz", name, "xz")
    kind = "an xz" if name == "raw" else f"a {name}.xz"
    assert f"{image}.xz: {kind} image is only read" not in done.messages  # a dry run has nothing to save
    done = bhyveload("--batch", "-d", f"{image}.xz", "vm", check=0)
    assert f"{image}.xz: {kind} image is only read" in done.messages
    assert not cache_home.exists()


def test_every_option_at_any_place(disk: Path, tmp_path: Path) -> None:
    top = create(tmp_path / "top", "qcow2", None, "", "-b", disk, "-F", "raw")
    done = bhyveload("--dry-run", "--batch", "-d", top)
    assert done.status == 65
    assert "which is not followed (--allow-backing" in done.messages
    for words in (("--allow-backing", "-d", top), ("-d", top, "--allow-backing")):
        bhyveload("--dry-run", "--batch", *words, check=0)


def test_a_damaged_image_leaves_the_vm_alone(disk: Path, tmp_path: Path) -> None:
    load("-d", disk)
    state = Path(os.environ["BHYVE_VMM_DIR"]) / "vm" / "state.json"
    before = state.read_bytes()
    image = make(disk, tmp_path, "disk.qcow2")
    os.truncate(image, 70_000)
    done = bhyveload("--batch", "-d", image, "vm")
    assert done.status == 65
    assert done.messages.count("\n") == 1 and "at byte" in done.messages
    assert state.read_bytes() == before


def test_an_image_that_is_damaged_where_the_kernel_lies(disk: Path, kernel: Path, tmp_path: Path) -> None:
    image = make(disk, tmp_path, "disk.qcow2")
    place = disk.read_bytes().index(kernel.read_bytes()[:4096]) >> 16
    content = bytearray(image.read_bytes())
    (l1,) = struct.unpack_from(">Q", content, 40)
    l2 = struct.unpack_from(">Q", content, l1)[0] & 0x00FFFFFFFFFFFE00
    struct.pack_into(">Q", content, l2 + 8 * place, 1 << 45)
    image.write_bytes(content)
    done = bhyveload("--batch", "-d", image, "vm")
    assert done.status == 65
    assert re.search(r"disk\.qcow2: at byte 0x20000000[0-9a-f]+: guest data is outside the file", done.messages)


@pytest.mark.parametrize("form", ["qcow2", "vmdk", "vhdx"])
def test_freebsds_own_loaders_read_them_too(tmp_path: Path, form: str) -> None:
    """A userboot object behind the same callbacks: it checks every byte that it reads (tests/guest/testboot.c)."""
    loader = tmp_path / "userboot.so"
    loader.write_bytes(userboot_testing.build(tmp_path, "-Wl,-Bsymbolic"))
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(userboot_testing.patterned_disk().read(0, MIB)))
    image = convert(raw, tmp_path / "image", form)
    done = bhyveload("-l", loader, "-e", "do=all", "-m", "64M", "-d", f"{image},ro", "-d", f"{image},ro", "vm")
    verdicts = re.findall(r"(ok|FAIL) (disk[^\r\n(:]*)", done.out.decode("latin-1"))
    reads = [verdict for verdict, what in verdicts if what.startswith("diskread") and "data" in what]
    assert len(reads) >= 2 and set(reads) == {"ok"}
    assert ("ok", "diskwrite read-only") in [(verdict, what.strip()) for verdict, what in verdicts]


# QEMU's side


def blockdev(*words: str | Path) -> dict[str, Any]:
    """The one disk in bhyverun's command line, as QEMU will parse it."""
    lines = program("bhyverun", "--accel", "tcg", "--dry-run", *words, "vm", check=0).out.decode()
    command = shlex.split(lines)
    if "-drive" in command:
        options, _, tree = command[command.index("-drive") + 1].partition("file=json:")
        assert options == "if=none,id=disk0,snapshot=on,"
        return {**json.loads(tree.replace(",,", ",")), "snapshot": True}
    text = command[command.index("-blockdev") + 1]
    if text.startswith("{"):
        return dict(json.loads(text))
    return dict(part.split("=", 1) for part in text.split(","))


@pytest.mark.parametrize("name", KINDS)
def test_what_qemu_is_told(disk: Path, tmp_path: Path, name: str) -> None:
    image = make(disk, tmp_path, name)
    load("-d", image)
    for words in ((), ("-d", image)):  # the disk of the load, and the same one named again
        tree = blockdev(*words)
        if KINDS[name][2] == "vmdk":  # never as it is: QEMU's driver follows the names in it
            assert tree["driver"] == "raw"
            assert Path(tree["file"]["filename"]).read_bytes() == disk.read_bytes()
            assert tree["snapshot"] and tree["file"]["read-only"]
            continue
        assert tree["driver"] == {"vhd": "vpc"}.get(KINDS[name][2], KINDS[name][2])
        assert tree["file"] == {"driver": "file", "filename": str(image), "read-only": KINDS[name][3]}
        assert tree.get("snapshot", False) is KINDS[name][3]
        assert tree.get("backing", None) is None


def test_compressed_disks_are_unpacked_for_qemu(disk: Path, tmp_path: Path, cache_home: Path) -> None:
    image = tmp_path / "disk.qcow2.xz"
    image.write_bytes(lzma.compress(make(disk, tmp_path, "disk.qcow2").read_bytes(), preset=0))
    load("-d", image)
    assert not cache_home.exists()
    tree = blockdev()
    (entry,) = (cache_home / "bhyveload").iterdir()
    assert (tree["driver"], tree["file"]["filename"], tree["snapshot"]) == ("qcow2", str(entry), True)
    assert entry.read_bytes() == (tmp_path / "disk.qcow2").read_bytes()
    image.unlink()
    done = program("bhyverun", "--dry-run", "vm", check=4)
    assert "No such file" in done.messages


def test_qemu_gets_the_chain_that_was_allowed(disk: Path, tmp_path: Path) -> None:
    middle = create(tmp_path / "middle", "qcow2", None, "", "-b", disk, "-F", "raw")
    top = create(tmp_path / "top", "qcow2", None, "", "-b", "middle", "-F", "qcow2")
    load("--allow-backing", "-d", top)
    for words in ((), ("--allow-backing", "-d", top)):
        tree = blockdev(*words)
        names = [tree["file"]["filename"], tree["backing"]["file"]["filename"]]
        assert names == [str(top), str(middle)]
        assert tree["backing"]["backing"]["driver"] == "raw"
        assert tree["backing"]["backing"]["file"] == {"driver": "file", "filename": str(disk), "read-only": True}
    assert "which is not followed" in program("bhyverun", "-d", top, "--dry-run", "vm", check=4).messages


@needs_qemu
@pytest.mark.parametrize("name", ["disk.vhd", "stream.vmdk", "disk.vhdx"])
def test_a_guest_runs(disk: Path, kernel: Path, tmp_path: Path, name: str) -> None:
    report = load("-d", make(disk, tmp_path, name))
    check_guest(run_guest(), report, kernel)


@needs_qemu
def test_a_guest_runs_from_a_download(disk: Path, kernel: Path, tmp_path: Path) -> None:
    image = tmp_path / "FreeBSD.qcow2.xz"
    image.write_bytes(lzma.compress(make(disk, tmp_path, "disk.qcow2").read_bytes(), preset=0))
    report = load("-d", image)
    check_guest(run_guest(), report, kernel)
    done = program("bhyverun", "--accel", "tcg", "--timeout", "60", "vm", check=1)
    assert f"{image}: what the guest writes is dropped at the end of the run" in done.messages


@needs_qemu
def test_a_guest_runs_on_a_chain(disk: Path, kernel: Path, tmp_path: Path) -> None:
    top = create(tmp_path / "top", "qcow2", None, "", "-b", disk, "-F", "raw")
    report = load("--allow-backing", "-d", top)
    check_guest(run_guest(), report, kernel)


# Sectors of 4096 bytes


@pytest.fixture
def large_sectors(tree: Path, tmp_path: Path) -> Path:
    """A GPT disk laid out for such sectors, by fdisk."""
    require("fdisk")
    ufs = images.make_ufs(tree, tmp_path / "ufs", 8 * MIB)
    disk = images.blank(tmp_path / "disk4k.raw", 16 * MIB)
    kind = "516E7CB6-6ECF-11D6-8FF8-00022D09712B"
    run_tool("fdisk", "--sector-size", "4096", disk, stdin=f"g\nn\n1\n256\n2303\nt\n{kind}\nw\n")
    images.put(disk, ufs, MIB)
    assert disk.read_bytes()[4096:4104] == b"EFI PART"
    return disk


@pytest.mark.parametrize("form", ["raw", "qcow2", "vhdx"])
def test_large_sectors_are_recognised(large_sectors: Path, tmp_path: Path, form: str) -> None:
    image = large_sectors if form == "raw" else convert(large_sectors, tmp_path / "image", form)
    report = load("-d", image)
    assert report["disks"][0]["sector_size"] == 4096
    assert report["currdev"] == "disk0p1:"
    command = program("bhyverun", "--accel", "tcg", "--dry-run", "vm", check=0).out.decode()
    assert "virtio-blk-pci,drive=disk0,werror=report,logical_block_size=4096,physical_block_size=4096" in command


@needs_qemu
def test_a_guest_with_large_sectors_runs(large_sectors: Path, kernel: Path) -> None:
    report = load("-d", large_sectors)
    check_guest(run_guest(), report, kernel)
