"""ZAPs and nvlists: any content that a writer can make is read back; anything else is our own error."""

from __future__ import annotations

import itertools
import mmap
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EINVAL, ENOENT
from bhyveload.fs.zfs import bootenv, nvlist, raidz, zap
from bhyveload.fs.zfs import zfs_format as zf
from bhyveload.fs.zfs.checksum import seal_embedded
from bhyveload.fs.zfs.dmu import Dnode
from bhyveload.fs.zfs.label import LeafVdev, Reads
from support import harness
from support.zfs_pools import disk, disk_names, open_pools, pool_names, vdev_partition, writable_disk
from support.zfs_writer import fat_zap, micro_zap, name_hash

NAMES = st.binary(min_size=1, max_size=60).map(lambda name: name.replace(b"\0", b"\1"))
WIDTHS = {1: "B", 2: "H", 4: "I", 8: "Q"}
VALUES = st.sampled_from([1, 2, 4, 8]).flatmap(
    lambda width: st.tuples(st.just(width), st.lists(st.integers(0, (1 << 8 * width) - 1), min_size=1, max_size=9))
)


class Mapped(mmap.mmap):
    """A mapping that tells when it is given back."""

    forgotten = 0

    def madvise(self, option: int, start: int = 0, length: int = 0) -> None:
        assert option == mmap.MADV_DONTNEED
        self.forgotten += 1
        super().madvise(option)


class Blocks:
    """An object in memory, as zap sees it."""

    def __init__(self, data: bytes, bsize: int) -> None:
        self.data = data
        self.bsize = bsize
        self.blocks = self
        self.said: list[str] = []
        self.say = self.said.append
        core = bytes((196, 17, 1, 1, 0, 0, 0, 1)) + (bsize >> 9).to_bytes(2, "little") + bytes(6)
        core += (max(0, len(data) // bsize - 1)).to_bytes(8, "little")
        self.dnode = Dnode(core.ljust(512, b"\0"), 7)

    def block(self, dnode: Dnode, number: int) -> bytes:
        return self.data[number * self.bsize : (number + 1) * self.bsize]


def lookup(objects: Any, name: bytes, width: int = 8) -> tuple[int, ...]:
    return zap.lookup_array(objects, objects.dnode, name, width)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(NAMES, VALUES, max_size=25),
    st.integers(0, 3),
    st.booleans(),
)
def test_fat_zap(entries: dict[bytes, tuple[int, list[int]]], leaf_bits: int, outside: bool) -> None:
    objects: Any = Blocks(fat_zap(entries, 12, leaf_bits, outside), 4096)
    for name, (width, values) in entries.items():
        assert lookup(objects, name) == tuple(values)
        if width > 1:
            with pytest.raises(FileSystemError) as caught:
                lookup(objects, name, width // 2)
            assert caught.value.errno == EINVAL
    with pytest.raises(FileSystemError) as caught:
        lookup(objects, b"\2 no such name" * 5)
    assert caught.value.errno == ENOENT
    listed = dict(zap.entries(objects, objects.dnode))
    assert listed == {name: tuple(values) for name, (_, values) in entries.items()}


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES.map(lambda name: name[:49]), st.integers(0, (1 << 64) - 1), max_size=30))
def test_micro_zap(entries: dict[bytes, int]) -> None:
    data = micro_zap(entries)
    objects: Any = Blocks(data, len(data))
    assert dict(zap.entries(objects, objects.dnode)) == {name: (value,) for name, value in entries.items()}
    for name, value in entries.items():
        assert zap.lookup(objects, objects.dnode, name) == value
        assert zap.reverse_lookup(objects, objects.dnode, value) in [key for key in entries if entries[key] == value]
    with pytest.raises(FileSystemError) as caught:
        zap.lookup(objects, objects.dnode, b"\2 not there")
    assert caught.value.errno == ENOENT


