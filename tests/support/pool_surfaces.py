"""Random ZFS pools by seed: boot environments of any number and name, the nvlists of labels and of the boot
environment block, sound and damaged.

    python3 -m support.pool_surfaces SEED disk.img    (in tests/) writes the disk and prints its kind
    python3 -m support.pool_surfaces SEED             prints the keys typed at the loader's prompt

The form is that of support/layouts.py and support/surfaces.py: a seed gives the same disk and keys everywhere (nothing
is compressed, guids are fixed), so what FreeBSD's loaders say to them can be recorded and laid beside
(console-VERSION.txt, run-VERSION.txt, tests/data/layouts/README.md), with the sectors that a run wrote
(disk.after.sectors, tests/data/golden/README.md).  The pool is all of disk0; start the loader with
`-e autoboot_delay=NO -e LINES=2000`.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

from bhyveload.fs.zfs import nvlist as nv
from bhyveload.fs.zfs.checksum import seal_embedded
from bhyveload.image.raw import RawImage
from support.zfs_pools import pread
from support.zfs_writer import LABEL, OFF, Leaf, Top, Writer, nvlist

KINDS = ("environments", "once", "store", "block", "label")
POOL = b"made"
VB_RAW, VB_NVLIST = 0, 1
_BLOCK = 8 << 10  # vdev_boot_envblock_t: a version, the content, a checksum of 40 bytes
_CONTENT = _BLOCK - 8 - 40
_NAMES = [b"default", b"be-two", b"13.2-RELEASE_2023-04-07", b"a", b"b c", b"x" * 60, b"$odd", b"UP", b"up", b"1", b"@"]
_NUMBERS = (
    *(nv.DATA_TYPE_INT8, nv.DATA_TYPE_UINT8, nv.DATA_TYPE_BYTE, nv.DATA_TYPE_INT16, nv.DATA_TYPE_UINT16),
    *(nv.DATA_TYPE_INT32, nv.DATA_TYPE_UINT32, nv.DATA_TYPE_INT64, nv.DATA_TYPE_UINT64, nv.DATA_TYPE_BOOLEAN_VALUE),
)
_TYPES = [
    *("INT8", "UINT8", "BYTE", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64", "BOOLEAN_VALUE", "STRING"),
    *("BOOLEAN", "NVLIST", "UINT64_ARRAY", "NOTHING"),
]


def _environments(r: random.Random, writer: Writer, many: int) -> list[bytes]:
    """Boot environments below POOL/ROOT, some with datasets of their own; their names."""
    names = r.sample(_NAMES, min(many, len(_NAMES)))
    names += [b"be%02d" % number for number in range(many - len(names))]
    tree: dict[bytes, bytes | None] = {b"/boot": None, b"/boot/loader.conf": b"x=1\n", b"/who": b"me\n"}
    places = [b"ROOT/" + name for name in names]
    writer.bootfs = r.choice([*places, *places, *places, b"ROOT"]) if places and r.random() < 0.9 else b"unset"
    root = [b""] if r.random() < 0.05 else [b"", b"ROOT"]
    for name in root + (places if len(root) > 1 else []):
        writer.dataset(name, writer.file_system(tree if name else {}))
        if name.startswith(b"ROOT/") and r.random() < 0.2:
            writer.dataset(name + b"/var", writer.file_system({}))
    return names if len(root) > 1 else []


def _value(r: random.Random) -> nv.Pair:
    name = r.choice([b"one", b"two", b"kernel", b"x" * 40, b"", b"lines", b"a b"])
    if r.random() < 0.5:
        return nv.Pair(name, nv.DATA_TYPE_STRING, r.choice([b"", b"YES", b"v" * 100, b'a "b"', b"\xff", b"$one"]))
    kind = r.choice(_NUMBERS)
    return nv.Pair(
        name, kind, r.choice([0, 1, 1, 7, 100, 127]) if kind != nv.DATA_TYPE_BOOLEAN_VALUE else r.randrange(2)
    )


def _list(r: random.Random, names: list[bytes], once: bool, store: bool) -> nv.NvList:
    pairs = nvlist(version=VB_NVLIST)
    if once:
        place = POOL + b"/ROOT/" + r.choice(names or [b"gone"])
        value = r.choice(
            [b"zfs:%s:" % place, b"zfs:%s:" % place, b"zfs:%s" % place, b"zfs:nopool:", b"disk0:", b"", b"x"]
        )
        pairs.pairs.append(nv.Pair(b"freebsd:bootonce", nv.DATA_TYPE_STRING, value))
    if store:
        stored = nv.NvList()
        for _ in range(r.randint(0, 5)):
            stored.pairs.append(_value(r))
        pairs.pairs.append(nv.Pair(b"freebsd:nvstore", nv.DATA_TYPE_NVLIST, stored))
    if r.random() < 0.2:
        pairs.pairs.append(_value(r))
    return pairs


def _damaged(r: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(r.choice([1, 1, 2, 4])):
        out[r.randrange(min(len(out), 256))] = r.choice([0, 1, 4, 0x7F, 0xFF, r.randrange(256)])
    return bytes(out)


def _block(r: random.Random, content: nv.NvList, damage: bool) -> bytes:
    packed = nv.encode(content)
    version = VB_NVLIST
    if damage:
        choice = r.randrange(4)
        if choice == 0:
            packed = _damaged(r, packed)
        elif choice == 1:
            version, packed = VB_RAW, r.choice([b"", b"timeout=3\nsaved_entry=0\n", b"\xff" * 40])
        elif choice == 2:
            version = r.choice([2, 3, 1 << 63])
        else:
            return r.choice([b"zfs:made/ROOT/default:", b"\x01control", b"text"]).ljust(_BLOCK, b"\0")
    return version.to_bytes(8, "big") + packed[:_CONTENT].ljust(_CONTENT, b"\0") + bytes(40)


def _write_block(leaf: Leaf, block: bytes, spoiled: list[int]) -> None:
    """Into the four labels, with a wrong checksum in those of ``spoiled``."""
    for number in range(4):
        place = (number * LABEL if number < 2 else leaf.size - (4 - number) * LABEL) + _BLOCK
        sealed = bytearray(seal_embedded(block, (place, 0, 0, 0)))
        sealed[-1] ^= number in spoiled
        leaf.write(place, bytes(sealed))


def _spoil_label(r: random.Random, writer: Writer, top: Top) -> None:
    """Another configuration in some of the labels: other numbers, a list that ends early, no list."""
    changes: list[dict[str, Any]] = [
        {"txg": r.choice([0, 1, writer.txg, writer.txg + 5])},
        {"name": r.choice([b"made", b"other", b"", b"n" * 200])},
        {"state": r.choice([0, 1, 2, 3])},
        {"version": r.choice([1, 28, 29, 5000, 5001])},
        {"top_guid": None},
        {"vdev_tree": None},
        {"features_for_read": nvlist(org__illumos_lz4=0)},
    ]
    leaf = top.leaves[0]
    packed = nv.encode(writer.label(top, leaf, **r.choice(changes)))
    if r.random() < 0.4:
        packed = _damaged(r, packed)
    for number in r.sample(range(4), r.randint(1, 4)):
        start = number * LABEL if number < 2 else leaf.size - (4 - number) * LABEL
        place = start + (16 << 10)
        leaf.write(place, seal_embedded(packed.ljust(112 << 10, b"\0"), (place, 0, 0, 0)))


def _keys(r: random.Random, kind: str, names: list[bytes]) -> str:
    place = f"made/ROOT/{r.choice(names or [b'gone']).decode()}"
    looks = [
        *("lsdev", "lsdev -v", "lszfs made", "lszfs made/ROOT", f"lszfs {place}", "lszfs made/gone", "ls", "ls /boot"),
        *("reloadbe", "reloadbe made/ROOT", f"reloadbe {place}", "reloadbe made", "reloadbe gone"),
        *("set zfs_be_currpage=2", "set zfs_be_currpage=9", "set zfs_be_currpage=x", "set zfs_be_root=made"),
        *(f"set currdev=zfs:{place}:", f"ls zfs:{place}:/", f"more zfs:{place}:/who", "set currdev=zfs:made:"),
    ]
    stores = [
        *("nvstore -l", "nvstore made -l", "nvstore made -g one", "nvstore made two 5", "nvstore made -d one"),
        *(
            f"nvstore made -t DATA_TYPE_{r.choice(_TYPES)} {name} {value}"
            for name, value in (("n", "7"), ("one", "-1"))
        ),
        *(
            "nvstore made -t int8 w 1",
            "nvstore made -g gone",
            "nvstore other -l",
            "nvstore made",
            "show one",
            "set one=z",
        ),
        *("unset one", "unset kernel", "set two=", "nvstore made -t DATA_TYPE_UINT64 big 99999999999999999999999"),
    ]
    typed = ["show currdev", "show loaddev"]
    for _ in range(r.randint(4, 10)):
        typed.append(r.choice(stores if kind in ("store", "block") and r.random() < 0.7 else looks))
    return "\n".join([*typed, "show", "quit"]) + "\n"


def guest(seed: int) -> tuple[str, RawImage, str]:
    """(kind, the disk, keys) of a seed."""
    r = random.Random(f"pool-{seed}")
    kind = r.choice(KINDS)
    top = Top(0, ashift=r.choice([9, 12]))
    writer = Writer([top], POOL)
    writer.compress = OFF
    many = r.choice([0, 1, 2, 3, 5, 6, 10, 11, 16]) if kind == "environments" else r.randint(1, 4)
    names = _environments(r, writer, many)
    (disk,) = writer.finish()
    if kind in ("once", "store", "block"):
        content = _list(r, names, kind != "store", kind != "once")
        spoiled = r.sample(range(4), r.choice([0, 0, 0, 1, 2, 3, 4]))
        _write_block(top.leaves[0], _block(r, content, kind == "block"), spoiled)
    elif kind == "label":
        _spoil_label(r, writer, top)
    return kind, disk, _keys(r, kind, names)


if __name__ == "__main__":
    made, image, keys = guest(int(sys.argv[1]))
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_bytes(pread(image, 0, image.size))
        print(made)
    else:
        sys.stdout.write(keys)
