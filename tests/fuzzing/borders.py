"""Targets at the borders: what a confined child says, what the parent reads of guest memory, what scripts read of text
files, what disks' labels and descriptors say."""

from __future__ import annotations

import functools
import marshal
import os
import struct
from collections.abc import Iterator
from typing import Any

from bhyveload.confined import reports
from bhyveload.confined.child import understand
from bhyveload.confined.confinement import Subject
from bhyveload.confined.run import fitting
from bhyveload.confined.wire import encode
from bhyveload.errors import BhyveloadError, FileSystemError
from bhyveload.image.container import Container
from bhyveload.image.magic import detect
from bhyveload.image.vmdk_descriptor import Descriptor
from bhyveload.loader.commands import basic, boot
from bhyveload.loader.files.open_file import F_READ, OpenFile
from bhyveload.loader.main import set_currdev
from bhyveload.need import load_all
from bhyveload.userboot.cross_check import LoadedState, compare
from fuzzing import Run, Target
from fuzzing.devices import BytesDevice, Damage, sparse
from fuzzing.disks import MIB, damage_seeds, look_at_partitions, on_damaged
from fuzzing.guests import loaded_guest
from fuzzing.loading import Content, a_loader, boot_disk

# What a confined child says: everything that the parent makes of a report


def _report() -> Run:
    """An even first byte: what follows is a message; an odd one: it changes a sound report, so that more of it is
    looked at than that it is none."""
    subject = Subject("the loader", None)
    shapes = [shape for shape in vars(reports).values() if hasattr(shape, "check") and not isinstance(shape, type)]
    sound = [marshal.dumps(report) for report in _sound_reports()]

    def run(data: bytes) -> None:
        if data[:1] and data[0] & 1:
            message = encode(_changed(marshal.loads(sound[(data[0] >> 1) % len(sound)]), data[1:]))
        else:
            message = data[1:]
        report = understand(message, 0, subject)
        for shape in shapes:
            try:
                fitting(report, shape, "the loader")
            except BhyveloadError:
                pass

    return run


def _sound_reports() -> list[dict[str, Any]]:
    from support import forged_reports as sound

    kinds = (sound.EVERYBODY, sound.LOADER, sound.IMAGE, sound.PACKED, sound.LOOKED, sound.POOLS)
    return [report for kind in kinds for report in kind]


_CHOICES: list[Any] = [
    *(None, True, False, 0, 1, -1, 255, 256, 1 << 31, (1 << 63) - 1, 1 << 63, 1 << 64, -(1 << 63), 1 << 298),
    *("", "x", "\0", "\x1b[2J", "\udc80", "../../etc/passwd", "bhyveload.api", "exec", "LoaderError", "x" * 70_000),
    *([], {}, [0], {"": 0}, [[[]]], {"name": "x", "version": 1}, ["x"] * 5000),
]
_VALUES = [marshal.dumps(value) for value in _CHOICES]
_CHANGE = struct.Struct("<BBBB")


