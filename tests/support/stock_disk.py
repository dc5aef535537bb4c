"""Disks with scripts in the style of FreeBSD's own (tools/stock_like.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import stock_like
from support.images import make_ufs, standard_disk


def make_disk(folder: Path, generation: str = "new", *, scripts: bool = True, **more: Any) -> Path:
    tree = stock_like.write_tree(folder / "tree", generation, size=0, **more)
    if not scripts:
        for path in (tree / "boot" / "lua").iterdir():
            path.unlink()
    return standard_disk(folder / "disk", make_ufs(tree, folder / "fs", 4 << 20))
