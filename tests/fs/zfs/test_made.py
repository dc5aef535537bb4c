"""Pools of shapes that no fixture has, made by zfs_writer: devices of every kind, removed ones, checkpoints, stale
labels, large records."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Callable, Sequence
from typing import Literal

import pytest

from bhyveload.device import Buffer
from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EIO, EOPNOTSUPP
from bhyveload.fs.zfs import zfs_format as zf
from bhyveload.fs.zfs.poolset import PoolSet
from bhyveload.image.raw import RawImage
from support import harness
from support.devices import Hostless
from support.zfs_pools import disk, disk_names, open_pools, vdev_partition
from support.zfs_writer import (
    BLAKE3,
    DATA_START,
    GZIP_1,
    MIN_SIZE,
    OFF,
    SALT,
    SHA256,
    Leaf,
    Top,
    Writer,
    nvlist,
    write_labels,
)

MIB = 1 << 20
CONTENT = random.Random(1).randbytes(300_000) + bytes(200_000) + b"text " * 50_000
TREE: dict[bytes, bytes | None] = {
    b"/boot": None,
    b"/boot/data": CONTENT,
    b"/boot/empty": b"",
    b"/boot/link": b"-> data",
    b"/boot/small": b"small",
}


def build(
    tops: Sequence[Top], tree: dict[bytes, bytes | None] | None = None, bootfs: bytes = b"ROOT/default"
) -> Writer:
    writer = Writer(tops)
    writer.bootfs = bootfs
    for name in (b"", b"ROOT", b"ROOT/default"):
        writer.dataset(name, writer.file_system((tree or TREE) if name == bootfs else {}))
    return writer


def opened(disks: Sequence[RawImage | None], strict: Literal["current", "13.2"] | None = None) -> PoolSet:
    pools = PoolSet(strict=strict)
    for number, image in enumerate(disks):
        if image is not None:
            pools.probe(image, f"disk{number}")
    pools.finish()
    return pools


def read(pools: PoolSet, path: bytes = b"/boot/link") -> bytes:
    filesystem = pools.dataset("")
    file = filesystem.open(filesystem.lookup(path))
    return b"".join(map(bytes, file.read(0, file.size)))


@pytest.mark.parametrize("ashift", [9, 12, 13, 16])
@pytest.mark.parametrize(
    ("kind", "leaves", "nparity"), [("disk", 1, 0), ("mirror", 3, 0), ("raidz", 2, 1), ("raidz", 6, 2), ("raidz", 5, 3)]
)
def test_shapes(kind: str, leaves: int, nparity: int, ashift: int) -> None:
    writer = build([Top(0, kind, leaves, ashift, nparity)], {b"/boot": None, b"/boot/link": CONTENT[250_000:420_000]})
    disks = writer.finish()
    spare = leaves - 1 if kind == "mirror" else nparity
    ways = list(itertools.combinations(range(leaves), spare)) if spare else [()]
    for missing in random.Random(ashift).sample(ways, min(3, len(ways))):
        pools = opened([None if number in missing else image for number, image in enumerate(disks)])
        assert pools.dropped == []
        assert read(pools) == CONTENT[250_000:420_000]


def test_blocks_on_several_top_level_devices() -> None:
    """As a pool with special and log devices has: metadata here, data there, nothing on the third."""
    writer = Writer([Top(0, ashift=12), Top(1, "mirror", 2, 9), Top(2)])
    writer.tops[2].extra["is_log"] = 1
    writer.bootfs = b"ROOT/default"
    for name in (b"", b"ROOT", b"ROOT/default"):
        writer.where = 1 if name == writer.bootfs else 0
        writer.dataset(name, writer.file_system(TREE if name == writer.bootfs else {}))
    disks = writer.finish()
    for order in itertools.permutations(range(4)):
        assert read(opened([disks[number] for number in order])) == CONTENT
    without_log = opened(disks[:3])
    assert read(without_log) == CONTENT
    assert "".join(without_log.pools[0].status()) == (
        "  pool: made\nbootfs: made/ROOT/default\nconfig:\n\n        NAME STATE\n        made DEGRADED\n"
        "          t0d0 ONLINE\n          mirror-1 ONLINE\n            t1d0 ONLINE\n            t1d1 ONLINE\n"
        "        logs\n            t2d0 UNKNOWN\n"
    )


def test_data_on_a_missing_device_is_named() -> None:
    writer = Writer([Top(0), Top(1)])
    writer.bootfs = b"ROOT/default"
    for name in (b"", b"ROOT", b"ROOT/default"):
        writer.dataset(name, writer.file_system({}, None) if name != writer.bootfs else _elsewhere(writer))
    disks = writer.finish()
    assert read(opened(disks)) == CONTENT
    with pytest.raises(FileSystemError, match="the device t1d0 is missing"):
        read(opened([disks[0]]))


MISSING = "zio_read error: 45"  # vdev_read_phys: ENOTSUP, without v_phys_read
NO_SIDE = "zio_read error: 5"  # vdev_mirror_read: EIO, no child is healthy


@pytest.mark.parametrize(("kind", "line"), [("disk", MISSING), ("mirror", NO_SIDE)])
@pytest.mark.parametrize("strict", ["13.2", "current"])
def test_every_read_says_that_the_first_copy_is_not_there(
    kind: str, line: str, strict: Literal["current", "13.2"]
) -> None:
    """stand/libsa/zfs/zfsimpl.c: zio_read() tries the copies in order and says so of each that fails; dnode_read()
    calls it for each level of each block but the last one read.  While a top-level vdev is unknown, before
    zfs_spa_init() has seen the MOS's configuration, its copies are passed over in silence.  So, with every first copy
    on the vdev that is missing, each read of the device that is there has its line before it from then on."""
    writer = Writer([Top(0), Top(1, kind, leaves=2 if kind == "mirror" else 1)])
    writer.spread = (1, 0)
    writer.bootfs = b"ROOT/default"
    for name in (b"", b"ROOT", b"ROOT/default"):
        writer.dataset(name, writer.file_system({b"/one": b"1" * 700} if name == writer.bootfs else {}))
    events: list[str] = []
    pools = PoolSet(lambda divisor, times: events.extend(["read"] * times), events.append, strict)
    pools.probe(writer.finish()[0], "disk0")
    pools.finish()
    assert pools.dropped == []
    assert pools.messages == []
    for _ in range(2):
        events.clear()
        filesystem = pools.dataset("made/ROOT/default")
        node = filesystem.lookup(b"/one")
        assert len(events) > 20
        assert events == [line, "read"] * (len(events) // 2)
        file = filesystem.open(node)
        events.clear()
        for _ in range(2):
            assert b"".join(map(bytes, file.read(0, 700))) == b"1" * 700
        assert events == [line, "read"]
        pools.last.forget()  # zfs_close()
        file.read(0, 1)
        assert events == [line, "read"] * 2


@pytest.mark.parametrize("missing", [b"", b"ROOT"])
def test_a_dataset_whose_objects_cannot_be_read(missing: bytes) -> None:
    """zfs_lookup_dataset() of stand/libsa/zfs/zfsimpl.c answers EIO, whatever zio_read() said."""
    writer = build([Top(0)])
    (pool,) = opened(writer.finish(), "current").pools
    whole = pool.mos
    assert whole is not None
    real = whole.dnode

    class Without:
        objects = pool.objects

        def dnode(self, number: int) -> object:
            if number == writer.datasets[missing]:
                raise FileSystemError(EOPNOTSUPP, "its device is missing")
            return real(number)

        @staticmethod
        def again(key: object, search: Callable[[], int]) -> int:
            return search()

    pool.mos = Without()  # type: ignore[assignment]
    with pytest.raises(FileSystemError, match="its device is missing") as caught:
        pool.find_dataset("ROOT/default")
    assert caught.value.errno == EIO


@pytest.mark.parametrize(("kind", "line", "errno"), [("disk", MISSING, EOPNOTSUPP), ("mirror", NO_SIDE, EIO)])
def test_data_of_which_no_copy_is_there(kind: str, line: str, errno: int) -> None:
    """zio_read() gives its last copy's error, and dnode_read() passes it on."""
    writer = Writer([Top(0), Top(1, kind, leaves=2 if kind == "mirror" else 1)])
    writer.bootfs = b"ROOT/default"
    for name in (b"", b"ROOT", b"ROOT/default"):
        writer.dataset(name, writer.file_system({}, None) if name != writer.bootfs else _elsewhere(writer))
    pools = opened([writer.finish()[0]], "current")
    for _ in range(2):
        told = len(pools.messages)
        with pytest.raises(FileSystemError) as caught:
            read(pools)
        assert caught.value.errno == errno
        assert pools.messages[told:] == [line, "ZFS: i/o error - all block copies unavailable"]


