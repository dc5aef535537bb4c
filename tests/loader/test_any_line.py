"""Hundreds of lines of words that the commands know and of bytes that nobody knows: the prompt comes back each time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bhyveload.image.raw import open_raw
from support import harness
from support.images import make_ufs, standard_disk

COMMANDS = (
    "bcachestat boot help ? show set unset echo read more lsdev readtest include ls load load_geli unload lsmod "
    "pnpmatch pnpautoload nvstore map-vdisk unmap-vdisk lszfs reloadbe nosuch"
)
WORDS = (
    "/boot /boot/loader /nope kernel /boot/big /boot/text /boot/x.ko -v -l -t raw x=1 currdev=disk0: currdev=disk0p2: "
    "currdev=host0: currdev=vdisk0: console=userboot console=comconsole,userboot LINES=99999 module_verbose=3 "
    "module_verbose=0 twiddle_divisor=1 prompt=${x} ${x $x ' \" \\ \\0x41 \\z host0: host0:/boot disk0: disk0p1:/x "
    "zfs:a/b: 0 -1 99999999999999999999 \xff \0 \x1b[2J ../.. vdisk0 vdisk0:/boot index loader -n -p -k - -- = == "
    "module_path=/boot;/nope bootfile=x;y;; rootdev=foo: "
) + "a" * 300
LUA = (
    "return 5",
    "return 'text'",
    "x =",
    "error({})",
    "loader.interpret('echo hi')",
    "loader.perform('ls /')",
    "loader.setenv('currdev', 'x')",
    "function cli_execute(...) return loader.command(...) end",
    "function cli_execute(...) error('no') end",
    "cli_execute = nil",
    "for name in lfs.dir('/boot') do print(name) end",
    "print(io.read(io.open('/boot/text')))",
)


def typed(seed: int, count: int) -> bytes:
    generator = random.Random(seed)
    lines = []
    for _ in range(count):
        kind = generator.random()
        if kind < 0.1:
            line = generator.choice(LUA).encode()
        elif kind < 0.2:
            line = bytes(generator.randrange(1, 256) for _ in range(generator.randrange(40)))
        else:
            words = generator.choices(WORDS.split(" "), k=generator.randrange(4))
            line = " ".join([generator.choice(COMMANDS.split()), *words]).encode("latin-1")
        lines.append(line.replace(b"\n", b"").replace(b"\r", b"") + b"\n")
    return b"".join(lines)


@pytest.mark.parametrize("seed", range(4))
def test_any_lines(tmp_path: Path, seed: int) -> None:
    boot = tmp_path / "tree" / "boot"
    boot.mkdir(parents=True)
    for name, data in {"text": b"some\ntext\n" * 50, "big": bytes(2 << 20), "x.ko": b"\x7fELF" + bytes(60)}.items():
        (boot / name).write_bytes(data)
    (boot / "loader").write_bytes(b"$Interpreter:lua\0")
    disk = standard_disk(tmp_path / "disk", make_ufs(tmp_path / "tree", tmp_path / "fs", 4 << 20))
    outcome = harness.run(
        [open_raw(str(disk))],
        b"set LINES=99999\n" + typed(seed, 250) + b"\necho=1\nquit\nquit\nquit\n",
        environment=(b"autoboot_delay=NO",),
        current=bool(seed % 2),
    )
    assert outcome.end in ("input", "exit")
    assert outcome.console.count(b"\n") > 250