def _changed(report: dict[str, Any], changes: bytes) -> Any:
    """``report`` with one place after the other changed: (how deep, which member, what is done, a value) each."""
    for deep, member, what, number in _CHANGE.iter_unpack(changes[: len(changes[:64]) & ~3]):
        place: Any = report
        for level in range(deep % 5 + 1):
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = keys[(member >> level | member << 8 - level & 0xFF) % len(keys)]
            if level == deep % 5 or not isinstance(place[key], dict | list):
                if what % 4 == 0:
                    del place[key]
                elif what % 4 == 1 and isinstance(place, dict):
                    place[_KEYS[what // 4 % len(_KEYS)]] = marshal.loads(_VALUES[number % len(_VALUES)])
                else:
                    place[key] = marshal.loads(_VALUES[number % len(_VALUES)])
                break
            place = place[key]
    return report


_KEYS = ("", "need", "error", "end", "code", "output", "pools", "x" * 300, "cs", "rip", "\udc80")


def _report_seeds() -> Iterator[bytes]:
    for number, report in enumerate(_sound_reports()):
        yield b"\0" + encode(report)
        for change in (b"", b"\0\0\0\0", b"\1\1\2\7", b"\2\3\1\x0e\3\2\2\x11"):
            yield bytes((number << 1 | 1,)) + change


# What the parent reads of guest memory to compare two loads


def _handover() -> Run:
    size = 16 * MIB
    memories = []
    for _ in range(2):
        fd = os.memfd_create("guest")
        os.ftruncate(fd, size)
        memories.append(fd)

    def run(data: bytes) -> None:
        states = []
        for number, fd in enumerate(memories):
            memory, vcpu = loaded_guest(fd, size, wide=bool(len(data) % 2))
            memory.write(0x1000, struct.pack("<IIIIIIIIII", 0, *[0x200000] * 9))
            memory.write(0x200000, data[number * 4 :])
            states.append(LoadedState(f"loader {number}", memory, vcpu))
        for line in compare(*states):
            assert line.isprintable()

    return run


def _handover_seeds() -> Iterator[bytes]:
    def record(kind: int, payload: bytes) -> bytes:
        return struct.pack("<II", kind, len(payload)) + payload.ljust(-(-len(payload) // 8) * 8, b"\0")

    kernel = record(1, b"/boot/kernel/kernel\0") + record(2, b"elf kernel\0") + record(3, bytes(8))
    kernel += record(0x8007, struct.pack("<Q", 0x200100)) + record(0x9001, struct.pack("<QQI", 0, 1 << 20, 1))
    yield kernel + record(1, b"x.ko\0") + bytes(8) + b"a=b\0c=d\0\0"
    yield record(1, b"k\0") + struct.pack("<II", 2, 0) * 100


# Text files of the guest's


def _text() -> Run:
    loader = a_loader()

    def run(data: bytes) -> None:
        content: Any = Content(BytesDevice(data))
        for look in (
            lambda file: boot._fstab_root(file, "disk0p2:/etc/fstab"),
            lambda file: list(iter(lambda: basic._help_entry(file), None)),
        ):
            look(OpenFile(loader.files, "x", F_READ, content, None))

    return run


def _text_seeds() -> Iterator[bytes]:
    yield b"# Device\tMountpoint FStype\n/dev/ada0p2\t/\tufs\trw\t1 1\n"
    yield b"# Tboot Sx Dwhat it does\n\n\ttext\n# Tindex Dall\n# Tx"
    yield b"x" * 700 + b"\r\n\0/ / /"


def _configuration() -> Run:
    """A /boot/loader.conf, read by scripts in the style of FreeBSD's in the real Lua, through our primitives."""
    load_all()
    import stock_like
    from bhyveload.loader.interpreter.lua import LuaInterpreter

    disk = boot_disk()
    scripts = stock_like.SCRIPTS
    files: dict[str, bytes] = {
        f"/boot/lua/{path.name}": path.read_bytes()
        for folder in ("both", "new")
        for path in sorted((scripts / folder).iterdir())
    }

    def run(data: bytes) -> None:
        loader = a_loader(disk)
        loader.environment.define("currdev", "", None, None)
        set_currdev(loader, "disk0p2:")
        opened = loader.files.open
        own = {
            "/boot/defaults/loader.conf": data[::2] if data[:1] == b"!" else b'kernel="kernel"\n',
            "/boot/loader.conf": data,
        }

        def serve(path: str, mode: int = F_READ) -> OpenFile:
            name = "/" + path.rpartition(":")[2].lstrip("/")
            text = own.get(name, files.get(name))
            if text is None:
                return opened(path, mode)
            content: Any = Content(BytesDevice(text))
            return OpenFile(loader.files, path, F_READ, content, None)

        loader.files.open = serve  # type: ignore[method-assign]
        LuaInterpreter(loader).run('config = require("config") config.load() config.loadelf()')

    return run


def _configuration_seeds() -> Iterator[bytes]:
    import stock_like

    for text in (stock_like.CONF, stock_like.MODULES, stock_like.DEFAULTS):
        yield text.encode("latin-1")
    yield b'a="b\\"c"\nb=${a}\nx_load="YES"\nx_name=""\nexec="echo x"\n'


# Labels, descriptors, magic numbers


def _zfs_label() -> Run:
    """Configurations of two devices' labels, as if their checksums were right."""
    from bhyveload.fs.zfs import poolset as module
    from bhyveload.fs.zfs.nvlist import decode

    poolset: Any = module
    device = BytesDevice(b"", 64 * MIB)

    def run(data: bytes) -> None:
        if len(data) < 2:
            return
        cut = int.from_bytes(data[:2], "little") % len(data)
        for strict in (None, "13.2", "current"):
            pools = module.PoolSet(strict=strict)
            kept = poolset.read_config
            try:
                for number, part in enumerate((data[2:cut], data[max(cut, 2) :], data[2:cut])):
                    poolset.read_config = lambda leaf, part=part: decode(part)
                    try:
                        pools.probe(device, f"disk{number}")
                    except FileSystemError:
                        pass
            finally:
                poolset.read_config = kept
            assert "".join(pools.describe(True)).isprintable() or pools.pools
            pools.finish()

    return run


def _zfs_label_seeds() -> Iterator[bytes]:
    from bhyveload.fs.zfs import nvlist
    from support.zfs_writer import Top, Writer

    writer = Writer([Top(0, "mirror", 2), Top(1, "raidz", 3, nparity=1)])
    labels = [nvlist.encode(writer.label(top, leaf)) for top in writer.tops.values() for leaf in top.leaves]
    other = Writer([Top(0, "mirror", 2)], txg=41)
    other.guid += 1
    labels.append(nvlist.encode(other.label(other.tops[0], other.tops[0].leaves[1])))
    for one in labels[:3]:
        for two in (labels[1], labels[-1]):
            yield (2 + len(one)).to_bytes(2, "little") + one + two


def _vmdk_descriptor() -> Run:
    device: Any = BytesDevice(bytes(512))

    def run(data: bytes) -> None:
        descriptor = Descriptor(Container(device, "fuzzed"), data)
        names = descriptor.file_names()
        assert len(names) == len(set(names))
        descriptor.check_kind()

    return run


def _vmdk_descriptor_seeds() -> Iterator[bytes]:
    yield (
        b'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="twoGbMaxExtentFlat"\n'
        b'RW 4192256 FLAT "disk-f001.vmdk" 0\nRW 10 SPARSE "disk-s002.vmdk"\nRDONLY 1 ZERO\n'
    )


def _magic() -> Run:
    def run(data: bytes) -> None:
        device: Any = BytesDevice(data)
        for name in ("disk.img", "disk.vmdk", "disk.vhd"):
            detect(device, name)

    return run


def _magic_seeds() -> Iterator[bytes]:
    yield from (b"QFI\xfb\0\0\0\3", b"KDMV\1\0\0\0", b"vhdxfile", b"\xfd7zXZ\0", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd")
    yield b"conectix".ljust(512, b"\0")


@functools.cache
def _layouts() -> list[Damage]:
    """Disks with tables of all kinds, in each other and damaged."""
    from support.layouts import disk

    return [
        Damage(sparse(BytesDevice(disk(seed)[1])), look_at_partitions) for seed in (1, 3, 4, 7, 10, 12, 16, 19, 21, 30)
    ]


TARGETS = [
    Target("report", _report, _report_seeds, rounds=2000, size=2000),
    Target("handover", _handover, _handover_seeds, rounds=100, size=2048),
    Target("text-files", _text, _text_seeds, rounds=500, size=2000),
    Target("loader-conf", _configuration, _configuration_seeds, rounds=30, size=3000),
    Target("zfs-label", _zfs_label, _zfs_label_seeds, rounds=300, size=4000),
    Target("vmdk-descriptor", _vmdk_descriptor, _vmdk_descriptor_seeds, rounds=1000, size=1000),
    Target("magic", _magic, _magic_seeds, rounds=1000, size=1024),
    Target("layouts", on_damaged(_layouts, look_at_partitions), damage_seeds(_layouts), rounds=150),
]
