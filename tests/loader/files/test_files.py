"""Which file an open finds (stand/libsa/open.c, gzipfs.c, bzipfs.c)."""

from __future__ import annotations

from pathlib import Path

import pytest

from bhyveload.image.raw import open_raw
from support import harness
from support.images import MIB, make_ufs
from support.probes import without_twiddles


@pytest.mark.parametrize("current", [True, False], ids=["current", "13.2"])
def test_folders_with_a_compressed_files_name(tmp_path: Path, current: bool) -> None:
    """zf_open and bzf_open complain and return EISDIR; open keeps the last error that is not EINVAL, so that bzf_open's
    ENOENT takes the place of zf_open's."""
    tree = tmp_path / "tree"
    for name in ("x.gz", "y.bz2"):
        (tree / name).mkdir(parents=True)
    image = open_raw(str(make_ufs(tree, tmp_path / "fs", 8 * MIB)))
    keys = b"more /x\nls -l /y\nquit\n"
    outcome = harness.run([image], keys, environment=(b"LINES=1000",), current=current)
    text = without_twiddles(outcome.console).decode("latin-1").replace("\r\n", "\n")
    assert "*** FILE /x BEGIN ***\nzf_open: not a file\ncan't open '/x': no such file or directory\n" in text
    said = "bzf_open: not a file\n" * 2 + "open '/y' failed: is a directory\n"
    assert f"ls -l /y\n{said}" in text
