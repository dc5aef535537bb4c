"""Loads of a folder with /boot in it, and what a kernel finds in memory afterwards, decoded by the specification."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path

from bhyveload.host.directory import open_host_directory
from bhyveload.loader.state import Options
from support import harness

MIB = 1 << 20
_TWIDDLE = re.compile(rb"[|/\\-]\x08")
NAME, TYPE, ADDR, SIZE, ARGS = 1, 2, 3, 4, 6
ELFHDR, SSYM, ESYM, DYNAMIC, ENVP, HOWTO, KERNEND, SHDR, CTORS_ADDR, CTORS_SIZE, KEYBUF, SMAP = (
    *range(0x8002, 0x800C),
    0x800D,
    0x9001,
)


class LoadedFile:
    """One preloaded file of the module information; ``records`` in order."""

    def __init__(self) -> None:
        self.records: list[tuple[int, bytes]] = []

    def find(self, kind: int) -> bytes:
        return next(data for number, data in self.records if number == kind)

    def number(self, kind: int) -> int:
        return int.from_bytes(self.find(kind), "little")

    def text(self, kind: int) -> str:
        data = self.find(kind)
        assert data[-1] == 0
        return data[:-1].decode("latin-1")

    @property
    def name(self) -> str:
        return self.text(NAME)

    @property
    def addr(self) -> int:
        return self.number(ADDR)

    @property
    def size(self) -> int:
        return self.number(SIZE)

    @property
    def kinds(self) -> list[int]:
        return [kind for kind, _ in self.records]


class Loaded:
    """A run that ended with a started guest."""

    def __init__(self, outcome: harness.Outcome, wide: bool = True) -> None:
        assert outcome.end == "exec", said(outcome)[-1000:]
        self.outcome = outcome
        self.console = said(outcome)
        stack = struct.unpack("<II", self.read(0x1004, 8)) if wide else struct.unpack("<II", self.read(0x1FF8, 8))
        self.modulep, self.kernend = stack
        self.files: list[LoadedFile] = []
        at = self.modulep
        align = 8 if wide else 4
        while True:
            kind, size = struct.unpack("<II", self.read(at, 8))
            if kind == 0:
                assert size == 0
                break
            if kind == NAME:
                self.files.append(LoadedFile())
            self.files[-1].records.append((kind, self.read(at + 8, size)))
            at += 8 + (size + align - 1) // align * align
        self.end = at + 8

    def read(self, address: int, size: int) -> bytes:
        return self.outcome.memory.read(address, size)

    def file(self, name: str) -> LoadedFile:
        (found,) = (file for file in self.files if file.name.rpartition("/")[2] == name)
        return found

    @property
    def names(self) -> list[str]:
        return [file.name.rpartition("/")[2] for file in self.files]


def said(outcome: harness.Outcome) -> str:
    return _TWIDDLE.sub(b"", outcome.console).replace(b"\r\n", b"\n").decode("latin-1")


def typed(
    tree: Path,
    commands: Sequence[str],
    *,
    current: bool = True,
    memory: int = 128 * MIB,
    environment: Sequence[bytes] = (),
    options: Options | None = None,
) -> harness.Outcome:
    """Type ``commands`` at the loader's prompt; the folder ``tree`` is the guest's root."""
    keys = "".join(command + "\n" for command in commands).encode("latin-1")
    folder = open_host_directory(str(tree))
    try:
        return harness.run(
            [], keys, environment=environment, memory=memory, current=current, host_directory=folder, options=options
        )
    finally:
        folder.close()


def loaded(
    tree: Path, commands: Sequence[str], *, current: bool = True, memory: int = 128 * MIB, wide: bool = True
) -> Loaded:
    """``commands``, then boot."""
    return Loaded(typed(tree, [*commands, "boot"], current=current, memory=memory), wide)


def answers(tree: Path, commands: Sequence[str], *, current: bool = True, memory: int = 128 * MIB) -> dict[str, str]:
    """What each of ``commands`` (no two alike) says at the prompt."""
    text = said(typed(tree, [*commands, "quit"], current=current, memory=memory))
    found = {}
    for command in commands:
        _, echo, rest = text.partition(f"OK {command}\n")
        assert echo, f"{command!r} was not echoed in {text!r}"
        found[command] = rest.partition("OK ")[0]
        text = "OK " + rest.partition("OK ")[2]
    return found