def _elsewhere(writer: Writer) -> bytes:
    """A file system whose file data is on device 1, all else on device 0."""

    def move(objects: dict[int, bytes]) -> None:
        writer.where = 1
        number = sorted(TREE).index(b"/boot/data") + 3
        bonus = objects[number][192:]
        moved = writer.object(CONTENT, 19)
        objects[number] = (
            moved[:4] + objects[number][4:8] + moved[8:10] + objects[number][10:12] + moved[12:192] + bonus
        )
        writer.where = 0

    return writer.file_system(TREE, move)


@pytest.mark.parametrize("compress", [OFF, GZIP_1])
@pytest.mark.parametrize("checksum", [SHA256, BLAKE3])
def test_large_records(compress: int, checksum: int) -> None:
    """16 MiB, the largest there are; a hole between two; a last record that is cut."""
    content = random.Random(3).randbytes(1 << 16) * 300 + bytes(17 * MIB) + b"the end"
    writer = Writer([Top(0, size=160 * MIB)])
    writer.bsize, writer.compress, writer.checksum = 16 * MIB, compress, checksum
    writer.bootfs = b"ROOT/default"
    if checksum == BLAKE3:
        # the loader reads the salt's own directory, which cannot be salted
        writer.arrays[b"org.illumos:checksum_salt"] = (1, SALT)
    for name in (b"", b"ROOT", b"ROOT/default"):
        writer.dataset(name, writer.file_system({b"/big": content} if name == writer.bootfs else {}))
    writer.checksum = SHA256
    assert read(opened(writer.finish()), b"/big") == content


