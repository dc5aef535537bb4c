"""Pools of another writer, zfs-fuse (pool version 23): RAID-Z3, two mirrors with a spare in use, old checksums.

tests/data/zfs/zfs-fuse.sh made them; zfs_fuse_tree.py says what is in them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Literal

import pytest
from zfs_fuse_tree import tree

from bhyveload.errors import FileSystemError
from bhyveload.fs.zfs import pool_facts
from bhyveload.fs.zfs.poolset import PoolSet
from support.zfs_pools import disk
from support.zfs_trees import Damaged, Tree, tree_of

THREE = [f"three.{number}" for number in range(5)]
TWO = [f"two.{number}" for number in range(5)]


def expected(seed: str) -> Tree:
    found: Tree = {}
    for name, content in tree(seed).items():
        if content is None:
            found["/" + name] = ["d"]
        elif isinstance(content, str):
            found["/" + name] = ["l", content]
        else:
            found["/" + name] = ["f", hashlib.sha256(content).hexdigest()]
    return found


def opened(names: Sequence[str], strict: Literal["current", "13.2"] | None = None) -> PoolSet:
    pools = PoolSet(strict=strict)
    for name in names:
        pools.probe(disk(name), name)
    pools.finish()
    return pools


@pytest.mark.parametrize("dataset", ["gzip", "zle", "lzjb"])
def test_datasets(dataset: str) -> None:
    """gzip with sha256, zle with fletcher2 in records of 4K, lzjb twice."""
    found = dict(tree_of(opened(THREE).dataset(f"three/{dataset}")))
    wanted = expected(f"three-{dataset}")
    if dataset == "gzip":
        del wanted["/boot/empty"]
        wanted["/boot/loader.conf"] = ["f", hashlib.sha256(b"changed\n").hexdigest()]
    assert found == wanted


def test_snapshot() -> None:
    pools = opened(THREE)
    assert pools.pools[0].list_snapshots("three/gzip") == ["before"]
    assert dict(tree_of(pools.dataset("three/gzip@before"))) == expected("three-gzip")


@pytest.mark.parametrize("missing", list(itertools.combinations(range(5), 3)))
def test_three_disks_of_raidz3_missing(missing: tuple[int, ...]) -> None:
    pools = opened([name for number, name in enumerate(THREE) if number not in missing])
    assert dict(tree_of(pools.dataset("three/zle"))) == expected("three-zle")


def test_raidz3_with_damage_on_three_disks() -> None:
    pools = PoolSet()
    for number, name in enumerate(THREE):
        pools.probe(Damaged(name, number, 0.1, disk(name)) if number in (0, 2, 3) else disk(name), name)
    pools.finish()
    assert dict(tree_of(pools.dataset("three/lzjb"))) == expected("three-lzjb")


@pytest.mark.parametrize("present", [(0, 1, 2, 3, 4), (0, 2), (1, 3), (4, 3), (4, 0, 2)])
def test_mirrors_with_a_spare_in_use(present: tuple[int, ...]) -> None:
    """One side of each mirror is enough; the spare (4) stands for disk 1."""
    pools = opened([TWO[number] for number in present])
    assert dict(tree_of(pools.dataset("two/ROOT/default"))) == expected("two")


def test_facts() -> None:
    facts = pool_facts(opened(TWO[:4]).pools[0])
    assert (facts["name"], facts["version"], facts["state"]) == ("two", 23, "DEGRADED")
    mirror = facts["vdevs"][0]
    assert [child["type"] for child in mirror["children"]] == ["file", "spare"]
    assert [child["state"] for child in mirror["children"][1]["children"]] == ["ONLINE", "UNKNOWN"]
    assert [dataset["name"] for dataset in facts["datasets"]] == ["two", "two/ROOT", "two/ROOT/default"]


@pytest.mark.parametrize("strict", ["13.2", "current"])
def test_loaders_refuse_devices_that_are_files(strict: Literal["current", "13.2"]) -> None:
    with pytest.raises(FileSystemError, match="vdevs, got: file"):
        opened(["three.0"], strict)
