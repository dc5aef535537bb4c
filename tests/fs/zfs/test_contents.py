"""Every file of every pool against its SHA-256: whole pools, with disks missing, with sectors damaged."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator

import pytest

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EIO
from bhyveload.fs.zfs.poolset import PoolSet
from support.zfs_pools import disk, disk_names, manifest, open_pools, pool_names, vdev_partition
from support.zfs_trees import Damaged, Tree, tree_of


def expected(pool: str, dataset: str) -> Tree | str:
    tree = manifest()["pools"][pool]["datasets"][dataset]
    found: Tree | str = tree if tree == "encrypted" else manifest()["trees"][tree]
    return found


def bootfs_tree(pools: PoolSet) -> Tree:
    return dict(tree_of(pools.dataset("")))


@pytest.mark.parametrize(
    ("pool", "dataset"),
    [(pool, dataset) for pool in pool_names() for dataset in manifest()["pools"][pool]["datasets"]],
)
def test_every_file(pool: str, dataset: str) -> None:
    pools = open_pools(*disk_names(pool))
    tree = expected(pool, dataset)
    if tree == "encrypted":
        with pytest.raises(FileSystemError, match=f"{dataset} is encrypted"):
            pools.dataset(dataset)
        return
    filesystem = pools.dataset(dataset)
    assert filesystem.dataset_name == dataset
    assert dict(tree_of(filesystem)) == tree


@pytest.mark.parametrize("pool", pool_names())
def test_names_and_features(pool: str) -> None:
    described = manifest()["pools"][pool]
    pools = open_pools(*disk_names(pool))
    found = pools.by_name(described["pool"])
    assert found.bootfs == (described["bootfs"] or "")
    assert found.features == described.get("features_for_read", {})

    def names(name: str) -> Iterator[str]:
        yield name
        yield from (f"{name}@{snapshot}" for snapshot in found.list_snapshots(name))
        for child in found.list_children(name):
            if not child.startswith("$"):
                yield from names(f"{name}/{child}")

    assert sorted(names(found.name)) == sorted(described["datasets"])


def missing(pool: str, count: int) -> list[tuple[str, ...]]:
    """All disks but ``count``, in every way."""
    names = disk_names(pool)
    return list(itertools.combinations(names, len(names) - count)) if names else []


DEGRADED = [("mirror", 1), ("raidz1", 1), ("raidz2", 1), ("raidz2", 2)]


@pytest.mark.parametrize(
    ("pool", "disks"), [(pool, disks) for pool, count in DEGRADED for disks in missing(pool, count)]
)
def test_disks_missing(pool: str, disks: tuple[str, ...]) -> None:
    pools = open_pools(*disks)
    assert bootfs_tree(pools) == expected(pool, manifest()["pools"][pool]["bootfs"])


@pytest.mark.parametrize(("pool", "count"), [("raidz1", 2), ("raidz2", 3)])
def test_too_many_disks_missing(pool: str, count: int) -> None:
    for disks in missing(pool, count)[:3]:
        pools = open_pools(*disks)
        assert pools.pools == []
        ((name, error),) = pools.dropped
        assert name == manifest()["pools"][pool]["pool"]
        assert error.errno == EIO
        assert "these devices are missing: vd" in str(error)
        assert error.hint == f"name all disks of {name} with -d"


def test_any_order_of_disks() -> None:
    names = disk_names("raidz2")
    random.Random(1).shuffle(names)
    assert bootfs_tree(open_pools(*names)) == expected("raidz2", "rz2/ROOT/default")


def with_damage(pool: str, bad: tuple[int, ...], share: float, missing: int = -1) -> PoolSet:
    pools = PoolSet()
    for number, name in enumerate(disk_names(pool)):
        if number != missing:
            device = Damaged(name, 7 + number, share) if number in bad else vdev_partition(disk(name))
            pools.probe(device, f"disk{number}p2")
    pools.finish()
    return pools


@pytest.mark.parametrize(
    ("pool", "bad"),
    [("mirror", (0,)), ("mirror", (1,)), ("raidz1", (0,)), ("raidz1", (2,)), ("raidz2", (1,)), ("raidz2", (0, 3))],
)
@pytest.mark.parametrize("share", [0.05, 0.6])
def test_silent_damage(pool: str, bad: tuple[int, ...], share: float) -> None:
    if not disk_names(pool):
        pytest.skip(f"the {pool} images are only in the shared fixtures")
    pools = with_damage(pool, bad, share)
    assert bootfs_tree(pools) == expected(pool, manifest()["pools"][pool]["bootfs"])


def test_damage_and_a_missing_disk() -> None:
    assert bootfs_tree(with_damage("raidz2", (2,), 0.2, missing=4)) == expected("raidz2", "rz2/ROOT/default")


def test_damage_on_a_single_disk_is_named() -> None:
    """Metadata has two or three copies, file data one: what cannot be read says where."""
    pools = with_damage("comp", (0,), 0.01)
    right = wrong = 0
    for dataset in ("comp/off", "comp/lz4", "comp/zstd", "comp/gzip-9"):
        tree = manifest()["trees"][manifest()["pools"]["comp"]["datasets"][dataset]]
        filesystem = pools.dataset(dataset)
        for path, (kind, *digest) in tree.items():
            if kind != "f":
                continue
            file = filesystem.open(filesystem.lookup(path.encode()))
            try:
                data = b"".join(map(bytes, file.read(0, file.size)))
            except FileSystemError as error:
                assert error.errno == EIO
                assert "wrong checksum on vda2 (disk0p2) at 0x" in str(error)
                wrong += 1
            else:
                assert [hashlib.sha256(data).hexdigest()] == digest
                right += 1
    assert right > 60
    assert wrong > 3
