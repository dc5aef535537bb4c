"""The files in the pools that zfs-fuse.sh makes: python zfs_fuse_tree.py FOLDER SEED writes them."""

from __future__ import annotations

import random
import sys
from pathlib import Path


def tree(seed: str) -> dict[str, bytes | str | None]:
    """Path -> content, the target of a link as str, None for a folder."""
    generator = random.Random(seed)
    kernel = generator.randbytes(4000) + b"text " * 60000 + generator.randbytes(1000)
    found: dict[str, bytes | str | None] = {
        "boot": None,
        "boot/kernel": None,
        "boot/kernel/kernel": kernel,
        "boot/loader.conf": b'fixture="zfs-fuse"\n',
        "boot/empty": b"",
        "boot/sparse": bytes(3 << 20) + b"end",
        "boot/link": "kernel/kernel",
        "boot/long": "x" * 200,
        "boot/many": None,
    }
    for number in range(400):
        found[f"boot/many/a file with a name that takes some room {number:04}"] = b"%d" % number
    return found


def main(folder: Path, seed: str) -> None:
    for name, content in tree(seed).items():
        path = folder / name
        if content is None:
            path.mkdir()
        elif isinstance(content, str):
            path.symlink_to(content)
        elif content.strip(b"\0") == content:
            path.write_bytes(content)
        else:
            with path.open("wb") as file:
                file.seek(len(content) - 3)
                file.write(content[-3:])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
