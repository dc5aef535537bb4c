"""Random guests by seed for the loader's other surfaces: linker.hints, dependencies, kernels that are not quite ELF,
compressed files in each other, disks within disks.

    python3 -m support.surfaces SEED folder      (in tests/) writes the tree of the guest's file system, prints its kind
    python3 -m support.surfaces SEED             prints the keys typed at the loader's prompt

The form is that of support/layouts.py: a seed gives the same tree and keys everywhere, so what FreeBSD's loaders say
to them can be recorded and laid beside (console-VERSION.txt, run-VERSION.txt; tests/data/layouts/README.md).  The tree
goes into a UFS as makefs makes it; kernel and modules are those of the golden record "modules".
"""

from __future__ import annotations

import bz2
import functools
import gzip
import random
import struct
import sys
from pathlib import Path

from bhyveload.fs import ufs
from bhyveload.partition.slices import PARTWILD, SLICEWILD, open_slice
from support import layouts
from support.golden import Record
from support.kernel_objects import Hints

KINDS = ("hints", "graph", "elf", "packed", "vdisk")
_GOLDEN = ("kernel/kernel", "kernel/alpha.ko", "kernel/beta.ko", "kernel/gamma.ko", "modules/lonely.ko")

Tree = dict[str, bytes]


@functools.cache
def golden_files() -> Tree:
    """boot/... -> content, of the golden record's kernel and modules: gamma needs beta, beta needs alpha."""
    (disk,) = Record("current", "modules").disks()
    fs = ufs.probe(open_slice(disk, SLICEWILD, PARTWILD).device, lambda divisor: None)
    found = {}
    for name in _GOLDEN:
        file = fs.open(fs.lookup(f"/boot/{name}".encode()))
        found[f"boot/{name}"] = b"".join(bytes(piece) for piece in file.read(0, file.size))
    disk.close()
    return found


def _damaged(r: random.Random, data: bytes, within: int | None = None) -> bytes:
    """``data`` with a few bytes changed, or cut off, or with something behind it."""
    out = bytearray(data)
    for _ in range(r.choice([0, 1, 1, 2, 5])):
        at = r.randrange(min(len(out), within or len(out)))
        out[at] = r.choice([0, 1, 2, 0x7F, 0xFF, r.randrange(256)])
    if r.random() < 0.2:
        del out[r.randrange(len(out)) :]
    if r.random() < 0.1:
        out += bytes(r.choice([1, 100, 4096]))
    return bytes(out)


def _loads(r: random.Random, names: list[str]) -> str:
    lines = ["load kernel"]
    for _ in range(r.randint(1, 4)):
        lines.append(r.choice(["load %s", "load %s", "load -t elf %s", "load %s.ko"]) % r.choice(names))
    return "\n".join([*lines, r.choice(["lsmod", "lsmod -v"]), "boot", "quit"]) + "\n"


def _hints(r: random.Random) -> tuple[Tree, str]:
    names = ["alpha", "beta", "gamma", "lonely", "nosuch", "other"]
    files = [f"{name}.ko" for name in names] + ["kernel", ""]
    hints = Hints()
    for _ in range(r.randint(0, 12)):
        kind = r.randrange(3)
        if kind == 0:
            hints.module(r.choice(names), r.choice(files))
        elif kind == 1:
            hints.version(r.choice(names), r.choice([0, 1, 2, 3, -1, 1 << 30]), r.choice(files))
        else:
            hints.pnp(r.choice(["pci", "usb", ""]), r.choice(["U16:vendor", "I32:a;Z:b", ""]), [])
    tree = {**golden_files(), "boot/kernel/linker.hints": _damaged(r, hints.encode())}
    if r.random() < 0.3:
        tree["boot/modules/linker.hints"] = Hints().version("lonely", 1, "lonely.ko").encode()
    return tree, _loads(r, names)