@given(st.integers(0, (1 << 64) - 1), st.binary(max_size=80))
def test_hash(salt: int, name: bytes) -> None:
    assert zap.zap_hash(salt, name) == name_hash(salt, name)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_zap(data: st.DataObject) -> None:
    entries = {b"name%d" % number: (8, [number]) for number in range(20)}
    content = bytearray(fat_zap(entries, 12, 1, data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 8))
        content[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    objects: Any = Blocks(bytes(content), 4096)
    for name in entries:
        try:
            lookup(objects, name)
        except FileSystemError:
            continue
    try:
        list(itertools.islice(zap.entries(objects, objects.dnode), 5000))
    except FileSystemError:
        pass


def nvlists(depth: int = 2) -> st.SearchStrategy[nvlist.NvList]:
    names = st.binary(min_size=1, max_size=12)
    pairs = st.one_of(
        st.builds(
            lambda name, value: nvlist.Pair(name, nvlist.DATA_TYPE_UINT64, value), names, st.integers(0, 2**64 - 1)
        ),
        st.builds(
            lambda name, value: nvlist.Pair(name, nvlist.DATA_TYPE_INT32, value),
            names,
            st.integers(-(2**31), 2**31 - 1),
        ),
        st.builds(lambda name, value: nvlist.Pair(name, nvlist.DATA_TYPE_STRING, value), names, st.binary(max_size=40)),
        st.builds(lambda name: nvlist.Pair(name, nvlist.DATA_TYPE_BOOLEAN, b""), names),
        st.builds(
            lambda name, value: nvlist.Pair(name, nvlist.DATA_TYPE_UINT64_ARRAY, value),
            names,
            st.lists(st.integers(0, 2**64 - 1), max_size=5),
        ),
        st.builds(
            lambda name, value: nvlist.Pair(name, nvlist.DATA_TYPE_STRING_ARRAY, value),
            names,
            st.lists(st.binary(max_size=9), max_size=4),
        ),
        *(
            (
                st.builds(
                    lambda name, value: nvlist.Pair(name, nvlist.DATA_TYPE_NVLIST, value), names, nvlists(depth - 1)
                ),
                st.builds(
                    lambda name, value: nvlist.Pair(name, nvlist.DATA_TYPE_NVLIST_ARRAY, value),
                    names,
                    st.lists(nvlists(depth - 1), max_size=3),
                ),
            )
            if depth
            else ()
        ),
    )
    return st.lists(pairs, max_size=5).map(nvlist.NvList)


def plain(value: Any) -> Any:
    if isinstance(value, nvlist.NvList):
        return [(pair.name, pair.type, plain(pair.value)) for pair in value]
    return [plain(one) for one in value] if isinstance(value, list) else value


@settings(max_examples=150, deadline=None)
@given(nvlists(), st.binary(max_size=30))
def test_nvlist(value: nvlist.NvList, rest: bytes) -> None:
    stream = nvlist.encode(value)
    found, length = nvlist.decode_prefix(stream + rest)
    assert plain(found) == plain(value)
    assert length == len(stream)
    assert nvlist.encode(found) == stream


@settings(max_examples=300, deadline=None)
@given(nvlists(), st.data())
def test_damaged_nvlist(value: nvlist.NvList, data: st.DataObject) -> None:
    stream = bytearray(nvlist.encode(value))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(stream) - 1))
        stream[at : at + 4] = data.draw(st.binary(min_size=1, max_size=4))
    cut = data.draw(st.integers(0, len(stream)))
    for damaged in (bytes(stream), bytes(stream[:cut])):
        try:
            nvlist.encode(nvlist.decode(damaged))
        except FileSystemError as error:
            assert error.errno == EINVAL


@pytest.mark.parametrize("pool", pool_names())
def test_labels_of_real_pools_are_encoded_as_they_were(pool: str) -> None:
    device = vdev_partition(disk(disk_names(pool)[0]))
    content = bytes(device.read(zf.VDEV_PHYS_OFFSET, zf.VDEV_PHYS_SIZE))
    config, length = nvlist.decode_prefix(content)
    assert nvlist.encode(config) == content[:length]
    assert config.uint64(b"version") in (28, 5000)


