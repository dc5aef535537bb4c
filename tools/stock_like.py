"""A guest's /boot in the manner of a stock FreeBSD: ten Lua scripts of 100 KiB, loader.conf and what it asks for.

The scripts are our own (tests/data/lua), written in the style of FreeBSD 12 to 13 ("old") and 14 to 16 ("new"); the
kernel and the modules hold nothing that runs.  ``python tools/stock_like.py FOLDER`` writes such a tree;
``write_tree`` is what the tests and tools/bench.py use.
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Mapping
from pathlib import Path

SCRIPTS = Path(__file__).parent.parent / "tests" / "data" / "lua"
LUA_SIZE = 100 << 10
PT_LOAD, PF_X, PF_W, PF_R = 1, 1, 2, 4
KERNBASE, START = 0xFFFFFFFF80000000, 0x200000

MODULES = """\
one_load="YES"
one_type="md_image"
one_name="/boot/first.img"
one_before="echo before one"
one_after="echo after one"
gone_load="yes"
gone_type="md_image"
gone_name="/boot/gone.img"
gone_error="echo gone is gone"
bad_load="YES"
bad_name="/boot/second.img"
no_load="NO"
no_name="/boot/first.img"
black_load="YES"
black_type="md_image"
module_blacklist="black other"
"""

DEFAULTS = """\
# What a loader takes for granted.
kernel="kernel"
bootfile="kernel"
kernel_options=""
loader_conf_files="/boot/device.hints /boot/loader.conf"
loader_conf_dirs="/boot/loader.conf.d"
local_loader_conf_files="/boot/loader.conf.local"
nextboot_conf="/boot/nextboot.conf"
verbose_loading="NO"
splash_bmp_load="NO"		# a module not wanted
bitmap_name="splash.bmp"
bitmap_type="splash_image_data"
ram_blacklist_load="NO"
ram_blacklist_name="/boot/blacklist.txt"
ram_blacklist_type="ram_blacklist"
autoboot_delay="10"
#console="vidconsole"
loader_color="YES"
module_path="/boot/modules;/boot/firmware"
#prompt="\\${interpret}"
acpi_load="NO"
"""
CONF = """\
# One machine's own.
autoboot_delay="3"
kern.hz="100"
kern.geom.label.disk_ident.enable="0"
kern.ipc.nmbclusters=262144
net.inet.tcp.soreceive_stream="1"
vfs.zfs.arc_max="512M"
vm.kmem_size = "1G"		# blanks and a comment
hw.usb.no_pf="1"
hw.vga.textmode="1"
boot_serial="YES"
kernels="kernel kernel.old"
hello="the \\$kernel is ${kernel}"
first_load="YES"
first_type="md_image"
first_name="/boot/first.img"
second_load="YES"
second_type="md_image"
second_name="/boot/second.img"
second_before="echo before second"
second_after="echo after second"
never_load="NO"
"""
HINTS = "".join(
    f'hint.{device}.{unit}.{key}="{value}"\n'
    for device in ("fdc", "uart", "atkbdc", "psm", "sc", "ppc")
    for unit in (0, 1)
    for key, value in (("at", "isa"), ("port", "0x3F0"), ("irq", "4"))
)


def tiny_kernel(size: int = 8192, marker: bytes = b"kernel") -> bytes:
    """An amd64 ET_EXEC of ``size`` bytes: text, writable data with bss, no symbols."""
    text = max(4096, size // 2)
    header = struct.pack(
        "<4s5B7xHHIQQQIHHHHHH",
        *(b"\x7fELF", 2, 1, 1, 9, 0, 2, 62, 1, KERNBASE + START + 0x100, 64, 0, 0, 64, 56, 2, 64, 0, 0),
    )
    base = KERNBASE + START
    segments = struct.pack("<IIQQQQQQ", PT_LOAD, PF_R | PF_X, 0, base, START, text, text, 4096)
    segments += struct.pack(
        "<IIQQQQQQ", PT_LOAD, PF_R | PF_W, text, base + text, START + text, size - text, size - text + 4096, 4096
    )
    return (header + segments + marker).ljust(size, b"\xcc")


def write_tree(
    folder: Path,
    generation: str = "new",
    *,
    kernel: bytes | None = None,
    conf: str = CONF,
    defaults: str = DEFAULTS,
    files: Mapping[str, str | bytes] | None = None,
    size: int = LUA_SIZE,
) -> Path:
    """Write /boot below ``folder``; ``size``: bytes of all scripts, reached with comments; ``files``: more or other
    files by their path without the leading slash."""
    scripts = [*sorted((SCRIPTS / "both").iterdir()), SCRIPTS / generation / "generation.lua"]
    texts = {script.name: script.read_text() for script in scripts}
    padding = max(0, size - sum(len(text) for text in texts.values())) // len(texts)
    comment = "-- The quick brown fox jumps over the lazy dog, and so it does on each of these lines.\n"
    content: dict[str, str | bytes] = {
        f"boot/lua/{name}": text.replace("\n", "\n" + comment * (padding // len(comment)), 1)
        for name, text in texts.items()
    }
    content |= {
        "boot/loader": "$Interpreter:lua\0",
        "boot/defaults/loader.conf": defaults,
        "boot/loader.conf": conf,
        "boot/device.hints": HINTS,
        "boot/loader.conf.d/site.conf": 'site="yes"\n',
        "boot/kernel/kernel": kernel if kernel is not None else tiny_kernel(),
        "boot/kernel.old/kernel": tiny_kernel(marker=b"old"),
        "boot/first.img": b"first" * 100,
        "boot/second.img": b"second" * 100,
        "etc/fstab": "/dev/vtbd0p2 / ufs rw 1 1\n",
    }
    return write_files(folder, {**content, **(files or {})})


def write_files(folder: Path, content: Mapping[str, str | bytes]) -> Path:
    """``content`` by path below ``folder``, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode("latin-1") if isinstance(data, str) else data)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--generation", choices=("old", "new"), default="new")
    words = parser.parse_args()
    write_tree(words.folder, words.generation)


if __name__ == "__main__":
    main()