def _graph(r: random.Random) -> tuple[Tree, str]:
    """The modules under each other's names and in several folders, some missing: who needs whom is in the files."""
    golden = golden_files()
    modules = [name for name in golden if name.endswith(".ko")]
    tree = {"boot/kernel/kernel": golden["boot/kernel/kernel"]}
    hints = {folder: Hints() for folder in ("boot/kernel", "boot/modules", "boot/extra")}
    for name in ("alpha", "beta", "gamma", "lonely"):
        if r.random() < 0.85:
            folder, content = r.choice(list(hints)), golden[r.choice([m for m in modules if name in m] * 4 + modules)]
            tree[f"{folder}/{name}.ko"] = content
            if r.random() < 0.8:
                hints[folder].version(name, r.choice([1, 1, 1, 2]), f"{name}.ko")
    for folder, wanted in hints.items():
        if r.random() < 0.8:
            tree[f"{folder}/linker.hints"] = wanted.encode()
    path = ";".join(r.sample(["/boot/kernel", "/boot/modules", "/boot/extra", "/nowhere", ""], r.randint(1, 5)))
    return tree, f"set module_path={path}\n" + _loads(r, ["alpha", "beta", "gamma", "lonely"])


def _elf(r: random.Random) -> tuple[Tree, str]:
    golden = dict(golden_files())
    name = r.choice(list(golden))
    golden[name] = _damaged(r, golden[name], within=r.choice([64, 64, 400, None]))
    if name.endswith("kernel") and r.random() < 0.3:
        data = bytearray(golden[name].ljust(64, b"\0"))
        struct.pack_into("<H", data, r.choice([16, 18, 54, 56, 58, 60]), r.choice([0, 1, 2, 3, 0xFFFF]))
        golden[name] = bytes(data)
    return golden, _loads(r, ["alpha", "beta", "gamma", "lonely"])


def _packed(r: random.Random) -> tuple[Tree, str]:
    golden = golden_files()
    tree: Tree = {}
    for name, content in golden.items():
        for _ in range(r.choice([0, 1, 1, 1, 2, 3])):
            if r.random() < 0.5:
                name, content = name + ".gz", gzip.compress(content, mtime=0)
            else:
                name, content = name + ".bz2", bz2.compress(content)
        tree[name] = _damaged(r, content) if r.random() < 0.2 else content
    asked = ["/boot/kernel/kernel", "/boot/kernel/kernel.gz", "/boot/kernel/alpha.ko", "/boot/kernel/alpha.ko.bz2"]
    looks = "".join(r.choice(["ls -l %s\n", "more %s\n"]) % r.choice(asked) for _ in range(2))
    return tree, "set LINES=1000\n" + looks + _loads(r, ["alpha", "beta", "gamma", "lonely"])


def _vdisk(r: random.Random) -> tuple[Tree, str]:
    _, image, _ = layouts.disk(r.randrange(1000))
    sizes = [0, 512, (1 << 20) - 1, 1 << 20, 3 << 20]
    tree = {**golden_files(), "boot/image": image[: r.choice(sizes)], "boot/other": bytes(r.choice(sizes))}
    commands = [
        "map-vdisk /boot/image",
        "map-vdisk /boot/other",
        "map-vdisk /boot/nosuch",
        "map-vdisk",
        "lsdev -v",
        "unmap-vdisk vdisk0",
        "unmap-vdisk vdisk1",
        "unmap-vdisk vdisk0:",
        "ls vdisk0:/",
        "ls vdisk0p1:",
    ]
    return tree, "\n".join(r.choice(commands) for _ in range(6)) + "\nload kernel\nboot\nquit\n"


def guest(seed: int) -> tuple[str, Tree, str]:
    """(kind, the file system's tree, keys) of a seed."""
    r = random.Random(f"surface-{seed}")
    kind = r.choice(KINDS)
    tree, keys = {"hints": _hints, "graph": _graph, "elf": _elf, "packed": _packed, "vdisk": _vdisk}[kind](r)
    return kind, tree, keys


def write_tree(tree: Tree, folder: Path) -> Path:
    for name, content in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


if __name__ == "__main__":
    made, wanted, typed = guest(int(sys.argv[1]))
    if len(sys.argv) > 2:
        write_tree(wanted, Path(sys.argv[2]))
        print(made)
    else:
        sys.stdout.write(typed)