def test_boot_environment_blocks() -> None:
    """Version 1: a list; 0: GRUB's map; anything else: a command of zfsbootcfg, or nothing."""
    size = zf.VDEV_PAD_SIZE
    raw = bootenv.decode((b"\0" * 8 + b"grub=1").ljust(size, b"\0"))
    assert raw is not None
    assert plain(raw) == [(b"version", 8, 0), (b"grub:envmap", 9, b"grub=1")]
    assert plain(bootenv.decode(bytes(size))) == [(b"version", 8, 1)]
    assert plain(bootenv.decode(b"zfs:pool/be:".ljust(size, b"\0"))) == [(b"freebsd:bootonce", 9, b"zfs:pool/be:")]
    assert plain(bootenv.decode(b"zfs:\x01".ljust(size, b"\0"))) == [(b"version", 8, 1)]
    assert bootenv.decode((b"\0" * 7 + b"\1" + b"\1\1\0\0damaged").ljust(size, b"\0")) is None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_raidz_columns_cover_the_block_once(data: st.DataObject) -> None:
    """Columns are disjoint, of the right sizes, parity of the length of the longest."""
    ashift = data.draw(st.integers(9, 16))
    children = data.draw(st.integers(2, 20))
    nparity = data.draw(st.integers(1, min(3, children - 1)))
    sectors = data.draw(st.integers(1, 70))
    start = data.draw(st.integers(0, 1 << 20))
    columns = raidz.columns_of(start << ashift, sectors << ashift, ashift, children, nparity)
    assert sum(column.length for column in columns[nparity:]) == sectors << ashift
    assert max(column.length for column in columns) == columns[0].length == columns[nparity - 1].length
    taken = {
        (column.child, at)
        for column in columns
        for at in range(column.offset >> ashift, column.offset + column.length >> ashift)
    }
    rows = -(-sectors // (children - nparity))
    assert len(taken) == sectors + rows * nparity
    flat = sorted(at * children + child for child, at in taken)
    assert flat == list(range(start, start + len(flat)))


def test_removing_the_last_variable_removes_the_store() -> None:
    benv = nvlist.NvList([])
    assert bootenv.put(benv, "one", "1", None) == 0
    assert bootenv.put(benv, "two", "yes", "DATA_TYPE_STRING") == 0
    bootenv.drop(benv, "one")
    assert [pair.name for pair in bootenv.store(benv)] == [b"two"]
    bootenv.drop(benv, "two")
    assert benv.pairs == []
    with pytest.raises(FileSystemError) as caught:
        bootenv.drop(benv, "two")
    assert caught.value.errno == ENOENT
    assert bootenv.put(benv, "flag", "1", "DATA_TYPE_BOOLEAN_VALUE") == EINVAL
    assert bootenv.value_text(next(iter(bootenv.store(benv)))) == "1"


@settings(max_examples=150, deadline=None)
@given(nvlists())
def test_any_stored_variable_can_be_shown(variables: nvlist.NvList) -> None:
    decoded = nvlist.decode(nvlist.encode(variables))
    assert bootenv.list_text(decoded, 0).endswith("End of nvlist\n")
    for pair in decoded:
        try:
            bootenv.value_text(pair)
        except FileSystemError as error:
            assert error.errno == EINVAL


@settings(max_examples=8, deadline=None)
@given(nvlists(), st.booleans(), st.binary(max_size=30))
def test_the_loader_takes_any_boot_environment_block(variables: nvlist.NvList, once: bool, text: bytes) -> None:
    """Labels with right checksums around whatever a guest wrote."""
    image = writable_disk("bootenv.0")
    benv = nvlist.NvList([])
    benv.set(zf.BOOTENV_VERSION, nvlist.DATA_TYPE_UINT64, zf.VB_NVLIST)
    if once:
        benv.set(zf.FREEBSD_BOOTONCE, nvlist.DATA_TYPE_STRING, text)
    benv.set(zf.FREEBSD_NVSTORE, nvlist.DATA_TYPE_NVLIST, variables)
    leaf = LeafVdev(vdev_partition(image), "disk0p2", Reads())
    for label in range(zf.VDEV_LABELS):
        place = leaf.label_offset(label, zf.VDEV_BOOTENV_OFFSET)
        leaf.write(place, seal_embedded(bootenv.encode(benv, zf.VB_NVLIST), (place, 0, 0, 0)))
    keys = b"nvstore -l\nnvstore benv -l\nshow currdev\nnvstore benv a b\nquit\n"
    outcome = harness.run([image], keys, environment=[b"autoboot_delay=NO", b"LINES=2000"])
    assert outcome.end == "exit"
    assert b"List of configured nvstores" in outcome.console


@pytest.mark.parametrize("text", ["1_000", "--5", "+-5", "0o17", "", "12 ", "0x", "9" * 30, "٣"])
def test_what_strtoll_does_not_take_whole_is_no_number_of_an_nvstore(text: str) -> None:
    benv = nvlist.NvList([])
    with pytest.raises(FileSystemError) as caught:
        bootenv.put(benv, "number", text, "DATA_TYPE_INT64")
    assert caught.value.errno == EINVAL
    assert not benv.pairs


def test_a_file_is_not_read_before_its_start() -> None:
    fs = open_pools("bootenv.0").dataset("")
    file = fs.open(fs.lookup(b"/"))
    for offset, length in ((-1, 10), (0, -1)):
        with pytest.raises(FileSystemError) as caught:
            file.read(offset, length)
        assert caught.value.errno == EINVAL


def test_what_was_read_of_a_mapped_image_is_unmapped() -> None:
    image = writable_disk("comp.0")
    mapping = Mapped(image.descriptor, image.size, access=mmap.ACCESS_READ)
    view = memoryview(mapping)
    device: Any = SimpleNamespace(size=image.size, sector_size=512, read=lambda at, length: view[at : at + length])
    leaf = LeafVdev(device, "disk0", Reads())
    piece = 1 << 20
    for number in range(20):
        assert leaf.read(number * piece, piece) == image.read(number * piece, piece)
    assert mapping.forgotten == 4