def test_removed_devices() -> None:
    """Device 0 was removed: its blocks are on 1 and 2, one of them split between the two; 3 was removed before 0, and
    its blocks had gone to 0."""
    writer = build([Top(0), Top(3)])
    old = [bytes(writer.tops[number].leaves[0].image().read(DATA_START, 8 * MIB)) for number in (0, 3)]
    used = writer.tops[0].used
    tops = [Top(1), Top(2)]
    moved = Writer(tops)
    moved.__dict__.update({name: value for name, value in writer.__dict__.items() if name not in ("tops", "where")})
    moved.tops = {top.id: top for top in tops}
    moved.where = 1
    half = used // 2 // 4096 * 4096 + 2048  # in the middle of some block
    first, second = tops[0].put(old[0][:half].ljust(half)), tops[1].put(old[0][half:used])
    entries = [(0, half, 1, first), (half, used - half, 2, second)]
    mapping = b"".join(
        struct.pack("<3Q", at >> 9, number << 32 | size >> 9, to >> 9) for at, size, number, to in entries
    )
    moved.mos[20] = moved.object(mapping, 196, struct.pack("<4Q", used, used, len(entries), 0), 196)
    moved.tree_extra = [
        nvlist(**{"type": b"indirect", "id": 0, "guid": 0x9000, "ashift": 12, "com.delphix:indirect_object": 20})
    ]
    pools = opened(moved.finish())
    assert pools.dropped == []
    assert read(pools) == CONTENT
    removed = pools.pools[0].root.children[0]
    assert (removed.name, removed.state) == ("indirect-0", zf.VDEV_STATE_HEALTHY)


def test_checkpoint() -> None:
    """Boot environments of the checkpoint get the kernel's `!`."""
    writer = build([Top(0)])
    writer.dataset(b"ROOT/older", writer.file_system({}))
    pointer = writer.write_mos()
    writer.dataset(b"ROOT/newer", writer.file_system({}))
    words = struct.unpack("<5Q", writer.uberblock(txg=30)[:40])
    writer.arrays[b"com.delphix:zpool_checkpoint"] = (8, (*words, *struct.unpack("<16Q", pointer), 0, 0, 0, 0, 29))
    writer.rootbp = b""
    (image,) = writer.finish()
    outcome = harness.run([image], b"quit\n", environment=[b"autoboot_delay=NO"])
    found = outcome.environment
    names = {number: found[f"bootenvs[{number}]"] for number in range(3)}
    assert sorted(names.values()) == [f"zfs:made/ROOT/{name}" for name in ("default", "newer", "older")]
    checked = [found["bootenvs_check[0]"], found["bootenvs_check[1]"]]
    assert sorted(checked) == ["zfs:!made/ROOT/default", "zfs:!made/ROOT/older"]
    assert (found["bootenvs_count"], found["bootenvs_check_count"]) == ("3", "2")
    assert found["zpool_checkpoint"] == "made/ROOT"


