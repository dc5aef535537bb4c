"""What is known is counted as if it were read again."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from bhyveload.errors import FileSystemError, Unsupported
from bhyveload.fs.zfs.dmu import Objset
from bhyveload.fs.zfs.pool import Pool
from bhyveload.fs.zfs.poolset import PoolSet
from bhyveload.fs.zfs.zpl import ZfsFileSystem, ZfsNode
from support.zfs_pools import disk, disk_names, pool_names, vdev_partition

PATHS = (b"/", b"/boot", b"/boot/", b"/boot/.", b"/boot/kernel/kernel", b"/boot/..", b"//boot//loader", b"/none/x", b"")


def events(name: str) -> list[str]:
    """Each read of a device, each line, each answer, in their order, of searches that are made twice and mixed."""
    seen: list[str] = []
    pools = PoolSet(lambda divisor, times: seen.extend(["read"] * times), seen.append, "current")
    for unit, disk_name in enumerate(disk_names(name)):
        with contextlib.suppress(Unsupported):  # a pool of files
            pools.probe(vdev_partition(disk(disk_name)), f"disk{unit}p2")
    for pool in pools.finish():
        found = list(searches(pool))
        for search in itertools.chain.from_iterable(itertools.product(found, found)):
            try:
                answer = search()
                seen.append(repr(answer.number if isinstance(answer, ZfsNode) else answer))
            except FileSystemError as error:
                seen.append(f"{error.errno} {error}")
    return seen


def searches(pool: Pool) -> Iterator[Callable[[], object]]:
    yield lambda: pool.root_dataset
    yield lambda: pool.dataset_name(pool.root_dataset)
    yield lambda: pool.find_dataset("")
    yield lambda: pool.find_dataset("no/such")
    try:
        filesystem = pool.mount(0)
    except FileSystemError:
        return
    for path in PATHS:
        yield partial(filesystem.lookup, path)
        yield partial(names_in, filesystem, path)


def names_in(filesystem: ZfsFileSystem, path: bytes) -> int:
    return len(list(filesystem.readdir(filesystem.lookup(path))))


@pytest.mark.parametrize("name", pool_names())
def test_reads_of_what_is_known(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    remembering = events(name)

    def search_again(self: Objset, key: object, search: Callable[[], Any], keep: object = None) -> Any:
        return search()

    monkeypatch.setattr(Objset, "again", search_again)
    assert events(name) == remembering
    assert remembering.count("read") > 100 or name == "file"


def test_a_copy_is_another_for_the_last_block() -> None:
    pools = PoolSet()
    for name in disk_names("comp"):
        pools.probe(vdev_partition(disk(name)), "disk0p2")
    (pool,) = pools.finish()
    filesystem = pool.mount(0)
    first, second = filesystem.lookup(b"/boot/."), filesystem.lookup(b"/boot/.")
    assert first.number == second.number
    assert first.dnode is not second.dnode
    assert list(filesystem.readdir(first)) == list(filesystem.readdir(second))
