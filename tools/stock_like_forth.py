"""A guest's /boot as FreeBSD up to 11 had it: Forth scripts, loader.conf and what it asks for.

The scripts are our own (tests/data/forth/boot), in the manner of loader.4th, support.4th and menu.4th.
``python tools/stock_like_forth.py FOLDER`` writes such a tree; ``write_tree`` is what the tests and tools/bench.py use.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import stock_like

SCRIPTS = Path(__file__).parent.parent / "tests" / "data" / "forth" / "boot"
SCRIPT_LINES = 1500
CONF_LINES = 120

DEFAULTS = """\
# What a loader takes for granted.
exec="echo reading defaults"
kernel="kernel"
bootfile="kernel"
kernel_options=""
loader_conf_files="/boot/device.hints /boot/loader.conf /boot/loader.conf.local"
nextboot_conf="/boot/nextboot.conf"
verbose_loading="NO"
splash_bmp_load="NO"		# a module not wanted
bitmap_name="splash.bmp"
module_path="/boot/modules;/boot/firmware"
"""

CONF = """\
# The owner's.
first_load="YES"
first_type="md_image"
first_name="/boot/first.img"
first_before="echo before first"
first_after="echo after first"
gone_load="yes"
gone_type="md_image"
gone_name="/boot/gone.img"
gone_error="echo gone is gone"
no_load="NO"
quoted="a \\"b\\" c"
"""

# What a large script is made of: definitions of the usual shapes, under numbers
_SHAPES = """\
variable count{0}
0 value limit{0}
create table{0} 8 cells allot
: next{0} ( -- n ) count{0} @ 1+ dup count{0} ! ;
: clamp{0} ( n -- n ) limit{0} ?dup if min then 0 max ;
: store{0} ( n index -- ) 7 and cells table{0} + ! ;
: sum{0} ( -- n ) 0 8 0 do i cells table{0} + @ + loop ;
: label{0} {{ n addr len -- addr len }}
    n 0< if s" below" exit then
    n case
        0 of s" none" endof
        1 of s" one" endof
        drop addr len exit
    endcase
;
: search{0} ( n -- index | -1 )
    8 begin dup while
        1- 2dup cells table{0} + @ = if nip exit then
    repeat
    2drop -1
;
"""


def filler(lines: int) -> str:
    """At least ``lines`` lines of definitions that nothing calls."""
    text = ""
    number = 0
    while text.count("\n") < lines:
        text += _SHAPES.format(number)
        number += 1
    return text


def long_conf(lines: int = CONF_LINES) -> str:
    """A loader.conf of that many lines: comments, variables, modules that are not wanted."""
    rows = []
    for number in range(lines):
        if number % 4 == 0:
            rows.append(f"# Set the next one to YES when you have hardware number {number}, which few have.")
        elif number % 4 == 1:
            rows.append(f'hw.thing{number}.limit="{number}000"\t# of all things')
        else:
            rows.append(f'if_thing{number}_load="NO"\t\t# a driver')
    return "\n".join(rows) + "\n"


def write_tree(
    folder: Path,
    rc: str = "loader.rc",
    *,
    kernel: bytes | None = None,
    conf: str = CONF,
    defaults: str = DEFAULTS,
    files: Mapping[str, str | bytes] | None = None,
    lines: int = 0,
) -> Path:
    """Write /boot below ``folder``.  ``rc``: which of the loader.rc; ``lines``: of all scripts, reached with
    definitions that nothing calls; ``files``: more or other files by their path without the leading slash."""
    content: dict[str, str | bytes] = {
        f"boot/{script.name}": script.read_text() for script in SCRIPTS.iterdir() if not script.name.endswith(".rc")
    }
    content["boot/menu.rc"] = (SCRIPTS / "menu.rc").read_text()
    content["boot/loader.rc"] = (SCRIPTS / rc).read_text()
    missing = lines - sum(str(text).count("\n") for text in content.values())
    if missing > 0:
        content["boot/more.4th"] = filler(missing)
        content["boot/loader.rc"] = "include /boot/more.4th\n" + str(content["boot/loader.rc"])
    content |= {
        "boot/loader": "$Interpreter:4th\0",
        "boot/defaults/loader.conf": defaults,
        "boot/loader.conf": conf,
        "boot/device.hints": stock_like.HINTS,
        "boot/kernel/kernel": kernel if kernel is not None else stock_like.tiny_kernel(),
        "boot/kernel.old/kernel": stock_like.tiny_kernel(marker=b"old"),
        "boot/first.img": b"first" * 100,
        "etc/fstab": "/dev/vtbd0p2 / ufs rw 1 1\n",
    }
    return stock_like.write_files(folder, {**content, **(files or {})})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rc", choices=("loader.rc", "generic.rc"), default="loader.rc")
    parser.add_argument("--lines", type=int, default=SCRIPT_LINES)
    arguments = parser.parse_args()
    write_tree(arguments.folder, arguments.rc, lines=arguments.lines, conf=long_conf())


if __name__ == "__main__":
    main()