def test_the_newest_uberblock_is_taken() -> None:
    """By txg, then by time; one that does not verify is passed over."""
    writer = build([Top(0)])
    old = writer.write_mos()
    writer.dataset(b"new", writer.file_system({}))
    writer.rootbp = writer.write_mos()
    (image,) = writer.finish()
    top = writer.tops[0]
    newest = writer.rootbp
    assert opened([image]).pools[0].list_children("made")[-1] == "new"
    for txg, timestamp, pointer, expected in (
        (39, 1800000000, old, "new"),
        (40, 1700000001, old, "ROOT"),
        (41, 0, newest, "new"),
    ):
        writer.rootbp = pointer
        slot = writer.uberblock(txg, timestamp)
        write_labels(top.leaves[0], writer.label(top, top.leaves[0]), slot, top.ashift, slot=txg % 32 + 1)
        assert opened([image]).pools[0].list_children("made")[-1] == expected
    size = 4096
    for number in range(4):
        start = number * zf.VDEV_LABEL_SIZE if number < 2 else MIN_SIZE - (4 - number) * zf.VDEV_LABEL_SIZE
        top.leaves[0].write(start + (128 << 10) + (41 % 32 + 1) * size + 300, b"damage")
    assert opened([image]).pools[0].list_children("made")[-1] == "ROOT"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": 2}, "destroyed"),
        ({"name": None}, "a cache or spare device"),
        ({"txg": 0}, "was detached from its pool"),
        ({"version": 29}, "unsupported ZFS version 29 .should be 5000."),
        ({"version": None}, "lacks its version"),
        ({"features_for_read": nvlist(**{"org.example:new": 1})}, "unsupported feature org.example:new"),
        ({"vdev_tree": None}, "a label without vdev tree"),
        ({"guid": 0x1234}, "does not name its own device"),
    ],
)
def test_labels_that_are_refused(changes: dict[str, object], reason: str) -> None:
    writer = build([Top(0)])
    writer.finish()
    top = writer.tops[0]
    write_labels(top.leaves[0], writer.label(top, top.leaves[0], **changes), writer.uberblock(), top.ashift)
    with pytest.raises(FileSystemError, match=reason):
        PoolSet().probe(top.leaves[0].image(), "disk0")


def test_small_or_empty_devices_are_no_vdevs() -> None:
    with pytest.raises(FileSystemError, match="too small"):
        PoolSet().probe(Leaf(1, MIN_SIZE - 4096).image(), "disk0")
    with pytest.raises(FileSystemError, match="has no label"):
        PoolSet().probe(Leaf(1, MIN_SIZE).image(), "disk0")


def test_the_same_disk_twice() -> None:
    (image,) = build([Top(0)]).finish()
    pools = PoolSet()
    pools.probe(image, "disk0")
    with pytest.raises(FileSystemError, match="disk1 is disk0 again"):
        pools.probe(image, "disk1")
    pools.finish()
    assert read(pools) == CONTENT


@pytest.mark.parametrize("newest_first", [True, False])
def test_stale_label(newest_first: bool) -> None:
    """One side of a mirror was away when the pool was last written: the newer label counts, the old disk is used."""
    writer = build([Top(0, "mirror", 2)])
    disks = writer.finish()
    top = writer.tops[0]
    write_labels(top.leaves[1], writer.label(top, top.leaves[1], txg=20), writer.uberblock(20), top.ashift)
    pools = opened(disks if newest_first else disks[::-1], "current")
    assert read(pools) == CONTENT
    assert [line for line in pools.messages if "stale label" in line] == [
        "ZFS: pool made vdev mirror-0 using stale label from 0x7101@0x14, referred by 0x7100@0x28"
        if newest_first
        else pools.messages[0]
    ]


