"""map-vdisk and unmap-vdisk (stand/common/vdisk.c)."""

from __future__ import annotations

from pathlib import Path

import pytest

from bhyveload.image.raw import open_raw
from support import harness
from support.images import MIB, make_ufs
from support.probes import without_twiddles


@pytest.mark.parametrize("current", [True, False], ids=["current", "13.2"])
def test_names_of_what_is_unmapped(tmp_path: Path, current: bool) -> None:
    """command_unmapvd: strtol(argv[1] + 5, &end, 10), whose errno has to stay 0, then nothing or a colon; the name is
    said as it was typed."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("a", "b"):
        (tree / name).write_bytes(bytes(MIB))
    image = open_raw(str(make_ufs(tree, tmp_path / "fs", 8 * MIB)))
    refused = ("vdisk", "vdisk:", "disk0", "vdisk0x", "vdisk0::", "vdisk-1", "vdisk2", "vdisk99999999999999999999")
    lines = ["map-vdisk /a", "map-vdisk /b", *(f"unmap-vdisk {name}" for name in refused)]
    lines += ["unmap-vdisk vdisk+001:", "unmap-vdisk vdisk1", 'unmap-vdisk "vdisk 0"', "unmap-vdisk"]
    keys = "".join(f"{line}\n" for line in [*lines, "quit"]).encode()
    outcome = harness.run([image], keys, environment=(b"LINES=1000",), current=current)
    answers = without_twiddles(outcome.console).decode("latin-1").replace("\r\n", "\n").split("OK ")[1:-1]
    said = [answer.partition("\n")[2].split("\n")[0] for answer in answers]
    assert said == [
        "map-vdisk: file /a is mapped as vdisk0",
        "map-vdisk: file /b is mapped as vdisk1",
        *(f"unmap-vdisk: unknown device {name}" for name in refused),
        "vdisk+001: (/b) unmapped",
        "unmap-vdisk: unknown device vdisk1",
        "vdisk 0 (/a) unmapped",
        "usage: unmap-vdisk vdiskN",
    ]
