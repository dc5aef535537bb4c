#!/usr/bin/env python3
"""Assemble src/bhyveload/handoff/pvh/stub.S into stub_code.py beside it: `python3 tools/guest/assemble_stub.py`.

Needs gcc, ld and objcopy.  tests/handoff/pvh/test_stub.py does the same and compares.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HANDOFF = Path(__file__).resolve().parents[2] / "src" / "bhyveload" / "handoff" / "pvh"


def assemble(source: Path, folder: Path) -> bytes:
    """The stub's bytes: assembled for address 0; it contains no other address."""
    stub_object, stub_elf, stub_bytes = folder / "stub.o", folder / "stub.elf", folder / "stub.bin"
    subprocess.run(["gcc", "-c", "-o", stub_object, source], check=True)
    subprocess.run(["ld", "-m", "elf_x86_64", "-Ttext", "0", "-e", "start", "-o", stub_elf, stub_object], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", stub_elf, stub_bytes], check=True)
    return stub_bytes.read_bytes()


def as_module(code: bytes) -> str:
    """The Python module that carries ``code``."""
    lines = [f"    {code[at : at + 32].hex()}" for at in range(0, len(code), 32)]
    return (
        '"""stub.S, assembled by tools/guest/assemble_stub.py."""\n\nSTUB = bytes.fromhex("""\n'
        + "\n".join(lines)
        + '\n""")\n'
    )


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        code = assemble(HANDOFF / "stub.S", Path(folder))
    (HANDOFF / "stub_code.py").write_text(as_module(code))
    return 0


if __name__ == "__main__":
    sys.exit(main())
