"""--boot-device where there is more than one place to boot from: pools of OpenZFS's, a UFS beside a pool, partitions
that gptboot(8) would choose by their attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import stock_like
from bhyveload.image.raw import RawImage
from support.end_to_end import bhyveload
from support.golden import Record
from support.images import gpt_disk, make_ufs, run_tool
from support.zfs_pools import disk as fixture
from support.zfs_pools import pread

PIECE = 1 << 20


def _copy(image: RawImage, path: Path) -> Path:
    with path.open("wb") as file:
        for start in range(0, image.size, PIECE):
            piece = pread(image, start, min(PIECE, image.size - start))
            if piece.strip(b"\0"):
                file.seek(start)
                file.write(piece)
        file.truncate(image.size)
    return path


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pool `zlz` that boots (two boot environments), pool `zzb` that boots, pool `comp` of data, a UFS that boots."""
    folder = tmp_path_factory.mktemp("places")
    root = stock_like.write_tree(folder / "tree", "new", size=0)
    ufs = make_ufs(root, folder / "ufs", 4 << 20)
    found = {
        name: _copy(Record("current", record).disks()[0], folder / name)
        for name, record in (("first", "zfs-single-second"), ("second", "zfs-zstd-blake3"))
    }
    found["data"] = _copy(fixture("comp.0"), folder / "data")
    found["ufs"] = gpt_disk(folder / "ufs-disk", [(1, 40, 1024, "A501", None), (2, 2048, 8192, "A503", ufs)])
    return found


def loaded(disks: list[Path], *words: str, device: str = "") -> dict[str, Any]:
    chosen = ["--boot-device", device] if device else []
    named = [word for disk in disks for word in ("-d", disk)]
    done: dict[str, Any] = bhyveload("--batch", "--dry-run", "--json", *chosen, *words, *named, "vm", check=0).json
    return done


def pool_of(record: dict[str, Any]) -> str:
    return str(record["environment"]["currdev"]).removeprefix("zfs:").partition("/")[0]


def test_the_pool_by_its_name(disks: dict[str, Path]) -> None:
    """`zfs:POOL` is what zfs_get_root() of stand/libsa/zfs/zfsimpl.c answers: the dataset in its property bootfs."""
    usual = loaded([disks["first"]])
    done = loaded([disks["first"]], device=f"zfs:{pool_of(usual)}")
    assert done["environment"]["currdev"] == usual["environment"]["currdev"]
    assert [file["name"] for file in done["files"]] == [file["name"] for file in usual["files"]]


@pytest.mark.parametrize("colon", ["", ":"])
def test_a_dataset_by_its_name(disks: dict[str, Path], colon: str) -> None:
    done = loaded([disks["first"]], device=f"zfs:zlz/ROOT/second{colon}")
    environment = done["environment"]
    assert environment["currdev"] == environment["loaddev"] == "zfs:zlz/ROOT/second:"
    assert environment["vfs.root.mountfrom"] == "zfs:zlz/ROOT/second"


def test_two_pools(disks: dict[str, Path]) -> None:
    """The first one found is booted; the other when it is named, wherever its disk stands."""
    alone = pool_of(loaded([disks["second"]]))
    both = [disks["first"], disks["second"]]
    assert pool_of(loaded(both)) == "zlz"
    assert pool_of(loaded(both, device=f"zfs:{alone}")) == alone != "zlz"
    assert pool_of(loaded(both[::-1], device="zfs:zlz")) == "zlz"


def test_a_ufs_root_beside_a_pool_of_data(disks: dict[str, Path]) -> None:
    """The loader takes the pool; a failed load names the other place, and that works."""
    named = [disks["data"], disks["ufs"]]
    words = [word for disk in named for word in ("-d", disk)]
    failed = bhyveload("--batch", "--dry-run", *words, "vm", check=1)
    assert "--boot-device disk1p2" in failed.messages.splitlines()[-1]
    for device, order in (("disk1p2", named), ("disk0p2", named[::-1])):
        done = loaded(order, device=device)
        assert done["environment"]["currdev"] == f"{device}:"
        assert done["files"][0]["name"] == "/boot/kernel/kernel"
        assert not done["environment"].get("vfs.root.mountfrom", "").startswith("zfs:")


@pytest.mark.parametrize(
    ("device", "why"),
    [("zfs:nopool", "nopool"), ("zfs:zlz/ROOT/nothing", "nothing"), ("zfs:", "zfs:")],
)
def test_no_such_dataset(disks: dict[str, Path], device: str, why: str) -> None:
    done = bhyveload("--batch", "--dry-run", "--boot-device", device, "-d", disks["first"], "vm", check=1)
    (line,) = [line for line in done.messages.splitlines() if "--boot-device" in line][-1:]
    assert f"--boot-device {device}: " in line and why in line


@pytest.mark.parametrize("attribute", ["bootme", "bootonce", "bootme bootonce"])
def test_attributes_of_partitions_are_gptboots(tmp_path: Path, attribute: str) -> None:
    """loader(8) takes the first freebsd-ufs whatever its attributes; gptboot(8), which a real machine has before it,
    obeys them.  What it would have chosen can be named."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_text("x")
    root = stock_like.write_tree(tmp_path / "tree", "new", size=0)
    old, new = make_ufs(tmp_path / "old", tmp_path / "a", 4 << 20), make_ufs(root, tmp_path / "b", 4 << 20)
    disk = gpt_disk(tmp_path / "disk", [(1, 2048, 8192, "A503", old), (2, 10240, 8192, "A503", new)])
    bits = {"bootme": 59, "bootonce": 58}
    run_tool("sgdisk", *(f"--attributes=2:set:{bits[name]}" for name in attribute.split()), disk)
    failed = bhyveload("--batch", "--dry-run", "-d", disk, "vm", check=1)
    assert "--boot-device disk0p2" in failed.messages.splitlines()[-1]
    done = loaded([disk], device="disk0p2")
    assert done["environment"]["currdev"] == "disk0p2:"
    assert done["files"][0]["name"] == "/boot/kernel/kernel"
