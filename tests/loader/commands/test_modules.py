"""Letters and words of load and load_geli (stand/common/module.c), and of read (stand/common/commands.c)."""

from __future__ import annotations

from pathlib import Path

import pytest

from bhyveload.image.raw import open_raw
from support import harness
from support.images import MIB, make_ufs
from support.probes import without_twiddles


def answers(folder: Path, current: bool, *lines: str) -> list[str]:
    tree = folder / "tree"
    tree.mkdir()
    (tree / "readme").write_bytes(b"text\n")
    image = open_raw(str(make_ufs(tree, folder / "fs", 8 * MIB)))
    keys = "".join(f"{line}\n" for line in [*lines, "quit"]).encode()
    outcome = harness.run([image], keys, environment=(b"LINES=1000",), current=current)
    text = without_twiddles(outcome.console).decode("latin-1").replace("\r\n", "\n")
    return [answer.partition("\n")[2] for answer in text.split("OK ")[1:-1]]


def test_letters_of_verified_loads(tmp_path: Path) -> None:
    """command_load without LOADER_VERIEXEC: getopt knows -p and -s there, the switch does not, and its default is to
    return CMD_OK: nothing is loaded, and nothing said."""
    lines = ("load -p x /readme", "load -s x -z", "load -d -p x", "load -p", "load -d /nosuch")
    assert answers(tmp_path, False, *lines) == [
        "",
        "",
        "",
        "option requires an argument -- p\n",
        "can't find '/nosuch'\n",
    ]


def test_letters_of_the_newer_load(tmp_path: Path) -> None:
    illegal = "illegal option -- {}\n"
    lines = ("load -p x /readme", "load -s x", "load -d /nosuch")
    assert answers(tmp_path, True, *lines) == [illegal.format(letter) for letter in "psd"]


@pytest.mark.parametrize("current", [True, False], ids=["current", "13.2"])
def test_the_first_bad_option_counts(tmp_path: Path, current: bool) -> None:
    lines = ("read -t x -z", "read -z -t x", "load_geli -n x -z a", "load_geli -n 1 a", "load_geli -z a b")
    assert answers(tmp_path, current, *lines) == [
        "bad timeout 'x'\n",
        "illegal option -- z\n",
        "bad key index 'x'\n",
        "can't load file before kernel\n",
        "illegal option -- z\n",
    ]