@pytest.mark.parametrize("kind", [b"replacing", b"spare"])
def test_replacing_and_spare_below_a_mirror(kind: bytes) -> None:
    """The reader that refuses nothing reads through them; the device that went away first is not missed."""
    writer = build([Top(0, "mirror", 3)])
    disks = writer.finish()
    top = writer.tops[0]
    pair = [
        nvlist(type=b"disk", id=index, guid=leaf.guid, path=b"/dev/" + top.name(index))
        for index, leaf in enumerate(top.leaves)
    ]
    nested = nvlist(type=kind, id=1, guid=0x8888, children=[nvlist(**_pairs(pair[1], 0)), nvlist(**_pairs(pair[2], 1))])
    tree = nvlist(type=b"mirror", id=0, guid=top.guid, ashift=12, asize=MIN_SIZE // 2, children=[pair[0], nested])
    for leaf in top.leaves:
        write_labels(leaf, writer.label(top, leaf, vdev_tree=tree), writer.uberblock(), top.ashift)
    for present in ([0], [1], [2], [0, 1, 2]):
        pools = opened([disks[number] if number in present else None for number in range(3)])
        assert read(pools) == CONTENT


def _pairs(tree: object, number: int) -> dict[str, object]:
    found = {pair.name.decode(): pair.value for pair in tree}  # type: ignore[attr-defined]
    return {**found, "id": number}


class Counting(Hostless):
    """Counts the distinct bytes that are read."""

    def __init__(self, inner: object) -> None:
        self.inner = inner
        self.size: int = inner.size  # type: ignore[attr-defined]
        self.sector_size = 512
        self.read_only = True
        self.pages: set[int] = set()

    def read(self, offset: int, length: int) -> Buffer:
        self.pages.update(range(offset >> 12, offset + length + 4095 >> 12))
        data: Buffer = self.inner.read(offset, length)  # type: ignore[attr-defined]
        return data

    def write(self, offset: int, data: Buffer) -> None:
        raise AssertionError("nothing is written")


@pytest.mark.parametrize("pool", ["bootenv", "comp", "legacy", "raidz2"])
def test_opening_touches_little_of_the_disks(pool: str) -> None:
    devices = [Counting(vdev_partition(disk(name))) for name in disk_names(pool)]
    pools = PoolSet()
    for number, device in enumerate(devices):
        pools.probe(device, f"disk{number}p2")
    pools.finish()
    assert pools.pools[0].bootfs
    assert sum(len(device.pages) for device in devices) * 4096 <= 4 * MIB


def test_second_copy() -> None:
    writer = Writer([Top(0)])
    writer.copies = 2
    writer.bootfs = b"ROOT/default"
    for name in (b"", b"ROOT", b"ROOT/default"):
        writer.dataset(name, writer.file_system(TREE if name == writer.bootfs else {}))
    (image,) = writer.finish()
    leaf = writer.tops[0].leaves[0]
    pools = opened([image])
    filesystem = pools.dataset("")
    node = filesystem.lookup(b"/boot/data")
    pointer = struct.unpack("<4Q", node.dnode.block_pointers[:32])
    indirect = [pools.pools[0].blocks.read(node.dnode.block_pointers)[at : at + 128] for at in range(0, 640, 128)]
    for stored in indirect:
        words = struct.unpack("<4Q", stored[:32])
        leaf.write(DATA_START + words[1] * 512, b"damage")
    assert pointer[1] != pointer[3]
    assert read(opened([image])) == CONTENT


@pytest.mark.parametrize(
    ("ashift", "header_size", "strict", "readable"),
    [
        (9, 512, "13.2", True),
        (9, 512, "current", True),
        (12, 512, "13.2", True),
        (12, 512, "current", True),
        (12, 4096, "current", True),
        (12, 4096, None, True),
        (12, 4096, "13.2", False),
        (13, 4096, "current", False),
    ],
)
def test_gang_headers(ashift: int, header_size: int, strict: Literal["current", "13.2"] | None, readable: bool) -> None:
    """Of 512 bytes, or as large as the device's sectors; a first look at the wrong size says nothing."""
    writer = Writer([Top(0, ashift=ashift)])
    writer.bootfs = b"ROOT/default"
    content = CONTENT[:98304]

    def split(objects: dict[int, bytes]) -> None:
        number = sorted(TREE).index(b"/boot/data") + 3
        dnode = objects[number]
        core = (
            dnode[:2]
            + b"\1\1"
            + dnode[4:8]
            + (98304 >> 9).to_bytes(2, "little")
            + dnode[10:16]
            + bytes(8)
            + dnode[24:64]
        )
        objects[number] = core + writer.gang(content, 19, header_size) + dnode[192:]

    for name in (b"", b"ROOT", b"ROOT/default"):
        tree = {**TREE, b"/boot/data": content}
        writer.dataset(name, writer.file_system(tree, split) if name == writer.bootfs else writer.file_system({}))
    pools = opened(writer.finish(), strict)
    if readable:
        assert read(pools) == content
        assert pools.messages == []
    else:
        with pytest.raises(FileSystemError, match="wrong checksum"):
            read(pools)


def test_loader_boots_a_raw_disk_pool_without_a_partition_table() -> None:
    (image,) = build([Top(0)]).finish()
    outcome = harness.run([image], b"show currdev\nls /boot\nquit\n", environment=[b"autoboot_delay=NO"])
    assert b"zfs:made/ROOT/default:" in outcome.console
    assert b" l  link" in outcome.console


def test_open_pools_says_nothing_of_good_pools() -> None:
    assert open_pools("bootenv.0").messages == []
