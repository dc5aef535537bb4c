"""bhyveload --explain: a load that failed says which way it took, what was missing and what is there instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bhyveload.errors import UsageError
from bhyveload.loader.state import Options
from bhyveload.userboot.session import check_options
from support import zfs_pools
from support.end_to_end import Finished, bhyveload
from support.images import MIB, blank, bsd_label, gpt_disk, make_ufs, mbr_disk, standard_disk, write_at

SECTOR = 512


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"text of " + name.encode() + b"\n")
    return folder / "tree"


def ufs(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    return make_ufs(tree(folder, *names), folder / "part.ufs", 4 * MIB, 8192, 1024, version=1)


def fails(*words: str | Path, status: int = 1) -> Finished:
    return bhyveload("--batch", "--explain", *words, "vm", timeout=60, check=status)


def explained(*words: str | Path, status: int = 1) -> dict[str, Any]:
    """The explanation in JSON."""
    document = fails("--json", *words, status=status).json
    assert (document["schema"], document["error"]) == (1, "LoaderError")
    told: dict[str, Any] = document["explanation"]
    return told


def told_lines(done: Finished) -> list[str]:
    """What is said behind the error."""
    lines = [line.removeprefix("bhyveload: ") for line in done.messages.splitlines() if "makefs" not in line]
    assert not lines[0].startswith("| ")
    assert all(line.startswith("| ") for line in lines[1:])
    assert all(line.isascii() and line.isprintable() for line in lines)
    return [line.removeprefix("| ") for line in lines[1:]]


def looked_for(told: dict[str, Any]) -> dict[str, str]:
    """path -> "" or why it is not there"""
    assert all(file["found"] == (not file["why"]) for file in told["looked_for"])
    return {file["path"]: file["why"] for file in told["looked_for"]}


def test_no_kernel_but_an_old_one(tmp_path: Path) -> None:
    part = ufs(tmp_path / "a", "boot/kernel.old/kernel", "boot/kernel.txz", "boot/loader.conf", "boot/GENERIC/kernel")
    disk = standard_disk(tmp_path / "disk.img", part)
    other = standard_disk(tmp_path / "other.img", ufs(tmp_path / "b", "boot/kernel/kernel"))
    told = explained("-d", disk, "-d", other)
    assert (told["device"], told["file_system"], told["interpreter"]) == ("disk0p2", "ufs", "lua")
    sought = looked_for(told)
    assert (sought["disk0p2:/"], sought["disk0p2:/boot/kernel/kernel"]) == ("", "not there")
    assert sought["disk0p2:/boot/lua/loader.lua"] == "not there"
    assert set(told["near"]) == {
        *("disk0p2:/boot/kernel.old/kernel", "disk0p2:/boot/kernel.txz", "disk0p2:/boot/GENERIC/kernel"),
    }
    assert told["elsewhere"] == ["disk1p2"]
    first, second = told["disks"]
    assert (first["name"], first["path"], first["table"]) == ("disk0", str(disk), "gpt")
    boot, root = first["partitions"]
    assert (boot["name"], boot["type"], boot["file_system"]) == ("disk0p1", "freebsd-boot", "")
    assert "no file system that can be read" in boot["why"]
    assert (root["file_system"], root["why"], second["partitions"][1]["file_system"]) == ("ufs", "", "ufs")


def test_as_text(tmp_path: Path) -> None:
    disk = standard_disk(tmp_path / "disk.img", ufs(tmp_path / "a", "boot/kernel.old/kernel"))
    lines = told_lines(fails("-d", disk))
    assert lines[0] == f"disk0: {disk}, 6.0 MiB, partition table: gpt"
    for line in (
        "  disk0p2 (freebsd-ufs): ufs <- the loader's choice",
        "booted from: disk0p2 (ufs, scripts: lua)",
        "  disk0p2:/boot/kernel/kernel: not there",
        "there is: disk0p2:/boot/kernel.old/kernel",
    ):
        assert line in lines


def test_without_it_one_line(tmp_path: Path) -> None:
    disk = blank(tmp_path / "disk.img", MIB)
    done = bhyveload("--batch", "-d", disk, "vm", check=1)
    assert len(done.messages.splitlines()) == 1
    done = bhyveload("--batch", "--json", "-d", disk, "vm", check=1)
    assert done.out == b""


def test_a_mistyped_kernel(tmp_path: Path) -> None:
    disk = standard_disk(tmp_path / "disk.img", ufs(tmp_path / "a", "boot/kernel/kernel", "boot/GENERIC-KCSAN/kernel"))
    told = explained("-d", disk, "--kernel", "GENERIC-KASAN")
    assert looked_for(told)["disk0p2:/boot/GENERIC-KASAN/kernel"] == "not there"
    assert told["near"][0] == "disk0p2:/boot/GENERIC-KCSAN/kernel"


def test_no_table_and_no_file_system(tmp_path: Path) -> None:
    told = explained("-d", blank(tmp_path / "disk.img", MIB))
    assert told["device"] == "disk0"
    assert told["disks"][0]["table"] == "none"
    (whole,) = told["disks"][0]["partitions"]
    assert (whole["name"], whole["type"], whole["file_system"]) == ("disk0", "the whole disk", "")
    assert told["near"] == told["elsewhere"] == []


def test_a_partition_without_its_file_system(tmp_path: Path) -> None:
    script = f"start=64,size={4 * MIB // SECTOR + 64},type=a5,bootable\n"
    disk = mbr_disk(tmp_path / "disk.img", script, [], 8 * MIB)
    write_at(disk, 65 * SECTOR, bsd_label(8256, {0: (16, 8192, 7)}))
    told = explained("-d", disk)
    assert [(part["name"], part["file_system"]) for part in told["disks"][0]["partitions"]] == [
        *(("disk0s1", ""), ("disk0s1a", "")),
    ]
    assert told["device"] == "disk0s1a"


def test_a_damaged_file_system(tmp_path: Path) -> None:
    disk = standard_disk(tmp_path / "disk.img", ufs(tmp_path / "a", "boot/kernel/kernel"))
    write_at(disk, MIB + 8192 + 48, (1 << 30).to_bytes(4, "little"))  # fs_bsize
    root = explained("-d", disk)["disks"][0]["partitions"][1]
    assert root["file_system"] == ""
    assert "no file system" not in root["why"]


def test_a_pool_without_its_disks(tmp_path: Path) -> None:
    image = zfs_pools.disk("raidz2.0")
    disk = tmp_path / "disk.img"
    disk.write_bytes(zfs_pools.pread(image, 0, image.size))
    told = explained("-d", disk)
    (pool,) = told["pools"]
    assert (pool["name"], bool(pool["error"])) == ("rz2", True)
    assert told["disks"][0]["partitions"][1]["file_system"] == "zfs"


def test_a_boot_device_that_is_none(tmp_path: Path) -> None:
    disk = standard_disk(tmp_path / "disk.img", ufs(tmp_path / "a", "boot/kernel/kernel"))
    told = explained("-d", disk, "--boot-device", "disk0p1")
    assert (told["device"], told["looked_for"], told["elsewhere"]) == ("", [], ["disk0p2"])


def test_a_kernel_that_is_none(tmp_path: Path) -> None:
    disk = standard_disk(tmp_path / "disk.img", ufs(tmp_path / "a", "boot/kernel/kernel", "boot/kernel.old/kernel"))
    told = explained("-d", disk)
    assert looked_for(told)["disk0p2:/boot/kernel/kernel"] == ""


def test_a_script_that_fails(tmp_path: Path) -> None:
    pytest.importorskip("lupa")
    files = tree(tmp_path, "boot/kernel/kernel", "boot/lua/core.lua")
    (files / "boot/lua/loader.lua").write_text('require("cores")\n')
    image = make_ufs(files, tmp_path / "part.ufs", 4 * MIB, 8192, 1024, version=1)
    sought = looked_for(explained("-d", standard_disk(tmp_path / "disk.img", image)))
    assert sought["disk0p2:/boot/lua/loader.lua"] == ""
    assert sought["disk0p2:/boot/lua/cores.lua"] == "not there"


def test_at_the_prompt(tmp_path: Path) -> None:
    """The input ends, nothing was booted."""
    disk = standard_disk(tmp_path / "disk.img", ufs(tmp_path / "a", "boot/kernel/other"))
    done = bhyveload("--explain", "-d", disk, "vm", keys=b"load /boot/kernel/odder\r", check=1)
    assert "  disk0p2:/boot/kernel/odder: not there" in told_lines(done)


def test_names_of_a_hostile_guest(tmp_path: Path) -> None:
    disk = standard_disk(tmp_path / "disk.img", ufs(tmp_path / "a", "boot/kernel\x1b[2J\n/kernel"))
    assert "there is: disk0p2:/boot/kernel\\x1b[2J\\x0a/kernel" in told_lines(fails("-d", disk))


def test_many_partitions_and_names(tmp_path: Path) -> None:
    parts = [(number, 40 + 8 * number, 8, "A503", None) for number in range(1, 101)]
    disk = gpt_disk(tmp_path / "disk.img", parts, 2 * MIB)
    assert len(explained("-d", disk)["disks"][0]["partitions"]) == 64
    names = [f"boot/kernel{number}/kernel" for number in range(40)]
    disk = standard_disk(tmp_path / "other.img", ufs(tmp_path / "a", *names))
    assert len(explained("-d", disk)["near"]) == 12


def test_another_loader_explains_nothing() -> None:
    with pytest.raises(UsageError, match="--explain works with the built-in loader only"):
        check_options(Options(explain=True))
